"""What a method owes the updater: masks and states of the right form."""

from __future__ import annotations

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
            one keeps nothing, or breaks up what is pruned as one.
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
    if broken := group.units.broken(new):
        raise ValueError(
            f"{name}.masks breaks up what {group.settings.structure} prunes as one, in "
            f"{', '.join(group.paths[i] for i in broken[:8])}. Choose by "
            "`round.largest(scores)`; or say `only_for = 'single weights'`."
        )


def check_states(group: Group, states: list[dict[str, np.ndarray]]) -> None:
    """Refuses states of other names than the method's `state` returns.

    Args:
        group: the kernels.
        states: what their method has made of the round's.

    Raises:
        ValueError: if a kernel's has a name too many, or too few.
    """
    for path, before, after in zip(group.paths, group.states, states, strict=True):
        if before.keys() != after.keys():
            raise ValueError(
                f"{type(group.settings.method).__name__} keeps "
                f"{sorted(before) or 'nothing'} for a kernel, as its `state` says, and "
                f"has put {sorted(after)} in `round.states` for {path}."
            )


def _described(arrays: Any) -> str:
    return ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays)
