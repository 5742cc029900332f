"""Which weights of which layer can be pruned.

A layer's kernels are known by the class of the layer that owns them, in both Kerases,
or named by the layer itself through `get_prunable_weights`. Composite layers
(`Bidirectional`, `MultiHeadAttention`, a block of one's own) are searched through.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from dpf_tf import keras_api
from dpf_tf.keras_api import Kernel

_CONVOLUTIONS = {
    f"Conv{d}D{suffix}": {"kernel": "kernel"}
    for d in (1, 2, 3)
    for suffix in ("", "Transpose")
}
_SEPARABLE = {"pointwise_kernel": "kernel", "depthwise_kernel": "depthwise"}
_CELL = {"kernel": "kernel", "recurrent_kernel": "kernel"}
# Class name of the owner -> {attribute: kind}.
_KERNELS = {
    **_CONVOLUTIONS,
    "Dense": {"kernel": "kernel"},
    "EinsumDense": {"kernel": "kernel"},
    "SeparableConv1D": _SEPARABLE,
    "SeparableConv2D": _SEPARABLE,
    "DepthwiseConv1D": {"depthwise_kernel": "depthwise"},
    "DepthwiseConv2D": {"depthwise_kernel": "depthwise"},
    "Embedding": {"embeddings": "embedding"},
    "SimpleRNNCell": _CELL,
    "LSTMCell": _CELL,
    "GRUCell": _CELL,
    "ConvLSTMCell": _CELL,
}
# They make their kernels when first called: nothing is to be seen before.
_LAZY = {"MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention"}
# Their weights scale or shift; none is a kernel, whatever its rank.
_KERNEL_FREE = {
    "AdditiveAttention",
    "Attention",
    "BatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "Normalization",
    "PReLU",
    "RMSNormalization",
    "UnitNormalization",
}
# They write to the kernel in `call`: a pruned kernel would overwrite the dense one.
_OPAQUE = {"SpectralNormalization"}


@runtime_checkable
class PrunableLayer(Protocol):
    """A layer of one's own that says which of its weights can be pruned.

    Any layer with this method is prunable; no base class is needed (the method has the
    name that TFMOT uses).

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> @keras.saving.register_keras_serializable("docs")
        ... class Bilinear(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.form = self.add_weight(shape=(shape[-1], shape[-1]))
        ...     def call(self, x):
        ...         return keras.ops.sum((x @ self.form) * x, -1, keepdims=True)
        ...     def get_prunable_weights(self):
        ...         return [self.form]
        >>> isinstance(Bilinear(), dpf_tf.PrunableLayer)
        True
    """

    def get_prunable_weights(self) -> list[Any]:
        """Returns the layer's own variables that may be pruned, once it is built."""
        ...


def _known_class(layer: Any, names: Any) -> str | None:
    for cls in type(layer).__mro__:
        built_in = cls.__module__.split(".")[0] in ("keras", "tf_keras")
        if built_in and cls.__name__ in names:
            return cls.__name__
    return None


def _attributes(layer: Any) -> dict[str, str]:
    """Returns the attributes that hold kernels in a layer of this class, with kinds."""
    name = _known_class(layer, _KERNELS)
    if name is None:
        return {}
    if name.startswith("Depthwise") and keras_api.of(layer) is keras_api.KERAS3:
        return {"kernel": "depthwise"}  # tf_keras calls it `depthwise_kernel`.
    return _KERNELS[name]


def _items(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _items(item, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _items(item, f"{name}/{i}")
    else:
        yield name, value


def sublayers(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yields `(name, layer)` of the direct sublayers of a layer or model.

    A subclassed model may hold several of one name: the second `fc` is `fc:2`.
    """
    taken: collections.Counter[str] = collections.Counter()
    for name, child in _sublayers(layer):
        taken[name] += 1
        yield name if taken[name] == 1 else f"{name}:{taken[name]}", child


def _sublayers(layer: Any) -> Iterator[tuple[str, Any]]:
    api = keras_api.of(layer)
    assert api is not None
    if isinstance(layer, api.module.Model):
        for child in layer.layers:
            yield child.name, child
        return
    # Keras's own lists of sublayers come last: they repeat what attributes hold.
    attributes = sorted(
        vars(layer).items(),
        key=lambda item: item[0].startswith(("_layers", "_self_", "_obj_")),
    )
    seen = {id(layer)}
    if _known_class(layer, {"Bidirectional"}):
        # In tf_keras, the layer from which both directions are copied. Never called.
        seen.add(id(vars(layer).get("layer")))
    for attribute, value in attributes:
        for name, item in _items(value, attribute.lstrip("_")):
            if isinstance(item, api.module.layers.Layer) and id(item) not in seen:
                seen.add(id(item))
                yield name, item


def all_layers(layer: Any) -> Iterator[Any]:
    """Yields a layer or model and all that it is made of, at any depth, each once."""
    seen: set[int] = set()

    def visit(layer: Any) -> Iterator[Any]:
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            for _, child in sublayers(layer):
                yield from visit(child)

    yield from visit(layer)


def _own_weights(layer: Any) -> dict[int, str | None]:
    """Returns the variables that a layer itself owns: id -> attribute that holds it."""
    below = {id(w) for _, child in sublayers(layer) for w in child.weights}
    owned: dict[int, str | None] = {
        id(w): None for w in layer.weights if id(w) not in below
    }
    for attribute, value in vars(layer).items():
        if owned.get(id(value), "") is None:
            owned[id(value)] = attribute
    return owned


def kernels(layer: Any, *, frozen: bool = False) -> Iterator[Kernel]:
    """Yields the kernels of a layer, its sublayers' included.

    Before a layer is built its kernels have no variable, and what it makes in its own
    `build` cannot be seen.

    Args:
        layer: a layer of either Keras.
        frozen: whether to yield those of layers with `trainable=False`, too.

    Yields:
        A `Kernel` for every weight that can be pruned, of any kind.

    Raises:
        TypeError: if `get_prunable_weights` returns something else than own weights.
    """
    yield from _kernels(layer, "", frozen, set())


def usual(kernels: list[Kernel]) -> list[Kernel]:
    """Returns all but depthwise kernels and embeddings, or these if it is all."""
    return [kernel for kernel in kernels if kernel.kind == "kernel"] or kernels


def _kernels(layer: Any, prefix: str, frozen: bool, seen: set[int]) -> Iterator[Kernel]:
    if id(layer) in seen or _known_class(layer, _OPAQUE):
        return
    if not layer.trainable and not frozen:
        return
    seen.add(id(layer))
    if hasattr(layer, "get_prunable_weights"):
        yield from _declared(layer, prefix)
        return
    owned = None
    for name, kind in _attributes(layer).items():
        variable = getattr(layer, name, None)
        if variable is None:
            if not layer.built:
                yield Kernel(prefix + name, None, layer, None, kind)
            continue
        owned = _own_weights(layer) if owned is None else owned
        if id(variable) in owned and (frozen or variable.trainable):
            if _one_input_channel_a_filter(layer, variable):
                kind = "depthwise"
            yield Kernel(prefix + name, variable, layer, owned[id(variable)], kind)
    for name, child in sublayers(layer):
        yield from _kernels(child, f"{prefix}{name}/", frozen, seen)


def _one_input_channel_a_filter(layer: Any, kernel: Any) -> bool:
    """Tells a grouped convolution that is a depthwise one, such as ConvNeXt's."""
    return getattr(layer, "groups", 1) > 1 and kernel.shape[-2] == 1


def _declared(layer: Any, prefix: str) -> Iterator[Kernel]:
    if not layer.built:
        return
    declared = layer.get_prunable_weights()
    weights = {id(w): w for w in layer.weights}
    attributes = _own_weights(layer)
    names: set[str] = set()
    for i, variable in enumerate(declared):
        if id(variable) not in weights:
            raise TypeError(
                f"`get_prunable_weights` of layer '{layer.name}' must return variables "
                f"of that layer. Item {i} is {variable!r}"
            )
        owner, attribute = layer, attributes.get(id(variable))
        name = attribute or f"weight_{i}"
        if id(variable) not in attributes:  # It belongs to a sublayer.
            for kernel in _any_weight(layer):
                if kernel.variable is variable:
                    name, owner, attribute = kernel.path, kernel.owner, kernel.attribute
        name = name.lstrip("_")
        if name in names:
            name = f"{name}_{i}"
        names.add(name)
        yield Kernel(prefix + name, variable, owner, attribute, "kernel")


def _any_weight(layer: Any, prefix: str = "") -> Iterator[Kernel]:
    variables = {id(w): w for w in layer.weights}
    for key, attribute in _own_weights(layer).items():
        yield Kernel(f"{prefix}{attribute}", variables[key], layer, attribute, "kernel")
    for name, child in sublayers(layer):
        yield from _any_weight(child, f"{prefix}{name}/")


def builds_kernels(layer: Any) -> bool:
    """Tells whether a layer that is not built yet may have kernels we cannot see."""
    if layer.built:
        return False
    if hasattr(layer, "get_prunable_weights") or _known_class(layer, _LAZY):
        return True
    return any(builds_kernels(child) for _, child in sublayers(layer))


def unknown_kernels(layer: Any) -> list[str]:
    """Returns the names of weights that look like kernels, in layers we do not know."""
    if (
        hasattr(layer, "get_prunable_weights")
        or not layer.trainable
        or _known_class(layer, _KERNEL_FREE)
    ):
        return []
    if _known_class(layer, _OPAQUE):
        matrices = [w for w in layer.trainable_weights if len(w.shape) > 1]
        names = [keras_api.weight_name(weight) for weight in matrices]
        return names if layer.built else ["kernel"]
    found = []
    if not _attributes(layer):
        own = _own_weights(layer)
        for weight in layer.trainable_weights:
            name = keras_api.weight_name(weight)
            # Attention's biases have two axes: the name decides, then the rank.
            if id(weight) in own and len(weight.shape) > 1 and "bias" not in name:
                found.append(name)
    for _, child in sublayers(layer):
        found.extend(unknown_kernels(child))
    return found


def pointwise(layer: Any) -> bool:
    """Selects 1x1 convolutions: `prune_low_magnitude_dpf(..., layers=pointwise)`.

    They hold most weights of a MobileNet, and they are the convolutions whose sparse
    form TFLite runs fast on phones.

    Args:
        layer: a layer of either Keras.

    Returns:
        True for a convolution whose kernel covers a single position, depthwise and
        transposed ones excepted.

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> dpf_tf.pointwise(keras.layers.Conv2D(8, 1))
        True
        >>> dpf_tf.pointwise(keras.layers.Conv2D(8, 3))
        False
    """
    if class_of(layer) not in ("Conv1D", "Conv2D", "Conv3D"):
        return False
    return all(size == 1 for size in layer.kernel_size)


def class_of(layer: Any) -> str | None:
    """Returns which of Keras's layers with kernels a layer is, or derives from."""
    return _known_class(layer, _KERNELS)


def input_axis(kernel: Kernel) -> int | None:
    """Returns the axis along which a kernel's inputs lie side by side.

    That of the input channels; of several that an einsum sums over, the last. `None` if
    there is none: in depthwise kernels, embeddings and vectors.
    """
    name, rank = class_of(kernel.owner) or "", len(kernel.variable.shape)
    if kernel.kind != "kernel" or rank < 2:
        return None
    if name == "EinsumDense":
        inputs, letters, outputs = _einsum(kernel)
        summed = [x in inputs and x not in outputs for x in letters]
        return max((i for i, each in enumerate(summed) if each), default=None)
    return rank - 1 if name.endswith("Transpose") else rank - 2


def followers(layer: Any) -> list[Kernel]:
    """Returns a layer's weights that have one entry for each channel of its output.

    Those of batch norm that scale and shift, and the biases of layers with filters.
    """
    names: tuple[str, ...] = ()
    if _known_class(layer, {"BatchNormalization"}):
        names = ("gamma", "beta")
    elif class_of(layer) is not None:
        names = ("bias",)
    found = [(name, getattr(layer, name, None)) for name in names]
    return [
        Kernel(name, weight, layer, name, "follower")
        for name, weight in found
        if weight is not None
    ]


def filter_axes(kernel: Kernel) -> tuple[int, ...]:
    """Returns the axes that tell a kernel's output filters apart.

    The last one, but in transposed convolutions; both channel axes of a depthwise
    kernel; those of an einsum that its output has and its input has not.
    """
    name, rank = class_of(kernel.owner) or "", len(kernel.variable.shape)
    if name == "EinsumDense":
        inputs, letters, outputs = _einsum(kernel)
        return tuple(
            i for i, x in enumerate(letters) if x in outputs and x not in inputs
        )
    if name.endswith("Transpose"):
        return (rank - 2,)
    if kernel.kind == "depthwise" and name.startswith(("Depthwise", "Separable")):
        return (rank - 2, rank - 1)
    return (rank - 1,)


def _einsum(kernel: Kernel) -> tuple[str, str, str]:
    """Returns the letters of an einsum's inputs, kernel and outputs."""
    inputs, axes, outputs = re.split(",|->", kernel.owner.equation)
    return inputs, axes.replace("...", ""), outputs
