"""Empirical bias correction: means of layers, clipped activations among them, and what chance explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quantize_models import GraphBuilder, classifier, pictures, run

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.errors import UsageError
from edgekit.quantize.algorithms.empirical_bias import _certain
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.held_out import levels_of
from edgekit.quantize.qdq import quantize
from edgekit.quantize.tuning import tune

POLICY = load_target("tflite").int8
EMPIRICAL = QuantizationOptions(bias_correction="empirical")


def clipped_network(*, averaged: bool = False):
    """Two layers, and a calibration that clips the activation between them to a third of its range.

    With `averaged`, the answer is the mean of every channel, and the range a tenth.
    """
    b = GraphBuilder()
    last = b.conv(b.add("Relu", [b.conv("image", "first", 3, 8)], "y"), "last" if averaged else "out", 8, 4)
    if averaged:
        b.add("GlobalAveragePool", [last], "out")
    model = b.build({"image": [1, 3, 8, 8]}, ["out"])
    found = calibrate(model, pictures(16), policies=[POLICY])
    ranges = {**found.ranges, "y": (0.0, found.ranges["y"][1] / (10 if averaged else 3))}
    return model, replace(found, ranges=ranges, coded={})


def mean_errors(model, calibration, options, samples, unseen):
    tuned = tune(model, samples, calibration=calibration, policy=POLICY, options=options)
    graph, _ = quantize(model, calibration=calibration, policy=POLICY, options=options, coded=tuned.coded)
    expected, got = (np.concatenate([run(m, s)["out"] for s in unseen]) for m in (model, graph))
    return np.abs((got - expected).mean(axis=(0, 2, 3)))


def test_it_mends_the_means_that_clipped_activations_shift_where_the_analytic_form_cannot():
    model, found = clipped_network()
    samples, unseen = pictures(32, seed=4), pictures(64, seed=9)
    analytic = mean_errors(model, found, QuantizationOptions(), samples, unseen)
    empirical = mean_errors(model, found, EMPIRICAL, samples, unseen)
    assert empirical.sum() < 0.3 * analytic.sum()


def test_it_follows_learned_rounding():
    model, found = clipped_network()
    samples, unseen = pictures(32, seed=4), pictures(64, seed=9)
    learned = QuantizationOptions(rounding="learned")
    before = mean_errors(model, found, learned, samples, unseen)
    after = mean_errors(model, found, replace(learned, bias_correction="empirical"), samples, unseen)
    assert after.sum() < 0.3 * before.sum()


def test_it_is_tried_by_itself_where_answers_are_poor_and_kept_where_samples_held_out_agree():
    model, found = clipped_network(averaged=True)
    samples = pictures(64, seed=4)
    found, analytic = replace(found, samples=64), QuantizationOptions(bias_correction="analytic")
    answers = {
        name: tune(model, samples, calibration=found, policy=POLICY, options=options).coded
        for name, options in {"auto": QuantizationOptions(), "analytic": analytic}.items()
    }
    noise = [
        levels_of(model, [quantize(model, calibration=found, policy=POLICY, coded=coded)[0]], samples)
        for coded in (answers["auto"], answers["analytic"])
    ]
    assert (noise[1].signal - noise[1].noise[0]).mean() < 15.0
    assert noise[0].noise.mean() < noise[1].noise.mean() - 3.0
    assert all((answers["auto"][n].codes == answers["analytic"][n].codes).all() for n in ("first", "last"))


def test_it_is_not_tried_where_answers_are_good_or_samples_are_few(monkeypatch):
    def tried(*_, **__):
        raise AssertionError("biases corrected by answers")

    monkeypatch.setattr("edgekit.quantize.tuning.correct_biases", tried)
    model, samples = classifier(), pictures(32)
    good = calibrate(model, samples, policies=[POLICY])
    assert tune(model, samples, calibration=good, policy=POLICY, options=QuantizationOptions()).coded
    poor_model, poor = clipped_network()
    few = replace(poor, samples=31)
    tuned = tune(poor_model, samples[:31], calibration=few, policy=POLICY, options=QuantizationOptions())
    assert tuned.coded is None
    many = replace(poor, samples=32)
    with pytest.raises(AssertionError, match="by answers"):
        tune(poor_model, samples, calibration=many, policy=POLICY, options=QuantizationOptions())


def test_a_shift_that_chance_explains_is_not_corrected():
    random = np.random.default_rng(0)
    certain = 1.0 + 0.01 * random.standard_normal((16, 1))
    chance = random.standard_normal((16, 200))
    shift = _certain(np.concatenate([certain, chance], axis=1))
    assert abs(shift[0] - 1.0) < 0.02
    assert np.square(shift[1:]).mean() < 0.6 * np.square(chance.mean(axis=0)).mean()
    assert not _certain(np.ones((1, 3))).any()


def test_every_kind_of_layer_is_corrected_and_only_its_bias():
    model, samples = classifier(), pictures(16)
    found = calibrate(model, samples, policies=[POLICY])
    plain = tune(model, samples, calibration=found, policy=POLICY, options=QuantizationOptions())
    assert plain.coded is None
    coded = tune(model, samples, calibration=found, policy=POLICY, options=EMPIRICAL).coded
    assert set(coded) == {"stem", "depthwise", "project", "logits"}
    assert all(c.bias is not None for c in coded.values())


def test_no_samples_are_an_error():
    model = classifier()
    found = calibrate(model, pictures(2), policies=[POLICY])
    with pytest.raises(UsageError, match="no samples"):
        tune(model, [], calibration=found, policy=POLICY, options=EMPIRICAL)
