"""Loops that turn a known number of times are written out; the others stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_models import answers, graph, needed, operators

from edgekit.graph import unroll_loops
from edgekit.graph.canonical import finish

onnx = needed("onnx")
needed("onnxruntime")
make, tensor = onnx.helper.make_node, onnx.TensorProto
F, X = np.float32, {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


def loop(*, trips: int | None = None, until: int | None = None, cond: Sequence[Any] = (), **more: Any) -> Any:
    """y = x; then each turn y = y * k + turn, with what it gives stacked in `all`; k from outside.

    `trips` is the constant trip count; with `until` a counter that starts at 0 and goes up by 2 ends it.
    """
    info = onnx.helper.make_tensor_value_info
    known = {"k": np.float32(0.5), "two": np.int64(2), "end": np.int64(until or 0), "yes": np.bool_(True)}
    known |= {} if trips is None else {"trips": np.int64(trips)}
    counted = make("Less", ["count_out", "end"], ["go"]) if until else make("Identity", ["go_in"], ["go"])
    nodes = [
        make("Mul", ["y_in", "k"], ["scaled"]),
        make("Cast", ["turn"], ["now"], to=tensor.FLOAT),
        make("Add", ["scaled", "now"], ["y_out"]),
        make("Add", ["count_in", "two"], ["count_out"]),
        *(cond or [counted]),
    ]
    body = onnx.helper.make_graph(
        nodes,
        "body",
        [info("turn", tensor.INT64, []), info("go_in", tensor.BOOL, []), info("y_in", tensor.FLOAT, [2, 3]),
         info("count_in", tensor.INT64, [])],
        [info("go", tensor.BOOL, []), info("y_out", tensor.FLOAT, [2, 3]),
         info("count_out", tensor.INT64, []), info("scaled", tensor.FLOAT, [2, 3])],
    )  # fmt: skip
    known["start"] = np.int64(0)
    node = make(
        "Loop", ["" if trips is None else "trips", "yes", "x", "start"], ["y", "count", "all"], body=body
    )
    turns = more.get("turns", trips)
    weights = {name: np.asarray(value) for name, value in known.items()}
    return graph([node], {"x": (F, [2, 3])}, {"y": (F, [2, 3]), "all": (F, [turns, 2, 3])}, weights)


@pytest.mark.parametrize(
    ("options", "turns"),
    [({"trips": 4}, 4), ({"until": 7, "turns": 4}, 4), ({"trips": 9, "until": 5, "turns": 3}, 3)],
)
def test_a_loop_of_known_turns_is_written_out(options, turns):
    before = loop(**options)
    expected = answers(before, X)
    assert expected["all"].shape == (turns, 2, 3)
    result = unroll_loops.apply(onnx.ModelProto.FromString(before.SerializeToString()))
    assert result.modified
    onnx.checker.check_model(result.model, full_check=True)
    assert "Loop" not in operators(result.model)
    got = answers(result.model, X)
    for name in ("y", "all"):
        np.testing.assert_array_equal(got[name], expected[name])


def test_the_canonical_graph_has_fixed_shapes_where_a_loop_was(tmp_path: Path) -> None:
    model = loop(until=7, turns=4)
    onnx.save(model, tmp_path / "in.onnx")
    finish(str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), False)
    after = onnx.load(tmp_path / "out.onnx")
    assert set(operators(after)) <= {"Mul", "Add", "Unsqueeze", "Concat"}
    np.testing.assert_array_equal(answers(after, X)["all"], answers(model, X)["all"])


def test_what_only_the_data_or_too_many_turns_decide_stays():
    decided = [
        make("ReduceSum", ["y_out"], ["sum"], keepdims=0),
        make("Cast", ["sum"], ["sum_int"], to=tensor.INT64),
        make("Less", ["sum_int", "end"], ["go"]),
    ]
    for model in (loop(trips=9, cond=decided), loop(trips=257), loop(trips=0), loop()):
        assert not unroll_loops.apply(model).modified
        assert "Loop" in operators(model)
