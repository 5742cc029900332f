"""`SET`: sparse evolutionary training, which grows at random."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from dpf_tf.methods.drop_and_grow import DropAndGrow
from dpf_tf.methods.round import Arrays, Round


@dataclasses.dataclass(frozen=True, kw_only=True)
class SET(DropAndGrow):
    """Sparse evolutionary training: drops by magnitude, grows at random.

    Random masks of Erdos-Renyi-Kernel density at first; once an epoch, each kernel
    drops a share of its weights and grows as many, anywhere. The gradient is masked;
    weights that are pruned, or were before they are grown, are zero, and so is their
    momentum. (Of the authors' programs one starts what is grown at zero, the other at
    random.) They give dense layers Erdos-Renyi density, by inputs and outputs; that of
    kernels is the RigL paper's, which compares with SET so. They drop the same share of
    positive and of negative weights and keep it constant; here the magnitude decides,
    and the share falls as a cosine to zero at the schedule's `end_step`, as in that
    paper. A schedule with `frequency=100` gives it RigL's period.

    Args:
        share: share of the kept weights that would be dropped at step 0, from which it
            falls; 0.3 is the authors' zeta.
        seed: of the random choices.

    Raises:
        TypeError: if an option is no number.
        ValueError: if `share` lies outside `[0, 1]`.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.SET()
        SET(share=0.3, seed=0)

    References:
        Mocanu et al., "Scalable training of artificial neural networks with adaptive
        sparse connectivity inspired by network science", Nature Communications 2018,
        algorithm 1.
    """

    period: ClassVar[int | str] = "epoch"

    def growth(self, round: Round) -> Arrays:
        """Returns random scores."""
        return [round.random(i, self.seed + 1) for i in range(len(round.paths))]
