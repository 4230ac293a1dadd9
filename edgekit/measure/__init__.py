"""Measuring: metrics, drift, latency, memory, and how sure the figures are."""
