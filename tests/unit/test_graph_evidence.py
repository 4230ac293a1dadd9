"""Generated inputs, comparison of answers, simplification and inspection."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_models import answers, classifier, graph, needed, operators

from edgekit.core.arrays import load_arrays, save_arrays
from edgekit.errors import StepError, Unsupported, UsageError
from edgekit.graph import simplify
from edgekit.graph.canonical import prepare
from edgekit.graph.compare import first_difference
from edgekit.graph.evaluate import evaluate
from edgekit.graph.generate import generate_inputs
from edgekit.graph.inspect import inspect_model

onnx = needed("onnx")
node = onnx.helper.make_node
F, L = np.float32, np.int64


def saved(model: Any, folder: Path) -> str:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return str(folder / "m.onnx")


# arrays between steps


def test_named_arrays_keep_any_name_order_and_dtype(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"file": np.float16(2.5), "a/b:0": np.arange(3), "names": np.array([True])}
    arrays["a0"] = np.zeros((0, 2))
    save_arrays(tmp_path / "x.npz", arrays)
    loaded = load_arrays(tmp_path / "x.npz")
    assert list(loaded) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(loaded[name], value)
        assert loaded[name].dtype == np.asarray(value).dtype


# inputs


def test_floats_are_standard_normal_and_follow_the_seed(tmp_path: Path) -> None:
    model = graph([node("Relu", ["x"], ["y"])], {"x": (F, [100, 100])}, {"y": (F, [100, 100])}, {})
    path = saved(model, tmp_path)
    first, again, other = generate_inputs(path, 0), generate_inputs(path, 0), generate_inputs(path, 1)
    assert abs(first["x"].mean()) < 0.05
    assert abs(first["x"].std() - 1) < 0.05
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])


def test_an_index_behind_a_cast_and_an_offset_stays_within_the_table(tmp_path: Path) -> None:
    weights = {"table": np.zeros((6, 2), F), "two": np.array(2, L)}
    nodes = [
        node("Cast", ["ids"], ["wide"], to=onnx.TensorProto.INT64),
        node("Add", ["wide", "two"], ["moved"]),
        node("Gather", ["table", "moved"], ["y"]),
    ]
    model = graph(nodes, {"ids": (np.int32, [200])}, {"y": (F, [200, 2])}, weights)
    inputs = generate_inputs(saved(model, tmp_path), 0)
    assert (inputs["ids"].min(), inputs["ids"].max()) == (0, 3)
    answers(model, inputs)


def test_an_integer_that_is_compared_takes_the_constants(tmp_path: Path) -> None:
    weights = {"rates": np.array([8000, 16000], L)}
    nodes = [node("Equal", ["sr", "rates"], ["y"])]
    model = graph(nodes, {"sr": (L, [50, 1])}, {"y": (bool, [50, 2])}, weights)
    assert set(generate_inputs(saved(model, tmp_path), 0)["sr"].ravel()) == {8000, 16000}


def test_an_integer_mask_is_0_or_1_and_booleans_are_mixed(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["mask"], ["m"], to=onnx.TensorProto.BOOL),
        node("And", ["m", "flag"], ["y"]),
    ]
    model = graph(nodes, {"mask": (L, [64]), "flag": (bool, [64])}, {"y": (bool, [64])}, {})
    inputs = generate_inputs(saved(model, tmp_path), 0)
    assert set(inputs["mask"]) == {0, 1}
    assert set(inputs["flag"]) == {False, True}


def test_codes_of_a_quantized_input_use_their_whole_range(tmp_path: Path) -> None:
    weights = {"scale": np.array(0.1, F), "zero": np.array(3, np.uint8)}
    nodes = [node("DequantizeLinear", ["q", "scale", "zero"], ["y"])]
    model = graph(nodes, {"q": (np.uint8, [4000])}, {"y": (F, [4000])}, weights)
    codes = generate_inputs(saved(model, tmp_path), 0)["q"]
    assert (codes.min(), codes.max()) == (0, 255)


def test_a_dynamic_input_cannot_be_generated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'image' has a dynamic dimension"):
        generate_inputs(saved(classifier(), tmp_path), 0)


# comparison


def test_equal_answers_agree_and_rounding_is_allowed() -> None:
    a = np.random.default_rng(0).standard_normal((4, 50)).astype(F)
    assert first_difference({"y": a}, {"y": a}) is None
    assert first_difference({"y": a}, {"y": a * F(1 + 3e-6)}) is None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_five_percent_are_never_allowed(dtype: str) -> None:
    a = np.random.default_rng(0).standard_normal((4, 50)).astype(dtype)
    difference = first_difference({"y": a}, {"y": (a * 1.05).astype(dtype)})
    assert difference is not None
    assert difference.output == "y"
    assert difference.largest > difference.allowed


def test_outputs_are_paired_by_name_and_a_swap_is_seen() -> None:
    a, b = np.ones((1, 3), F), np.zeros((1, 3), F)
    assert first_difference({"a": a, "b": b}, {"b": b, "a": a}) is None
    assert first_difference({"a": a, "b": b}, {"a": b, "b": a}) is not None


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        (np.zeros((1, 3), F), np.zeros((3, 1), F), "shape"),
        (np.zeros(3, F), np.zeros(3, np.float64), "float64"),
        (np.array([1, 2]), np.array([1, 3]), "differs by up to 1"),
        (np.array([True, True]), np.array([True, False]), "1 of 2 values"),
        (np.array([1, np.nan], F), np.array([1, 2], F), "NaN"),
        (np.array([1, np.inf], F), np.array([1, -np.inf], F), "infinity"),
        (np.array([10, 20], np.uint8), np.array([12, 20], np.uint8), "differs by up to 2"),
    ],
)
def test_a_difference_says_what_it_is(expected: Any, got: Any, words: str) -> None:
    assert words in str(first_difference({"y": expected}, {"y": got}))


def test_missing_and_additional_outputs_are_differences() -> None:
    a = np.zeros(1, F)
    assert "missing" in str(first_difference({"y": a}, {"z": a}))
    assert "no output of the reference" in str(first_difference({"y": a}, {"y": a, "z": a}))


def test_the_same_nan_in_the_same_place_and_one_code_of_rounding_agree() -> None:
    a = np.array([np.nan, np.inf, 1], F)
    assert first_difference({"y": a}, {"y": a.copy()}) is None
    assert first_difference({"q": np.array([7], np.int8)}, {"q": np.array([8], np.int8)}) is None


def test_a_graph_that_does_not_run_is_refused_in_the_words_of_the_runtime(tmp_path: Path) -> None:
    weights = {"table": np.zeros((2, 2), F)}
    model = graph([node("Gather", ["table", "i"], ["y"])], {"i": (L, [1])}, {"y": (F, [1, 2])}, weights)
    save_arrays(tmp_path / "in.npz", {"i": np.array([9], L)})
    with pytest.raises(Unsupported, match="out of data bounds"):
        evaluate(saved(model, tmp_path), [str(tmp_path / "in.npz")], [str(tmp_path / "out.npz")])


# simplification


def rich() -> Any:
    weights = {"g": np.ones(8, F), "b": np.zeros(8, F), "two": np.array([-1, 8], L)}
    nodes = [
        node("HardSwish", ["x"], ["a"]),
        node("Gelu", ["a"], ["c"]),
        node("Identity", ["c"], ["d"]),
        node("Reshape", ["d", "two"], ["e"]),
        node("LayerNormalization", ["e", "g", "b"], ["f"]),
        node("HardSigmoid", ["f"], ["h"]),
        node("Softmax", ["h"], ["y"]),
    ]
    return prepare(graph(nodes, {"x": (F, [2, 8])}, {"y": (F, [2, 8])}, weights), {})[0]


def test_rich_operators_stay_whole_through_onnxsim() -> None:
    needed("onnxsim")
    after = simplify.apply(rich()).model
    kept = [op for op in operators(after) if op in simplify.RICH_OPERATORS]
    assert kept == ["HardSwish", "Gelu", "LayerNormalization", "HardSigmoid", "Softmax"]


def test_a_simplifier_that_takes_a_rich_operator_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def apart(model: Any, **_: object) -> tuple[Any, bool]:
        model = onnx.ModelProto.FromString(model.SerializeToString())
        model.graph.node[0].op_type = "Relu"
        return model, True

    monkeypatch.setattr(needed("onnxsim"), "simplify", apart)
    with pytest.raises(StepError, match="took rich operators apart: 1 HardSwish"):
        simplify.apply(rich())


def test_a_simplifier_that_renames_an_output_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(model: Any, **_: object) -> tuple[Any, bool]:
        model = onnx.ModelProto.FromString(model.SerializeToString())
        model.graph.output[0].name = model.graph.node[-1].output[0] = "other"
        return model, True

    monkeypatch.setattr(needed("onnxsim"), "simplify", renamed)
    with pytest.raises(StepError, match="changed the inputs or outputs"):
        simplify.apply(rich())


# inspection


def test_inspection_counts_operators_parameters_and_multiply_adds(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path)
    facts = inspect_model(path)
    [image] = facts["inputs"]
    assert image == {"name": "image", "dtype": "float32", "shape": ["N", 3, 8, 8], "layout": "channels first"}
    assert [o["name"] for o in facts["outputs"]] == ["logits", "age"]
    assert facts["opset"] == 17
    assert facts["operators"]["Gemm"] == 2
    assert facts["nodes"] == 8
    assert facts["parameters"] == 8 * 27 + 8 + 4 * 8 + 2 * 40 + 5
    assert facts["macs"] == 8 * 8 * 8 * 27 + 2 * 40
    assert facts["size_bytes"] == Path(path).stat().st_size
    assert facts["dynamic_dimensions"] == ["image[0] (N)"]


def test_multiply_adds_of_other_layers(tmp_path: Path) -> None:
    weights = {"t": np.zeros((4, 6, 2, 2), F), "w": np.zeros((7, 5), F)}
    nodes = [
        node("ConvTranspose", ["x", "t"], ["y"], strides=[2, 2]),
        node("MatMul", ["m", "w"], ["z"]),
    ]
    shapes = {"x": (F, [1, 4, 3, 3]), "m": (F, [2, 7])}
    model = graph(nodes, shapes, {"y": (F, [1, 6, 6, 6]), "z": (F, [2, 5])}, weights)
    assert inspect_model(saved(model, tmp_path))["macs"] == 4 * 9 * 6 * 4 + 2 * 5 * 7


def test_multiply_adds_are_unknown_while_a_size_is_open(tmp_path: Path) -> None:
    model = graph([node("Relu", ["x"], ["y"])], {"x": (F, [1, "T"])}, {"y": (F, [1, "T"])}, {})
    facts = inspect_model(saved(model, tmp_path))
    assert facts["macs"] is None
    assert facts["dynamic_dimensions"] == ["x[1] (T)"]


def test_inspection_tells_channels_last_and_the_labels_that_an_exporter_left(tmp_path: Path) -> None:
    weights = {"w": np.zeros((2, 3, 1, 1), F), "half": np.float32([0.5])}
    nodes = [
        node("Mul", ["x", "half"], ["scaled"]),
        node("Transpose", ["scaled"], ["moved"], perm=[0, 3, 1, 2]),
        node("Conv", ["moved", "w"], ["y"]),
    ]
    model = graph(nodes, {"x": (F, [1, 4, 4, 3])}, {"y": (F, [1, 2, 4, 4])}, weights)
    model.metadata_props.add(key="names", value="{10: 'cat', 9: 'dog'}")
    facts = inspect_model(saved(model, tmp_path))
    assert facts["inputs"][0]["layout"] == "channels last"
    assert facts["labels"] == ["dog", "cat"]
    model.metadata_props[0].value = "__import__('os').getcwd()"
    assert inspect_model(saved(model, tmp_path))["labels"] == []


def test_inspecting_garbage_is_an_error_of_use(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x00" * 20)
    with pytest.raises(UsageError, match="not a valid ONNX file"):
        inspect_model(str(tmp_path / "m.onnx"))


def test_torch_can_be_found_again_after_simplifying() -> None:
    simplify.apply(rich())
    assert sys.modules.get("torch", "not loaded") is not None
