"""Which channels of a model live and die together.

A filter can be taken away only with everything that its channel meets: the filters on
the other side of an addition, the batch norms and depthwise kernels behind it. Such a
set is a *unit*, a class of a union-find over channels. Channels are always the last
axis of a tensor.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dpf_tf.kinds import DEPTHWISE, FILTERS, MERGES, RESHAPES, fixed, is_known, mixes
from dpf_tf.trace import Node, nodes_of, operation


@dataclasses.dataclass(frozen=True)
class Channels:
    """The units of a model's channels.

    Attributes:
        units: by the id of a layer (without its pruning wrapper), the unit of each of
            its output channels: layers with filters, depthwise ones, batch norms.
        kept: unit -> the reason why it cannot be taken away, of those units that
            cannot, whatever their filters are.
        nodes: the model's graph.
        places: the unit of each channel of each node.
    """

    units: dict[int, np.ndarray]
    kept: dict[int, str]
    nodes: list[Node]
    places: dict[Node, np.ndarray]


def trace_channels(model: Any, keep_residual: bool = False) -> Channels:
    """Finds the channels that can only be taken away together.

    Args:
        model: a functional or sequential model of either Keras, built, pruned or not.
        keep_residual: whether to keep all channels that an addition, or another merge
            of tensors element by element, unites.

    Returns:
        The units. They are numbered from 0 in the order of the graph.

    Example:

        >>> import keras
        >>> from dpf_tf.channels import trace_channels
        >>> x = images = keras.Input((8, 8, 3))
        >>> convs = [keras.layers.Conv2D(2, 3, padding="same") for _ in range(3)]
        >>> x = convs[0](images)
        >>> x = keras.layers.Add(name="add")([x, convs[1](x)])
        >>> model = keras.Model(images, convs[2](x))
        >>> channels = trace_channels(model)
        >>> [channels.units[id(conv)].tolist() for conv in convs]
        [[0, 1], [0, 1], [2, 3]]
        >>> sorted(channels.kept)
        [2, 3]
    """
    tracer = _Tracer(keep_residual)
    nodes = nodes_of(model)
    for node in nodes:
        tracer.visit(node)
    return tracer.result(nodes)


class _Tracer:
    """Carries the numbers of channels through the graph, and unites them."""

    def __init__(self, keep_residual: bool) -> None:
        self._keep_residual = keep_residual
        self._parent: list[int] = []
        self._kept: dict[int, str] = {}  # Channel -> reason, as are all of these.
        self._foreign: dict[int, str] = {}  # No filter makes them.
        self._at: dict[Node, np.ndarray] = {}
        self._of_layer: dict[int, np.ndarray] = {}  # By id: a layer's outputs ...
        self._into: dict[int, np.ndarray] = {}  # ... and inputs, of its first call.

    def visit(self, node: Node) -> None:
        self._at[node] = self._channels(node, [self._at[x] for x in node.inputs])
        if node.is_output:
            self._keep(self._at[node], "makes the model's output")

    def result(self, nodes: list[Node]) -> Channels:
        roots = np.array([self._find(x) for x in range(len(self._parent))], np.int64)
        makers = list(self._of_layer.values())
        own = roots[np.concatenate(makers)] if makers else roots[:0]
        # Units of filters come first, then what no filter makes.
        made = np.unique(own)
        order = np.concatenate([made, np.setdiff1d(roots, made)])
        number = np.zeros(len(roots), np.int64)
        number[order] = np.arange(len(order))
        unit = number[roots]
        kept: dict[int, str] = {}
        foreign = {channel: f"is {maker}" for channel, maker in self._foreign.items()}
        for channel, reason in [*self._kept.items(), *foreign.items()]:
            if unit[channel] < len(made):
                kept.setdefault(int(unit[channel]), reason)
        return Channels(
            {key: unit[channels] for key, channels in self._of_layer.items()},
            kept,
            nodes,
            {node: unit[channels] for node, channels in self._at.items()},
        )

    def _channels(self, node: Node, inputs: list[np.ndarray]) -> np.ndarray:
        """Returns the channels of a node's tensor."""
        layer = node.layer
        if layer is None:
            if not inputs:
                return self._made_elsewhere(node, "the model's input")
            self._keep(inputs[0], f"enters the nested model '{node.path}'")
            return inputs[0]
        name = operation(layer)
        if name in FILTERS:
            return self._filters(node, inputs[0])
        if not is_known(node) or not all(len(x) for x in inputs):
            return self._mixed(node, inputs)
        if name in MERGES:
            return self._merged(node, inputs)
        if name == "Concatenate":
            return np.concatenate(inputs)
        (channels,) = inputs
        if name in RESHAPES:
            channels = np.tile(channels, node.shape[-1] // len(channels))
            if name == "Reshape":  # Its target shape is one for all calls.
                self._share(node, channels)
            return channels
        if name in DEPTHWISE:
            self._share(node, channels)
            channels = np.repeat(channels, layer.depth_multiplier)
            return self._of_layer.setdefault(id(layer), channels)
        if name == "BatchNormalization":
            self._share(node, channels)
            return self._of_layer.setdefault(id(layer), channels)
        if name == "PReLU":
            self._share(node, channels)
        return channels

    def _filters(self, node: Node, inputs: np.ndarray) -> np.ndarray:
        layer = node.layer
        first = id(layer) not in self._of_layer
        if first:
            size = layer.units if hasattr(layer, "units") else layer.filters
            self._of_layer[id(layer)] = self._fresh(size)
        own = self._of_layer[id(layer)]
        reason = fixed(node)
        if reason:
            self._keep(inputs, f"used by {node}: {reason}")
            self._keep(own, f"made by {node}: {reason}")
        else:
            self._share(node, inputs)
        if mixes(layer.activation):
            self._keep(own, f"made by {node}, whose activation may mix channels")
        return own if len(own) == node.shape[-1] else self._made_elsewhere(node)

    def _merged(self, node: Node, inputs: list[np.ndarray]) -> np.ndarray:
        if self._keep_residual:
            for each in inputs:
                self._keep(each, f"passes through {node}")
        for other in inputs[1:]:
            self._unite(inputs[0], other, node)
        return inputs[0]

    def _mixed(self, node: Node, inputs: list[np.ndarray]) -> np.ndarray:
        for each in inputs:
            self._keep(each, f"used by {node}, which mixes or fixes channels")
        return self._made_elsewhere(node)

    def _made_elsewhere(self, node: Node, maker: str = "") -> np.ndarray:
        size = (node.shape[-1] or 0) if len(node.shape) > 1 else 0
        channels = self._fresh(size)
        maker = maker or f"the output of {node}"
        self._foreign.update(dict.fromkeys(channels.tolist(), maker))
        return channels

    def _share(self, node: Node, inputs: np.ndarray) -> None:
        """Unites what enters the several calls of one layer."""
        self._unite(self._into.setdefault(id(node.layer), inputs), inputs, node)

    def _fresh(self, size: int) -> np.ndarray:
        first = len(self._parent)
        self._parent += range(first, first + size)
        return np.arange(first, first + size)

    def _find(self, channel: int) -> int:
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel

    def _unite(self, left: np.ndarray, right: np.ndarray, node: Node) -> None:
        for pair in zip(left.tolist(), right.tolist(), strict=True):
            a, b = sorted(map(self._find, pair))
            if a == b:
                continue
            for one, other in ((a, b), (b, a)):
                if one in self._foreign:
                    tied = f"tied to {self._foreign[one]} by {node}"
                    self._kept.setdefault(other, tied)
            self._parent[b] = a

    def _keep(self, channels: np.ndarray, reason: str) -> None:
        for channel in channels.tolist():
            self._kept.setdefault(channel, reason)
