"""What a method owes the updater: masks and states of the right form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpf_tf import methods
from dpf_tf.groups import Group


def check_masks(group: Group, new: Any, old: list[np.ndarray]) -> None:
    """Refuses masks that do not fit the kernels.

    Args:
        group: the kernels.
        new: what their method has returned.
        old: the masks that they have.

    Raises:
        ValueError: if there is not a boolean array for each kernel, of its shape; if
            one keeps nothing, or does not fit the structure.
    """
    name = type(group.settings.method).__name__
    arrays = isinstance(new, list | tuple) and all(
        isinstance(mask, np.ndarray) for mask in new
    )
    if not arrays or [(m.dtype, m.shape) for m in new] != [
        (m.dtype, m.shape) for m in old
    ]:
        raise ValueError(
            f"{name}.masks must return a list with a boolean array for each kernel, of "
            f"its shape. Expected: {_described(old)}. "
            f"Returned: {_described(new) if arrays else repr(new)[:200]}"
        )
    for path, mask in zip(group.paths, new, strict=True):
        if not mask.any():
            raise ValueError(
                f"{name}.masks keeps no weight of {path}: nothing would get through."
            )
    if type(group.settings.method) in methods.METHODS.values():
        return  # These choose units by `Round.largest`.
    if odd := group.units.misfits(new):
        raise ValueError(
            f"{name}.masks returns masks that do not fit {group.settings.structure}, "
            f"for {', '.join(group.paths[i] for i in odd[:8])}. Choose by "
            "`round.largest(scores)`; or say `only_for = 'single weights'`."
        )


def check_states(group: Group, states: Any) -> None:
    """Refuses states of another form than the method's `state` returns.

    Args:
        group: the kernels.
        states: what their method has made of the round's.

    Raises:
        ValueError: if there is not one for each kernel, with these names and shapes.
    """
    expected = [_form(state) for state in group.states]
    found = [_form(state) for state in states]
    if found != expected:
        raise ValueError(
            f"{type(group.settings.method).__name__}.masks must leave in "
            "`round.states`, for each kernel, what its `state` has named. Expected: "
            f"{expected}. Found: {found}"
        )


def _form(state: Any) -> Any:
    """Returns the shapes of what is kept, by name."""
    if not isinstance(state, Mapping):
        return state
    return {name: tuple(np.shape(value)) for name, value in state.items()}


def _described(arrays: Any) -> str:
    return ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays)
