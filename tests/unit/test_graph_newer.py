"""Function operators of opsets after the canonical one are read as the bodies ONNX defines for them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgekit.core.model import CANONICAL_OPSET
from edgekit.errors import EdgekitError
from edgekit.graph import expand_newer
from edgekit.graph.canonical import finish, prepare

OPSET = 23
CASES = {
    "attention": ("Attention", [(1, 2, 3, 4)] * 3, {}),
    "causal attention": ("Attention", [(1, 2, 3, 4)] * 3, {"is_causal": 1}),
    "attention with a mask": ("Attention", [(1, 2, 3, 4)] * 3 + [(3, 3)], {"scale": 0.3}),
    "attention with inputs left out": (
        "Attention",
        [(1, 2, 3, 4)] * 3 + [None] + [(1, 2, 5, 4)] * 2,
        {"is_causal": 1},
    ),
    "grouped queries": ("Attention", [(1, 4, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)], {}),
    "attention of three dimensions": ("Attention", [(1, 3, 8)] * 3, {"q_num_heads": 2, "kv_num_heads": 2}),
    "rms normalization": ("RMSNormalization", [(2, 3, 8), (8,)], {}),
    "rotary embedding": ("RotaryEmbedding", [(1, 2, 3, 8), (1, 3, 4), (1, 3, 4)], {}),
    "rotary embedding of a part": (
        "RotaryEmbedding",
        [(1, 2, 3, 8), (1, 3, 2), (1, 3, 2)],
        {"rotary_embedding_dim": 4},
    ),
}


def model_of(op, shapes, attributes):
    names = ["" if shape is None else f"x{i}" for i, shape in enumerate(shapes)]
    node = helper.make_node(op, names, ["y"], name="node", **attributes)
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in zip(names, shapes, strict=True)
        if n
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "test", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def canonical(model, folder):
    prepared, _ = prepare(model, {})
    onnx.save(prepared, folder / "prepared.onnx")
    finish(str(folder / "prepared.onnx"), str(folder / "canonical.onnx"), False)
    return onnx.load(folder / "canonical.onnx")


@pytest.mark.parametrize("case", CASES)
def test_a_newer_function_operator_means_the_same_in_the_canonical_opset(case, tmp_path):
    model = model_of(*CASES[case])
    random = np.random.default_rng(5)
    feeds = {
        v.name: random.standard_normal([d.dim_value for d in v.type.tensor_type.shape.dim]).astype(np.float32)
        for v in model.graph.input
    }
    made = canonical(model, tmp_path)
    assert made.opset_import[0].version == CANONICAL_OPSET
    (expected,), (got,) = (ReferenceEvaluator(m).run(None, feeds) for m in (model, made))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_body_that_the_file_itself_spells_out_is_read_like_the_operator(tmp_path):
    model = onnx.shape_inference.infer_shapes(model_of("Attention", [(1, 2, 3, 4)] * 3, {"is_causal": 1}))
    written = onnx.inliner.inline_selected_functions(model, [("", "Attention")], inline_schema_functions=True)
    values = np.random.default_rng(5).standard_normal((3, 1, 2, 3, 4)).astype(np.float32)
    feeds = dict(zip([v.name for v in model.graph.input], values, strict=True))
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    (got,) = ReferenceEvaluator(canonical(written, tmp_path)).run(None, feeds)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_attributes_that_are_left_out_have_their_defaults_in_the_body(tmp_path):
    model = model_of("MeanVarianceNormalization", [(2, 3, 4, 5)], {"axes": [0, 2, 3]})
    del model.graph.node[0].attribute[:]
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype(np.float32)
    made = canonical(model, tmp_path)
    (got,) = ReferenceEvaluator(made).run(None, {"x0": x})
    expected = (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_operators_that_the_canonical_opset_has_stay_whole():
    model = model_of("Gelu", [(2, 3)], {})
    result = expand_newer.apply(model)
    assert not result.modified
    assert [n.op_type for n in result.model.graph.node] == ["Gelu"]


def test_what_has_no_body_is_named_by_the_conversion():
    model = model_of("Attention", [(1, 2, 3, 4)] * 3, {})
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    with pytest.raises(EdgekitError):
        prepare(model, {})
