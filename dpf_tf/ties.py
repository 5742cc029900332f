"""`Ties`: which filters can only go together, over all graphs that a model holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dpf_tf import prunable
from dpf_tf.channels import Channels, trace_channels
from dpf_tf.trace import graphs_of


@dataclasses.dataclass(frozen=True)
class Ties:
    """The units of filters.

    Attributes:
        units: by the id of a layer (without its pruning wrapper), the unit of each of
            its output channels. Layers that are in no graph have none.
        kept: unit -> why it stays, whatever is pruned.
        makers: the layers with kernels: id -> path.
    """

    units: dict[int, np.ndarray]
    kept: dict[int, str]
    makers: dict[int, str]

    def fixed(self, pruned: set[int]) -> dict[int, str]:
        """Returns the units that stay, with the reasons.

        Args:
            pruned: ids of the layers whose filters are to be pruned. What is tied to
                those of another layer stays.
        """
        reasons = dict(self.kept)
        for layer, path in self.makers.items():
            if layer not in pruned:
                for unit in self.units[layer].tolist():
                    reasons.setdefault(
                        unit, f"tied to '{path}', which is not pruned with it"
                    )
        return reasons

    def reason(self, layer: Any, fixed: dict[int, str]) -> str | None:
        """Returns why a layer has no filters that can go, if it has none.

        Args:
            layer: the layer, without its pruning wrapper.
            fixed: the units that stay.
        """
        units = self.units.get(id(layer))
        if units is None:
            return "its channels cannot be followed"
        reasons = [fixed.get(unit) for unit in units.tolist()]
        return reasons[0] if all(reasons) else None


def ties_of(model: Any, keep_residual: bool = False) -> Ties:
    """Returns how the filters of a model hang together.

    Args:
        model: any model; `None` has no ties, nor have layers that are in no graph.
        keep_residual: whether to keep all channels that pass through an addition.
    """
    ties, offset = Ties({}, {}, {}), 0
    alike: list[tuple[int, int]] = []  # Units of a layer that is in several graphs.
    for graph in graphs_of(model):
        channels = trace_channels(graph, keep_residual)
        for layer, units in channels.units.items():
            if layer in ties.units:
                pairs = zip(ties.units[layer], units + offset, strict=True)
                alike += [(int(one), int(other)) for one, other in pairs]
            else:
                ties.units[layer] = units + offset
        for unit, reason in channels.kept.items():
            ties.kept[unit + offset] = reason
        ties.makers.update(_makers(channels))
        offset += 1 + max((int(x.max()) for x in channels.places.values()), default=-1)
    return _united(ties, alike) if alike else ties


def _united(ties: Ties, alike: list[tuple[int, int]]) -> Ties:
    """Makes one unit of each pair; a reason to stay holds for both."""
    parents: dict[int, int] = {}

    def find(unit: int) -> int:
        while unit in parents:
            unit = parents[unit]
        return unit

    for one, other in alike:
        if find(one) != find(other):
            parents[find(other)] = find(one)
    return Ties(
        {
            layer: np.array([find(unit) for unit in units.tolist()])
            for layer, units in ties.units.items()
        },
        {find(unit): reason for unit, reason in ties.kept.items()},
        ties.makers,
    )


def _makers(channels: Channels) -> dict[int, str]:
    return {
        id(node.layer): node.path
        for node in channels.nodes
        if id(node.layer) in channels.units
        and any(True for _ in prunable.kernels(node.layer, frozen=True))
    }
