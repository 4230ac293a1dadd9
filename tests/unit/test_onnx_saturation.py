"""A graph that comes with codes of its own says where x86 without VNNI cannot multiply them exactly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantize_models import classifier

from edgekit.backends.onnx_saturation import saturating_nodes, saturation_notes
from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import quantize


def coded(op, codes, shape, **attributes):
    """A QDQ graph of one operator whose weights have these codes."""
    constants = {
        "s": np.float32(0.1), "z": np.uint8(128), "w_s": np.float32(0.01), "codes": np.array(codes, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["codes", "w_s"], ["w_dq"]),
        helper.make_node(op, ["x_dq", "w_dq"], ["y"], name="product", **attributes),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None))]
    stored = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], stored))


@pytest.mark.parametrize(
    ("pair", "found"),
    [((100, 29), ["product"]), ((100, 28), []), ((-127, 127), []), ((-100, -29), ["product"])],
)
@pytest.mark.parametrize("op", ["Conv", "MatMul", "Gemm", "Gemm transposed"])
def test_neighbours_of_one_sign_whose_sum_passes_128_are_found(op, pair, found):
    column = np.array([[3], [2], [pair[0]], [pair[1]]])
    if op == "Conv":
        graph = coded("Conv", column.reshape(1, 4, 1, 1), [1, 4, 2, 2])
    elif op == "Gemm transposed":
        graph = coded("Gemm", column.T, [1, 4], transB=1)
    else:
        graph = coded(op, column, [1, 4])
    assert saturating_nodes(graph) == found


def test_products_one_at_a_time_cannot_saturate_and_odd_numbers_of_inputs_are_taken_one_by_one():
    assert not saturating_nodes(coded("Conv", np.full((4, 1, 3, 3), 127), [1, 4, 5, 5], group=4))
    assert saturating_nodes(coded("MatMul", [[65], [0], [0]], [1, 3]))
    assert not saturating_nodes(coded("MatMul", [[64], [64], [64]], [1, 3]))


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_what_edgekit_quantizes_for_such_cpus_has_no_note(name):
    policy, model = load_target(name).int8, classifier()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    images = [{"image": np.random.default_rng(i).normal(0, 1, shape).astype(np.float32)} for i in range(4)]
    found = calibrate(model, images, policies=[policy])
    graph = quantize(model, calibration=found, policy=policy)[0]
    assert sum(t.data_type == TensorProto.INT8 for t in graph.graph.initializer) >= 3
    assert saturation_notes(graph) == ()


def test_the_note_names_nodes_and_what_helps(tmp_path):
    import edgekit

    rng = np.random.default_rng(0)
    graph = coded("MatMul", rng.integers(-127, 128, (8, 4)), [1, 8])
    graph.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4]))
    graph.opset_import[0].version, graph.ir_version = 17, 8
    onnx.save(graph, tmp_path / "coded.onnx")
    targets = ["onnxruntime", "openvino", "onnxruntime-exact"]
    report = edgekit.convert(
        tmp_path / "coded.onnx", targets=targets, precisions=["float32"], output=tmp_path / "out"
    )
    said = {a.target: [n for n in a.notes if "can saturate on x86" in n] for a in report.artifacts}
    assert [len(said[name]) for name in targets] == [1, 1, 0]
    assert "8-bit weights of product can saturate" in said["openvino"][0]
