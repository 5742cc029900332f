"""From a pruned model to the plain sparse one."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dpf_tf import keras_api
from dpf_tf.graph import is_graph, pruned_layers, rebuild, wrappers
from dpf_tf.wrapper import PruneLowMagnitudeDPF


def strip_pruning(model: Any, into: Any = None) -> Any:
    """Returns the plain sparse model: exact zeros, and nothing of dpf_tf in it.

    The pruned model stays as it is and can be trained further; the stripped one has
    its own copy of every variable.

    Args:
        model: a pruned model, a wrapped layer, or a list of them.
        into: a plain model of the same architecture and built, which receives the
            weights. Needed for subclassed models; with it nothing is cloned.

    Returns:
        A new, uncompiled model of the same name, or `into`.

    Raises:
        ValueError: if nothing is pruned, or `into` does not fit.

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3),
        ...                           keras.layers.Dense(2)])
        >>> pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.5)
        >>> [type(layer).__name__ for layer in dpf_tf.strip_pruning(pruned).layers]
        ['Dense', 'Dense']
    """
    if isinstance(model, list | tuple):
        return [strip_pruning(item) for item in model]
    masked = {
        id(kernel): value
        for _, layer in pruned_layers(model)
        for kernel, value in zip(
            layer.kernels.values(), layer.masked_kernels.values(), strict=True
        )
    }
    masks = {id(m) for _, layer in wrappers(model) for m in layer.masks.values()}
    if into is not None:
        source = [v for v in model.variables if id(v) not in masks]
        _copy_variables(source, into.variables, masked, f"`into` ({into.name})")
        return into
    api = keras_api.of(model)
    if isinstance(model, PruneLowMagnitudeDPF):
        return _strip_layer(model, masked)
    if not is_graph(model):
        raise ValueError(
            f"'{model.name}' is a subclassed model ({type(model).__name__}), which "
            "cannot be cloned. Make a plain one without wrappers, build it by a call "
            "on a batch, and give it: `strip_pruning(pruned, into=plain_model)`."
        )
    pairs: list[tuple[Any, Any]] = []

    def fresh(layer: Any) -> Any:
        if keras_api.of(layer) is None:
            return layer  # An operation of Keras 3, such as `x + y`: it has no state.
        source = layer.layer if isinstance(layer, PruneLowMagnitudeDPF) else layer
        copy = type(source).from_config(source.get_config())
        pairs.append((source, copy))
        return copy

    stripped = rebuild(model, fresh, api, "strip")
    for source, copy in pairs:
        _copy_variables(
            source.variables, copy.variables, masked, f"layer '{source.name}'"
        )
    if wrappers(stripped):
        raise ValueError(
            "These pruned layers lie inside layers of your own, which make them anew "
            f"from their config: {[path for path, _ in wrappers(stripped)]}. Give a "
            "plain model: `strip_pruning(pruned, into=plain_model)`."
        )
    return stripped


def _strip_layer(wrapper: Any, masked: dict[int, tf.Tensor]) -> Any:
    layer = wrapper.layer
    copy = type(layer).from_config(layer.get_config())
    if layer.built:
        copy.build_from_config(layer.get_build_config())
        _copy_variables(
            layer.variables, copy.variables, masked, f"layer '{layer.name}'"
        )
    return copy


def _copy_variables(
    source: list[Any], target: list[Any], masked: dict[int, tf.Tensor], where: str
) -> None:
    described = [[(v.name, tuple(v.shape)) for v in vs] for vs in (source, target)]
    shapes = [[shape for _, shape in description] for description in described]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The variables of {where} are not those of the pruned model. "
            f"Expected: {described[0]}. Found: {described[1]}"
        )
    for old, new in zip(source, target, strict=True):
        new.assign(masked.get(id(old), old))
