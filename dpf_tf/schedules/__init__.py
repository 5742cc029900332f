"""Schedules: from a training step to `(should_prune, sparsity)`.

A schedule is a small immutable object. It says at which optimizer steps the masks are
recomputed and how sparse they are then. Its arithmetic is in Python floats: float32
would miscount by a weight on a model of 25 million.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any

from dpf_tf.schedules.constant_sparsity import ConstantSparsity
from dpf_tf.schedules.foreign import Foreign, from_tfmot
from dpf_tf.schedules.one_shot import OneShot
from dpf_tf.schedules.polynomial_decay import PolynomialDecay

__all__ = ["ConstantSparsity", "OneShot", "PolynomialDecay", "as_schedule"]

Schedule = Callable[[int], tuple[bool, float]]
_OURS = (PolynomialDecay, ConstantSparsity, OneShot)


def as_schedule(value: Any, of_target: Callable[[float], Any] | None = None) -> Any:
    """Returns the schedule that `value` stands for.

    Args:
        value: a target sparsity (0.9 means `PolynomialDecay(final_sparsity=0.9)`), a
            schedule of this module, a TFMOT `PruningSchedule`, or any callable
            `step -> (should_prune, sparsity)`.
        of_target: the schedule that a bare target stands for, where it is another.

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
    if isinstance(value, (*_OURS, Foreign)):
        return value
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        if of_target is not None:
            return as_schedule(of_target(float(value)))
        return PolynomialDecay(final_sparsity=float(value))
    if not isinstance(value, type) and callable(value):
        return from_tfmot(value) or Foreign(value)
    raise TypeError(
        "`pruning_schedule` must be a target sparsity such as 0.9, a dpf_tf schedule "
        "(PolynomialDecay, ConstantSparsity, OneShot), a TFMOT PruningSchedule, or a "
        f"callable `step -> (should_prune, sparsity)`. Received: {value!r} (of type "
        f"{type(value).__name__})"
    )


def reopened(
    schedule: Any, asked: Any, total_steps: int | None, epoch_steps: int | None
) -> Any:
    """Returns a schedule that leaves open what these lengths of a training tell.

    Args:
        schedule: with the lengths of an earlier training filled in.
        asked: as it was before.
        total_steps: optimizer steps of the training, if they are told.
        epoch_steps: those of an epoch, if they are told.

    Example:

        >>> from dpf_tf.schedules import ConstantSparsity, reopened
        >>> asked = ConstantSparsity(0.5, frequency="epoch")
        >>> reopened(asked.resolve(None, 10), asked, None, 20).frequency
        'epoch'
    """
    told = asked.resolve(total_steps, epoch_steps)
    names = [field.name for field in dataclasses.fields(asked) if field.init]
    changed = [name for name in names if getattr(told, name) != getattr(asked, name)]
    opened = {name: getattr(asked, name) for name in changed}
    return dataclasses.replace(schedule, **opened) if opened else schedule


def serialize(schedule: Any, keras: Any) -> dict[str, Any]:
    """Returns a schedule as plain data, for a layer's config.

    Raises:
        TypeError: if somebody else's schedule has no `get_config`.
    """
    if type(schedule) in _OURS:
        return {
            "class_name": type(schedule).__name__,
            "config": schedule.get_config(),
        }
    theirs = schedule.schedule if isinstance(schedule, Foreign) else schedule
    if not hasattr(theirs, "get_config"):
        raise TypeError(
            f"The pruning schedule {theirs!r} cannot be saved with the "
            "model: give it a `get_config` method and register its class with "
            "`keras.saving.register_keras_serializable`."
        )
    return keras.saving.serialize_keras_object(theirs)


def deserialize(data: Any, keras: Any, custom_objects: Any = None) -> Any:
    """Returns the schedule that `serialize` has described."""
    if not isinstance(data, dict):
        return as_schedule(data)
    for cls in _OURS:
        if data["class_name"] == cls.__name__ and "registered_name" not in data:
            return cls(**data["config"])
    return as_schedule(
        keras.saving.deserialize_keras_object(data, custom_objects=custom_objects)
    )
