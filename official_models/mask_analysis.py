"""What the masks of a training tell: how they moved, what came back, where they ended.

Lin et al., ICLR 2020, section 5 and appendix, draw the same of their trainings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

Masks = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Update:
    """One mask update.

    Attributes:
        step: optimizer steps made before it.
        sparsity: share of the weights that it leaves pruned.
        flips: share of the weights that it prunes or brings back.
        iou: its kept weights that are kept at the end too, as a share of those that
            are kept in one of the two (intersection over union).
    """

    step: int
    sparsity: float
    flips: float
    iou: float


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The end of one kernel.

    Attributes:
        path: where it is in the model.
        weights: how many it has.
        kept: how many are kept at the end.
        came_back: how many of the kept ones had been pruned before.
    """

    path: str
    weights: int
    kept: int
    came_back: int

    @property
    def sparsity(self) -> float:
        """The share of its weights that is pruned at the end."""
        return 1 - self.kept / self.weights


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What is known of the masks of a training.

    Attributes:
        updates: every update that is given, in order.
        kernels: every kernel, in model order.
    """

    updates: list[Update]
    kernels: list[Kernel]

    @property
    def came_back(self) -> float:
        """The share of the finally kept weights that had been pruned before."""
        return sum(k.came_back for k in self.kernels) / sum(
            k.kept for k in self.kernels
        )


def analyze(updates: Iterable[tuple[int, Masks]], final: Masks) -> Analysis:
    """Looks through the masks of a training.

    Args:
        updates: steps and masks in order, each with the same kernels as `final`;
            before the first one nothing was pruned.
        final: the masks at the end.

    Returns:
        The analysis.

    Example:

        >>> import numpy as np
        >>> masks = [{"w": np.array(m, bool)} for m in ([1, 0, 1, 0], [1, 1, 0, 0])]
        >>> found = analyze(enumerate(masks), masks[-1])
        >>> found.came_back, [update.flips for update in found.updates]
        (0.5, [0.5, 0.5])
    """
    before = {path: np.ones_like(mask) for path, mask in final.items()}
    pruned_once = {path: np.zeros_like(mask) for path, mask in final.items()}
    total = sum(mask.size for mask in final.values())
    found = []
    for step, masks in updates:
        kept = _count(masks[path] for path in final)
        common = _count(masks[path] & final[path] for path in final)
        union = _count(masks[path] | final[path] for path in final)
        flips = _count(masks[path] ^ before[path] for path in final)
        found.append(Update(step, 1 - kept / total, flips / total, common / union))
        for path in final:
            pruned_once[path] |= ~masks[path]
        before = masks
    kernels = [
        Kernel(
            path,
            mask.size,
            int(np.count_nonzero(mask)),
            int(np.count_nonzero(mask & pruned_once[path])),
        )
        for path, mask in final.items()
    ]
    return Analysis(found, kernels)


def _count(masks: Iterable[np.ndarray]) -> int:
    return sum(int(np.count_nonzero(mask)) for mask in masks)
