"""Groups: wrappers with equal settings, whose kernels share one sparsity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dpf_tf import allocation as allocation_lib
from dpf_tf import keras_api
from dpf_tf.normalized import normalized
from dpf_tf.settings import Settings
from dpf_tf.structures import Filters, Units
from dpf_tf.ties import ties_of


class Group(NamedTuple):
    """The kernels under equal settings, with their paths, masks and states."""

    settings: Settings
    units: Units
    paths: list[str]
    kernels: list[Any]
    masks: list[Any]
    states: list[dict[str, Any]]  # What the method keeps beside them.
    layers: list[Any]  # The wrappers.
    normalized: Callable[[], list[bool]]  # Of each kernel, as in `Round`.

    def pools(self, sparsity: float) -> list[allocation_lib.Pool]:
        """Returns what is ranked together at a sparsity, and how much of it stays."""
        schedule = self.settings.schedule
        return self.units.pools(
            self.settings.allocation, sparsity, schedule.final_sparsity
        )


def movable(layers: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Returns the wrappers, of `(path, wrapper)`, whose masks can change."""
    return [(path, x) for path, x in layers if x.trainable and not x.frozen]


def collect(
    model: Any, layers: list[tuple[str, Any]], frozen: bool = False
) -> list[Group]:
    """Returns the groups that a model's wrappers form.

    Args:
        model: the model, or `None` where the layers are in none.
        layers: its wrappers, as `(path, wrapper)`.
        frozen: whether those take part, too, whose masks cannot change.

    Raises:
        ValueError: if a pattern of an allocation matches no kernel, or two wrappers
            prune one variable.
    """
    _refuse_shared(layers)
    members: list[tuple[Settings, list[tuple[str, Any]]]] = []
    for path, layer in layers if frozen else movable(layers):
        for settings, alike in members:
            if settings == layer.settings:
                alike.append((path, layer))
                break
        else:
            members.append((layer.settings, [(path, layer)]))
    groups = [
        _group(model, settings, found)
        for settings, found in members
        if any(layer.places for _, layer in found)
    ]
    for group in groups:
        allocation = group.settings.allocation
        if isinstance(allocation, dict):
            # Of all layers: those of one that is frozen by now are no mistake.
            paths = [
                f"{path}/{kernel}"
                for path, layer in layers
                if layer.settings.allocation == allocation
                for kernel in layer.kernels
            ]
            allocation_lib.check_patterns(allocation, paths)
    return groups


def _refuse_shared(layers: list[tuple[str, Any]]) -> None:
    """Raises if two wrappers prune one variable: it would have two masks."""
    owners: dict[int, str] = {}
    for path, layer in layers:
        for kernel in layer.places:
            name = f"{path}/{kernel.path}"
            other = owners.setdefault(id(kernel.variable), name)
            if other != name:
                raise ValueError(
                    f"'{name}' is the same variable as '{other}', and would have two "
                    "masks. Leave one of the two layers dense with `exclude=`."
                )


def _group(model: Any, settings: Settings, members: list[tuple[str, Any]]) -> Group:
    places = [
        (f"{path}/{kernel.path}", kernel)
        for path, layer in members
        for kernel in layer.places
    ]
    paths, kernels = [path for path, _ in places], [kernel for _, kernel in places]
    units = settings.structure.units(
        paths, kernels, lambda keep_residual: ties_of(model, keep_residual)
    )

    def free() -> list[bool]:
        found = normalized(model)
        return [id(layer.layer) in found for _, layer in members for _ in layer.places]

    return Group(
        settings,
        units,
        paths,
        [kernel.variable for kernel in kernels],
        [mask for _, layer in members for mask in layer.masks.values()],
        [state for _, layer in members for state in layer.states.values()],
        [layer for _, layer in members],
        free,
    )


def missed_target(
    model: Any, layers: list[tuple[str, Any]], frozen: bool = False
) -> tuple[float, float] | None:
    """Returns `(sparsity, target)` of the first group below its final sparsity.

    Both are shares of what is pruned as one: of filters, for instance. Masks that are
    final take part if `frozen` says so.
    """
    for group in collect(model, layers, frozen):
        target = group.settings.schedule.final_sparsity
        ties_unknown = model is None and isinstance(group.settings.structure, Filters)
        if target is None or ties_unknown or not group.units.count:
            continue
        kept = group.units.kept(views(group.masks))
        if kept > sum(pool.keep for pool in group.pools(target)):
            return 1.0 - kept / group.units.count, target
    return None


def views(masks: list[Any]) -> list[np.ndarray]:
    """Returns read-only arrays over masks."""
    return [keras_api.numpy_view(tf.convert_to_tensor(mask)) for mask in masks]


def count_kept(masks: list[Any]) -> int:
    """Returns how many entries of masks are True."""
    return sum(int(np.count_nonzero(view)) for view in views(masks))


def size(masks: list[Any]) -> int:
    """Returns how many entries masks have."""
    return sum(math.prod(mask.shape) for mask in masks)
