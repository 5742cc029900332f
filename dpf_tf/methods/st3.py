"""`ST3`: the feedback of DPF with a soft threshold in the forward pass."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from dpf_tf.arguments import convert, flag
from dpf_tf.methods.dpf import DPF
from dpf_tf.methods.method import State
from dpf_tf.methods.round import Round

RESCALES = ("filter", "kernel", "none", "auto")
UNKNOWN = -1.0  # Whether a scale is free, before the first masks.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ST3(DPF):
    """Straight-through training with a soft threshold (ST-3), and its sigma form.

    The masks are those of DPF, and so are the gradient and the momentum, which nothing
    clears. The layer computes with `scale * sign(w) * max(|w| - threshold, 0)`, so that
    a weight that comes back enters at zero instead of with a jump. `threshold` is the
    largest magnitude that is pruned; `scale` makes up for what the threshold takes
    away. Both are made with the masks. What `strip_pruning` returns are these values; a
    kept weight that ties with the threshold, or has fallen below it since the last
    masks, is zero as well. So under masks that are frozen for a long fine-tuning the
    zeros can become more.

    Schedule and period are those of DPF. The authors make the masks at every step
    (`PolynomialDecay(..., frequency=1)`), along a ramp that begins after five epochs
    and ends at half of the training, and clip the gradients; a kept weight that falls
    below the threshold before the next masks turns its sign there, and is zero here.

    Args:
        rescale: `"filter"` is the authors': `1.01 / (r + 0.01)` for each output filter,
            where `r` is the share of its L1 norm that its kept weights have. `"kernel"`
            keeps the L1 norm of each kernel's kept weights; `"none"` is no scale;
            `"auto"` is `"none"` for dense layers and plain, transposed and depthwise
            convolutions whose outputs go to batch norms only: there a scale does little
            but divide the gradient. For the others, and in models that are no graph, it
            is `"filter"`. The first masks decide, for good: batch norms that are frozen
            later have seen outputs without a scale.
        sigma: multiplies magnitudes by the root of the sum of their kernel's dimensions
            before they are ranked (ST-3-sigma): the authors' measure of how large the
            weights of a kernel of that size are expected to be.
        bounded: see `DPF`.
        pruned_gradient: see `DPF`.
        pruned_decay: see `DPF`.

    Raises:
        TypeError: if an option has the wrong type.
        ValueError: if its value is unknown or out of range.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.ST3(rescale="kernel").sigma
        False

    References:
        Vanderschueren, De Vleeschouwer, "Are straight-through gradients and
        soft-thresholding all you need for sparse training?", WACV 2023, section 3.
    """

    only_for: ClassVar[str | None] = "single weights"

    rescale: str = "filter"
    sigma: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rescale not in RESCALES:
            raise ValueError(
                f"`rescale` of ST3 must be one of {', '.join(map(repr, RESCALES))}. "
                f"Received: {self.rescale!r}"
            )
        convert(self, "sigma", flag)

    def check(self, schedule: Any, allocation: Any) -> None:
        """Refuses magnitudes that are not those of the threshold."""
        if allocation == "global_normalized":
            raise ValueError(
                "ST3 has one threshold for all kernels that are ranked together, and "
                "allocation='global_normalized' ranks other magnitudes than the "
                "weights'. Use 'global', or `sigma=True`, its own normalization."
            )

    def state(
        self, shape: tuple[int, ...], filters: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Returns the threshold of a kernel and the scales of its filters."""
        scales = [size if i in filters else 1 for i, size in enumerate(shape)]
        state = {
            "threshold": np.zeros((), np.float32),
            "scale": np.ones(scales, np.float32),
        }
        if self.rescale == "auto":
            state["is_free"] = np.full((), UNKNOWN, np.float32)
        return state

    def forward(self, kernel: tf.Tensor, mask: tf.Tensor, state: State) -> tf.Tensor:
        """Returns the kept weights, drawn towards zero and rescaled."""
        above = tf.where(mask, tf.abs(kernel) - state["threshold"], 0.0)
        soft = state["scale"] * tf.sign(kernel) * above
        return tf.where(above <= 0.0, 0.0, soft)  # NaN is not hidden.

    def masks(self, round: Round) -> list[np.ndarray]:
        """Returns the masks of the largest magnitudes, and notes the thresholds."""
        units = [
            np.float32(sum(kernel.shape) ** -0.5) if self.sigma else np.float32(1)
            for kernel in round.kernels
        ]
        scores = [k / unit for k, unit in zip(round.kernels, units, strict=True)]
        masks = round.largest(scores if self.sigma else None)
        magnitudes = [np.abs(score) for score in scores]
        pruned = [
            float(m.max(where=~mask, initial=0.0))
            for m, mask in zip(magnitudes, masks, strict=True)
        ]
        rescales = self._rescales(round)
        for pool in round.pools:
            threshold = max(pruned[i] for i in pool.indices)
            for i in pool.indices:
                # Below it lie the weights that a kernel keeps so as not to be empty.
                least = magnitudes[i].min(where=masks[i], initial=math.inf)
                own = np.float32(threshold if least >= threshold else pruned[i])
                own = np.float32(own * units[i])
                round.states[i] |= {
                    "threshold": np.asarray(own),
                    "scale": self._scale(
                        round.kernels[i], masks[i], own, round.states[i], rescales[i]
                    ),
                }
        return masks

    def _rescales(self, round: Round) -> list[str]:
        """Returns how each kernel is rescaled; where it is new, decides it."""
        if self.rescale != "auto":
            return [self.rescale] * len(round.states)
        for i, state in enumerate(round.states):
            if state["is_free"] == UNKNOWN:
                state["is_free"] = np.asarray(round.normalized[i], np.float32)
        return ["none" if state["is_free"] else "filter" for state in round.states]

    def _scale(
        self,
        kernel: np.ndarray,
        mask: np.ndarray,
        threshold: np.float32,
        state: dict[str, np.ndarray],
        rescale: str,
    ) -> np.ndarray:
        ones = np.ones_like(state["scale"])
        magnitudes = np.abs(kernel)
        kept = np.where(mask, magnitudes, 0)
        if rescale == "filter":
            axes = tuple(i for i, size in enumerate(ones.shape) if size == 1)
            total = magnitudes.sum(axes, keepdims=True)
            left = kept.sum(axes, keepdims=True)
            share = np.divide(left, total, out=np.ones_like(total), where=total > 0)
            return (1.01 / (share + 0.01)).astype(np.float32)
        if rescale == "kernel":
            soft = np.maximum(kept - threshold, 0).sum(dtype=np.float64)
            if soft > 0:
                return ones * np.float32(kept.sum(dtype=np.float64) / soft)
        return ones
