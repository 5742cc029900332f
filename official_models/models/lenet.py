"""LeNet-300-100, a network without batch norm."""

from __future__ import annotations

from typing import Any

from official_models.models.blocks import Blocks


def lenet_300_100(blocks: Blocks, images: Any, classes: int) -> Any:
    """Returns the logits of two dense layers, of 300 and 100 units, with ReLU.

    Args:
        blocks: makes the layers.
        images: symbolic tensor of shape `(batch, height, width, channels)`.
        classes: number of classes. With 10, and grey images of 28 x 28, there are
            266,610 trainable parameters.

    Returns:
        Symbolic tensor of shape `(batch, classes)`.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build(
        ...     "lenet_300_100", keras, classes=10, input_shape=(28, 28, 1)
        ... )
        >>> model.count_params()
        266610

    References:
        LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998,
        section III.C; with ReLU, as it is pruned since Han et al., "Learning both
        Weights and Connections for Efficient Neural Networks", NeurIPS 2015, table 3.
    """
    x = blocks.keras.layers.Flatten(name="flatten")(images)
    x = blocks.dense_relu(x, 300, name="dense1")
    x = blocks.dense_relu(x, 100, name="dense2")
    return blocks.logits(x, classes)
