"""Gather, scatter, choose, pad and normalize, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from tflite_models import Qdq, compare, feeds, graph, invoke, lowered, newer, reference, single, steps_apart

from edgekit.errors import Unsupported

RANDOM = np.random.default_rng(9)
F = np.float32
CUBE = (3, 4, 5)
IMAGE = (1, 6, 9, 8)


def ints(*values):
    return np.asarray(values, np.int64)


def within(low, high, *shape):
    return RANDOM.integers(low, high, shape)


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(F)


CASES = {
    "gather with negative computed indices": single("Gather", floats(5, 4), ((3,), "int64")),
    "gather elements": single("GatherElements", CUBE, within(-4, 4, 2, 7, 3), axis=1),
    "gather elements computed": single("GatherElements", CUBE, ((2, 3, 4), "int64"), axis=-2),
    "gather elements of bool": single("GatherElements", (CUBE, "bool"), within(0, 3, 2, 4, 5), axis=0),
    "gather nd": single("GatherND", CUBE, ints((0, 1), (-1, -4))),
    "gather nd computed": single("GatherND", CUBE, ((2, 6, 2), "int64")),
    "gather nd in batches": single("GatherND", CUBE, ((3, 2, 1), "int64"), batch_dims=1),
    "scatter elements": single(
        "ScatterElements", CUBE, np.argsort(RANDOM.random((3, 4, 5)), 1)[:, :2], (3, 2, 5), axis=1
    ),
    "scatter elements added": single(
        "ScatterElements", CUBE, ((3, 2, 5), "int64"), (3, 2, 5), axis=1, reduction="add"
    ),
    "scatter elements largest": single(
        "ScatterElements", CUBE, within(-3, 3, 3, 2, 5), (3, 2, 5), axis=0, reduction="max"
    ),
    "scatter nd": single("ScatterND", CUBE, ints((0, 1), (-1, -4)), (2, 5)),
    "scatter nd of bool": single("ScatterND", (CUBE, "bool"), ints((0,), (2,)), ((2, 4, 5), "bool")),
    "scatter nd multiplied": single("ScatterND", CUBE, ((4, 1), "int64"), (4, 4, 5), reduction="mul"),
    "scatter nd smallest": single("ScatterND", CUBE, within(0, 3, 6, 2), (6, 5), reduction="min"),
    "scatter nd added to int64": single(
        "ScatterND", (CUBE, "int64"), ((4, 1), "int64"), ((4, 4, 5), "int64"), reduction="add"
    ),
    "one hot": single("OneHot", ((2, 3), "int64"), np.int64(4), F([0.5, 2])),
    "one hot in the middle": single("OneHot", ((2, 3), "int64"), np.int64(2), ints(0, 1), axis=1),
    "one hot of negative and missing": single("OneHot", ints(-1, -3, 0, 9, -9), np.int64(3), F([0, 1])),
    "upper triangle": single("Trilu", CUBE),
    "lower triangle moved": single("Trilu", CUBE, np.int64(-1), upper=0),
    "upper triangle of int64": single("Trilu", (CUBE, "int64"), np.int64(2)),
    "clip of int8": single("Clip", (CUBE, "int8"), np.int8(1), np.int8(1)),
    "clip of int64 from below": single("Clip", (CUBE, "int64"), np.int64(1)),
    "clip of int32 by computed bounds": single("Clip", (CUBE, "int32"), None, ((), "int32")),
    "power of int32": single("Pow", (CUBE, "int32"), np.int32(5)),
    "powers of int64": single("Pow", (CUBE, "int64"), ints(0, 1, 2, 7, 30)),
    "power of int32 by a float": single("Pow", (CUBE, "int32"), F(3)),
    "eye like": single("EyeLike", (3, 5), k=1, dtype=6),
    "reverse sequence": single("ReverseSequence", (4, 3, 2), ints(4, 1, 3)),
    "reverse sequence batch first": single(
        "ReverseSequence", (4, 3, 2), ints(1, 2, 3, 1), time_axis=1, batch_axis=0
    ),
    "tile": single("Tile", CUBE, ints(2, 1, 3)),
    "tile of bool": single("Tile", (CUBE, "bool"), ints(1, 2, 1)),
    "pad edge": single("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1), mode="edge"),
    "pad edge of one": single("Pad", IMAGE, ints(0, 0, 1, 1, 0, 0, 1, 1), mode="edge"),
    "pad wrap": single("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1), mode="wrap"),
    "pad negative": single("Pad", IMAGE, ints(0, 0, -1, 2, 0, -1, 2, -3)),
    "pad reflect of six dimensions": single(
        "Pad", (1, 2, 1, 2, 3, 4), ints(0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1), mode="reflect"
    ),
    "pad computed value": single("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1), ()),
    "center crop and pad": single("CenterCropPad", (5, 4, 7), ints(2, 9, 4)),
    "center crop and pad of axes": single("CenterCropPad", (5, 4, 7), ints(8, 3), axes=[-1, 0]),
    "batch normalization computed": single(
        "BatchNormalization", IMAGE, (6,), (6,), (6,), np.abs(floats(6)) + 1
    ),
    "instance normalization": single("InstanceNormalization", IMAGE, floats(6), floats(6)),
    "instance normalization computed": single("InstanceNormalization", (2, 6, 9), (6,), (6,)),
    "lp normalization": single("LpNormalization", CUBE, axis=1),
    "lp normalization of one": single("LpNormalization", CUBE, p=1),
    "local response normalization": single("LRN", IMAGE, size=3, alpha=0.5, beta=0.6, bias=1.5),
}
CHOICES = {
    "largest": single("TopK", CUBE, ints(3), outputs=2),
    "smallest": single("TopK", CUBE, ints(2), outputs=2, axis=1, largest=0),
    "smallest of int64 with equals": single("TopK", (CUBE, "int64"), ints(3), outputs=2, axis=0, largest=0),
    "statistics of layer normalization": single(
        "LayerNormalization", CUBE, floats(5), floats(5), outputs=3, axis=-1
    ),
}


@pytest.mark.parametrize("layout", ["nhwc", "source"])
@pytest.mark.parametrize("case", CASES | CHOICES)
def test_an_operator_answers_like_onnx_runtime(case, layout, tmp_path, need):
    need("ai_edge_litert")
    model = (CASES | CHOICES)[case]
    values = feeds(model)
    if case == "gather with negative computed indices":
        values["x1"] = ints(-1, 2, -5)
    values = {name: np.asarray(value) for name, value in values.items()}
    compare(model, values, tmp_path, layout)


def test_the_scatter_of_old_opsets_is_that_of_elements(tmp_path, need):
    need("ai_edge_litert")
    node = helper.make_node("Scatter", ["x", "i", "u"], ["y"], axis=1)
    constants = {"i": ints((1, 3), (-2, 0), (2, 1)), "u": floats(3, 2)}
    compare(newer(node, (3, 5), constants, 10), {"x": floats(3, 5)}, tmp_path)


def test_a_scatter_with_computed_indices_replaces(tmp_path, need):
    need("ai_edge_litert")
    model = single("ScatterND", CUBE, ((2, 2), "int64"), (2, 5))
    values = feeds(model) | {"x1": ints((2, -1), (0, 0))}
    compare(model, values, tmp_path)


def test_infinite_data_stays_where_nothing_is_scattered(tmp_path, need):
    need("ai_edge_litert")
    model = single("ScatterND", (3, 2), ints((1,)), (1, 2), reduction="max")
    compare(model, feeds(model) | {"x0": np.full((3, 2), -np.inf, F)}, tmp_path)


def test_a_sparse_edge_is_joined_by_xnnpack(tmp_path, need):
    need("ai_edge_litert")
    model = CASES["pad edge of one"]
    ran = invoke(lowered(model, tmp_path), feeds(model))
    assert (ran.count("GATHER"), ran.count("CONCATENATION")) == (0, 2)


@pytest.mark.parametrize(("opset", "scales"), [(18, 2), (21, 6)])
def test_groups_are_scaled_as_their_opset_says(opset, scales, tmp_path, need):
    """One scale for each group before opset 21, then one for each channel."""
    need("ai_edge_litert")
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    constants = {"s": floats(scales), "b": floats(scales)}
    values = {"x": floats(*IMAGE)}
    compare(newer(node, IMAGE, constants, opset), values, tmp_path)


MOVED = {
    "Tile": lambda b: b.add("Tile", [b.input("x", IMAGE), "p"], "y"),
    "GatherElements": lambda b: b.add("GatherElements", [b.input("x", IMAGE), "i"], "y", axis=2),
    "Pad": lambda b: b.add("Pad", [b.input("x", IMAGE), "e"], "y", mode="edge"),
}


@pytest.mark.parametrize("name", MOVED)
def test_what_only_moves_values_keeps_the_codes(name, tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    b.constants |= {"p": ints(1, 2, 1, 1), "i": within(0, 9, *IMAGE), "e": ints(0, 0, 1, 2, 0, 0, 2, 1)}
    model = b.build(b.quantized(MOVED[name](b)))
    values = feeds(model, scale=2.0)
    ran = invoke(lowered(model, tmp_path, "int8"), values)
    (wanted,) = reference(model, values).values()
    assert (ran.count("QUANTIZE"), ran.count("DEQUANTIZE")) == (1, 1)
    assert steps_apart(next(iter(ran.outputs.values())), wanted, 0.05).max() == 0


REFUSED = {
    "a computed condition": (
        graph(
            [
                helper.make_node("Compress", ["x", "c"], ["z"], name="node", axis=0),
                helper.make_node("Shape", ["x"], ["y"]),
            ],
            {"x": CUBE, "c": ((3,), "bool")},
            ["y"],
            {},
        ),
        "not static",
    ),
    "LRN of an even size": (single("LRN", IMAGE, size=2), "even size"),
    "an index out of range": (single("GatherND", CUBE, ints((3,))), "out of range"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exact_is_refused(case, tmp_path):
    model, words = REFUSED[case]
    with pytest.raises(Unsupported, match=words):
        lowered(model, tmp_path)


@pytest.mark.parametrize("options", [{}, {"axes": [1, -1]}])
def test_mean_and_variance_are_taken_over_the_axes_onnx_means(options, tmp_path, need):
    need("ai_edge_litert")
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"], **options)
    compare(newer(node, (2, 3, 4, 5), {}, 13), {"x": floats(2, 3, 4, 5)}, tmp_path)


def test_rms_normalization_is_its_definition(tmp_path, need):
    need("ai_edge_litert")
    node = helper.make_node("RMSNormalization", ["x", "s"], ["y"], axis=-1, epsilon=1e-3)
    scale, x = np.arange(1, 6, dtype=F), floats(*CUBE)
    artifact = lowered(newer(node, CUBE, {"s": scale}, 23), tmp_path)
    wanted = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-3) * scale
    np.testing.assert_allclose(invoke(artifact, {"x": x}).outputs["y"], wanted, rtol=1e-5)
