"""VGG for CIFAR: convolutions in a row, with batch norm."""

from __future__ import annotations

from typing import Any

from official_models.models.blocks import Blocks

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # Filters, convolutions.


def vgg16_d(blocks: Blocks, images: Any, classes: int) -> Any:
    """Returns the logits of VGG16 (column D), with two dense layers of 512 units.

    Args:
        blocks: makes the layers.
        images: symbolic tensor of shape `(batch, height, width, channels)`.
        classes: number of classes. With 10, and images of 32 x 32, there are 15,250,378
            trainable parameters; larger images make the first dense layer larger.

    Returns:
        Symbolic tensor of shape `(batch, classes)`.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build("vgg16_d", keras, classes=10)
        >>> model.get_layer("stage5_pool").output.shape
        (None, 1, 1, 512)

    References:
        Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
        Recognition", ICLR 2015, table 1, column D; for CIFAR, with batch norm and
        narrow dense layers: Lee et al., "SNIP", ICLR 2019, section 5 (VGG-D).
    """
    layers = blocks.keras.layers
    x = images
    for stage, (filters, convolutions) in enumerate(_STAGES, 1):
        for i in range(1, convolutions + 1):
            x = blocks.conv_bn_relu(x, filters, 3, name=f"stage{stage}_conv{i}")
        # "same" rounds up, so that images of 28 x 28 outlast all five.
        x = layers.MaxPooling2D(2, padding="same", name=f"stage{stage}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = blocks.dense_bn_relu(x, 512, name="dense1")
    x = blocks.dense_bn_relu(x, 512, name="dense2")
    return blocks.logits(x, classes)
