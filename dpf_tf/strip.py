"""From a pruned model to the plain sparse one."""

from __future__ import annotations

import warnings
from typing import Any

import tensorflow as tf

from dpf_tf import copies
from dpf_tf.graph import check_layers, is_graph, pruned_layers, wrappers
from dpf_tf.groups import missed_target
from dpf_tf.wrapper import PruneLowMagnitudeDPF


def strip_pruning(model: Any, into: Any = None) -> Any:
    """Returns the plain sparse model: exact zeros, and nothing of dpf_tf in it.

    The pruned model stays as it is and can be trained further; the stripped one has
    its own copy of every variable. (Layers without variables are shared.) A warning
    tells if the masks are not as sparse as the schedule wants them in the end.

    Args:
        model: a pruned model, a wrapped layer, or a list of layers.
        into: a plain model of the same architecture and built, which receives the
            weights; not the one that was pruned, whose variables the pruned model
            shares. Needed for subclassed models; with it nothing is cloned.

    Returns:
        A new, uncompiled model of the same name, `into`, or a list of layers.

    Raises:
        TypeError: if `model` is no Keras model, layer or list of layers.
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
        return _strip_list(model, into)
    layers = pruned_layers(model)
    if not isinstance(model, PruneLowMagnitudeDPF):  # One alone is no whole pool.
        _warn_if_missed(f"'{model.name}'", model, layers)
    if into is not None:
        _fill(into, model, layers)
        return into
    return _strip_one(model, _masked_kernels(layers))


def _strip_one(model: Any, masked: dict[int, tf.Tensor]) -> Any:
    if isinstance(model, PruneLowMagnitudeDPF):
        return _strip_layer(model.layer, masked)
    if not is_graph(model):
        raise ValueError(
            f"'{model.name}' is a subclassed model ({type(model).__name__}), which "
            "cannot be cloned. Make a plain one without wrappers, build it by a call "
            "on a batch, and give it: `strip_pruning(pruned, into=plain_model)`."
        )

    def fill(layer: Any, copy: Any) -> None:
        copies.copy_state(layer, copy, masked)

    stripped = copies.copy_model(model, "strip", copies.fresh, fill)
    if wrappers(stripped):
        raise ValueError(
            "These pruned layers lie inside layers of your own, which make them anew "
            f"from their config: {[path for path, _ in wrappers(stripped)]}. Give a "
            "plain model: `strip_pruning(pruned, into=plain_model)`."
        )
    return stripped


def _masked_kernels(layers: list[tuple[str, Any]]) -> dict[int, tf.Tensor]:
    """Returns what the pruned kernels become, by the id of the dense variable."""
    return {
        id(weight): value for _, layer in layers for weight, value in layer.computed
    }


def _warn_if_missed(name: str, model: Any, layers: list[tuple[str, Any]]) -> None:
    missed = missed_target(model, layers, frozen=True)
    if missed is not None:
        warnings.warn(
            f"{name} is stripped at sparsity {missed[0]:.4f}, below the target "
            f"{missed[1]}: its training has not come to the end of the ramp, layers "
            "were frozen before it, or weights of an earlier epoch were restored, "
            "their masks with them.",
            stacklevel=3,
        )


def _strip_list(layers: Any, into: Any) -> list[Any]:
    if into is not None:
        raise ValueError("`into` takes the weights of one model, not of a list.")
    check_layers(layers)
    pruned = [pair for layer in layers for pair in wrappers(layer)]
    pruned = list({id(wrapper): (path, wrapper) for path, wrapper in pruned}.values())
    if not pruned:
        raise ValueError(f"No layer of the list is pruned. Received: {layers!r}")
    masked = _masked_kernels(pruned)
    _warn_if_missed("The list", None, pruned)
    stripped: dict[int, Any] = {}
    for layer in layers:
        if id(layer) in stripped:
            continue
        if wrappers(layer):
            copy = _strip_one(layer, masked)
        else:
            copy = _strip_layer(layer, {}) if layer.variables else layer
        stripped[id(layer)] = copy
    return [stripped[id(layer)] for layer in layers]


def _strip_layer(layer: Any, masked: dict[int, tf.Tensor]) -> Any:
    copy = type(layer).from_config(layer.get_config())
    if layer.built:
        copy.build_from_config(layer.get_build_config())
        if len(copy.variables) != len(layer.variables):
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) makes its variables "
                "when it is first called, and cannot be built from its config. Make a "
                "plain one, call it on a batch, and give it: "
                "`strip_pruning(layer, into=plain_layer)`."
            )
        copies.copy_state(layer, copy, masked)
        copies.finalize(copy)
    return copy


def _fill(into: Any, model: Any, layers: list[tuple[str, Any]]) -> None:
    """Writes the weights of a pruned model into a plain one."""
    own = {id(v) for _, layer in layers for v in layer.own_variables}
    source = [v for v in copies.variables(model) if id(v) not in own]
    target = copies.variables(into)
    ours = {id(v) for v in model.variables}
    if any(id(v) in ours for v in target):
        raise ValueError(
            f"`into` ({into.name}) shares its variables with the pruned model, whose "
            "dense weights would be lost. Give a model that was made anew, or a clone."
        )
    copies.check_shapes(source, target, f"`into` ({into.name})", "the pruned model")
    copies.write(source, target, _masked_kernels(layers))
    copies.finalize(into)
