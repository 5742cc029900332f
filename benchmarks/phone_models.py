"""The models whose export is measured, pruned by magnitude and fed with random numbers.

They are not trained: sizes, latencies and the agreement of file and model do not need
it. Batch norm's statistics are estimated on the inputs, so that activations are of the
usual size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import dpf_tf
from official_models import models


@dataclasses.dataclass(frozen=True)
class PhoneModel:
    """A model: how it is built, and the upper bound of its whole-numbered inputs."""

    build: Callable[[Any], Any]
    vocabulary: int | None = None

    def inputs(self, model: Any, count: int, seed: int) -> np.ndarray:
        """Returns random inputs."""
        rng = np.random.default_rng(seed)
        shape = (count, *model.inputs[0].shape[1:])
        if self.vocabulary is not None:
            return rng.integers(0, self.vocabulary, shape).astype(np.int32)
        return rng.normal(size=shape).astype(np.float32)

    def pruned(self, keras: Any, sparsity: float) -> Any:
        """Returns the plain model with so many zeros in its kernels, the head's too."""
        keras.utils.set_random_seed(0)
        model = self.build(keras)
        if sparsity:
            pruned = dpf_tf.prune_low_magnitude_dpf(
                model,
                dpf_tf.ConstantSparsity(sparsity),
                allocation="uniform",
                layers=lambda layer: not _is_depthwise_or_table(layer),
            )
            dpf_tf.MaskUpdater(pruned).update(0)
            model = dpf_tf.strip_pruning(pruned)
        if any("BatchNorm" in type(layer).__name__ for layer in model.layers):
            data = tf.data.Dataset.from_tensor_slices(self.inputs(model, 32, seed=1))
            dpf_tf.recalibrate_batch_norm(model, data.batch(16))
        return model


def _is_depthwise_or_table(layer: Any) -> bool:
    return type(layer).__name__ in ("DepthwiseConv2D", "Embedding")


def mlp(keras: Any) -> Any:
    """Returns a perceptron with two hidden layers."""
    return keras.Sequential(
        [
            keras.Input((784,), name="features"),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def text_model(keras: Any) -> Any:
    """Returns a classifier of token sequences: one block of a transformer."""
    tokens = keras.Input((64,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(8000, 64)(tokens)
    y = keras.layers.MultiHeadAttention(4, 16)(x, x)
    x = keras.layers.LayerNormalization()(keras.layers.Add()([x, y]))
    y = keras.layers.Dense(256, activation="relu")(x)
    y = keras.layers.Dense(64)(y)
    x = keras.layers.LayerNormalization()(keras.layers.Add()([x, y]))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, keras.layers.Dense(4, name="logits")(x))


PHONE_MODELS = {
    "mobilenet_v1": PhoneModel(lambda k: models.build("mobilenet_v1", k, classes=1000)),
    "mobilenet_v2": PhoneModel(lambda k: models.build("mobilenet_v2", k, classes=1000)),
    "resnet20": PhoneModel(lambda k: models.build("resnet20", k, classes=10)),
    "mlp": PhoneModel(mlp),
    "text": PhoneModel(text_model, vocabulary=8000),
    "keras.applications.MobileNet": PhoneModel(
        lambda k: k.applications.MobileNet(weights=None)
    ),
}
