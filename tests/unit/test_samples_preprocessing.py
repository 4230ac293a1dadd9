"""A network whose BatchNorm statistics are those of real photographs judges how others are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from photographs import SIDE, chain, crops, network

from edgekit.core.model import Signature, TensorSpec
from edgekit.core.samples import samples_from_arrays
from edgekit.core.samples.preprocessing import guess, is_picture
from edgekit.graph.check_samples import judge_samples
from edgekit.graph.norm_statistics import statistics_graph, write_statistics

MEAN = np.float32([123.675, 116.28, 103.53]).reshape(1, 3, 1, 1)
STD = np.float32([58.395, 57.12, 57.375]).reshape(1, 3, 1, 1)
WAYS = {
    "0..1, pixel / 255": lambda x: x / 255,
    "-1..1": lambda x: x / 127.5 - 1,
    "0..255": lambda x: x,
    "ImageNet's mean and deviation": lambda x: (x - MEAN) / STD,
}


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For every way of preparing pictures, the statistics of a network trained that way."""
    folder, files = tmp_path_factory.mktemp("statistics"), {}
    training = crops(150, seed=0)
    for number, (name, way) in enumerate(WAYS.items()):
        source, files[name] = folder / f"{number}.onnx", str(folder / f"{number}.statistics.onnx")
        onnx.save(network(np.float32(way(training))), source)
        assert write_statistics(str(source), files[name])
    return files


def judged(statistics: str, pictures: np.ndarray) -> dict[str, Any]:
    spec = TensorSpec(name="image", dtype="float32", shape=(1, *pictures.shape[1:]))
    arrays = {"image": np.ascontiguousarray(pictures, dtype=np.float32)}
    signature = Signature(inputs=(spec,), outputs=())
    return judge_samples(statistics, samples_from_arrays(arrays, signature=signature))


@pytest.mark.parametrize("trained", WAYS)
def test_pictures_prepared_as_in_training_raise_no_suspicion(judges: dict[str, str], trained: str) -> None:
    for seed in range(1, 4):
        for count in (10, 30):
            answer = judged(judges[trained], WAYS[trained](crops(count, seed)))
            assert answer["suspicion"] == "", (seed, count)
            assert 0.5 < answer["variance"] < 2


@pytest.mark.parametrize("trained", WAYS)
@pytest.mark.parametrize("given", WAYS)
def test_the_way_that_would_fit_is_named(judges: dict[str, str], trained: str, given: str) -> None:
    if given == trained:
        answer = judged(judges[trained], WAYS[given](crops(20, 1))[:, ::-1])
        assert answer["suspicion"].startswith("red and blue look swapped")
        return
    answer = judged(judges[trained], WAYS[given](crops(20, 1)))
    now, _, then = answer["suspicion"].partition("what fits is ")
    assert f"They are {given}" in now
    assert then.startswith(trained)
    assert "red and blue" not in then
    assert f"their variance is {answer['variance']:.3g} times" in now


def test_a_wrong_scale_and_swapped_colours_are_both_named(judges: dict[str, str]) -> None:
    answer = judged(judges["-1..1"], (crops(20, 1) / 255)[:, ::-1])
    assert "what fits is -1..1, (pixel - 127.5) / 127.5, and red and blue swapped" in answer["suspicion"]


def test_a_mean_that_was_not_subtracted_is_noticed_though_the_variance_is_right(
    judges: dict[str, str],
) -> None:
    answer = judged(judges["-1..1"], crops(20, 1) / 127.5)
    assert 0.5 < answer["variance"] < 2
    assert "what fits is -1..1" in answer["suspicion"]


def test_the_order_of_colours_is_not_judged_on_fewer_than_eight_pictures(judges: dict[str, str]) -> None:
    swapped = (crops(7, 1) / 255)[:, ::-1]
    assert judged(judges["0..1, pixel / 255"], swapped)["suspicion"] == ""


def test_values_that_no_usual_way_explains_are_reported_without_a_name(judges: dict[str, str]) -> None:
    noise = np.random.default_rng(0).normal(0, 30, (16, 3, SIDE, SIDE))
    text = judged(judges["-1..1"], noise)["suspicion"]
    assert text.startswith("the samples do")
    assert "times that of training" in text


def test_channels_last_pictures_are_judged_alike(tmp_path: Path) -> None:
    source, out = tmp_path / "m.onnx", str(tmp_path / "s.onnx")
    onnx.save(network(np.float32(crops(150, 0) / 255), "nhwc"), source)
    assert write_statistics(str(source), out)
    right = crops(20, 1).transpose(0, 2, 3, 1) / 255
    assert judged(out, right)["suspicion"] == ""
    assert judged(out, right[..., ::-1])["suspicion"].startswith("red and blue look swapped")
    assert "what fits is 0..1" in judged(out, right * 255)["suspicion"]


def test_samples_of_another_size_are_judged_too(judges: dict[str, str]) -> None:
    wide = crops(20, 1)[..., : SIDE - 10] / 255
    assert judged(judges["0..1, pixel / 255"], wide)["suspicion"] == ""
    assert "what fits is 0..1" in judged(judges["0..1, pixel / 255"], wide * 255)["suspicion"]


def test_a_network_without_batch_norm_has_no_statistics(tmp_path: Path) -> None:
    model = chain([helper.make_node("Relu", ["image"], ["y"])], {}, [1, 3, 8, 8], "y")
    assert statistics_graph(model) is None


def test_inputs_that_are_no_pictures_are_judged_by_their_variance(tmp_path: Path) -> None:
    weights = {k: np.full(4, v, np.float32) for k, v in (("s", 1), ("o", 0), ("m", 3), ("v", 4))}
    node = helper.make_node("BatchNormalization", ["image", "s", "o", "m", "v"], ["y"])
    onnx.save(chain([node], weights, [1, 4], "y"), tmp_path / "m.onnx")
    out = str(tmp_path / "s.onnx")
    assert write_statistics(str(tmp_path / "m.onnx"), out)
    features = np.random.default_rng(0).normal(3, 2, (40, 4))
    assert judged(out, features)["suspicion"] == ""
    text = judged(out, features * 100)["suspicion"]
    assert "their variance is" in text
    assert judged(out, features * 0.1)["variance"] == pytest.approx(0.01, rel=0.6)


def test_statistics_are_mean_and_mean_square_of_the_normalized_input(tmp_path: Path) -> None:
    weights = {k: np.float32(v) for k, v in (("s", [1, 1]), ("o", [0, 0]), ("m", [1, -2]), ("v", [4, 0]))}
    node = helper.make_node("BatchNormalization", ["image", "s", "o", "m", "v"], ["y"], epsilon=0.25)
    made = statistics_graph(chain([node], weights, [1, 2, 1, 2], "y"))
    assert made is not None
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.float32([3, 5, -2, -2]).reshape(1, 2, 1, 2)
    first, second = session.run(None, {"image": image})
    root = np.sqrt(4.25)
    np.testing.assert_allclose(first, [[3 / root, 0]], rtol=1e-6)
    np.testing.assert_allclose(second, [[(4 + 16) / 2 / 4.25 + 0.25 / 4.25, 1.0]], rtol=1e-6)


def test_the_range_tells_how_pictures_were_prepared() -> None:
    pictures = crops(10, 2)
    for name, way in WAYS.items():
        assert guess(np.float32(way(pictures)), 1).name.startswith(name)
    assert is_picture((1, 3, 8, 8)) == 1
    assert is_picture((1, 8, 8, 1)) == 3
    assert is_picture((1, 40, 100)) is None
