"""Warnings of masks that one who trains a model will not have expected.

`MaskUpdater` looks for them, at the masks that it finds and at those that it makes.
"""

from __future__ import annotations

import warnings
from typing import Any

from dpf_tf.groups import Group, count_kept, size
from dpf_tf.settings import Settings

# The caller of `MaskUpdater.update`, through which all of these come.
_CALLER = 4


def warn_of_missing(settings: Settings, step: int) -> None:
    """Tells of dense masks, when a training goes on, that were due before."""
    schedule = settings.schedule
    before = schedule.last_update(step - 1) if step else None
    if before is not None and schedule(before)[1] > 0:
        warnings.warn(
            f"Steps are counted from {step} on, and the schedule has wanted "
            f"sparsity {schedule(before)[1]:.4f} since step {before}: all masks are "
            "dense as yet, and go there at their next update, if there is one. Count "
            "from 0 (a new `compile` does, with a new optimizer), or give the schedule "
            f"a later begin: {schedule}.",
            stacklevel=_CALLER,
        )


def warn_of_early(settings: Settings, masks: list[Any], step: int) -> None:
    """Tells of masks that prune before any is due."""
    late = settings.schedule.last_update(step) is None
    if late and count_kept(masks) < size(masks):
        warnings.warn(
            f"At step {step} no mask has been due yet, and there are some that prune, "
            "of an earlier training for instance. They stay until the schedule makes "
            f"new ones: {settings.schedule}. To begin dense, build and prune the model "
            "anew.",
            stacklevel=_CALLER,
        )


def warn_of_setback(
    before: int, after: int, groups: list[Group], step: int, resting: list[str]
) -> None:
    """Tells of masks that keep more than those before them.

    Args:
        before: how many weights of the groups their masks have kept.
        after: how many they keep now.
        groups: what was updated.
        step: when.
        resting: the layers whose masks no longer change.
    """
    total = size([mask for group in groups for mask in group.masks])
    if after <= before:
        return
    cause = (
        "steps are counted anew, as the optimizer does after a new `compile`; to go on "
        "with the schedule, go on with the old count (`optimizer.iterations`)"
    )
    if step and resting:
        cause = (
            f"the masks of {', '.join(resting)} no longer change (`trainable = False`, "
            "or frozen), and the others have its sparsity without them"
        )
    warnings.warn(
        f"At step {step} the schedule has set the sparsity back, from "
        f"{1 - before / total:.4f} to {1 - after / total:.4f}: {cause}. To train on "
        "with all masks as they were, call `dpf_tf.freeze_masks(model)` before. The "
        "schedule is now: "
        f"{', '.join(str(group.settings.schedule) for group in groups)}.",
        stacklevel=_CALLER,
    )


def warn_of_stuck(groups: list[Group]) -> None:
    """Names the kernels of which nothing can be pruned."""
    stuck = {path: why for group in groups for path, why in group.units.stuck.items()}
    if stuck:
        told = "; ".join(f"{path}: {why}" for path, why in stuck.items())
        warnings.warn(
            f"No filter of these kernels can be pruned: {told}. Leave them dense "
            "(`exclude=`), or prune what they are tied to as well.",
            stacklevel=_CALLER,
        )


def warn_of_bare(group: Group) -> None:
    """Names the kernels of which the final sparsity leaves next to nothing."""
    few = min(0.01, (1.0 - group.settings.schedule.final_sparsity) / 2)
    bare = [
        f"{path} ({kept:,} of {size([mask]):,})"
        for path, mask in zip(group.paths, group.masks, strict=True)
        if (kept := count_kept([mask])) < few * size([mask])
    ]
    if bare:
        warnings.warn(
            f"Next to no weights are left in {', '.join(bare)}: little gets through "
            "such a layer. Consider allocation='erk' or 'uniform', a ramp instead of a "
            "sudden target, or leave them dense with `exclude=`.",
            stacklevel=_CALLER,
        )
