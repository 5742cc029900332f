"""Ranks magnitudes where they lie: on the host, or on the accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf import keras_api, threshold
from dpf_tf.threshold_xla import keep_largest_xla


def keep_largest(
    kernels: Sequence[Any],
    keep: int,
    scales: Sequence[float] | None,
    names: Sequence[str],
) -> list[np.ndarray]:
    """Marks the `keep` weights of largest magnitude in one pool of kernels.

    Args:
        kernels: eager float32 tensors or arrays.
        keep: how many weights of the pool to keep.
        scales: a positive factor per kernel, or `None`.
        names: what error messages call the kernels.

    Returns:
        The masks, as `threshold.keep_largest` does, bit for bit.

    Raises:
        ValueError: if a kernel holds NaN.
    """
    if all(isinstance(k, np.ndarray) or keras_api.on_cpu(k) for k in kernels):
        views = [keras_api.numpy_view(kernel) for kernel in kernels]
        return threshold.keep_largest(views, keep, scales=scales, names=names)
    # On an accelerator the kernels stay where they are; only the masks come over.
    masks, nans = _on_device(
        list(kernels),
        tf.constant(keep),
        None if scales is None else [tf.constant(scale) for scale in scales],
    )
    threshold.refuse_nan(nans.numpy(), names)
    return [mask.numpy() for mask in masks]


@tf.function(jit_compile=True)
def _on_device(
    kernels: list[tf.Tensor], keep: tf.Tensor, scales: list[tf.Tensor] | None
) -> tuple[list[tf.Tensor], tf.Tensor]:
    return keep_largest_xla(kernels, keep, scales=scales)
