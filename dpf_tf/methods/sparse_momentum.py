"""`SparseMomentum`: grows where the momentum is large."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from dpf_tf.methods.drop_and_grow import DropAndGrow, apportion
from dpf_tf.methods.method import State
from dpf_tf.methods.round import Arrays, Round


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseMomentum(DropAndGrow):
    """Sparse momentum (SM): drops by magnitude, grows by the momentum's magnitude.

    Random masks at first, of the same sparsity everywhere; once an epoch each kernel
    drops a share of its weights, which falls as a cosine to zero at the schedule's
    `end_step`, 75 % of the training by default (the authors go on to its end). What is
    dropped in all is shared among the kernels in proportion to the mean momentum of
    their kept weights, and grown where the momentum is largest.

    The optimizer sees the dense gradient, so that the momentum of pruned weights is
    known; it stays as it is when they are pruned or grown. Their values are set to zero
    at both; what the optimizer makes of them in between acts on nothing but, through a
    regularizer, their own momentum and the norm by which gradients are clipped, and on
    what goes by the norm of a kernel: a constraint, or an optimizer such as LAMB. (The
    authors' code overwrites the momentum of pruned weights, after each update, with the
    mean of the others.) The optimizer must have a momentum: SGD with `momentum=`, or
    Adam, of which the first moment is taken as it is; the authors divide it by the root
    of the second. They also drop less from kernels that are nearly dense, but one
    weight of each at least, and leave 1 % of each kernel's room free.

    Args:
        share: share of the kept weights that would be dropped at step 0, from which it
            falls; 0.5 is the authors' prune rate.
        seed: of the first masks.

    Raises:
        TypeError: if an option is no number.
        ValueError: if `share` lies outside `[0, 1]`.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.SparseMomentum().schedule(0.9).frequency
        'epoch'

    References:
        Dettmers, Zettlemoyer, "Sparse Networks from Scratch: Faster Training without
        Losing Performance", 2019, section 3.
    """

    allocation: ClassVar[str] = "uniform"
    needs: ClassVar[frozenset[str]] = frozenset({"momenta"})
    restarts: ClassVar[frozenset[str]] = frozenset({"weights"})
    period: ClassVar[int | str] = "epoch"

    share: float = 0.5

    def backward(
        self, upstream: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, state: State
    ) -> tf.Tensor:
        """Returns the dense gradient, for the momentum's sake."""
        return upstream

    def growth(self, round: Round) -> Arrays:
        """Returns the momenta."""
        return round.momenta

    def grown(self, round: Round, kept: Arrays, dropped: list[int]) -> list[int]:
        """Returns shares in proportion to the mean momentum of the kept weights."""
        pairs = zip(round.momenta, round.masks, strict=True)
        means = np.array([np.abs(m).mean(where=mask, dtype=float) for m, mask in pairs])
        room = np.array([mask.size - mask.sum() for mask in kept])
        return apportion(sum(dropped), means, room)
