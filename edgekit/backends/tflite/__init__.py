"""The LiteRT (TensorFlow Lite) backend: an ONNX graph, float or QDQ, becomes a .tflite file.

onnx_graph   reads the ONNX file: static shapes, folded constants, quantizers
plan         decides what runs in integers and which activation is fused
lowering/    one small function an operator; the table is `lowering.OPERATORS`
layout       moves and cancels the transposes around the channels-last kernels
cleanup      merges reshapes, drops what is dead, stores weights in half precision
stored_weights  puts back the integers that weights are stored in
dynamic      the same model in several sizes becomes one graph that resizes
checks       what LiteRT would get wrong in silence is an error here
writer       the flatbuffer; metadata: what it says of the model
signatures   several models in one file
"""

from edgekit.backends.tflite.backend import lower, why_not
from edgekit.backends.tflite.signatures import lower_signatures

__all__ = ["lower", "lower_signatures", "why_not"]
