"""`Round`: what a scheme sees at one mask update, and the selections it can make.

round.largest()                  the largest magnitudes, by the allocation
round.largest(scores)            the same of other scores
round.among_kept(scores, kept)   scores by which only kept weights can be chosen
round.among_pruned(scores, kept) scores by which only the others can
select(scores, counts)           exactly so many of each kernel
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dpf_tf import allocation as allocation_lib
from dpf_tf import keras_api, ranking, threshold
from dpf_tf.structures import Units

Arrays = list[np.ndarray]


class Round:
    """One update of the masks of all kernels that share their settings.

    All lists have one item for each kernel, in model order. The arrays are read-only.

    Attributes:
        step: optimizer steps made so far.
        schedule: the schedule.
        sparsity: what it wants at this step, in `[0, 1)`.
        paths: the kernels' paths, such as `"conv2d/kernel"`.
        states: what the scheme keeps for each kernel; see `Method.state`. A scheme
            replaces items to change it.

    Example:

        The smallest of the weights that are left go:

        >>> import dataclasses
        >>> import dpf_tf
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Incremental(dpf_tf.methods.Method):
        ...     def masks(self, round):
        ...         return round.largest(round.among_kept(round.kernels))
        >>> Incremental()
        Incremental()
    """

    def __init__(
        self,
        *,
        step: int,
        schedule: Any,
        allocation: Any,
        paths: Sequence[str],
        units: Units,
        kernels: Sequence[Any],
        masks: Sequence[Any],
        states: list[dict[str, np.ndarray]],
        gradients: Callable[[], Arrays],
        momenta: Callable[[], Arrays],
        normalized: Callable[[], list[bool]],
    ) -> None:
        self.step = step
        self.schedule = schedule
        self.sparsity: float = schedule(step)[1]
        self.paths = list(paths)
        self.states = states
        self._allocation, self._units = allocation, units
        self._tensors = list(kernels), list(masks)
        self._sources = gradients, momenta
        self._normalized = normalized

    @functools.cached_property
    def kernels(self) -> Arrays:
        """The dense kernels, float32."""
        return [keras_api.numpy_view(kernel) for kernel in self._tensors[0]]

    @functools.cached_property
    def masks(self) -> Arrays:
        """The present masks, bool: `False` is pruned."""
        return [keras_api.numpy_view(mask) for mask in self._tensors[1]]

    @functools.cached_property
    def gradients(self) -> Arrays:
        """The loss's gradients at the pruned kernels, dense, on a batch of the data."""
        return self._sources[0]()

    @functools.cached_property
    def momenta(self) -> Arrays:
        """The optimizer's momenta of the dense kernels; zeros before the first step."""
        return self._sources[1]()

    @functools.cached_property
    def normalized(self) -> list[bool]:
        """Whether batch norms alone take what a kernel makes: its scale is free.

        Of dense layers and plain, transposed and depthwise convolutions. `False` where
        it cannot be seen, as outside of functional and sequential models.
        """
        return self._normalized()

    @property
    def is_first(self) -> bool:
        """Whether nothing is pruned as yet."""
        return all(bool(mask.all()) for mask in self.masks)

    @functools.cached_property
    def pools(self) -> list[allocation_lib.Pool]:
        """What is ranked together, and how much of it each pool keeps.

        The indices are of the kernels, where single weights are pruned.
        """
        return self._units.pools(
            self._allocation, self.sparsity, self.schedule.final_sparsity
        )

    def largest(self, scores: Arrays | None = None) -> Arrays:
        """Returns masks of the largest scores, as many as the allocation says.

        Args:
            scores: float32 arrays of the kernels' shapes, of which magnitudes count;
                by default the dense kernels. Where filters or blocks are pruned as one,
                their scores are made of these.

        Returns:
            Boolean arrays. Of equal scores that of the lower index is kept; every
            kernel keeps at least one weight.

        Raises:
            ValueError: if a score is NaN, or the scores are not of these shapes.
        """
        units = self._units
        if scores is not None:
            shapes = [tuple(kernel.shape) for kernel in self._tensors[0]]
            if (given := [np.shape(each) for each in scores]) != shapes:
                raise ValueError(
                    f"There must be scores for each of {', '.join(self.paths)}, of the "
                    f"kernel's shape. Expected: {shapes}. Received: {given}"
                )
        ranked = units.scores(self._tensors[0] if scores is None else scores)
        scales = None
        if self._allocation == "global_normalized":
            dense = ranked if scores is None else units.scores(self._tensors[0])
            scales = allocation_lib.scales(
                self._allocation, [keras_api.numpy_view(each) for each in dense]
            )
        chosen: list[Any] = [None] * len(ranked)
        for pool in self.pools:
            largest = ranking.keep_largest(
                [ranked[i] for i in pool.indices],
                pool.keep,
                [scales[i] for i in pool.indices] if scales else None,
                [units.paths[i] for i in pool.indices],
            )
            for i, each in zip(pool.indices, largest, strict=True):
                chosen[i] = each
        return units.masks(chosen, self.masks)

    def among_kept(self, scores: Arrays, kept: Arrays | None = None) -> Arrays:
        """Returns scores above zero for kept weights and zero for the others.

        Args:
            scores: float32 arrays of the kernels' shapes, of which magnitudes count.
            kept: masks of what counts as kept; by default the present ones.
        """
        kept = self.masks if kept is None else kept
        return [_only(s, mask) for s, mask in zip(scores, kept, strict=True)]

    def among_pruned(self, scores: Arrays, kept: Arrays | None = None) -> Arrays:
        """Returns scores above zero for pruned weights and zero for the others.

        Takes the arguments of `among_kept`.
        """
        kept = self.masks if kept is None else kept
        return [_only(s, ~mask) for s, mask in zip(scores, kept, strict=True)]

    def random(self, index: int, seed: int = 0) -> np.ndarray:
        """Returns uniform numbers in [0, 1) of a kernel's shape, the same each time.

        Args:
            index: which kernel.
            seed: another one gives other numbers.
        """
        shape = tuple(self._tensors[0][index].shape)
        generator = np.random.default_rng([seed, self.step, index])
        return generator.random(shape, dtype=np.float32)


def select(
    scores: Arrays, counts: Sequence[int], names: Sequence[str] | None = None
) -> Arrays:
    """Returns masks of the largest scores: exactly so many of each kernel, or none.

    Args:
        scores: float32 arrays, of which magnitudes count.
        counts: how many of each to choose, from 0 to all.
        names: what error messages call the kernels; by default their numbers.

    Returns:
        Boolean arrays; of equal scores that of the lower index is chosen.

    Raises:
        ValueError: if a score is NaN.

    Example:

        >>> import numpy as np
        >>> from dpf_tf.methods import select
        >>> [m.tolist() for m in select([np.float32([3, 1, 2])] * 2, [2, 0])]
        [[True, False, True], [False, False, False]]
    """
    names = [str(i) for i in range(len(scores))] if names is None else names
    return [
        threshold.keep_largest([each], n, names=[name])[0]
        if n
        else np.zeros(each.shape, bool)
        for each, n, name in zip(scores, counts, names, strict=True)
    ]


def _only(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    # By bits: the smallest number above zero survives no flushing of denormals.
    bits = np.ascontiguousarray(scores, np.float32).view(np.int32) & threshold.TOP
    return np.where(chosen, np.maximum(bits, 1), 0).astype(np.int32).view(np.float32)
