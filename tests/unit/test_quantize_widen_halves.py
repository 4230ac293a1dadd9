"""A model that computes in float16 is quantized as the same in float32; its inputs and outputs stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantize_models import classifier

import edgekit
from edgekit.core.codec import encode
from edgekit.core.target import WeightPolicy
from edgekit.quantize.weights import quantize_weights_file
from edgekit.quantize.widen_halves import widen_halves
from edgekit.runtime import Session


def half(*, ports: bool = False):
    """A classifier of the unit tests in float16, its inputs and outputs too with `ports`."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = classifier()
    model.opset_import[0].version = 20
    return convert_float_to_float16(model, keep_io_types=not ports)


def answers(model, image):
    session = ort.InferenceSession(model.SerializeToString())
    port = session.get_inputs()[0]
    dtype = np.float16 if "float16" in port.type else np.float32
    return session.run(None, {port.name: image.astype(dtype)})[0]


def images(count=8):
    shape = [d.dim_value for d in classifier().graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(0).normal(0, 1, [count, *shape[1:]]).astype(np.float32)


@pytest.mark.parametrize("ports", [False, True])
def test_the_wide_graph_answers_alike_and_keeps_its_ports(ports):
    model, wide = half(ports=ports), half(ports=ports)
    assert widen_halves(wide)
    assert [p.name for p in wide.graph.output] == [p.name for p in model.graph.output]
    kinds = [p.type.tensor_type.elem_type for p in (*wide.graph.input, *wide.graph.output)]
    assert set(kinds) == {TensorProto.FLOAT16 if ports else TensorProto.FLOAT}
    stored = {t.data_type for t in wide.graph.initializer}
    assert TensorProto.FLOAT in stored
    assert TensorProto.FLOAT16 not in stored
    image = images(1)
    difference = np.abs(answers(wide, image).astype(np.float32) - answers(model, image)).max()
    assert difference <= 2e-3 * np.abs(answers(model, image)).max()


def test_a_float32_model_is_left_alone():
    model = classifier()
    before = model.SerializeToString(deterministic=True)
    assert not widen_halves(model)
    assert model.SerializeToString(deterministic=True) == before


def test_halves_inside_a_branch_are_widened_too():
    inner = [helper.make_node(op, ["x", "two"], [name]) for op, name in (("Mul", "doubled"), ("Add", "more"))]
    port = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, [2]) for n in ("doubled", "more")]
    two = numpy_helper.from_array(np.float16([2, 2]), "two")
    branches = {
        "then_branch": helper.make_graph(inner[:1], "then", [], port[:1], [two]),
        "else_branch": helper.make_graph(inner[1:], "else", [], port[1:], [two]),
    }
    nodes = [helper.make_node("If", ["yes"], ["y"], **branches)]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT16, [2]),
        helper.make_tensor_value_info("yes", TensorProto.BOOL, []),
    ]
    output = [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [2])]
    graph = helper.make_graph(nodes, "g", inputs, output)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    assert widen_halves(model)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString())
    for yes, expected in ((True, [2, 6]), (False, [3, 5])):
        given = {"x": np.float16([1, 3]), "yes": np.array(yes)}
        np.testing.assert_array_equal(session.run(None, given)[0], np.float16(expected))


def test_weights_in_float16_are_stored_in_integers_and_ports_stay(tmp_path: Path):
    onnx.save(half(ports=True), tmp_path / "half.onnx")
    policy = encode(WeightPolicy(bits={"Conv": 8, "Gemm": 8}))
    out = tmp_path / "coded.onnx"
    told = quantize_weights_file(model=str(tmp_path / "half.onnx"), policy=policy, out=str(out))
    coded = onnx.load(out)
    kinds = [node.op_type for node in coded.graph.node]
    assert told["weights"] == kinds.count("DequantizeLinear") > 1
    ends = [p.type.tensor_type.elem_type for p in (*coded.graph.input, *coded.graph.output)]
    assert set(ends) == {TensorProto.FLOAT16}
    expected, got = (
        np.concatenate([answers(m, image[None]) for image in images()]).astype(np.float64)
        for m in (half(ports=True), coded)
    )
    noise = np.square(got - expected).sum()
    assert 10 * np.log10(np.square(expected).sum() / noise) > 35


@pytest.mark.parametrize("ports", [False, True])
def test_a_float16_file_becomes_integers_on_every_engine(ports, tmp_path: Path):
    onnx.save(half(ports=ports), tmp_path / "half.onnx")
    samples = images(16).astype(np.float16 if ports else np.float32)
    targets = ["tflite", "openvino", "onnxruntime"]
    report = edgekit.convert(
        tmp_path / "half.onnx", targets=targets, precisions=["int8"], output=tmp_path / "out",
        calibration={"image": samples},
    )  # fmt: skip
    assert [a.status for a in report.artifacts] == ["ok"] * 3, [a.reasons for a in report.artifacts]
    expected = np.concatenate([answers(classifier(), s[None]) for s in samples.astype(np.float32)])
    for target in targets:
        with Session(tmp_path / "out" / target, precision="int8", threads=1, layout="source") as session:
            got = np.concatenate([next(iter(session.run({"image": s[None]}).values())) for s in samples])
        noise = np.square(got.astype(np.float64) - expected).sum()
        assert 10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise) > 25, target
    assert all(a.integer_share > 0.5 for a in report.artifacts)
