"""Steps and periods: what all schedules compute alike."""

from __future__ import annotations

from typing import Any

from dpf_tf.arguments import whole

EPOCH = "epoch"  # The period whose steps `fit` tells.


def step(subject: str, value: Any, least: int = 0) -> int:
    """Returns a valid number of steps."""
    return whole(subject, value, least, of="optimizer steps")


def period(subject: str, value: Any, least: int = 1) -> int | str:
    """Returns a valid number of steps, or one epoch."""
    if isinstance(value, str):
        if value != EPOCH:
            raise ValueError(
                f"{subject} must be a number of optimizer steps, or 'epoch'. "
                f"Received: {value!r}"
            )
        return value
    return step(subject, value, least)


def resolved(steps: int | str, epoch_steps: int | None) -> int | str:
    """Returns a number of steps, if the length of an epoch is known."""
    if steps == EPOCH and epoch_steps is not None:
        return max(1, epoch_steps)
    return steps


def is_due(step: int, begin: int, last: int | None, frequency: int | str) -> bool:
    """Tells whether masks are recomputed at a step."""
    if step < begin or (last is not None and step > last):
        return False
    return (step - begin) % known(frequency) == 0


def last_due(
    step: int, begin: int, last: int | None, frequency: int | str
) -> int | None:
    """Returns the last step, up to `step`, at which masks are recomputed."""
    if last is not None:
        step = min(step, last)
    if step <= begin:
        return begin if step == begin else None
    frequency = known(frequency)
    return begin + (step - begin) // frequency * frequency


def known(steps: int | str) -> int:
    """Returns a number of steps.

    Raises:
        ValueError: if it is an epoch, whose length has not been announced.
    """
    if isinstance(steps, int):
        return steps
    raise ValueError(
        "This schedule is due once an epoch, and the length of an epoch has not been "
        "announced. Use `fit` with a known number of steps (`steps_per_epoch=...`), "
        "pass `epoch_steps=` to MaskUpdater, or give the schedule's steps as numbers."
    )
