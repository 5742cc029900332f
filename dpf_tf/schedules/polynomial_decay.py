"""`PolynomialDecay`: a ramp of the sparsity, steep first and flat at its end."""

from __future__ import annotations

import dataclasses
import math

from dpf_tf.arguments import convert, real, sparsity
from dpf_tf.config import Configured
from dpf_tf.schedules import steps

# Lin et al. reach the final sparsity at the second learning-rate decay, epoch 225 of
# 300, and go on recomputing masks until training ends.
RAMP_SHARE = 0.75


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolynomialDecay(Configured):
    """Ramp from the initial to the final sparsity, steep first and flat at its end.

    At step `t` of the ramp, `s(t) = s_f + (s_i - s_f) * (1 - progress) ** power` with
    `progress = (t - begin_step) / (end_step - begin_step)`. After `end_step` the
    sparsity stays final, and the masks go on being recomputed every `frequency` steps
    until `freeze_step`: which weights are zero still changes, as in the paper.

    Args:
        final_sparsity: share of zeros at the end of the ramp, in `[0, 1)`.
        initial_sparsity: share of zeros at `begin_step`, in `[0, 1)`.
        begin_step: optimizer step of the first mask update.
        end_step: step at which the ramp ends. `None` means 75 % of the training that
            `fit` announces; it is filled in at the first batch, and kept in a training
            that goes on. One whose optimizer counts from 0 again, or that finds all
            masks dense, fills in its own.
        power: exponent of the ramp, positive; 3 is the cubic ramp.
        frequency: steps between two mask updates (the paper's `p`), or `"epoch"`: as
            many as `fit` announces for an epoch, filled in as `end_step` is.
        freeze_step: last step at which masks may change; `None` is never.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a sparsity lies outside `[0, 1)` or the steps contradict
            each other.

    Example:

        >>> from dpf_tf import PolynomialDecay
        >>> schedule = PolynomialDecay(final_sparsity=0.9, end_step=1600)
        >>> schedule(0), schedule(800), schedule(808), schedule(1600)
        ((True, 0.0), (True, 0.7875), (False, 0.7908413625), (True, 0.9))

    References:
        Zhu & Gupta, "To prune, or not to prune", 2017, section 3;
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, appendix A.
    """

    final_sparsity: float
    initial_sparsity: float = 0.0
    begin_step: int = 0
    end_step: int | None = None
    power: float = 3
    frequency: int | str = 16
    freeze_step: int | None = None

    def __post_init__(self) -> None:
        convert(self, "final_sparsity", sparsity)
        convert(self, "initial_sparsity", sparsity)
        convert(self, "begin_step", steps.step)
        convert(self, "frequency", steps.period)
        if not 0 < real("`power` of PolynomialDecay", self.power) < math.inf:
            raise ValueError(
                "`power` of PolynomialDecay must be finite, and above 0. Received: "
                f"{self.power!r}"
            )
        if self.end_step is not None:
            if self.end_step == -1:
                raise ValueError(
                    "PolynomialDecay needs the step at which its ramp ends; "
                    "end_step=-1 has no meaning here. Leave `end_step` out for 75 % "
                    "of the training that `fit` announces, and `freeze_step` out for "
                    "masks that never freeze."
                )
            convert(self, "end_step", steps.step, least=self.begin_step)
        if self.freeze_step is not None:
            least = self.begin_step if self.end_step is None else self.end_step
            convert(self, "freeze_step", steps.step, least=least)

    def __call__(self, step: int) -> tuple[bool, float]:
        """Returns whether masks are recomputed at `step`, and the sparsity there."""
        if self.end_step is None:
            raise ValueError(
                "This PolynomialDecay does not know when its ramp ends: "
                "`end_step=None` means 75 % of the training, and its length has not "
                "been announced. Use `fit` with a known number of steps "
                "(`steps_per_epoch=...`), pass `total_steps=` to MaskUpdater, or give "
                "`end_step`."
            )
        due = steps.is_due(step, self.begin_step, self.freeze_step, self.frequency)
        if step >= self.end_step:
            return due, self.final_sparsity
        if step <= self.begin_step:
            return due, self.initial_sparsity
        left = (self.end_step - step) / (self.end_step - self.begin_step)
        span = self.final_sparsity - self.initial_sparsity
        return due, self.final_sparsity - span * left**self.power

    def last_update(self, step: int) -> int | None:
        """Returns the last step, up to `step`, at which masks are recomputed."""
        return steps.last_due(step, self.begin_step, self.freeze_step, self.frequency)

    def resolve(
        self, total_steps: int | None, epoch_steps: int | None = None
    ) -> PolynomialDecay:
        """Returns the schedule with what depends on a training's length filled in."""
        frequency = steps.resolved(self.frequency, epoch_steps)
        if self.end_step is not None or total_steps is None:
            return dataclasses.replace(self, frequency=frequency)
        end_step = round(RAMP_SHARE * total_steps)
        if end_step < self.begin_step:
            raise ValueError(
                f"The ramp would end (75 % of {total_steps} steps = step {end_step}) "
                f"before it begins (begin_step={self.begin_step}). Train longer, begin "
                "earlier, or give `end_step`."
            )
        if self.freeze_step is not None and self.freeze_step < end_step:
            raise ValueError(
                f"The masks would freeze (freeze_step={self.freeze_step}) before the "
                f"ramp ends (75 % of {total_steps} steps = step {end_step}). Freeze "
                "later, or give `end_step`."
            )
        return dataclasses.replace(self, end_step=end_step, frequency=frequency)
