"""Grids, blocks and spectra, against ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tflite_models import compare, feeds, invoke, lowered, single

from edgekit.errors import Unsupported

RANDOM = np.random.default_rng(2)
F = np.float32
IMAGE, VOLUME = (2, 3, 5, 7), (1, 2, 3, 4, 5)


def ints(*values):
    return np.asarray(values, np.int64)


CASES = {
    "affine grid": single("AffineGrid", (2, 2, 3), ints(2, 3, 4, 5)),
    "affine grid corners": single("AffineGrid", (2, 2, 3), ints(2, 3, 4, 5), align_corners=1),
    "affine grid of a volume": single("AffineGrid", (1, 3, 4), ints(1, 1, 2, 3, 4)),
    "affine grid of one row": single("AffineGrid", (1, 2, 3), ints(1, 1, 1, 4)),
    "blocks to a picture": single("Col2Im", (1, 5, 5), ints(5, 5), ints(1, 5)),
    "overlapping blocks": single("Col2Im", (2, 12, 49), ints(8, 8), ints(2, 2)),
    "blocks with pads and strides": single(
        "Col2Im", (1, 8, 12), ints(5, 4), ints(2, 2), pads=[1, 1, 1, 1], strides=[2, 1], dilations=[1, 2]
    ),
    "dft of complex numbers": single("DFT", (3, 10, 2), None, ints(0)[0]),
    "dft of one side": single("DFT", (2, 9, 1), None, ints(1)[0], onesided=1),
    "dft inverse": single("DFT", (2, 6, 2), None, ints(1)[0], inverse=1),
    "dft padded": single("DFT", (2, 6, 1), ints(8)[0], ints(1)[0]),
    "dft cut": single("DFT", (2, 6, 1), ints(4)[0], ints(1)[0]),
    "stft": single("STFT", (2, 64, 1), ints(8)[0], None, ints(16)[0], onesided=1),
    "stft windowed": single("STFT", (1, 64, 1), ints(5)[0], RANDOM.random(16).astype(F), onesided=1),
    "stft both sides": single(
        "STFT", (1, 64, 1), ints(8)[0], RANDOM.random(16).astype(F), ints(16)[0], onesided=0
    ),
}
SAMPLES = {
    f"{mode} {padding} {'corners' if align else 'pixels'}": single(
        "GridSample", IMAGE, (2, 4, 6, 2), mode=mode, padding_mode=padding, align_corners=align
    )
    for mode, padding, align in itertools.product(
        ("linear", "nearest"), ("zeros", "border", "reflection"), (0, 1)
    )
}
SAMPLES["linear of a volume"] = single("GridSample", VOLUME, (1, 2, 3, 4, 3))
SAMPLES["nearest of a volume"] = single("GridSample", VOLUME, (1, 2, 3, 4, 3), mode="nearest")


@pytest.mark.parametrize("layout", ["nhwc", "source"])
@pytest.mark.parametrize("case", CASES)
def test_an_operator_answers_like_onnx_runtime(case, layout, tmp_path, need):
    need("ai_edge_litert")
    compare(CASES[case], feeds(CASES[case]), tmp_path, layout)


@pytest.mark.parametrize("layout", ["nhwc", "source"])
@pytest.mark.parametrize("case", SAMPLES)
def test_samples_inside_and_outside_are_those_of_onnx_runtime(case, layout, tmp_path, need):
    need("ai_edge_litert")
    values = feeds(SAMPLES[case])
    values["x1"] = RANDOM.uniform(-1.6, 1.6, values["x1"].shape).astype(F)
    compare(SAMPLES[case], values, tmp_path, layout)


def test_a_short_spectrum_becomes_its_real_signal_again(tmp_path, need):
    """ONNX Runtime refuses this case: the reference is numpy's inverse."""
    need("ai_edge_litert")
    from onnx import helper, numpy_helper

    for length in (8, 9):
        signal = RANDOM.standard_normal((2, length))
        spectrum = np.fft.rfft(signal)
        x = np.stack([spectrum.real, spectrum.imag], -1).astype(F)
        node = helper.make_node("DFT", ["x", "n", "axis"], ["y"], inverse=1, onesided=1)
        ports = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", x.shape), ("y", (2, length, 1)))]
        constants = [numpy_helper.from_array(np.int64(v), n) for n, v in (("n", length), ("axis", 1))]
        inner = helper.make_graph([node], "test", ports[:1], ports[1:], constants)
        model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        got = invoke(lowered(model, tmp_path / str(length)), {"x": x}).outputs["y"]
        np.testing.assert_allclose(got[..., 0], signal, atol=1e-5)


def test_a_spectrogram_is_one_convolution(tmp_path, need):
    need("ai_edge_litert")
    ran = invoke(lowered(CASES["stft"], tmp_path), feeds(CASES["stft"]))
    assert (ran.count("CONV_2D"), ran.count("GATHER")) == (1, 0)


REFUSED = {
    "cubic": (single("GridSample", IMAGE, (2, 4, 6, 2), mode="cubic"), "mode 'cubic'"),
    "one aligned place": (
        single("AffineGrid", (1, 2, 3), ints(1, 1, 1, 4), align_corners=1),
        "one place",
    ),
    "bins that onnx counts wrongly": (
        single("STFT", (2, 64, 1), ints(8)[0], None, ints(16)[0]),
        "of 9 bins whose output has 16",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exact_or_disputed_is_refused_by_name(case, tmp_path):
    model, words = REFUSED[case]
    with pytest.raises(Unsupported, match=words):
        lowered(model, tmp_path)
