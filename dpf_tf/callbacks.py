"""`PruningCallback`: when masks change during `fit`, and what the logs say of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from dpf_tf import keras_api
from dpf_tf.arguments import real, whole
from dpf_tf.batch_norm import (
    batch_norm_layers,
    check_batches,
    recalibrate_batch_norm,
    trained_batch_norm,
)
from dpf_tf.gradients import check_data
from dpf_tf.graph import pruned_layers
from dpf_tf.groups import missed_target
from dpf_tf.updater import MaskUpdater


class PruningCallback(keras.callbacks.Callback, tf_keras.callbacks.Callback):
    """Recomputes the masks during `fit`: add it to `callbacks`, first in the list.

    A mask that is due at step `t` (the optimizer's iterations) is made before the
    gradient of step `t`, step 0 included. The logs get `sparsity` (share of the weights
    that can be pruned which the masks prune), `mask_flips` (entries changed by the
    last update) and `mask_age` (steps since a mask last changed); callbacks that stand
    later in the list, the progress bar among them, see these.

    Args:
        settle: share of the announced training, at its end, in which the masks stand
            still, so that batch norm's statistics belong to the final masks; the
            gradient is as before. 0 is the paper to the letter.
        recalibrate_data: training batches on which batch norm is recalibrated before
            every validation inside `fit` (see `recalibrate_batch_norm`).
        recalibrate_steps: how many of these batches to use.
        data: batches of training data, `(x, y)` or `(x, y, sample_weight)`, for methods
            that look at the gradient: an iterable of which each mask update takes the
            next one (one for each method, where there are several), beginning anew when
            a run is resumed; or a callable from the step to a batch, with which a
            resumed run is exactly the one that was broken off.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `settle` lies outside `[0, 1)`; in `fit`, if the model has no
            pruned layer or `callbacks` another `PruningCallback`, if a mask would be
            due inside an execution of several steps, or if Keras itself fails on the
            combination of strategy and options.

    Example:

        >>> import keras
        >>> import numpy as np
        >>> import dpf_tf
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16),
        ...                           keras.layers.Dense(1)])
        >>> pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.75)
        >>> pruned.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
        >>> x, y = np.ones((256, 8)), np.ones((256, 1))
        >>> history = pruned.fit(x, y, batch_size=4, verbose=0,
        ...                      callbacks=[dpf_tf.PruningCallback()])
        >>> history.history["sparsity"]
        [0.75]

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, algorithm 1.
    """

    def __init__(
        self,
        settle: float = 0.05,
        recalibrate_data: Any = None,
        recalibrate_steps: int = 50,
        data: Any = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= real("`settle`", settle) < 1.0:
            raise ValueError(
                "`settle` is the share of training, at its end, in which masks stand "
                f"still: a number in [0, 1). Received: {settle!r}"
            )
        # tf_keras would give us a copy of the logs, which its progress bar never sees.
        self._supports_tf_logs = True
        if recalibrate_data is not None:
            check_batches("recalibrate_data", recalibrate_data)
            if isinstance(recalibrate_data, Iterator):
                raise TypeError(
                    "`recalibrate_data` is needed anew at every validation, and an "
                    "iterator ends. Give a dataset or a list of batches. Received an "
                    f"object of type {type(recalibrate_data).__name__}"
                )
        whole("`recalibrate_steps`", recalibrate_steps, least=1, of="batches")
        check_data(data)
        self._settle = settle
        self._recalibrate_data = recalibrate_data
        self._recalibrate_steps = recalibrate_steps
        self._data = data
        self._updater: MaskUpdater | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Takes charge of the masks."""
        _refuse_what_keras_cannot(self.model)
        if self._recalibrate_data is not None:
            trained_batch_norm(self.model)  # An error now, not after an epoch.
        self._updater = MaskUpdater(self.model, data=self._data)
        # Each step is permitted by itself: a `fit` that is broken off leaves nothing.
        for layer in self._updater.layers:
            layer.permit(None)
        if not hasattr(self.model.train_function, "refuses_without_masks"):
            # A step whose tracing was refused, for want of this callback, is unusable.
            made = self.model.make_train_function(force=True)
            made = made or self.model.train_function  # Keras 3 returns None.
            self.model.train_function = _refusing(made, self._updater.layers)
        self._bound: int | None = None  # The step is at most this; unknown as yet.
        self._next = 0  # First step that has not been looked at.
        self._start = 0
        self._last_step: float = math.inf  # Masks may change up to here.
        self._last_due: float = math.inf  # The last step at which they will.
        self._silent = False  # They are at rest, and pruned filters silent.
        self._first_epoch: int | None = None
        self._batch = 0
        self._flips = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch at which this training starts or goes on."""
        if self._first_epoch is None:
            self._first_epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Recomputes the masks if they are due at the step that comes."""
        self._batch = batch
        if self._bound is None:
            self._begin()
        permitted = [layer.permit(self) for layer in self._updater.layers]
        if any(by not in (None, self) for by in permitted):
            raise ValueError(
                "Two `PruningCallback`s update the masks of one model. Leave one of "
                "them out of `callbacks`."
            )
        self._update_if_due()
        if self._next > self._last_due and not self._silent:
            self._silent = True
            self._updater.silence()

    def _update_if_due(self) -> None:
        step = self._find_due(self._bound)
        if step is None:
            return
        # Our count is an upper bound: with gradient accumulation, or after a float16
        # overflow, a batch makes no step. The optimizer is asked only now.
        self._bound = self._iterations()
        self._next = step
        if self._bound >= step:
            self._flips = self._updater.recompute(self._bound, since=step).flips
            self._next = self._bound + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Adds `sparsity`, `mask_flips` and `mask_age` to the logs."""
        self._bound += batch - self._batch + 1
        self._log(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds `sparsity`, `mask_flips` and `mask_age` to the logs."""
        if self._bound is not None:
            self._bound = self._iterations()  # Its upper bound would age the masks.
            self._warn_if_nothing_counts(epoch)
        self._log(logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """Recalibrates batch norm before a validation, if asked to."""
        if self._updater is not None and self._recalibrate_data is not None:
            recalibrate_batch_norm(
                self.model, self._recalibrate_data, self._recalibrate_steps
            )

    def on_train_end(self, logs: Any = None) -> None:
        """Warns if the target was missed, and lets go of the masks."""
        self._warn_if_missed()
        self._updater = None

    def _iterations(self) -> int:
        # `int` alone fails in Keras 3 under a strategy.
        return int(tf.convert_to_tensor(self.model.optimizer.iterations))

    def _begin(self) -> None:
        """Looks at the training that lies ahead, at its first batch.

        Not earlier: `BackupAndRestore` may restore after our `on_train_begin`.
        """
        step = self._iterations()
        self._bound = self._next = self._start = step
        total = self._total_steps(step)
        if total is not None:
            epoch_steps = round(self.params["steps"] / self._accumulation())
            self._updater.resolve(total, max(1, epoch_steps), anew=step == 0)
            if self._settle:
                announced = self.params["steps"] * self.params["epochs"]
                still = self._settle * (announced // self._accumulation())
                self._last_step = math.floor(total - still)
        elif self._settle and batch_norm_layers(self.model):
            warnings.warn(
                "The length of this training is unknown, so the masks cannot stand "
                "still in its last part, and batch norm's statistics will belong to "
                "several masks. Give `steps_per_epoch` to `fit`, or use "
                "`dpf_tf.recalibrate_batch_norm` before the evaluation.",
                stacklevel=2,
            )
        if self._last_step < math.inf:
            due = [
                settings.schedule.last_update(int(self._last_step))
                for settings in self._updater.settings
            ]
            self._last_due = max((t for t in due if t is not None), default=-1)
        self._updater.begin(step)
        self._check_executions(total)
        if total is not None:
            self._warn_of_short_training(total)

    def _total_steps(self, step: int) -> int | None:
        """Returns the step at which this training ends, if `fit` knows it."""
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if not steps or not epochs:
            return None
        batches = steps * (epochs - (self._first_epoch or 0))
        return step + batches // self._accumulation()

    def _accumulation(self) -> int:
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        return getattr(optimizer, "gradient_accumulation_steps", None) or 1

    def _find_due(self, bound: int) -> int | None:
        """Returns the first step in `[self._next, bound]` at which masks are due."""
        for step in range(self._next, bound + 1):
            if step <= self._last_step and self._updater.due(step):
                return step
        self._next = max(self._next, bound + 1)
        return None

    def _check_executions(self, total: int | None) -> None:
        """Refuses a mask due in the middle of an execution of several steps."""
        execution = keras_api.steps_per_execution(self.model)
        if execution == 1:
            return
        steps = self.params.get("steps")
        if total is None or not steps:
            raise ValueError(
                f"With steps_per_execution={execution} the masks can change only "
                "between executions, and this training has no known length to check "
                "that. Give `steps_per_epoch` to `fit`."
            )
        accumulation = self._accumulation()
        for step in range(self._start, total):
            if step > self._last_step or not self._updater.due(step):
                continue
            batch = (step - self._start) * accumulation % steps
            if batch % execution:
                raise ValueError(
                    f"A mask is due at step {step}, which is batch {batch} of an "
                    f"epoch of {steps}; with steps_per_execution={execution} the "
                    "masks can change only before batches 0, "
                    f"{execution}, {2 * execution}, ... of an epoch. Choose "
                    "steps_per_execution so that it divides the schedule's frequency, "
                    "or OneShot's step, and the steps of an epoch."
                )

    def _warn_of_short_training(self, total: int) -> None:
        last = min(total - 1, self._last_step)
        # What goes on from an epoch may have made its moves before.
        begin = self._start if not self._first_epoch else 0
        for settings in self._updater.settings:
            schedule = settings.schedule
            target = schedule.final_sparsity
            update = schedule.last_update(int(last))
            if update is None or (update < self._start and self._lags()):
                rest = (
                    f" (settle={self._settle:g} of the {self.params['epochs']} epochs "
                    "that `fit` announces; give settle=0 where each epoch is a `fit` "
                    "of its own)"
                )
                warnings.warn(
                    f"No mask is due in this training (steps {self._start} to "
                    f"{total - 1}, masks may change up to step {last}"
                    f"{rest if last == self._last_step else ''}): the schedule "
                    f"{schedule} will not act.",
                    stacklevel=2,
                )
            # A ramp may end between two updates; the end of training counts weights.
            elif target is not None and target - schedule(update)[1] > 1e-6:
                warnings.warn(
                    f"The last mask update of this training, at step {update} of "
                    f"{total}, reaches sparsity {schedule(update)[1]:.4f} of "
                    f"{target}. Train on, or shorten the schedule {schedule}.",
                    stacklevel=2,
                )
            elif settings.method.moves and _moves_nothing(schedule, begin, last):
                warnings.warn(
                    f"{type(settings.method).__name__} moves weights at the mask "
                    "updates after its first and before the schedule's `end_step`, and "
                    f"in this training (steps {self._start} to {total - 1}, masks may "
                    f"change up to step {last}) there is none: the masks stay as they "
                    "begin. Train longer, give a shorter `frequency` or a later "
                    f"`end_step` to the schedule {schedule}, or call `compile` anew "
                    "with a new optimizer: steps are counted from 0 then.",
                    stacklevel=2,
                )

    def _lags(self) -> bool:
        """Tells whether masks keep more than their schedules want in the end."""
        if not all(layer.built for layer in self._updater.layers):
            return self._updater.sparsity == 0
        missed = missed_target(self.model, pruned_layers(self.model))
        return missed is not None or self._updater.sparsity == 0

    def _warn_if_nothing_counts(self, epoch: int) -> None:
        stands = self._bound == self._start and self._batch + 1 >= self._accumulation()
        if stands and epoch == self._first_epoch:
            warnings.warn(
                "`model.optimizer` has made no step in this epoch, and the masks "
                "follow its count. If your `train_step` has optimizers of its own, "
                "compile the model with the one that trains its pruned layers, or "
                "train in a loop of your own with `dpf_tf.MaskUpdater`.",
                stacklevel=2,
            )

    def _warn_if_missed(self) -> None:
        missed = missed_target(self.model, pruned_layers(self.model))
        if missed is not None:
            warnings.warn(
                f"Training has ended at sparsity {missed[0]:.4f}, below the target "
                f"{missed[1]}: the ramp had not ended when masks changed last, layers "
                "were frozen before it, or weights of an earlier epoch were restored, "
                "their masks with them.",
                stacklevel=2,
            )

    def _log(self, logs: Any) -> None:
        if logs is None or self._bound is None:  # No batch has come yet.
            return
        logs["sparsity"] = self._updater.sparsity
        logs["mask_flips"] = self._flips
        since = self._updater.last_change
        since = self._due_before() if since is None else since
        logs["mask_age"] = self._bound - since

    def _due_before(self) -> int:
        """Returns when masks were last due before this `fit`; else its first step."""
        last = int(min(self._start - 1, self._last_step))
        found = (s.schedule.last_update(last) for s in self._updater.settings)
        return max((step for step in found if step is not None), default=self._start)


def _moves_nothing(schedule: Any, begin: int, last: float) -> bool:
    """Tells whether no update between two steps comes after the first, or does much."""
    end = getattr(schedule, "end_step", None)
    last = last if end in (None, -1) else min(last, end - 1)
    update = schedule.last_update(int(last))
    return update is None or update < max(begin, 1)


def _refusing(function: Any, layers: list[Any]) -> Any:
    """Returns a train function that notices a callback forgotten in a later fit.

    A traced step would run on without a look at Python's state.
    """

    def train_function(iterator: Any) -> Any:
        try:
            for layer in layers:
                layer.check_watched(training=True)
            return function(iterator)
        finally:
            for layer in layers:
                layer.permit(None)

    train_function.refuses_without_masks = True  # type: ignore[attr-defined]
    return train_function


def _refuse_what_keras_cannot(model: Any) -> None:
    """Raises where Keras itself fails, with the way out, before training."""
    strategy = model.distribute_strategy
    kind = type(strategy).__name__
    replicas = strategy.num_replicas_in_sync
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "Masks cannot be updated between the steps of ParameterServerStrategy: its "
            "steps have no common order. Use MultiWorkerMirroredStrategy."
        )
    if (
        replicas > 1
        and model.jit_compile
        and not tf.config.list_physical_devices("GPU")
    ):
        raise ValueError(
            f"Keras fails to compile a training step with XLA under {kind} on CPUs. "
            "Compile the model with `jit_compile=False`."
        )
    if keras_api.of(model) is not keras_api.KERAS3:
        return
    if replicas > 1 and keras_api.steps_per_execution(model) > 1:
        raise ValueError(
            f"Keras 3 fails with steps_per_execution > 1 under {kind}. Use "
            "steps_per_execution=1, or build the model with tf_keras, which can."
        )
