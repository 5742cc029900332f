"""A Keras model as TFLite's converter sees it: a graph of operators.

Nested models are opened and pruning wrappers looked through; what does nothing at
inference (dropout) is gone; a layer's activation is an operator of its own, and so is
each half of a separable convolution. All operators of a layer have the layer's path.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from dpf_tf import keras_api
from dpf_tf.kinds import IDLE
from dpf_tf.trace import Node, nodes_of, operation

# By name in either Keras or in TensorFlow: what becomes operators of one input that
# work on each element. Others (selu, softplus, hard_sigmoid, ...) become several, with
# constants among their inputs.
_ACTIVATIONS = {
    "elu",
    "exponential",
    "gelu",
    "hard_silu",
    "leaky_relu",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
}
# Operations that are not layers, or are, by class.
_OPERATIONS = {
    "Add": "add",
    "Gelu": "gelu",
    "HardSilu": "hard_silu",
    "Multiply": "multiply",
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Tanh": "tanh",
}


@dataclasses.dataclass(eq=False)
class Operator:
    """One operator of the converted model.

    Attributes:
        path: the path of its layer in the model.
        kind: `"input"`, `"conv"`, `"depthwise"`, `"padding"`, `"batch_norm"`,
            `"elementwise"` (also resizing: what keeps channels apart), `"pool"` (global
            average pooling), `"reshape"` or `"other"`.
        name: what to call it in a message, such as `"MaxPooling2D"`.
        layer: the layer, or operation, without its pruning wrapper.
        inputs: the operators that make its inputs.
        shape: shape of its output.
        wrapper: the layer's pruning wrapper, if it has one.
        consumers: the operators that use its output.
        is_output: whether its output is one of the model's.
    """

    path: str
    kind: str
    name: str
    layer: Any
    inputs: list[Operator]
    shape: tuple[int | None, ...]
    wrapper: Any = None
    consumers: list[Operator] = dataclasses.field(default_factory=list)
    is_output: bool = False

    @property
    def kernel(self) -> str:
        """The path, below the layer, of a convolution's kernel."""
        separable = keras_api.class_name(self.layer) == "SeparableConv2D"
        return "pointwise_kernel" if separable else "kernel"


def operators_of(model: Any) -> list[Operator]:
    """Returns a graph model's operators, each behind those that make its inputs.

    Args:
        model: a functional or sequential model of either Keras, built.
    """
    given: list[Operator] = []
    made: list[Operator] = []
    ends: dict[Node, Operator] = {}
    for node in nodes_of(model):
        sources = [ends[x] for x in node.inputs]
        if node.layer is not None:
            ends[node] = _Row(node, made).behind(sources)
        elif sources:
            ends[node] = sources[0]  # It enters a nested model.
        else:
            name = "the model's input"
            ends[node] = Operator("", "input", name, None, [], node.shape)
            given.append(ends[node])
        if node.is_output:
            ends[node].is_output = True
    for operator in made:
        for source in operator.inputs:
            source.consumers.append(operator)
    return given + made


class _Row:
    """Makes the row of operators that a layer becomes."""

    def __init__(self, node: Node, made: list[Operator]) -> None:
        self.path, self.shape, self.made = node.path, node.shape, made
        self.layer, self.wrapper, self.node = node.layer, node.wrapper, node

    def behind(self, inputs: list[Operator]) -> Operator:
        """Returns the last operator of the row."""
        layer, name = self.layer, keras_api.class_name(self.layer)
        if getattr(layer, "data_format", None) == "channels_first":
            return self.add("other", inputs, f"{name} with channels first")
        if name in IDLE:
            return inputs[0]
        if name == "Activation":
            return self.activated(inputs[0])
        if name == "SeparableConv2D":
            inputs = [self.add("depthwise", inputs)]
        last = self.add(self.kind(name, inputs), inputs)
        if name in ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense"):
            return self.activated(last)
        return last

    def add(self, kind: str, inputs: list[Operator], name: str = "") -> Operator:
        name = name or type(self.layer).__name__
        operator = Operator(
            self.path, kind, name, self.layer, inputs, self.shape, self.wrapper
        )
        self.made.append(operator)
        return operator

    def kind(self, name: str, inputs: list[Operator]) -> str:
        """Returns the kind of operator that the layer itself becomes."""
        layer = self.layer
        if name in ("Conv2D", "SeparableConv2D"):
            return "conv"
        if name == "DepthwiseConv2D":
            return "depthwise"
        if name == "ZeroPadding2D":
            return "padding"
        if name == "BatchNormalization":
            return "batch_norm"
        if name == "GlobalAveragePooling2D" or _is_mean(layer, name):
            return "pool"
        if name in ("Flatten", "Reshape"):
            return "reshape"
        return "elementwise" if self.is_elementwise(name, inputs) else "other"

    def is_elementwise(self, name: str, inputs: list[Operator]) -> bool:
        layer = self.layer
        if any(len(shape) != 4 for shape in (self.shape, *(x.shape for x in inputs))):
            return False
        function = _OPERATIONS.get(operation(layer))
        if function in ("add", "multiply"):
            return len(inputs) > 1  # A constant is no operand of four axes.
        if name == "ReLU":
            return not (layer.threshold or (layer.negative_slope and layer.max_value))
        if name == "ELU":
            return layer.alpha == 1
        if name in ("UpSampling2D", "Resizing"):
            cropped = getattr(layer, "crop_to_aspect_ratio", False)
            padded = getattr(layer, "pad_to_aspect_ratio", False)
            return layer.interpolation == "bilinear" and not (cropped or padded)
        return name == "LeakyReLU" or function in _ACTIVATIONS

    def activated(self, source: Operator) -> Operator:
        """Returns the operator of the layer's activation; `source` if there is none."""
        activation = self.layer.activation
        if keras_api.of(activation) is not None:  # A layer, such as `ReLU(6.0)`.
            node = dataclasses.replace(self.node, layer=activation, wrapper=None)
            return _Row(node, self.made).behind([source])
        name = getattr(activation, "__name__", type(activation).__name__)
        module = (getattr(activation, "__module__", None) or "").split(".")[0]
        if activation is None or name == "linear":
            return source
        known = module in ("keras", "tf_keras", "tensorflow") and name in _ACTIVATIONS
        kind = "elementwise" if known and len(self.shape) == 4 else "other"
        return self.add(kind, [source], f"the activation '{name}'")


def _is_mean(layer: Any, name: str) -> bool:
    """Tells Keras 3's `ops.mean` over height and width."""
    if name != "Mean" or not isinstance(layer.axis, list | tuple):
        return False
    return sorted(axis % 4 for axis in layer.axis) == [1, 2]
