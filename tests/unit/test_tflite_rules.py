"""Operators that a LiteRT kernel would get wrong in silence, and that are never written."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.backends.tflite.checks import check_graph
from edgekit.backends.tflite.ir import Graph, Operator, Port, Quant, Tensor
from edgekit.errors import InternalError


def connected(x, weight, bias, output, **options):
    options = {"asymmetric_quantize_inputs": True, "keep_num_dims": False} | options
    operator = Operator(
        kind="FULLY_CONNECTED", inputs=[x, weight, bias], outputs=[output], options=options, origin="node"
    )
    return Graph(
        operators=[operator], inputs=[Port(name="x", tensor=x)], outputs=[Port(name="y", tensor=output)]
    )


def constant(name, shape, dtype, quant=None):
    data = np.ones(shape, "int8" if dtype == "int4" else dtype)
    return Tensor(name=name, shape=shape, dtype=dtype, data=data, quant=quant)


CHANNELS = Quant(scales=(0.01,) * 4)
BIAS = Quant(scales=(float(np.float32(0.001) * np.float32(0.01)),) * 4)
FLOATS = Tensor(name="x", shape=(2, 6))
SHORTS = Tensor(name="x", shape=(2, 6), dtype="int16", quant=Quant(scales=(0.001,)))
HALVES = Tensor(name="x", shape=(2, 6), dtype="int16", quant=Quant(scales=(0.001,), zero_point=3))


def short_output():
    return Tensor(name="y", shape=(2, 4), dtype="int16", quant=Quant(scales=(0.001,)))


def hybrid(weight, **options):
    bias = constant("b", (4,), "float32")
    return connected(FLOATS, weight, bias, Tensor(name="y", shape=(2, 4)), **options)


WRONG = {
    "hybrid without a zero point": (
        lambda: hybrid(constant("w", (4, 6), "int8", CHANNELS), asymmetric_quantize_inputs=False),
        "when it is told to",
    ),
    "hybrid with one scale": (
        lambda: hybrid(constant("w", (4, 6), "int8", Quant(scales=(0.01,)))),
        "a scale for each output",
    ),
    "hybrid with four bits": (lambda: hybrid(constant("w", (4, 6), "int4", CHANNELS)), "int8 weights"),
    "int32 bias beside int16": (
        lambda: connected(
            SHORTS,
            constant("w", (4, 6), "int8", CHANNELS),
            constant("b", (4,), "int32", BIAS),
            short_output(),
        ),
        "beside int16 it must be int64",
    ),
    "int16 with a zero point": (
        lambda: connected(
            HALVES,
            constant("w", (4, 6), "int8", CHANNELS),
            constant("b", (4,), "int64", BIAS),
            short_output(),
        ),
        "zero point 3",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_kernel_would_get_wrong_in_silence_is_never_written(case):
    make, words = WRONG[case]
    with pytest.raises(InternalError) as caught:
        check_graph(make())
    assert words in str(caught.value)


def test_the_rules_let_right_operators_pass():
    check_graph(hybrid(constant("w", (4, 6), "int8", CHANNELS)))
    bias = constant("b", (4,), "int64", BIAS)
    check_graph(connected(SHORTS, constant("w", (4, 6), "int8", CHANNELS), bias, short_output()))
