"""Groups: wrappers with equal settings, whose kernels share one sparsity."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dpf_tf import allocation as allocation_lib
from dpf_tf import keras_api
from dpf_tf.settings import Settings


class Group(NamedTuple):
    """The kernels under equal settings, with their paths, masks and states."""

    settings: Settings
    paths: list[str]
    kernels: list[Any]
    masks: list[Any]
    states: list[dict[str, Any]]  # What the method keeps beside them.

    def pools(self, sparsity: float) -> list[allocation_lib.Pool]:
        """Returns which kernels are ranked together at a sparsity; how many stay."""
        return allocation_lib.pools(
            self.settings.allocation,
            self.paths,
            [tuple(kernel.shape) for kernel in self.kernels],
            sparsity,
            self.settings.schedule.final_sparsity,
        )


def movable(layers: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Returns the wrappers, of `(path, wrapper)`, whose masks can change."""
    return [(path, x) for path, x in layers if x.trainable and not x.frozen]


def collect(layers: list[tuple[str, Any]]) -> list[Group]:
    """Returns the groups that the wrappers, given as `(path, wrapper)`, form.

    Raises:
        ValueError: if a pattern of an allocation matches no kernel.
    """
    groups: list[Group] = []
    for path, layer in movable(layers):
        for group in groups:
            if group.settings == layer.settings:
                break
        else:
            group = Group(layer.settings, [], [], [], [])
            groups.append(group)
        group.paths.extend(f"{path}/{kernel}" for kernel in layer.kernels)
        group.kernels.extend(layer.kernels.values())
        group.masks.extend(layer.masks.values())
        group.states.extend(layer.states.values())
    groups = [group for group in groups if group.kernels]
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


def missed_target(layers: list[tuple[str, Any]]) -> tuple[float, float] | None:
    """Returns `(sparsity, target)` of the first group below its final sparsity."""
    for group in collect(layers):
        target = group.settings.schedule.final_sparsity
        if target is None:
            continue
        kept = count_kept(group.masks)
        if kept > sum(pool.keep for pool in group.pools(target)):
            return 1.0 - kept / size(group.masks), target
    return None


def count_kept(masks: list[Any]) -> int:
    """Returns how many entries of masks are True."""
    views = [keras_api.numpy_view(tf.convert_to_tensor(mask)) for mask in masks]
    return sum(int(np.count_nonzero(view)) for view in views)


def size(masks: list[Any]) -> int:
    """Returns how many entries masks have."""
    return sum(math.prod(mask.shape) for mask in masks)
