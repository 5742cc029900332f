"""DenseNets for CIFAR: each convolution sees the outputs of all before it."""

from __future__ import annotations

from typing import Any

from official_models.models.blocks import Blocks


def densenet(
    blocks: Blocks, images: Any, classes: int, *, depth: int, growth: int
) -> Any:
    """Returns the logits of the plain DenseNet: no bottleneck, no compression.

    Args:
        blocks: makes the layers.
        images: symbolic tensor of shape `(batch, height, width, channels)`.
        classes: number of classes.
        depth: 3n + 4, for n convolutions in each of the three stages.
        growth: channels that a convolution adds. With 10 classes, DenseNet-40-12 has
            1,019,722 trainable parameters.

    Returns:
        Symbolic tensor of shape `(batch, classes)`.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build("densenet40_12", keras, classes=10)
        >>> model.get_layer("last_relu").output.shape
        (None, 8, 8, 448)

    References:
        Huang et al., "Densely Connected Convolutional Networks", CVPR 2017,
        section 3.
    """
    layers = blocks.keras.layers
    x = blocks.conv(images, 16, 3, name="stem")
    for stage in (1, 2, 3):
        for i in range(1, (depth - 4) // 3 + 1):
            name = f"stage{stage}_conv{i}"
            new = blocks.bn_relu(x, name=name)
            new = blocks.conv(new, growth, 3, name=name)
            x = layers.Concatenate(name=f"{name}_concat")([x, new])
        if stage < 3:
            name = f"transition{stage}"
            x = blocks.bn_relu(x, name=name)
            x = blocks.conv(x, x.shape[-1], 1, name=name)
            x = layers.AveragePooling2D(2, name=f"{name}_pool")(x)
    x = blocks.bn_relu(x, name="last")
    return blocks.logits(blocks.pool(x), classes)
