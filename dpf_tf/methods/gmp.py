"""`GMP`: gradual magnitude pruning, without feedback."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from dpf_tf.feedback import masked
from dpf_tf.methods.method import Method, State
from dpf_tf.methods.round import Round


@dataclasses.dataclass(frozen=True, kw_only=True)
class GMP(Method):
    """Gradual magnitude pruning, called incremental in the DPF paper.

    At every update the smallest of the weights that are left go, and do not come back:
    the gradient is masked, a pruned weight is set to zero, and its momentum with it.
    (Where the schedule asks for less than there is, some do, from zero: a warning tells
    of that.)
    The cubic form of the ramp and the masked gradient are the authors'; that the ramp
    begins at step 0 and ends at 75 % of the training, with masks every 16 steps, is
    DPF's. They rank each kernel by itself (`allocation="uniform"`, as TFMOT does) and
    let a masked weight keep its value.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.get("gmp")
        GMP()

    References:
        Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for
        model compression", 2017, section 3.
    """

    restarts: ClassVar[frozenset[str]] = frozenset({"weights", "momenta"})

    def backward(
        self, upstream: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, state: State
    ) -> tf.Tensor:
        """Returns the gradient of the kept weights alone."""
        return masked(upstream, mask)

    def masks(self, round: Round) -> list[np.ndarray]:
        """Returns the largest of the weights that are kept."""
        return round.largest(round.among_kept(round.kernels))
