"""`MaskUpdater`: recomputes the masks of a model when its schedule says so.

Wrappers with equal settings form one pool group. An update reads the dense kernels of
the group, asks the allocation how many weights each pool keeps, and assigns the masks
of the largest ones. It runs outside the training step, on whole variables, so under a
distribution strategy every replica and worker gets the same mask.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dpf_tf import allocation as allocation_lib
from dpf_tf import keras_api, threshold
from dpf_tf.graph import pruned_layers
from dpf_tf.groups import Group, collect, count_kept, movable, size
from dpf_tf.settings import Settings
from dpf_tf.threshold_xla import keep_largest_xla


class MaskUpdate(NamedTuple):
    """What `MaskUpdater.update` returns.

    Attributes:
        sparsity: share of zeros among all weights that can be pruned, in `[0, 1)`.
        flips: how many mask entries this update has changed.
    """

    sparsity: float
    flips: int


class MaskUpdater:
    """Keeps the masks of a pruned model in a training loop of one's own.

    Call `update(step)` before every training step, outside `tf.function` and
    `strategy.run`, with the number of optimizer steps made so far. `PruningCallback`
    does the same in `fit`.

    Args:
        model: a pruned model or wrapped layer.
        total_steps: optimizer steps of the whole training. Needed only by schedules
            that are relative to it, such as a bare target sparsity.

    Raises:
        TypeError: if `model` is no Keras model or layer.
        ValueError: if nothing of it is pruned.

    Example:

        >>> import keras
        >>> import numpy as np
        >>> import dpf_tf
        >>> layer = keras.layers.Dense(10, use_bias=False)
        >>> layer.build((None, 10))
        >>> pruned = dpf_tf.prune_low_magnitude_dpf(layer, 0.9)
        >>> updater = dpf_tf.MaskUpdater(pruned, total_steps=64)
        >>> for step in range(64):
        ...     sparsity, flips = updater.update(step)
        ...     # here: one training step on pruned(x, training=True)
        >>> sparsity
        0.9

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, algorithm 1.
    """

    def __init__(self, model: Any, total_steps: int | None = None) -> None:
        self._model = model
        self._missed = False  # An update was due before the kernels were made.
        self._begun = False  # This object has made masks.
        self._last_change: int | None = None
        self._found: list[tuple[str, Any]] | None = None
        self._groups: list[Group] | None = None
        self._looked_at: list[Settings] = []  # Groups whose final masks were seen.
        self._sparsity = 0.0
        for layer in self.layers:
            layer.watch(self)
        if total_steps is not None:
            self.resolve(total_steps)
        self.measure()

    def release(self) -> None:
        """Lets go of the model: training it without an updater is refused again."""
        for layer in self.layers:
            layer.unwatch(self)

    def resolve(self, total_steps: int) -> None:
        """Fills in what schedules leave to the length of the training, once."""
        for layer in self.layers:
            layer.resolve_schedule(total_steps)
        self._groups = None

    def due(self, step: int) -> bool:
        """Tells whether masks are recomputed at `step`."""
        return self._missed or any(s.schedule(step)[0] for s in self.settings)

    def update(self, step: int) -> MaskUpdate:
        """Recomputes the masks if they are due at `step`.

        Args:
            step: optimizer steps made so far: 0 before the first one.

        Returns:
            `(sparsity, flips)`: the present share of zeros among all weights that can
            be pruned, and how many mask entries changed in this call.

        Raises:
            ValueError: if a kernel holds NaN, or a pattern of the allocation matches no
                kernel.
            RuntimeError: if called inside `tf.function` or a replica.
        """
        if not self.due(step):
            return MaskUpdate(self._sparsity, 0)
        return self.recompute(step)

    def recompute(self, step: int, since: int | None = None) -> MaskUpdate:
        """Recomputes, as of `step`, the masks due at a step from `since` up to it."""
        if not tf.executing_eagerly() or (
            tf.distribute.has_strategy()
            and not tf.distribute.in_cross_replica_context()
        ):
            raise RuntimeError(
                "Masks are updated between training steps: call `update(step)` outside "
                "`tf.function` and outside `strategy.run`."
            )
        groups = self._collect()
        steps = range(step if since is None else since, step + 1)
        due = [
            group
            for group in groups
            if self._missed or any(group.settings.schedule(t)[0] for t in steps)
        ]
        self._missed = not groups
        before = None if self._begun else count_kept([m for g in due for m in g.masks])
        updates = [self._update_group(group, step) for group in due]
        if before is not None and due:
            self._begun = True
            self._warn_if_set_back(before, sum(kept for _, kept in updates), due, step)
        flips = sum(flips for flips, _ in updates)
        if flips:
            self._last_change = step
        self._measure(due, sum(kept for _, kept in updates))
        for group in due:
            self._warn_of_bare_kernels(group, step)
        return MaskUpdate(self._sparsity, flips)

    def measure(self) -> None:
        """Counts the masks anew: weights may have been loaded, masks with them."""
        self._measure([], 0)

    def _measure(self, counted: list[Group], kept: int) -> None:
        """Counts the masks, but for those of groups whose count is known."""
        known = {id(mask) for group in counted for mask in group.masks}
        masks = [m for layer in self.layers for m in layer.masks.values()]
        kept += count_kept([mask for mask in masks if id(mask) not in known])
        total = size(masks)
        self._sparsity = 1.0 - kept / total if total else 0.0

    @property
    def sparsity(self) -> float:
        """The present share of zeros among all weights that can be pruned."""
        return self._sparsity

    @property
    def last_change(self) -> int | None:
        """The step at which this object last changed a mask."""
        return self._last_change

    @property
    def layers(self) -> list[Any]:
        """The wrappers of the model."""
        return [layer for _, layer in self._pruned_layers()]

    @property
    def settings(self) -> list[Settings]:
        """The settings of each group whose masks can change."""
        distinct: list[Settings] = []
        for _, layer in movable(self._pruned_layers()):
            if layer.settings not in distinct:
                distinct.append(layer.settings)
        return distinct

    def _pruned_layers(self) -> list[tuple[str, Any]]:
        # Kept once all are built: every training step asks, and a walk through the
        # model takes milliseconds.
        if self._found is not None:
            return self._found
        found = pruned_layers(self._model)
        if all(layer.built for _, layer in found):
            self._found = found
        return found

    def _collect(self) -> list[Group]:
        if self._groups is not None:
            return self._groups
        layers = self._pruned_layers()
        groups = collect(layers)
        if groups and all(layer.built for _, layer in movable(layers)):
            self._groups = groups
        return groups

    def _update_group(self, group: Group, step: int) -> tuple[int, int]:
        """Returns how many entries have changed, and how many weights are kept."""
        schedule, allocation = group.settings.schedule, group.settings.allocation
        _, sparsity = schedule(step)
        read = keras_api.of(self._model).dense
        kernels = [read(kernel) for kernel in group.kernels]
        scales = allocation_lib.scales(
            allocation,
            [keras_api.numpy_view(k) for k in kernels]
            if allocation == "global_normalized"
            else [],
        )
        flips = kept = 0
        for pool in group.pools(sparsity):
            new = _largest(
                [kernels[i] for i in pool.indices],
                pool.keep,
                [scales[i] for i in pool.indices] if scales else None,
                [group.paths[i] for i in pool.indices],
            )
            masks = [group.masks[i] for i in pool.indices]
            old = [keras_api.numpy_view(read(mask)) for mask in masks]
            changed = threshold.count_flips(old, new)
            if changed:
                for mask, value in zip(masks, new, strict=True):
                    mask.assign(keras_api.shared_tensor(value))
            flips += changed
            kept += pool.keep
        return flips, kept

    def _warn_if_set_back(
        self, before: int, after: int, groups: list[Group], step: int
    ) -> None:
        """Tells of a ramp that starts anew, under masks that were sparser."""
        total = size([mask for group in groups for mask in group.masks])
        if after > before:
            warnings.warn(
                f"At step {step} the schedule has set the sparsity back, from "
                f"{1 - before / total:.4f} to {1 - after / total:.4f}: steps are "
                "counted anew, as the optimizer does after a new `compile`. To train "
                "on with the masks as they were, call `dpf_tf.freeze_masks(model)` "
                "before; to go on with the schedule, go on with the old count "
                "(`optimizer.iterations`).",
                stacklevel=4,
            )

    def _warn_of_bare_kernels(self, group: Group, step: int) -> None:
        """Names the kernels of which the final sparsity leaves next to nothing."""
        schedule, allocation = group.settings.schedule, group.settings.allocation
        if allocation not in ("global", "global_normalized"):
            return  # The others decide of each kernel by itself.
        final = schedule(step)[1] == schedule.final_sparsity
        if not final or group.settings in self._looked_at:
            return
        self._looked_at.append(group.settings)
        few = min(0.01, (1.0 - schedule.final_sparsity) / 2)
        bare = [
            f"{path} ({kept:,} of {size([mask]):,})"
            for path, mask in zip(group.paths, group.masks, strict=True)
            if (kept := count_kept([mask])) < few * size([mask])
        ]
        if bare:
            warnings.warn(
                f"Next to no weights are left in {', '.join(bare)}: little gets "
                "through such a layer. Consider allocation='erk' or 'uniform', a ramp "
                "instead of a sudden target, or leave them dense with `exclude=`.",
                stacklevel=4,
            )


def _largest(
    kernels: list[tf.Tensor], keep: int, scales: list[float] | None, names: list[str]
) -> list[np.ndarray]:
    if all(keras_api.on_cpu(kernel) for kernel in kernels):
        views = [keras_api.numpy_view(kernel) for kernel in kernels]
        return threshold.keep_largest(views, keep, scales=scales, names=names)
    # On an accelerator the kernels stay where they are; only the masks come over.
    masks, nans = _largest_on_device(
        kernels,
        tf.constant(keep),
        None if scales is None else [tf.constant(scale) for scale in scales],
    )
    threshold.refuse_nan(nans.numpy(), names)
    return [mask.numpy() for mask in masks]


@tf.function(jit_compile=True)
def _largest_on_device(
    kernels: list[tf.Tensor], keep: tf.Tensor, scales: list[tf.Tensor] | None
) -> tuple[list[tf.Tensor], tf.Tensor]:
    return keep_largest_xla(kernels, keep, scales=scales)
