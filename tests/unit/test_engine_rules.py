"""What OpenVINO and ONNX Runtime answer wrongly is refused by name, and nothing beside it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tflite_models import graph

from edgekit.backends import lower_file, onnxruntime, openvino_rules
from edgekit.backends.onnx_rules import broken_rules
from edgekit.core.codec import encode
from edgekit.core.target import load_target
from edgekit.runtime import Session

F = np.float32


def one(op, *inputs, constants=None, outputs=1, **attributes):
    """The GraphProto of one node; "d" is a double."""
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, list(inputs), names, name="node", **attributes)
    info = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    given = [n for n in inputs if n and n not in (constants or {})]
    kinds = {"d": TensorProto.DOUBLE}
    return helper.make_graph(
        [node],
        "test",
        [info(n, kinds.get(n, TensorProto.FLOAT), None) for n in given],
        [info(n, TensorProto.FLOAT, None) for n in names],
        tensors,
    )


def branch(inner):
    """An If around the graph."""
    done = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "else", [], inner.output[:])
    then = helper.make_graph(list(inner.node), "then", [], inner.output[:], list(inner.initializer))
    node = helper.make_node("If", ["go"], ["y"], name="if", then_branch=then, else_branch=done)
    return helper.make_graph([node], "outer", [], [])


K = {"k": np.int64([2])}
LARGE = {"c": F([1, -np.inf])}
OPENVINO = {
    "recurrence by batches": (one("LSTM", "x", "w", "r", layout=1), one("LSTM", "x", "w", "r", layout=0)),
    "peepholes": (one("LSTM", "x", "w", "r", "", "", "", "", "p"), one("LSTM", "x", "w", "r", "b")),
    "antialias": (one("Resize", "x", "", "s", antialias=1), one("Resize", "x", "", "s")),
    "border weights": (one("Resize", "x", "", "s", exclude_outside=1), one("Resize", "x", "", "s")),
    "kept ratio": (
        one("Resize", "x", "", "", "s", keep_aspect_ratio_policy="not_larger"),
        one("Resize", "x", "", "", "s", keep_aspect_ratio_policy="stretch"),
    ),
    "largest of a region": (one("RoiAlign", "x", "b", "i", mode="max"), one("RoiAlign", "x", "b", "i")),
    "cast from double": (one("Cast", "d", to=1), one("Cast", "x", to=1)),
    "cast to double": (one("Cast", "x", to=11), one("Cast", "x", to=7)),
    "sum of doubles": (one("Add", "d", "d"), one("Add", "x", "x")),
    "infinities": (one("ReduceMax", "c", constants=LARGE), one("ReduceMax", "x")),
    "axis of a transform": (one("DFT", "x", "", "a"), one("DFT", "x")),
    "computed repeats": (one("Tile", "x", "r"), one("Tile", "x", "r", constants={"r": np.int64([2])})),
    "indices in a branch": (
        branch(one("TopK", "x", "k", outputs=2, constants=K)),
        one("TopK", "x", "k", outputs=2, constants=K),
    ),
    "suppression": (one("NonMaxSuppression", "x", "s"), one("Relu", "x")),
}
ONNXRUNTIME = {
    "zero points of weights": (one("ConvInteger", "x", "w", "a", "b"), one("ConvInteger", "x", "w", "a")),
    "declared size": (one("MaxUnpool", "x", "i", "s"), one("MaxUnpool", "x", "i")),
}


@pytest.mark.parametrize("case", OPENVINO)
def test_a_rule_of_openvino_refuses_the_construct_and_its_neighbour_passes(case):
    wrong, right = OPENVINO[case]
    (reason,) = broken_rules(wrong, openvino_rules.RULES, engine="OpenVINO")
    assert reason.node
    assert reason.why.startswith("OpenVINO: ")
    assert broken_rules(right, openvino_rules.RULES, engine="OpenVINO") == []


@pytest.mark.parametrize("case", ONNXRUNTIME)
def test_a_rule_of_onnx_runtime_refuses_the_construct_and_its_neighbour_passes(case):
    wrong, right = ONNXRUNTIME[case]
    assert len(broken_rules(wrong, onnxruntime.RULES, engine="ONNX Runtime")) == 1
    assert broken_rules(right, onnxruntime.RULES, engine="ONNX Runtime") == []


def test_every_rule_has_a_case():
    for rules, cases in ((openvino_rules.RULES, OPENVINO), (onnxruntime.RULES, ONNXRUNTIME)):
        seen = {r.why for wrong, _ in cases.values() for r in broken_rules(wrong, rules, engine="E")}
        kinds = {"GRU": "LSTM", "RNN": "LSTM", "ReduceMin": "ReduceMax"}  # rules of the same condition
        wanted = {f"E: {rule.seen}" for rule in rules if rule.op not in kinds}
        assert wanted <= seen


@pytest.mark.parametrize("largest", [1, 0])
@pytest.mark.parametrize(("axis", "k"), [(-1, 1), (-1, 12), (0, 3)])
def test_openvino_gives_the_lowest_index_of_equal_values(axis, k, largest, tmp_path, need):
    need("openvino")
    node = helper.make_node("TopK", ["x", "k"], ["v", "i"], name="node", axis=axis, largest=largest)
    model = graph([node], {"x": (4, 20)}, ["v", "i"], {"k": np.int64([k])})
    onnx.save(model, tmp_path / "source.onnx")
    lower_file(
        model=str(tmp_path / "source.onnx"),
        target=encode(load_target("openvino")),
        precision="float32",
        out=str(tmp_path),
        source_digest="0" * 64,
    )
    x = np.random.default_rng(0).integers(0, 3, (4, 20)).astype(F)
    with Session(tmp_path) as session:
        found = session.run({"x": x})
    order = np.argsort(-x if largest else x, axis=axis, kind="stable")
    expected = np.take(order, np.arange(k), axis=axis)
    np.testing.assert_array_equal(found["i"], expected)
    np.testing.assert_array_equal(found["v"], np.take_along_axis(x, expected, axis))


@pytest.mark.parametrize(("dtype", "noted"), [("float64", True), ("float32", False)])
def test_openvino_says_where_it_computes_less_exactly_than_the_graph(dtype, noted, tmp_path, need):
    """A product in float64 is off by more than float64 would be, and the manifest says so."""
    need("openvino")
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(dtype)
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
                  {"x": ((2, 8), dtype)}, ["y"], {"w": weight})  # fmt: skip
    onnx.save(model, tmp_path / "model.onnx")
    target = load_target("openvino")
    lower_file(
        model=str(tmp_path / "model.onnx"), target=encode(target), precision="float32",
        out=str(tmp_path), source_digest="0" * 64,
    )  # fmt: skip
    x = np.random.default_rng(1).standard_normal((2, 8)).astype(dtype)
    with Session(tmp_path) as session:
        got = session.run({"x": x})["y"]
        assert got.dtype == dtype
        assert any("float64 is computed in float32" in note for note in session.manifest.notes) == noted
    error = np.abs(got - x.astype("f8") @ weight.astype("f8")).max()
    assert 1e-9 < error < 1e-5
