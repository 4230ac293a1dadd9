"""dynamic-int8, weight-int8 and weight-int4 in ONNX Runtime and OpenVINO: right, small, unpacked once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from quantize_models import GraphBuilder, classifier
from tflite_models import feeds, reference, relative_error

from edgekit.backends import lower_file
from edgekit.backends.onnx_dynamic import dynamic_products
from edgekit.core.codec import encode
from edgekit.core.target import load_target
from edgekit.errors import Unsupported
from edgekit.quantize.weights import quantize_weights
from edgekit.runtime import Session

OFFERED = [
    (target, precision)
    for target in ("onnxruntime", "onnxruntime-exact", "openvino")
    for precision in ("weight-int8", "weight-int4")
]


def network():
    """Two products with a convolution before them; 4-bit blocks divide the first, not the second."""
    b = GraphBuilder(7)
    hidden = b.add("Flatten", [b.add("Relu", [b.conv("image", "c", 3, 8)], "r")], "flat")
    hidden = b.add("Gemm", [hidden, b.weight("w1", 512, 40), b.weight("b1", 40)], "h")
    b.add("MatMul", [hidden, b.weight("w2", 40, 6)], "logits")
    return b.build({"image": [1, 3, 8, 8]}, ["logits"])


def made(model, target, precision, folder):
    """The artifact's folder and the graph it was lowered from."""
    folder.mkdir(parents=True, exist_ok=True)
    profile = load_target(target)
    source = model
    if policy := profile.weights.get(precision):
        source, _ = quantize_weights(model, policy=policy)
    onnx.save(source, folder / "source.onnx")
    out = folder / precision
    out.mkdir()
    lower_file(
        model=str(folder / "source.onnx"),
        target=encode(profile),
        precision=precision,
        out=str(out),
        source_digest="0" * 64,
    )
    return out, source


def size(folder):
    return sum(p.stat().st_size for p in folder.iterdir() if p.name != "manifest.json")


@pytest.mark.parametrize(("target", "precision"), OFFERED)
def test_stored_weights_answer_as_the_graph_says_and_no_call_unpacks_them(target, precision, tmp_path):
    folder, source = made(network(), target, precision, tmp_path)
    values = feeds(source, 2)
    with Session(folder, threads=1) as session:
        got = session.run(values)["logits"]
        layers = session.layers()
    assert relative_error(got, reference(source, values)["logits"]) < 1e-5
    assert not [layer.op for layer in layers if "Dequantize" in layer.op or layer.op == "Convert"]
    matrix = [layer for layer in layers if layer.matrix]
    assert [layer.compute for layer in matrix] == ["float32"] * 3


@pytest.mark.parametrize(("target", "precision"), OFFERED)
def test_stored_weights_make_the_file_smaller(target, precision, tmp_path):
    b = GraphBuilder(8)
    b.add("MatMul", ["image", b.weight("w", 512, 256)], "logits")
    model = b.build({"image": [1, 512]}, ["logits"])
    whole, _ = made(model, target, "float32", tmp_path / "float")
    small, _ = made(model, target, precision, tmp_path)
    assert size(small) < {"weight-int8": 0.27, "weight-int4": 0.18}[precision] * size(whole)


def test_openvino_never_quantizes_activations_of_stored_weights(tmp_path):
    folder, _ = made(network(), "openvino", "weight-int8", tmp_path)
    with Session(folder) as session:
        assert session.manifest.options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == "0"


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-exact"])
def test_dynamic_products_multiply_the_integers_the_graph_says(target, tmp_path):
    folder, source = made(network(), target, "dynamic-int8", tmp_path)
    rewritten, count = dynamic_products(source)
    onnx.checker.check_model(rewritten, full_check=True)
    assert count == 2
    values = feeds(source, 3)
    with Session(folder, threads=1) as session:
        got = session.run(values)["logits"]
        computes = {layer.compute for layer in session.layers() if layer.matrix}
    assert computes == {"float32", "int8"}
    expected = reference(rewritten, values)["logits"]
    assert relative_error(got, expected) < 0.01  # codes of the second product may differ by a step
    assert relative_error(expected, reference(source, values)["logits"]) < 0.05


def test_a_dynamic_product_quantizes_with_one_scale_a_tensor():
    b = GraphBuilder(9)
    b.add("MatMul", ["image", b.weight("w", 32, 8)], "logits")
    policy = load_target("onnxruntime").weights["dynamic-int8"]
    source, _ = quantize_weights(b.build({"image": [4, 32]}, ["logits"]), policy=policy)
    values = feeds(source, 4)
    x = values["image"].astype(np.float64)
    scale = (max(x.max(), 0) - min(x.min(), 0)) / 255
    zero_point = np.rint(-min(x.min(), 0) / scale)
    seen = ((np.clip(np.rint(x / scale) + zero_point, 0, 255) - zero_point) * scale).astype(np.float32)
    expected = reference(source, {"image": seen})["logits"]
    got = reference(dynamic_products(source)[0], values)["logits"]
    assert relative_error(got, expected) < 1e-5
    assert relative_error(reference(source, values)["logits"], expected) > 1e-4


def test_products_of_one_input_share_its_quantizer():
    b = GraphBuilder(10)
    for name in ("q", "k"):
        b.add("MatMul", ["image", b.weight(f"w.{name}", 16, 16)], name)
    policy = load_target("onnxruntime").weights["dynamic-int8"]
    source, _ = quantize_weights(b.build({"image": [2, 16]}, ["q", "k"]), policy=policy)
    kinds = [n.op_type for n in dynamic_products(source)[0].graph.node]
    assert kinds.count("DynamicQuantizeLinear") == 1
    assert kinds.count("MatMulInteger") == 2
    assert "DequantizeLinear" not in kinds


def test_what_a_precision_would_change_nothing_of_is_refused(tmp_path):
    b = GraphBuilder()
    b.conv("image", "y", 3, 8)
    model = b.build({"image": [1, 3, 8, 8]}, ["y"])
    for target, precision, words in (
        ("onnxruntime", "dynamic-int8", "quantize its activations at run time"),
        ("onnxruntime", "weight-int4", "nothing can have 4 bits"),
        ("openvino", "weight-int4", "nothing can have 4 bits"),
    ):
        with pytest.raises(Unsupported) as caught:
            made(model, target, precision, tmp_path / f"{target}-{precision}")
        assert words in str(caught.value)


@pytest.mark.parametrize("precision", ["int16x8", "dynamic-int8"])
def test_openvino_refuses_what_it_would_compute_in_floats(precision, tmp_path):
    with pytest.raises(Unsupported) as caught:
        made(classifier(), "openvino", precision, tmp_path)
    assert "OpenVINO" in caught.value.reasons[0].why
