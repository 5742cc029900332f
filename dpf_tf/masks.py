"""The masks of a pruned model: read, given, and made final."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf import keras_api
from dpf_tf.graph import pruned_layers
from dpf_tf.groups import collect, missed_target
from dpf_tf.silence import silence, unsilence
from dpf_tf.wrapper import PruneLowMagnitudeDPF


def get_masks(model: Any) -> dict[str, np.ndarray]:
    """Returns the present masks of a pruned model.

    Args:
        model: a pruned model or wrapped layer.

    Returns:
        A dict in model order, from the kernel's path through the model
        (`"block1/conv2d/kernel"`) to a boolean array of the kernel's shape, `False`
        where pruned.

    Raises:
        ValueError: if nothing of the model is pruned.

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> layer = dpf_tf.PruneLowMagnitudeDPF(keras.layers.Dense(2, name="d"), 0.5)
        >>> layer.build((None, 2))
        >>> dpf_tf.get_masks(layer)["d/kernel"].tolist()  # No update yet.
        [[True, True], [True, True]]
    """
    return {
        f"{path}/{kernel}": np.array(keras_api.numpy_view(tf.convert_to_tensor(mask)))
        for path, layer in pruned_layers(model)
        for kernel, mask in layer.masks.items()
    }


def set_masks(model: Any, masks: dict[str, np.ndarray]) -> None:
    """Gives a pruned model masks of one's own, such as those of another training.

    With `freeze_masks` they are final, and `fit` trains under them: the lottery-ticket
    experiment, for instance. Else the next update makes new ones. The dense weights
    stay as they are.

    Args:
        model: a pruned model or wrapped layer whose kernels are made.
        masks: as `get_masks` returns them: for each kernel's path a boolean array of
            its shape, `False` where pruned.

    Raises:
        TypeError: if `masks` is no mapping, or an array not boolean.
        ValueError: if nothing of the model is pruned, paths or shapes are not its, a
            mask keeps no weight or does not fit the structure, or the method makes more
            than masks, as ST-3 does.

    Example:

        >>> import keras
        >>> import numpy as np
        >>> import dpf_tf
        >>> layer = dpf_tf.PruneLowMagnitudeDPF(keras.layers.Dense(2, name="d"), 0.5)
        >>> layer.build((None, 2))
        >>> dpf_tf.set_masks(layer, {"d/kernel": np.eye(2, dtype=bool)})
        >>> dpf_tf.freeze_masks(layer)
        >>> dpf_tf.sparsity_report(layer)["pruned"]["sparsity"]
        0.5

    References:
        Frankle, Carbin, "The Lottery Ticket Hypothesis", ICLR 2019; Lin et al., 2020,
        section 5, retrain DPF's masks.
    """
    layers = pruned_layers(model)
    variables = {
        f"{path}/{kernel}": mask
        for path, layer in layers
        for kernel, mask in layer.masks.items()
    }
    for _, layer in layers:
        method = layer.settings.method
        if not method.computes_masked:
            raise ValueError(
                f"{type(method).__name__} makes more than masks, and that would not "
                "fit these. Prune with method='dpf' to train under given masks."
            )
    if not isinstance(masks, Mapping):
        raise TypeError(
            "`masks` must map kernels' paths to boolean arrays, as `get_masks` returns "
            f"them. Received: an object of type {type(masks).__name__}"
        )
    if variables.keys() != masks.keys():
        odd = ", ".join(sorted(variables.keys() ^ masks.keys())[:8])
        raise ValueError(
            "`masks` needs an array for each pruned kernel, as `get_masks` returns "
            f"them. On one side only: {odd}"
        )
    arrays = {path: np.asarray(mask) for path, mask in masks.items()}
    for path, array in arrays.items():
        if array.dtype != np.bool_:
            raise TypeError(
                f"A mask is boolean, `False` where pruned. Received for {path}: an "
                f"array of {array.dtype}"
            )
        if array.shape != tuple(variables[path].shape):
            raise ValueError(
                f"The mask of {path} has shape {tuple(variables[path].shape)}. "
                f"Received: {array.shape}"
            )
        if not array.any():
            raise ValueError(
                f"The mask of {path} keeps no weight: nothing would get through."
            )
    for group in collect(model, layers, frozen=True) if _is_whole(model) else []:
        found = group.units.misfits([arrays[path] for path in group.paths])
        if found:
            raise ValueError(
                f"The masks of {', '.join(group.paths[i] for i in found[:8])} do not "
                f"fit {group.settings.structure}, by which the model is pruned."
            )
    for path, array in arrays.items():
        variables[path].assign(array)
    if all(layer.frozen for _, layer in layers):
        silence(model, layers)
    else:
        unsilence(layer for _, layer in layers)


def freeze_masks(model: Any) -> None:
    """Makes the present masks final: later fits fine-tune the sparse model.

    `PruningCallback` is not needed from then on. Dense weights get the gradient that
    the method gives them: in DPF the pruned ones move on, and only the kept ones have
    an effect. The thresholds of ST-3 stay as well: a kept weight that falls below its
    own is zero, until it rises again. Pruned filters are silenced, as `dpf_tf.Filters`
    says. Masks below their target are warned of.

    Args:
        model: a pruned model or wrapped layer.

    Raises:
        ValueError: if nothing of the model is pruned.

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> layer = dpf_tf.PruneLowMagnitudeDPF(keras.layers.Dense(2), 0.5)
        >>> dpf_tf.freeze_masks(layer)
        >>> layer.frozen
        True

    References:
        Lin et al., 2020, section 5: optional fine-tuning of the final sparse model.
    """
    layers = pruned_layers(model)
    missed = missed_target(model, layers) if _is_whole(model) else None
    if missed is not None:
        warnings.warn(
            f"The masks of '{model.name}' are made final at sparsity {missed[0]:.4f}, "
            f"and the target is {missed[1]}: the ramp has not ended, or other layers "
            "share that sparsity.",
            stacklevel=2,
        )
    silence(model, layers)
    for _, layer in layers:
        layer.set_frozen(True)


def _is_whole(model: Any) -> bool:
    """Tells whether sparsity and units can be judged: of a model, all of it made."""
    if isinstance(model, PruneLowMagnitudeDPF):
        return False  # It may share them with others.
    return all(layer.built for _, layer in pruned_layers(model))
