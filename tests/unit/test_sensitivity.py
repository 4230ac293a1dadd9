"""Which nodes int8 hurts: measured alone and by leaving out, ranked, drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from quantize_models import classifier, pictures, run, unequal_classifier
from simulations import POLICY, simulation

from edgekit import api
from edgekit.cli import main
from edgekit.core.recipe import Budgets, QuantizationOptions
from edgekit.core.sensitivity import NodeSensitivity, Sensitivity, Standing
from edgekit.errors import UsageError
from edgekit.measure.standing import keeps, standing_of
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import quantize
from edgekit.quantize.sensitivity import measure_sensitivity
from edgekit.report import render_sensitivity, render_sensitivity_markdown


def test_scaling_a_channel_changes_no_float_answer():
    for inputs in pictures(4):
        expected, got = (run(m, inputs)["logits"] for m in (unequal_classifier(1.0), unequal_classifier()))
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_the_nodes_around_an_uneven_tensor_do_the_most_damage():
    _, nodes = measure_sensitivity(simulation(unequal_classifier()))
    assert {nodes[0].name, nodes[1].name} == {"stem", "depthwise"}
    assert nodes[1].alone.sqnr_db < nodes[2].alone.sqnr_db - 6


def test_every_computing_node_is_ranked_and_those_that_move_values_are_not():
    whole, nodes = measure_sensitivity(simulation(classifier()))
    assert {n.name for n in nodes} == {"stem", "depthwise", "project", "joined", "logits"}
    assert [n.alone.sqnr_db for n in nodes] == sorted(n.alone.sqnr_db for n in nodes)
    assert all(n.gain_db == n.kept.sqnr_db - whole.sqnr_db for n in nodes)
    assert sum(n.macs_share for n in nodes) == pytest.approx(1.0)


def test_a_simulated_mixture_is_the_graph_that_would_be_lowered():
    model, samples = classifier(), pictures(6)
    found = simulation(model, samples)
    calibration = calibrate(model, samples, policies=[POLICY])
    options = QuantizationOptions(keep={"stem": "float32"})
    graph = quantize(model, calibration=calibration, policy=POLICY, options=options)[0]
    expected = np.concatenate([run(graph, s)["logits"] for s in samples])
    np.testing.assert_allclose(found.answer({"stem"}), expected, atol=0.05 * np.ptp(expected) / 255)
    np.testing.assert_array_equal(found.answer(found.nodes), found.reference)


def test_a_standing_keeps_budgets_or_breaks_them():
    standing = Standing(sqnr_db=20.0, top1_agreement=0.9, drop=0.4)
    assert keeps(standing, Budgets(max_accuracy_drop=0.4, min_sqnr_db=20.0, min_top1_agreement=0.9))
    for broken in ({"max_accuracy_drop": 0.3}, {"min_sqnr_db": 20.1}, {"min_top1_agreement": 0.95}):
        assert not keeps(standing, Budgets(**broken))
    assert not keeps(replace(standing, drop=None), Budgets(max_accuracy_drop=1.0))


def test_a_margin_refuses_a_lucky_draw():
    lucky = Standing(sqnr_db=11.0, top1_agreement=0.92, drop=0.0, drop_error=1.26, n=500)
    sound = Standing(sqnr_db=30.0, top1_agreement=0.998, drop=0.0, drop_error=0.2, n=500)
    budgets = Budgets(max_accuracy_drop=0.5)
    assert keeps(lucky, budgets)
    assert not keeps(lucky, budgets, margin=1.64)
    assert keeps(sound, budgets, margin=1.64)
    assert not keeps(sound, Budgets(min_top1_agreement=0.997), margin=1.64)
    assert not keeps(sound, Budgets(min_sqnr_db=30.0), margin=1.64)


def test_the_error_of_a_drop_is_that_of_the_flipped_answers():
    source = np.tile([[1.0, 0.0]], (100, 1))
    answer = source.copy()
    answer[:4] = [0.0, 1.0]
    labels = np.zeros(100, int)
    labels[:2] = 1  # of four flips two repair a mistake
    found = standing_of(source, answer, metric="accuracy", labels=labels)
    assert found.drop == 0.0
    assert found.drop_error == pytest.approx(2.0)


def test_a_standing_counts_the_drop_in_points_and_errors_in_their_unit():
    source = np.array([[1.0, 0.0], [0.0, 1.0]])
    answer = np.array([[1.0, 0.0], [2.0, 1.0]])
    assert standing_of(source, answer, metric="accuracy", labels=np.array([0, 1])).drop == 50.0
    assert standing_of(source, answer, metric="mse").drop == 1.0
    assert standing_of(source, answer).drop is None


def analysis(names=("a", "b")):
    nodes = tuple(
        NodeSensitivity(
            name=name,
            op_type="Conv",
            macs=10,
            macs_share=0.5,
            alone=Standing(sqnr_db=10.0 + 20 * i, top1_agreement=0.5),
            kept=Standing(sqnr_db=30.0, top1_agreement=1.0),
            gain_db=1.5,
        )
        for i, name in enumerate(names)
    )
    return Sensitivity(
        model="m.onnx", target="tflite", samples=4, source="s.npz", output="y",
        whole=Standing(sqnr_db=9.0, top1_agreement=0.5), nodes=nodes,
    )  # fmt: skip


def test_the_table_draws_noise_to_scale_and_fits_the_terminal():
    text = render_sensitivity(analysis(("a" * 200, "b")))
    first, second = (line for line in text.splitlines() if "Conv" in line)
    assert first.count("█") == 14
    assert second.count("█") == 1  # 20 dB less: a tenth of the amplitude
    assert max(map(len, text.splitlines())) <= 120
    assert "…" in first


def test_the_markdown_holds_every_node_and_escapes_bars_in_names():
    text = render_sensitivity_markdown(analysis(("a|b", "c")))
    assert "| a\\|b | Conv |" in text
    assert "SQNR 9.0 dB" in text


@pytest.fixture
def files(tmp_path):
    onnx.save(unequal_classifier(), tmp_path / "model.onnx")
    images = np.concatenate([s["image"] for s in pictures(24)])
    np.savez(tmp_path / "samples.npz", image=images)
    return tmp_path


def test_analyze_prints_a_ranking_as_json_and_writes_markdown(files, capsys, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(files / "cache"))
    arguments = ["analyze", str(files / "model.onnx"), "-t", "onnxruntime-exact", "--json", "--quiet"]
    arguments += ["--calibration", str(files / "samples.npz"), "--markdown", str(files / "out.md")]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert {n["name"] for n in first["nodes"][:2]} == {"stem", "depthwise"}
    assert first["samples"] == 24
    assert "stem" in (files / "out.md").read_text()
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == first


def test_a_target_without_int8_is_refused_with_its_reason(files):
    with pytest.raises(UsageError, match="no int8 kernels"):
        api.analyze(
            files / "model.onnx",
            target="onnxruntime-cuda",
            calibration=files / "samples.npz",
        )


def test_an_answer_better_than_the_source_by_luck_is_not_taken_for_a_reserve():
    budgets = Budgets(max_accuracy_drop=0.5)
    lucky = Standing(sqnr_db=20.0, top1_agreement=0.97, drop=-1.8, drop_error=0.7, n=500)
    assert keeps(lucky, budgets)
    assert not keeps(lucky, budgets, margin=1.0)
    assert keeps(replace(lucky, drop_error=0.4), budgets, margin=1.0)
