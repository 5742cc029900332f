"""From a pruned model to the plain sparse one."""

from __future__ import annotations

import warnings
from typing import Any

import tensorflow as tf

from dpf_tf import keras_api, prunable
from dpf_tf.graph import check_layers, is_graph, pruned_layers, rebuild, wrappers
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
    pairs: list[tuple[Any, Any]] = []

    def fresh(layer: Any) -> Any:
        if keras_api.of(layer) is None:
            return layer  # An operation of Keras 3, such as `x + y`: it has no state.
        source = layer.layer if isinstance(layer, PruneLowMagnitudeDPF) else layer
        if source.built and not source.variables:
            return source  # Its config may not tell all: a lambda, a vocabulary.
        copy = type(source).from_config(source.get_config())
        pairs.append((source, copy))
        return copy

    stripped = rebuild(model, fresh, "strip")
    for source, copy in pairs:
        copy_variables(
            source.variables, copy.variables, masked, f"layer '{source.name}'"
        )
    finalize(stripped)
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
    missed = missed_target(model, layers)
    if missed is not None:
        warnings.warn(
            f"{name} is stripped at sparsity {missed[0]:.4f}, below the target "
            f"{missed[1]}: its training has not come to the end of the ramp, or "
            "weights of an earlier epoch were restored, their masks with them.",
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
        copy_variables(layer.variables, copy.variables, masked, f"layer '{layer.name}'")
        finalize(copy)
    return copy


def _fill(into: Any, model: Any, layers: list[tuple[str, Any]]) -> None:
    """Writes the weights of a pruned model into a plain one."""
    own = {id(v) for _, layer in layers for v in layer.own_variables}
    source = [v for v in model.variables if id(v) not in own]
    ours = {id(v) for v in model.variables}
    if any(id(v) in ours for v in into.variables):
        raise ValueError(
            f"`into` ({into.name}) shares its variables with the pruned model, whose "
            "dense weights would be lost. Give a model that was made anew, or a clone."
        )
    _refuse_other_shapes(source, into.variables, f"`into` ({into.name})")
    if keras_api.of(model) is keras_api.TF_KERAS:
        # tf_keras lists what is frozen last: the order must be the same in both.
        frozen = []
        for each, variables in ((model, source), (into, into.variables)):
            trained = {id(v) for v in each.trainable_variables}
            frozen.append([id(v) not in trained for v in variables])
        if frozen[0] != frozen[1]:
            raise ValueError(
                f"Other layers of `into` ({into.name}) are frozen than of the pruned "
                "model. Set `trainable` of both alike."
            )
    masked = _masked_kernels(layers)
    copy_variables(source, into.variables, masked, f"`into` ({into.name})")
    finalize(into)


def finalize(layer: Any) -> None:
    """Lets layers such as `Normalization` derive anew what they compute with."""
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()
    for _, child in prunable.sublayers(layer):
        finalize(child)


def copy_variables(
    source: list[Any], target: list[Any], masked: dict[int, tf.Tensor], where: str
) -> None:
    """Writes variables' values into others; `masked` has other values, by id."""
    _refuse_other_shapes(source, target, where)
    for old, new in zip(source, target, strict=True):
        new.assign(masked.get(id(old), old))


def _refuse_other_shapes(source: list[Any], target: list[Any], where: str) -> None:
    described = [[(v.name, tuple(v.shape)) for v in vs] for vs in (source, target)]
    shapes = [[shape for _, shape in description] for description in described]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The variables of {where} are not those of the pruned model. "
            f"Expected: {described[0]}. Found: {described[1]}"
        )
