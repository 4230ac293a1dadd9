"""Quantization: observe ranges once, place quantizers by a target's policy, write the QDQ graph.

One file each: `graph_index` (who makes and reads a tensor), `placement` (which tensors, which share),
`observers` and `calibrate` (ranges in one streaming pass), `weights` (codes), `bias_correction`, `qdq` (the
writer).
"""
