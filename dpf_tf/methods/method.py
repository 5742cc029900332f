"""`Method`: what a pruning scheme decides; the wrapper and the updater do the rest.

    forward    the kernel that a layer computes with, from the dense one and its mask
    backward   the gradient that the dense kernel gets, from the one that arrives there
    penalty    what is added to the loss, as by a regularizer
    masks      the new masks, at a step at which the schedule wants them recomputed

A scheme of one's own is a frozen dataclass; what it leaves out is as in dynamic pruning
with feedback, but for the bound on the gradient of dead filters.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from dpf_tf.config import Configured
from dpf_tf.feedback import masked
from dpf_tf.methods.round import Round
from dpf_tf.schedules import PolynomialDecay

State = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(Configured):
    """A pruning scheme. Its fields are its options; `__post_init__` can check them.

    To be saved with a model, a scheme of one's own is registered with
    `register_keras_serializable` of the model's Keras.

    Attributes:
        allocation: how the sparsity is shared where the user does not say.
        structure: what is pruned as one where the user does not say.
        only_for: the `name` of the only structure for which the scheme is defined, such
            as `"single weights"` or `"filters"`.
        restarts: what is set to zero where a weight is pruned, or comes back, a
            frozenset of: its value (`"weights"`; `"pruned_weights"` only where it is
            pruned), the optimizer's momentum of it (`"momenta"`).
        needs: what `masks` asks its round for, of `"gradients"` and `"momenta"`.
        moves: whether the updates after the first one are what the scheme is about, so
            that a training without them gets a warning.

    Example:

        Weights are dropped at random, and none comes back:

        >>> import dataclasses
        >>> import dpf_tf
        >>> import keras
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class RandomPruning(dpf_tf.methods.Method):
        ...     seed: int = 0
        ...     def backward(self, upstream, kernel, mask, state):
        ...         return dpf_tf.methods.masked(upstream, mask)
        ...     def masks(self, round):
        ...         lots = [round.random(i, self.seed) for i in range(len(round.paths))]
        ...         return round.largest(round.among_kept(lots))
        >>> layer = keras.layers.Dense(10, use_bias=False)
        >>> layer.build((None, 10))
        >>> pruned = dpf_tf.prune(layer, 0.9, method=RandomPruning())
        >>> updater = dpf_tf.MaskUpdater(pruned, total_steps=64)
        >>> updater.update(48).sparsity
        0.9
    """

    allocation: ClassVar[str] = "global"
    structure: ClassVar[str] = "unstructured"
    only_for: ClassVar[str | None] = None
    restarts: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    moves: ClassVar[bool] = False

    def schedule(self, target: float) -> Any:
        """Returns the schedule that a bare target sparsity stands for."""
        return PolynomialDecay(final_sparsity=target)

    def check(self, schedule: Any, allocation: Any) -> None:
        """Raises ValueError if the scheme is not defined for these."""

    def state(
        self, shape: tuple[int, ...], filters: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Returns what the scheme keeps for a kernel, with its first values.

        Args:
            shape: the kernel's.
            filters: the axes that tell its output filters apart.

        Returns:
            Names and float32 arrays. They become variables, saved with the model;
            `forward`, `backward` and `penalty` get them as tensors, `masks` as
            `round.states`. None is called `"mask"`.
        """
        return {}

    def forward(self, kernel: tf.Tensor, mask: tf.Tensor, state: State) -> tf.Tensor:
        """Returns what the layer computes with: zero where the mask is `False`."""
        return masked(kernel, mask)

    def backward(
        self, upstream: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, state: State
    ) -> tf.Tensor:
        """Returns the dense kernel's gradient; `upstream` is that of the pruned one."""
        return upstream

    @property
    def computes_masked(self) -> bool:
        """Whether layers compute with the kept weights as they are (`forward`)."""
        return type(self).forward is Method.forward

    @property
    def bounded(self) -> bool:
        """Whether dead filters get a bounded gradient (`feedback.bounded`)."""
        return False

    def penalty(
        self, kernel: tf.Tensor, mask: tf.Tensor, state: State
    ) -> tf.Tensor | None:
        """Returns a scalar to add to the model's losses, or `None` for nothing."""
        return None

    def masks(self, round: Round) -> list[np.ndarray]:
        """Returns the new masks: a boolean array for each kernel of the round.

        New arrays each time: they become the memory of the mask variables.
        """
        return round.largest()


def require_one_mask(method: Method, schedule: Any, instead: str) -> None:
    """Raises ValueError if a schedule would make more and more sparse masks.

    Args:
        method: a scheme that makes one mask.
        schedule: what it was given.
        instead: what to use for several.
    """
    final = schedule.final_sparsity
    if getattr(schedule, "initial_sparsity", final) != final:
        raise ValueError(
            f"{type(method).__name__} makes one mask, and has no ramp. Received: "
            f"{schedule}. Give a number or a OneShot; {instead}."
        )


def require_own_scores(method: Method, allocation: Any) -> None:
    """Raises ValueError if an allocation would scale what is not a magnitude."""
    if allocation == "global_normalized":
        raise ValueError(
            f"{type(method).__name__} ranks other scores than the weights' magnitudes, "
            "and allocation='global_normalized' divides by the norm of the weights. "
            "Use 'global', 'uniform', 'erk' or patterns."
        )
