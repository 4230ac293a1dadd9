"""A calibration that was interrupted goes on where it stopped, to the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from quantize_models import classifier, pictures

from edgekit.core.codec import encode
from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import CalibrationOptions, DataSource
from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate_file

SAMPLES = 1500


@pytest.fixture
def arguments(tmp_path):
    onnx.save(classifier(), tmp_path / "model.onnx")
    few = np.concatenate([s["image"] for s in pictures(30)])
    np.save(tmp_path / "samples.npy", np.tile(few, (SAMPLES // 30, 1, 1, 1)) * np.linspace(
        0.5, 1.5, SAMPLES, dtype=np.float32)[:, None, None, None])
    image = TensorSpec(name="image", dtype="float32", shape=(1, *few.shape[1:]))
    return {
        "model": str(tmp_path / "model.onnx"),
        "policies": [encode(load_target("tflite").int8)],
        "signature": encode(Signature(inputs=(image,), outputs=())),
        "keep_every_s": 0.0,
    }


def options(folder, method):
    return encode(CalibrationOptions(data=DataSource(path=str(folder / "samples.npy")), method=method))


@pytest.mark.parametrize("method", ["auto", "moving-average"])
def test_a_killed_run_is_resumed_to_the_same_bytes(arguments, tmp_path, method):
    whole, resumed, state = tmp_path / "whole.json", tmp_path / "resumed.json", tmp_path / "state"
    arguments["options"] = options(tmp_path, method)
    calibrate_file(**{**arguments, "keep_every_s": 10.0}, out=str(whole))
    request = json.dumps({**arguments, "out": str(resumed), "state": str(state)})
    code = "import json,sys; from edgekit.quantize.calibrate import calibrate_file; "
    code += "calibrate_file(**json.loads(sys.argv[1]))"
    child = subprocess.Popen([sys.executable, "-c", code, request])
    try:
        kept = _wait_until_kept(state, child)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not resumed.exists()
    assert 0 < kept < SAMPLES
    left = _samples_read(arguments, resumed, state)
    assert left < SAMPLES
    assert resumed.read_bytes() == whole.read_bytes()
    assert not state.exists()


def _wait_until_kept(state: Path, child: subprocess.Popen) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        if state.exists():
            with np.load(state) as file:
                return int(file["calls"])
        time.sleep(0.005)
    raise AssertionError(f"nothing was kept; the child ended with {child.poll()}")


def _samples_read(arguments, out, state) -> int:
    """Run what is left; returns how many samples that took, as its progress says."""
    reading, writing = os.pipe()
    code = "import json,sys; from edgekit.quantize.calibrate import calibrate_file; "
    code += "calibrate_file(**json.loads(sys.argv[1]))"
    request = json.dumps({**arguments, "out": str(out), "state": str(state), "keep_every_s": 10.0})
    child = subprocess.Popen(
        [sys.executable, "-c", code, request],
        env={**os.environ, "EDGEKIT_PROGRESS_FD": str(writing)},
        pass_fds=(writing,),
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        lines = [json.loads(line) for line in stream]
    assert child.wait() == 0
    assert lines[-1] == [SAMPLES, SAMPLES, ""]  # done, of, note
    return len(lines)


def test_a_damaged_state_is_started_over(arguments, tmp_path):
    arguments["options"] = options(tmp_path, "minmax")
    state, first, second = tmp_path / "state", tmp_path / "first.json", tmp_path / "second.json"
    calibrate_file(**{**arguments, "keep_every_s": 10.0}, out=str(first))
    state.write_bytes(b"PK not a zip")
    calibrate_file(**{**arguments, "keep_every_s": 10.0}, out=str(second), state=str(state))
    assert first.read_bytes() == second.read_bytes()
