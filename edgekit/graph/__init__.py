"""Passes on the ONNX graph, one a file: `apply(model) -> PassResult`, deterministic, signature kept."""
