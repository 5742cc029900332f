"""`count_macs`: multiply-accumulates of a forward pass, with and without the zeros.

A kernel's weight takes part in one product for each position at which its layer applies
the kernel: the pixels of a convolution's output, the steps of a sequence that a dense
layer maps. Where the weight is zero, a sparse product would be skipped.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from dpf_tf import keras_api
from dpf_tf.graph import is_graph, walk
from dpf_tf.trace import Node, nodes_of
from dpf_tf.wrapper import PruneLowMagnitudeDPF

# The kernel is applied at every position of the output ...
_AT_OUTPUT = {
    "Dense",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "SeparableConv1D",
    "SeparableConv2D",
}
# ... or of the input.
_AT_INPUT = {"Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"}
# Their products have no kernel as a factor, but there are some.
_PRODUCTS_WITHOUT_KERNEL = {"AdditiveAttention", "Attention", "Dot"}
# Their weights are looked up, or scale and shift, whatever their rank.
_NO_KERNEL = {
    "BatchNormalization",
    "Embedding",
    "GroupNormalization",
    "LayerNormalization",
    "Normalization",
    "PReLU",
}


class LayerMacs(NamedTuple):
    """Multiply-accumulates of one layer, for one example.

    Attributes:
        dense: as if no weight were zero.
        sparse: without the products with weights that are zero.
    """

    dense: int
    sparse: int


@dataclasses.dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of a model, for one example.

    Attributes:
        layers: those of each layer with a kernel, by its path, such as `"conv1"` or
            `"encoder/conv1"`.
        not_counted: paths and classes of layers that multiply, but are not counted:
            the totals lack them.
    """

    layers: dict[str, LayerMacs]
    not_counted: tuple[str, ...]

    @property
    def dense(self) -> int:
        """All layers' multiply-accumulates, as if no weight were zero."""
        return sum(layer.dense for layer in self.layers.values())

    @property
    def sparse(self) -> int:
        """All layers' multiply-accumulates without the products with zero weights."""
        return sum(layer.sparse for layer in self.layers.values())


def count_macs(model: Any) -> Macs:
    """Counts the multiply-accumulates of one forward pass for one example.

    Convolutions (strided, dilated, grouped, depthwise, separable, transposed) and dense
    layers are counted, also in nested models. By convention, products with the zeros of
    a padding count, and biases, batch norm, activations and pooling do not.

    Args:
        model: a functional or sequential model of either Keras, of a fixed input size
            and without pruning wrappers (`dpf_tf.strip_pruning` takes them off).

    Returns:
        The counts. Layers with kernels that are of another kind (attention, recurrent,
        a class of one's own, a nested subclassed model) or that are called more than
        once are named in `not_counted`. Functions that are not layers, such as
        `keras.ops.matmul`, are not seen, nor are calls for a loss alone.

    Raises:
        ValueError: if the model is neither functional nor sequential, if it is not
            built or its input size (or that of a nested model) is not fixed, or if it
            is not stripped.

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> model = keras.Sequential(
        ...     [keras.Input((100,)), keras.layers.Dense(5, name="classes")]
        ... )
        >>> _ = model.layers[0].kernel.assign(keras.ops.eye(100, 5))
        >>> counted = dpf_tf.count_macs(model)
        >>> counted.dense, counted.sparse
        (500, 5)
        >>> counted.layers["classes"]
        LayerMacs(dense=500, sparse=5)
    """
    found = products(model)
    layers: dict[str, LayerMacs] = {}
    for path, each in found.layers.items():
        if each.wrapped:
            raise ValueError(
                f"The layer '{path}' is wrapped for pruning. Count the plain model: "
                "`dpf_tf.count_macs(dpf_tf.strip_pruning(model))`."
            )
        kernels = [kernel.numpy() for kernel in each.kernels]
        layers[path] = LayerMacs(
            each.positions * sum(kernel.size for kernel in kernels),
            each.positions * sum(int(np.count_nonzero(kernel)) for kernel in kernels),
        )
    return Macs(layers, found.not_counted)


class Products(NamedTuple):
    """A layer's kernels, and at how many positions of an example they are applied."""

    layer: Any
    wrapped: bool
    kernels: list[Any]
    positions: int


class AllProducts(NamedTuple):
    """The layers that are counted, by path; paths and classes of the others."""

    layers: dict[str, Products]
    not_counted: tuple[str, ...]


def products(model: Any) -> AllProducts:
    """Returns where a model multiplies by kernels, pruning wrappers looked through.

    Raises:
        ValueError: as `count_macs` does, but for wrappers.
    """
    if not (is_graph(model) and getattr(model, "inputs", None)):
        raise ValueError(
            "`model` must be a functional or sequential model that is built. "
            f"Received: model={model!r}"
        )
    layers: dict[str, Products] = {}
    not_counted: list[str] = []
    for path, (outer, calls) in _calls(model).items():
        wrapped = isinstance(outer, PruneLowMagnitudeDPF)
        layer = outer.layer if wrapped else outer
        kind = keras_api.class_name(layer)
        kernels = [w for w in layer.weights if len(w.shape) > 1]
        if kind in _NO_KERNEL or not (kernels or kind in _PRODUCTS_WITHOUT_KERNEL):
            continue
        if kind not in _AT_OUTPUT | _AT_INPUT:
            not_counted.append(f"{path} ({type(layer).__name__})")
        elif not calls:  # It feeds a loss alone (tf_keras's `add_loss`).
            not_counted.append(f"{path} ({kind}, not before an output)")
        elif len(calls) > 1:  # All these kinds have one output, one node a call.
            not_counted.append(f"{path} ({kind}, called {len(calls)} times)")
        else:
            node = calls[0].inputs[0] if kind in _AT_INPUT else calls[0]
            positions = _positions(layer, node.shape, path)
            layers[path] = Products(layer, wrapped, kernels, positions)
    return AllProducts(layers, tuple(not_counted))


def _calls(model: Any) -> dict[str, tuple[Any, list[Node]]]:
    """Returns each layer and its nodes in this very model, by path.

    They come from the graph: a layer may have no configuration, and `layer.output` may
    be that of another model.
    """
    found: dict[str, tuple[Any, list[Node]]] = {
        path: (layer, []) for path, layer in walk(model)
    }
    for node in nodes_of(model):
        if keras_api.of(node.layer) is not None:  # No input, nor `x + y`.
            # A layer that lies in several models has a path in each, one in `walk`.
            place = found.setdefault(node.path, (node.wrapper or node.layer, []))
            place[1].append(node)
    return found


def _positions(layer: Any, shape: tuple[int | None, ...], path: str) -> int:
    """Returns at how many positions of one example a layer applies its kernels."""
    # Without the batch and the channels.
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        sizes = shape[2:]
    else:
        sizes = shape[1:-1]
    if None in sizes:
        nested = path.rpartition("/")[0]
        # Its layers know the sizes of its own input, not of what it is called with.
        built = f"the nested model '{nested}', too," if nested else "the model"
        raise ValueError(
            f"At layer '{path}' the size is not known: {tuple(shape)}. Build {built} "
            "with a fixed input size."
        )
    return math.prod(sizes)
