"""What stays in float32 of an int8 graph without being named."""

import numpy as np
import pytest
from onnx import helper
from quantize_models import GraphBuilder, run

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.graph_index import index_graph
from edgekit.quantize.placement import place
from edgekit.quantize.qdq import quantize

TFLITE = load_target("tflite").int8
INT16 = load_target("tflite").int16x8
ORT = load_target("onnxruntime").int8


def spectrogram(power: str = "Sqrt", *, normalized: bool = False):
    """Sound [1, 1, 256] to a spectrum in two convolutions, squared, summed, then two convolutions more."""
    b = GraphBuilder()
    time = np.arange(32) / 32
    waves = {"cos": np.cos, "sin": np.sin}
    squares = []
    for name, wave in waves.items():
        basis = np.stack([wave(2 * np.pi * f * time) for f in range(8)])[:, None].astype(np.float32)
        part = b.add("Conv", ["sound", b.constant(f"{name}.w", basis)], name, strides=[16])
        squares.append(b.add("Mul", [part, part], f"{name}.power"))
    power_sum = b.add("Add", squares, "power")
    read = b.add(power, [power_sum], "seen")
    if normalized:
        read = b.add("Div", ["cos", read], "scaled")
    for name in ("first", "second"):
        read = b.add("Conv", [read, b.weight(f"{name}.w", 8, 8, 3)], name, pads=[1, 1])
        read = b.add("Relu", [read], f"{name}.y")
    return b.build({"sound": [1, 1, 256]}, [read])


def integers(model, policy, keep=()):
    return {n.name for n in place(index_graph(model), policy, keep).weighted}


@pytest.mark.parametrize("policy", [TFLITE, ORT])
def test_a_spectrum_and_its_first_reader_stay_in_float(policy):
    assert integers(spectrogram(), policy) == {"second"}
    assert not {"sound", "cos", "power", "seen"} & set(place(index_graph(spectrogram()), policy).tensors)


@pytest.mark.parametrize("policy", [TFLITE, ORT])
def test_behind_the_logarithm_of_a_spectrum_integers_begin(policy):
    assert integers(spectrogram("Log"), policy) == {"first", "second"}


def test_a_filter_bank_between_powers_and_their_logarithm_stays_in_float():
    b = GraphBuilder()
    basis = b.add("Conv", ["sound", b.weight("basis.w", 8, 1, 32)], "basis", strides=[16])
    power = b.add("Pow", [basis, b.constant("two", np.float32(2))], "power")
    mel = b.add("Conv", [power, b.constant("mel.w", np.ones((4, 8, 1), np.float32))], "mel")
    floor = b.add("Add", [mel, b.constant("floor", np.float32(1e-6))], "floored")
    b.add("Conv", [b.add("Log", [floor], "log"), b.weight("head.w", 4, 4, 3)], "head")
    model = b.build({"sound": [1, 1, 256]}, ["head"])
    assert integers(model, TFLITE) == {"head"}
    assert set(place(index_graph(model), TFLITE).tensors) == {"log", "head"}


def test_a_normalization_is_no_spectrum():
    """The convolution that is squared is also scaled by the root: its values themselves are read."""
    assert "cos" in integers(spectrogram(normalized=True), TFLITE)


def test_sixteen_bits_carry_a_spectrum():
    assert integers(spectrogram(), INT16) == {"cos", "sin", "first", "second"}


def test_quiet_sound_survives_loud_samples():
    """What it is for: calibrated on loud sound, the answer to quiet sound is still there."""
    random, model = np.random.default_rng(0), spectrogram()
    loud = [{"sound": random.standard_normal((1, 1, 256)).astype(np.float32)} for _ in range(4)]
    result, _ = quantize(model, calibration=calibrate(model, loud, policies=[ORT]), policy=ORT)
    quiet = {"sound": 0.1 * loud[0]["sound"]}
    expected, got = run(model, quiet)["second.y"], run(result, quiet)["second.y"]
    assert np.sum(expected**2) > 100 * np.sum((expected - got) ** 2)


def recurrent(tail: str):
    b = GraphBuilder()
    weights = [b.weight("w", 1, 32, 8), b.weight("r", 1, 32, 8)]
    b.nodes.append(helper.make_node(
        "LSTM", ["x", *weights, "", "", "h", "c"], ["y", "next_h", "next_c"], name="lstm", hidden_size=8
    ))  # fmt: skip
    if tail == "states":
        out = b.add("Mul", [b.add("Add", ["next_h", "next_c"], "sum"), "next_h"], "gated")
    else:
        flat = b.add("Reshape", ["next_h", b.constant("shape", np.int64([1, 8]))], "flat")
        out = b.add("Add", [b.add("Gemm", [flat, b.weight("g", 8, 8)], "dense"), flat], "sum")
    return b.build({"x": [4, 1, 8], "h": [1, 1, 8], "c": [1, 1, 8]}, [out])


@pytest.mark.parametrize("policy", [TFLITE, ORT])
def test_arithmetic_on_the_states_of_an_lstm_stays_in_float(policy):
    placement = place(index_graph(recurrent("states")), policy)
    assert placement.tensors == ()
    assert placement.integer_nodes == frozenset()


@pytest.mark.parametrize("policy", [TFLITE, ORT])
def test_arithmetic_beside_a_product_is_integer(policy):
    placement = place(index_graph(recurrent("product")), policy)
    assert {"dense", "sum"} <= placement.integer_nodes


def test_a_model_of_arithmetic_alone_is_integer():
    b = GraphBuilder()
    b.add("Add", ["a", "b"], "sum")
    model = b.build({"a": [1, 4], "b": [1, 4]}, ["sum"])
    assert place(index_graph(model), TFLITE).integer_nodes == {"sum"}


def normalized(form: str):
    """A residual block: a product, the sum with its input, layer normalization in `form`, a product."""
    b = GraphBuilder()
    x = b.add("Add", [b.add("MatMul", ["x", b.weight("w", 8, 8)], "first"), "x"], "stream")
    axis, two, eps = (b.constant(n, v) for n, v in (
        ("axis", np.int64([-1])), ("two", np.float32(2)), ("eps", np.float32(1e-5))
    ))  # fmt: skip
    mean = b.add("ReduceMean", [x, axis], "mean")
    if form == "centred":  # as PyTorch exports it
        centred = b.add("Sub", [x, mean], "centred")
        variance = b.add("ReduceMean", [b.add("Pow", [centred, two], "squared"), axis], "variance")
        root = b.add("Sqrt", [b.add("Add", [variance, eps], "floored")], "root")
        y = b.add("Div", [centred, root], "scaled")
    else:  # as JAX and TensorFlow write it: x * s + (b - mean * s)
        squares = b.add("ReduceMean", [b.add("Mul", [x, x], "squared"), axis], "squares")
        variance = b.add("Sub", [squares, b.add("Mul", [mean, mean], "mean2")], "variance")
        root = b.add("Sqrt", [b.add("Add", [variance, eps], "floored")], "root")
        scale = b.add("Mul", [b.add("Reciprocal", [root], "inverse"), b.weight("gamma", 8)], "scale")
        offset = b.add("Sub", [b.weight("beta", 8), b.add("Mul", [mean, scale], "shift")], "offset")
        y = b.add("Add", [b.add("Mul", [x, scale], "scaled"), offset], "normalized")
    second = b.add("MatMul", [y, b.weight("v", 8, 8)], "second")
    b.add("Add", [second, x], "out")
    return b.build({"x": [1, 4, 8]}, ["out"])


@pytest.mark.parametrize("policy", [TFLITE, ORT])
@pytest.mark.parametrize("form", ["centred", "expanded"])
def test_a_normalization_in_arithmetic_stays_in_float_and_what_is_around_it_does_not(form, policy):
    placement = place(index_graph(normalized(form)), policy)
    read = {"centred": "scaled", "expanded": "normalized"}[form]
    sums = {"stream", "out"} if policy is TFLITE else set()  # ONNX Runtime's products write them in float
    assert placement.integer_nodes == {"first", "second"} | sums
    written = {"first", "second"} if sums else set()
    assert set(placement.tensors) == {"x", read} | written | sums


@pytest.mark.parametrize(("outputs", "integer"), [(1, False), (2, False), (3, True)])
@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_a_product_of_one_or_two_outputs_between_float_operators_stays_in_float(op, outputs, integer):
    b = GraphBuilder()
    shape = [1, 8, 5] if op == "Conv" else [5, 8]
    sizes = {"w": outputs, "v": 8}
    weight, wide = (b.weight(n, *((o, 8, 1) if op == "Conv" else (8, o))) for n, o in sizes.items())
    b.add("Softplus", [b.add(op, [b.add("Softplus", ["x"], "before"), weight], "product")], "after")
    b.add(op, ["x", wide], "worth")
    index = index_graph(b.build({"x": shape}, ["after", "worth"]))
    assert place(index, ORT).integer_nodes == {"worth", *(["product"] if integer else [])}
    assert place(index, TFLITE).integer_nodes == {"worth", "product"}  # its products write integers


def test_products_of_one_output_behind_float_operators_are_quantized_where_there_are_no_others():
    b = GraphBuilder()
    b.add("Gemm", [b.add("Softplus", ["x"], "before"), b.weight("w", 8, 1)], "y")
    assert place(index_graph(b.build({"x": [1, 8]}, ["y"])), ORT).integer_nodes == {"y"}


def test_a_network_that_is_one_product_of_one_output_is_quantized_as_asked():
    b = GraphBuilder()
    b.add("Gemm", ["x", b.weight("w", 8, 1)], "y")
    assert place(index_graph(b.build({"x": [1, 8]}, ["y"])), ORT).integer_nodes


def test_without_the_switch_a_spectrum_a_normalization_and_an_island_are_integer():
    b = GraphBuilder()
    b.add("Mul", [b.add("Softplus", ["x"], "before"), b.constant("two", np.float32(2))], "after")
    island = b.add("Softplus", ["after"], "end")
    for model in (spectrogram(), normalized("centred"), b.build({"x": [1, 8]}, [island])):
        index = index_graph(model)
        left = place(index, TFLITE).integer_nodes
        assert left < place(index, TFLITE, leave_float=False).integer_nodes


def test_what_an_exponent_reads_stays_in_float():
    b = GraphBuilder()
    axis = b.constant("axis", np.int64([-1]))
    scores = b.add("MatMul", ["x", b.weight("w", 8, 8)], "scores")
    shifted = b.add("Sub", [scores, b.add("ReduceMax", [scores, axis], "largest")], "shifted")
    powers = b.add("Exp", [shifted], "powers")
    b.add("Div", [powers, b.add("ReduceSum", [powers, axis], "total")], "shares")
    placement = place(index_graph(b.build({"x": [1, 8]}, ["shares"])), TFLITE)
    assert set(placement.tensors) == {"x", "scores"}


@pytest.mark.parametrize("form", ["centred", "expanded"])
def test_rows_of_different_size_are_normalized_all_the_same(form):
    """What it is for, and the control that integers throughout, with the switch off, lose more."""
    random, model = np.random.default_rng(0), normalized(form)
    size = np.float32([1, 0.5, 0.25, 0.12]).reshape(1, 4, 1)
    rows = [{"x": size * random.standard_normal((1, 4, 8)).astype(np.float32)} for _ in range(8)]
    errors = []
    for leave_float in (True, False):
        ranges = calibrate(model, rows, policies=[TFLITE], leave_float=leave_float)
        options = QuantizationOptions(leave_float=leave_float)
        result, _ = quantize(model, calibration=ranges, policy=TFLITE, options=options)
        errors.append(np.mean([(run(model, r)["out"] - run(result, r)["out"]) ** 2 for r in rows]))
    assert 1.25 * errors[0] < errors[1]


@pytest.mark.parametrize(
    ("op", "largest", "left"),
    [("Mul", 4.0, {"scaled", "head"}), ("Mul", 400.0, {"head"}), ("Div", 400.0, {"head"})],
)
def test_what_brings_an_input_to_one_unit_stays_in_float(op, largest, left):
    """The shift before the factor, too; what is added behind it is integer again."""
    b = GraphBuilder()
    centred = b.add("Sub", ["x", b.weight("mean", 8)], "centred")
    units = b.constant("units", np.geomspace(1.0, largest, 8).astype(np.float32))
    scaled = b.add(op, [centred, units], "scaled")
    b.add("Gemm", [scaled, b.weight("w", 8, 4)], "head")
    placement = place(index_graph(b.build({"x": [1, 8]}, ["head"])), TFLITE)
    assert placement.integer_nodes - {"centred"} == left
    assert ("x" in placement.tensors) == ("scaled" in left)


def stream(*, reshaped: bool = False):
    """Two blocks that add a product to what they read, normalized in between.

    `reshaped`: products are of matrices, with a Reshape on both sides, as onnxsim writes them.
    """
    b = GraphBuilder()
    x = b.add("MatMul", ["tokens", b.weight("embed.w", 8, 16)], "embed")
    for block in range(2):
        name = f"block{block}"
        read = [x, b.weight(f"{name}.scale", 16), b.weight(f"{name}.shift", 16)]
        normal = b.add("LayerNormalization", read, f"{name}.normal")
        if reshaped:
            normal = b.add("Reshape", [normal, b.constant(f"{name}.rows", np.array([5, 16]))], f"{name}.flat")
        product = b.add("MatMul", [normal, b.weight(f"{name}.w", 16, 16)], f"{name}.product")
        if reshaped:
            product = b.add(
                "Reshape", [product, b.constant(f"{name}.cube", np.array([1, 5, 16]))], f"{name}.back"
            )
        biased = b.add("Add", [product, b.weight(f"{name}.b", 16)], f"{name}.biased")
        x = b.add("Add", [x, biased], f"{name}.sum")
    b.add("LayerNormalization", [x, b.weight("scale", 16), b.weight("shift", 16)], "last")
    return b.build({"tokens": [1, 5, 8]}, ["last"])


SUMS = {"embed", "block0.product", "block0.biased", "block0.sum", "block1.product", "block1.biased"}


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_residual_stream_between_normalizations_stays_in_float(name):
    tensors = set(place(index_graph(stream()), load_target(name).int8).tensors)
    assert not SUMS & tensors
    assert {"block0.normal", "block1.normal", "tokens"} <= tensors
    assert integers(stream(), load_target(name).int8) == {"embed", "block0.product", "block1.product"}


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_residual_stream_stays_in_float_behind_reshapes_too(name):
    tensors = set(place(index_graph(stream(reshaped=True)), load_target(name).int8).tensors)
    assert not (SUMS | {"block0.back", "block1.back"}) & tensors
    assert {"block0.flat", "block1.flat", "tokens"} <= tensors


def test_where_products_write_integers_alone_their_sums_are_integers():
    """LiteRT's products need a quantizer behind them; its ADD of codes then costs less than one of floats."""
    assert set(place(index_graph(stream()), TFLITE).tensors) >= SUMS


def test_a_sum_that_a_product_reads_is_an_integer_and_so_is_what_it_is_a_sum_of():
    b = GraphBuilder()
    first = b.add("MatMul", ["x", b.weight("w0", 8, 8)], "first")
    total = b.add("Add", [first, "x"], "total")
    b.add("MatMul", [total, b.weight("w1", 8, 8)], "second")
    index = index_graph(b.build({"x": [4, 8]}, ["second"]))
    assert "total" in place(index, ORT).integer_nodes
    assert {"first", "total"} <= set(place(index, ORT).tensors)


def test_a_shortcut_between_convolutions_is_an_integer():
    b = GraphBuilder()
    first = b.conv("image", "first", 3, 4)
    total = b.add("Add", [first, b.conv(first, "second", 4, 4)], "total")
    b.add("Softmax", [total], "read", axis=1)
    index = index_graph(b.build({"image": [1, 3, 8, 8]}, ["read"]))
    assert "total" in place(index, ORT).integer_nodes
