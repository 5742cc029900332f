"""Which layers only batch norms listen to: the scale of their filters is free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dpf_tf import prunable
from dpf_tf.graph import is_graph
from dpf_tf.kinds import DEPTHWISE, FILTERS, channels_first, is_known, is_linear
from dpf_tf.trace import Node, graphs_of, nodes_of, operation
from dpf_tf.wrapper import PruneLowMagnitudeDPF


def normalized(model: Any) -> set[int]:
    """Returns the ids of the layers whose filters can be scaled without any effect.

    They are linear in their kernel, and whatever they make goes, at each of their
    calls, to batch norms only, through concatenations and pooling or not. (The epsilon
    of these is an effect, though a small one.) Batch norms do not count that are
    frozen, or called with `training=False`: they do not normalize by the batch. Nor do
    layers count that something else than a graph holds, and may call as it likes. What
    cannot be seen is a subclassed model that uses parts of a graph by themselves, and
    losses that are added to the outputs of a layer.

    Args:
        model: any model, pruned or not; `None`, and layers that are in no graph, have
            none.

    Example:

        >>> import keras
        >>> from dpf_tf.normalized import normalized
        >>> model = keras.Sequential([
        ...     keras.Input((8,)),
        ...     keras.layers.Dense(4),
        ...     keras.layers.BatchNormalization(),
        ...     keras.layers.Dense(2),
        ... ])
        >>> normalized(model) == {id(model.layers[0])}
        True
    """
    free: set[int] = set()
    bound = set() if model is None else set(_held_by_layers(model, set()))
    for graph in graphs_of(model):
        nodes = nodes_of(graph)
        readers: dict[Node, list[Node]] = {node: [] for node in nodes}
        for node in nodes:
            for source in node.inputs:
                readers[source].append(node)
        scaled_away: dict[Node, bool] = {}
        for node in reversed(nodes):  # Readers first.
            scaled_away[node] = (
                bool(readers[node])
                and not node.is_output
                and all(
                    scaled_away[each] if _passes(each) else _normalizes(each)
                    for each in readers[node]
                )
            )
            if operation(node.layer) in FILTERS | DEPTHWISE:
                is_free = scaled_away[node] and _makes_channels(node)
                (free if is_free else bound).add(id(node.layer))
    return free - bound


def _makes_channels(node: Node) -> bool:
    """Tells a layer with filters that does nothing else to its outputs."""
    regularized = getattr(node.layer, "activity_regularizer", None) is not None
    return is_linear(node.layer) and not regularized and not channels_first(node)


def _passes(node: Node) -> bool:
    """Tells what hands a channel on with its scale."""
    if node.layer is None:  # The input of a nested model.
        return True
    name = operation(node.layer)
    return (name == "Concatenate" or "Pooling" in name) and is_known(node)


def _normalizes(node: Node) -> bool:
    is_norm = operation(node.layer) == "BatchNormalization" and is_known(node)
    return is_norm and node.layer.trainable and not node.at_inference


def _held_by_layers(layer: Any, seen: set[int]) -> Iterator[int]:
    """Yields the ids of layers that a layer or model holds which is no graph."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    for _, child in prunable.sublayers(layer):
        wrapped = isinstance(child, PruneLowMagnitudeDPF)
        if not is_graph(layer):
            yield id(child.layer if wrapped else child)
        if not wrapped:
            yield from _held_by_layers(child, seen)
