"""ResNets for CIFAR: three stages of residual blocks, 16 to 64 channels wide.

Where the shape changes, the shortcut is a 1x1 convolution with batch norm (He et al.'s
option B). "ResNet-56" names two networks: He et al.'s is of basic blocks, that of the
authors of DPF of as many bottleneck blocks. Their sizes are near, their accuracy is
not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from official_models.models.blocks import Blocks


def basic(blocks: Blocks, images: Any, classes: int, *, depth: int) -> Any:
    """Returns the logits of He et al.'s ResNet: `(depth - 2) / 6` blocks per stage.

    Args:
        blocks: makes the layers.
        images: symbolic tensor of shape `(batch, height, width, channels)`.
        classes: number of classes.
        depth: 6n + 2. With 10 classes, ResNet-20 has 272,474 trainable parameters,
            ResNet-56 855,770 and ResNet-110 1,730,714.

    Returns:
        Symbolic tensor of shape `(batch, classes)`.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build("resnet20", keras, classes=10)
        >>> sum(int(weight.numpy().size) for weight in model.trainable_weights)
        272474

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
        section 4.2.
    """
    return _resnet(blocks, images, classes, depth, _basic_block)


def bottleneck(blocks: Blocks, images: Any, classes: int, *, depth: int) -> Any:
    """Returns the logits of the ResNet of DPF's authors, of bottleneck blocks.

    A stage has `(depth - 2) / 6` of them, as if they were basic ones. (Each has three
    convolutions, so the network is deeper than its name says.)

    `models.build` offers depths 44, 56 and 110 of it: as far as the authors' published
    code is known, it takes bottlenecks from depth 44 on, and basic blocks below.

    Args:
        blocks: makes the layers.
        images: symbolic tensor of shape `(batch, height, width, channels)`.
        classes: number of classes.
        depth: 6n + 2. With 10 classes, depth 56 has 869,530 trainable parameters.

    Returns:
        Symbolic tensor of shape `(batch, classes)`.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build("resnet56_bottleneck", keras, classes=10)
        >>> model.get_layer("stage3_block9_conv3").filters
        256

    References:
        The block: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
        section 4.1; the network: Lin et al., "Dynamic Model Pruning with Feedback",
        ICLR 2020.
    """
    return _resnet(blocks, images, classes, depth, bottleneck_block)


def _basic_block(blocks: Blocks, x: Any, planes: int, strides: int, name: str) -> Any:
    shortcut = _shortcut(blocks, x, planes, strides, name)
    x = blocks.conv_bn_relu(x, planes, 3, strides, name=f"{name}_conv1")
    x = blocks.conv_bn(x, planes, 3, name=f"{name}_conv2")
    return blocks.add_relu(x, shortcut, name=name)


def bottleneck_block(
    blocks: Blocks, x: Any, planes: int, strides: int, name: str
) -> Any:
    """Applies a block of 1x1, 3x3 (with the strides) and 1x1 convolutions."""
    shortcut = _shortcut(blocks, x, 4 * planes, strides, name)
    x = blocks.conv_bn_relu(x, planes, 1, name=f"{name}_conv1")
    x = blocks.conv_bn_relu(x, planes, 3, strides, name=f"{name}_conv2")
    x = blocks.conv_bn(x, 4 * planes, 1, name=f"{name}_conv3")
    return blocks.add_relu(x, shortcut, name=name)


def _shortcut(blocks: Blocks, x: Any, channels: int, strides: int, name: str) -> Any:
    if strides == 1 and x.shape[-1] == channels:
        return x
    return blocks.conv_bn(x, channels, 1, strides, name=f"{name}_shortcut")


def _resnet(
    blocks: Blocks, images: Any, classes: int, depth: int, block: Callable[..., Any]
) -> Any:
    x = blocks.conv_bn_relu(images, 16, 3, name="stem")
    for stage, planes in enumerate((16, 32, 64), 1):
        for i in range(1, (depth - 2) // 6 + 1):
            strides = 2 if stage > 1 and i == 1 else 1
            x = block(blocks, x, planes, strides, f"stage{stage}_block{i}")
    return blocks.logits(blocks.pool(x), classes)
