"""`SNIP`: one mask before training, by the sensitivity of the connections."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from dpf_tf.methods.gmp import GMP
from dpf_tf.methods.method import require_one_mask, require_own_scores
from dpf_tf.methods.round import Round
from dpf_tf.schedules import OneShot


@dataclasses.dataclass(frozen=True, kw_only=True)
class SNIP(GMP):
    """Single-shot network pruning: keeps the weights of largest `|gradient * weight|`.

    The mask is made once, before the first step, from the gradient on one batch of the
    data that `PruningCallback(data=...)` is given, and ranked over all kernels. Then
    the gradient is masked. Values and momentum of pruned weights are set to zero.

    Raises:
        ValueError: by `dpf_tf.prune`, if the schedule is a ramp or the allocation
            `"global_normalized"`; by the updater, if it has no data.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.SNIP().schedule(0.9)
        OneShot(final_sparsity=0.9, step=0)

    References:
        Lee, Ajanthan, Torr, "SNIP: Single-shot Network Pruning based on Connection
        Sensitivity", ICLR 2019, section 4 and algorithm 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
    only_for: ClassVar[str | None] = "single weights"

    def schedule(self, target: float) -> Any:
        """Returns one mask before the first step."""
        return OneShot(final_sparsity=target, step=0)

    def check(self, schedule: Any, allocation: Any) -> None:
        """Refuses a ramp, and scores that are divided by the weights' norm."""
        require_one_mask(self, schedule, "`step=0` in it is the paper")
        require_own_scores(self, allocation)

    def masks(self, round: Round) -> list[np.ndarray]:
        """Returns the connections to which the loss is most sensitive."""
        pairs = zip(round.gradients, round.kernels, strict=True)
        return round.largest(round.among_kept([g * w for g, w in pairs]))
