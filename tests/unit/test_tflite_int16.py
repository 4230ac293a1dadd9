"""int16x8 in LiteRT: every kernel beside the quantized graph, files, layers, refusals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from quantize_models import GraphBuilder, classifier, pictures
from tflite_models import int16x8, invoke, lowered, reference, relative_error

from edgekit.backends.tflite import why_not
from edgekit.core.target import load_target
from edgekit.runtime import Session


def sixteen(add):
    b = GraphBuilder(3)
    add(b)
    return b.build({"image": [1, 3, 8, 8]}, ["y"])


def beside(b, name, op, **attributes):
    """A convolution, so that what `op` moves is quantized."""
    return b.add(op, [b.conv("image", f"{name}.c", 3, 3)], name, **attributes)


INT16 = {
    "CONV_2D": lambda b: b.conv("image", "y", 3, 8),
    "CONV_2D and relu": lambda b: b.add("Relu", [b.conv("image", "c", 3, 8)], "y"),
    "CONV_2D and relu6": lambda b: b.relu6(b.conv("image", "c", 3, 8), "y"),
    "DEPTHWISE_CONV_2D": lambda b: b.conv("image", "y", 3, 3, group=3),
    "TRANSPOSE_CONV": lambda b: b.add(
        "ConvTranspose", ["image", b.weight("w", 3, 5, 3, 3), b.weight("b", 5)], "y", strides=[2, 2]
    ),
    "FULLY_CONNECTED": lambda b: b.add("MatMul", ["image", b.weight("w", 8, 7)], "y"),
    "ADD": lambda b: b.add("Add", ["image", beside(b, "t", "Transpose", perm=[0, 1, 3, 2])], "y"),
    "ADD of a constant": lambda b: b.add("Add", ["image", b.weight("k", 3, 1, 1)], "y"),
    "CONCATENATION": lambda b: b.add("Concat", ["image", b.conv("image", "c", 3, 5)], "y", axis=1),
    "TRANSPOSE": lambda b: b.add("Transpose", [b.conv("image", "c", 3, 4)], "y", perm=[0, 3, 1, 2]),
    "RESHAPE": lambda b: b.add("Flatten", [b.conv("image", "c", 3, 4)], "y"),
    "SLICE": lambda b: b.add(
        "Slice",
        [
            b.conv("image", "c", 3, 4),
            *(b.constant(n, np.array([v])) for n, v in (("s", 1), ("e", 7), ("axes", 2))),
        ],
        "y",
    ),
}


@pytest.mark.parametrize("name", INT16)
def test_an_int16_kernel_is_at_most_one_step_from_the_quantized_graph(name, tmp_path):
    samples = pictures(4)
    graph = int16x8(sixteen(INT16[name]), samples)
    ran = invoke(lowered(graph, tmp_path, "int16x8"), samples[0])
    expected = reference(graph, samples[0])["y"]
    scales = {i.name: onnx.numpy_helper.to_array(i) for i in graph.graph.initializer}
    (last,) = (n for n in graph.graph.node if n.output[0] == "y")
    step = float(scales[last.input[1]])
    steps = np.abs(np.rint((ran.outputs["y"] - expected) / step))
    assert ran.dtypes_of(name.partition(" ")[0]) == {"int16"}
    assert steps.max() <= 1
    assert (np.abs(expected) / step).max() > 4000  # of 32767: the range is used


def test_int16_artifacts_take_and_give_int16(tmp_path):
    samples = pictures(4)
    graph = int16x8(classifier(), samples)
    artifact = lowered(graph, tmp_path, "int16x8", quantized_io=True)
    assert [io.dtype for io in (*artifact.manifest.inputs, *artifact.manifest.outputs)] == ["int16"] * 2
    assert [io.zero_point for io in (*artifact.manifest.inputs, *artifact.manifest.outputs)] == [0, 0]
    with Session(artifact.folder, layout="source") as session:
        got = session.run(samples[1])["logits"]
    assert relative_error(got, reference(graph, samples[1])["logits"]) < 1e-3


def test_int16_layers_are_told_as_int16_and_the_notes_say_they_are_slow(tmp_path):
    artifact = lowered(int16x8(classifier(), pictures(4)), tmp_path, "int16x8")
    with Session(artifact.folder) as session:
        assert {layer.compute for layer in session.layers() if layer.matrix} == {"int16"}
    assert any("XNNPACK takes no int16" in note for note in artifact.manifest.notes)


def test_a_graph_of_another_precision_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(int16x8(classifier(), pictures(4)), path)
    (reason,) = why_not(path, load_target("tflite"), "int8")
    assert "int16" in reason.why
    onnx.save(classifier(), path)
    (reason,) = why_not(path, load_target("tflite"), "int16x8")
    assert "needs a QDQ graph" in reason.why


