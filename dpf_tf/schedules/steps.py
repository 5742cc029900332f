"""Steps, sparsities and periods: what all schedules check and compute alike."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

REAL = (int, float, np.integer, np.floating)
EPOCH = "epoch"  # The period whose steps `fit` tells.


def sparsity(name: str, value: Any) -> float:
    """Returns a valid sparsity, a float in [0, 1)."""
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


def step(name: str, value: Any, least: int = 0) -> int:
    """Returns a valid number of steps."""
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


def period(value: Any) -> int | str:
    """Returns a valid `frequency`: a number of steps, or one epoch."""
    if isinstance(value, str):
        if value != EPOCH:
            raise ValueError(
                "`frequency` must be a number of optimizer steps, or 'epoch'. "
                f"Received: frequency={value!r}"
            )
        return value
    return step("frequency", value, least=1)


def resolved(frequency: int | str, epoch_steps: int | None) -> int | str:
    """Returns the period in steps, if the length of an epoch is known."""
    if frequency == EPOCH and epoch_steps is not None:
        return max(1, epoch_steps)
    return frequency


def is_due(step: int, begin: int, last: int | None, frequency: int | str) -> bool:
    """Tells whether masks are recomputed at a step."""
    if step < begin or (last is not None and step > last):
        return False
    return (step - begin) % _known(frequency) == 0


def last_due(
    step: int, begin: int, last: int | None, frequency: int | str
) -> int | None:
    """Returns the last step, up to `step`, at which masks are recomputed."""
    if last is not None:
        step = min(step, last)
    if step <= begin:
        return begin if step == begin else None
    frequency = _known(frequency)
    return begin + (step - begin) // frequency * frequency


def _known(frequency: int | str) -> int:
    if isinstance(frequency, int):
        return frequency
    raise ValueError(
        "This schedule is due once an epoch, and the length of an epoch has not been "
        "announced. Use `fit` with a known number of steps (`steps_per_epoch=...`), "
        "pass `epoch_steps=` to MaskUpdater, or give `frequency` in steps."
    )
