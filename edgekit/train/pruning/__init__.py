"""Pruning: which channels and heads belong together, which matter least, and the smaller graph."""
