"""`magnitude_prune`: a model pruned at once, without training."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dpf_tf import keras_api
from dpf_tf.batch_norm import batch_norm_layers
from dpf_tf.graph import is_graph, wrappers
from dpf_tf.model import prune
from dpf_tf.schedules import ConstantSparsity
from dpf_tf.selection import Choice
from dpf_tf.strip import strip_pruning
from dpf_tf.updater import MaskUpdater


def magnitude_prune(
    model: Any,
    sparsity: float,
    structure: Any = "unstructured",
    *,
    allocation: Any = None,
    layers: Choice = None,
    exclude: Choice = None,
) -> Any:
    """Returns a plain copy of a model whose smallest weights are zero.

    Nothing is trained: this is to look at size and latency (`dpf_tf.shrink`,
    `dpf_tf.export_tflite`) before a training is spent. The accuracy of what it returns
    says little about that of a trained sparse model.

    Args:
        model: a functional or sequential model of either Keras, built and not pruned.
            It stays as it is.
        sparsity: share of zeros, in `[0, 1)`; of filters or blocks, where these are
            pruned whole.
        structure: what is pruned as one; see `prune_low_magnitude_dpf`.
        allocation: how the sparsity is shared; see there. Untrained kernels of several
            sizes have magnitudes that do not compare: `"uniform"` fits them better.
        layers: what is pruned; see there.
        exclude: what stays dense; see there.

    Returns:
        A new, uncompiled model of the same name with its own variables.

    Raises:
        TypeError: if `model` or an option has the wrong type.
        ValueError: if the model is no such one, or an option's value is unknown or out
            of range.

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16),
        ...                           keras.layers.Dense(2)])
        >>> sparse = dpf_tf.magnitude_prune(model, 0.5, dpf_tf.Filters())
        >>> [weight.shape for weight in dpf_tf.shrink(sparse).get_weights()]
        [(8, 8), (8,), (8, 2), (2,)]
    """
    keras_api.require(model, "a functional or sequential Keras model")
    if not (is_graph(model) and model.built):
        raise ValueError(
            "`magnitude_prune` needs a functional or sequential model that is built. "
            f"Received: {model!r} (of type {type(model).__name__})"
        )
    if wrappers(model):
        raise ValueError(
            f"'{model.name}' is pruned already: its masks are its own. "
            "`strip_pruning(model)` gives the sparse model that it stands for."
        )
    pruned = prune(
        model,
        ConstantSparsity(sparsity),
        allocation=allocation,
        structure=structure,
        layers=layers,
        exclude=exclude,
    )
    # The two models share their variables, and silence sets means to zero.
    means = [norm.moving_mean for norm in batch_norm_layers(pruned)]
    values = [tf.identity(mean) for mean in means]
    updater = MaskUpdater(pruned)
    try:
        updater.recompute(0)
        updater.silence()
        return strip_pruning(pruned)
    finally:
        for mean, value in zip(means, values, strict=True):
            mean.assign(value)
