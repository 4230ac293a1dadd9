"""Networks that plain int8 ruins, brought back within their budgets, or said to be out of reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from collapsing import NETWORKS

import edgekit
from edgekit.core.recipe import Budgets, DataSource, QuantizationOptions, ValidationOptions

MODULES = {"tflite": "ai_edge_litert", "openvino": "openvino", "onnxruntime": "onnxruntime"}


@pytest.fixture(scope="session")
def collapsing(tmp_path_factory):
    """Folders with model.onnx, calibration.npz, search.npz and test.npz of a network, made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = made[name] = tmp_path_factory.mktemp(name)
            network = NETWORKS[name]()
            onnx.save(network.model, folder / "model.onnx")
            np.savez(folder / "calibration.npz", **network.calibration)
            for part, rows in (("search", slice(1000)), ("test", slice(1000, None))):
                values = {key: array[rows] for key, array in network.held_back.items()}
                np.savez(folder / f"{part}.npz", **values)
        return made[name]

    return make


def converted(folder, target, *, rescue, limit=0.5, min_sqnr_db=None, bias_correction="auto"):
    return edgekit.convert(
        folder / "model.onnx",
        targets=[target],
        output=folder / f"{target}-{rescue}-{limit}-{min_sqnr_db}",
        calibration=folder / "calibration.npz",
        quantization=QuantizationOptions(rescue=rescue, bias_correction=bias_correction),
        validation=ValidationOptions(data=DataSource(path=str(folder / "search.npz"))),
        budgets=Budgets(max_accuracy_drop=limit, min_sqnr_db=min_sqnr_db),
    )


def check_rescued(folder, target, **asked):
    rescued = converted(folder, target, rescue=True, **asked)
    assert rescued.verdict == "pass"
    account = rescued.artifacts[0].rescue
    assert account.reached
    assert account.plain.drop > 5.0
    assert account.final.drop <= 0.5
    return rescued


def test_a_network_with_sensitive_ends_is_rescued_and_the_report_says_how(collapsing, need):
    need("onnxruntime")
    folder = collapsing("ends")
    report = check_rescued(folder, "onnxruntime", min_sqnr_db=39.0)
    entry = report.artifacts[0]
    assert set(entry.rescue.kept.values()) == {"float32"}
    assert "logits" in entry.rescue.kept
    assert 0 < entry.rescue.kept_macs_share < 0.5
    tried = [attempt.what for attempt in entry.rescue.tried]
    assert "channels evened out between layers" in tried
    assert entry.integer_ops > 0
    assert entry.rescue.slowdown > 0
    text = (folder / "onnxruntime-True-0.5-39.0" / "report.md").read_text()
    assert "rescued: " in text
    assert "`logits` in float32" in text


@pytest.mark.conformance
def test_a_budget_out_of_reach_fails_and_says_so(collapsing, need):
    need("onnxruntime")
    report = converted(collapsing("ends"), "onnxruntime", rescue=True, limit=-50.0)
    assert report.verdict == "fail"
    assert not report.artifacts[0].rescue.reached
    assert any("not reachable" in reason for reason in report.artifacts[0].verdict_reasons)


@pytest.mark.conformance
@pytest.mark.parametrize("target", MODULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_collapsing_network_is_rescued_on_every_target(name, target, collapsing, need):
    need(MODULES[target])
    folder = collapsing(name)
    # what answers teach about biases is a rescue by itself: plain int8 goes without
    plain = converted(folder, target, rescue=False, bias_correction="analytic")
    assert plain.verdict == "fail"
    assert plain.artifacts[0].accuracy.drop > 5.0
    check_rescued(folder, target, bias_correction="analytic")
    unseen = edgekit.validate(folder / f"{target}-True-0.5-None", data=folder / "test.npz").artifacts[0]
    assert unseen.accuracy.interval[0] <= 0.5
    assert unseen.accuracy.drop < plain.artifacts[0].accuracy.drop / 5
