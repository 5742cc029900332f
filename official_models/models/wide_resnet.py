"""Wide ResNets for CIFAR: batch norm and ReLU come before each convolution."""

from __future__ import annotations

from typing import Any

from official_models.models.blocks import Blocks


def wide_resnet(
    blocks: Blocks, images: Any, classes: int, *, depth: int, width: int
) -> Any:
    """Returns the logits of WRN-depth-width, without dropout.

    Args:
        blocks: makes the layers.
        images: symbolic tensor of shape `(batch, height, width, channels)`.
        classes: number of classes.
        depth: 6n + 4, for n blocks of two convolutions in each of the three stages.
        width: factor of the stages' 16, 32 and 64 channels. With 10 classes, WRN-28-2
            has 1,467,610 trainable parameters.

    Returns:
        Symbolic tensor of shape `(batch, classes)`.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build("wide_resnet28_2", keras, classes=10)
        >>> model.get_layer("stage3_block4_conv2").filters
        128

    References:
        Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016, section 2.
    """
    x = blocks.conv(images, 16, 3, name="stem")
    for stage, planes in enumerate((16, 32, 64), 1):
        for i in range(1, (depth - 4) // 6 + 1):
            strides = 2 if stage > 1 and i == 1 else 1
            x = _block(blocks, x, width * planes, strides, f"stage{stage}_block{i}")
    x = blocks.bn_relu(x, name="last")
    return blocks.logits(blocks.pool(x), classes)


def _block(blocks: Blocks, x: Any, filters: int, strides: int, name: str) -> Any:
    shortcut = x
    x = blocks.bn_relu(x, name=f"{name}_pre1")
    if strides > 1 or x.shape[-1] != filters:
        # It starts from the activated input, as the block itself does.
        shortcut = blocks.conv(x, filters, 1, strides, name=f"{name}_shortcut")
    x = blocks.conv(x, filters, 3, strides, name=f"{name}_conv1")
    x = blocks.bn_relu(x, name=f"{name}_pre2")
    x = blocks.conv(x, filters, 3, name=f"{name}_conv2")
    return blocks.keras.layers.Add(name=f"{name}_add")([x, shortcut])
