"""A model's graph as a list: one node for each call of a layer, nested models opened.

Pruning wrappers are looked through: a node's layer is the wrapped one. A layer that is
called several times, or lies in a model that is, has a node for each call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from dpf_tf import graph, keras_api, prunable
from dpf_tf.wrapper import PruneLowMagnitudeDPF

# What tf_keras makes of an operation that is no layer -> its class in Keras 3.
_FUNCTIONS = {
    "__operators__.add": "Add",
    "math.add": "Add",
    "math.maximum": "Maximum",
    "math.minimum": "Minimum",
    "math.multiply": "Multiply",
    "math.sigmoid": "Sigmoid",
    "math.subtract": "Subtract",
    "math.tanh": "Tanh",
    "nn.gelu": "Gelu",
    "nn.relu": "Relu",
    "nn.relu6": "Relu6",
    "nn.silu": "Silu",
}


@dataclasses.dataclass(eq=False)
class Node:
    """An output of one call of a layer, or an input.

    Attributes:
        path: path of the layer in the model; of a nested model's input, the nested
            model's path; of the model's own input, its name.
        layer: the layer, without its pruning wrapper, or an operation such as `x + y`;
            `None` of an input.
        wrapper: the layer's pruning wrapper, if it has one.
        inputs: the nodes that make its inputs; of a nested model's input, what the
            nested model is called with.
        shape: shape of its tensor.
        index: which of its layer's outputs it is.
        is_output: whether it is one of the model's outputs.
        at_inference: whether it is called with `training=False`, or lies in a model
            that is.
    """

    path: str
    layer: Any
    wrapper: Any
    inputs: list[Node]
    shape: tuple[int | None, ...]
    index: int = 0
    is_output: bool = False
    at_inference: bool = False

    def __str__(self) -> str:
        if self.layer is None:
            kind = "nested model" if self.inputs else "input"
        else:
            kind = operation(self.layer) or type(self.layer).__name__
        return f"'{self.path}' ({kind})"


def graphs_of(model: Any) -> Iterator[Any]:
    """Yields the outermost graphs, those that are built, of whatever holds them.

    `None` holds none.
    """
    seen: set[int] = set()

    def visit(layer: Any) -> Iterator[Any]:
        wrapped = isinstance(layer, PruneLowMagnitudeDPF)
        if layer is None or wrapped or id(layer) in seen:
            return
        seen.add(id(layer))
        if graph.is_graph(layer):
            if getattr(layer, "outputs", None):
                yield layer
            return
        for _, child in prunable.sublayers(layer):
            yield from visit(child)

    return visit(model)


def nodes_of(model: Any) -> list[Node]:
    """Returns the nodes of a graph model: inputs first, each behind what makes it.

    Args:
        model: a functional or sequential model of either Keras, built.
    """
    given = [
        Node(tensor.name, None, None, [], tuple(tensor.shape))
        for tensor in model.inputs
    ]
    made: list[Node] = []
    for node in _call(model, given, "", made):
        node.is_output = True
    return given + made


def _call(
    model: Any,
    given: list[Node],
    prefix: str,
    made: list[Node],
    at_inference: bool = False,
) -> list[Node]:
    """Adds the nodes of one call of a model; returns those of its outputs."""
    api = keras_api.of(model)
    found = {id(x): source for x, source in zip(model.inputs, given, strict=True)}
    calls: dict[tuple[int, int], list[Node]] = {}
    ahead = list(model.outputs)
    while ahead:
        tensor = ahead[-1]
        if id(tensor) in found:
            ahead.pop()
            continue
        layer, inputs = api.producer(tensor)
        missing = [x for x in inputs if id(x) not in found]
        if missing:
            ahead += missing
            continue
        path, sources = prefix + layer.name, [found[id(x)] for x in inputs]
        index = api.output_index(tensor)
        fixed = at_inference or api.call_options(tensor).get("training") is False
        # (A tf_keras Sequential whose class has a `call` of its own has no graph.)
        if graph.is_graph(layer) and layer.inputs:
            call = (id(layer), api.call_index(tensor))
            if call not in calls:
                inside = [Node(path, None, None, [x], x.shape) for x in sources]
                made += inside
                calls[call] = _call(layer, inside, f"{path}/", made, fixed)
            found[id(tensor)] = calls[call][index]
        else:
            wrapper = layer if isinstance(layer, PruneLowMagnitudeDPF) else None
            inner = layer if wrapper is None else wrapper.layer
            shape = tuple(tensor.shape)
            node = Node(path, inner, wrapper, sources, shape, index, at_inference=fixed)
            made.append(node)
            found[id(tensor)] = node
    return [found[id(tensor)] for tensor in model.outputs]


def operation(layer: Any) -> str:
    """Returns the class of a layer or operation of Keras's own, else ''.

    An operation that is no layer has the name of its class in Keras 3, in tf_keras too:
    `x + y` is `"Add"`, as the layer is.
    """
    name = keras_api.class_name(layer)
    if name == "TFOpLambda":
        return _FUNCTIONS.get(layer.get_config()["function"], name)
    return name
