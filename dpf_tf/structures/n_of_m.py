"""`NofM`: so many weights of every few, as in 2:4 sparsity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from dpf_tf import prunable
from dpf_tf.allocation import Pool
from dpf_tf.arguments import convert, whole
from dpf_tf.keras_api import Kernel
from dpf_tf.structures.block import no_inputs
from dpf_tf.structures.structure import Structure
from dpf_tf.structures.units import Arrays, Units


@dataclasses.dataclass(frozen=True)
class NofM(Structure):
    """At most `n` weights of every `m` that lie side by side along the inputs.

    `NofM(2, 4)` is what the sparse tensor cores of GPUs compute with. It makes nothing
    faster in TFLite, neither dense layers nor convolutions, nor in the training: the
    masks are for a runtime that knows them.

    The target sparsity is fixed: `1 - n / m`, 0.5 for 2:4. On a ramp towards it, the
    `n` largest of each group stay, and of the others the smallest go first, over all
    groups that are ranked together, so that the sparsity is exact at every step. Where
    the inputs are no multiple of `m` the rest is a smaller group: it keeps `n` weights,
    or all if it has fewer, and the sparsity stays a little below the target.

    Args:
        n: how many weights of a group stay.
        m: size of a group.

    Raises:
        TypeError: if one is no whole number.
        ValueError: if they are not `1 <= n < m`.

    Example:

        >>> import dpf_tf
        >>> import keras
        >>> layer = keras.layers.Dense(8, use_bias=False)
        >>> layer.build((None, 16))
        >>> pruned = dpf_tf.prune_low_magnitude_dpf(
        ...     layer, dpf_tf.ConstantSparsity(0.5), structure=dpf_tf.NofM(2, 4)
        ... )
        >>> _ = dpf_tf.MaskUpdater(pruned).update(0)
        >>> mask = dpf_tf.get_masks(pruned)["dense/kernel"]  # (inputs, outputs)
        >>> set(mask.reshape(4, 4, 8).sum(1).ravel().tolist())
        {2}

    References:
        Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From
        Scratch", ICLR 2021, section 3.
    """

    name: ClassVar[str] = "n of m weights"
    allocations: ClassVar[tuple[str, ...]] = ("global", "uniform")
    patterns: ClassVar[bool] = False

    n: int
    m: int

    def __post_init__(self) -> None:
        convert(self, "n", whole, least=1)
        convert(self, "m", whole, least=2)
        if self.n >= self.m:
            raise ValueError(f"`n` must be smaller than `m`. Received: {self}")

    @property
    def sparsity(self) -> float:
        """The one sparsity that it can have."""
        return 1.0 - self.n / self.m

    def check(self, method: Any, schedule: Any, allocation: Any) -> None:
        """Refuses another target, too."""
        super().check(method, schedule, allocation)
        target = schedule.final_sparsity
        if target is not None and not math.isclose(target, self.sparsity):
            raise ValueError(
                f"{self} keeps {self.n} of {self.m} weights: its target sparsity is "
                f"{self.sparsity!r}. Received: {target!r}"
            )

    def refusal(self, kernel: Kernel) -> str | None:
        """Refuses kernels in which no input lies beside another."""
        return no_inputs(kernel)

    def units(
        self, paths: Sequence[str], kernels: Sequence[Kernel], ties: Any
    ) -> Units:
        """Returns the weights, each in its group."""
        return _Groups(paths, kernels, self)


class _Groups(Units):
    def __init__(
        self, paths: Sequence[str], kernels: Sequence[Kernel], structure: NofM
    ) -> None:
        super().__init__(paths, kernels)
        self._structure = structure
        self._axes = [prunable.input_axis(kernel) for kernel in kernels]

    def pools(
        self, allocation: Any, sparsity: float, final_sparsity: float | None
    ) -> list[Pool]:
        limit = self._structure.sparsity
        if sparsity > limit and not math.isclose(sparsity, limit):
            raise ValueError(
                f"{self._structure} cannot be sparser than {limit:g}, and the schedule "
                f"asks for {sparsity}."
            )
        pools = super().pools(allocation, sparsity, final_sparsity)
        return [
            pool._replace(keep=max(pool.keep, sum(map(self._always, pool.indices))))
            for pool in pools
        ]

    def _always(self, index: int) -> int:
        """Returns how many weights of a kernel stay whatever the schedule says."""
        n, m = self._structure.n, self._structure.m
        shape, axis = self.shapes[index], self._axes[index]
        whole, rest = divmod(shape[axis], m)
        return math.prod(shape) // shape[axis] * (whole * n + min(rest, n))

    def scores(self, weights: Sequence[Any]) -> Arrays:
        return [
            self._scores(np.abs(np.asarray(each)), axis)
            for each, axis in zip(weights, self._axes, strict=True)
        ]

    def misfits(self, masks: Arrays) -> list[int]:
        """Returns which kernels have groups with more than `n` weights and with fewer.

        On the ramp all have more, or as many; at the target none has more.
        """
        pairs = enumerate(zip(masks, self._axes, strict=True))
        return [i for i, (mask, axis) in pairs if self._is_mixed(mask, axis)]

    def _is_mixed(self, mask: np.ndarray, axis: int) -> bool:
        n, m = self._structure.n, self._structure.m
        starts = np.arange(0, mask.shape[axis], m)
        kept = np.add.reduceat(np.moveaxis(mask, axis, -1).astype(int), starts, -1)
        full = np.minimum(np.diff(starts, append=mask.shape[axis]), n)
        return bool((kept < full).any() and (kept > full).any())

    def _scores(self, magnitudes: np.ndarray, axis: int) -> np.ndarray:
        """Returns magnitudes, in place of a group's `n` largest infinity."""
        n, m = self._structure.n, self._structure.m
        scores = magnitudes.copy()
        columns = [np.moveaxis(magnitudes, axis, 0)[i::m] for i in range(m)]
        out = [np.moveaxis(scores, axis, 0)[i::m] for i in range(m)]
        for i, column in enumerate(columns):
            # How many of the group come before this one: larger, or equal and earlier.
            rank = np.zeros(column.shape, np.int8 if m < 128 else np.int64)
            for j, other in enumerate(columns):
                both = min(len(column), len(other))  # The rest of the axis is shorter.
                if j < i:
                    rank[:both] += other[:both] >= column[:both]
                elif j > i:
                    rank[:both] += other[:both] > column[:both]
            stays = (rank < n) & ~np.isnan(column)  # NaN is refused where it is ranked.
            out[i][stays] = np.inf
        return scores
