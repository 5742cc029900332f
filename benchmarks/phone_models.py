"""The models whose export is measured, pruned by magnitude and fed with random numbers.

They are not trained: sizes, latencies and the agreement of file and model do not need
it. Kernels have He et al.'s size, and keep their norm when they are pruned, so that
activations neither vanish nor grow from layer to layer.
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
            sparse = dpf_tf.strip_pruning(pruned)
            for kernel, dense in zip(sparse.weights, model.weights, strict=True):
                norm = tf.norm(kernel)
                if norm > 0:  # A bias may be zero.
                    kernel.assign(kernel * (tf.norm(dense) / norm))
            model = sparse
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


def applications_mobilenet(keras: Any) -> Any:
    """Returns Keras's own MobileNet, whose initial kernels would be too small."""
    model = keras.applications.MobileNet(weights=None, classifier_activation=None)
    for layer in model.layers:
        for weight in layer.weights:
            if len(weight.shape) == 4:
                shape = tuple(weight.shape)
                if type(layer).__name__ == "DepthwiseConv2D":
                    shape = (*shape[:2], 1, shape[2])  # Each has one input.
                values = keras.initializers.HeNormal()(shape)
                weight.assign(tf.reshape(values, weight.shape))
    return model


PHONE_MODELS = {
    "mobilenet_v1": PhoneModel(lambda k: models.build("mobilenet_v1", k, classes=1000)),
    "mobilenet_v2": PhoneModel(lambda k: models.build("mobilenet_v2", k, classes=1000)),
    "resnet20": PhoneModel(lambda k: models.build("resnet20", k, classes=10)),
    "mlp": PhoneModel(mlp),
    "text": PhoneModel(text_model, vocabulary=8000),
    "keras.applications.MobileNet": PhoneModel(applications_mobilenet),
}
