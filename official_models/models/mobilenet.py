"""MobileNets: depthwise convolutions, then 1x1 ones, which hold nearly all weights.

Both have the form that the sparse kernels of phones take: with strides, an explicit and
symmetric padding; ReLU6; global average pooling, and nothing but a dense layer after
it.
"""

from __future__ import annotations

from typing import Any

from official_models.models.blocks import Blocks

_V1 = (  # Filters and strides of each pair of convolutions.
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
_V2 = (  # Expansion, filters, blocks, strides of the first block.
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v1(blocks: Blocks, images: Any, classes: int) -> Any:
    """Returns the logits of MobileNet 1.0, with ReLU6.

    Args:
        blocks: makes the layers.
        images: symbolic tensor of shape `(batch, height, width, channels)`.
        classes: number of classes. With 1,000 there are 4,231,976 trainable parameters.

    Returns:
        Symbolic tensor of shape `(batch, classes)`.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build("mobilenet_v1", keras, classes=1000)
        >>> model.get_layer("block13_pointwise").output.shape
        (None, 7, 7, 1024)

    References:
        Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile
        Vision Applications", 2017, table 1.
    """
    x = _relu6(blocks, blocks.conv_bn(images, 32, 3, 2, name="stem"), "stem")
    for i, (filters, strides) in enumerate(_V1, 1):
        x = _depthwise(blocks, x, strides, f"block{i}_depthwise")
        x = _pointwise(blocks, x, filters, f"block{i}_pointwise")
    return blocks.logits(blocks.pool(x), classes)


def mobilenet_v2(blocks: Blocks, images: Any, classes: int) -> Any:
    """Returns the logits of MobileNetV2 1.0.

    Args:
        blocks: makes the layers.
        images: symbolic tensor of shape `(batch, height, width, channels)`.
        classes: number of classes. With 1,000 there are 3,504,872 trainable parameters.

    Returns:
        Symbolic tensor of shape `(batch, classes)`.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build("mobilenet_v2", keras, classes=1000)
        >>> model.get_layer("head").output.shape
        (None, 7, 7, 1280)

    References:
        Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR
        2018, table 2.
    """
    x = _relu6(blocks, blocks.conv_bn(images, 32, 3, 2, name="stem"), "stem")
    for stage, (expansion, filters, count, first) in enumerate(_V2, 1):
        for i in range(1, count + 1):
            strides = first if i == 1 else 1
            name = f"stage{stage}_block{i}"
            x = _inverted_residual(blocks, x, expansion, filters, strides, name)
    x = _pointwise(blocks, x, 1280, "head")
    return blocks.logits(blocks.pool(x), classes)


def _relu6(blocks: Blocks, x: Any, name: str) -> Any:
    return blocks.relu(x, name=name, ceiling=6.0)


def _depthwise(blocks: Blocks, x: Any, strides: int, name: str) -> Any:
    x = blocks.depthwise(x, 3, strides, name=name)
    return _relu6(blocks, blocks.bn(x, name=name), name)


def _pointwise(blocks: Blocks, x: Any, filters: int, name: str) -> Any:
    return _relu6(blocks, blocks.conv_bn(x, filters, 1, name=name), name)


def _inverted_residual(
    blocks: Blocks, x: Any, expansion: int, filters: int, strides: int, name: str
) -> Any:
    shortcut = x
    if expansion > 1:
        x = _pointwise(blocks, x, expansion * x.shape[-1], f"{name}_expand")
    x = _depthwise(blocks, x, strides, f"{name}_depthwise")
    x = blocks.conv_bn(x, filters, 1, name=f"{name}_project")
    if strides == 1 and shortcut.shape[-1] == filters:
        x = blocks.keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return x
