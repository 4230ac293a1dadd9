"""What the network finds of its samples reaches the report, the page and the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from photographs import chain, crops, network

import edgekit
from edgekit.pipeline.layout import STATISTICS
from edgekit.report.terminal import render_table


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(network(np.float32(crops(100, seed=0) / 255)), path)
    return path


def test_wrong_samples_are_reported_and_right_ones_are_not(model: Path, tmp_path: Path) -> None:
    out, heard = tmp_path / "out", []
    report = edgekit.convert(
        model, targets=["onnxruntime"], precisions=["int8"], output=out, calibration=iter(crops(20, 1)),
        on_event=heard.append,
    )  # fmt: skip
    [warning] = report.warnings
    assert warning.startswith("calibration samples: the samples are not prepared as in training")
    assert "what fits is 0..1, pixel / 255" in warning
    assert any(event.note == warning for event in heard)
    assert "> **Warning:** calibration samples: the samples are not" in (out / "report.md").read_text()
    assert "warning: calibration samples: the samples are not" in render_table(report)
    assert report.verdict == "pass"

    swapped = np.ascontiguousarray(crops(20, 2)[:, ::-1] / 255)
    report = edgekit.validate(out, data={"image": swapped}, metric="mse")
    assert report.warnings[0] == warning
    assert report.warnings[1].startswith("validation samples: red and blue look swapped")

    report = edgekit.validate(out, data={"image": crops(20, 2) / np.float32(255)}, metric="mse")
    assert report.warnings == (warning,)


def test_a_network_without_batch_norm_is_converted_without_the_check(tmp_path: Path) -> None:
    relu = onnx.helper.make_node("Relu", ["image"], ["y"])
    onnx.save(chain([relu], {}, [1, 3, 8, 8], "y"), tmp_path / "m.onnx")
    report = edgekit.convert(
        tmp_path / "m.onnx", targets=["onnxruntime"], precisions=["float32"], output=tmp_path / "out"
    )
    assert report.warnings == ()
    assert not (tmp_path / "out" / STATISTICS).exists()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.full((6, 3, 8, 8), 0.5), "'image' is 0.5 in all of them"),
        (np.full((1, 3, 8, 8), 0.5), "'image' is 0.5 in all of them"),
        (np.repeat(crops(1, 3)[:, :, :8, :8] / 255, 6, axis=0), "'image' is the same in all 6"),
    ],
)
def test_samples_that_never_change_are_reported(images: np.ndarray, said: str, tmp_path: Path) -> None:
    relu = onnx.helper.make_node("Relu", ["image"], ["y"])
    onnx.save(chain([relu], {}, [1, 3, 8, 8], "y"), tmp_path / "m.onnx")
    made = {"targets": ["onnxruntime"], "precisions": ["float32"]}
    report = edgekit.convert(
        tmp_path / "m.onnx", **made, output=tmp_path / "out", calibration={"image": images.astype("f4")}
    )
    assert report.warnings == (
        f"calibration samples: {said}: ranges and answers found on them say nothing of other inputs",
    )


def test_one_picture_and_samples_of_which_the_last_alone_differs_are_no_such_thing(tmp_path: Path) -> None:
    relu = onnx.helper.make_node("Relu", ["image"], ["y"])
    onnx.save(chain([relu], {}, [1, 3, 8, 8], "y"), tmp_path / "m.onnx")
    late = np.repeat(crops(1, 3)[:, :, :8, :8] / np.float32(255), 6, axis=0)
    late[5, 0, 0, 0] += 0.5
    for images in (late[:1], late):
        report = edgekit.convert(
            tmp_path / "m.onnx", targets=["onnxruntime"], precisions=["float32"], output=tmp_path / "out",
            calibration={"image": images}, overwrite=True,
        )  # fmt: skip
        assert report.warnings == ()
