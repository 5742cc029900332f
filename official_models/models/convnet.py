"""A small convolutional network, for comparisons that two cores can carry."""

from __future__ import annotations

from typing import Any

from official_models.models.blocks import Blocks


def convnet(blocks: Blocks, images: Any, classes: int) -> Any:
    """Returns the logits of four convolutions with batch norm.

    Args:
        blocks: makes the layers.
        images: symbolic tensor of shape `(batch, height, width, channels)`.
        classes: number of classes. With 10, and grey images of 28 x 28, there are
            61,306 trainable parameters, of which the convolutions have 60,304.

    Returns:
        Symbolic tensor of shape `(batch, classes)`.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build(
        ...     "convnet", keras, classes=10, input_shape=(28, 28, 1)
        ... )
        >>> model.get_layer("conv4").output.shape
        (None, 4, 4, 64)

    References:
        Ours.
    """
    x = blocks.conv_bn_relu(images, 16, 5, 2, name="conv1")
    x = blocks.conv_bn_relu(x, 32, 3, 2, name="conv2")
    x = blocks.conv_bn_relu(x, 64, 3, 2, name="conv3")
    x = blocks.conv_bn_relu(x, 64, 3, name="conv4")
    return blocks.logits(blocks.pool(x), classes)
