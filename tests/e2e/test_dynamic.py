"""A dynamic batch from the ONNX file to LiteRT, through the public verbs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.runtime import Session


def _write(path: Path) -> None:
    """A convolution, a flattening by the computed batch, a matrix product; the batch is named "n"."""
    random = np.random.default_rng(0)
    constants = {
        "w": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "v": random.standard_normal((4 * 36, 5)).astype(np.float32),
        "rest": np.asarray([-1], np.int64),
        "first": np.asarray([0], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"]),
        helper.make_node("Shape", ["c"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["c", "flat"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def test_a_batch_asked_for_by_name_stays_dynamic_from_the_source_to_the_device(tmp_path, need):
    need("ai_edge_litert")
    _write(tmp_path / "net.onnx")
    report = edgekit.convert(
        tmp_path / "net.onnx", targets=["tflite"], precisions=["float32"], dynamic={"image": ["batch"]},
        output=tmp_path / "out",
    )  # fmt: skip
    assert [a.status for a in report.artifacts] == ["ok"]
    assert "dynamic, proven in these sizes: batch (1, 2, 3, …)" in report.source.notes
    images = np.random.default_rng(1).standard_normal((7, 8, 8, 3)).astype(np.float32)
    with Session(tmp_path / "out/tflite", threads=1) as session:
        assert session.inputs[0].shape == ("batch", 8, 8, 3)
        together = session.run({"image": images})["scores"]
        alone = [session.run({"image": images[i : i + 1]})["scores"] for i in range(7)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-5)
