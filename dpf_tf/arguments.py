"""The user's arguments: what every check of a kind takes, refuses and says."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable
from typing import Any

import numpy as np


def flag(subject: str, value: Any) -> bool:
    """Returns a bool; NumPy's is one.

    Args:
        subject: what the message calls it: "`silent` of Filters".
        value: what the user gave.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{subject} must be a bool. {_received(value)}")
    return bool(value)


def whole(subject: str, value: Any, least: int = 0, of: str = "") -> int:
    """Returns a whole number, `of` what the message says.

    Raises:
        TypeError: if it is none.
        ValueError: if it is less than `least`.
    """
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool):
        kind = f"whole number of {of}" if of else "whole number"
        raise TypeError(f"{subject} must be a {kind}. {_received(value)}")
    if found < least:
        raise ValueError(f"{subject} must be at least {least}. Received: {found}")
    return found


def real(subject: str, value: Any, what: str = "a number") -> float:
    """Returns a number, whatever it is, `what` in the message.

    Raises:
        TypeError: if it is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{subject} must be {what}. {_received(value)}")
    return float(value)


def number(
    subject: str, value: Any, least: float = 0.0, most: float = math.inf
) -> float:
    """Returns a finite number from `least` to `most`.

    Raises:
        TypeError: if it is none.
        ValueError: if it lies outside.
    """
    found = real(subject, value)
    if not (least <= found <= most and math.isfinite(found)):
        above = most == math.inf
        where = f"at least {least:g}" if above else f"in [{least:g}, {most:g}]"
        raise ValueError(f"{subject} must be finite, and {where}. Received: {value!r}")
    return found


def sparsity(subject: str, value: Any) -> float:
    """Returns a sparsity, a number in [0, 1).

    Raises:
        TypeError: if it is no number.
        ValueError: if it lies outside.
    """
    found = real(subject, value, "a number in [0, 1), the share of zeros")
    if not 0 <= found < 1:  # NaN fails here too.
        raise ValueError(
            f"{subject} must lie in [0, 1): it is the share of weights that become "
            f"zero, for instance 0.9. Received: {value!r}"
        )
    return found


def convert(owner: Any, name: str, check: Callable[..., Any], **limits: Any) -> None:
    """Checks an argument of a frozen dataclass, and writes what came of it.

    NumPy's numbers become Python's: others cannot be saved in a config.

    Example:

        >>> import dataclasses
        >>> from dpf_tf.arguments import convert, whole
        >>> @dataclasses.dataclass(frozen=True)
        ... class Period:
        ...     steps: int
        ...     def __post_init__(self):
        ...         convert(self, "steps", whole, least=1)
        >>> Period(0)
        Traceback (most recent call last):
            ...
        ValueError: `steps` of Period must be at least 1. Received: 0
    """
    subject = f"`{name}` of {type(owner).__name__}"
    object.__setattr__(owner, name, check(subject, getattr(owner, name), **limits))


def _received(value: Any) -> str:
    return f"Received: {value!r} (of type {type(value).__name__})"
