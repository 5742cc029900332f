"""`Units`: what is kept or pruned as one, of the kernels that share their settings.

    units.scores(kernels)        one score for each unit, in arrays to be ranked
    units.pools(allocation, s)   which arrays are ranked together; how many units stay
    units.masks(chosen, before)  from the units that stay to the kernels' masks
    units.kept(masks)            how many units masks keep
    units.misfits(masks)         where masks are not of whole units

This class is of single weights: the arrays of units are the kernels themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpf_tf import allocation as allocation_lib
from dpf_tf.allocation import Pool
from dpf_tf.keras_api import Kernel

Arrays = list[np.ndarray]


class Units:
    """Single weights; the other structures derive from this.

    Attributes:
        paths: what to call each array of units.
        shapes: the arrays' shapes.
    """

    def __init__(self, paths: Sequence[str], kernels: Sequence[Kernel]) -> None:
        self.paths = list(paths)
        self.shapes = [tuple(kernel.variable.shape) for kernel in kernels]

    def pools(
        self, allocation: Any, sparsity: float, final_sparsity: float | None
    ) -> list[Pool]:
        """Returns which arrays are ranked together, and how many units each keeps."""
        return allocation_lib.pools(
            allocation, self.paths, self.shapes, sparsity, final_sparsity
        )

    def scores(self, weights: Sequence[Any]) -> Sequence[Any]:
        """Returns the units' scores, of arrays of the kernels' shapes."""
        return weights

    def masks(self, chosen: Arrays, before: Arrays) -> Arrays:
        """Returns the kernels' masks.

        Args:
            chosen: for each array of units which of them stay.
            before: the present masks; they stay where nothing is ranked.
        """
        return chosen

    def kept(self, masks: Arrays) -> int:
        """Returns how many units masks keep."""
        return sum(int(np.count_nonzero(mask)) for mask in masks)

    def misfits(self, masks: Arrays) -> list[int]:
        """Returns the numbers of the kernels whose masks are not of whole units."""
        if type(self) is Units:
            return []
        kept = self.scores([mask.astype(np.float32) for mask in masks])
        whole = self.masks([score > 0 for score in kept], masks)
        pairs = enumerate(zip(masks, whole, strict=True))
        return [i for i, (mask, each) in pairs if not np.array_equal(mask, each)]

    def channels(self, layer: Any, masks: Arrays) -> np.ndarray | None:
        """Tells which channels of a layer's output are kept, if that is known."""
        return None

    def size(self, pool: Pool) -> int:
        """Returns how many units a pool has."""
        return sum(math.prod(self.shapes[i]) for i in pool.indices)

    def kernels_of(self, pool: Pool) -> list[int]:
        """Returns the numbers of the kernels whose units a pool has."""
        return list(pool.indices)

    @property
    def stuck(self) -> dict[str, str]:
        """Kernels of which nothing can be pruned: path -> reason."""
        return {}

    @property
    def count(self) -> int:
        """How many units there are."""
        return sum(map(math.prod, self.shapes))
