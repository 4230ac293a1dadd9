"""Refusals, names, files, and the passes of the LiteRT backend."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from tflite_models import feeds, graph, invoke, lowered, reference, relative_error, single

from edgekit.backends.tflite import why_not
from edgekit.backends.tflite.geometry import windows
from edgekit.backends.tflite.layout_reshape import group_axes, moves_only_ones
from edgekit.backends.tflite.lowering import OPERATORS
from edgekit.core.target import load_target
from edgekit.errors import Unsupported

IMAGE = (1, 6, 9, 8)


def reasons(model, tmp_path, precision="float32"):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return why_not(path, load_target("tflite"), precision)


def test_every_node_that_cannot_be_lowered_is_named_with_what_would_help(tmp_path):
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("RandomUniformLike", ["b"], ["c"], name="second"),
        helper.make_node("LRN", ["c"], ["y"], name="third", size=2),
    ]
    found = reasons(graph(nodes, {"x": IMAGE}, ["y"], {}), tmp_path)
    assert [reason.node for reason in found] == ["first", "second", "third"]
    assert "RandomNormalLike" in found[0].why
    assert all(reason.hint for reason in found)


def test_a_refused_model_leaves_nothing_behind(tmp_path):
    with pytest.raises(Unsupported, match="RandomNormalLike has no lowering") as caught:
        lowered(single("RandomNormalLike", IMAGE), tmp_path)
    assert caught.value.reasons[0].node == "node"
    assert not (tmp_path / "float32").exists()


def test_a_model_that_can_be_lowered_has_no_reasons(tmp_path):
    assert reasons(single("Relu", IMAGE), tmp_path) == []


def test_an_input_without_a_static_shape_is_a_reason(tmp_path):
    model = single("Relu", (2, 3))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    (reason, *_) = reasons(model, tmp_path)
    assert "static shape" in reason.why
    assert "--shape" in reason.hint


REFUSED = {
    "four dimensions": (
        single("Conv", (1, 2, 3, 3, 3, 3), np.ones((2, 2, 1, 1, 1, 1), np.float32)),
        "4 dimensions",
    ),
    "computed and grouped": (single("ConvTranspose", IMAGE, (6, 1, 2, 2), group=2), "groups or dilations"),
    "computed weights of volumes": (single("Conv", (1, 2, 3, 3, 3), (2, 2, 1, 1, 1)), "weights are computed"),
    "dropout whose mode is computed": (
        single("Dropout", IMAGE, np.float32(0.5), ((), "bool")),
        "training mode",
    ),
    "double precision": (single("Relu", (IMAGE, "float64")), "float64"),
    "bytes without a scale": (single("Relu", (IMAGE, "int8")), "Relu of int8"),
    "nothing left": (single("Slice", IMAGE, np.int64([3]), np.int64([3])), "is empty"),
    "corners of a broken ratio": (
        single(
            "Resize",
            IMAGE,
            None,
            np.float32([1, 1, 0.6, 0.6]),
            mode="linear",
            coordinate_transformation_mode="align_corners",
        ),
        "not the ratio",
    ),
    "computed pads": (
        graph(
            [
                helper.make_node("Cast", ["p"], ["q"], to=7),
                helper.make_node("Pad", ["x", "q"], ["z"], name="node"),
                helper.make_node("Shape", ["x"], ["y"]),
            ],
            {"x": (2, 3), "p": ((4,), "int32")},
            ["y"],
            {},
        ),
        "the shape of 'z'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_litert_cannot_do_exactly_is_refused_by_name(case, tmp_path):
    model, words = REFUSED[case]
    found = reasons(model, tmp_path)
    assert found
    assert any(words in reason.why for reason in found)


def test_a_precision_the_target_does_not_offer_is_a_reason(tmp_path):
    onnx.save(single("Relu", IMAGE), tmp_path / "m.onnx")
    (reason,) = why_not(tmp_path / "m.onnx", load_target("onnxruntime-cuda"), "int8")
    assert "TensorRT" in reason.why


def test_tensors_carry_the_names_of_the_onnx_values(tmp_path, need):
    need("ai_edge_litert")
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["features"]),
        helper.make_node("Sigmoid", ["features"], ["gate:0"]),
        helper.make_node("Mul", ["features", "gate:0"], ["swish"]),
    ]
    model = graph(nodes, {"image": IMAGE}, ["swish"], {"kernel": np.ones((4, 6, 1, 1), np.float32)})
    answer = invoke(lowered(model, tmp_path), feeds(model))
    names = {d["name"] for d in answer.details if "dtype" in d}
    assert {"image", "kernel", "features", "gate:0", "swish"} <= names


def test_outputs_that_are_inputs_constants_or_equal_are_still_outputs(tmp_path, need):
    need("ai_edge_litert")
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Relu", ["x"], ["first"]),
        helper.make_node("Identity", ["first"], ["second"]),
        helper.make_node("Identity", ["k"], ["fixed"]),
    ]
    model = graph(nodes, {"x": (2, 3)}, ["same", "first", "second", "fixed"], {"k": np.float32([1, 2])})
    answer = invoke(lowered(model, tmp_path), feeds(model))
    for name, wanted in reference(model, feeds(model)).items():
        assert relative_error(answer.outputs[name], wanted) == 0


def test_computed_shapes_are_folded(tmp_path, need):
    need("ai_edge_litert")
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": np.int64([0]), "rest": np.int64([-1])}
    model = graph(nodes, {"x": IMAGE}, ["y"], constants)
    answer = invoke(lowered(model, tmp_path), feeds(model))
    assert relative_error(answer.outputs["y"], reference(model, feeds(model))["y"]) == 0


def test_buffers_lie_on_sixteen_bytes_and_equal_constants_share_one(tmp_path, need):
    need("ai_edge_litert")
    from ai_edge_litert import schema_py_generated as schema

    kernel = np.random.default_rng(0).standard_normal((6, 6, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "k"], ["a"]), helper.make_node("Conv", ["a", "l"], ["y"])]
    model = graph(nodes, {"x": IMAGE}, ["y"], {"k": kernel, "l": kernel})
    raw = bytearray((lowered(model, tmp_path).folder / "model.tflite").read_bytes())
    file = schema.Model.GetRootAs(raw)
    assert schema.Model.ModelBufferHasIdentifier(raw, 0)
    starts = []
    for index in range(file.BuffersLength()):
        buffer = file.Buffers(index)
        if buffer.DataLength():
            starts.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert starts
    assert all(start % 16 == 0 for start in starts)
    subgraph = file.Subgraphs(0)
    used = [subgraph.Tensors(i).Buffer() for i in range(subgraph.TensorsLength())]
    assert len([b for b in used if b]) == 2 * len({b for b in used if b})  # two kernels, two zero biases


def test_weights_beyond_half_precision_stay_float32_and_the_manifest_says_so(tmp_path, need):
    need("ai_edge_litert")
    kernel = np.full((4, 6, 1, 1), 1e5, np.float32)
    model = single("Conv", IMAGE, kernel)
    artifact = lowered(model, tmp_path, "float16")
    assert "x1" in artifact.manifest.notes[0]
    answer = invoke(artifact, feeds(model))
    assert relative_error(answer.outputs["y"], reference(model, feeds(model))["y"]) < 1e-5


def test_a_bottleneck_mixing_layouts_transposes_the_smaller_side(tmp_path, need):
    """A per-channel gate made from a flat vector is reshaped, not transposed; the picture stays as it is."""
    need("ai_edge_litert")
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"]),
        helper.make_node("Gemm", ["v", "w"], ["g"]),
        helper.make_node("Reshape", ["g", "shape"], ["gate"]),
        helper.make_node("Mul", ["a", "gate"], ["y"]),
    ]
    random = np.random.default_rng(0)
    constants = {
        "k": random.standard_normal((4, 6, 1, 1)).astype(np.float32),
        "w": random.standard_normal((3, 4)).astype(np.float32),
        "shape": np.int64([1, 4, 1, 1]),
    }
    model = graph(nodes, {"x": IMAGE, "v": (1, 3)}, ["y"], constants)
    answer = invoke(lowered(model, tmp_path), feeds(model))
    assert answer.count("TRANSPOSE") == 0
    assert relative_error(answer.outputs["y"], reference(model, feeds(model))["y"]) < 1e-5


def test_a_transpose_that_is_needed_stays(tmp_path, need):
    need("ai_edge_litert")
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "m"], ["y"]),
    ]
    random = np.random.default_rng(0)
    constants = {
        "k": random.standard_normal((4, 6, 1, 1)).astype(np.float32),
        "m": random.standard_normal((18, 5)).astype(np.float32),
        "shape": np.int64([1, 16, 18]),
    }
    model = graph(nodes, {"x": IMAGE}, ["y"], constants)
    answer = invoke(lowered(model, tmp_path), feeds(model))
    assert answer.count("TRANSPOSE") == 1
    assert relative_error(answer.outputs["y"], reference(model, feeds(model))["y"]) < 1e-5


@pytest.mark.parametrize(
    ("size", "stride", "begin", "out", "padding", "pads"),
    [
        (8, 1, 1, 8, "SAME", (0, 0)),
        (8, 2, 1, 4, "VALID", (1, 0)),  # ONNX's symmetric pads at stride 2 on an even size
        (9, 2, 1, 5, "SAME", (0, 0)),
        (8, 2, 0, 3, "VALID", (0, 0)),
        (8, 2, 0, 4, "SAME", (0, 0)),  # TensorFlow's SAME puts the odd pixel last
        (8, 1, 2, 10, "VALID", (2, 2)),
    ],
)
def test_windows_say_where_onnx_places_them(size, stride, begin, out, padding, pads):
    square = {"kernel": (3, 3), "strides": (stride,) * 2, "dilations": (1, 1), "begin": (begin,) * 2}
    place = windows((size, size), (out, out), **square)
    assert (place.padding, place.pads) == (padding, (pads, pads))


def test_a_grouped_reshape_passes_a_transpose():
    random = np.random.default_rng(0)
    for before, after, perm in (
        ((1, 6, 4, 5), (1, 2, 3, 4, 5), (0, 3, 1, 2)),
        ((1, 6, 4, 5), (1, 6, 20), (0, 3, 1, 2)),
        ((2, 3, 6, 4, 5), (6, 6, 20), (0, 3, 2, 1, 4)),
        ((2, 6, 4, 1), (2, 6, 2, 2), (0, 3, 1, 2)),
    ):
        y = random.standard_normal([before[i] for i in np.argsort(perm)])
        expected = y.transpose(perm).reshape(after)
        found = group_axes(before, after, perm)
        assert found is not None
        gather, shape, axes = found
        np.testing.assert_array_equal(y.transpose(gather).reshape(shape).transpose(axes), expected)
    assert group_axes((1, 6, 4, 5), (1, 120), (0, 3, 1, 2)) is None
    assert group_axes((4, 6), (3, 8), (1, 0)) is None


def test_moving_dimensions_of_one_is_no_transpose():
    assert moves_only_ones((1, 1, 1, 8), (0, 3, 1, 2))
    assert not moves_only_ones((1, 2, 1, 8), (0, 3, 1, 2))


def test_every_lowering_is_exercised_against_onnx_runtime(request):
    """An operator enters the table together with a case that compares it."""
    files = sorted(request.path.parent.glob("test_tflite_*.py"))
    text = "".join(path.read_text() for path in files if path != request.path)
    assert [name for name in OPERATORS if f'"{name}"' not in text] == []
