"""EfficientNet-Lite0, with the statistics of its own training, judges photographs it has never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from PIL import Image
from published import packaged

from edgekit.core.model import Model
from edgekit.core.recipe import SourceOptions
from edgekit.core.samples import samples_from_arrays
from edgekit.graph.check_samples import judge_samples
from edgekit.graph.norm_statistics import write_statistics
from edgekit.pipeline.reading import read_model
from edgekit.pipeline.steps import StepRunner

pytestmark = pytest.mark.conformance
MEAN = np.float32([123.675, 116.28, 103.53]).reshape(3, 1, 1)
STD = np.float32([58.395, 57.12, 57.375]).reshape(3, 1, 1)


def crops(count: int, seed: int) -> np.ndarray:
    """[count, 3, 224, 224], pixels of 0..255: squares of 0.6 to all of the short side."""
    random, found = np.random.default_rng(seed), []
    for number in range(count):
        with Image.open(packaged("skimage", f"data/{PHOTOGRAPHS[number % len(PHOTOGRAPHS)]}")) as picture:
            short = min(picture.size)
            side = int(random.integers(int(0.6 * short), short + 1))
            left, top = (int(random.integers(0, d - side + 1)) for d in picture.size)
            box = (left, top, left + side, top + side)
            square = picture.convert("RGB").resize((224, 224), box=box)
        found.append(np.asarray(square, np.float32).transpose(2, 0, 1))
    return np.stack(found)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, str]:
    folder = tmp_path_factory.mktemp("lite0")
    source = Path(__file__).parents[2] / "examples" / "efficientnet_lite0" / "model.py"
    options = SourceOptions(model=f"{source}:efficientnet_lite0")
    model = read_model(options, out=folder / "model", runner=StepRunner())
    statistics = str(folder / "statistics.onnx")
    assert write_statistics(str(model.unfolded), statistics)
    return model, statistics


def suspicion(network: tuple[Model, str], pictures: np.ndarray) -> str:
    model, statistics = network
    arrays = {"image": np.ascontiguousarray(pictures, np.float32)}
    said = judge_samples(statistics, samples_from_arrays(arrays, signature=model.signature))["suspicion"]
    return str(said)


def test_photographs_prepared_as_in_training_raise_no_suspicion(network: tuple[Model, str]) -> None:
    for seed in range(5):
        for count in (10, 20):
            assert suspicion(network, (crops(count, seed) - 127) / 128) == "", (seed, count)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda x: ((x - 127) / 128)[:, ::-1], "red and blue look swapped"),
        (lambda x: x / 255, "They are 0..1, pixel / 255; what fits is -1..1, (pixel - 127.5) / 127.5"),
        (lambda x: x, "They are 0..255, the pixels as they are; what fits is -1..1"),
        (lambda x: (x - MEAN) / STD, "They are ImageNet's mean and deviation"),
        (lambda x: x / 128, "what fits is -1..1"),
    ],
)
def test_other_preparations_are_told_with_the_one_that_fits(network, given, words) -> None:
    for seed in range(3):
        assert words in suspicion(network, given(crops(20, seed)))
