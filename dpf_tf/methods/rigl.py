"""`RigL`: the rigged lottery, which grows where the gradient is large."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from dpf_tf.methods.drop_and_grow import DropAndGrow
from dpf_tf.methods.round import Arrays, Round


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigL(DropAndGrow):
    """The rigged lottery: drops by magnitude, grows where the dense gradient is large.

    Random masks of Erdos-Renyi-Kernel density at first; every 100 steps each kernel
    drops a share of its weights, which falls as a cosine to zero at the schedule's
    `end_step`, and grows as many where the gradient, on one batch of the data that
    `PruningCallback(data=...)` is given, is largest. In training the gradient is
    masked; weights that are pruned, or were before they are grown, are zero, and so is
    their momentum. The authors make no optimizer step at an update; here one is made
    at every step. Their first update is at step 0, here the masks are made there and
    move from step 100 on; they add a little noise to the magnitudes by which weights
    are dropped, and leave the first convolution dense, which has its Erdos-Renyi-Kernel
    density here.

    Args:
        share: share of the kept weights that would be dropped at step 0, from which it
            falls; 0.3 is the authors' alpha, as 100 steps are their choice. Their ends
            lie at 77 and 78 % of the training, ours at 75 %.
        seed: of the first masks.

    Raises:
        TypeError: if an option is no number.
        ValueError: if `share` lies outside `[0, 1]`.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.RigL().schedule(0.9).frequency
        100

    References:
        Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020,
        section 3 and algorithm 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def growth(self, round: Round) -> Arrays:
        """Returns the dense gradients."""
        return round.gradients
