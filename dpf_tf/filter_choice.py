"""Which layers of a graph are wrapped where whole filters are pruned.

Those with filters that can go, the depthwise kernels between them, and the batch norms
and biases that follow them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from dpf_tf import prunable
from dpf_tf.graph import walk
from dpf_tf.keras_api import Kernel
from dpf_tf.selection import Selection
from dpf_tf.structures import Filters
from dpf_tf.ties import ties_of
from dpf_tf.wrapper import PruneLowMagnitudeDPF

Taken = tuple[str, Any, list[Kernel]]  # Path, layer, and which of its kernels.


class Choice(NamedTuple):
    """What is wrapped.

    Attributes:
        taken: the layers that have filters that can go, depthwise ones included.
        followers: the weights that follow these filters, by the id of their layer.
        left: paths of the other kernels that were to be pruned, with the reasons.
    """

    taken: list[Taken]
    followers: dict[int, list[str]]
    left: list[str]


def choose(
    model: Any,
    structure: Filters,
    selection: Selection,
    wanted: list[Taken],
    already: list[Any],
) -> Choice:
    """Returns what is wrapped of a graph.

    Args:
        model: the graph.
        structure: how filters are pruned.
        selection: what the user leaves out.
        wanted: the layers whose filters are to be pruned.
        already: the wrappers that the graph has.
    """
    ties = ties_of(model, structure.keep_residual)
    places = [*wanted, *_depthwise(model, structure, selection, wanted)]
    kernels = [kernel for layer in already for kernel in layer.places]
    kernels += [kernel for _, _, chosen in places for kernel in chosen]
    fixed = ties.fixed({id(kernel.owner) for kernel in kernels})
    choice = Choice([], {}, [])
    for number, (path, layer, chosen) in enumerate(places):
        reasons = [ties.reason(kernel.owner, fixed) for kernel in chosen]
        pairs = list(zip(chosen, reasons, strict=True))
        free = [kernel for kernel, reason in pairs if reason is None]
        if free:
            choice.taken.append((path, layer, free))
        if number < len(wanted):
            choice.left.extend(f"{path}/{k.path} ({why})" for k, why in pairs if why)
    for path, layer in walk(model):
        names = [
            follower.path
            for follower in prunable.followers(layer)
            if not selection.excludes(path, layer, follower)
        ]
        follows = structure.silent and names and layer.trainable
        if follows and ties.reason(layer, fixed) is None:
            choice.followers[id(layer)] = names
    return choice


def _depthwise(
    model: Any, structure: Filters, selection: Selection, wanted: list[Taken]
) -> Iterator[Taken]:
    """Yields the depthwise kernels that may go with others, though none asked."""
    known = {id(layer) for _, layer, _ in wanted}
    for path, layer in walk(model):
        if id(layer) in known or isinstance(layer, PruneLowMagnitudeDPF):
            continue
        for kernel in prunable.kernels(layer):
            stays = selection.excludes(path, layer, kernel) or structure.refusal(kernel)
            if kernel.kind == "depthwise" and not stays:
                yield path, layer, [kernel]
