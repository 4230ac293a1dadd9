"""The twins in Keras of `paired_networks.py`: `python paired_keras.py FOLDER` reads its weights there.

Adds NAME.keras to the folder. A process of its own: the tests themselves load no TensorFlow.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np


def cnn(keras, k):
    """A Sequential network on digits."""
    return keras.Sequential([
        keras.Input((28, 28, 1), name="image"), k.Conv2D(8, 3, activation="relu", name="conv1"),
        k.BatchNormalization(name="norm"), k.MaxPooling2D(),
        k.Conv2D(16, 3, padding="same", activation="relu", name="conv2"), k.MaxPooling2D(), k.Flatten(),
        k.Dense(10, name="dense"),
    ])  # fmt: skip


def lstm(keras, k):
    """Two stacked LSTMs."""
    return keras.Sequential([
        keras.Input((10, 1), name="series"), k.LSTM(16, return_sequences=True, name="lstm1"),
        k.LSTM(8, name="lstm2"), k.Dense(1, name="dense"),
    ])  # fmt: skip


def attention(keras, k):
    """Attention over any number of tokens."""
    tokens = keras.Input((None, 1024), name="tokens")
    y = k.Attention()([k.Dense(16, name="query")(tokens), k.Dense(16, name="value")(tokens)])
    return keras.Model(tokens, k.Dense(3, name="dense")(k.GlobalAveragePooling1D()(y)))


def mobilenet_v2(keras, k):
    """Keras' own."""
    image = keras.Input((64, 64, 3), name="image")
    return keras.applications.MobileNetV2(
        input_tensor=image, alpha=0.35, weights=None, classes=10, classifier_activation=None
    )


def unet(keras, k):
    """Two levels down and up, with skips."""
    picture = keras.Input((32, 32, 3), name="picture")
    first = k.Conv2D(8, 3, padding="same", activation="relu", name="first")(picture)
    second = k.Conv2D(16, 3, padding="same", activation="relu", name="second")(k.MaxPooling2D()(first))
    deep = k.Conv2D(32, 3, padding="same", activation="relu", name="deep")(k.MaxPooling2D()(second))
    x = k.Concatenate()([k.Conv2DTranspose(16, 2, strides=2, name="up")(deep), second])
    x = k.UpSampling2D()(k.Conv2D(8, 3, padding="same", name="narrow")(x))
    x = k.Conv2D(1, 1, activation="sigmoid", name="mask")(k.Concatenate()([x, first]))
    return keras.Model(picture, x)


def main(folder: Path) -> None:
    """Build every twin and give it its weights; all of them, and none besides."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    for make in (cnn, lstm, attention, mobilenet_v2, unet):
        model = make(keras, keras.layers)
        with np.load(folder / f"{make.__name__}.weights.npz") as weights:
            names = {key.partition("/")[0] for key in weights}
            assert names == {layer.name for layer in model.layers if layer.weights}, make.__name__
            for name in names:
                layer = model.get_layer(name)
                layer.set_weights([weights[f"{name}/{i}"] for i in range(len(layer.weights))])
        model.save(folder / f"{make.__name__}.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
