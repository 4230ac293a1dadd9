"""Networks of half and double floats: LiteRT computes in float32, says so, and keeps the ports unchanged."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tflite_models import graph, invoke, lowered, reference

from edgekit.errors import Unsupported
from edgekit.runtime import Session

RANDOM = np.random.default_rng(4)
IMAGE = (1, 3, 8, 8)


def halves(*shape):
    return RANDOM.standard_normal(shape).astype(np.float16)


def network():
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="c", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="r"),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], name="m", keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["y"], name="y"),
    ]
    constants = {"w": halves(32, 3, 3, 3), "b": halves(32), "axes": np.int64([2, 3]), "v": halves(32, 100)}
    return graph(nodes, {"x": (IMAGE, "float16")}, ["y"], constants)


def test_a_half_precision_network_keeps_its_ports_and_is_at_least_as_exact(tmp_path):
    model, values = network(), {"x": halves(*IMAGE)}
    ran, expected = invoke(lowered(model, tmp_path), values), reference(model, values)["y"]
    got = ran.outputs["y"]
    assert got.dtype == expected.dtype == np.float16
    assert np.abs(got.astype(np.float32) - expected).max() <= 2e-3 * np.abs(expected).max()
    assert [(io.name, io.dtype) for io in ran.artifact.manifest.inputs] == [("x", "float16")]
    assert ran.count("CAST") == 2
    assert "float16 is computed in float32" in ran.artifact.manifest.notes[0]


def test_a_cast_to_half_still_rounds_and_overflows(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], name="h", to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["h"], ["y"], name="y", to=TensorProto.FLOAT),
    ]
    x = np.float32([0.1, 1 / 3, 65504, 70000, -1e6, 1e-8])
    ran = invoke(lowered(graph(nodes, {"x": (6,)}, ["y"], {}), tmp_path), {"x": x})
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(ran.outputs["y"], x.astype(np.float16).astype(np.float32))


def test_doubles_between_operators_are_computed_in_float32_and_the_manifest_says_so(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], name="d", to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["d", "third"], ["t"], name="t"),
        helper.make_node("Cast", ["t"], ["y"], name="y", to=TensorProto.FLOAT),
    ]
    model = graph(nodes, {"x": (2, 5)}, ["y"], {"third": np.float64(1 / 3)})
    values = {"x": RANDOM.standard_normal((2, 5)).astype(np.float32)}
    ran = invoke(lowered(model, tmp_path), values)
    np.testing.assert_allclose(ran.outputs["y"], reference(model, values)["y"], rtol=2e-7)
    assert "relative error of 6e-8" in ran.artifact.manifest.notes[0]


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_ports_that_would_lose_digits_or_that_numpy_lacks_are_refused(kind, tmp_path):
    ports = [helper.make_tensor_value_info(name, kind, [2]) for name in "xy"]
    node = helper.make_node("Sqrt", ["x"], ["y"], name="node")
    made = helper.make_graph([node], "test", ports[:1], ports[1:])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(Unsupported) as caught:
        lowered(model, tmp_path)
    assert "the input 'x' is" in caught.value.reasons[0].why


def test_a_branch_of_halves_is_widened_too(tmp_path):
    def branch(op):
        out = helper.make_tensor_value_info(f"{op}y", TensorProto.FLOAT16, [4])
        constant = numpy_helper.from_array(np.float16([1, 2, 3, 4]), f"{op}c")
        node = helper.make_node(op, ["x", f"{op}c"], [f"{op}y"])
        return helper.make_graph([node], op, [], [out], [constant])

    branches = {"then_branch": branch("Add"), "else_branch": branch("Mul")}
    node = helper.make_node("If", ["go"], ["y"], name="n", **branches)
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        [node],
        "test",
        [info("go", TensorProto.BOOL, []), info("x", TensorProto.FLOAT16, [4])],
        [info("y", TensorProto.FLOAT16, [4])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    x = np.float16([1, 0.5, 2, -1])
    artifact = lowered(model, tmp_path)
    for go, expected in ((True, [2, 2.5, 5, 3]), (False, [1, 1, 6, -4])):
        with Session(artifact.folder) as session:
            got = session.run({"go": np.asarray(go), "x": x})["y"]
        assert got.dtype == np.float16
        np.testing.assert_array_equal(got, np.float16(expected))
