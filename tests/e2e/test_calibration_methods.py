"""Percentile and entropy on the activations of a published network, beside plain implementations of both."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from published import PUBLISHED

from edgekit import api
from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.observers import Method

POLICY = load_target("onnxruntime").int8
BINS, CODES = 2048, 256


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    """The canonical graph of the text-direction classifier, and its samples."""
    folder = tmp_path_factory.mktemp("direction")
    made = PUBLISHED["ocr_direction"](folder)
    out = folder / "out"
    api.convert(
        made.source, targets=["onnxruntime"], precisions=["float32"], shapes=made.shapes, output=out
    )
    model = onnx.load(out / "source/onnx/model.onnx")
    return model, [{"x": row[None]} for row in made.samples["x"]]


@pytest.fixture(scope="module")
def recorded(network, tmp_path_factory) -> dict[str, np.ndarray]:
    """Every value of the tensors behind a ReLU, fetched."""
    model, samples = network
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [n.output[0] for n in model.graph.node if n.op_type == "Relu"]
    have = {o.name for o in watched.graph.output}
    watched.graph.output.extend(i for i in model.graph.value_info if i.name in set(names) - have)
    path: Path = tmp_path_factory.mktemp("watched") / "model.onnx"
    onnx.save(watched, path)
    session = onnxruntime.InferenceSession(str(path))
    found = [dict(zip(names, session.run(names, s), strict=True)) for s in samples]
    values = {n: np.concatenate([f[n].ravel() for f in found]) for n in names}
    return {n: v for n, v in values.items() if v.size > 50_000}


def ranges(network, method: Method) -> dict[str, tuple[float, float]]:
    model, samples = network
    return calibrate(model, samples, policies=[POLICY], method=method).ranges


def divergence(counts: np.ndarray, stop: int) -> float:
    """Kullback-Leibler divergence of Migacz's talk for the first `stop` bins, step by step."""
    p = counts[:stop].copy()
    p[-1] += counts[stop:].sum()
    q = np.zeros(stop)
    for code in range(CODES):
        bins = slice(code * stop // CODES, (code + 1) * stop // CODES)
        filled = counts[bins] > 0
        if filled.any():
            q[bins][filled] = counts[bins].sum() / filled.sum()
    p, q = p / p.sum(), q / q.sum()
    used = p > 0
    return np.inf if (q[used] == 0).any() else float((p[used] * np.log(p[used] / q[used])).sum())


def test_percentiles_are_those_of_all_recorded_values(network, recorded):
    assert len(recorded) >= 4
    extremes, found = ranges(network, Method(name="minmax")), ranges(network, Method(
        name="percentile", percentile=99.8))
    for name in set(recorded) & set(found):
        exact = np.percentile(recorded[name], 99.9)
        assert found[name][0] == 0.0
        assert found[name][1] == pytest.approx(exact, rel=0.05), name
        assert found[name][1] < 0.95 * extremes[name][1], name


def test_entropy_is_as_near_to_the_recorded_distribution_as_the_plain_search(network, recorded):
    extremes, found = ranges(network, Method(name="minmax")), ranges(network, Method(name="entropy"))
    names = sorted(set(recorded) & set(found))[:5]
    differing = 0
    for name in names:
        values = recorded[name]
        counts, _ = np.histogram(values[values > 0], bins=BINS, range=(0.0, float(values.max())))
        counts = counts.astype(np.float64)
        plain = min(divergence(counts, stop) for stop in range(CODES, BINS + 1, 16))
        stop = round(found[name][1] / float(values.max()) * BINS)
        at_full = divergence(counts, BINS)
        ours = min(divergence(counts, s) for s in (stop - 1, stop, min(stop + 1, BINS)))
        assert ours - plain <= 0.1 * (at_full - plain) + 1e-3, name
        differing += found[name][1] < 0.98 * extremes[name][1]
    assert differing >= 3
