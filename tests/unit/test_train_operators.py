"""Each operator of a trainable graph: answers like ONNX Runtime, gradients like numerical ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graph_models import graph, normal
from trained_forms import agreement, derivative_error, same_weights

from edgekit.errors import Unsupported
from edgekit.train import trainable, write_back

F = np.float32
Case = tuple[str, dict[str, Any], tuple[int, ...], list[Any]]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def spread(*shape: int) -> np.ndarray:
    return np.abs(normal(*shape)) + np.float32(0.5)


CASES: list[Case] = [
    ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (1, 4, 8, 7), [normal(6, 4, 3, 3), normal(6)]),
    ("Conv", {"pads": [2, 1], "dilations": [2], "group": 2}, (1, 4, 9), [normal(6, 2, 3)]),
    ("Conv", {"pads": [1] * 6}, (1, 2, 4, 5, 6), [normal(3, 2, 3, 3, 3), normal(3)]),
    ("ConvTranspose", {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}, (1, 4, 5, 5),
     [normal(4, 3, 3, 3), normal(3)]),
    ("ConvTranspose", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (1, 4, 5, 5), [normal(4, 3, 3, 3)]),
    ("ConvTranspose", {"pads": [0, 1], "strides": [2]}, (1, 4, 6), [normal(4, 2, 3)]),
    ("MatMul", {}, (1, 5, 4), [normal(4, 6)]),
    ("MatMul", {}, (1, 2, 5, 4), [normal(2, 4, 6)]),
    ("Gemm", {"alpha": 0.5, "beta": 2.0}, (1, 4), [normal(4, 6), normal(6)]),
    ("Gemm", {"transB": 1}, (1, 4), [normal(6, 4), normal(1, 6)]),
    ("BatchNormalization", {"epsilon": 1e-3}, (1, 4, 6, 6), [normal(4), normal(4), normal(4), spread(4)]),
    ("BatchNormalization", {}, (1, 4, 6), [normal(4), normal(4), normal(4), spread(4)]),
    ("LayerNormalization", {"axis": -2}, (1, 3, 4), [normal(3, 4), normal(3, 4)]),
    ("LayerNormalization", {"epsilon": 1e-3}, (1, 3, 4), [normal(4)]),
    ("InstanceNormalization", {}, (1, 4, 5, 6), [normal(4), normal(4)]),
    ("LpNormalization", {"axis": 1}, (1, 4, 3), []),
    ("LRN", {"size": 3}, (1, 6, 4, 4), []),
    ("PRelu", {}, (1, 4, 3, 3), [normal(4, 1, 1)]),
    ("PRelu", {}, (1, 4, 3), [normal(4, 3)]),
    ("Selu", {}, (1, 8), []),
    ("Softplus", {}, (1, 8), []),
    ("HardSigmoid", {"alpha": 0.3}, (1, 8), []),
    ("HardSwish", {}, (1, 8), []),
    ("Gelu", {"approximate": "tanh"}, (1, 8), []),
    ("Celu", {"alpha": 0.7}, (1, 8), []),
    ("LogSoftmax", {"axis": 1}, (1, 4, 3), []),
    ("ThresholdedRelu", {"alpha": 0.2}, (1, 8), []),
    ("Clip", {}, (1, 8), [F(-0.5), F(0.7)]),
    ("Div", {}, (1, 4), [spread(4)]),
    ("Pow", {}, (1, 4), [F(2.0)]),
    ("Max", {}, (1, 4, 3), [normal(3)]),
    ("Mean", {}, (1, 4, 3), [normal(3), normal(4, 3)]),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, (1, 3, 8, 8), []),
    ("MaxPool", {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}, (1, 3, 8), []),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, (1, 3, 7, 8), []),
    ("AveragePool", {"kernel_shape": [2, 2], "pads": [1] * 4, "count_include_pad": 1}, (1, 3, 6, 6), []),
    ("AveragePool", {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}, (1, 3, 8), []),
    ("GlobalMaxPool", {}, (1, 3, 6, 6), []),
    ("LpPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, (1, 3, 6, 6), []),
    ("ReduceL2", {"keepdims": 0}, (1, 3, 4), [ints(2)]),
    ("ReduceMax", {}, (1, 3, 4), [ints(-1)]),
    ("ReduceProd", {}, (1, 3, 4), [ints(1, 2)]),
    ("ReduceLogSumExp", {}, (1, 3, 4), [ints(1)]),
    ("CumSum", {"exclusive": 1, "reverse": 1}, (1, 5), [ints(1)]),
    ("Pad", {"mode": "reflect"}, (1, 3, 5, 5), [ints(0, 0, 1, 2, 0, 0, 2, 1)]),
    ("Pad", {}, (1, 3, 4), [ints(0, 1, 0, 0, 0, 2), F(0.5)]),
    ("Slice", {}, (1, 6, 5), [ints(4, 0), ints(-7, 3), ints(1, 2), ints(-2, 1)]),
    ("Slice", {}, (1, 6, 5), [ints(5), ints(0), ints(1), ints(-1)]),
    ("Tile", {}, (1, 3), [ints(1, 2)]),
    ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, (1, 8, 3, 3), []),
    ("SpaceToDepth", {"blocksize": 2}, (1, 2, 4, 6), []),
    ("Gather", {"axis": 1}, (1, 5, 3), [np.array([[0, -1], [2, 2]])]),
    ("GatherElements", {"axis": 1}, (1, 3), [np.array([[2, -1]])]),
    ("Trilu", {"upper": 0}, (1, 4, 4), [np.array(0)]),
    ("Resize", {"mode": "linear"}, (1, 2, 4, 4), ["", np.array([1, 1, 2, 2], F)]),
    ("Resize", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, (1, 2, 4, 4),
     ["", "", ints(1, 2, 7, 6)]),
    ("Resize", {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, (1, 2, 4, 4),
     ["", np.array([1, 1, 2, 3], F)]),
    ("Einsum", {"equation": "bij,jk->bik"}, (1, 3, 4), [normal(4, 5)]),
    ("LSTM", {"hidden_size": 3, "direction": "bidirectional"}, (4, 1, 2),
     [normal(2, 12, 2), normal(2, 12, 3), normal(2, 24)]),
    ("LSTM", {"hidden_size": 3, "direction": "reverse"}, (4, 1, 2), [normal(1, 12, 2), normal(1, 12, 3)]),
    ("GRU", {"hidden_size": 3, "linear_before_reset": 1}, (4, 1, 2),
     [normal(1, 9, 2), normal(1, 9, 3), normal(1, 18), "", normal(1, 1, 3)]),
    ("RNN", {"hidden_size": 3, "activations": ["Relu"]}, (4, 1, 2), [normal(1, 3, 2), normal(1, 3, 3)]),
]  # fmt: skip


def single(case: Case, place: Path) -> Path:
    """A file of one node, its shapes inferred."""
    op, attributes, shape, operands = case
    names = ["x", *("" if isinstance(v, str) else f"w{i}" for i, v in enumerate(operands))]
    weights = {n: np.asarray(v) for n, v in zip(names[1:], operands, strict=True) if n}
    node = onnx.helper.make_node(op, names, ["y"], name="node", **attributes)
    model = graph([node], {"x": (F, shape)}, {"y": (F, [None] * 1)}, weights)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), place)
    return place


@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_an_operator_answers_and_its_gradients_are_right(case: Case, tmp_path: Path) -> None:
    path = single(case, tmp_path / "m.onnx")
    module = trainable(path)
    assert agreement(module, path, batch=1) < 3e-6
    assert derivative_error(path) < 1e-5
    assert same_weights(path, write_back(module, path, tmp_path / "back.onnx"))


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (("GRU", {"hidden_size": 3}, (4, 1, 2), [normal(1, 9, 2), normal(1, 9, 3)]), "linear_before_reset"),
        (("LSTM", {"hidden_size": 3, "clip": 1.0}, (4, 1, 2), [normal(1, 12, 2), normal(1, 12, 3)]), "clip"),
        (("LSTM", {"hidden_size": 2}, (4, 1, 2),
          [normal(1, 8, 2), normal(1, 8, 2), "", "", "", "", normal(1, 6)]), "peepholes"),
        (("Resize", {"mode": "cubic"}, (1, 2, 4, 4), ["", np.array([1, 1, 2, 2], F)]), "cubic"),
    ],
)  # fmt: skip
def test_what_pytorch_computes_otherwise_is_refused_by_name(case: Case, why: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        trainable(single(case, tmp_path / "m.onnx"))
    [reason] = caught.value.reasons
    assert why in reason.why
    assert reason.node == f"node ({case[0]})"


def test_any_default_type_gives_float32_weights(tmp_path: Path) -> None:
    path = single(CASES[0], tmp_path / "m.onnx")
    torch.set_default_dtype(torch.float64)
    try:
        module = trainable(path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
