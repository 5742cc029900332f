"""Settings: how a layer is pruned; layers with equal settings share one sparsity."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpf_tf import allocation as allocation_lib
from dpf_tf import methods, schedules, structures


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the wrappers of one pool have in common.

    Attributes:
        schedule: a schedule of this package, or somebody else's in its form.
        allocation: how the sparsity is shared among the kernels.
        structure: what is pruned as one.
        method: the pruning scheme.
    """

    schedule: Any
    allocation: Any
    structure: structures.Structure
    method: methods.Method

    @classmethod
    def checked(
        cls, schedule: Any, allocation: Any, structure: Any, method: Any
    ) -> Settings:
        """Returns the settings that a user's arguments stand for.

        Where allocation or structure are `None`, and the schedule a bare target, the
        method says what they are; of an allocation first the structure, if it does.

        Raises:
            TypeError: if one has the wrong type.
            ValueError: if its value is unknown or out of range.
        """
        method = methods.get(method)
        structure = structures.get(method.structure if structure is None else structure)
        schedule = schedules.as_schedule(schedule, method.schedule)
        if allocation is None:
            allocation = structure.allocation or method.allocation
        allocation = allocation_lib.validate(allocation)
        method.check(schedule, allocation)
        structure.check(method, schedule, allocation)
        return cls(schedule, allocation, structure, method)
