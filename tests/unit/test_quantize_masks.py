"""Attention masks stay in float32; a softmax without one does not."""

from __future__ import annotations

import numpy as np
import pytest
from graph_models import needed

from edgekit.quantize.graph_index import index_graph
from edgekit.quantize.masks import masks

onnx = needed("onnx")


def attention(mark: float, way: str) -> object:
    """Scores (1, 4), masked by adding `mark`, by choosing it, or not at all, and their softmax."""
    make = onnx.helper.make_node
    value = onnx.helper.make_tensor_value_info
    nodes = [make("MatMul", ["x", "w"], ["scores"], name="scores")]
    if way == "add":
        nodes += [
            make("Mul", ["mask", "mark"], ["marks"], name="marks"),
            make("Add", ["scores", "marks"], ["masked"], name="masked"),
        ]
    elif way == "where":
        nodes += [
            make("Cast", ["mask"], ["hidden"], name="hidden", to=onnx.TensorProto.BOOL),
            make("Where", ["hidden", "mark", "scores"], ["masked"], name="masked"),
        ]
    else:
        nodes += [make("Add", ["scores", "mask"], ["masked"], name="masked")]
    nodes += [
        make("Softmax", ["masked"], ["weights"], name="softmax"),
        make("MatMul", ["weights", "w"], ["y"], name="after"),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"),
        onnx.numpy_helper.from_array(np.array(mark, np.float32), "mark"),
    ]
    tensors = [value(name, onnx.TensorProto.FLOAT, [1, 4]) for name in ("x", "mask")]
    graph = onnx.helper.make_graph(nodes, "g", tensors, [value("y", onnx.TensorProto.FLOAT, [1, 4])], weights)
    return onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph))


@pytest.mark.parametrize("mark", [float(np.finfo(np.float32).min), -10000.0])
def test_what_joins_a_mask_to_scores_stays_in_float_and_the_products_do_not(mark):
    assert masks(index_graph(attention(mark, "add"))) == {"marks", "masked", "softmax"}
    assert masks(index_graph(attention(mark, "where"))) == {"masked", "softmax"}


def test_a_softmax_whose_scores_are_not_marked_is_left_alone():
    assert masks(index_graph(attention(-4.0, "add"))) == set()
    assert masks(index_graph(attention(-10000.0, "none"))) == set()
