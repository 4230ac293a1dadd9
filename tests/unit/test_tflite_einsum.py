"""Products: Einsum by its equation, MatMul of every rank, Gemm with every bias; what is folded into them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from tflite_models import (
    Qdq,
    feeds,
    graph,
    invoke,
    lowered,
    reference,
    relative_error,
    single,
    steps_apart,
)

from edgekit.backends.tflite import why_not
from edgekit.core.target import load_target

TOLERANCE = 1e-5
RANDOM = np.random.default_rng(13)


def values(*shape):
    return (RANDOM.standard_normal(shape) * 0.5).astype(np.float32)


def einsum(equation, *operands):
    return single("Einsum", *operands, equation=equation)


EQUATIONS = {
    "transpose": einsum("ij->ji", (3, 4)),
    "sum": einsum("ij->", (3, 4)),
    "sum of rows": einsum("ij->i", (3, 4)),
    "implicit": einsum("ba", (3, 4)),
    "product": einsum("ij,jk->ik", (3, 4), (4, 5)),
    "product with constant": einsum("bij,jk->bik", (2, 3, 4), values(4, 5)),
    "batched product": einsum("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    "attention scores": einsum("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
    "attention heads apart": einsum("bqhd,bkhd->bhqk", (2, 3, 2, 4), (2, 5, 2, 4)),
    "outer": einsum("i,j->ij", (3,), (4,)),
    "inner": einsum("i,i->", (3,), (3,)),
    "elementwise": einsum("ij,ij->ij", (3, 4), (3, 4)),
    "two inner axes": einsum("aij,ijk->ka", (2, 3, 4), (3, 4, 5)),
    "summed operands": einsum("ij,kl->ik", (3, 4), (2, 5)),
    "ellipsis": einsum("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)),
    "ellipsis of two ranks": einsum("...ij,jk", (2, 2, 3, 4), (4, 5)),
    "three operands": einsum("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    "vector per batch": einsum("bi,bi->b", (3, 4), (3, 4)),
}
PRODUCTS = {
    "vector by vector": single("MatMul", (4,), (4,)),
    "vector by matrix": single("MatMul", (4,), (4, 5)),
    "matrix by vector": single("MatMul", (3, 4), (4,)),
    "vector by batch": single("MatMul", (4,), (2, 4, 5)),
    "batch by vector": single("MatMul", (2, 3, 4), (4,)),
    "batches broadcast": single("MatMul", (2, 1, 3, 4), (5, 4, 2)),
    "six dimensions": single("MatMul", (1, 2, 1, 2, 3, 4), (2, 1, 3, 1, 4, 2)),
    "constant batch": single("MatMul", (2, 3, 4), values(2, 4, 5)),
    "constant matrix of three dimensions": single("MatMul", (2, 3, 4), values(1, 4, 5)),
    "constant vector on the left": single("MatMul", values(4), (4, 5)),
    "gemm of scalars": single("Gemm", (2, 7), values(7, 5), np.float32(0.3), alpha=0.5, beta=2.0),
    "gemm with a column": single("Gemm", (2, 7), values(7, 5), values(2, 1), beta=0.5),
    "gemm with a computed bias": single("Gemm", (2, 7), values(7, 5), (5,), beta=0.5),
    "gemm of inputs": single("Gemm", (7, 2), (5, 7), (2, 5), transA=1, transB=1, alpha=0.3, beta=0.7),
}


def compare(model, folder):
    given = feeds(model)
    ran, expected = invoke(lowered(model, folder), given), reference(model, given)
    for name, wanted in expected.items():
        assert relative_error(ran.outputs[name], wanted) <= TOLERANCE, name
    return ran


@pytest.mark.parametrize("case", EQUATIONS)
def test_an_equation_answers_like_onnx_runtime(case, tmp_path, need):
    need("ai_edge_litert")
    compare(EQUATIONS[case], tmp_path)


@pytest.mark.parametrize("case", PRODUCTS)
def test_a_product_of_any_rank_answers_like_onnx_runtime(case, tmp_path, need):
    need("ai_edge_litert")
    compare(PRODUCTS[case], tmp_path)


@pytest.mark.parametrize(
    ("equation", "operands", "words"),
    [("ii->i", [(3, 3)], "diagonal"), ("ij,ij->ij", [(1, 4), (3, 4)], "dimension of 1")],
)
def test_an_equation_that_is_no_product_is_refused_by_name(equation, operands, words, tmp_path):
    names = [f"x{i}" for i in range(len(operands))]
    node = helper.make_node("Einsum", names, ["y"], name="node", equation=equation)
    infos = [helper.make_tensor_value_info(n, 1, s) for n, s in zip(names, operands, strict=True)]
    made = helper.make_graph(
        [node], "g", infos, [helper.make_tensor_value_info("y", 1, [3, 4][: len(equation.split("->")[1])])]
    )
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "m.onnx",
    )
    (reason,) = why_not(tmp_path / "m.onnx", load_target("tflite"), "float32")
    assert words in reason.why


def with_bias(bias, *, shape=(2, 3, 7), relu=False, swap=False):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["b", "p"] if swap else ["p", "b"], ["a" if relu else "y"]),
    ]
    if relu:
        nodes.append(helper.make_node("Relu", ["a"], ["y"]))
    return graph(nodes, {"x": shape}, ["y"], {"w": values(7, 5), "b": bias})


BIASES = {
    "row": with_bias(values(5)),
    "row in front": with_bias(values(5), swap=True),
    "row of three dimensions": with_bias(values(1, 1, 5), relu=True),
    "one number": with_bias(np.float32(0.3)),
}


@pytest.mark.parametrize("case", BIASES)
def test_a_row_added_to_a_product_is_its_bias(case, tmp_path, need):
    need("ai_edge_litert")
    ran = compare(BIASES[case], tmp_path)
    assert (ran.count("FULLY_CONNECTED"), ran.count("ADD"), ran.count("RELU")) == (1, 0, 0)


@pytest.mark.parametrize("bias", [values(3, 5), values(2, 1, 5), values(4, 1, 1, 5)])
def test_what_is_no_row_is_added_behind_the_product(bias, tmp_path, need):
    need("ai_edge_litert")
    assert compare(with_bias(bias), tmp_path).count("ADD") == 1


def integer_product(bias, *, transposed=False, out=0.2):
    """x -> MatMul with int8 weights -> Add of a bias -> quantizer; `transposed`: as training exports it."""
    b = Qdq()
    x = b.input("x", (2, 3, 24))
    if transposed:
        b.weight("v", (5, 24), axis=0)
        w = b.add("Transpose", ["v"], "w", perm=[1, 0])
        b.constants["w.s"] = b.constants["v.s"]
    else:
        w = b.weight("w", (24, 5), axis=1)
    y = b.add("MatMul", [x, w], "p")
    if bias == "float":
        b.constants["b"] = values(5)
    elif bias == "int8":
        b.code("b", np.int8([3, -9, 100, 7, 0]), 0.01)
    elif bias == "int32":
        b.bias("b", "w")
    elif bias == "another scale":
        b.bias("b", "w", x_scale=0.06)
    y = b.add("Add", [y, "b"], "y") if bias else y
    return b.build(b.quantized(y, out, -3)), out


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", ["float", "int8", "int32", ""])
def test_bias_and_transposed_codes_go_into_the_integer_product(bias, transposed, tmp_path, need):
    need("ai_edge_litert")
    model, scale = integer_product(bias, transposed=transposed)
    given = feeds(model, scale=2.0)
    ran, expected = invoke(lowered(model, tmp_path, "int8"), given), reference(model, given)
    assert ran.dtypes_of("FULLY_CONNECTED") == {"int8"}
    assert (ran.count("ADD"), ran.count("TRANSPOSE"), ran.count("DEQUANTIZE")) == (0, 0, 1)
    for name, wanted in expected.items():
        assert steps_apart(ran.outputs[name], wanted, scale).max() <= 1


def test_a_bias_at_another_scale_stays_an_addition(tmp_path, need):
    need("ai_edge_litert")
    model, scale = integer_product("another scale")
    given = feeds(model, scale=2.0)
    ran, expected = invoke(lowered(model, tmp_path, "int8"), given), reference(model, given)
    assert ran.count("ADD") == 1
    assert steps_apart(ran.outputs["y.dq"], expected["y.dq"], scale).max() <= 1


def test_transposed_codes_of_a_gemm_are_stored_as_the_kernel_reads_them(tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    x = b.input("x", (3, 24))
    b.weight("v", (24, 5), axis=1)
    w = b.add("Transpose", ["v"], "w", perm=[1, 0])
    model = b.build(b.quantized(b.add("Gemm", [x, w], "y", transB=1), 0.2))
    given = feeds(model, scale=2.0)
    ran, expected = invoke(lowered(model, tmp_path, "int8"), given), reference(model, given)
    assert ran.dtypes_of("FULLY_CONNECTED") == {"int8"}
    assert steps_apart(ran.outputs["y.dq"], expected["y.dq"], 0.2).max() <= 1
