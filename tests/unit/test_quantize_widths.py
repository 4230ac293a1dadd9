"""Mixtures of int8 and int16 activations: where they meet, and that LiteRT runs both in integers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from quantize_models import classifier, pictures, run
from random_cases import random_feeds
from random_graphs import network
from tflite_models import invoke, lowered, reference

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.errors import UsageError
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.widths import quantize_widths

TFLITE = load_target("tflite")


def mixed(keep, policy=TFLITE.int8, wide=TFLITE.int16x8):
    model = classifier()
    found = calibrate(model, pictures(16), policies=[TFLITE.int8, TFLITE.int16x8])
    graph, _ = quantize_widths(
        model, calibration=found, policy=policy, wide=wide, options=QuantizationOptions(keep=keep)
    )
    onnx.checker.check_model(graph, full_check=True)
    return graph


def widths(graph):
    zeros = {t.name: onnx.numpy_helper.to_array(t).dtype.name for t in graph.graph.initializer}
    return Counter(zeros[n.input[2]] for n in graph.graph.node if n.op_type == "QuantizeLinear")


def noise(graph):
    model, samples = classifier(), pictures(8, seed=3)
    return sum(((run(model, s)["logits"] - run(graph, s)["logits"]) ** 2).sum() for s in samples)


def test_litert_runs_both_widths_in_integers_and_answers_like_the_graph(tmp_path):
    graph = mixed({"project": "int16x8", "logits": "int16x8"})
    assert widths(graph)["int16"] >= 3
    assert widths(graph)["int8"] >= 2
    inputs = pictures(1)[0]
    ran = invoke(lowered(graph, tmp_path, "int8"), inputs)
    expected = run(graph, inputs)["logits"]
    np.testing.assert_allclose(ran.outputs["logits"], expected, atol=2 * np.ptp(expected) / 255)
    assert "int8" in ran.dtypes_of("CONV_2D") | ran.dtypes_of("DEPTHWISE_CONV_2D")
    assert "int16" in ran.dtypes_of("CONV_2D")
    assert ran.dtypes_of("FULLY_CONNECTED") == {"int16"}


def test_wider_nodes_make_less_noise():
    nodes = ("stem", "depthwise", "project", "joined", "logits")
    assert noise(mixed(dict.fromkeys(nodes, "int16x8"))) < noise(mixed({})) / 4


def test_without_a_policy_of_16_bits_kept_nodes_are_float():
    graph = mixed({"project": "int16x8"}, wide=None)
    assert graph.SerializeToString(deterministic=True) == mixed({"project": "float32"}).SerializeToString(
        deterministic=True
    )
    assert set(widths(graph)) == {"int8"}


def test_an_int16x8_artifact_has_its_kept_nodes_anyway():
    plain, kept = (mixed(k, policy=TFLITE.int16x8, wide=None) for k in ({}, {"project": "int16x8"}))
    assert plain.SerializeToString(deterministic=True) == kept.SerializeToString(deterministic=True)


def test_an_unknown_node_is_named_with_its_neighbour():
    with pytest.raises(UsageError, match="did you mean 'project'"):
        mixed({"projct": "int16x8"})


def test_float_and_both_integers_mix():
    graph = mixed({"stem": "float32", "project": "int16x8"})
    assert set(widths(graph)) == {"int8", "int16"}
    readers = [n for n in graph.graph.node if n.name == "stem"]
    assert readers[0].input[1] == "stem.w"


def steps_apart(seed, place):
    """Steps of an 8-bit output between LiteRT and the graph, of a random network and mixture of it."""
    model, random = network(seed), np.random.default_rng([seed, 2])
    kept = [n.name for n in model.graph.node[1:] if random.random() < 0.5]
    keep = {name: "int16x8" if random.random() < 0.6 else "float32" for name in kept}
    samples = [random_feeds(model, s) for s in range(100, 108)]
    found = calibrate(model, samples, policies=[TFLITE.int8, TFLITE.int16x8])
    options = QuantizationOptions(keep=keep)
    graph, _ = quantize_widths(
        model, calibration=found, policy=TFLITE.int8, wide=TFLITE.int16x8, options=options
    )
    if "int8" not in widths(graph):
        return 0.0  # the mixture left nothing in 8 bits, so there is no int8 artifact of it
    feeds = random_feeds(model, 0)
    ran = invoke(lowered(graph, place, "int8"), feeds)
    expected = reference(graph, feeds)
    return max(
        float(np.abs(ran.outputs[name] - value).max() / max(np.ptp(value) / 255, 1e-9))
        for name, value in expected.items()
    )


def test_random_mixtures_of_both_widths_agree_with_the_graph(tmp_path, need):
    need("ai_edge_litert")
    assert {seed: s for seed in range(6) if (s := steps_apart(seed, tmp_path / str(seed))) > 6.01} == {}


@pytest.mark.conformance
def test_many_random_mixtures_of_both_widths_agree_with_the_graph(tmp_path, need):
    need("ai_edge_litert")
    assert {seed: s for seed in range(6, 200) if (s := steps_apart(seed, tmp_path / str(seed))) > 6.01} == {}
