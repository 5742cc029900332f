"""Silence: of pruned filters whose masks rest, bias and batch norm go as well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf.groups import collect, views
from dpf_tf.keras_api import shared_tensor


def silence(model: Any, layers: list[tuple[str, Any]]) -> None:
    """Masks the biases and batch norms of pruned filters.

    Args:
        model: a pruned model, or `None` where the layers are in none.
        layers: its wrappers, as `(path, wrapper)`.
    """
    if not any(layer.followers for _, layer in layers):
        return
    for group in collect(model, layers, frozen=True):
        masks = views(group.masks)
        for layer in group.layers:
            if layer.followers:
                channels = group.units.channels(layer.layer, masks)
                if channels is not None:
                    _assign(layer, channels)
                    _forget(layer.layer, channels)


def unsilence(layers: Iterable[Any]) -> None:
    """Takes the masks of biases and batch norms off: the filters' masks move again."""
    for layer in layers:
        if layer.followers:
            _assign(layer, np.ones(layer.follower_masks[0].shape, np.bool_))


def _assign(layer: Any, channels: np.ndarray) -> None:
    for mask in layer.follower_masks:
        (now,) = views([mask])
        if not np.array_equal(now, channels):
            mask.assign(shared_tensor(channels.copy()))


def _forget(layer: Any, channels: np.ndarray) -> None:
    """Sets the mean of a batch norm without scale to that of a silent channel: zero.

    Nothing else takes away what the mean of an earlier, live filter would add.
    """
    mean = getattr(layer, "moving_mean", None)
    if mean is not None and getattr(layer, "gamma", None) is None:
        mean.assign(tf.where(channels, tf.convert_to_tensor(mean), 0.0))
