"""`DPF`: dynamic model pruning with feedback, and the levers that move it."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from dpf_tf.arguments import convert, flag, number
from dpf_tf.methods.method import Method, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPF(Method):
    """Dynamic model pruning with feedback: the gradient is not masked.

    The largest dense weights are kept; all of them get the gradient of the pruned ones,
    so that one pruned too early can come back, with the value that it has by then.
    Momentum is dense and stays as it is. This is the paper, but for one thing (and for
    the rest at the end, `PruningCallback(settle=...)`): where a whole output filter is
    pruned its gradient is bounded. Through a batch norm it is 30 to 300 times the
    usual. `bounded=False` is the paper to the letter. The other options are levers on
    the weights that go in and out to the end of training.

    Args:
        bounded: multiplies the gradient of a kernel's filters that are pruned as a
            whole by one factor, so that none is longer (in its L2 norm) than the
            longest of a living filter. Each replica does so by its own gradient, and
            each call of a shared layer. A filter with a single kept weight counts as
            living, even if that weight looks at a dead channel: such a one sets the
            bound for the others.
        pruned_gradient: factor on the gradient of pruned weights; 1 is the paper.
        pruned_decay: weight decay of the pruned weights alone, on top of any
            regularizer; 0 is the paper. It is a loss of the layer, half of it times the
            sum of their squares: `fit` adds it, and a loop of your own must add
            `model.losses`.

    Raises:
        TypeError: if an option has the wrong type.
        ValueError: if a number is negative.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.DPF(pruned_gradient=0.5)
        DPF(bounded=True, pruned_gradient=0.5, pruned_decay=0.0)

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, algorithm 1. A
        factor on the pruned weights' gradient: Glentis Georgoulakis et al., "Feather:
        An Elegant Solution to Effective DNN Sparsification", BMVC 2023. A decay of
        pruned weights: Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural
        Networks From Scratch" (SR-STE), ICLR 2021.
    """

    bounded: bool = True
    pruned_gradient: float = 1.0
    pruned_decay: float = 0.0

    def __post_init__(self) -> None:
        convert(self, "bounded", flag)
        convert(self, "pruned_gradient", number)
        convert(self, "pruned_decay", number)

    def backward(
        self, upstream: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, state: State
    ) -> tf.Tensor:
        """Returns the gradient, that of pruned weights times the lever."""
        if self.pruned_gradient == 1.0:
            return upstream
        return tf.where(mask, upstream, self.pruned_gradient * upstream)

    def penalty(
        self, kernel: tf.Tensor, mask: tf.Tensor, state: State
    ) -> tf.Tensor | None:
        """Returns the decay of pruned weights, if there is one."""
        if self.pruned_decay == 0.0:
            return None
        pruned = tf.where(mask, 0.0, kernel)
        return 0.5 * self.pruned_decay * tf.reduce_sum(tf.square(pruned))
