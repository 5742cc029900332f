"""Models that benchmarks share. Each builder takes the Keras module to build with."""

from __future__ import annotations

import types
from typing import Any


def resnet20(keras: types.ModuleType) -> Any:
    """Returns ResNet-20 for CIFAR: three stages of three basic blocks, 0.27 M weights.

    Inputs are images of shape (32, 32, 3), outputs the logits of 10 classes. Where the
    width changes, the shortcut is a 1x1 convolution.

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
        section 4.2.
    """
    layers = keras.layers

    def conv_bn(x: Any, filters: int, size: int, strides: int = 1) -> Any:
        x = layers.Conv2D(
            filters,
            size,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(5e-5),
        )(x)
        return layers.BatchNormalization()(x)

    def block(x: Any, filters: int, strides: int) -> Any:
        shortcut = x
        if x.shape[-1] != filters:
            shortcut = conv_bn(x, filters, 1, strides)
        x = layers.ReLU()(conv_bn(x, filters, 3, strides))
        x = conv_bn(x, filters, 3)
        return layers.ReLU()(layers.Add()([x, shortcut]))

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(conv_bn(inputs, 16, 3))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        x = block(x, filters, strides)
        x = block(x, filters, 1)
        x = block(x, filters, 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x), name="resnet20")
