"""What LiteRT would get wrong in silence never reaches a file."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.backends.tflite.checks import check_graph
from edgekit.backends.tflite.ir import Graph, Operator, Port, Quant, Tensor
from edgekit.errors import InternalError

S = Quant(scales=(0.05,), zero_point=-7)


def tensor(name, shape, dtype="int8", quant=S, data=None):
    return Tensor(name=name, shape=shape, dtype=dtype, quant=quant, data=data)


def codes(name, shape, quant, dtype=np.int8, value=1):
    data = np.full(shape, value, dtype)
    return Tensor(name=name, shape=shape, dtype=str(data.dtype), quant=quant, data=data)


def one(kind, inputs, output, **options):
    """A graph of one operator; its activations are the inputs of the model."""
    ports = [Port(name=t.name, tensor=t) for t in inputs if t is not None and t.data is None]
    op = Operator(kind=kind, inputs=list(inputs), outputs=[output], options=options, origin="node")
    return Graph(operators=[op], inputs=ports, outputs=[Port(name="y", tensor=output)])


WINDOW = {"padding": "VALID", "stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1}


def conv(
    *, w_quant=None, b_scale=None, b_shape=(4,), b_dtype=np.int32, w_value=1, y_quant=S, y_shape=(1, 3, 3, 4)
):
    """A correct int8 convolution (1, 5, 5, 2) -> (1, 3, 3, 4), unless told otherwise."""
    w_quant = w_quant or Quant(scales=(0.01,) * 4)
    b_scale = np.float32(0.05) * np.float32(0.01) if b_scale is None else b_scale
    bias = codes("b", b_shape, Quant(scales=(float(b_scale),) * b_shape[0]), b_dtype)
    weight = codes("w", (4, 3, 3, 2), w_quant, value=w_value)
    return one(
        "CONV_2D", [tensor("x", (1, 5, 5, 2)), weight, bias], tensor("y", y_shape, quant=y_quant), **WINDOW
    )


def binary(kind, s_a, s_b, s_y):
    a, b = (tensor(n, (2, 3), quant=Quant(scales=(s,))) for n, s in (("a", s_a), ("b", s_b)))
    return one(kind, [a, b], tensor("y", (2, 3), quant=Quant(scales=(s_y,))))


def pool(kind, quant):
    options = {**WINDOW, "filter_height": 2, "filter_width": 2}
    return one(kind, [tensor("x", (1, 4, 4, 2))], tensor("y", (1, 3, 3, 2), quant=quant), **options)


def fully_connected(**bias):
    weight = codes("w", (4, 6), Quant(scales=(0.01,)))
    scale = float(np.float32(0.05) * np.float32(0.01))
    b = codes("b", bias.get("shape", (4,)), Quant(scales=(scale,)), np.int32)
    return one("FULLY_CONNECTED", [tensor("x", (2, 6)), weight, b], tensor("y", (2, bias.get("out", 4))))


def read_before_written():
    a, b, c = (tensor(n, (2,)) for n in "abc")
    ops = [Operator(kind="RELU", inputs=[b], outputs=[c]), Operator(kind="RELU", inputs=[a], outputs=[b])]
    return Graph(operators=ops, inputs=[Port(name="a", tensor=a)], outputs=[Port(name="c", tensor=c)])


def never_written():
    a, b = tensor("a", (2,)), tensor("b", (2,))
    return Graph(inputs=[Port(name="a", tensor=a)], outputs=[Port(name="b", tensor=b)])


def written_twice():
    a, b = tensor("a", (2,)), tensor("b", (2,))
    ops = [Operator(kind="RELU", inputs=[a], outputs=[b]), Operator(kind="RELU", inputs=[a], outputs=[b])]
    return Graph(operators=ops, inputs=[Port(name="a", tensor=a)], outputs=[Port(name="b", tensor=b)])


OTHER = Quant(scales=(0.03,), zero_point=0)
FLOAT = {"dtype": "float32", "quant": None}
GOOD = {
    "convolution": conv(),
    "add": binary("ADD", 0.05, 0.02, 0.06),
    "mul": binary("MUL", 0.05, 0.02, 0.06),
    "max pool": pool("MAX_POOL_2D", S),
    "fully connected": fully_connected(),
    "logistic": one(
        "LOGISTIC", [tensor("x", (2,))], tensor("y", (2,), quant=Quant(scales=(1 / 256,), zero_point=-128))
    ),
    "quantize": one("QUANTIZE", [tensor("x", (2,), **FLOAT)], tensor("y", (2,))),
}
BAD = {
    "bias of another scale": (conv(b_scale=0.001), "s_x \\* s_w"),
    "float bias": (conv(b_dtype=np.float32), "must be int32"),
    "short bias": (conv(b_shape=(3,)), r"shape \(3,\)"),
    "weights with a zero point": (conv(w_quant=Quant(scales=(0.01,) * 4, zero_point=3)), "zero point 3"),
    "weights of -128": (conv(w_value=-128), "-128"),
    "scales along the wrong axis": (conv(w_quant=Quant(scales=(0.01,) * 3, axis=1)), "axis 1"),
    "too few scales": (conv(w_quant=Quant(scales=(0.01,) * 3)), "3 scales along axis 0"),
    "requantization of 256": (conv(y_quant=Quant(scales=(1e-6,))), "must stay below 256"),
    "output of another size": (conv(y_shape=(1, 5, 5, 4)), "the kernel computes 3"),
    "add beyond the ratio": (binary("ADD", 30.0, 0.02, 0.06), "s_x / s_y"),
    "sub below the ratio": (binary("SUB", 1e-6, 0.02, 0.06), "s_x / s_y"),
    "mul beyond the ratio": (binary("MUL", 30.0, 30.0, 0.06), "s_a \\* s_b / s_y"),
    "max pool that rescales": (pool("MAX_POOL_2D", OTHER), "must share"),
    "average pool that rescales": (pool("AVERAGE_POOL_2D", OTHER), "must share"),
    "reshape that rescales": (
        one("RESHAPE", [tensor("x", (2, 3))], tensor("y", (6,), quant=OTHER)),
        "must share",
    ),
    "concatenation of scales": (
        one("CONCATENATION", [tensor("a", (2,)), tensor("b", (2,), quant=OTHER)], tensor("y", (4,)), axis=0),
        "must share",
    ),
    "logistic of another scale": (
        one("LOGISTIC", [tensor("x", (2,))], tensor("y", (2,))),
        "the kernel writes",
    ),
    "tanh of another scale": (one("TANH", [tensor("x", (2,))], tensor("y", (2,))), "the kernel writes"),
    "int8 without a scale": (
        one("ADD", [tensor("x", (2,), quant=None)] * 2, tensor("y", (2,))),
        "without a scale",
    ),
    "per-channel batch matmul": (
        one(
            "BATCH_MATMUL",
            [tensor("a", (2, 3)), codes("b", (3, 4), Quant(scales=(0.1,) * 4, axis=1))],
            tensor("y", (2, 4)),
        ),
        "per-channel",
    ),
    "mixed dtypes": (
        one("ADD", [tensor("a", (2,), **FLOAT), tensor("b", (2,))], tensor("y", (2,), **FLOAT)),
        "float32, int8",
    ),
    "scale of zero": (
        one("NEG", [tensor("x", (2,), quant=Quant(scales=(0.0,)))], tensor("y", (2,))),
        "not a positive",
    ),
    "scale of NaN": (
        one("NEG", [tensor("x", (2,), quant=Quant(scales=(float("nan"),)))], tensor("y", (2,))),
        "not a pos",
    ),
    "zero point of 200": (
        one("NEG", [tensor("x", (2,), quant=Quant(scales=(1.0,), zero_point=200))], tensor("y", (2,))),
        "200",
    ),
    "seven dimensions": (
        one("NEG", [tensor("x", (1,) * 7, **FLOAT)], tensor("y", (1,) * 7, **FLOAT)),
        "7 dimensions",
    ),
    "pad of six dimensions": (
        one(
            "PAD",
            [tensor("x", (1,) * 6, **FLOAT), codes("p", (6, 2), None, np.int32)],
            tensor("y", (1,) * 6, **FLOAT),
        ),
        "takes 5",
    ),
    "empty tensor": (one("NEG", [tensor("x", (0,), **FLOAT)], tensor("y", (0,), **FLOAT)), "1 or more"),
    "data of another shape": (
        one(
            "ADD",
            [tensor("x", (2,), **FLOAT), Tensor(name="k", shape=(2,), data=np.ones(3, np.float32))],
            tensor("y", (2,), **FLOAT),
        ),
        "its data",
    ),
    "reshape to another size": (
        one("RESHAPE", [tensor("x", (2, 3))], tensor("y", (5,))),
        "numbers of elements",
    ),
    "wrong permutation": (
        one(
            "TRANSPOSE", [tensor("x", (2, 3)), codes("p", (2,), None, np.int32, value=0)], tensor("y", (3, 2))
        ),
        "transposed by",
    ),
    "short bias of a matrix product": (fully_connected(shape=(1,)), r"shape \(1,\)"),
    "weights of another size": (fully_connected(shape=(5,), out=5), "do not fit"),
    "requantizing codes": (
        one("QUANTIZE", [tensor("x", (2,))], tensor("y", (2,), quant=OTHER)),
        "int8 to int8",
    ),
    "read before written": (read_before_written(), "before any operator writes"),
    "output never written": (never_written(), "never written"),
    "written twice": (written_twice(), "has a value already"),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_correct_graph_passes(case):
    check_graph(GOOD[case])


@pytest.mark.parametrize("case", BAD)
def test_a_broken_rule_is_an_error_that_names_it(case):
    graph, words = BAD[case]
    with pytest.raises(InternalError, match=words):
        check_graph(graph)


def test_every_problem_is_listed_at_once():
    graph = conv(b_shape=(3,), w_value=-128)
    with pytest.raises(InternalError) as caught:
        check_graph(graph)
    assert "shape (3,)" in str(caught.value)
    assert "-128" in str(caught.value)
    assert "CONV_2D of 'node'" in str(caught.value)
