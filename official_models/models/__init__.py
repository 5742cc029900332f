"""The networks by name; each is built with the Keras that is handed in.

Example:

    >>> import keras
    >>> from official_models import models
    >>> model = models.build("resnet20", keras, classes=10)
    >>> model.output_shape
    (None, 10)
    >>> "wide_resnet28_2" in models.names()
    True
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from official_models.models import (
    convnet,
    densenet,
    lenet,
    mobilenet,
    resnet50,
    resnet_cifar,
    vgg,
    wide_resnet,
)
from official_models.models.blocks import Blocks

_CIFAR_SHAPE = (32, 32, 3)
_CIFAR: dict[str, Callable[..., Any]] = {
    "resnet8": functools.partial(resnet_cifar.basic, depth=8),
    "resnet20": functools.partial(resnet_cifar.basic, depth=20),
    "resnet32": functools.partial(resnet_cifar.basic, depth=32),
    "resnet44": functools.partial(resnet_cifar.basic, depth=44),
    "resnet56": functools.partial(resnet_cifar.basic, depth=56),
    "resnet110": functools.partial(resnet_cifar.basic, depth=110),
    "resnet44_bottleneck": functools.partial(resnet_cifar.bottleneck, depth=44),
    "resnet56_bottleneck": functools.partial(resnet_cifar.bottleneck, depth=56),
    "resnet110_bottleneck": functools.partial(resnet_cifar.bottleneck, depth=110),
    "wide_resnet28_2": functools.partial(wide_resnet.wide_resnet, depth=28, width=2),
    "wide_resnet28_4": functools.partial(wide_resnet.wide_resnet, depth=28, width=4),
    "wide_resnet28_8": functools.partial(wide_resnet.wide_resnet, depth=28, width=8),
    "densenet40_12": functools.partial(densenet.densenet, depth=40, growth=12),
    "vgg16_d": vgg.vgg16_d,
    "convnet": convnet.convnet,
    "lenet_300_100": lenet.lenet_300_100,
}
_IMAGENET_SHAPE = (224, 224, 3)
_IMAGENET: dict[str, Callable[..., Any]] = {
    "resnet50": resnet50.resnet50,
    "mobilenet_v1": mobilenet.mobilenet_v1,
    "mobilenet_v2": mobilenet.mobilenet_v2,
}
_BUILDERS = {**_CIFAR, **_IMAGENET}


def names() -> tuple[str, ...]:
    """Returns the names that `build` knows."""
    return tuple(_BUILDERS)


def build(
    name: str,
    keras: types.ModuleType,
    *,
    classes: int,
    input_shape: tuple[int, int, int] | None = None,
    weight_decay: float = 0.0,
    synchronized_batch_norm: bool = False,
) -> Any:
    """Builds one of the networks, with fresh weights.

    The initial weights follow from `keras.utils.set_random_seed`. Names of layers are
    the same in both Kerases.

    Args:
        name: one of `names()`.
        keras: the module to build with: `keras` or `tf_keras`.
        classes: number of classes.
        input_shape: height, width and channels of an image; `None` is (32, 32, 3) for
            the networks of CIFAR and (224, 224, 3) for those of ImageNet.
        weight_decay: factor of the decay as PyTorch counts it (it adds `weight_decay *
            w` to the gradient), on the kernels of convolutions and dense layers. Not
            decayed are biases, batch norm and depthwise kernels.
        synchronized_batch_norm: whether batch norm's statistics in training are those
            of the batch of all replicas.

    Returns:
        A functional model from images, channels last, to logits of shape `(batch,
        classes)`, in float32 under mixed precision too.

    Raises:
        ValueError: if there is no network of this name, or another argument is out of
            its range.

    Example:

        >>> import keras
        >>> from official_models import models
        >>> model = models.build(
        ...     "resnet8", keras, classes=10, input_shape=(28, 28, 1), weight_decay=1e-4
        ... )
        >>> model.get_layer("stage2_block1_conv1").strides
        (2, 2)
    """
    if name not in _BUILDERS:
        raise ValueError(
            f"`name` must be that of a network: {', '.join(names())}. "
            f"Received: name={name!r}"
        )
    if input_shape is None:
        input_shape = _CIFAR_SHAPE if name in _CIFAR else _IMAGENET_SHAPE
    if not (
        isinstance(input_shape, tuple | list)
        and len(input_shape) == 3
        and all(isinstance(size, int) and size > 0 for size in input_shape)
    ):
        raise ValueError(
            "`input_shape` must be height, width and channels of an image, for "
            f"instance {_CIFAR_SHAPE}. Received: input_shape={input_shape!r}"
        )
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(
            "`classes` must be the number of classes, for instance 10. "
            f"Received: classes={classes!r}"
        )
    blocks = Blocks(keras, weight_decay, synchronized_batch_norm)
    images = keras.Input(tuple(input_shape), name="images")
    logits = _BUILDERS[name](blocks, images, classes)
    return keras.Model(images, logits, name=name)
