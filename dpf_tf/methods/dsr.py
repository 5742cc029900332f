"""`DSR`: dynamic sparse reparameterization, which moves weights between the layers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from dpf_tf.arguments import convert, number
from dpf_tf.methods.drop_and_grow import DropAndGrow, apportion, cosine
from dpf_tf.methods.round import Arrays, Round

TOLERANCE = 0.1  # Of the number of dropped weights; the authors' delta.
MIN = 1e-30  # Zero would never grow.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DSR(DropAndGrow):
    """Dynamic sparse reparameterization: one adaptive threshold, random growth.

    Random masks at first, of the same sparsity everywhere; every 100 steps the kept
    weights below a threshold are dropped, in whichever kernel. As many are grown at
    random, in proportion to the weights that each kernel has left, and start at zero;
    if one that has just been dropped is among them, it stays as it was (the authors
    grow others).
    The threshold is doubled when fewer were dropped than wanted, and halved when more.
    The gradient is masked, and the momentum of weights that are pruned or grown is set
    to zero. Nothing moves from the schedule's `end_step` on: what is grown while the
    learning rate goes to zero would stay near zero.

    The authors keep the first convolution dense, lengthen the period in the course of
    training, from 100 to 800 steps (CIFAR-10; tenfold for ImageNet), and move weights
    up to 95 % of it, at a learning rate that has stopped falling.

    Args:
        share: share of the kept weights that is to be dropped. The authors' 20,000 of a
            WideResNet-28-2, at any sparsity, are 0.138 of those that it keeps at 90 %.
        threshold: the first one, the authors' for WideResNet-28-2.
        seed: of the random choices.

    Raises:
        TypeError: if an option is no number.
        ValueError: if it is out of range.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.DSR(share=0.1)
        DSR(share=0.1, seed=0, threshold=0.001)

    References:
        Mostafa, Wang, "Parameter Efficient Training of Deep Convolutional Neural
        Networks by Dynamic Sparse Reparameterization", ICML 2019, algorithm 1.
    """

    allocation: ClassVar[str] = "uniform"

    share: float = 0.138
    threshold: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        convert(self, "threshold", number, least=MIN)

    def state(
        self, shape: tuple[int, ...], filters: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Returns the threshold, which all kernels share."""
        return {"threshold": np.asarray(self.threshold, np.float32)}

    def dropped(self, round: Round) -> list[int]:
        """Returns how many kept weights lie below the threshold, and adapts it."""
        if cosine(round) == 0.0:
            return [0] * len(round.masks)
        threshold = round.states[0]["threshold"]
        pairs = list(zip(round.kernels, round.masks, strict=True))
        below = [int((np.abs(w) < threshold).sum(where=m)) for w, m in pairs]
        kept = [int(m.sum()) for m in round.masks]
        wanted = self.share * sum(kept)
        if sum(below) < (1 - TOLERANCE) * wanted:
            threshold = threshold * np.float32(2)
        elif sum(below) > (1 + TOLERANCE) * wanted:
            threshold = np.maximum(threshold / np.float32(2), np.float32(MIN))
        round.states[:] = [{"threshold": np.asarray(threshold)}] * len(kept)
        return [min(n, max(0, k - 1)) for n, k in zip(below, kept, strict=True)]

    def growth(self, round: Round) -> Arrays:
        """Returns random scores."""
        return [round.random(i, self.seed + 1) for i in range(len(round.paths))]

    def grown(self, round: Round, kept: Arrays, dropped: list[int]) -> list[int]:
        """Returns shares in proportion to the weights that are left."""
        left = np.array([mask.sum() for mask in kept])
        room = np.array([mask.size for mask in kept]) - left
        return apportion(sum(dropped), left.astype(float), room)
