"""Where quantizers sit."""

from dataclasses import replace

import numpy as np
import pytest
from quantize_models import GraphBuilder, classifier

from edgekit.core.target import load_target
from edgekit.errors import UsageError
from edgekit.quantize.attention import attention as attention_nodes
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.graph_index import index_graph
from edgekit.quantize.placement import place
from edgekit.quantize.qdq import _affines

TFLITE = load_target("tflite").int8
ORT = load_target("onnxruntime").int8


def test_a_convolution_absorbs_its_activation():
    tensors = place(index_graph(classifier()), ORT).tensors
    assert "stem.y" in tensors
    assert "stem" not in tensors


def test_logits_stay_float_where_the_kernel_can_write_float():
    assert "logits" not in place(index_graph(classifier()), ORT).tensors
    assert "logits" in place(index_graph(classifier()), TFLITE).tensors


def test_moving_values_shares_one_scale():
    group = place(index_graph(classifier()), TFLITE).group
    assert group["joined"] == group["pooled"] == group["flat"]


def test_an_activation_read_twice_is_not_absorbed_past_its_other_reader():
    b = GraphBuilder()
    raw = b.conv("image", "conv", 3, 4)
    b.add("Add", [raw, b.add("Relu", [raw], "relu")], "sum")
    placement = place(index_graph(b.build({"image": [1, 3, 8, 8]}, ["sum"])), TFLITE)
    assert "conv" in placement.tensors


def test_concat_shares_a_scale_in_litert_and_rescales_in_onnx_runtime():
    b = GraphBuilder()
    parts = [b.conv("image", f"part{i}", 3, 4) for i in range(2)]
    b.add("Concat", parts, "joined", axis=1)
    index = index_graph(b.build({"image": [1, 3, 8, 8]}, ["joined"]))
    assert len({place(index, TFLITE).group[t] for t in (*parts, "joined")}) == 1
    assert len({place(index, ORT).group[t] for t in (*parts, "joined")}) == 3


def test_a_fixed_scale_is_kept_and_requantized_where_it_meets_another():
    b = GraphBuilder()
    gate = b.add("Sigmoid", [b.conv("image", "conv", 3, 4)], "gate")
    other = b.conv("image", "other", 3, 4)
    b.add("Concat", [gate, other], "joined", axis=1)
    placement = place(index_graph(b.build({"image": [1, 3, 8, 8]}, ["joined"])), TFLITE)
    assert placement.fixed[placement.group["gate"]].scale == 1 / 256
    assert placement.group["gate"] != placement.group["joined"]
    assert placement.requantized == {("joined", "gate")}


def test_a_weight_that_is_computed_stays_float():
    b = GraphBuilder()
    kernel = b.add("Relu", [b.weight("w", 4, 3, 3, 3)], "kernel")
    b.add("Conv", ["image", kernel], "conv", pads=[1, 1, 1, 1])
    placement = place(index_graph(b.build({"image": [1, 3, 8, 8]}, ["conv"])), ORT)
    assert placement.weighted == ()
    assert placement.tensors == ()


def test_a_product_of_two_activations_is_integer_and_has_no_weights():
    b = GraphBuilder()
    b.add("MatMul", ["a", "b"], "product")
    placement = place(index_graph(b.build({"a": [1, 4, 8], "b": [1, 8, 4]}, ["product"])), TFLITE)
    assert set(placement.tensors) == {"a", "b", "product"}
    assert placement.weighted == ()


def test_a_padding_value_other_than_zero_is_left_in_float():
    b = GraphBuilder()
    conv = b.conv("image", "conv", 3, 4)
    pads = b.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    value = b.constant("value", np.float32(-1))
    b.add("Pad", [conv, pads, value], "padded")
    assert "padded" not in place(index_graph(b.build({"image": [1, 3, 8, 8]}, ["padded"])), TFLITE).tensors


def test_the_right_side_of_a_computed_product_is_symmetric_where_the_kernel_wants_it():
    b = GraphBuilder()
    b.add("Transpose", ["b"], "turned", perm=[0, 2, 1])
    b.add("MatMul", ["a", "turned"], "product")
    index = index_graph(b.build({"a": [2, 4, 8], "b": [2, 3, 8]}, ["product"]))
    samples = [{n: np.random.default_rng(i).random((2, 4 - i, 8), np.float32) for i, n in enumerate("ab")}]
    calibration = calibrate(index.model, iter(samples), policies=[TFLITE, ORT])
    for policy, symmetric in ((TFLITE, True), (ORT, False)):
        placement = place(index, policy)
        affines = _affines(placement, calibration, policy)
        assert (placement.group["turned"] in placement.symmetric) == symmetric
        assert (affines["turned"].zero_point == 0) == (symmetric or policy.activation == "uint8")
        assert affines["a"].zero_point == {"int8": -128, "uint8": 0}[policy.activation]


def test_a_concat_absorbs_its_activation_where_it_rescales():
    """OpenVINO 2026.4 crashes on a quantizer on both sides of an activation behind a Concat of a Split."""
    b = GraphBuilder()
    parts = [b.conv("image", f"part{i}", 3, 4) for i in range(2)]
    b.conv(b.add("Relu", [b.add("Concat", parts, "joined", axis=1)], "relu"), "last", 8, 4)
    index = index_graph(b.build({"image": [1, 3, 8, 8]}, ["last"]))
    assert "joined" not in place(index, ORT).tensors
    assert "relu" in place(index, ORT).tensors


def test_a_concat_absorbs_scale_and_shift_where_openvino_would_crash():
    b = GraphBuilder()
    parts = [b.conv("image", f"part{i}", 3, 4) for i in range(2)]
    joined = b.add("Concat", parts, "joined", axis=1)
    scaled = b.add("Mul", [joined, b.constant("gamma", np.full((1, 8, 1, 1), 1.5, np.float32))], "scaled")
    shifted = b.add("Add", [scaled, b.constant("beta", np.full((1, 8, 1, 1), 0.5, np.float32))], "shifted")
    b.conv(b.add("Relu", [shifted], "relu"), "head", 8, 4)
    index = index_graph(b.build({"image": [1, 3, 8, 8]}, ["head"]))
    between = {"joined", "scaled", "shifted"}
    assert not between & set(place(index, load_target("openvino").int8).tensors)
    assert "relu" in place(index, load_target("openvino").int8).tensors
    assert "joined" in place(index, ORT).tensors


def test_a_node_kept_in_float_reads_what_its_integer_neighbour_writes_and_nothing_is_put_behind_it():
    plain, mixed = (place(index_graph(classifier()), ORT, keep) for keep in ((), ("project",)))
    assert mixed.tensors == plain.tensors  # the sum behind it still reads integers
    assert plain.integer_nodes - mixed.integer_nodes == {"project"}
    assert {w.name for w in plain.weighted} - {w.name for w in mixed.weighted} == {"project"}
    assert not mixed.plain_reads  # the depthwise convolution before it writes integers


def test_a_chain_of_kept_nodes_is_float_throughout():
    placement = place(index_graph(classifier()), ORT, ("depthwise", "project", "joined"))
    assert not {"depthwise.y", "project"} & set(placement.tensors)
    assert {"stem.y", "flat"} <= set(placement.tensors)


def test_a_kept_node_reads_the_plain_value_where_no_integer_node_wrote_it():
    b = GraphBuilder()
    b.add("Add", [b.conv("image", "left", 3, 4), b.conv("image", "right", 3, 4)], "sum")
    placement = place(index_graph(b.build({"image": [1, 3, 8, 8]}, ["sum"])), ORT, ("left",))
    assert "image" in placement.tensors
    assert placement.plain_reads == {("left", "image")}


def test_keeping_an_absorbed_activation_keeps_what_absorbs_it():
    placement = place(index_graph(classifier()), TFLITE, ("depthwise.y",))
    assert "depthwise" not in placement.integer_nodes


def test_a_kept_node_that_moves_values_ends_the_group():
    placement = place(index_graph(classifier()), TFLITE, ("pooled",))
    assert placement.group["joined"] != placement.group["flat"]
    assert "pooled" not in placement.tensors


def test_an_unknown_kept_node_names_its_neighbour():
    with pytest.raises(UsageError, match="depthwise") as caught:
        place(index_graph(classifier()), TFLITE, ("depthwize",))
    assert "analyze" in str(caught.value)


def test_what_a_kept_concat_would_have_absorbed_gets_no_quantizers():
    """OpenVINO's Concat absorbs the Mul behind it; kept, neither of them reads or writes new integers."""
    b = GraphBuilder()
    parts = [b.conv("image", f"part{i}", 3, 4) for i in range(2)]
    joined = b.add("Concat", parts, "joined", axis=1)
    b.conv(b.add("Mul", [joined, b.weight("factor", 1, 8, 1, 1)], "scaled"), "last", 8, 4)
    index = index_graph(b.build({"image": [1, 3, 8, 8]}, ["last"]))
    policy = load_target("openvino").int8
    concat = next(n.name for n in index.model.graph.node if n.op_type == "Concat")
    assert "joined" not in place(index, policy).tensors
    assert set(place(index, policy, keep=[concat]).tensors) <= set(place(index, policy).tensors)


@pytest.mark.parametrize("op", ["HardSwish", "Gelu", "Elu", "Tanh"])
def test_openvino_fuses_what_a_convolution_is_followed_by(op):
    b = GraphBuilder()
    active = b.add(op, [b.conv("image", "first", 3, 4)], "active")
    b.conv(active, "second", 4, 4)
    index = index_graph(b.build({"image": [1, 3, 8, 8]}, ["second"]))
    tensors = place(index, load_target("openvino").int8).tensors
    assert "first" not in tensors
    assert "active" in tensors


def attention():
    """A Reshape between a normalization and a product, a softmax between products."""
    b = GraphBuilder()
    read = ["x", b.weight("scale", 8), b.weight("shift", 8)]
    normal = b.add("LayerNormalization", read, "normal")
    rows = b.add("Reshape", [normal, b.constant("flat", np.array([-1, 8]))], "rows")
    b.add("MatMul", [rows, b.weight("w", 8, 8)], "product")
    turned = b.add("Transpose", ["x"], "turned", perm=[0, 2, 1])
    scores = b.add("Softmax", [b.add("MatMul", ["x", turned], "raw")], "scores", axis=-1)
    b.add("MatMul", [scores, "x"], "mixed")
    return index_graph(b.build({"x": [1, 5, 8]}, ["product", "mixed"]))


def test_what_products_read_in_openvino_has_no_zero_point_and_eight_bits_of_its_own_sign():
    policy, index = replace(load_target("openvino").int8, float_attention=False), attention()
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(1.0, 1.0, (1, 5, 8)).astype(np.float32)} for _ in range(8)]
    affines = _affines(place(index, policy), calibrate(index.model, iter(samples), policies=[policy]), policy)
    codes = {name: (affine.dtype, affine.zero_point) for name, affine in affines.items()}
    assert codes["x"] == codes["turned"] == codes["normal"] == codes["rows"] == ("int8", 0)
    assert codes["scores"] == ("uint8", 0)
    assert affines["scores"].scale < 1.1 / 255


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_attention_stays_float_where_the_engine_is_faster_so(target):
    policy, index = load_target(target).int8, attention()
    placement = place(index, policy)
    assert not {"x", "turned", "raw", "scores", "mixed"} & set(placement.tensors)
    assert [w.op_type for w in placement.weighted] == ["MatMul"]
    integers = place(index, replace(policy, float_attention=False))
    assert {"x", "turned", "scores"} <= set(integers.tensors)
    assert {"x", "turned", "scores"} <= set(place(index, policy, leave_float=False).tensors)


def test_scaled_and_masked_scores_are_attention_and_other_products_of_activations_are_not():
    b = GraphBuilder()
    scores = b.add("MatMul", ["q", "k"], "raw")
    scores = b.add("Div", [scores, b.weight("root", 1)], "scaled")
    scores = b.add("Add", [scores, "mask"], "masked")
    b.add("MatMul", [b.add("Softmax", [scores], "share", axis=-1), "v"], "mixed")
    b.add("Softmax", [b.add("MatMul", ["q", "k"], "gram")], "similarity", axis=-1)
    shapes = {"q": [1, 5, 8], "k": [1, 8, 5], "v": [1, 5, 8], "mask": [1, 5, 5]}
    index = index_graph(b.build(shapes, ["mixed", "similarity"]))
    names = {n.output[0]: n.name for n in index.model.graph.node}
    assert attention_nodes(index) == {names[t] for t in ("raw", "scaled", "masked", "share", "mixed")}


def test_scores_that_are_an_output_too_are_no_attention():
    b = GraphBuilder()
    scores = b.add("Softmax", [b.add("MatMul", ["q", "k"], "raw")], "scores", axis=-1)
    b.add("MatMul", [scores, "v"], "mixed")
    shapes = {"q": [1, 5, 8], "k": [1, 8, 5], "v": [1, 5, 8]}
    assert not attention_nodes(index_graph(b.build(shapes, ["mixed", "scores"])))


def test_a_quantizer_sits_before_moves_to_a_product_unless_something_else_reads_what_they_move():
    policy, index = load_target("openvino").int8, attention()
    assert {"normal", "rows"} <= set(place(index, policy).tensors)
    assert "normal" not in place(index, ORT).tensors
    b = GraphBuilder()
    total = b.add("Softplus", ["x"], "total")
    rows = b.add("Reshape", [total, b.constant("flat", np.array([-1, 8]))], "rows")
    b.add("MatMul", [rows, b.weight("w", 8, 8)], "product")
    b.add("Exp", [total], "other")
    tensors = place(index_graph(b.build({"x": [1, 5, 8]}, ["product", "other"])), policy).tensors
    assert "rows" in tensors
    assert "total" not in tensors


def test_what_convolutions_read_in_openvino_keeps_its_zero_point():
    policy, index = load_target("openvino").int8, index_graph(classifier())
    shape = next(s for n, s in index.shapes.items() if n in index.inputs)
    samples = [{index.inputs[0]: np.random.default_rng(1).normal(1.0, 1.0, shape).astype(np.float32)}]
    affines = _affines(place(index, policy), calibrate(index.model, iter(samples), policies=[policy]), policy)
    assert affines[index.inputs[0]].dtype == "uint8"
    assert affines[index.inputs[0]].zero_point > 0


@pytest.mark.parametrize("keep", [(), ("left",), ("right",), ("sum",), ("left", "sum")])
def test_a_convolution_absorbs_a_sum_in_openvino_whatever_is_kept(keep):
    b = GraphBuilder()
    parts = [b.conv("image", name, 3, 4) for name in ("left", "right")]
    b.conv(b.add("Add", parts, "sum"), "last", 4, 4)
    index = index_graph(b.build({"image": [1, 3, 8, 8]}, ["last"]))
    policy = load_target("openvino").int8
    names = {n.output[0]: n.name for n in index.model.graph.node}
    tensors = set(place(index, policy, [names[k] for k in keep]).tensors)
    assert "left" not in tensors
    assert tensors <= set(place(index, policy).tensors)
    assert "left" in place(index, ORT).tensors
