"""Batch norm under changing masks: its moving statistics belong to past masks.

The statistics that batch norm keeps for inference are a moving average over the last
hundred steps or so, and so over several masks. Where masks change to the end, the
accuracy at test time depends on how many steps ago they last did.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf import keras_api, prunable
from dpf_tf.arguments import whole
from dpf_tf.graph import wrappers
from dpf_tf.layer_call import untraced


def batch_norm_layers(model: Any) -> list[Any]:
    """Returns every batch norm layer of a model, at any depth."""
    base = keras_api.of(model).module.layers.BatchNormalization
    return [layer for layer in prunable.all_layers(model) if isinstance(layer, base)]


def trained_batch_norm(model: Any) -> list[Any]:
    """Returns the batch norm layers that are trained; an error if there are none."""
    norms = [layer for layer in batch_norm_layers(model) if layer.trainable]
    if not norms:
        raise ValueError(
            f"'{model.name}' has no trainable batch normalization layer; there is "
            "nothing to recalibrate."
        )
    return norms


def recalibrate_batch_norm(
    model: Any, dataset: Iterable[Any], steps: int | None = None
) -> None:
    """Estimates batch norm's moving statistics anew, for the present masks.

    The mean and variance of every trainable batch norm layer become the averages of
    those of `steps` training batches, run in training mode. Nothing else changes:
    weights, masks and all other state are bit for bit as before.

    Args:
        model: a pruned or a plain model of either Keras.
        dataset: batches of training data: `x`, `(x, y)` or `(x, y, sample_weight)`.
        steps: how many batches to use; `None` is all of them (the dataset must end).

    Raises:
        TypeError: if `model` is no Keras model or layer, or `dataset` a tuple of
            arrays.
        ValueError: if the model has no batch norm layer that is trained, or is not
            built, or the dataset gives no batch.

    Example:

        >>> import keras
        >>> import numpy as np
        >>> import dpf_tf
        >>> model = keras.Sequential(
        ...     [keras.Input((2,)), keras.layers.BatchNormalization()])
        >>> batch = np.array([[0.0, 4.0], [2.0, 6.0]], "float32")
        >>> dpf_tf.recalibrate_batch_norm(model, [batch])
        >>> model.layers[-1].moving_mean.numpy()
        array([1., 5.], dtype=float32)

    References:
        Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018, section
        3.2, does the same for averaged weights.
    """
    api = keras_api.require(model, "a model of Keras 3 or tf_keras")
    check_batches("dataset", dataset)
    if steps is not None:
        whole("`steps`", steps, least=1, of="batches")
    norms = trained_batch_norm(model)
    if not all(norm.built for norm in norms):
        raise ValueError(
            f"'{model.name}' is not built: call it on a batch before its batch "
            "normalization is recalibrated."
        )
    statistics = {id(v) for n in norms for v in (n.moving_mean, n.moving_variance)}
    state = [(v, api.dense(v)) for v in model.variables]
    momenta = [norm.momentum for norm in norms]
    pruned = [layer for _, layer in wrappers(model)]
    permitted = [layer.permit("recalibration") for layer in pruned]
    batches, finished = 0, False
    try:
        for variable, value in state:
            if id(variable) in statistics:  # Zero times NaN would be NaN.
                variable.assign(tf.zeros_like(value))
        with untraced(model):
            for batch in itertools.islice(dataset, steps):
                x, _, _ = api.module.utils.unpack_x_y_sample_weight(batch)
                for norm in norms:  # The average of all batches up to this one.
                    norm.momentum = batches / (batches + 1)
                _run(model, x)
                batches += 1
        finished = batches > 0
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for layer, before in zip(pruned, permitted, strict=True):
            layer.permit(before)
        for variable, value in state:
            if not (finished and id(variable) in statistics):
                variable.assign(value)
    if not batches:
        raise ValueError("`dataset` gave no batch: batch norm stays as it was.")


def check_batches(name: str, data: Any) -> None:
    """Refuses what is no iterable of batches."""
    # The rows of an array are no batches, nor is what a text or a mapping yields.
    none = isinstance(data, tuple | str | Mapping | np.ndarray | tf.Tensor)
    if none or not isinstance(data, Iterable):
        raise TypeError(
            f"`{name}` must be an iterable of batches, such as "
            "`tf.data.Dataset.from_tensor_slices((x, y)).batch(32)`. "
            f"Received an object of type {type(data).__name__}"
        )


def _run(model: Any, x: Any) -> None:
    keras_api.strategy_of(model).run(lambda x: model(x, training=True), args=(x,))
