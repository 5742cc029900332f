"""What is known of layers: which leave channels apart, and which of them have filters.

Channels are always the last axis of a tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dpf_tf import keras_api
from dpf_tf.trace import Node, operation

TRANSPOSED = {"Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"}
FILTERS = {"Conv1D", "Conv2D", "Conv3D", "Dense", *TRANSPOSED}
DEPTHWISE = {"DepthwiseConv1D", "DepthwiseConv2D"}
MERGES = {"Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"}
_MERGING_OPERATIONS = {"Concatenate", *MERGES} - {"Average"}  # That is of one tensor.
RESHAPES = {"Flatten", "Reshape"}
# They do nothing at inference.
IDLE = {
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
}
# They work on each element alone.
ELEMENTWISE = {"Activation", "ELU", "LeakyReLU", "ReLU", "Rescaling", "ThresholdedReLU"}
_OPERATIONS = {"Relu", "Relu6", "Sigmoid", "Tanh"}
_OPERATIONS_OF_KERAS3 = {"Gelu", "HardSilu", "Silu"}  # In TensorFlow, with options.
# They work on each channel alone.
POSITIONS = {
    f"{kind}{rank}D"
    for rank in (1, 2, 3)
    for kind in (
        "AveragePooling",
        "Cropping",
        "GlobalAveragePooling",
        "GlobalMaxPooling",
        "MaxPooling",
        "UpSampling",
        "ZeroPadding",
    )
} | {"Resizing"}
_ACTIVATIONS = {
    *("celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_swish"),
    *("leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu"),
    *("sigmoid", "silu", "softplus", "softsign", "swish", "tanh"),
}


def is_known(node: Node) -> bool:
    """Tells a layer that leaves channels apart, and nothing unusual about this call."""
    layer, name, shapes = node.layer, operation(node.layer), _shapes(node)
    rank = len(node.shape)
    if channels_first(node):
        return False
    if not _is_layer(layer) and name not in _MERGING_OPERATIONS:
        return is_elementwise(layer)
    if name in MERGES:
        if len({shape[-1] for shape in shapes}) > 1 or len(shapes) < 2:
            return False
        # Keras's layers align tensors of several ranks at the channels.
        return _is_layer(layer) or len({len(shape) for shape in shapes}) == 1
    if len(shapes) != 1 and name != "Concatenate":
        return False
    if name == "Concatenate":
        return layer.axis in (-1, rank - 1)
    if name == "BatchNormalization":
        axis = layer.axis if isinstance(layer.axis, int) else list(layer.axis)
        plain = not getattr(layer, "renorm", False)
        return plain and axis in (-1, [-1], rank - 1, [rank - 1])
    if name in RESHAPES:
        before, after = shapes[0][-1], node.shape[-1]
        return rank > 1 and bool(before and after) and after % before == 0
    if name == "PReLU":
        return len(shapes[0]) - 1 not in (layer.shared_axes or ())
    if name == "Rescaling":
        return np.ndim(layer.scale) == 0 and np.ndim(layer.offset) == 0
    if name == "Resizing":
        return not getattr(layer, "pad_to_aspect_ratio", False)
    if name in ("Activation", *DEPTHWISE):
        return not mixes(layer.activation) and not _quantized(layer)
    return is_elementwise(layer) or name in IDLE | POSITIONS


def is_elementwise(layer: Any) -> bool:
    """Tells a layer or operation without variables that works on each element alone."""
    name = operation(layer)
    if _is_layer(layer):
        return name in ELEMENTWISE
    of_keras3 = keras_api.class_name(layer) in _OPERATIONS_OF_KERAS3
    return name in _OPERATIONS or of_keras3


def is_sliced(node: Node) -> bool:
    """Tells a layer with variables for each channel, which can lose some."""
    name = operation(node.layer)
    if name in FILTERS:
        return not fixed(node)
    return name in {"BatchNormalization", "PReLU", *DEPTHWISE} and is_known(node)


def fixed(node: Node) -> str:
    """Returns why a layer with filters has to keep all its channels, or ''."""
    layer = node.layer
    if channels_first(node):
        return "channels first"
    if getattr(layer, "groups", 1) > 1:
        return "a grouped convolution"
    return "more than a kernel and a bias" if _quantized(layer) else ""


def is_linear(layer: Any) -> bool:
    """Tells a layer whose own activation does nothing."""
    activation = layer.activation
    name = getattr(activation, "__name__", "")
    return activation is None or (name == "linear" and not mixes(activation))


def mixes(activation: Any) -> bool:
    """Tells a layer's activation that may not work on each element alone."""
    if activation is None:
        return False
    if keras_api.of(activation) is not None:  # A layer, such as `ReLU(6.0)`.
        return operation(activation) == "Activation" or not is_elementwise(activation)
    name = getattr(activation, "__name__", type(activation).__name__)
    module = (getattr(activation, "__module__", None) or "").split(".")[0]
    known = module in ("keras", "tf_keras", "tensorflow") and name in _ACTIVATIONS
    return not known


def _quantized(layer: Any) -> bool:
    """Tells a layer with other variables than a kernel and a bias (LoRA, int8)."""
    has_bias = int(getattr(layer, "use_bias", False))
    return len(layer.variables) != has_bias + (operation(layer) != "Activation")


def channels_first(node: Node) -> bool:
    """Tells a layer that takes the first axis behind the batch for the channels."""
    # Whatever the layer says, there is one order only for vectors.
    ranks = {len(shape) for shape in (*_shapes(node), node.shape)}
    first = getattr(node.layer, "data_format", None) == "channels_first"
    return first and max(ranks) > 2


def _is_layer(layer: Any) -> bool:
    wraps_function = keras_api.class_name(layer) == "TFOpLambda"
    return keras_api.of(layer) is not None and not wraps_function


def _shapes(node: Node) -> list[tuple[int | None, ...]]:
    return [x.shape for x in node.inputs]
