"""Which operators XNNPACK's sparse inference knows, and what is amiss with the others.

It runs a chain of operators in another memory layout (channels before height and
width). These rules are about one operator at a time; `xnnpack` looks at the chain.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dpf_tf.export.operators import Operator

Padding = tuple[tuple[int, int], tuple[int, int]]

STEM = (
    "Begin with ZeroPadding2D(1) and Conv2D(filters, 3, strides=2, padding='valid') "
    "on images of 3 channels."
)
_POINTWISE = (
    "Put a depthwise 3x3 convolution (with the strides, if any) and a 1x1 one with "
    "strides 1 in its place."
)
_EXCITATION = (
    "Inside, use GlobalAveragePooling2D(keepdims=True) and 1x1 convolutions in place "
    "of reshaping and dense layers."
)
_OPERATORS = (
    "Use 1x1 and depthwise convolutions, ReLU, ReLU6, hard swish, sigmoid, Add and "
    "Multiply; reduce sizes by depthwise convolutions with strides 2."
)
_PADDINGS = {1: 0, 3: 1, 5: 2}  # By the size of the kernel.


class Misfit(NamedTuple):
    """Why an operator cannot be in the chain.

    Attributes:
        rule: short name of the rule that is broken.
        reason: what the operator is, in a sentence.
        mend: what to do about it.
    """

    rule: str
    reason: str
    mend: str


def is_stem(operator: Operator) -> bool:
    """Tells a convolution at which the chain can begin, its padding aside."""
    layer = operator.layer
    return (
        operator.kind == "conv"
        and operator.kernel == "kernel"
        and _square(layer.kernel_size, 3)
        and _square(layer.strides, 2)
        and _is_plain(layer)
        and operator.inputs[0].shape[-1] == 3
    )


def is_pointwise(operator: Operator) -> bool:
    """Tells a convolution of single positions, whose kernel's zeros count."""
    if operator.kind != "conv":
        return False
    return operator.kernel == "pointwise_kernel" or _square(
        operator.layer.kernel_size, 1
    )


def misfit(operator: Operator, first: bool) -> Misfit | None:
    """Returns what keeps an operator out of the chain; `None` if it fits.

    Args:
        operator: the operator.
        first: whether it is a convolution before which there is none.
    """
    kind, layer = operator.kind, operator.layer
    if kind in ("elementwise", "pool"):
        return None
    if is_stem(operator):
        return _padding(operator)
    if first:
        channels = operator.inputs[0].shape[-1]
        reason = f"The first is {_described(operator)}, on {channels} channels."
        return Misfit("stem", reason, STEM)
    if kind == "depthwise":
        return _depthwise(layer) or _padding(operator)
    if is_pointwise(operator):
        if operator.kernel == "pointwise_kernel":
            return None  # Strides and padding are those of the depthwise half.
        if _square(layer.strides, 1) and _is_plain(layer):
            return _padding(operator)
    if kind == "conv":
        reason = f"Inside is {_described(operator)}: only plain 1x1 ones may be."
        return Misfit("convolution", reason, _POINTWISE)
    if kind == "padding":
        if all(x.kind in ("conv", "depthwise") for x in operator.consumers):
            return None
        return Misfit(
            "padding",
            "A ZeroPadding2D that is not right in front of a convolution.",
            "Pad right in front of the convolution, or take the padding out.",
        )
    if kind == "batch_norm":
        if _is_folded(operator):
            return None
        return Misfit(
            "batch_norm",
            "A batch norm that is not folded into a convolution before it.",
            "Put it right behind a convolution without activation whose output "
            "nothing else uses, or take it out.",
        )
    if operator.name in ("Add", "Multiply", "Rescaling", "TFOpLambda"):
        return Misfit(
            "operator",
            f"{operator.name} with a constant, or of other than images.",
            "Scale and shift in the convolutions' own weights.",
        )
    return Misfit(
        "operator",
        f"{operator.name} does not run in the sparse kernels' layout, or is not known "
        "to.",
        _EXCITATION if kind == "reshape" or operator.name == "Dense" else _OPERATORS,
    )


def _depthwise(layer: Any) -> Misfit | None:
    sizes, strides = layer.kernel_size, layer.strides
    known = any(_square(sizes, n) for n in (3, 5))
    known = known and any(_square(strides, n) for n in (1, 2))
    if known and _square(layer.dilation_rate, 1) and layer.depth_multiplier == 1:
        return None
    return Misfit(
        "depthwise",
        f"A depthwise {_by(sizes)} convolution with strides {_by(strides)}, dilation "
        f"{_by(layer.dilation_rate)} and depth_multiplier={layer.depth_multiplier}.",
        "Use 3x3 or 5x5, strides 1 or 2, no dilation and depth_multiplier=1.",
    )


def _padding(operator: Operator) -> Misfit | None:
    """Returns what is amiss with the zeros around a square convolution's input."""
    layer, source = operator.layer, operator.inputs[0]
    n, strides = layer.kernel_size[0], layer.strides[0]
    need = _PADDINGS[n]
    mend = "Set padding='valid'."
    if need:
        mend = f"Put ZeroPadding2D({need}) in front and set padding='valid'."
    explicit: Padding = ((0, 0), (0, 0))
    if source.kind == "padding":
        explicit, source = _pairs(source.layer.padding), source.inputs[0]
    if strides > 1 and layer.padding == "same":
        # The runtime resolves it where the strides are 1 only.
        reason = "padding='same' with strides 2 is no padding of fixed size."
        return Misfit("padding", reason, mend)
    own = need if layer.padding == "same" else 0
    total = tuple((a + own, b + own) for a, b in explicit)
    if total != ((need, need),) * 2:
        reason = f"It is padded by {total}, not by {need} on each side."
        return Misfit("padding", reason, mend)
    if strides == 1:
        return None
    height, width = source.shape[1:3]
    if height is None or width is None:
        return Misfit(
            "padding",
            "The size of its input is not known, on which the padding depends.",
            "Build the model, and every model in it, with a fixed input size.",
        )
    if height % 2 and width % 2:
        # The converter sees that 'same' would pad alike, and writes that.
        return Misfit(
            "padding",
            f"With strides 2 on the odd size {height}x{width}, the padding becomes "
            "'same' in the converted model.",
            "Choose an input size such that every layer with strides 2 sees an even "
            "one, for instance a multiple of 32.",
        )
    if len(operator.inputs[0].consumers) > 1:
        return Misfit(
            "padding",
            "Its ZeroPadding2D is in front of other layers, too.",
            "Give each strided convolution a padding of its own.",
        )
    return None


def _is_folded(operator: Operator) -> bool:
    source = operator.inputs[0]
    if len(source.consumers) > 1 or source.is_output:
        return False
    if source.kind == "batch_norm":
        return _is_folded(source)
    return source.kind in ("conv", "depthwise")


def _is_plain(layer: Any) -> bool:
    return _square(layer.dilation_rate, 1) and layer.groups == 1


def _described(operator: Operator) -> str:
    layer = operator.layer
    text = f"a {_by(layer.kernel_size)} convolution with strides {_by(layer.strides)}"
    if operator.kind == "depthwise":
        return text.replace("a ", "a depthwise ", 1)
    if not _square(layer.dilation_rate, 1):
        text += f", dilation {_by(layer.dilation_rate)}"
    if layer.groups > 1:
        text += f", groups={layer.groups}"
    return text


def _square(sizes: Any, n: int) -> bool:
    return tuple(sizes) == (n, n)


def _by(sizes: Any) -> str:
    return "x".join(map(str, sizes))


def _pairs(padding: Any) -> Padding:
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)
