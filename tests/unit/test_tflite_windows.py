"""Convolutions and pools of lines, pictures and volumes, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from tflite_models import Qdq, compare, feeds, invoke, lowered, reference, single, steps_apart

RANDOM = np.random.default_rng(3)
IMAGE, LINE, VOLUME = (1, 6, 9, 8), (2, 4, 11), (2, 3, 6, 5, 7)


def weights(*shape):
    return (RANDOM.standard_normal(shape) * 0.4).astype(np.float32)


CASES = {
    "conv computed weights": single("Conv", IMAGE, (4, 6, 3, 3), pads=[1] * 4),
    "conv computed weights and bias": single("Conv", IMAGE, (4, 6, 3, 3), (4,), strides=[2, 2]),
    "conv computed bias": single("Conv", IMAGE, weights(4, 6, 3, 3), (4,)),
    "conv depthwise computed": single("Conv", IMAGE, (6, 1, 3, 3), (6,), group=6),
    "conv grouped computed": single("Conv", IMAGE, (4, 3, 3, 3), group=2),
    "conv 1d computed": single("Conv", LINE, (5, 4, 3), (5,), pads=[1, 1]),
    "conv 3d": single("Conv", VOLUME, weights(4, 3, 3, 2, 3), weights(4), pads=[1, 0, 1, 1, 1, 0]),
    "conv 3d strided and dilated": single(
        "Conv", VOLUME, weights(4, 3, 2, 2, 2), strides=[2, 1, 2], dilations=[1, 2, 2]
    ),
    "conv 3d grouped": single("Conv", VOLUME, weights(6, 1, 2, 2, 2), group=3, auto_pad="SAME_LOWER"),
    "transposed conv computed": single("ConvTranspose", IMAGE, (6, 4, 3, 3), (4,), strides=[2, 2]),
    "transposed conv grouped": single(
        "ConvTranspose", IMAGE, weights(6, 2, 3, 3), weights(4), strides=[2, 2], pads=[1] * 4, group=2
    ),
    "transposed conv depthwise dilated": single(
        "ConvTranspose", IMAGE, weights(6, 1, 3, 3), dilations=[2, 1], group=6
    ),
    "transposed conv 1d grouped": single("ConvTranspose", LINE, weights(4, 1, 4), strides=[2], group=2),
    "transposed conv 3d": single(
        "ConvTranspose", VOLUME, weights(3, 4, 3, 3, 2), weights(4), strides=[2, 1, 2], pads=[1] * 6
    ),
    "transposed conv 3d grouped": single("ConvTranspose", VOLUME, weights(3, 2, 2, 2, 2), group=3),
    "max pool 3d": single(
        "MaxPool", VOLUME, kernel_shape=[3, 2, 2], strides=[2, 2, 2], pads=[1, 0, 0, 1, 1, 1]
    ),
    "max pool 3d same": single("MaxPool", VOLUME, kernel_shape=[3, 3, 3], auto_pad="SAME_UPPER"),
    "max pool dilated": single("MaxPool", IMAGE, kernel_shape=[3, 2], dilations=[2, 3], pads=[1] * 4),
    "max pool dilated ceil": single(
        "MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2], strides=[3, 3], ceil_mode=1
    ),
    "max pool with indices": single("MaxPool", IMAGE, outputs=2, kernel_shape=[3, 2], strides=[2, 2]),
    "max pool with padded indices": single(
        "MaxPool", (2, 3, 5, 7), outputs=2, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 1]
    ),
    "max pool with indices by columns": single(
        "MaxPool", IMAGE, outputs=2, kernel_shape=[2, 2], dilations=[2, 1], storage_order=1
    ),
    "average pool 3d": single("AveragePool", VOLUME, kernel_shape=[2, 3, 2], strides=[1, 2, 2]),
    "average pool 3d padded": single("AveragePool", VOLUME, kernel_shape=[3, 3, 3], pads=[1] * 6),
    "average pool 3d counting pads": single(
        "AveragePool", VOLUME, kernel_shape=[3, 3, 3], pads=[1] * 6, strides=[2] * 3, count_include_pad=1
    ),
    "average pool dilated": single("AveragePool", IMAGE, kernel_shape=[3, 3], dilations=[2, 2], pads=[2] * 4),
    "average pool ceil 3d counting pads": single(
        "AveragePool",
        VOLUME,
        kernel_shape=[3, 2, 3],
        pads=[1, 0, 1] * 2,
        strides=[2] * 3,
        ceil_mode=1,
        count_include_pad=1,
    ),
    "lp pool": single("LpPool", IMAGE, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "lp pool of three": single("LpPool", LINE, kernel_shape=[3], p=3),
    "global lp pool": single("GlobalLpPool", IMAGE),
    "global average pool 3d": single("GlobalAveragePool", VOLUME),
    "dropout with its mask": single("Dropout", IMAGE, outputs=2),
}


@pytest.mark.parametrize("layout", ["nhwc", "source"])
@pytest.mark.parametrize("case", CASES)
def test_windows_answer_like_onnx_runtime(case, layout, tmp_path, need):
    need("ai_edge_litert")
    compare(CASES[case], feeds(CASES[case]), tmp_path, layout)


def test_a_pool_that_only_picks_keeps_the_codes(tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    y = b.add("MaxPool", [b.input("x", VOLUME)], "y", kernel_shape=[3, 3, 3], pads=[1] * 6)
    model = b.build(b.quantized(y))
    values = feeds(model, scale=2.0)
    ran = invoke(lowered(model, tmp_path, "int8"), values)
    (wanted,) = reference(model, values).values()
    assert (ran.count("QUANTIZE"), ran.count("DEQUANTIZE")) == (1, 1)
    assert steps_apart(next(iter(ran.outputs.values())), wanted, 0.05).max() == 0


def test_a_grouped_transposed_convolution_is_one_integer_operator(tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    w = b.weight("w", (6, 2, 3, 3), axis=1)
    y = b.add("ConvTranspose", [b.input("x", IMAGE), w], "y", strides=[2, 2], group=3)
    model = b.build(b.quantized(y, 0.2))
    values = feeds(model, scale=2.0)
    ran = invoke(lowered(model, tmp_path, "int8"), values)
    (wanted,) = reference(model, values).values()
    assert ran.dtypes_of("TRANSPOSE_CONV") == {"int8"}
    assert steps_apart(next(iter(ran.outputs.values())), wanted, 0.2).max() <= 1


@pytest.mark.parametrize("op", ["Conv", "AveragePool"])
def test_a_quantized_volume_is_computed_in_float(op, tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    x = b.input("x", VOLUME)
    if op == "Conv":
        y = b.add(op, [x, b.weight("w", (4, 3, 2, 2, 2), axis=0)], "y")
    else:
        y = b.add(op, [x], "y", kernel_shape=[2, 2, 2])
    model = b.build(b.quantized(y, 0.1))
    values = feeds(model, scale=2.0)
    ran = invoke(lowered(model, tmp_path, "int8"), values)
    (wanted,) = reference(model, values).values()
    assert steps_apart(next(iter(ran.outputs.values())), wanted, 0.1).max() <= 1
