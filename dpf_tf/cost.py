"""`cost_of`: parameters and multiply-accumulates, dense, masked and shrunk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dpf_tf import macs
from dpf_tf.graph import is_graph
from dpf_tf.plan import plan, shapes

Cost = dict[str, int | None]


def cost_of(
    model: Any, weights: int, zeros: int, masked: Mapping[int, np.ndarray]
) -> dict[str, Cost]:
    """Returns what a pruned model costs, in all three forms.

    Args:
        model: the pruned model, built.
        weights: how many weights it has.
        zeros: how many of them are pruned.
        masked: what it computes with, by the id of the dense kernel.

    Returns:
        `parameters` and `macs` (of one example) of `"dense"`, of `"masked"` (zeros left
        out) and of `"shrunk"` (what `dpf_tf.shrink` leaves). `None` where it cannot be
        told: of models that are no graph, and the MACs where the input size is not
        fixed, or some layer is not counted.
    """
    left = _left_by_shrinking(model, masked)
    products = _products(model)

    def size(kernel: Any, form: str) -> int:
        if form == "masked":
            value = masked.get(id(kernel))
            return int(np.count_nonzero(kernel.numpy() if value is None else value))
        if form == "shrunk" and left is not None and id(kernel) in left.sizes:
            return left.sizes[id(kernel)]
        return math.prod(tuple(kernel.shape))

    def macs_of(form: str) -> int | None:
        if products is None:
            return None
        return sum(
            each.positions * size(kernel, form)
            for each in products
            for kernel in each.kernels
        )

    return {
        "dense": {"parameters": weights, "macs": macs_of("dense")},
        "masked": {"parameters": weights - zeros, "macs": macs_of("masked")},
        "shrunk": {
            "parameters": None if left is None else weights - left.lost,
            "macs": None if left is None else macs_of("shrunk"),
        },
    }


def _products(model: Any) -> list[macs.Products] | None:
    try:
        found = macs.products(model)
    except ValueError:  # No graph, or no fixed size.
        return None
    return None if found.not_counted else list(found.layers.values())


class _Left(NamedTuple):
    """What shrinking leaves: the variables' sizes, by id, and what is lost in all."""

    sizes: dict[int, int]
    lost: int


def _left_by_shrinking(model: Any, masked: Mapping[int, np.ndarray]) -> _Left | None:
    if not (is_graph(model) and getattr(model, "outputs", None)):
        return None
    planned = plan(model, masked)
    sizes: dict[int, int] = {}
    lost = 0
    if planned.has_zero_filters:
        layers = {id(node.layer): node.layer for node in planned.channels.nodes}
        for key, of_layer in shapes(planned).items():
            for attribute, shape in of_layer.items():
                size = math.prod(shape)
                variable = getattr(layers[key], attribute, None)
                lost -= size
                if variable is not None:  # A bias may be new.
                    sizes[id(variable)] = size
                    lost += math.prod(tuple(variable.shape))
    return _Left(sizes, lost)
