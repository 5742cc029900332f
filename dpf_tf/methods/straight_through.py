"""`StraightThrough`: DPF with new masks at every step."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpf_tf.methods.dpf import DPF
from dpf_tf.schedules import OneShot, PolynomialDecay


@dataclasses.dataclass(frozen=True, kw_only=True)
class StraightThrough(DPF):
    """The straight-through estimator: DPF whose masks are made anew at every step.

    Everything else is as in `DPF`. A schedule of one's own needs `frequency=1`; a
    callable must be due at every step.

    Args:
        bounded: see `DPF`.
        pruned_gradient: see `DPF`.
        pruned_decay: see `DPF`.

    Raises:
        TypeError: if an option has the wrong type.
        ValueError: if a number is negative.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.StraightThrough().schedule(0.9).frequency
        1

    References:
        Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons
        for Conditional Computation", 2013; Lin et al., ICLR 2020, appendix, compare
        mask periods.
    """

    def schedule(self, target: float) -> Any:
        """Returns DPF's ramp with a mask for every step."""
        return PolynomialDecay(final_sparsity=target, frequency=1)

    def check(self, schedule: Any, allocation: Any) -> None:
        """Refuses masks that stay for more than a step."""
        several = getattr(schedule, "frequency", 1) != 1
        if several or isinstance(schedule, OneShot):
            raise ValueError(
                "The straight-through estimator makes new masks at every step: its "
                f"schedule needs frequency=1. Received: {schedule}. For other periods "
                "use method='dpf'."
            )
