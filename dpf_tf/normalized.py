"""Which layers a batch norm alone listens to: the scale of their filters is free."""

from __future__ import annotations

from typing import Any

from dpf_tf.kinds import DEPTHWISE, FILTERS, is_known, is_linear
from dpf_tf.trace import Node, graphs_of, nodes_of, operation


def normalized(model: Any) -> set[int]:
    """Returns the ids of the layers whose filters can be scaled without any effect.

    They are linear in their kernel, and whatever they make goes, at each of their
    calls, to batch norms only, through concatenations and pooling or not. Frozen batch
    norms do not count: they do not normalize by the batch.

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
    bound: set[int] = set()
    for graph in [] if model is None else graphs_of(model):
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
                is_free = scaled_away[node] and is_linear(node.layer)
                (free if is_free else bound).add(id(node.layer))
    return free - bound


def _passes(node: Node) -> bool:
    """Tells what hands a channel on with its scale."""
    if node.layer is None:  # The input of a nested model.
        return True
    name = operation(node.layer)
    return (name == "Concatenate" or "Pooling" in name) and is_known(node)


def _normalizes(node: Node) -> bool:
    is_norm = operation(node.layer) == "BatchNormalization" and is_known(node)
    return is_norm and node.layer.trainable
