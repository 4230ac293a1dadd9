"""No code is spent on values that an activation answers alike."""

import numpy as np
import pytest
from onnx import numpy_helper
from quantize_models import GraphBuilder, pictures, run

from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.flat_ends import told_apart
from edgekit.quantize.graph_index import index_graph
from edgekit.quantize.qdq import quantize

TFLITE = load_target("tflite").int8


def activated(op: str, *, twice: bool = False, **attributes: float):
    """A convolution of wide range, the activation, a convolution; if `twice`, an Add reads the first, too."""
    b = GraphBuilder()
    wide = b.add("Mul", [b.conv("image", "conv", 3, 4), b.constant("ten", np.float32(10))], "wide")
    y = b.add(op, [wide], "active", **attributes)
    b.conv(b.add("Add", [wide, y], "sum") if twice else y, "y", 4, 4)
    return b.build({"image": [1, 3, 8, 8]}, ["y"])


def written_range(model, tensor: str) -> tuple[float, float]:
    """The values of the lowest and the highest code of a quantizer in a QDQ graph."""
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    [node] = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor]
    scale, zero_point = (constants[name] for name in node.input[1:])
    codes = np.iinfo(zero_point.dtype)
    return tuple(float(scale) * (code - int(zero_point)) for code in (codes.min, codes.max))


@pytest.mark.parametrize(
    ("op", "attributes", "ends"),
    [
        ("HardSwish", {}, (-3.0, np.inf)),
        ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}, (-2.0, 2.0)),
        ("Relu", {}, (0.0, np.inf)),
        ("LeakyRelu", {}, (-np.inf, np.inf)),
    ],
)
def test_a_range_ends_where_the_activation_is_flat(op, attributes, ends):
    model = activated(op, **attributes)
    assert told_apart(index_graph(model), "wide") == ends


def test_another_reader_and_a_graph_output_keep_the_whole_range():
    both = activated("HardSwish", twice=True)
    assert told_apart(index_graph(both), "wide") == (-np.inf, np.inf)
    alone = activated("HardSwish")
    alone.graph.output.add().CopyFrom(next(v for v in alone.graph.value_info if v.name == "wide"))
    assert told_apart(index_graph(alone), "wide") == (-np.inf, np.inf)


def test_hard_swish_behind_a_wide_convolution_gains_the_codes_below_minus_three():
    model, samples = activated("HardSwish"), pictures(16)
    calibration = calibrate(model, iter(samples), policies=[TFLITE])
    low, high = calibration.ranges["wide"]
    assert low < -20
    quantized, _ = quantize(model, calibration=calibration, policy=TFLITE)
    lowest, highest = written_range(quantized, "wide")
    assert lowest == pytest.approx(-3.0, abs=(high + 3) / 255)
    assert highest == pytest.approx(high, abs=(high + 3) / 255)
    noise = [run(model, s)["y"] - run(quantized, s)["y"] for s in samples]
    kept = activated("HardSwish", twice=True)  # the same convolution, its range not trimmed
    whole, _ = quantize(kept, calibration=calibrate(kept, iter(samples), policies=[TFLITE]), policy=TFLITE)
    assert np.diff(written_range(whole, "wide")) > 1.6 * (highest - lowest)
    signal = [run(model, s)["y"] for s in samples]
    assert np.square(signal).sum() > 1e3 * np.square(noise).sum()


def test_values_that_are_all_flat_stay_flat():
    model = activated("Relu")
    bias = next(i for i in model.graph.initializer if i.name == "conv.b")
    bias.CopyFrom(numpy_helper.from_array(np.full(4, -100, np.float32), "conv.b"))
    samples = pictures(4)
    calibration = calibrate(model, iter(samples), policies=[TFLITE])
    quantized, _ = quantize(model, calibration=calibration, policy=TFLITE)
    for sample in samples:
        np.testing.assert_allclose(run(quantized, sample)["y"], run(model, sample)["y"], atol=1e-2)
