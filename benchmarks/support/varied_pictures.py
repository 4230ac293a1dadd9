"""Views of pictures to recover from: `varied_pictures.py:varied` as an augmentation of training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["varied"]

_SCALES, _RATIOS, _MIXED = (0.35, 1.0), (3 / 4, 4 / 3), 0.5
Arrays = dict[str, NDArray[np.float32]]


def varied(
    inputs: Arrays, labels: NDArray[np.int64] | None, rng: np.random.Generator
) -> tuple[Arrays, NDArray[np.int64] | None]:
    """Random crops, flips and contrasts of pictures [n, 3, height, width], half of them mixed with another.

    Teacher and student see the same view, so that a mixture of pictures has a right answer, too (Beyer et
    al., Knowledge distillation: A good teacher is patient and consistent, CVPR 2022, section 3).
    """
    [(name, pictures)] = inputs.items()
    views = np.stack([_cropped(p, rng) for p in pictures])
    one = (len(views), 1, 1, 1)
    views = views * rng.uniform(0.8, 1.2, one) + rng.uniform(-0.1, 0.1, one)
    share = np.where(rng.random(len(views)) < _MIXED, rng.uniform(0, 1, len(views)), 1.0)[:, None, None, None]
    mixed = share * views + (1 - share) * views[rng.permutation(len(views))]
    return {name: np.clip(mixed, -127 / 128, 1.0).astype(np.float32)}, labels


def _cropped(picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    height, width = picture.shape[1:]
    area, ratio = rng.uniform(*_SCALES), np.exp(rng.uniform(*np.log(_RATIOS)))
    tall = min(height, round(height * float(np.sqrt(area / ratio))))
    wide = min(width, round(width * float(np.sqrt(area * ratio))))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    crop = torch.from_numpy(picture[None, :, top : top + tall, left : left + wide].copy())
    sized = torch.nn.functional.interpolate(crop, (height, width), mode="bilinear", antialias=True)[0].numpy()
    return sized[:, :, ::-1] if rng.random() < 0.5 else sized
