"""The values of pixels: from bytes to what a model is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def normalised(
    images: tf.Tensor, mean: Sequence[float], std: Sequence[float]
) -> tf.Tensor:
    """Returns (images / 255 - mean) / std, for images whose shape is static.

    The constants are given the shape of an image, for TensorFlow broadcasts over three
    channels several times more slowly than over a batch.

    Examples:
        >>> print(normalised(tf.constant([[[0], [255]]]), mean=[0.5], std=[0.25]))
        tf.Tensor(
        [[[-2.]
          [ 2.]]], shape=(1, 2, 1), dtype=float32)
    """
    shape = images.shape[-3:]
    scale = 1 / (255 * np.asarray(std))
    shift = -np.asarray(mean) / np.asarray(std)
    scale = np.broadcast_to(scale, shape).astype("float32")
    shift = np.broadcast_to(shift, shape).astype("float32")
    return tf.cast(images, tf.float32) * scale + shift
