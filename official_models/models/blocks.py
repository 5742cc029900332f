"""The layers that the networks share: made with one Keras, one decay, one batch norm.

Every method applies a layer, or a short row of them, to a tensor. The layers of a row
are named alike: `"stage1_block1_conv1"` (the convolution), `"stage1_block1_conv1_bn"`,
`"stage1_block1_conv1_relu"`.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Makes layers that agree in what all layers of a network agree in.

    Args:
        keras: the module to build with: `keras` or `tf_keras`.
        weight_decay: decay of kernels as PyTorch counts it, not negative.
        synchronized_batch_norm: whether batch norm sees the batch of all replicas.

    Raises:
        ValueError: if `weight_decay` is negative.

    Example:

        >>> import keras
        >>> from official_models.models.blocks import Blocks
        >>> blocks = Blocks(keras, weight_decay=1e-4)
        >>> images = keras.Input((32, 32, 3))
        >>> blocks.conv_bn(images, 16, 3, strides=2, name="stem").shape
        (None, 16, 16, 16)

    References:
        He et al., "Delving Deep into Rectifiers", ICCV 2015, section 2.2: the initial
        kernels, in the form that keeps the gradient's variance (`fan_out`).
    """

    keras: types.ModuleType
    weight_decay: float = 0.0
    synchronized_batch_norm: bool = False

    def __post_init__(self) -> None:
        if not self.weight_decay >= 0:  # NaN fails here too.
            raise ValueError(
                "`weight_decay` must be 0 or more, for instance 1e-4. "
                f"Received: weight_decay={self.weight_decay!r}"
            )

    def _initializer(self) -> Any:
        # A new one for each layer: a shared one gives equal kernels in Keras 3.
        return self.keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        )

    def _regularizer(self) -> Any:
        # PyTorch's decay adds d * w to the gradient, Keras's L2(c) adds 2 * c * w.
        if self.weight_decay == 0:
            return None
        return self.keras.regularizers.L2(self.weight_decay / 2)

    def pad(self, x: Any, size: int, strides: int, name: str) -> tuple[Any, str]:
        """Returns the tensor and the `padding` with which a window of `size` follows.

        With strides, Keras's "same" pads even sizes on one side only; here both sides
        are padded alike, as in PyTorch (and as phones' sparse kernels ask for).
        """
        if strides == 1:
            return x, "same"
        if size > 1:
            padding = self.keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")
            x = padding(x)
        return x, "valid"

    def conv(
        self, x: Any, filters: int, size: int, strides: int = 1, *, name: str
    ) -> Any:
        """Applies a convolution without bias."""
        x, padding = self.pad(x, size, strides, name)
        return self.keras.layers.Conv2D(
            filters,
            size,
            strides,
            padding=padding,
            use_bias=False,
            kernel_initializer=self._initializer(),
            kernel_regularizer=self._regularizer(),
            name=name,
        )(x)

    def depthwise(self, x: Any, size: int, strides: int = 1, *, name: str) -> Any:
        """Applies a depthwise convolution without bias.

        Its kernel is not decayed: "little or no weight decay on the depthwise filters
        since there are so few parameters in them" (Howard et al., section 3.2).
        """
        x, padding = self.pad(x, size, strides, name)
        return self.keras.layers.DepthwiseConv2D(
            size,
            strides,
            padding=padding,
            use_bias=False,
            depthwise_initializer=self._initializer(),
            name=name,
        )(x)

    def bn(self, x: Any, *, name: str) -> Any:
        """Applies batch norm with PyTorch's memory and epsilon."""
        return self.keras.layers.BatchNormalization(
            momentum=0.9,
            epsilon=1e-5,
            synchronized=self.synchronized_batch_norm,
            name=f"{name}_bn",
        )(x)

    def relu(self, x: Any, *, name: str, ceiling: float | None = None) -> Any:
        """Applies ReLU, cut off at `ceiling` if there is one."""
        return self.keras.layers.ReLU(max_value=ceiling, name=f"{name}_relu")(x)

    def bn_relu(self, x: Any, *, name: str) -> Any:
        """Applies batch norm and ReLU."""
        return self.relu(self.bn(x, name=name), name=name)

    def conv_bn(
        self, x: Any, filters: int, size: int, strides: int = 1, *, name: str
    ) -> Any:
        """Applies a convolution and batch norm."""
        return self.bn(self.conv(x, filters, size, strides, name=name), name=name)

    def conv_bn_relu(
        self, x: Any, filters: int, size: int, strides: int = 1, *, name: str
    ) -> Any:
        """Applies a convolution, batch norm and ReLU."""
        return self.relu(self.conv_bn(x, filters, size, strides, name=name), name=name)

    def add_relu(self, x: Any, shortcut: Any, *, name: str) -> Any:
        """Adds the shortcut of a residual block, and applies ReLU."""
        x = self.keras.layers.Add(name=f"{name}_add")([x, shortcut])
        return self.relu(x, name=name)

    def dense_bn_relu(self, x: Any, units: int, *, name: str) -> Any:
        """Applies a dense layer without bias, batch norm and ReLU."""
        start = self._initializer()
        x = self._dense(x, units, use_bias=False, kernel_initializer=start, name=name)
        return self.bn_relu(x, name=name)

    def dense_relu(self, x: Any, units: int, *, name: str) -> Any:
        """Applies a dense layer and ReLU: without batch norm, by the inputs' number."""
        start = self.keras.initializers.HeNormal()
        x = self._dense(x, units, kernel_initializer=start, name=name)
        return self.relu(x, name=name)

    def pool(self, x: Any) -> Any:
        """Averages over all positions: one vector for each image."""
        return self.keras.layers.GlobalAveragePooling2D(name="pool")(x)

    def logits(self, x: Any, classes: int) -> Any:
        """Applies the last layer, in float32 under mixed precision too."""
        return self._dense(x, classes, dtype="float32", name="logits")

    def _dense(self, x: Any, units: int, **options: Any) -> Any:
        return self.keras.layers.Dense(
            units, kernel_regularizer=self._regularizer(), **options
        )(x)
