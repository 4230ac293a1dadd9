"""Reading ONNX files: what is damaged, incomplete or foreign is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_models import needed

from edgekit.errors import Unsupported, UsageError
from edgekit.formats.onnx_file import external_files, load_onnx

onnx = needed("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


def small(opset: int = 17, op: str = "Relu", domain: str = "") -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(2048, dtype=np.float32).reshape(4, 512), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"),
        helper.make_node(op, ["h"], ["y"], name="last", domain=domain),
    ]
    inputs = [helper.make_tensor_value_info("x", 1, [1, 4])]
    outputs = [helper.make_tensor_value_info("y", 1, [1, 512])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = small().SerializeToString()
    for share in (0.1, 0.5, 0.9, 0.999):
        path = tmp_path / "m.onnx"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UsageError) as caught:
            load_onnx(path)
        assert caught.value.hint


@pytest.mark.parametrize("content", [b"\x00" * 64, b"hello, world", b"PK\x03\x04 zip", bytes(range(256))])
def test_garbage_is_no_onnx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UsageError, match="not a valid ONNX file"):
        load_onnx(tmp_path / "m.onnx")


def test_external_data_is_loaded_and_its_files_are_named(tmp_path: Path) -> None:
    onnx.save(small(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    loaded = load_onnx(tmp_path / "m.onnx")
    assert external_files(tmp_path / "m.onnx") == [str(tmp_path / "m.data")]
    np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[0]).ravel(), np.arange(2048))


def test_missing_external_data_names_the_file(tmp_path: Path) -> None:
    onnx.save(small(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    with pytest.raises(UsageError, match="external data") as caught:
        load_onnx(tmp_path / "m.onnx")
    assert "m.data" in str(caught.value)


def test_external_data_cut_short_says_how_much_is_needed(tmp_path: Path) -> None:
    onnx.save(small(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").write_bytes(b"1234")
    with pytest.raises(UsageError) as caught:
        load_onnx(tmp_path / "m.onnx")
    assert "4 bytes, 8192 are needed" in str(caught.value)


@pytest.mark.parametrize("place", ["../secret", "/etc/hostname"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, place: str) -> None:
    model = small()
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location=place)
    tensor.ClearField("raw_data")
    with pytest.raises(UsageError) as caught:
        load_onnx(saved(model, tmp_path / "m.onnx"))
    assert "not beside the model" in str(caught.value)


def test_an_operator_of_a_foreign_domain_names_its_node(tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        load_onnx(saved(small(op="FusedThing", domain="com.example"), tmp_path / "m.onnx"))
    assert caught.value.reasons[0].node == "last (FusedThing)"
    assert "com.example" in caught.value.reasons[0].why


def test_an_operator_newer_than_the_opset_names_its_node(tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        load_onnx(saved(small(opset=17, op="Gelu"), tmp_path / "m.onnx"))
    assert "last (Gelu)" in str(caught.value)
    assert "opset 17" in str(caught.value)


@pytest.mark.parametrize("opset", [5, 999])
def test_an_opset_outside_the_range_says_the_range(tmp_path: Path, opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset {opset}, allowed: 6 to"):
        load_onnx(saved(small(opset=opset), tmp_path / "m.onnx"))


def test_the_words_of_the_checker_reach_the_user(tmp_path: Path) -> None:
    model = small()
    model.graph.node[1].input[0] = "nowhere"
    with pytest.raises(UsageError, match="checker refuses") as caught:
        load_onnx(saved(model, tmp_path / "m.onnx"))
    assert "nowhere" in str(caught.value)


def test_nodes_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    model = small()
    nodes = list(model.graph.node)[::-1]
    shuffled = [type(n).FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(shuffled)
    loaded = load_onnx(saved(model, tmp_path / "m.onnx"))
    assert [n.op_type for n in loaded.graph.node] == ["MatMul", "Relu"]


def test_an_output_without_a_shape_is_read(tmp_path: Path) -> None:
    model = small()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    loaded = load_onnx(saved(model, tmp_path / "m.onnx"))
    assert [d.dim_value for d in loaded.graph.output[0].type.tensor_type.shape.dim] == [1, 512]
