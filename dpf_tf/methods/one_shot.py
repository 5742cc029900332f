"""`OneShotPruning`: dense training, one mask, fine-tuning."""

from __future__ import annotations

import dataclasses
from typing import Any

from dpf_tf.methods.gmp import GMP
from dpf_tf.methods.method import require_one_mask
from dpf_tf.schedules import OneShot


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneShotPruning(GMP):
    """One-shot magnitude pruning in the middle of training, then fine-tuning.

    Dense training up to the schedule's `step`, half of the training by default; there
    the smallest weights go at once, and the rest is trained on with a masked gradient.
    Momentum of pruned weights is set to zero. The learning rate is that of the whole
    training, so that the epochs are the same as for the other schemes. The authors
    prune a network that has converged, several times with training in between, which
    has a lower learning rate; and they have a threshold for each layer, from its
    standard deviation, where here one ranking over all kernels reaches the target
    exactly.

    Raises:
        ValueError: by `dpf_tf.prune`, if the schedule is a ramp.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.OneShotPruning().schedule(0.9)
        OneShot(final_sparsity=0.9, step=None)

    References:
        Han et al., "Learning both Weights and Connections for Efficient Neural
        Networks", NeurIPS 2015, section 3.
    """

    def schedule(self, target: float) -> Any:
        """Returns one mask at half of the training."""
        return OneShot(final_sparsity=target)

    def check(self, schedule: Any, allocation: Any) -> None:
        """Refuses a ramp."""
        require_one_mask(self, schedule, "along a ramp it is method='gmp'")
