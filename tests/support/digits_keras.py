"""The digits network in Keras, with the weights PyTorch learned: `python digits_keras.py FOLDER OUT.keras`.

Reads FOLDER/digits.pt (examples/digits/train.py). A process of its own: the tests load no TensorFlow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def norm(k, weights, name, y):
    """A BatchNormalization with PyTorch's weights, applied."""
    layer = k.BatchNormalization(epsilon=1e-5)
    y = layer(y)
    layer.set_weights([weights[f"{name}.{n}"] for n in ("weight", "bias", "running_mean", "running_var")])
    return y


def conv(k, weights, name, y, *, stride=1):
    """A convolution without bias with PyTorch's weights, applied; depthwise where the weight is."""
    weight = weights[f"{name}.weight"]
    size = weight.shape[-1]
    if size > 1:
        y = k.ZeroPadding2D(size // 2)(y)
    depthwise = weight.shape[1] == 1 and y.shape[-1] > 1
    if depthwise:
        layer = k.DepthwiseConv2D(size, use_bias=False)
    else:
        layer = k.Conv2D(len(weight), size, strides=stride, use_bias=False)
    y = layer(y)
    layer.set_weights([weight.transpose(2, 3, 0, 1) if depthwise else weight.transpose(2, 3, 1, 0)])
    return y


def block(k, weights, name, y):
    """Depthwise 3x3, pointwise 1x1, shortcut."""
    inner = norm(k, weights, f"{name}.body.1", conv(k, weights, f"{name}.body.0", y))
    inner = conv(k, weights, f"{name}.body.3", k.ReLU(6.0)(inner))
    return k.Add()([y, norm(k, weights, f"{name}.body.4", inner)])


def network(keras, weights):
    """What examples/digits/model.py is in PyTorch, channels last."""
    k = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    y = image
    for at, then in ((0, 3), (4, 8), (9, None)):
        y = conv(k, weights, f"features.{at}", y, stride=2 if at == 0 else 1)
        y = k.ReLU()(norm(k, weights, f"features.{at + 1}", y))
        y = k.MaxPooling2D()(y) if at else y
        y = block(k, weights, f"features.{then}", y) if then else y
    head = k.Dense(10)
    model = keras.Model(image, head(k.Flatten()(y)))
    rows = weights["head.1.weight"].reshape(10, 64, 3, 3).transpose(2, 3, 1, 0)  # flattened channels last
    head.set_weights([rows.reshape(-1, 10), weights["head.1.bias"]])
    return model


def main(folder: Path, out: Path) -> None:
    """Write the .keras file, whose answers are PyTorch's."""
    import torch

    state = torch.load(folder / "digits.pt", weights_only=True)
    weights = {name: value.numpy() for name, value in state.items()}
    import keras

    model = network(keras, weights)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "digits"))
    from model import DigitsNet

    module = DigitsNet().eval()
    module.load_state_dict(state)
    images = np.random.default_rng(0).random((4, 1, 28, 28), np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(model(images.transpose(0, 2, 3, 1)).numpy(), expected, rtol=1e-3, atol=1e-3)
    model.save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
