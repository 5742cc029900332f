"""Copies of layers, which their configs make, and what the configs do not tell.

A config knows neither the values of variables nor which sublayers are frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from dpf_tf import keras_api, prunable
from dpf_tf.graph import rebuild
from dpf_tf.wrapper import PruneLowMagnitudeDPF


def fresh(layer: Any) -> Any:
    """Returns a layer of the same config, or the layer itself if it has no state."""
    if layer.built and not layer.variables:
        return layer  # Its config may not tell all: a lambda, a vocabulary.
    return type(layer).from_config(layer.get_config())


def copy_model(
    model: Any,
    verb: str,
    make: Callable[[Any], Any],
    fill: Callable[[Any, Any], None],
) -> Any:
    """Returns the same model over copies of its layers, pruned ones unwrapped.

    Args:
        model: a functional or sequential model.
        verb: what is done with it, for errors.
        make: gives a layer's copy, or the layer itself if both models shall share it.
        fill: writes the state of a layer into its copy, when that is built.
    """
    pairs: list[tuple[Any, Any]] = []

    def replace(layer: Any) -> Any:
        if keras_api.of(layer) is None:
            return layer  # An operation of Keras 3, such as `x + y`: it has no state.
        source = layer.layer if isinstance(layer, PruneLowMagnitudeDPF) else layer
        copy = make(source)
        if copy is not source:
            pairs.append((source, copy))
        return copy

    copied = rebuild(model, replace, verb)
    for source, copy in pairs:
        fill(source, copy)
    finalize(copied)
    return copied


def copy_state(
    source: Any, copy: Any, masked: dict[int, tf.Tensor] | None = None
) -> None:
    """Gives a copy the values of a layer's variables, and freezes what is frozen there.

    Args:
        source: a layer.
        copy: what its config has made, built.
        masked: other values for some variables, by the id of the layer's own.
    """
    name = f"layer '{source.name}'"
    old, new = variables(source), variables(copy)
    check_shapes(old, new, f"the copy of {name}", name)
    write(old, new, masked or {})
    _copy_flags(source, copy)


def variables(layer: Any) -> list[Any]:
    """Returns a layer's or model's variables, in the same order whatever is frozen.

    In tf_keras, `layer.variables` lists those of frozen sublayers last.
    """
    tracked = {id(v): v for v in layer.variables}
    below = {
        id(v): v
        for _, child in prunable.sublayers(layer)
        for v in variables(child)
        if id(v) in tracked
    }
    return [v for key, v in tracked.items() if key not in below] + list(below.values())


def _copy_flags(source: Any, copy: Any) -> None:
    if copy.trainable != source.trainable:
        copy.trainable = source.trainable  # And so all below it: from the top down.
    children = zip(prunable.sublayers(source), prunable.sublayers(copy), strict=True)
    for (_, child), (_, twin) in children:
        _copy_flags(child, twin)


def write(source: list[Any], target: list[Any], masked: dict[int, tf.Tensor]) -> None:
    """Writes variables' values into others; `masked` has other values, by id."""
    for old, new in zip(source, target, strict=True):
        value = masked.get(id(old), old)
        new.assign(tf.cast(value, new.dtype))  # An export's copy is in float32.


def check_shapes(source: list[Any], target: list[Any], where: str, origin: str) -> None:
    """Refuses variables that cannot take the values of others."""
    described = [[(v.name, tuple(v.shape)) for v in vs] for vs in (source, target)]
    shapes = [[shape for _, shape in description] for description in described]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The variables of {where} are not those of {origin}. "
            f"Expected: {described[0]}. Found: {described[1]}"
        )


def finalize(layer: Any) -> None:
    """Lets layers such as `Normalization` derive anew what they compute with."""
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()
    for _, child in prunable.sublayers(layer):
        finalize(child)
