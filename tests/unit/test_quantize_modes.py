"""Weights alone in 8, 7 or 4 bits, and activations in 16: the graphs, before any engine lowers them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantize_models import GraphBuilder, classifier, pictures, run

from edgekit.core.codec import decode_toml
from edgekit.core.recipe import Recipe, SourceOptions
from edgekit.core.target import (
    PRECISIONS,
    STORED,
    Int8Policy,
    Target,
    WeightPolicy,
    list_targets,
    load_target,
)
from edgekit.errors import Unsupported, UsageError
from edgekit.quantize.algorithms.weight_clipping import tightened_scales
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.opset import raise_opset
from edgekit.quantize.qdq import quantize
from edgekit.quantize.weights import code_blocks, quantize_weights

EIGHT = WeightPolicy(bits={"Conv": 8, "Gemm": 8, "MatMul": 8})
FOUR = WeightPolicy(bits={"Conv": 8, "Gemm": 4, "MatMul": 4})


def constants(model):
    return {i.name: i for i in model.graph.initializer}


def opset(model):
    return next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))


def sqnr_db(expected, got):
    return 10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum())


def coded(model, policy):
    result, names = quantize_weights(model, policy=policy)
    onnx.checker.check_model(result, full_check=True)
    return result, names


# -- weights alone -------------------------------------------------------------------------------------------


def test_every_weight_is_behind_one_dequantizer_and_activations_stay_float():
    result, names = coded(classifier(), EIGHT)
    assert set(names) == {"stem.w", "depthwise.w", "project.w", "head.w"}
    kinds = [n.op_type for n in result.graph.node]
    assert kinds.count("DequantizeLinear") == 4
    assert "QuantizeLinear" not in kinds
    assert all(constants(result)[f"{name}_codes"].data_type == TensorProto.INT8 for name in names)


def test_no_weight_is_further_from_its_float_than_half_a_step():
    model = classifier()
    result, names = coded(model, EIGHT)
    floats, stored = constants(model), constants(result)
    for name in names:
        scales = numpy_helper.to_array(stored[f"{name}_scale"])
        (node,) = (n for n in result.graph.node if n.output[0] == name)
        shape = [1] * len(floats[name].dims)
        shape[next(a.i for a in node.attribute if a.name == "axis")] = -1
        codes = numpy_helper.to_array(stored[f"{name}_codes"]).astype(np.float64)
        difference = np.abs(codes * scales.reshape(shape) - numpy_helper.to_array(floats[name]))
        assert (difference <= scales.reshape(shape) * 0.5001).all(), name


def test_eight_bits_answer_like_the_float_graph_and_four_nearly_so():
    model, samples = classifier(), pictures(16)
    expected = np.concatenate([run(model, s)["logits"] for s in samples])
    for policy, least in ((EIGHT, 33.0), (FOUR, 18.0)):
        got = np.concatenate([run(coded(model, policy)[0], s)["logits"] for s in samples])
        assert least < sqnr_db(expected, got) < 60.0


def test_four_bit_codes_lie_two_to_a_byte_and_only_where_the_policy_says():
    result, _ = coded(classifier(), FOUR)
    stored = constants(result)
    assert stored["head.w_codes"].data_type == TensorProto.INT4
    assert len(stored["head.w_codes"].raw_data) == 8 * 4 * 4 * 5 // 2
    assert stored["stem.w_codes"].data_type == TensorProto.INT8
    codes = numpy_helper.to_array(stored["head.w_codes"]).astype(int)
    assert codes.min() == -7
    assert codes.max() == 7


def test_seven_bits_keep_codes_within_63():
    result, _ = coded(classifier(), WeightPolicy(bits={"Gemm": 7}))
    codes = numpy_helper.to_array(constants(result)["head.w_codes"])
    assert np.abs(codes).max() == 63


@pytest.mark.parametrize("transposed", [False, True])
def test_a_block_of_weights_along_the_sum_has_a_scale_of_its_own(transposed):
    b = GraphBuilder()
    shape = (6, 64) if transposed else (64, 6)
    b.add("Gemm", ["x", b.weight("w", *shape), b.weight("b", 6)], "y", transB=int(transposed))
    model = b.build({"x": [200, 64]}, ["y"])
    result, _ = coded(model, WeightPolicy(bits={"Gemm": 4}, block_size=32))
    assert tuple(constants(result)["w_scale"].dims) == ((6, 2) if transposed else (2, 6))
    per_channel, _ = coded(model, WeightPolicy(bits={"Gemm": 4}))
    x = {"x": np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)}
    expected = run(model, x)["y"]
    assert sqnr_db(expected, run(result, x)["y"]) > sqnr_db(expected, run(per_channel, x)["y"])


def test_a_matrix_that_blocks_do_not_divide_has_a_scale_an_output():
    b = GraphBuilder()
    b.add("MatMul", ["x", b.weight("w", 40, 6)], "y")
    result, _ = coded(b.build({"x": [2, 40]}, ["y"]), WeightPolicy(bits={"MatMul": 4}, block_size=32))
    assert tuple(constants(result)["w_scale"].dims) == (6,)


def test_small_weights_stay_float_and_a_shared_one_is_coded_once():
    b = GraphBuilder()
    shared, small = b.weight("shared", 16, 16), b.weight("small", 16, 3)
    first = b.add("MatMul", ["x", shared], "first")
    b.add("MatMul", [b.add("MatMul", [first, shared], "second"), small], "y")
    result, names = coded(b.build({"x": [1, 16]}, ["y"]), EIGHT)
    assert names == ("shared",)
    assert [n.op_type for n in result.graph.node] == ["DequantizeLinear", *["MatMul"] * 3]


def test_names_that_are_taken_are_left_alone():
    b = GraphBuilder()
    product = b.add("MatMul", ["x", b.weight("w", 16, 16)], "w_codes")
    b.add("Mul", [product, b.weight("w_scale", 16)], "y")
    model = b.build({"x": [1, 16]}, ["y"])
    result, _ = coded(model, EIGHT)
    x = {"x": np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)}
    assert sqnr_db(run(model, x)["y"], run(result, x)["y"]) > 30.0


def test_equal_graphs_give_equal_bytes():
    first, second = (coded(classifier(), FOUR)[0].SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_tightened_scales_never_lose_to_the_widest_one():
    weight = np.random.default_rng(3).standard_t(3, (12, 200)).astype(np.float32)
    wide = (np.abs(weight).max(axis=1, keepdims=True) / 7).astype(np.float32)
    tight = tightened_scales(weight, wide, 7)

    def error(scales):
        return np.square(np.clip(np.rint(weight / scales), -7, 7) * scales - weight).sum(axis=1)

    assert (error(tight) <= error(wide) * (1 + 1e-6)).all()
    assert error(tight).sum() < 0.9 * error(wide).sum()


def test_a_block_of_zeros_has_codes_of_zero():
    weight = np.zeros((4, 32), np.float32)
    weight[1, 16:] = 0.5
    codes, scales = code_blocks(weight, axis=1, block=16)
    assert codes.shape == (4, 32)
    assert scales.shape == (4, 2)
    assert np.all(scales > 0)
    assert np.allclose(codes[1, 16:] * scales[1, 1], 0.5)
    assert not codes[0].any()


# -- 16-bit activations --------------------------------------------------------------------------------------


def int16x8(model, samples):
    policy = load_target("tflite").int16x8
    graph, _ = quantize(model, calibration=calibrate(model, samples, policies=[policy]), policy=policy)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def test_int16_activations_are_symmetric_at_opset_21():
    result = int16x8(classifier(), pictures(8))
    assert opset(result) == 21
    for node in result.graph.node:
        if node.op_type == "QuantizeLinear":
            zero_point = numpy_helper.to_array(constants(result)[node.input[2]])
            assert (zero_point.dtype, zero_point.item()) == (np.int16, 0)


def test_int16_activations_answer_far_closer_than_int8():
    model, samples = classifier(), pictures(32)
    exact = WeightPolicy(bits={"Conv": 8, "Gemm": 8, "MatMul": 8})
    policy = load_target("tflite").int8
    int8, _ = quantize(model, calibration=calibrate(model, samples, policies=[policy]), policy=policy)
    expected, wide, narrow, weights = (
        np.concatenate([run(m, s)["logits"] for s in samples])
        for m in (model, int16x8(model, samples), int8, coded(model, exact)[0])
    )
    assert sqnr_db(expected, wide) > sqnr_db(expected, narrow) + 3.0
    assert sqnr_db(expected, wide) > sqnr_db(expected, weights) - 1.0  # what is left is the weights' error


def test_a_sample_beyond_the_calibrated_range_does_not_saturate_16_bits():
    model, samples = classifier(), pictures(8)
    louder = {"image": samples[0]["image"] * 1.5}
    expected = run(model, louder)["logits"]
    assert sqnr_db(expected, run(int16x8(model, samples), louder)["logits"]) > 38.0


def group_normalization(*, computed=False):
    """Groups of three channels at opset 20, where scale and bias belong to a group."""
    floats = TensorProto.FLOAT
    shape = [1, 6, 4, 4]
    inputs = [helper.make_tensor_value_info("x", floats, shape)]
    parameters = [numpy_helper.from_array(np.float32([0.5, 2.0]), "scale")]
    parameters.append(numpy_helper.from_array(np.float32([-1.0, 3.0]), "bias"))
    if computed:
        inputs.append(helper.make_tensor_value_info("scale", floats, [2]))
        parameters = parameters[1:]
    node = helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["y"], name="norm", num_groups=2)
    outputs = [helper.make_tensor_value_info("y", floats, shape)]
    graph = helper.make_graph([node], "test", inputs, outputs, parameters)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_raising_the_opset_keeps_what_a_group_normalization_answers():
    model, raised = group_normalization(), group_normalization()
    raise_opset(raised)
    assert opset(raised) == 21
    x = {"x": np.random.default_rng(0).standard_normal((1, 6, 4, 4)).astype(np.float32)}
    assert np.abs(run(raised, x)["y"] - run(model, x)["y"]).max() < 1e-6


def test_a_group_normalization_with_a_computed_scale_is_refused():
    with pytest.raises(Unsupported) as caught:
        raise_opset(group_normalization(computed=True))
    (reason,) = caught.value.reasons
    assert reason.node == "norm"
    assert "changed meaning at opset 21" in reason.why


# -- policies, profiles and recipes --------------------------------------------------------------------------


@pytest.mark.parametrize("target", list_targets(), ids=lambda t: t.name)
def test_every_target_offers_or_refuses_every_precision(target):
    for precision in PRECISIONS:
        assert (precision in target.precisions) != (precision in target.refuse), precision


BAD_POLICIES = {
    "bits no kernel has": (lambda: WeightPolicy(bits={"Conv": 5}), "allowed: 4, 7, 8"),
    "a block too small": (lambda: WeightPolicy(bits={"Gemm": 4}, block_size=8), "block_size"),
    "int16 with zero points": (
        lambda: Int8Policy(activation="int16", integer_ops=("Conv",)),
        "activation_symmetric",
    ),
    "less than no headroom": (
        lambda: Int8Policy(activation="int8", integer_ops=(), headroom=0.5),
        "headroom",
    ),
}


@pytest.mark.parametrize("case", BAD_POLICIES)
def test_a_policy_that_no_kernel_has_is_refused(case):
    make, words = BAD_POLICIES[case]
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize("precision", ["int16x8", *STORED])
def test_a_profile_that_offers_a_precision_without_its_table_is_refused(tmp_path, precision):
    path = tmp_path / "board.toml"
    path.write_text(
        f'schema = 1\nname = "board"\nsummary = "b"\nengine = "tflite"\nprecisions = ["{precision}"]\n'
    )
    with pytest.raises(UsageError, match=f"precision '{precision}' needs"):
        decode_toml(Target, path)


def test_samples_are_asked_for_by_calibrated_precisions_alone():
    def recipe(precision):
        source = SourceOptions(model="m.onnx")
        return Recipe(source=source, targets=("tflite",), precisions=(precision,), output="out")

    assert [recipe(p).precisions for p in STORED] == [(p,) for p in STORED]
    for precision in ("int8", "int16x8"):
        with pytest.raises(UsageError, match=f"precision '{precision}' needs samples"):
            recipe(precision)
