"""What makes an integer network answer more like its float original: one file an algorithm, source cited."""
