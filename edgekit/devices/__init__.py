"""Where an artifact runs: worker processes on this machine."""
