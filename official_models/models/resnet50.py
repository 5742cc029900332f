"""ResNet-50 for ImageNet, in the form called v1.5."""

from __future__ import annotations

from typing import Any

from official_models.models.blocks import Blocks
from official_models.models.resnet_cifar import bottleneck_block

_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # Planes, blocks.


def resnet50(blocks: Blocks, images: Any, classes: int) -> Any:
    """Returns the logits of ResNet-50 v1.5: the 3x3 convolutions have the strides.

    The last batch norm of each block starts with a gamma of 1, like all others (not of
    0, as in Goyal et al.).

    Args:
        blocks: makes the layers.
        images: symbolic tensor of shape `(batch, height, width, channels)`.
        classes: number of classes. With 1,000 there are 25,557,032 trainable
            parameters.

    Returns:
        Symbolic tensor of shape `(batch, classes)`.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build("resnet50", keras, classes=1000)
        >>> model.get_layer("stage4_block3_relu").output.shape
        (None, 7, 7, 2048)

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1;
        v1.5: Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1.
    """
    x = blocks.conv_bn_relu(images, 64, 7, 2, name="stem")
    x, _ = blocks.pad(x, 3, 2, "stem_pool")
    x = blocks.keras.layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for stage, (planes, count) in enumerate(_STAGES, 1):
        for i in range(1, count + 1):
            strides = 2 if stage > 1 and i == 1 else 1
            x = bottleneck_block(blocks, x, planes, strides, f"stage{stage}_block{i}")
    return blocks.logits(blocks.pool(x), classes)
