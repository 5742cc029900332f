"""`Filters`: whole output filters, with all that goes along with a channel."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from dpf_tf import allocation as allocation_lib
from dpf_tf import prunable
from dpf_tf.allocation import Pool
from dpf_tf.keras_api import Kernel
from dpf_tf.structures.structure import Structure
from dpf_tf.structures.units import Arrays, Units

NORMS = ("l2", "l1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters(Structure):
    """Output filters of convolutions and units of dense layers, kept or pruned whole.

    `dpf_tf.shrink` then takes the pruned ones out of the model, which runs faster
    everywhere. Filters that make the same channel are one unit: those of layers whose
    outputs are added or multiplied, and the depthwise filter behind them. A unit's
    score is the L2 norm of all its weights, divided by the square root of their number,
    so that a large filter has no advantage. The number of units that stay is exact:
    `n - round(sparsity * n)` of a pool of `n`, at least one of each layer. (The share
    of zero *weights* differs from it: `sparsity_report` tells both.)

    The ties are found from the graph of a functional or sequential model. What cannot
    go stays: the channels of the model's outputs, and those that enter a layer that
    mixes or fixes them, such as layer normalization; `sparsity_report` tells why. In a
    subclassed model, and in layers that are wrapped by themselves, each filter is a
    unit of its own, which `shrink` cannot take out.

    While the masks move, only kernels are masked, as in the paper: through its bias and
    batch norm a pruned filter still gives a constant, without which no gradient would
    come back to it. Once the masks are at rest (in the part that `PruningCallback`
    settles, or after `freeze_masks`) the channel is silenced.

    Args:
        keep_residual: keeps the channels that pass through an addition, so that only
            the inner filters of residual blocks are pruned.
        silent: whether bias and batch norm of pruned filters are masked too, once the
            masks are at rest, so that their channels are exactly zero. Otherwise
            `shrink` keeps what their constants add to the next layers; where those pad
            their input, a channel has to stay for it.
        norm: `"l2"`, or `"l1"`: the mean magnitude in place of the root of the mean
            square.

    Raises:
        TypeError: if `keep_residual` or `silent` is no bool.
        ValueError: if `norm` is unknown.

    Example:

        >>> import dpf_tf
        >>> import keras
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3)),
        ...     keras.layers.Conv2D(16, 3, name="conv"),
        ...     keras.layers.GlobalAveragePooling2D(),
        ...     keras.layers.Dense(2, name="logits"),
        ... ])
        >>> pruned = dpf_tf.prune_low_magnitude_dpf(
        ...     model, dpf_tf.ConstantSparsity(0.5), structure=dpf_tf.Filters()
        ... )
        >>> _ = dpf_tf.MaskUpdater(pruned).update(0)
        >>> mask = dpf_tf.get_masks(pruned)["conv/kernel"]
        >>> int(mask.all((0, 1, 2)).sum()), int(mask.any((0, 1, 2)).sum())
        (8, 8)

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, section 5, prune
        filters, too; how they score them is not said. `norm="l1"`: Li et al., "Pruning
        Filters for Efficient ConvNets", ICLR 2017, section 3.1.
    """

    name: ClassVar[str] = "filters"
    allocations: ClassVar[tuple[str, ...]] = ("global", "global_normalized", "uniform")
    takes_unseen: ClassVar[bool] = False

    keep_residual: bool = False
    silent: bool = True
    norm: str = "l2"

    def __post_init__(self) -> None:
        for name in ("keep_residual", "silent"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(
                    f"`{name}` of Filters must be a bool. "
                    f"Received: {getattr(self, name)!r}"
                )
        if self.norm not in NORMS:
            raise ValueError(
                f"`norm` of Filters must be one of {', '.join(map(repr, NORMS))}. "
                f"Received: {self.norm!r}"
            )

    def refusal(self, kernel: Kernel) -> str | None:
        """Refuses kernels whose outputs are no channels of their own."""
        name = prunable.class_of(kernel.owner) or ""
        if name == "Dense" or re.fullmatch(r"(Depthwise)?Conv\dD(Transpose)?", name):
            return None
        return "has no filters that can be pruned by themselves"

    def settled(
        self, chosen: Sequence[Kernel], depthwise: Sequence[Kernel], ties: Any
    ) -> tuple[list[Kernel], dict[int, str]]:
        """Returns which kernels are pruned, and why others are not.

        Args:
            chosen: the kernels whose filters are to be pruned.
            depthwise: those that go with them, where a channel's filters go.
            ties: how the model's filters hang together.

        Returns:
            The kernels that have filters that can go, depthwise ones included, and the
            reasons for those of `chosen` that have none, by `id(kernel.variable)`.
        """
        fixed = ties.fixed({id(kernel.owner) for kernel in (*chosen, *depthwise)})
        taken, left = [], {}
        for kernel in (*chosen, *depthwise):
            reason = ties.reason(kernel.owner, fixed)
            if reason is None:
                taken.append(kernel)
            else:
                left[id(kernel.variable)] = reason
        return taken, left

    def units(
        self, paths: Sequence[str], kernels: Sequence[Kernel], ties: Any
    ) -> Units:
        """Returns the units, made of filters that are tied."""
        return _FilterUnits(paths, kernels, ties(self.keep_residual), self.norm)


class _FilterUnits(Units):
    """Units of tied filters, one array for each set of kernels that share channels."""

    def __init__(
        self,
        paths: Sequence[str],
        kernels: Sequence[Kernel],
        ties: Any,
        norm: str = "l2",
    ) -> None:
        super().__init__(paths, kernels)
        self._kernels, self._norm = self.shapes, norm
        self._axes = [prunable.filter_axes(kernel) for kernel in kernels]
        self._ties, self._places = ties, list(kernels)
        numbers = _numbered(kernels, self._widths(), ties)
        # By kernel: the unit of each filter, -1 where it stays.
        self._units = numbers
        count = 1 + max((int(each.max(initial=-1)) for each in numbers), default=-1)
        self._count = count
        member = np.zeros((count, len(kernels)), bool)
        for i, each in enumerate(numbers):
            member[each[each >= 0], i] = True
        self._spaces = _equal_rows(member)
        self._members = [
            np.flatnonzero(member[space[0]]).tolist() for space in self._spaces
        ]
        self._kernel_paths = self.paths
        self.paths = [self.paths[members[0]] for members in self._members]
        self.shapes = [(len(space),) for space in self._spaces]
        sizes = zip(numbers, self._kernels, strict=True)
        self._sizes = self._totals(
            [np.full(len(each), math.prod(shape) // len(each)) for each, shape in sizes]
        )

    def _widths(self) -> list[int]:
        return [
            math.prod(shape[axis] for axis in axes)
            for shape, axes in zip(self._kernels, self._axes, strict=True)
        ]

    def pools(
        self, allocation: Any, sparsity: float, final_sparsity: float | None
    ) -> list[Pool]:
        paths = self.paths
        if isinstance(allocation, dict):  # A pattern may match any of the tied kernels.
            paths = [
                _first_match(allocation, [self._kernel_paths[i] for i in members])
                for members in self._members
            ]
        return allocation_lib.pools(
            allocation, paths, self.shapes, sparsity, final_sparsity
        )

    def kernels_of(self, pool: Pool) -> list[int]:
        """Returns the numbers of the kernels whose units a pool has."""
        return sorted({k for i in pool.indices for k in self._members[i]})

    def scores(self, weights: Sequence[Any]) -> Arrays:
        rows = [
            _by_filter(np.asarray(each), axes)
            for each, axes in zip(weights, self._axes, strict=True)
        ]
        if self._norm == "l1":
            sums = [np.abs(row).sum(0, dtype=np.float64) for row in rows]
        else:
            sums = [np.einsum("ij,ij->j", row, row, dtype=np.float64) for row in rows]
        means = self._totals(sums) / np.maximum(self._sizes, 1)
        scores = (means if self._norm == "l1" else np.sqrt(means)).astype(np.float32)
        return [scores[space] for space in self._spaces]

    def masks(self, chosen: Arrays, before: Arrays) -> Arrays:
        stays = np.ones(self._count, bool)
        for space, keep in zip(self._spaces, chosen, strict=True):
            stays[space] = keep
        masks = []
        for mask, axes, units in zip(before, self._axes, self._units, strict=True):
            rows = _by_filter(mask, axes)
            # Where nothing is ranked a mask stays as it is.
            new = np.where(units >= 0, stays[units], rows.any(0))
            shape = [n if i in axes else 1 for i, n in enumerate(mask.shape)]
            masks.append(np.broadcast_to(new.reshape(shape), mask.shape).copy())
        return masks

    def kept(self, masks: Arrays) -> int:
        return int(self._stays(masks).sum())

    def channels(self, layer: Any, masks: Arrays) -> np.ndarray | None:
        stays = self._stays(masks)
        for place, units in zip(self._places, self._units, strict=True):
            if place.owner is layer:
                return (units < 0) | stays[units]
        dead = {
            raw
            for place, units in zip(self._places, self._units, strict=True)
            if id(place.owner) in self._ties.units
            for raw, unit in zip(
                self._ties.units[id(place.owner)].tolist(), units.tolist(), strict=True
            )
            if unit >= 0 and not stays[unit]
        }
        made = self._ties.units.get(id(layer))
        if made is None:
            return None
        return np.array([unit not in dead for unit in made.tolist()])

    def _stays(self, masks: Arrays) -> np.ndarray:
        stays = np.zeros(self._count, bool)
        for mask, axes, units in zip(masks, self._axes, self._units, strict=True):
            filters = _by_filter(mask, axes).any(0)
            stays[units[filters & (units >= 0)]] = True
        return stays

    def _totals(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Sums values of filters over those of a unit."""
        totals = np.zeros(self._count)
        for units, each in zip(self._units, values, strict=True):
            np.add.at(totals, units[units >= 0], each[units >= 0])
        return totals


def _numbered(
    kernels: Sequence[Kernel], widths: Sequence[int], ties: Any
) -> list[np.ndarray]:
    """Returns the number of each filter's unit, from 0 on; -1 where it stays."""
    fresh = 1 + max((int(x.max()) for x in ties.units.values()), default=-1)
    kept = set(ties.fixed({id(kernel.owner) for kernel in kernels}))
    raw = []
    for kernel, width in zip(kernels, widths, strict=True):
        units = ties.units.get(id(kernel.owner))
        if units is None:  # Its model is no graph.
            units = np.arange(fresh, fresh + width)
            fresh += width
        raw.append(np.array([-1 if unit in kept else unit for unit in units.tolist()]))
    order: dict[int, int] = {-1: -1}
    for units in raw:
        for unit in units.tolist():
            order.setdefault(unit, len(order) - 1)
    return [np.array([order[unit] for unit in units.tolist()]) for units in raw]


def _first_match(patterns: Iterable[str], paths: list[str]) -> str:
    """Returns the path in which the first pattern that is found at all is found."""
    found = (path for key in patterns for path in paths if re.search(key, path))
    return next(found, paths[0])


def _by_filter(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Returns the weights of each filter as a column."""
    moved = np.moveaxis(array, axes, range(-len(axes), 0))
    return moved.reshape(-1, math.prod(array.shape[axis] for axis in axes))


def _equal_rows(member: np.ndarray) -> list[np.ndarray]:
    """Returns the numbers of the rows that are alike, in the order of the first."""
    groups: dict[bytes, list[int]] = {}
    for i, row in enumerate(member):
        groups.setdefault(row.tobytes(), []).append(i)
    return [np.array(rows) for rows in groups.values()]
