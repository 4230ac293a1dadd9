"""Cut pictures for EfficientNet-Lite0 out of the photographs that the package scikit-image carries.

Writes build/efficientnet_lite0/calibration (crops of some photographs) and build/efficientnet_lite0/held-back
(crops of others): 48 each, 288 pixels a side. They have no ImageNet labels: the recipe judges each artifact
by the float network's own answers.

    pip install --no-deps scikit-image==0.26.0
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).resolve().parents[2] / "build" / "efficientnet_lite0"
CALIBRATION = ("astronaut.png", "coffee.png", "motorcycle_left.png")
HELD_BACK = ("chelsea.png", "rocket.jpg", "motorcycle_right.png")
SIDE = 288
CROPS = 48


def main() -> None:
    """Write both folders; the same pictures every time."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("scikit-image is not installed: pip install --no-deps scikit-image==0.26.0")
    data = Path(spec.submodule_search_locations[0]) / "data"
    for seed, (folder, names) in enumerate({"calibration": CALIBRATION, "held-back": HELD_BACK}.items()):
        place = OUT / folder
        place.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        for number in range(CROPS):
            with Image.open(data / names[number % len(names)]) as picture:
                crop(picture.convert("RGB"), random).save(place / f"{number:03d}.png")
        print(f"{CROPS} pictures in {place.relative_to(OUT.parents[1])}")


def crop(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """A square of 60 to 100 % of the short side at a random place, mirrored half of the time."""
    short = min(picture.size)
    side = int(short * random.uniform(0.6, 1.0))
    left = int(random.integers(0, picture.width - side + 1))
    top = int(random.integers(0, picture.height - side + 1))
    cut = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else cut


if __name__ == "__main__":
    main()
