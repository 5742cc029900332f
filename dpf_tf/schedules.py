"""Schedules: from a training step to `(should_prune, sparsity)`.

A schedule is a small immutable object. It says at which optimizer steps the masks are
recomputed and how sparse they are then. Its arithmetic is in Python floats: float32
would miscount by a weight on a model of 25 million.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["ConstantSparsity", "PolynomialDecay", "as_schedule"]

# Lin et al. reach the final sparsity at the second learning-rate decay, epoch 225 of
# 300, and go on recomputing masks until training ends.
RAMP_SHARE = 0.75
REAL = (int, float, np.integer, np.floating)

Schedule = Callable[[int], tuple[bool, float]]


def _sparsity(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, REAL):
        raise TypeError(
            f"`{name}` must be a number in [0, 1), the share of zeros. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if not 0.0 <= value < 1.0:  # NaN fails here too.
        raise ValueError(
            f"`{name}` must lie in [0, 1): it is the share of weights that become "
            f"zero, for instance 0.9. Received: {name}={value!r}"
        )
    return float(value)


def _step(name: str, value: Any, least: int = 0) -> int:
    try:
        step = operator.index(value)
    except TypeError:
        step = None
    if step is None or isinstance(value, bool):
        raise TypeError(
            f"`{name}` must be a whole number of optimizer steps. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if step < least:
        raise ValueError(f"`{name}` must be at least {least}. Received: {name}={step}")
    return step


def _is_due(step: int, begin: int, last: int | None, frequency: int) -> bool:
    if step < begin or (last is not None and step > last):
        return False
    return (step - begin) % frequency == 0


def _last_due(step: int, begin: int, last: int | None, frequency: int) -> int | None:
    if last is not None:
        step = min(step, last)
    return None if step < begin else begin + (step - begin) // frequency * frequency


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolynomialDecay:
    """Ramp from the initial to the final sparsity, steep first and flat at its end.

    At step `t` of the ramp, `s(t) = s_f + (s_i - s_f) * (1 - progress) ** power` with
    `progress = (t - begin_step) / (end_step - begin_step)`. After `end_step` the
    sparsity stays final, and the masks go on being recomputed every `frequency` steps
    until `freeze_step`: which weights are zero still changes, as in the paper.

    Args:
        final_sparsity: share of zeros at the end of the ramp, in `[0, 1)`.
        initial_sparsity: share of zeros at `begin_step`, in `[0, 1)`.
        begin_step: optimizer step of the first mask update.
        end_step: step at which the ramp ends. `None` means 75 % of the training that
            `fit` announces; it is filled in at the first batch and kept from then on.
        power: exponent of the ramp, positive; 3 is the cubic ramp.
        frequency: steps between two mask updates (the paper's `p`).
        freeze_step: last step at which masks may change; `None` is never.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a sparsity lies outside `[0, 1)` or the steps contradict
            each other.

    Example:

        >>> from dpf_tf import PolynomialDecay
        >>> schedule = PolynomialDecay(final_sparsity=0.9, end_step=1600)
        >>> schedule(0), schedule(800), schedule(808), schedule(1600)
        ((True, 0.0), (True, 0.7875), (False, 0.7908413625), (True, 0.9))

    References:
        Zhu & Gupta, "To prune, or not to prune", 2017, section 3;
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, appendix A.
    """

    final_sparsity: float
    initial_sparsity: float = 0.0
    begin_step: int = 0
    end_step: int | None = None
    power: float = 3
    frequency: int = 16
    freeze_step: int | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__  # Frozen: the only place that may write.
        for name in ("final_sparsity", "initial_sparsity"):
            put(self, name, _sparsity(name, getattr(self, name)))
        put(self, "begin_step", _step("begin_step", self.begin_step))
        put(self, "frequency", _step("frequency", self.frequency, least=1))
        if isinstance(self.power, bool) or not isinstance(self.power, REAL):
            raise TypeError(f"`power` must be a number. Received: {self.power!r}")
        if not (self.power > 0 and math.isfinite(self.power)):
            raise ValueError(f"`power` must be positive. Received: {self.power!r}")
        if self.end_step is not None:
            if self.end_step == -1:
                raise ValueError(
                    "PolynomialDecay needs the step at which its ramp ends; "
                    "end_step=-1 has no meaning here. Leave `end_step` out for 75 % "
                    "of the training that `fit` announces, and `freeze_step` out for "
                    "masks that never freeze."
                )
            put(self, "end_step", _step("end_step", self.end_step, self.begin_step))
        if self.freeze_step is not None:
            least = self.begin_step if self.end_step is None else self.end_step
            put(self, "freeze_step", _step("freeze_step", self.freeze_step, least))

    def __call__(self, step: int) -> tuple[bool, float]:
        """Returns whether masks are recomputed at `step`, and the sparsity there."""
        if self.end_step is None:
            raise ValueError(
                "This PolynomialDecay does not know when its ramp ends: "
                "`end_step=None` means 75 % of the training, and its length has not "
                "been announced. Use `fit` with a known number of steps "
                "(`steps_per_epoch=...`), pass `total_steps=` to MaskUpdater, or give "
                "`end_step`."
            )
        due = _is_due(step, self.begin_step, self.freeze_step, self.frequency)
        if step >= self.end_step:
            return due, self.final_sparsity
        if step <= self.begin_step:
            return due, self.initial_sparsity
        left = (self.end_step - step) / (self.end_step - self.begin_step)
        span = self.final_sparsity - self.initial_sparsity
        return due, self.final_sparsity - span * left**self.power

    def last_update(self, step: int) -> int | None:
        """Returns the last step, up to `step`, at which masks are recomputed."""
        return _last_due(step, self.begin_step, self.freeze_step, self.frequency)

    def resolve(self, total_steps: int) -> PolynomialDecay:
        """Returns the schedule with `end_step` filled in for a training's length."""
        if self.end_step is not None:
            return self
        end_step = round(RAMP_SHARE * total_steps)
        if end_step < self.begin_step:
            raise ValueError(
                f"The ramp would end (75 % of {total_steps} steps = step {end_step}) "
                f"before it begins (begin_step={self.begin_step}). Train longer, begin "
                "earlier, or give `end_step`."
            )
        if self.freeze_step is not None and self.freeze_step < end_step:
            raise ValueError(
                f"The masks would freeze (freeze_step={self.freeze_step}) before the "
                f"ramp ends (75 % of {total_steps} steps = step {end_step}). Freeze "
                "later, or give `end_step`."
            )
        return dataclasses.replace(self, end_step=end_step)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal schedule."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class ConstantSparsity:
    """One sparsity from `begin_step` on, its masks recomputed every `frequency` steps.

    Args:
        target_sparsity: share of zeros, in `[0, 1)`.
        begin_step: optimizer step of the first mask update.
        end_step: last step at which masks may change; -1 is never frozen.
        frequency: steps between two mask updates.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the sparsity lies outside `[0, 1)` or a step is impossible.

    Example:

        >>> from dpf_tf import ConstantSparsity
        >>> schedule = ConstantSparsity(0.5, begin_step=100)
        >>> schedule(99), schedule(100), schedule(108), schedule(116)
        ((False, 0.0), (True, 0.5), (False, 0.5), (True, 0.5))
    """

    target_sparsity: float
    begin_step: int = 0
    end_step: int = -1
    frequency: int = 16

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "target_sparsity", _sparsity("target_sparsity", self.target_sparsity))
        put(self, "begin_step", _step("begin_step", self.begin_step))
        put(self, "frequency", _step("frequency", self.frequency, least=1))
        if self.end_step != -1:
            put(self, "end_step", _step("end_step", self.end_step, self.begin_step))

    def __call__(self, step: int) -> tuple[bool, float]:
        """Returns whether masks are recomputed at `step`, and the sparsity there."""
        last = None if self.end_step == -1 else self.end_step
        due = _is_due(step, self.begin_step, last, self.frequency)
        return due, self.target_sparsity if step >= self.begin_step else 0.0

    @property
    def final_sparsity(self) -> float:
        """The sparsity at the end of training."""
        return self.target_sparsity

    def last_update(self, step: int) -> int | None:
        """Returns the last step, up to `step`, at which masks are recomputed."""
        last = None if self.end_step == -1 else self.end_step
        return _last_due(step, self.begin_step, last, self.frequency)

    def resolve(self, total_steps: int) -> ConstantSparsity:
        """Returns the schedule itself: it does not depend on the training's length."""
        return self

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal schedule."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, eq=False)
class _Foreign:
    """Somebody else's `step -> (should_prune, sparsity)`, used as it is."""

    schedule: Any

    def __eq__(self, other: object) -> bool:
        # A loaded model has a schedule of its own in each layer: the configs tell.
        if not isinstance(other, _Foreign):
            return False
        mine, theirs = self.schedule, other.schedule
        if mine is theirs or type(mine) is not type(theirs):
            return mine is theirs
        if hasattr(mine, "get_config"):
            return mine.get_config() == theirs.get_config()
        return mine == theirs

    def __hash__(self) -> int:
        return hash(type(self.schedule))

    def __call__(self, step: int) -> tuple[bool, float]:
        answer = self.schedule(step)
        try:
            due, sparsity = answer
        except (TypeError, ValueError):
            raise TypeError(
                "A pruning schedule must return `(should_prune, sparsity)`. "
                f"{self.schedule!r} returned {answer!r} for step {step}"
            ) from None
        return bool(due), _sparsity("sparsity", float(sparsity))

    @property
    def final_sparsity(self) -> float | None:
        for name in ("final_sparsity", "target_sparsity"):
            if hasattr(self.schedule, name):
                return _sparsity(name, float(getattr(self.schedule, name)))
        return None

    def last_update(self, step: int) -> int | None:
        return next((t for t in range(step, -1, -1) if self(t)[0]), None)

    def resolve(self, total_steps: int) -> _Foreign:
        return self


def _from_tfmot(schedule: Any) -> PolynomialDecay | ConstantSparsity | None:
    """Returns our schedule for a known TFMOT one, told by name: no import of TFMOT."""
    cls = type(schedule)
    if not cls.__module__.startswith("tensorflow_model_optimization."):
        return None
    if cls.__name__ == "ConstantSparsity":
        return ConstantSparsity(
            schedule.target_sparsity,
            begin_step=schedule.begin_step,
            end_step=schedule.end_step,
            frequency=schedule.frequency,
        )
    if cls.__name__ == "PolynomialDecay":
        return PolynomialDecay(
            final_sparsity=schedule.final_sparsity,
            initial_sparsity=schedule.initial_sparsity,
            begin_step=schedule.begin_step,
            end_step=schedule.end_step,
            power=schedule.power,
            frequency=schedule.frequency,
            freeze_step=schedule.end_step,  # TFMOT's masks stop there.
        )
    return None


def as_schedule(value: Any) -> Any:
    """Returns the schedule that `value` stands for.

    Args:
        value: a target sparsity (0.9 means `PolynomialDecay(final_sparsity=0.9)`), a
            schedule of this module, a TFMOT `PruningSchedule`, or any callable
            `step -> (should_prune, sparsity)`.

    Returns:
        A schedule. TFMOT's `PolynomialDecay` and `ConstantSparsity` become the ones of
        this module, so that a saved model does not need TFMOT to load.

    Raises:
        TypeError: if `value` is none of these.
        ValueError: if it is a number outside `[0, 1)`.

    Example:

        >>> from dpf_tf.schedules import as_schedule
        >>> as_schedule(0.9).final_sparsity
        0.9
    """
    if isinstance(value, PolynomialDecay | ConstantSparsity | _Foreign):
        return value
    if isinstance(value, REAL) and not isinstance(value, bool):
        return PolynomialDecay(final_sparsity=float(value))
    if not isinstance(value, type) and callable(value):
        return _from_tfmot(value) or _Foreign(value)
    raise TypeError(
        "`pruning_schedule` must be a target sparsity such as 0.9, a dpf_tf schedule "
        "(PolynomialDecay, ConstantSparsity), a TFMOT PruningSchedule, or a callable "
        f"`step -> (should_prune, sparsity)`. Received: {value!r} (of type "
        f"{type(value).__name__})"
    )


def serialize(schedule: Any, keras: Any) -> dict[str, Any]:
    """Returns a schedule as plain data, for a layer's config.

    Raises:
        TypeError: if somebody else's schedule has no `get_config`.
    """
    if not isinstance(schedule, _Foreign):
        return {
            "class_name": type(schedule).__name__,
            "config": schedule.get_config(),
        }
    if not hasattr(schedule.schedule, "get_config"):
        raise TypeError(
            f"The pruning schedule {schedule.schedule!r} cannot be saved with the "
            "model: give it a `get_config` method and register its class with "
            "`keras.saving.register_keras_serializable`."
        )
    return keras.saving.serialize_keras_object(schedule.schedule)


def deserialize(data: Any, keras: Any, custom_objects: Any = None) -> Any:
    """Returns the schedule that `serialize` has described."""
    if not isinstance(data, dict):
        return as_schedule(data)
    for cls in (PolynomialDecay, ConstantSparsity):
        if data["class_name"] == cls.__name__ and "registered_name" not in data:
            return cls(**data["config"])
    return as_schedule(
        keras.saving.deserialize_keras_object(data, custom_objects=custom_objects)
    )
