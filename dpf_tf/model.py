"""From a dense model to a pruned one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from dpf_tf import allocation as allocation_lib
from dpf_tf import filter_choice, keras_api, methods, prunable
from dpf_tf.filter_choice import Taken
from dpf_tf.graph import (
    check_layers,
    is_graph,
    output_layers,
    rebuild,
    walk,
)
from dpf_tf.keras_api import Kernel
from dpf_tf.selection import Choice, Selection
from dpf_tf.settings import Settings
from dpf_tf.structures import Filters
from dpf_tf.wrapper import PruneLowMagnitudeDPF

THRESHOLDS = {"hard": methods.DPF(), "soft": methods.ST3(rescale="auto")}


def prune_low_magnitude_dpf(
    model: Any,
    pruning_schedule: Any,
    allocation: Any = None,
    structure: Any = "unstructured",
    layers: Choice = None,
    exclude: Choice = None,
    *,
    threshold: str = "hard",
) -> Any:
    """Makes a model, or layers, train by dynamic model pruning with feedback.

    The layers that own kernels are wrapped; the rest of the model is as it was. Then
    compile, and `fit` with `PruningCallback`.

    The pruned model wraps the *same* layers: training it trains the weights of the
    model that was given. To keep that one as it is, clone it first
    (`keras.models.clone_model`, then `set_weights`).

    Args:
        model: a Sequential or functional model of Keras 3 or tf_keras (nested models
            and shared layers included), a layer, or a list of layers. A subclassed
            model cannot be rebuilt from outside: wrap its layers in its `__init__`.
        pruning_schedule: a target sparsity such as 0.9 (the cubic ramp of the paper
            over the first 75 % of training), a `PolynomialDecay` or
            `ConstantSparsity`, a TFMOT schedule, or a callable
            `step -> (should_prune, sparsity)`.
        allocation: how the sparsity is shared among the kernels. `"global"`, the
            default: one threshold over all, as in the paper; `"global_normalized"`: the
            same over magnitudes divided by their kernel's L2 norm; `"uniform"`, the
            default for filters: each kernel alike; `"erk"`: Erdos-Renyi-Kernel, denser
            where a kernel is small; `{pattern: sparsity}`: final sparsities by a
            regular expression searched in the kernel's path, the others uniformly by
            the schedule.
        structure: what is pruned as one. `"unstructured"`: single weights;
            `dpf_tf.Filters()`: whole filters, which `dpf_tf.shrink` takes out;
            `dpf_tf.Block(1, 4)`: neighbouring inputs of dense layers;
            `dpf_tf.NofM(2, 4)`: two of every four.
        layers: what is pruned instead of the default: a regular expression or a list
            of them, searched in the kernels' paths (`"block1/conv2d/kernel"`), or a
            callable `layer -> bool`, such as `dpf_tf.pointwise`. The default is every
            convolution, dense, attention and recurrent kernel, except depthwise
            kernels, embeddings and the layers that make the model's outputs.
        exclude: what stays dense, in the same forms.
        threshold: `"hard"` is the paper. With `"soft"` the layers compute with
            `scale * sign(w) * max(|w| - threshold, 0)`, so that a weight that comes
            back enters at zero: ST-3, for single weights only, without a scale where
            batch norms take the outputs (`dpf_tf.methods.ST3(rescale="auto")`). In
            short trainings it reached more than `"hard"`, and up to 95 % more than
            gradual pruning (docs/comparison.md). Batch norms are found in Sequential
            and functional models; for the layers of others, and for other forms, there
            is `dpf_tf.prune(..., "st3", rescale="none")`.

    Returns:
        What was given, with its layers wrapped: a new, uncompiled model of the same
        name, a wrapper, or a list of wrappers.

    Raises:
        TypeError: if `model` or an option has the wrong type.
        ValueError: if an option's value is unknown or contradicts the model, or a layer
            is wrapped already with other settings.

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> model = keras.Sequential([
        ...     keras.Input((8,)),
        ...     keras.layers.Dense(16, activation="relu", name="hidden"),
        ...     keras.layers.Dense(2, name="logits"),
        ... ])
        >>> pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.9)
        >>> list(dpf_tf.get_masks(pruned))  # The layer of the outputs stays dense.
        ['hidden/kernel']

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020. The soft
        threshold: Vanderschueren, De Vleeschouwer, "Are Straight-Through gradients and
        Soft-Thresholding all you need for Sparse Training?", WACV 2023.
    """
    if threshold not in tuple(THRESHOLDS):  # What has no hash is unknown, too.
        raise ValueError(
            f"`threshold` must be one of {', '.join(map(repr, THRESHOLDS))}. "
            f"Received: {threshold!r}"
        )
    return prune(
        model,
        pruning_schedule,
        THRESHOLDS[threshold],
        allocation=allocation,
        structure=structure,
        layers=layers,
        exclude=exclude,
    )


def prune(
    model: Any,
    pruning_schedule: Any,
    method: Any = "dpf",
    *,
    allocation: Any = None,
    structure: Any = None,
    layers: Choice = None,
    exclude: Choice = None,
    **options: Any,
) -> Any:
    """Makes a model, or layers, train by any of the pruning schemes.

    As `prune_low_magnitude_dpf`, which is this with `method="dpf"`. The schemes share
    the wrapper, the schedules, the allocations and the callback, so that they compare.
    A model can be pruned in several calls, of which each chooses other layers; whole
    filters in the first of them.

    Args:
        model: see `prune_low_magnitude_dpf`.
        pruning_schedule: likewise. A bare target stands for the method's own schedule:
            one mask at the start for SNIP, a constant sparsity for RigL.
        method: a name of `dpf_tf.methods.METHODS`, or a `dpf_tf.methods.Method`.
        allocation: see `prune_low_magnitude_dpf`; `None` is `"uniform"` for filters,
            else the method's own.
        structure: see `prune_low_magnitude_dpf`; `None` is the method's own.
        layers: see `prune_low_magnitude_dpf`.
        exclude: see `prune_low_magnitude_dpf`.
        **options: of the method that is named; see its class.

    Returns:
        What was given, with its layers wrapped.

    Raises:
        TypeError: if an argument has the wrong type, or the method no such option.
        ValueError: if the method is unknown, an option's value too, or they contradict
            the schedule or the model.

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16),
        ...                           keras.layers.Dense(2)])
        >>> pruned = dpf_tf.prune(model, 0.9, method="rigl", share=0.2)
        >>> pruned.layers[0].settings.method
        RigL(share=0.2, seed=0)
    """
    method = methods.get(method, **options)
    settings = Settings.checked(pruning_schedule, allocation, structure, method)
    selection = Selection(layers, exclude, settings.structure)
    if isinstance(model, list | tuple):
        return _prune_list(model, settings, selection)
    kind = "a model or layer of Keras 3 or tf_keras, or a list of layers"
    api = keras_api.require(model, kind)
    _warn_where_fit_fails(api)
    if isinstance(model, api.module.Model) and not is_graph(model):
        raise ValueError(
            f"'{model.name}' is a subclassed model ({type(model).__name__}), whose "
            "layers cannot be replaced from outside. Wrap them where they are made, in "
            "its __init__: `self.conv = dpf_tf.prune_low_magnitude_dpf("
            "keras.layers.Conv2D(...), schedule)`. Wrappers with equal settings are "
            "pruned as one pool."
        )
    selection.refuse_idle(_unwrapped(model))
    return _prune_one(model, settings, selection)


def _prune_one(model: Any, settings: Settings, selection: Selection) -> Any:
    prune = _prune_graph if is_graph(model) else _prune_layer
    return prune(model, settings, selection)


def _unwrapped(model: Any) -> list[tuple[str, Any]]:
    """Returns `(path, layer)` of what may be pruned, wrapped ones without wrapper."""
    layers = walk(model) if is_graph(model) else [(model.name, model)]
    return [
        (path, x.layer if isinstance(x, PruneLowMagnitudeDPF) else x)
        for path, x in layers
    ]


def _warn_where_fit_fails(api: Any) -> None:
    # Keras fails before `fit` asks its callbacks; a loop of one's own works.
    strategy = tf.distribute.get_strategy()
    if api is keras_api.KERAS3 and isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ):
        warnings.warn(
            "`fit` of Keras 3 fails under MultiWorkerMirroredStrategy (keras-team/keras"
            " issue 20585). Build the model with tf_keras, which can, or train in a "
            "loop of your own with `dpf_tf.MaskUpdater`.",
            stacklevel=3,
        )


def _prune_list(layers: Any, settings: Settings, selection: Selection) -> list[Any]:
    check_layers(layers)
    if len({keras_api.of(layer) for layer in layers}) > 1:
        raise ValueError(
            "The list mixes layers of Keras 3 and of tf_keras; they cannot be parts of "
            "one model."
        )
    selection.refuse_idle([place for layer in layers for place in _unwrapped(layer)])
    made: dict[int, Any] = {}  # One wrapper for a layer that comes twice.
    for layer in layers:
        if id(layer) not in made:
            made[id(layer)] = _prune_one(layer, settings, selection)
    return [made[id(layer)] for layer in layers]


def _prune_layer(layer: Any, settings: Settings, selection: Selection) -> Any:
    """Wraps a layer given by itself: it is always pruned, unless `exclude` says no."""
    if isinstance(layer, PruneLowMagnitudeDPF):
        return _same_or_refuse(layer.name, layer, settings)
    usual = prunable.usual(list(prunable.kernels(layer)))
    if prunable.builds_kernels(layer):
        if not selection.takes_unseen(layer.name, layer, is_output=False):
            return layer
        return _wrap(layer, settings, usual)
    if selection.explicit:
        chosen, _ = selection.choose(layer.name, layer, is_output=False)
    else:
        chosen = [k for k in usual if not selection.excludes(layer.name, layer, k)]
    if not chosen:
        _refuse_unknown(layer.name, layer, selection)
        return layer
    return _wrap(layer, settings, chosen)


def _wrap(
    layer: Any,
    settings: Settings,
    chosen: list[Kernel],
    followers: Sequence[str] | None = None,
) -> Any:
    usual = prunable.usual(list(prunable.kernels(layer)))
    default = [k.path for k in chosen] == [k.path for k in usual]
    default = default and bool(chosen or not followers)  # Else it only follows.
    return PruneLowMagnitudeDPF(
        layer,
        settings.schedule,
        allocation=settings.allocation,
        structure=settings.structure,
        method=settings.method,
        kernels=None if default else [k.path for k in chosen],
        followers=followers,
    )


def _same_or_refuse(path: str, wrapper: Any, settings: Settings) -> Any:
    if wrapper.has_settings(settings):
        return wrapper
    raise ValueError(
        f"Layer '{path}' is wrapped already, with other settings: {wrapper.settings}. "
        f"Now asked for: {settings}. Start again from the unwrapped model, or from "
        "`strip_pruning(pruned)`. To prune other layers of it, leave this one out by "
        "`exclude=` (whole filters are pruned before other structures, in one call)."
    )


def _prune_graph(model: Any, settings: Settings, selection: Selection) -> Any:
    outputs = output_layers(model)
    taken: list[Taken] = []
    following: dict[int, list[str]] = {}
    pruned_paths: list[str] = []
    left: list[str] = []
    already: list[Any] = []
    others: list[tuple[str, Any]] = []  # Wrapped too, but not asked for.
    for path, layer in walk(model):
        if isinstance(layer, PruneLowMagnitudeDPF):
            if _leaves_wrapped(path, layer, settings, selection, id(layer) in outputs):
                others.append((path, layer))
                continue
            _same_or_refuse(path, layer, settings)
            pruned_paths.extend(f"{path}/{kernel}" for kernel in layer.kernels)
            already.append(layer)
            continue
        if not layer.trainable and layer.weights:
            left.append(f"{path} (frozen layer)")
            continue
        is_output = id(layer) in outputs
        chosen, skipped = selection.choose(path, layer, is_output)
        takes = bool(chosen)
        if prunable.builds_kernels(layer):
            takes = selection.takes_unseen(path, layer, is_output)
            chosen = prunable.usual(list(prunable.kernels(layer))) if takes else []
        if takes:
            taken.append((path, layer, chosen))
            continue
        left.extend(f"{path}/{kernel.path} ({why})" for kernel, why in skipped)
        _refuse_unknown(path, layer, selection)
    if isinstance(settings.structure, Filters):
        _require_built(model)
        choice = filter_choice.choose(
            model, settings.structure, selection, taken, already
        )
        taken, following = choice.taken, choice.followers
        left += choice.left
    new_layers = {
        id(layer): _wrap(layer, settings, chosen, following.pop(id(layer), ()))
        for _, layer, chosen in taken
    }
    if new_layers:
        for _, layer in walk(model):
            if id(layer) in following:
                new_layers[id(layer)] = _wrap(layer, settings, [], following[id(layer)])
    pruned_paths += [f"{path}/{k.path}" for path, _, chosen in taken for k in chosen]
    if not new_layers and already:
        return model  # Wrapped before, with equal settings.
    if not new_layers:
        for path, layer in others:
            _same_or_refuse(path, layer, settings)
        raise ValueError(
            f"Nothing in model '{model.name}' is left to prune. Its kernels: "
            f"{', '.join(left[:8]) or 'none'}. Choose some with `layers=`, a regular "
            "expression searched in such paths."
        )
    if isinstance(settings.allocation, dict) and model.built:
        allocation_lib.check_patterns(settings.allocation, pruned_paths)
    return rebuild(model, lambda layer: new_layers.get(id(layer), layer), "prune")


def _leaves_wrapped(
    path: str, wrapper: Any, settings: Settings, selection: Selection, is_output: bool
) -> bool:
    """Tells whether a layer that is pruned already is not asked for."""
    # Filters are tied to others, wherever these are.
    if wrapper.has_settings(settings) or isinstance(settings.structure, Filters):
        return False
    if prunable.builds_kernels(wrapper.layer):
        return not selection.takes_unseen(path, wrapper.layer, is_output)
    return not selection.choose(path, wrapper.layer, is_output)[0]


def _require_built(model: Any) -> None:
    if not getattr(model, "outputs", None):
        raise ValueError(
            f"The filters of '{model.name}' cannot be followed before it is built. "
            "Build it, for instance with a `keras.Input` in front, before it is pruned."
        )


def _refuse_unknown(path: str, layer: Any, selection: Selection) -> None:
    """Refuses, or warns of, a layer with weights that only look like kernels."""
    names = prunable.unknown_kernels(layer)
    if not names:
        return
    message = (
        f"Layer '{path}' ({type(layer).__name__}) has weights that look like kernels "
        f"({', '.join(names)}), but dpf_tf does not know how it uses them. To make it "
        "prunable, give it a method `get_prunable_weights(self)` that returns its "
        "kernels."
    )
    if selection.asked_for(path, layer):
        raise ValueError(message)
    if not selection.explicit:
        warnings.warn(message + " It stays dense.", stacklevel=5)
