"""Quantization-aware training: the QDQ graph of a policy, with every pair of quantizers as a fake one."""
