"""What int8 ruins, training without labels brings back, in minutes and with nothing to choose."""

from __future__ import annotations

import resource
from pathlib import Path

import collapsing
import numpy as np
import onnx
import pytest

import edgekit
from edgekit.core.files import data_folder
from edgekit.core.recipe import DataSource, QuantizationOptions
from edgekit.core.training import TrainingOptions


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


@pytest.mark.conformance
@pytest.mark.parametrize("bits", [8, 4])
def test_uneven_depthwise_channels_come_back_without_labels(bits: int, tmp_path: Path) -> None:
    """Channels that differ 300 times in scale; in 4 bits the weights are coarse, too."""
    ruined = collapsing.channels(0)
    onnx.save(ruined.model, tmp_path / "model.onnx")
    for name in ("calibration", "training", "held_back"):
        np.savez(tmp_path / f"{name}.npz", **getattr(ruined, name))
    profile = (data_folder("targets") / "tflite.toml").read_text(encoding="utf-8")
    target = tmp_path / "narrow.toml"
    target.write_text(profile.replace("weight_bits = 8", f"weight_bits = {bits}", 1), encoding="utf-8")

    edgekit.convert(
        tmp_path / "model.onnx", targets=[str(target)], output=tmp_path / "plain",
        calibration=tmp_path / "calibration.npz",
        quantization=QuantizationOptions(bias_correction="analytic"),
    )  # fmt: skip
    begun = cpu_seconds()
    source = DataSource(path=str(tmp_path / "training.npz"))
    edgekit.train_quantized(
        tmp_path / "model.onnx", targets=[str(target)], output=tmp_path / "trained",
        training=TrainingOptions(data=(source,), threads=1), calibration=tmp_path / "calibration.npz",
    )  # fmt: skip
    spent = cpu_seconds() - begun

    plain, trained = (
        edgekit.validate(tmp_path / name, data=tmp_path / "held_back.npz").artifacts[0].accuracy
        for name in ("plain", "trained")
    )
    print(f"{bits} bits: plain {plain}, trained {trained}, {spent:.0f} CPU s")
    assert plain.drop > 3
    assert trained.drop <= 0.5
    assert spent < 300
