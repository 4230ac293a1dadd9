"""Small models of Keras 3, Keras 2 and TensorFlow, written to a folder: `python keras_models.py FOLDER`.

A process of its own: the tests themselves load no TensorFlow.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

LAYERS = """
import keras

class Twice(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x
"""


def networks(folder: Path) -> None:
    """Keras 3: what people learn with, untrained (the seed is fixed), small."""
    import keras
    from keras import layers as k

    keras.utils.set_random_seed(0)
    image = keras.Input((28, 28, 1), name="image")
    y = k.Conv2D(8, 3, activation="relu")(image)
    y = k.MaxPooling2D()(k.BatchNormalization()(y))
    y = k.Conv2D(16, 3, padding="same", groups=2, activation="gelu")(y)
    y = k.Dropout(0.5)(k.Flatten()(k.MaxPooling2D()(y)))
    keras.Model(image, k.Dense(10, activation="softmax", name="digit")(y)).save(folder / "cnn.keras")
    keras.Sequential([
        keras.Input((10, 1), name="series"), k.LSTM(8, return_sequences=True), k.LSTM(4),
        k.Dense(1, name="next"),
    ]).save(folder / "lstm.keras")  # fmt: skip
    gru = keras.Sequential([keras.Input((6, 3), name="series"), k.GRU(4), k.Dense(2, name="turn")])
    gru.save(folder / "gru.keras")
    gru.export(folder / "exported", verbose=False)  # a SavedModel: a while loop, one signature of two names
    wide = keras.Sequential([keras.Input((3, 8), name="series"), k.GRU(96), k.Dense(2, name="turn")])
    wide.export(folder / "wide", verbose=False)  # a loop takes a weight that is not small
    keras.Sequential([
        keras.Input((3, 8), name="series"), k.Bidirectional(k.LSTM(96, return_sequences=True)), k.LSTM(64),
        k.Dense(2, name="turn"),
    ]).save(folder / "wide_lstm.keras")  # fmt: skip
    keras.Sequential([
        keras.Input((7,), name="words"), k.Embedding(30, 8, mask_zero=True), k.LSTM(4),
        k.Dense(1, activation="sigmoid", name="mood"),
    ]).save(folder / "words.keras")  # fmt: skip
    tokens = keras.Input((None, 1024), name="tokens")
    y = k.Attention()([k.Dense(16)(tokens), k.Dense(16)(tokens)])
    keras.Model(tokens, {"b": k.Dense(3)(y), "a": k.Dense(3)(y)}).save(folder / "attention.keras")
    keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None, classes=10).save(
        folder / "mobile.keras"
    )
    unet(k, keras).save(folder / "unet.keras")


def unet(k, keras):
    """Two levels down and up, with skips."""
    picture = keras.Input((32, 32, 3), name="picture")
    first = k.Conv2D(8, 3, padding="same", activation="relu")(picture)
    second = k.Conv2D(16, 3, padding="same", activation="relu")(k.MaxPooling2D()(first))
    deep = k.Conv2D(32, 3, padding="same", activation="relu")(k.MaxPooling2D()(second))
    up = k.Concatenate()([k.Conv2DTranspose(16, 2, strides=2)(deep), second])
    up = k.Concatenate()([k.UpSampling2D()(k.Conv2D(8, 3, padding="same")(up)), first])
    return keras.Model(picture, k.Conv2D(1, 1, activation="sigmoid", name="mask")(up))


def odd_ones(folder: Path) -> None:
    """Keras 3: code inside, layers of one's own, weights alone."""
    import keras
    from keras import layers as k

    (folder / "layers.py").write_text(LAYERS)
    sys.path.insert(0, str(folder))
    from layers import Twice

    four = keras.Input((4,), name="x")
    custom = keras.Sequential([four, Twice(), k.Dense(2, name="y")])
    custom.save(folder / "custom.keras")
    custom.save(folder / "custom.h5")
    custom.save_weights(folder / "only.weights.h5")
    keras.Sequential([four, k.Lambda(lambda x: x + 1.0, name="plus")]).save(folder / "code.keras")


def keras_2(folder: Path) -> None:
    """Keras 2: keys that Keras 3 refuses, and hard_sigmoid, which it computes otherwise."""
    import tf_keras as keras
    from tf_keras import layers as k

    keras.utils.set_random_seed(0)
    old = keras.Sequential([
        keras.Input((8, 8, 2), name="image"), k.DepthwiseConv2D(3), k.SeparableConv2D(4, 3),
        k.Activation("hard_sigmoid"), k.ThresholdedReLU(0.2), k.Flatten(), k.Dense(3, name="age"),
    ])  # fmt: skip
    old.save(folder / "old.h5")
    old.save(folder / "old.keras")
    series = keras.Input((5, 3), name="series")
    y = k.Bidirectional(k.LSTM(4, return_sequences=True))(series)
    keras.Model(series, k.GRU(3, name="state")(y)).save(folder / "old_rnn.h5")
    keras.Sequential([keras.Input((4,)), k.Lambda(lambda x: x * 2.0)]).save(folder / "old_code.h5")


def saved_models(folder: Path) -> None:
    """TensorFlow: one signature with two outputs of one shape, two signatures, none."""
    import tensorflow as tf

    tf.random.set_seed(0)
    module = tf.Module()
    module.w = tf.Variable(tf.random.normal((4, 3), seed=1))
    spec = tf.TensorSpec((None, 4), tf.float32, name="x")

    def made(body):
        return tf.function(body, input_signature=[spec], autograph=False).get_concrete_function()

    twins = made(lambda x: {"right": tf.nn.relu(x @ module.w), "left": x @ module.w})
    grow = made(lambda x: {"y": x + 1.0})
    tf.saved_model.save(module, str(folder / "one"), signatures=twins)
    tf.saved_model.save(module, str(folder / "two"), signatures={"twins": twins, "grow": grow})
    tf.saved_model.save(module, str(folder / "none"))


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "tensorflow"
    place = Path(sys.argv[1])
    for make in (networks, odd_ones, keras_2, saved_models):
        make(place)
