"""dynamic-int8, weight-int8 and weight-int4 in LiteRT: every kernel, files, layers, refusals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from quantize_models import GraphBuilder, classifier, pictures
from tflite_models import feeds, int16x8, invoke, lowered, reference, relative_error

from edgekit.backends.tflite import why_not
from edgekit.core.target import load_target
from edgekit.errors import Unsupported
from edgekit.quantize.weights import quantize_weights
from edgekit.runtime import Session

EXACT = 1e-5  # relative: both sides compute the same values in float32
IMAGE = [2, 4, 9, 8]


def stored(model, precision):
    result, _ = quantize_weights(model, policy=load_target("tflite").weights[precision])
    return result


def one_conv(kind="Conv", *, shape=None, weight=(8, 4, 3, 3), relu=False, **attributes):
    b = GraphBuilder(1)
    outputs = weight[1] * attributes.get("group", 1) if kind == "ConvTranspose" else weight[0]
    y = "c" if relu else "y"
    b.add(kind, ["x", b.weight("w", *weight), b.weight("b", outputs)], y, **attributes)
    if relu:
        b.add("Relu", ["c"], "y")
    return b.build({"x": shape or IMAGE}, ["y"])


def one_product(kind="Gemm", *, shape, weight, **attributes):
    b = GraphBuilder(2)
    inputs = ["x", b.weight("w", *weight)]
    if kind == "Gemm":
        inputs.append(b.weight("b", weight[0] if attributes.get("transB") else weight[1]))
    b.add(kind, inputs, "y", **attributes)
    return b.build({"x": shape}, ["y"])


HYBRID = {
    "convolution": lambda: one_conv(pads=[1, 1, 1, 1]),
    "convolution and relu": lambda: one_conv(relu=True),
    "one by one": lambda: one_conv(weight=(24, 4, 1, 1)),
    "strides": lambda: one_conv(strides=[2, 2], pads=[1, 1, 1, 1]),
    "uneven pads": lambda: one_conv(strides=[2, 1], pads=[0, 2, 1, 0]),
    "dilations": lambda: one_conv(dilations=[2, 2], pads=[2, 2, 2, 2]),
    "a line": lambda: one_conv(shape=[3, 6, 20], weight=(8, 6, 3), pads=[1, 1]),
    "product": lambda: one_product(shape=[5, 33], weight=(33, 10)),
    "transposed product": lambda: one_product(shape=[5, 32], weight=(10, 32), transB=1),
    "product of three dimensions": lambda: one_product("MatMul", shape=[2, 7, 24], weight=(24, 6)),
    "product of one row": lambda: one_product("MatMul", shape=[1, 64], weight=(64, 3)),
}
UNPACKED = {
    "depthwise": lambda: one_conv(weight=(8, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    "groups": lambda: one_conv(weight=(8, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    "transposed convolution": lambda: one_conv("ConvTranspose", weight=(4, 5, 3, 3), strides=[2, 2]),
}
PRODUCTS = {name: make for name, make in HYBRID.items() if "product" in name}


def varied(model):
    """Inputs whose rows have ranges of their own, so that a scale of the wrong row shows."""
    (x,) = feeds(model, 5).values()
    size = np.linspace(0.5, 3.0, x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))
    return {"x": (x * size).astype(np.float32)}


def quantized_rows(model, x, *, delegate=False):
    """`x` as LiteRT's hybrid kernels see it: int8 with one scale and zero point for each row of a product, or
    each picture of a convolution; the range holds 0. XNNPACK computes a 1x1 convolution as a product: there a
    pixel is a row.
    """
    rows = (x.ndim - 1,)
    if model.graph.node[0].op_type == "Conv":
        kernel = next(i.dims[2:] for i in model.graph.initializer if i.name == "w")
        rows = (1,) if delegate and set(kernel) == {1} else tuple(range(1, x.ndim))
    low = np.minimum(x.min(axis=rows, keepdims=True), 0.0).astype(np.float64)
    high = np.maximum(x.max(axis=rows, keepdims=True), 0.0).astype(np.float64)
    scale = (high - low) / 255
    zero_point = np.rint(-128 - low / scale)
    codes = np.clip(np.rint(x / scale) + zero_point, -128, 127)
    return ((codes - zero_point) * scale).astype(np.float32)


def without_delegate(artifact, values):
    """The answer of LiteRT's builtin kernels, in the source's layout."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(artifact.folder / artifact.manifest.model),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    given, answered = artifact.manifest.inputs[0], artifact.manifest.outputs[0]
    x = values[given.name].transpose(given.axes) if given.axes else values[given.name]
    y = interpreter.get_signature_runner("serving_default")(**{given.name: np.ascontiguousarray(x)})
    y = y[answered.name]
    return y.transpose(np.argsort(answered.axes)) if answered.axes else y


# -- dynamic-int8 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HYBRID)
def test_a_hybrid_kernel_multiplies_the_integers_it_says(name, tmp_path):
    model = HYBRID[name]()
    graph, values = stored(model, "dynamic-int8"), varied(model)
    artifact = lowered(graph, tmp_path, "dynamic-int8")
    ran = invoke(artifact, values)
    delegated = reference(graph, {"x": quantized_rows(model, values["x"], delegate=True)})["y"]
    expected = reference(graph, {"x": quantized_rows(model, values["x"])})["y"]
    assert "DEQUANTIZE" not in ran.kinds
    assert relative_error(ran.outputs["y"], delegated) < EXACT
    assert relative_error(without_delegate(artifact, values), expected) < EXACT
    unquantized = reference(graph, values)["y"]
    assert relative_error(unquantized, expected) > 10 * EXACT  # the reference tells the two apart


@pytest.mark.parametrize("name", UNPACKED)
def test_where_no_hybrid_kernel_is_right_a_model_of_that_alone_is_refused(name, tmp_path):
    graph = stored(UNPACKED[name](), "dynamic-int8")
    with pytest.raises(Unsupported) as caught:
        lowered(graph, tmp_path, "dynamic-int8")
    assert "quantizes at run time" in caught.value.reasons[0].why
    assert "weight-int8" in caught.value.reasons[0].hint


def test_dynamic_layers_are_told_as_integer_and_depthwise_as_float(tmp_path):
    artifact = lowered(stored(classifier(), "dynamic-int8"), tmp_path, "dynamic-int8")
    with Session(artifact.folder) as session:
        found = {layer.op: layer.compute for layer in session.layers() if layer.matrix}
    assert found == {"CONV_2D": "int8", "DEPTHWISE_CONV_2D": "float32", "FULLY_CONNECTED": "int8"}
    assert artifact.manifest.notes[0].startswith("3 of 4 operators with int8 weights quantize activations")


# -- weight-int8 and weight-int4 ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*HYBRID, *UNPACKED])
def test_unpacked_int8_weights_give_the_float_answer_exactly(name, tmp_path):
    model = (HYBRID | UNPACKED)[name]()
    graph, values = stored(model, "weight-int8"), varied(model)
    artifact = lowered(graph, tmp_path, "weight-int8")
    ran = invoke(artifact, values)
    expected = reference(graph, values)["y"]
    assert ran.count("DEQUANTIZE") == 1
    assert relative_error(ran.outputs["y"], expected) < EXACT
    assert relative_error(without_delegate(artifact, values), expected) < EXACT


@pytest.mark.parametrize("name", PRODUCTS)
def test_unpacked_int4_weights_give_the_float_answer_exactly(name, tmp_path):
    model = PRODUCTS[name]()
    graph, values = stored(model, "weight-int4"), varied(model)
    artifact = lowered(graph, tmp_path, "weight-int4")
    expected = reference(graph, values)["y"]
    assert relative_error(invoke(artifact, values).outputs["y"], expected) < EXACT
    assert relative_error(without_delegate(artifact, values), expected) < EXACT


def test_an_odd_number_of_four_bit_weights_is_packed_right(tmp_path):
    graph = stored(one_product("MatMul", shape=[2, 33], weight=(33, 5)), "weight-int4")
    values = varied(graph)
    ran = invoke(lowered(graph, tmp_path, "weight-int4"), values)
    assert relative_error(ran.outputs["y"], reference(graph, values)["y"]) < EXACT


def test_a_shared_weight_is_stored_once(tmp_path):
    b = GraphBuilder()
    b.add("MatMul", [b.add("MatMul", ["x", b.weight("w", 64, 64)], "first"), "w"], "y")
    graph = stored(b.build({"x": [1, 64]}, ["y"]), "weight-int8")
    artifact = lowered(graph, tmp_path, "weight-int8")
    assert 64 * 64 < artifact.size_bytes < 2 * 64 * 64
    values = varied(graph)
    assert relative_error(invoke(artifact, values).outputs["y"], reference(graph, values)["y"]) < EXACT


SHARES = {"dynamic-int8": (0.24, 0.28), "weight-int8": (0.24, 0.28), "weight-int4": (0.12, 0.15)}


@pytest.mark.parametrize("precision", SHARES)
def test_the_file_is_a_quarter_or_an_eighth_of_the_float_one(precision, tmp_path):
    b = GraphBuilder()
    hidden = b.add("Relu", [b.add("MatMul", ["x", b.weight("w1", 256, 512)], "h")], "r")
    b.add("MatMul", [hidden, b.weight("w2", 512, 64)], "y")
    model = b.build({"x": [1, 256]}, ["y"])
    low, high = SHARES[precision]
    whole = lowered(model, tmp_path / "float").size_bytes
    assert low < lowered(stored(model, precision), tmp_path, precision).size_bytes / whole < high


def test_convolutions_fall_back_to_eight_bits_and_the_notes_say_so(tmp_path):
    artifact = lowered(stored(classifier(), "weight-int4"), tmp_path, "weight-int4")
    assert "1 of 4 operators have 4-bit weights, the others 8-bit ones" in artifact.manifest.notes
    assert any("unpack to float32" in note for note in artifact.manifest.notes)
    with Session(artifact.folder) as session:
        assert {layer.compute for layer in session.layers() if layer.matrix} == {"float32"}


def test_weights_that_no_kernel_reads_as_such_stay_float_and_are_named(tmp_path):
    b = GraphBuilder()
    hidden = b.add("MatMul", ["x", b.weight("batched", 2, 16, 16)], "h")
    b.add("MatMul", [hidden, b.weight("plain", 16, 16)], "y")
    graph = stored(b.build({"x": [2, 3, 16]}, ["y"]), "weight-int8")
    artifact = lowered(graph, tmp_path, "weight-int8")
    assert "weights that stay float32: batched" in artifact.manifest.notes
    values = varied(graph)
    assert relative_error(invoke(artifact, values).outputs["y"], reference(graph, values)["y"]) < EXACT


def test_four_bits_are_refused_where_nothing_could_have_them(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(stored(one_conv(), "weight-int4"), path)
    (reason,) = why_not(path, load_target("tflite"), "weight-int4")
    assert "4-bit weights" in reason.why
    assert reason.hint == "use weight-int8"


def test_a_model_without_weights_is_refused(tmp_path):
    b = GraphBuilder()
    b.add("Relu", ["x"], "y")
    path = tmp_path / "model.onnx"
    onnx.save(b.build({"x": [1, 4]}, ["y"]), path)
    for precision in SHARES:
        (reason,) = why_not(path, load_target("tflite"), precision)
        assert "constant weights" in reason.why


@pytest.mark.parametrize("precision", ["int16x8", *SHARES])
def test_equal_graphs_give_equal_files(precision, tmp_path):
    def build():
        return (
            int16x8(classifier(), pictures(4)) if precision == "int16x8" else stored(classifier(), precision)
        )

    first, second = (lowered(build(), tmp_path / n, precision) for n in ("a", "b"))
    assert first.manifest.files == second.manifest.files
