"""`OneShot`: dense up to a step, sparse from there on."""

from __future__ import annotations

import dataclasses

from dpf_tf.arguments import convert, sparsity
from dpf_tf.config import Configured
from dpf_tf.schedules import steps

DENSE_SHARE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneShot(Configured):
    """One mask, made once: dense training before it, fixed sparsity after it.

    Args:
        final_sparsity: share of zeros from `step` on, in `[0, 1)`.
        step: optimizer step at which the mask is made; 0 is before training. `None`
            means half of the training that `fit` announces; it is filled in at the
            first batch, and kept as `PolynomialDecay` keeps its end.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the sparsity lies outside `[0, 1)` or the step is negative.

    Example:

        >>> from dpf_tf import OneShot
        >>> schedule = OneShot(final_sparsity=0.9, step=800)
        >>> schedule(799), schedule(800), schedule(801)
        ((False, 0.0), (True, 0.9), (False, 0.9))

    References:
        Han et al., "Learning both Weights and Connections for Efficient Neural
        Networks", NeurIPS 2015, section 3: train, prune, train on.
    """

    final_sparsity: float
    step: int | None = None

    def __post_init__(self) -> None:
        convert(self, "final_sparsity", sparsity)
        if self.step is not None:
            convert(self, "step", steps.step)

    def __call__(self, step: int) -> tuple[bool, float]:
        """Returns whether the mask is made at `step`, and the sparsity there."""
        if self.step is None:
            raise ValueError(
                "This OneShot does not know its step: `step=None` means half of the "
                "training, and its length has not been announced. Use `fit` with a "
                "known number of steps (`steps_per_epoch=...`), pass `total_steps=` to "
                "MaskUpdater, or give `step`."
            )
        return step == self.step, self.final_sparsity if step >= self.step else 0.0

    def last_update(self, step: int) -> int | None:
        """Returns the step of the mask, if it is not after `step`."""
        return self.step if self.step is not None and self.step <= step else None

    def resolve(
        self, total_steps: int | None, epoch_steps: int | None = None
    ) -> OneShot:
        """Returns the schedule with `step` filled in for a training's length."""
        if self.step is not None or total_steps is None:
            return self
        return dataclasses.replace(self, step=round(DENSE_SHARE * total_steps))
