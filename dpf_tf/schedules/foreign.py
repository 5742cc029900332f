"""Schedules of others: TFMOT's become ours, any other is used as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpf_tf.arguments import sparsity
from dpf_tf.schedules.constant_sparsity import ConstantSparsity
from dpf_tf.schedules.polynomial_decay import PolynomialDecay


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign:
    """Somebody else's `step -> (should_prune, sparsity)`, used as it is."""

    schedule: Any

    def __eq__(self, other: object) -> bool:
        # A loaded model has a schedule of its own in each layer: the configs tell.
        if not isinstance(other, Foreign):
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
        """Returns what the schedule says, checked."""
        answer = self.schedule(step)
        try:
            due, share = answer
        except (TypeError, ValueError):
            raise TypeError(
                "A pruning schedule must return `(should_prune, sparsity)`. "
                f"{self.schedule!r} returned {answer!r} for step {step}"
            ) from None
        return bool(due), sparsity("The sparsity of the schedule", float(share))

    @property
    def final_sparsity(self) -> float | None:
        """The sparsity at the end of training, if the schedule names one."""
        for name in ("final_sparsity", "target_sparsity"):
            if hasattr(self.schedule, name):
                return sparsity(f"`{name}`", float(getattr(self.schedule, name)))
        return None

    @property
    def initial_sparsity(self) -> float:
        """The sparsity at step 0."""
        return self(0)[1]

    def last_update(self, step: int) -> int | None:
        """Returns the last step, up to `step`, at which masks are recomputed."""
        return next((t for t in range(step, -1, -1) if self(t)[0]), None)

    def resolve(
        self, total_steps: int | None, epoch_steps: int | None = None
    ) -> Foreign:
        """Returns the schedule itself."""
        return self


def from_tfmot(schedule: Any) -> PolynomialDecay | ConstantSparsity | None:
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
