"""`FilterUnits`: filters that make the same channel, as one unit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dpf_tf import allocation as allocation_lib
from dpf_tf import prunable
from dpf_tf.allocation import Pool
from dpf_tf.keras_api import Kernel
from dpf_tf.structures.units import Arrays, Units


class FilterUnits(Units):
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
        self._owners, self._ties = [kernel.owner for kernel in kernels], ties
        # By kernel: the unit of each filter, numbered from 0 on; -1 where it stays.
        self._units, self._numbers = self._numbered()
        member = np.zeros((len(self._numbers), len(kernels)), bool)
        for i, each in enumerate(self._units):
            member[each[each >= 0], i] = True
        self._spaces = _equal_rows(member)
        self._members = [
            np.flatnonzero(member[space[0]]).tolist() for space in self._spaces
        ]
        self._kernel_paths = self.paths
        self.paths = [self.paths[members[0]] for members in self._members]
        self.shapes = [(len(space),) for space in self._spaces]
        sizes = zip(self._units, self._kernels, strict=True)
        self._sizes = self._totals(
            [np.full(len(each), math.prod(shape) // len(each)) for each, shape in sizes]
        )

    def _numbered(self) -> tuple[list[np.ndarray], dict[int, int]]:
        known = self._ties.units
        fresh = 1 + max((int(each.max()) for each in known.values()), default=-1)
        fixed = self._ties.fixed({id(owner) for owner in self._owners})
        numbers: dict[int, int] = {}
        found = []
        for owner, shape, axes in zip(
            self._owners, self._kernels, self._axes, strict=True
        ):
            units = known.get(id(owner))
            if units is None:  # Its model is no graph.
                width = math.prod(shape[axis] for axis in axes)
                units = np.arange(fresh, fresh + width)
                fresh += width
            for unit in units.tolist():
                if unit not in fixed:
                    numbers.setdefault(unit, len(numbers))
            found.append(np.array([numbers.get(unit, -1) for unit in units.tolist()]))
        return found, numbers

    def pools(
        self, allocation: Any, sparsity: float, final_sparsity: float | None
    ) -> list[Pool]:
        """Returns which sets of tied kernels are ranked together; what each keeps."""
        paths = self.paths
        if isinstance(allocation, dict):  # A pattern may match any of the tied kernels.
            paths = [
                _first_match(allocation, [self._kernel_paths[i] for i in members])
                for members in self._members
            ]
        return allocation_lib.pools(
            allocation, paths, self.shapes, sparsity, final_sparsity
        )

    @property
    def stuck(self) -> dict[str, str]:
        """Kernels whose filters all have to stay: path -> reason."""
        fixed = self._ties.fixed({id(owner) for owner in self._owners})
        return {
            path: fixed[int(self._ties.units[id(owner)][0])]
            for path, owner, units in zip(
                self._kernel_paths, self._owners, self._units, strict=True
            )
            if (units < 0).all()
        }

    def kernels_of(self, pool: Pool) -> list[int]:
        """Returns the numbers of the kernels whose units a pool has."""
        return sorted({k for i in pool.indices for k in self._members[i]})

    def scores(self, weights: Sequence[Any]) -> Arrays:
        """Returns the mean magnitude of a unit, or the root of the mean square."""
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
        """Returns masks of whole filters."""
        stays = np.ones(len(self._numbers) + 1, bool)
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
        """Returns how many units have a filter left."""
        return int(self._stays(masks)[:-1].sum())

    def channels(self, layer: Any, masks: Arrays) -> np.ndarray | None:
        """Tells which channels of a layer's output have a filter left."""
        for owner, units in zip(self._owners, self._units, strict=True):
            if owner is layer:
                return self._stays(masks)[units]
        made = self._ties.units.get(id(layer))
        if made is None:
            return None
        numbers = [self._numbers.get(unit, -1) for unit in made.tolist()]
        return self._stays(masks)[numbers]

    def _stays(self, masks: Arrays) -> np.ndarray:
        """Tells which units stay; the last entry is of the filters without number."""
        stays = np.zeros(len(self._numbers) + 1, bool)
        stays[-1] = True
        for mask, axes, units in zip(masks, self._axes, self._units, strict=True):
            filters = _by_filter(mask, axes).any(0)
            stays[units[filters & (units >= 0)]] = True
        return stays

    def _totals(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Sums values of filters over those of a unit."""
        totals = np.zeros(len(self._numbers))
        for units, each in zip(self._units, values, strict=True):
            np.add.at(totals, units[units >= 0], each[units >= 0])
        return totals


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
