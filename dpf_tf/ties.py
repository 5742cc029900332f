"""`Ties`: which filters can only go together, over all graphs that a model holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from dpf_tf import keras_api, prunable
from dpf_tf.channels import Channels, trace_channels
from dpf_tf.graph import is_graph


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
                    reasons.setdefault(unit, f"tied to '{path}', which stays dense")
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
        model: any model; `None`, or a layer, has no ties.
        keep_residual: whether to keep all channels that pass through an addition.
    """
    ties = Ties({}, {}, {})
    offset = 0
    for graph in [] if model is None else _graphs(model):
        channels = trace_channels(graph, keep_residual)
        for layer, units in channels.units.items():
            ties.units[layer] = units + offset
        for unit, reason in channels.kept.items():
            ties.kept[unit + offset] = reason
        ties.makers.update(_makers(channels))
        offset = 1 + max((int(x.max()) for x in ties.units.values()), default=-1)
    return ties


def _graphs(model: Any) -> Iterator[Any]:
    if is_graph(model):
        if not getattr(model, "outputs", None):
            raise ValueError(
                f"The filters of '{model.name}' cannot be followed before it is built. "
                "Build it, for instance with a `keras.Input` in front, before it is "
                "pruned."
            )
        yield model
        return
    api = keras_api.of(model)
    if api is not None and not isinstance(model, api.module.Model):
        return  # A layer by itself.
    for _, child in prunable.sublayers(model):
        yield from _graphs(child)


def _makers(channels: Channels) -> dict[int, str]:
    return {
        id(node.layer): node.path
        for node in channels.nodes
        if id(node.layer) in channels.units
        and any(True for _ in prunable.kernels(node.layer, frozen=True))
    }
