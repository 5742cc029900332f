"""`ConstantSparsity`: one sparsity from a step on."""

from __future__ import annotations

import dataclasses

from dpf_tf.arguments import convert, sparsity
from dpf_tf.config import Configured
from dpf_tf.schedules import steps


@dataclasses.dataclass(frozen=True)
class ConstantSparsity(Configured):
    """One sparsity from `begin_step` on, its masks recomputed every `frequency` steps.

    Args:
        target_sparsity: share of zeros, in `[0, 1)`.
        begin_step: optimizer step of the first mask update, or `"epoch"`: after the
            first epoch.
        end_step: last step at which masks may change; -1 is never frozen.
        frequency: steps between two mask updates, or `"epoch"`.

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
    begin_step: int | str = 0
    end_step: int = -1
    frequency: int | str = 16

    def __post_init__(self) -> None:
        convert(self, "target_sparsity", sparsity)
        convert(self, "begin_step", steps.period, least=0)
        convert(self, "frequency", steps.period)
        if self.end_step != -1:
            begin = 0 if self.begin_step == steps.EPOCH else self.begin_step
            convert(self, "end_step", steps.step, least=begin)

    def __call__(self, step: int) -> tuple[bool, float]:
        """Returns whether masks are recomputed at `step`, and the sparsity there."""
        last = None if self.end_step == -1 else self.end_step
        begin = steps.known(self.begin_step)
        due = steps.is_due(step, begin, last, self.frequency)
        return due, self.target_sparsity if step >= begin else 0.0

    @property
    def final_sparsity(self) -> float:
        """The sparsity at the end of training."""
        return self.target_sparsity

    def last_update(self, step: int) -> int | None:
        """Returns the last step, up to `step`, at which masks are recomputed."""
        last = None if self.end_step == -1 else self.end_step
        return steps.last_due(step, steps.known(self.begin_step), last, self.frequency)

    def resolve(
        self, total_steps: int | None, epoch_steps: int | None = None
    ) -> ConstantSparsity:
        """Returns the schedule with the length of an epoch filled in."""
        begin, frequency = (
            steps.resolved(each, epoch_steps)
            for each in (self.begin_step, self.frequency)
        )
        return dataclasses.replace(self, begin_step=begin, frequency=frequency)
