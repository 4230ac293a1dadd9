"""What each engine says it executed: integer models are told from float ones, on real models."""

from __future__ import annotations

import numpy as np
import pytest
import runtime_models as models

from edgekit.runtime import Session


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    models.need("onnx", "onnxruntime")
    return models.quantized_network(tmp_path_factory.mktemp("quantized"))


def _layers(folder, engine, content, options=None, inputs=models.IMAGE, outputs=models.LOGITS):
    models.need(engine)
    artifact = models.put_artifact(folder, engine, content, inputs, outputs, options=options)
    with Session(artifact, threads=1) as session:
        return session.layers()


def _matrix(layers):
    return [layer.compute for layer in layers if layer.matrix]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_quantized_network_runs_every_matrix_in_integers(tmp_path, engine, quantized):
    assert _matrix(_layers(tmp_path, engine, quantized)) == ["int8"] * 3


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_float_network_runs_no_matrix_in_integers(tmp_path, engine):
    models.need("onnx")
    layers = _layers(tmp_path, engine, models.float_network())
    assert _matrix(layers) == ["float32"] * 3
    assert {layer.compute for layer in layers} == {"float32"}


def test_openvino_with_unsigned_weights_is_reported_as_float(tmp_path):
    models.need("onnx", "onnxruntime", "openvino")
    content = models.quantized_network(tmp_path, unsigned_weights=True)
    assert "float32" in _matrix(_layers(tmp_path / "artifact", "openvino", content))


def test_onnx_runtime_without_its_fusions_is_reported_as_float(tmp_path, quantized):
    layers = _layers(tmp_path, "onnxruntime", quantized, {"graph_optimization": "basic"})
    assert _matrix(layers) == ["float32"] * 3
    assert {layer.op for layer in layers if layer.matrix} == {"Conv", "Gemm"}


def test_onnx_runtime_names_integer_kernels_and_their_nodes(tmp_path, quantized):
    layers = _layers(tmp_path, "onnxruntime", quantized)
    assert {layer.op for layer in layers if layer.matrix} == {"QLinearConv", "QGemm"}
    assert any(layer.name.startswith("depthwise") for layer in layers)
    quantize = [layer for layer in layers if layer.op == "QuantizeLinear"]
    assert [(layer.compute, layer.matrix) for layer in quantize] == [("float32", False)]


def test_a_kernel_on_another_provider_than_the_one_asked_for_says_so(tmp_path):
    models.need("onnx", "onnxruntime")
    import onnxruntime

    first = "AzureExecutionProvider"  # it takes no nodes: everything falls to the next provider
    if first not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {first}")
    options = {"providers": f"{first}, CPUExecutionProvider"}
    layers = _layers(tmp_path, "onnxruntime", models.float_network(), options)
    assert {layer.op.partition(" ")[2] for layer in layers} == {"on CPUExecutionProvider"}
    assert _matrix(layers) == ["float32"] * 3


def test_onnx_runtime_dynamic_quantization_counts_as_integer(tmp_path):
    models.need("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = tmp_path / "float.onnx", tmp_path / "dynamic.onnx"
    source.write_bytes(models.float_network())
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
    matrix = _matrix(_layers(tmp_path / "artifact", "onnxruntime", target.read_bytes()))
    assert sorted(matrix) == ["float32", "float32", "int8"]


def test_weights_in_float16_are_computed_in_float32_on_the_cpu(tmp_path):
    models.need("onnx", "onnxruntime")
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(models.float_network())
    casts = []
    for weight in model.graph.initializer:
        name, values = weight.name, numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    content = model.SerializeToString()
    for engine in ("onnxruntime", "openvino"):
        assert _matrix(_layers(tmp_path / engine, engine, content)) == ["float32"] * 3


@pytest.mark.parametrize(
    ("kind", "compute"), [("int8", "int8"), ("float32", "float32"), ("hybrid", "int8")]
)
def test_a_tflite_convolution_is_reported_in_the_type_it_multiplies_in(tmp_path, kind, compute):
    models.need("ai_edge_litert")
    with Session(models.tflite_artifact(tmp_path, kind), threads=1) as session:
        layers = session.layers()
    assert [(layer.op, layer.compute, layer.matrix) for layer in layers] == [("CONV_2D", compute, True)]
    assert layers[0].name == "y"


@pytest.mark.parametrize("resolver", ["auto", "builtin", "reference"])
def test_tflite_layers_do_not_depend_on_the_delegate(tmp_path, resolver):
    models.need("ai_edge_litert")
    artifact = models.tflite_artifact(tmp_path, options={"op_resolver": resolver})
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 2)).astype(np.float32)
    with Session(artifact, threads=1) as session:
        assert [layer.compute for layer in session.layers()] == ["int8"]
        assert np.unique(session.run({"image": image})["features"]).size > 5


def test_a_session_still_answers_after_its_layers_were_read(tmp_path, quantized):
    models.need("openvino")
    image = {"image": np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    for engine in ("onnxruntime", "openvino"):
        folder = models.put_artifact(tmp_path / engine, engine, quantized, models.IMAGE, models.LOGITS)
        with Session(folder, threads=1) as session:
            before = session.run(image)["logits"]
            session.layers()
            np.testing.assert_array_equal(session.run(image)["logits"], before)


def test_reading_layers_leaves_no_file_behind(tmp_path, quantized, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _layers(tmp_path / "artifact", "onnxruntime", quantized)
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]
