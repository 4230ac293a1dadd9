"""ONNX files without their large tensors in memory: what is read is what was written, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.core import large_tensors
from edgekit.core.large_tensors import (
    LARGE_BYTES,
    fill,
    is_hollow,
    load_hollow,
    save_hollow,
    set_aside,
    values_aside,
    without_hollow,
)
from edgekit.graph import canonical, dead_code, fold_constants, infer_shapes, simplify

SIDE = 256  # of a weight of SIDE * SIDE float32: four times LARGE_BYTES


def network() -> onnx.ModelProto:
    """x -> MatMul(a) -> MatMul(transposed b) -> Add(c): a and b are large."""
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal((SIDE, SIDE)).astype(np.float32) for n in "ba"}
    weights["c"] = np.ones(SIDE, np.float32)
    made = [helper.make_node("Transpose", ["b"], ["b_t"], perm=[1, 0], doc_string="made here")]
    made += [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b_t"], ["g"])]
    made.append(helper.make_node("Add", ["g", "c"], ["y"]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, SIDE]) for n in "xy"]
    tensors = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    graph = helper.make_graph(made, "g", ends[:1], ends[1:], initializer=tensors, doc_string="a graph")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The network as a file."""
    onnx.save(network(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_what_is_loaded_hollow_and_saved_has_the_bytes_it_had(file: Path, tmp_path: Path) -> None:
    model = load_hollow(file, onnx.ModelProto())
    assert [t.name for t in model.graph.initializer if is_hollow(t)] == ["b", "a"]
    assert len(model.SerializeToString()) < LARGE_BYTES
    save_hollow(model, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == network().SerializeToString(deterministic=True)


def test_values_are_those_of_the_file(file: Path) -> None:
    tensor = load_hollow(file, onnx.ModelProto()).graph.initializer[1]
    expected = numpy_helper.to_array(network().graph.initializer[1])
    np.testing.assert_array_equal(values_aside(tensor), expected)
    fill(tensor)
    assert tensor == network().graph.initializer[1]


def test_a_file_that_is_cut_off_is_refused_by_the_parser(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(Exception, match="parsing message"):
        load_hollow(file, onnx.ModelProto())


def test_a_tensor_whose_data_does_not_fill_its_shape_stays_for_the_checker(tmp_path: Path) -> None:
    model = network()
    model.graph.initializer[0].dims[0] = SIDE + 1
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(onnx.checker.ValidationError, match="too small"):
        onnx.checker.check_model(load_hollow(tmp_path / "m.onnx", onnx.ModelProto()))


def test_a_tool_that_knows_files_alone_sees_inputs_and_the_weights_come_back(file: Path) -> None:
    seen: list[str] = []

    def tool(model: onnx.ModelProto) -> onnx.ModelProto:
        onnx.checker.check_model(model, full_check=True)
        seen.extend(value.name for value in model.graph.input)
        return model

    model = without_hollow(load_hollow(file, onnx.ModelProto()), tool)
    assert seen == ["x", "b", "a"]
    assert [value.name for value in model.graph.input] == ["x"]
    assert sorted(t.name for t in model.graph.initializer) == ["a", "b", "c"]


def test_what_is_folded_of_a_hollow_weight_can_be_set_aside(file: Path, tmp_path: Path) -> None:
    model = load_hollow(file, onnx.ModelProto())
    assert fold_constants.fold_hollow(model.graph)
    model = dead_code.apply(set_aside(model, tmp_path / "w")).model
    assert len(model.SerializeToString()) < LARGE_BYTES
    save_hollow(model, tmp_path / "folded.onnx")
    folded = onnx.load(tmp_path / "folded.onnx").graph
    transposed = next(t for t in folded.initializer if t.name == "b_t")
    np.testing.assert_array_equal(
        numpy_helper.to_array(transposed), numpy_helper.to_array(network().graph.initializer[0]).T
    )
    assert [node.op_type for node in folded.node] == ["MatMul", "MatMul", "Add"]


def test_a_first_state_by_a_hollow_weight_is_computed_and_the_weight_stays_in_the_file(file: Path) -> None:
    model = load_hollow(file, onnx.ModelProto())
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, SIDE), 0.5, np.float32), "state"))
    model.graph.node.insert(0, helper.make_node("MatMul", ["state", "a"], ["s"]))
    model.graph.node[-1].input[1] = "s"
    model = infer_shapes.apply(model).model
    assert fold_constants.fold_hollow(model.graph)
    assert is_hollow(next(t for t in model.graph.initializer if t.name == "a"))
    made = next(t for t in model.graph.initializer if t.name == "s")
    a = next(t for t in network().graph.initializer if t.name == "a")
    expected = np.full((1, SIDE), 0.5, np.float32) @ numpy_helper.to_array(a)
    np.testing.assert_allclose(numpy_helper.to_array(made), expected, rtol=1e-6)


def test_equal_weights_that_stay_in_the_file_are_stored_once(
    tmp_path: Path, need: Callable[[str], None]
) -> None:
    need("onnxsim")
    kernel = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", [a, w], [b], pads=[1] * 4) for a, w, b in ("xph", "hqy")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64, 4, 4]) for n in "xy"]
    tensors = [numpy_helper.from_array(kernel, n) for n in "pq"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializer=tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(made, tmp_path / "m.onnx")
    simplified = simplify.apply(load_hollow(tmp_path / "m.onnx", onnx.ModelProto())).model
    assert [t.name for t in simplified.graph.initializer] == ["p"]
    assert [node.input[1] for node in simplified.graph.node] == ["p", "p"]


def test_the_canonical_graph_does_not_depend_on_what_stayed_in_the_file(
    file: Path, tmp_path: Path, need: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parallel products and a bias, which onnxsim joins where it is given the weights."""
    need("onnxsim")
    model = network()
    model.graph.node.extend(helper.make_node("MatMul", ["y", "a"], [out]) for out in "qk")
    model.graph.node.append(helper.make_node("MatMul", ["y", "b"], ["v"]))
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, SIDE]) for n in "qkv")
    prepared, _ = canonical.prepare(model, {})
    canonical.save_model(prepared, file)
    for size in (LARGE_BYTES, 1 << 30):
        monkeypatch.setattr(large_tensors, "LARGE_BYTES", size)
        canonical.finish(str(file), str(tmp_path / str(size)), simplified=True)
    hollow, whole = (tmp_path / str(size) for size in (LARGE_BYTES, 1 << 30))
    assert hollow.read_bytes() == whole.read_bytes()
    assert [n.op_type for n in onnx.load(whole).graph.node] == ["MatMul", "Gemm", *["MatMul"] * 3]
