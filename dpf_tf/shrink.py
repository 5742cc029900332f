"""From zero filters to a smaller model: what is zero as a whole is taken out."""

from __future__ import annotations

import warnings
from typing import Any

from dpf_tf import copies, keras_api
from dpf_tf.graph import is_graph, wrappers
from dpf_tf.plan import Plan, plan
from dpf_tf.strip import strip_pruning

_NAMED = 8  # So many reasons are given at most.


def shrink(model: Any) -> Any:
    """Returns a smaller plain model that computes the same, without its zero filters.

    A filter (or unit of a dense layer) that is exactly zero gives a constant, whatever
    the input; it goes, with all that belongs to its channel: the weights with which the
    next layers read it, batch norm's entries, depthwise kernels, and the filters that
    an addition ties to it, which must be zero too. What its constant (its bias, batch
    norm's shift) added to the next layer is kept: in that layer's bias, or in the mean
    of the batch norm behind it. Where zeros are padded around the constant, one channel
    stays in order to carry it. (If a layer such as `ZeroPadding2D` pads them, the input
    size must be fixed.)

    The given model stays as it is; the new one has its own variables. Outputs are equal
    at inference, up to rounding. A warning names zero filters that have to stay.

    Args:
        model: a functional or sequential model of either Keras, built. One that is
            pruned is stripped first.

    Returns:
        A new, uncompiled model of the same name and class.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if it is neither functional nor sequential, or not built, or no
            filter is zero.

    Example:

        >>> import keras
        >>> import numpy as np
        >>> import dpf_tf
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3),
        ...                           keras.layers.Dense(2)])
        >>> kernel, bias = model.layers[0].get_weights()
        >>> kernel[:, 1] = 0  # The second unit.
        >>> model.layers[0].set_weights([kernel, bias])
        >>> small = dpf_tf.shrink(model)
        >>> [weight.shape for weight in small.get_weights()]
        [(4, 2), (2,), (2, 2), (2,)]
    """
    api = keras_api.require(model, "a functional or sequential Keras model")
    built = is_graph(model) and getattr(model, "inputs", None)
    if not isinstance(model, api.module.Model) or not built:
        raise ValueError(
            "`shrink` needs a functional or sequential model that is built: it follows "
            f"channels through the graph. Received: {model!r} (of type "
            f"{type(model).__name__})"
        )
    if wrappers(model):
        model = strip_pruning(model)
    planned = plan(model)
    if not planned.has_zero_filters:
        raise ValueError(
            f"No filter of '{model.name}' is zero as a whole, so nothing can be taken "
            "out. Prune whole filters: `dpf_tf.prune_low_magnitude_dpf(model, 0.5, "
            "structure=dpf_tf.Filters())`."
        )
    _warn_of_stuck(planned)
    return _rebuilt(model, planned)


def _warn_of_stuck(planned: Plan) -> None:
    if not planned.stuck:
        return
    lines = [f"{x.path}: {x.filters} ({x.reason})" for x in planned.stuck[:_NAMED]]
    if len(planned.stuck) > _NAMED:
        lines.append("...")
    warnings.warn(
        "These zero filters cannot be taken out, by layer: " + "; ".join(lines),
        stacklevel=3,
    )


def _rebuilt(model: Any, planned: Plan) -> Any:
    changed = {
        id(x.layer) for x in planned.channels.nodes if x.layer and planned.changes(x)
    }

    def make(layer: Any) -> Any:
        if id(layer) not in changed or keras_api.class_name(layer) == "TFOpLambda":
            return copies.fresh(layer)
        config = {**layer.get_config(), **planned.config(layer)}
        return type(layer).from_config(config)

    def fill(layer: Any, copy: Any) -> None:
        weights = planned.weights(layer) if id(layer) in changed else {}
        if not weights:
            copies.copy_state(layer, copy)
        for name, value in weights.items():
            getattr(copy, name).assign(value)

    return copies.copy_model(model, "shrink", make, fill)
