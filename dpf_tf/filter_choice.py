"""Which layers of a graph are wrapped where whole filters are pruned.

Those with filters that can go, the depthwise kernels between them, and the batch norms
and biases that follow them.
"""

from __future__ import annotations

from typing import Any

from dpf_tf import prunable
from dpf_tf.graph import walk
from dpf_tf.keras_api import Kernel
from dpf_tf.selection import Selection
from dpf_tf.structures import Filters
from dpf_tf.ties import Ties
from dpf_tf.wrapper import PruneLowMagnitudeDPF

Taken = tuple[str, Any, list[Kernel]]  # Path, layer, and which of its kernels.


def with_ties(
    model: Any,
    ties: Ties,
    structure: Filters,
    selection: Selection,
    taken: list[Taken],
    already: list[Any],
) -> tuple[list[Taken], list[str]]:
    """Returns the layers of which filters can go, the depthwise ones among them.

    And the paths of the others, with the reasons.
    """
    chosen = [kernel for _, _, kernels in taken for kernel in kernels]
    depthwise = [
        (path, layer, kernel)
        for path, layer in walk(model)
        if id(layer) not in {id(other) for _, other, _ in taken}
        and not isinstance(layer, PruneLowMagnitudeDPF)
        for kernel in prunable.kernels(layer)
        if kernel.kind == "depthwise" and not selection.excludes(path, layer, kernel)
        if structure.refusal(kernel) is None
    ]
    free, tied = structure.settled(
        [*(kernel for layer in already for kernel in layer.places), *chosen],
        [kernel for _, _, kernel in depthwise],
        ties,
    )
    goes = {id(kernel.variable) for kernel in free}
    places = [*taken, *((path, layer, [kernel]) for path, layer, kernel in depthwise)]
    found = [
        (path, layer, [kernel for kernel in kernels if id(kernel.variable) in goes])
        for path, layer, kernels in places
    ]
    left = [
        f"{path}/{kernel.path} ({tied[id(kernel.variable)]})"
        for path, _, kernels in taken
        for kernel in kernels
        if id(kernel.variable) in tied
    ]
    return [place for place in found if place[2]], left


def followers_of(
    model: Any,
    ties: Ties,
    selection: Selection,
    taken: list[Taken],
    already: list[Any],
) -> dict[int, list[str]]:
    """Returns the weights that follow filters that can go, by the id of their layer."""
    pruned = {id(layer) for _, layer, _ in taken}
    fixed = ties.fixed(pruned | {id(layer.layer) for layer in already})
    found = {
        id(layer): [
            follower.path
            for follower in prunable.followers(layer)
            if not selection.excludes(path, layer, follower)
        ]
        for path, layer in walk(model)
        if layer.trainable and ties.reason(layer, fixed) is None
    }
    return {layer: paths for layer, paths in found.items() if paths}
