"""Which tensor of another maker's file is which of the source: by name, never by guessing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.core.beside import Beside
from edgekit.errors import UsageError
from edgekit.pipeline.beside import pair_ports, typed
from edgekit.runtime.manifest import TensorIO


def ours(name: str, *shape: int, dtype: str = "float32") -> TensorIO:
    return TensorIO(name=name, engine_name=name, dtype=dtype, shape=shape)


def theirs(name: str, *shape: int | str, dtype: str = "float32", scale: float = 0.0) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape), "scale": scale, "zero_point": 0}


def paired(inputs: list[Any], outputs: list[Any], facts: tuple[list[Any], list[Any]], **ports: str) -> Any:
    beside = Beside(path="v.tflite", ports=ports)
    return pair_ports(beside, {"inputs": facts[0], "outputs": facts[1]}, inputs, outputs)


ONE = [ours("x", 1, 4)], [theirs("x", 1, 4)]


def test_outputs_of_one_shape_are_paired_by_name_in_any_order():
    found = [theirs("right", 1, 3), theirs("left", 1, 3)]
    _, outputs = paired(ONE[0], [ours("left", 1, 3), ours("right", 1, 3)], (ONE[1], found))
    assert [(o.name, o.engine_name) for o in outputs] == [("left", "left"), ("right", "right")]


def test_other_names_are_an_error_until_somebody_says_which_is_which():
    mine = [ours("left", 1, 3), ours("right", 1, 3)]
    found = [theirs("Identity", 1, 3), theirs("Identity_1", 1, 3)]
    with pytest.raises(UsageError, match=r"without a partner: left .*, right .*Identity_1"):
        paired(ONE[0], mine, (ONE[1], found))
    _, outputs = paired(ONE[0], mine, (ONE[1], found), left="Identity_1")
    assert {o.name: o.engine_name for o in outputs} == {"left": "Identity_1", "right": "Identity"}


@pytest.mark.parametrize(
    ("mine", "found", "axes"),
    [
        ((1, 3, 8, 6), (1, 8, 6, 3), (0, 2, 3, 1)),
        ((1, 8, 6, 3), (1, 3, 8, 6), (0, 3, 1, 2)),
        ((1, 3, 8, 6), (1, 3, 8, 6), ()),
        ((1, 8, 8, 3), ("", 8, 8, 3), ()),
        ((1, 5, 1, 1), (1, 1, 1, 5), (0, 2, 3, 1)),
        ((1, 6, 20), (1, 20, 6), (0, 2, 1)),
    ],
)
def test_the_order_of_axes_is_read_from_the_shapes(mine, found, axes):
    [port], _ = paired([ours("x", *mine)], [ours("y", 1)], ([theirs("x", *found)], [theirs("y", 1)]))
    assert port.axes == axes
    assert port.shape == tuple(mine[i] for i in axes or range(len(mine)))


def test_axes_of_equal_size_are_refused_until_their_order_is_said():
    sides = [ours("x", 1, 8, 8, 8)], [ours("y", 1)], ([theirs("v@1", 1, 8, 8, 8)], [theirs("y", 1)])
    with pytest.raises(UsageError, match="cannot be told apart"):
        paired(*sides)
    [port], _ = paired(*sides, x="v@1@0,2,3,1")
    assert (port.engine_name, port.axes) == ("v@1", (0, 2, 3, 1))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([theirs("x", 1, 5)], "no order of axes"),
        ([theirs("x", 1, 4, dtype="int8")], "the one is float32, the other int8"),
        ([theirs("x", 1, 4), theirs("mask", 1, 4)], "of the file: mask"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(found, words):
    with pytest.raises(UsageError, match=words):
        paired(ONE[0], [ours("y", 1)], (found, [theirs("y", 1)]))


def test_integers_are_narrowed_where_they_fit_and_quantized_ports_keep_their_scale():
    mine = [ours("ids", 1, 4, dtype="int64"), ours("x", 1, 4)]
    found = [theirs("ids", 1, 4, dtype="int32"), theirs("x", 1, 4, dtype="uint8", scale=0.5)]
    inputs, _ = paired(mine, [ours("y", 1)], (found, [theirs("y", 1)]))
    assert [(p.dtype, p.scale) for p in inputs] == [("int32", 0.0), ("uint8", 0.5)]
    given = {"ids": np.array([[1, 2, 3, -4]]), "x": np.zeros((1, 4), np.float32)}
    assert {n: a.dtype.name for n, a in typed(given, inputs).items()} == {"ids": "int32", "x": "float32"}
    assert typed({"ids": np.array([2**40])}, inputs)["ids"].dtype == np.int64
