"""int16 kernels of LiteRT, and graphs whose activations are int8 here, int16 there, float elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tflite_models import Qdq, feeds, invoke, lowered, reference, steps_apart

SHORT = 0.0003  # a scale of int16 codes: values to 9.8
BYTE = 0.05
IMAGE = (1, 4, 6, 6)


class Mixed(Qdq):
    """A QDQ graph whose activations are int8 (at BYTE) or int16 (at SHORT, zero point 0)."""

    def short(self, value, scale=SHORT):
        return self._through(value, np.float32(scale), np.int16(0))

    def byte(self, value, scale=BYTE):
        return self._through(value, np.float32(scale), np.int8(-7))

    def _through(self, value, scale, zero_point):
        name = f"{value}.{zero_point.dtype}"
        self.constants |= {f"{name}.s": scale, f"{name}.z": zero_point}
        parameters = [f"{name}.s", f"{name}.z"]
        self.nodes.append(helper.make_node("QuantizeLinear", [value, *parameters], [f"{name}.q"]))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *parameters], [name]))
        return name

    def build(self, *outputs):
        float32 = onnx.TensorProto.FLOAT
        made = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info(n, float32, shape) for n, shape in self.inputs.items()],
            [helper.make_tensor_value_info(n, float32, None) for n in outputs],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in self.constants.items()],
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
        return model


def answered(model, folder, precision):
    values = feeds(model, 3, scale=2.0)
    ran, expected = invoke(lowered(model, folder, precision), values), reference(model, values)
    return ran, expected


def constant(values):
    return lambda q, name: q.constants.update({name: np.asarray(values)}) or name


PADS = constant([0, 0, 1, 1, 0, 0, 1, 1])
# operator: (the kernel it must become, further inputs, attributes)
KERNELS = {
    "Sub": ("SUB", ["x2"], {}),
    "Mul": ("MUL", ["x2"], {}),
    "MaxPool": ("MAX_POOL_2D", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "GlobalMaxPool": ("REDUCE_MAX", [], {}),
    "GlobalAveragePool": ("MEAN", [], {}),
    "ReduceMean": ("MEAN", [constant([2, 3])], {}),
    "ReduceSum": ("SUM", [constant([3])], {}),
    "LeakyRelu": ("LEAKY_RELU", [], {"alpha": 0.1}),
    "Pad": ("PAD", [PADS], {}),
    "Pad reflect": ("MIRROR_PAD", [PADS], {"mode": "reflect"}),
    "Pad edge": ("CONCATENATION", [PADS], {"mode": "edge"}),
    "Tile": ("TILE", [constant([1, 2, 1, 1])], {}),
    "Expand": ("BROADCAST_TO", [constant([2, 4, 6, 6])], {}),
    "Gather": ("GATHER", [constant([0, 2])], {"axis": 1}),
    "GatherElements": ("GATHER", [constant(np.zeros((1, 2, 6, 6), np.int64))], {"axis": 1}),
    "GatherND": ("GATHER", [constant([[0, 2], [0, 1]])], {}),
    "CenterCropPad": ("SLICE", [constant([4, 4])], {"axes": [2, 3]}),
    "Resize": (
        "RESIZE_NEAREST_NEIGHBOR",
        [None, constant(np.float32([1, 1, 2, 2]))],
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
}


@pytest.mark.parametrize("case", KERNELS)
def test_an_int16_kernel_is_at_most_a_step_off(case, tmp_path):
    kind, more, attributes = KERNELS[case]
    q = Mixed()
    q.inputs["x"] = IMAGE
    inputs = [q.short("x")]
    for number, operand in enumerate(more):
        if operand == "x2":
            q.inputs["x2"] = IMAGE
            inputs.append(q.short("x2", SHORT * 0.7))
        else:
            inputs.append("" if operand is None else operand(q, f"p{number}"))
    q.add("Identity", [q.short(q.add(case.split()[0], inputs, "y", **attributes))], "out")
    ran, expected = answered(q.build("out"), tmp_path, "int16x8")
    assert kind in ran.kinds
    assert "int16" in ran.dtypes_of(kind)
    assert np.ptp(expected["out"]) > 100 * SHORT
    assert steps_apart(ran.outputs["out"], expected["out"], SHORT).max() <= 1


FLOAT_ISLANDS = {
    "Sigmoid": {},
    "Softmax": {"axis": 1},
    "DepthToSpace": {"blocksize": 2},
    "AveragePool": {"kernel_shape": [2, 2]},
}


@pytest.mark.parametrize("op", FLOAT_ISLANDS)
def test_what_has_no_exact_int16_kernel_is_computed_in_float(op, tmp_path):
    q = Mixed()
    q.inputs["x"] = IMAGE
    q.add("Identity", [q.short(q.add(op, [q.short("x")], "y", **FLOAT_ISLANDS[op]))], "out")
    ran, expected = answered(q.build("out"), tmp_path, "int16x8")
    assert ran.count("QUANTIZE") == 2
    assert steps_apart(ran.outputs["out"], expected["out"], SHORT).max() <= 1


def test_linear_resize_of_int16_is_not_left_to_the_kernel_that_interpolates_in_10_bits(tmp_path):
    q = Mixed()
    q.inputs["x"] = IMAGE
    q.constants["scales"] = np.float32([1, 1, 1.5, 1.5])
    q.add("Identity", [q.short(q.add("Resize", [q.short("x"), "", "scales"], "y", mode="linear"))], "out")
    ran, expected = answered(q.build("out"), tmp_path, "int16x8")
    assert ran.dtypes_of("RESIZE_BILINEAR") == {"float32"}
    assert steps_apart(ran.outputs["out"], expected["out"], SHORT).max() <= 1


def convolution(q, x, name, scale):
    weight = q.weight(f"{name}w", (4, 4, 3, 3), axis=0, seed=len(name))
    return q.add("Conv", [x, weight, q.bias(f"{name}b", weight, scale)], name, pads=[1, 1, 1, 1])


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_one_int16_convolution_between_int8_ones_keeps_all_three_integer(precision, tmp_path):
    q = Mixed()
    q.inputs["x"] = IMAGE
    first = q.byte(convolution(q, q.byte("x"), "c1", BYTE))
    second = q.short(convolution(q, q.short(first), "middle", SHORT))
    q.add("Identity", [q.byte(convolution(q, q.byte(second), "last", BYTE))], "out")
    ran, expected = answered(q.build("out"), tmp_path, precision)
    assert ran.dtypes_of("CONV_2D") == {"int8", "int16"}
    assert ran.count("CONV_2D") == 3
    assert steps_apart(ran.outputs["out"], expected["out"], BYTE).max() <= 1


def test_a_float_convolution_between_an_int8_and_an_int16_one_stays_float(tmp_path):
    q = Mixed()
    q.inputs["x"] = IMAGE
    first = q.byte(convolution(q, q.byte("x"), "c1", BYTE))
    q.constants["fw"] = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
    middle = q.add("Conv", [first, "fw"], "f")
    q.add("Identity", [q.short(convolution(q, q.short(middle), "c2", SHORT))], "out")
    ran, expected = answered(q.build("out"), tmp_path, "int8")
    assert ran.dtypes_of("CONV_2D") == {"int8", "float32", "int16"}
    assert steps_apart(ran.outputs["out"], expected["out"], SHORT).max() <= 1


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_an_operator_on_codes_of_two_widths_is_computed_in_float(op, tmp_path):
    q = Mixed()
    q.inputs |= {"a": IMAGE, "b": IMAGE}
    q.add("Identity", [q.short(q.add(op, [q.byte("a"), q.short("b")], "y"))], "out")
    ran, expected = answered(q.build("out"), tmp_path, "int8")
    assert ran.dtypes_of(op.upper()) == {"float32"}
    assert steps_apart(ran.outputs["out"], expected["out"], SHORT).max() <= 1


@pytest.mark.parametrize(("read", "written"), [("byte", "short"), ("short", "byte")])
@pytest.mark.parametrize("op", ["Relu", "Reshape", "MaxPool", "Add", "Conv"])
def test_a_border_inside_an_operator_is_exact(op, read, written, tmp_path):
    q = Mixed()
    q.inputs["x"] = IMAGE
    x = getattr(q, read)("x")
    if op == "Conv":
        y = convolution(q, x, "y", BYTE if read == "byte" else SHORT)
    elif op == "Reshape":
        q.constants["shape"] = np.array([1, 4, 36])
        y = q.add(op, [x, "shape"], "y")
    else:
        window = {"kernel_shape": [2, 2]} if op == "MaxPool" else {}
        y = q.add(op, [x, x] if op == "Add" else [x], "y", **window)
    q.add("Identity", [getattr(q, written)(y)], "out")
    ran, expected = answered(q.build("out"), tmp_path, "int8")
    assert steps_apart(ran.outputs["out"], expected["out"], SHORT if written == "short" else BYTE).max() <= 1
