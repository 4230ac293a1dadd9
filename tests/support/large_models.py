"""Models of a given size, for memory to be measured on: `python large_models.py keras|torch FOLDER`.

Three networks: one large Dense layer; thirty convolutions with BatchNormalization; an LSTM and Dense layers
on sequences. Their "tiny" twins have the same layers with few channels: what they take is what the frameworks
themselves take.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# units of the Dense layer, channels of the convolutions, features of the sequences
SIZES = {"large": (8192, 320, 1024), "tiny": (8, 4, 8)}

TORCH = f"""
import torch
from torch import nn

SIZES = {SIZES!r}

def dense(size):
    units = SIZES[size][0]
    return nn.Sequential(nn.Linear(4096 if size == "large" else 8, units), nn.ReLU(), nn.Linear(units, 10))

def convolutions(size):
    width, layers, before = SIZES[size][1], [], 3
    for _ in range(30):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers)

class Sequences(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.wide = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(3))
        self.narrow = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(3))

    def forward(self, x):
        x = self.lstm(x)[0]
        for wide, narrow in zip(self.wide, self.narrow):
            x = x + narrow(torch.relu(wide(x)))
        return x

def sequences(size):
    return Sequences(SIZES[size][2])

def example(network, size):
    if network is sequences:
        return torch.zeros(1, 5, SIZES[size][2])
    return torch.zeros(1, 4096 if size == "large" else 8) if network is dense else torch.zeros(1, 3, 4, 4)

def dense_large(): return dense("large"), example(dense, "large")
def dense_tiny(): return dense("tiny"), example(dense, "tiny")
def convolutions_large(): return convolutions("large"), example(convolutions, "large")
def convolutions_tiny(): return convolutions("tiny"), example(convolutions, "tiny")
def sequences_large(): return sequences("large"), example(sequences, "large")
def sequences_tiny(): return sequences("tiny"), example(sequences, "tiny")

def write(folder):
    made = [globals()[f"{{network}}_{{size}}"]
        for network in ("dense", "convolutions", "sequences") for size in SIZES]
    for make in made:
        module, x = make()
        module.eval()
        torch.save(module.state_dict(), folder / f"{{make.__name__}}.pt")
        torch.jit.trace(module, x).save(str(folder / f"{{make.__name__}}.ts"))
        torch.export.save(torch.export.export(module, (x,)), str(folder / f"{{make.__name__}}.pt2"))
        torch.onnx.export(module, (x,), str(folder / f"{{make.__name__}}.onnx"), dynamo=False,
            opset_version=17, input_names=["x"], output_names=["y"],
            training=torch.onnx.TrainingMode.PRESERVE)
"""


def keras_models(folder: Path) -> None:
    """`NETWORK_SIZE.keras`, `.h5`, and a SavedModel folder `NETWORK_SIZE`."""
    import keras
    from keras import layers as k

    for size, (units, width, features) in SIZES.items():
        dense = keras.Sequential([
            keras.Input((4096 if size == "large" else 8,), name="x"), k.Dense(units, activation="relu"),
            k.Dense(10, name="y"),
        ])  # fmt: skip
        y = image = keras.Input((4, 4, 3), name="x")
        for _ in range(30):
            y = k.ReLU()(k.BatchNormalization()(k.Conv2D(width, 3, padding="same")(y)))
        row = keras.Input((5, features), name="x")
        z = k.LSTM(features, return_sequences=True)(row)
        for _ in range(3):
            z = k.Add()([z, k.Dense(features)(k.Dense(4 * features, activation="relu")(z))])
        models = {"dense": dense, "convolutions": keras.Model(image, y), "sequences": keras.Model(row, z)}
        for name, model in models.items():
            model.save(folder / f"{name}_{size}.keras")
            model.save(folder / f"{name}_{size}.h5")
            model.export(folder / f"{name}_{size}", verbose=False)


def torch_models(folder: Path) -> None:
    """`net.py` with the factories `NETWORK_SIZE`, and `.pt`, `.ts`, `.pt2` and `.onnx` files."""
    (folder / "net.py").write_text(TORCH)
    sys.path.insert(0, str(folder))
    import net

    net.write(folder)


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "tensorflow"
    {"keras": keras_models, "torch": torch_models}[sys.argv[1]](Path(sys.argv[2]))
