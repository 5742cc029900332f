"""`MaskUpdater`: recomputes the masks of a model when its schedule says so.

Wrappers with equal settings form one pool group. An update reads the dense kernels of
the group, asks the allocation how many weights each pool keeps, and assigns the masks
of the largest ones. It runs outside the training step, on whole variables, so under a
distribution strategy every replica and worker gets the same mask.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dpf_tf import keras_api, threshold
from dpf_tf.contract import check_masks, check_states
from dpf_tf.gradients import GradientPass
from dpf_tf.graph import pruned_layers
from dpf_tf.groups import Group, collect, count_kept, movable, size
from dpf_tf.mask_warnings import (
    warn_of_bare,
    warn_of_early,
    warn_of_missing,
    warn_of_setback,
    warn_of_stuck,
)
from dpf_tf.methods import Round
from dpf_tf.momentum import Momentum
from dpf_tf.schedules.steps import step as checked
from dpf_tf.settings import Settings
from dpf_tf.silence import silence, unsilence


class MaskUpdate(NamedTuple):
    """What `MaskUpdater.update` returns.

    Attributes:
        sparsity: share of all weights that can be pruned which the masks prune, in
            `[0, 1)`.
        flips: how many mask entries this update has changed.
    """

    sparsity: float
    flips: int


class MaskUpdater:
    """Keeps the masks of a pruned model in a training loop of one's own.

    Call `update(step)` before every training step, outside `tf.function` and
    `strategy.run`, with the number of optimizer steps made so far. Where several steps
    lie between two calls, a mask that was due between them is made at the second; what
    was due before the first call is not made up for. A step that comes again, as under
    gradient accumulation, has had its masks. Training is refused before the first call.
    `PruningCallback` does the same in `fit`.

    Args:
        model: a pruned model or wrapped layer.
        total_steps: optimizer steps of the whole training. Needed only by schedules
            that are relative to it, such as a bare target sparsity.
        epoch_steps: optimizer steps of an epoch, for schedules that are due once an
            epoch.
        optimizer: what trains the model, if it is not compiled with it. Needed only by
            methods that look at the momentum, or clear it.
        data: batches for methods that look at the gradient; see `PruningCallback`.
        loss: `(model, batch) -> loss`, a scalar tensor, for these; by default the loss
            that the model is compiled with.

    Raises:
        TypeError: if `model` is no Keras model or layer, `optimizer` no optimizer,
            `data` no batches, `loss` no function, or a number of steps no whole one.
        ValueError: if nothing of it is pruned, or a method lacks what it looks at.

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

    def __init__(
        self,
        model: Any,
        total_steps: int | None = None,
        epoch_steps: int | None = None,
        *,
        optimizer: Any = None,
        data: Any = None,
        loss: Any = None,
    ) -> None:
        self._model = model
        self._gradients = GradientPass(model, data, loss)
        self._momentum = Momentum(model, optimizer)
        self._late: list[Any] = []  # Layers without kernels when an update was due.
        self._begun = False  # This object has made masks.
        self._looked_back = False  # It has looked at what was there before.
        self._last_change: int | None = None
        self._found: list[tuple[str, Any]] | None = None
        self._groups: list[Group] = []
        self._grouped: list[Any] = []  # The layers of these groups.
        self._arrived: list[Settings] = []  # At their final sparsity.
        self._sparsity = 0.0
        self._seen: int | None = None  # The step of the last update.
        if total_steps is not None:
            total_steps = checked("`total_steps`", _number(total_steps), least=1)
        if epoch_steps is not None:
            epoch_steps = checked("`epoch_steps`", _number(epoch_steps), least=1)
        self._lengths = total_steps, epoch_steps
        self.measure()
        self.resolve(*self._lengths)
        for settings in self.settings:
            self._gradients.check(settings.method)
            self._momentum.check(settings.method)

    def resolve(
        self,
        total_steps: int | None,
        epoch_steps: int | None = None,
        anew: bool = False,
    ) -> None:
        """Fills in what schedules leave to the length of the training.

        Those that an earlier training has told count no longer if `anew` says so, or if
        it has left all masks dense that can change.
        """
        if total_steps is None and epoch_steps is None:
            return
        layers = [layer for _, layer in movable(self._pruned_layers())]
        masks = [mask for layer in layers for mask in layer.masks.values()]
        anew = anew or count_kept(masks) == size(masks)
        for layer in layers:
            layer.resolve_schedule(total_steps, epoch_steps, anew)
        self._grouped = []

    def due(self, step: int) -> bool:
        """Tells whether masks are recomputed at `step`."""
        return bool(self._due_settings(range(step, step + 1)))

    def _due_settings(self, steps: range) -> list[Settings]:
        """Returns the settings by which a mask is due, or was before a layer's time."""
        late = [layer.settings for layer in self._late if layer.built]
        return [
            settings
            for settings in self.settings
            if settings in late or any(settings.schedule(t)[0] for t in steps)
        ]

    def update(self, step: int) -> MaskUpdate:
        """Recomputes the masks if they are due at `step`, or were since the last call.

        Args:
            step: optimizer steps made so far: 0 before the first one. A number, or a
                variable such as `optimizer.iterations`.

        Returns:
            `(sparsity, flips)`: which share of all weights that can be pruned the masks
            now prune, and how many mask entries changed in this call.

        Raises:
            TypeError: if `step` is no whole number.
            ValueError: if it is negative, a kernel holds NaN, or a pattern of the
                allocation matches no kernel.
            RuntimeError: if called inside `tf.function` or a replica.
        """
        step = checked("`step`", _number(step))
        goes_on = self._seen is not None and self._seen <= step
        since = self._seen + 1 if goes_on else step
        if self._seen is None and not step:
            self.resolve(*self._lengths, anew=True)
        if self._due_settings(range(since, step + 1)):
            update = self.recompute(step, since)
        else:
            self.begin(step)
            update = MaskUpdate(self._sparsity, 0)
        if self._seen is None:  # From now on somebody is in charge of the masks.
            for layer in self.layers:
                layer.watch(self)
        self._seen = step
        return update

    def begin(self, step: int) -> None:
        """Looks, once, at the masks with which the training begins or goes on.

        Warns of those that were due before, and are not there; and of those that are
        there before any is due.
        """
        if self._looked_back:
            return
        self.measure()  # A checkpoint may have been restored since.
        self._looked_back = all(layer.built for layer in self.layers)
        if not self._looked_back:
            return
        for settings in self.settings:
            if self._sparsity:
                warn_of_early(settings, self._masks_under(settings), step)
            else:
                warn_of_missing(settings, step)

    def _masks_under(self, settings: Settings) -> list[Any]:
        layers = [layer for _, layer in movable(self._pruned_layers())]
        same = [layer for layer in layers if layer.settings == settings]
        return [mask for layer in same for mask in layer.masks.values()]

    def recompute(self, step: int, since: int | None = None) -> MaskUpdate:
        """Recomputes the masks due at a step from `since` up to `step`, as of then."""
        if not tf.executing_eagerly() or (
            tf.distribute.has_strategy()
            and not tf.distribute.in_cross_replica_context()
        ):
            raise RuntimeError(
                "Masks are updated between training steps: call `update(step)` outside "
                "`tf.function` and outside `strategy.run`."
            )
        self._looked_back = True  # These masks make up for earlier ones.
        steps = range(step if since is None else since, step + 1)
        settings = self._due_settings(steps)
        due = [group for group in self._collect() if group.settings in settings]
        if not self._begun:
            warn_of_stuck(due)
        self._late = [
            layer
            for _, layer in movable(self._pruned_layers())
            if not layer.built and (layer in self._late or layer.settings in settings)
        ]
        before = None if self._begun else count_kept([m for g in due for m in g.masks])
        updates = []
        for group in due:
            updates.append(self._update_group(group, _as_of(group, step)))
        kept = sum(kept for _, kept in updates)
        if before is not None and due:
            self._begun = True
            warn_of_setback(before, kept, due, step, self._resting())
        flips = sum(flips for flips, _ in updates)
        if flips:
            self._last_change = step
        self._measure(due, kept)
        for group in due:
            if self._arrives(group.settings, step):
                warn_of_bare(group)
        return MaskUpdate(self._sparsity, flips)

    def _resting(self) -> list[str]:
        """Returns the paths of the layers whose masks prune, and cannot change."""
        layers = self._pruned_layers()
        moving = [layer for _, layer in movable(layers)]
        return [
            path
            for path, layer in layers
            if layer not in moving
            and count_kept(masks := list(layer.masks.values())) < size(masks)
        ]

    def silence(self) -> None:
        """Masks bias and batch norm of pruned filters: the masks are at rest.

        As `dpf_tf.Filters` says; other structures have nothing to silence. Call it some
        steps before a training ends, so that the other weights can make up for the
        constants that are gone. A later update of the masks takes it back.
        """
        silence(self._model, self._pruned_layers())

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
        """Which share of all weights that can be pruned the masks now prune."""
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
        layers = self._pruned_layers()
        present = [layer for _, layer in movable(layers)]  # One may be frozen by now.
        if present and present == self._grouped:
            return self._groups
        groups = collect(self._model, layers)
        if self._grouped and present != self._grouped:
            self._begun = False  # What is ranked together has changed.
        if groups and all(layer.built for layer in present):
            self._groups, self._grouped = groups, present
        return groups

    def _update_group(self, group: Group, step: int) -> tuple[int, int]:
        """Returns how many entries have changed, and how many weights are kept."""
        method, read = group.settings.method, keras_api.of(self._model).dense
        round = Round(
            step=step,
            schedule=group.settings.schedule,
            allocation=group.settings.allocation,
            paths=group.paths,
            units=group.units,
            kernels=[read(kernel) for kernel in group.kernels],
            masks=[read(mask) for mask in group.masks],
            states=[
                {name: keras_api.numpy_view(read(v)) for name, v in state.items()}
                for state in group.states
            ],
            gradients=lambda: self._gradients(step, group.kernels),
            momenta=lambda: self._momentum.read(method, group.kernels, step),
            normalized=group.normalized,
        )
        if "momenta" in method.needs:
            _ = round.momenta  # Read once: refuses at the first update, if it must.
        new, old = method.masks(round), round.masks
        check_masks(group, new, old)
        check_states(group, round.states)
        flips = threshold.count_flips(old, new)
        unsilence(group.layers)
        self._restart(group, old, new, step)
        for mask, before, value in zip(group.masks, old, new, strict=True):
            if flips and value is not before:
                mask.assign(keras_api.shared_tensor(value))
        for state, values in zip(group.states, round.states, strict=True):
            for name, variable in state.items():
                variable.assign(values[name])
        return flips, sum(int(np.count_nonzero(mask)) for mask in new)

    def _restart(self, group: Group, old: list[Any], new: list[Any], step: int) -> None:
        """Sets to zero what a method wants to start anew, where a weight does."""
        method = group.settings.method
        if not method.restarts:
            return
        both = [before & after for before, after in zip(old, new, strict=True)]
        if "pruned_weights" in method.restarts:
            self._keep([[kernel] for kernel in group.kernels], new)
        elif "weights" in method.restarts:
            self._keep([[kernel] for kernel in group.kernels], both)
        if "momenta" in method.restarts:
            self._keep(self._momentum.variables(method, group.kernels, step), both)

    def _keep(self, variables: list[list[Any]], stays: list[Any]) -> None:
        """Sets variables to zero, but for what stays of each kernel's."""
        read = keras_api.of(self._model).dense
        for each, where in zip(variables, stays, strict=True):
            for variable in [] if where.all() else each:
                variable.assign(tf.where(where, read(variable), 0.0))

    def _arrives(self, settings: Settings, step: int) -> bool:
        """Tells, once, that kernels ranked together have their final sparsity."""
        if settings.allocation not in ("global", "global_normalized"):
            return False  # The others decide of each kernel by itself.
        schedule = settings.schedule
        is_final = schedule(step)[1] == schedule.final_sparsity
        if not is_final or settings in self._arrived:
            return False
        self._arrived.append(settings)
        return True


def _as_of(group: Group, step: int) -> int:
    """Returns when the last mask was due, if only before its layers' time."""
    due = group.settings.schedule.last_update(step)
    return step if due is None else due


def _number(value: Any) -> Any:
    """Returns a number, of a variable too."""
    return tf.convert_to_tensor(value) if hasattr(value, "numpy") else value
