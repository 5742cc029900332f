"""Quantization-aware training of a sparse model, which keeps its zeros.

TFMOT simulates 8 bits in training. Here each of its weight quantizers notes which
weights of its kernel are zero, and puts the zeros back in before it quantizes: what was
pruned has no effect and no gradient.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from dpf_tf import keras_api, prunable
from dpf_tf.export.plain import is_half
from dpf_tf.graph import is_graph, walk, wrappers
from dpf_tf.strip import strip_pruning

# Not in TFMOT's registry: its layout takes them together with other layers.
_TAKEN = {"InputLayer", "BatchNormalization", "SeparableConv1D", "SeparableConv2D"}
_ACTIVATIONS = {"gelu", "linear", "relu", "sigmoid", "softmax", "swish", "tanh"}
_INSTEAD = (
    "Change the model, or quantize it after training: "
    '`dpf_tf.export_tflite(model, path, weights="int8")`.'
)


def quantization_aware(model: Any) -> Any:
    """Returns a copy of a sparse tf_keras model that learns to compute in 8 bits.

    Compile it, `fit` it, and export it: `export_tflite(..., weights="int8_full")`. All
    weights of kernels that are zero now stay zero, in training and in the file. The
    rest is TFMOT's default scheme: ranges of activations start at -6 to 6 and move by a
    thousandth a step (plan some hundred steps), names of layers begin with `quant_`,
    and frozen kernels are trained. A dense layer before batch norm or with
    `activation="swish"` is float32 in the file.

    To go on later, save the weights, and load them into `quantization_aware` of the
    same sparse model. A whole model (h5 or SavedModel; `.keras` fails), loaded under
    `tfmot.quantization.keras.quantize_scope()`, can be converted, but would lose its
    zeros in training: TFMOT does not save what keeps them.

    Args:
        model: a functional or Sequential model of tf_keras: stripped (a pruned one is
            stripped first), built, without mixed precision.

    Returns:
        A new model of the same name, not compiled. `model` stays as it is.

    Raises:
        TypeError: if `model` is of Keras 3, which TFMOT does not know, or of neither.
        ValueError: if `model` is not as described above, no kernel has zeros, or TFMOT
            cannot quantize some layers, which are named.

    Example:

        >>> import dpf_tf
        >>> import numpy as np
        >>> import tf_keras
        >>> sparse = tf_keras.Sequential([tf_keras.Input((2,)),
        ...                               tf_keras.layers.Dense(2, name="dense")])
        >>> sparse.set_weights([np.diag([0.3, 0.7]), np.zeros(2)])
        >>> model = dpf_tf.quantization_aware(sparse)
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(np.ones((8, 2)), np.ones((8, 2)), verbose=0)
        >>> model.get_layer("quant_dense").get_weights()[0] != 0
        array([[ True, False],
               [False,  True]])

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", CVPR 2018. The masks: TFMOT's
        `Default8BitPrunePreserveQuantizeScheme`, which omits depthwise kernels, and
        those of a layer before a ReLU layer or a `Concatenate`.
    """
    _check(model)
    if wrappers(model):
        model = strip_pruning(model)
    tfmot = _import_tfmot().quantization.keras
    scheme = _KeepZeros(tfmot.default_8bit.Default8BitQuantizeScheme())
    unknown = [x for x in model.layers if not scheme.knows(x)]
    if unknown:
        named = ", ".join(f"'{x.name}' ({type(x).__name__})" for x in unknown)
        raise ValueError(
            f"TFMOT cannot quantize these layers, or their activations: {named}. "
            f"{_INSTEAD}"
        )
    kernels = [k for _, x in walk(model) for k in prunable.kernels(x, frozen=True)]
    if all(tf.reduce_all(kernel.variable != 0) for kernel in kernels):
        raise ValueError(
            f"No kernel of '{model.name}' has zeros to keep. Prune the model first, "
            "for instance by `dpf_tf.prune_low_magnitude_dpf(model, 0.9)`."
        )
    try:
        return tfmot.quantize_apply(tfmot.quantize_annotate_model(model), scheme)
    except (RuntimeError, ValueError) as error:
        message = f"TFMOT cannot quantize '{model.name}': {error} {_INSTEAD}"
        raise ValueError(message) from error


def _check(model: Any) -> None:
    if keras_api.require(model) is keras_api.KERAS3:
        raise TypeError(
            f"'{model.name}' is of Keras 3, and TFMOT knows tf_keras only. Quantize it "
            'after training: `dpf_tf.export_tflite(model, path, weights="int8")`. Or '
            "build the same model with tf_keras and carry the weights over: "
            "`tf_keras_model.set_weights(model.get_weights())`."
        )
    if not is_graph(model) or not type(model).__module__.startswith("tf_keras."):
        raise ValueError(
            f"'{model.name}' ({type(model).__name__}) must be a functional or "
            "Sequential model of tf_keras: no other can be cloned with other layers."
        )
    if not model.built:
        raise ValueError(
            f"'{model.name}' has no weights yet. Call `model.build(input_shape)`."
        )
    low = [path for path, x in walk(model) if is_half(x)]
    if low:
        raise ValueError(
            f"These layers compute in half precision: {low}. Build the same model "
            "without mixed precision and carry the weights over: "
            "`float32_model.set_weights(model.get_weights())`."
        )


def _import_tfmot() -> Any:
    """Returns TFMOT, and leaves the user's `tf.keras` and environment as they are."""
    _ = tf.keras.layers  # Resolved now: TFMOT would have made it Keras 2.
    name = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(name)
    try:
        import tensorflow_model_optimization
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
    return tensorflow_model_optimization


class _Masked:
    """A weight quantizer of TFMOT that puts the kernel's zeros back in first."""

    def __init__(self, quantizer: Any) -> None:
        self._quantizer = quantizer

    def build(self, shape: Any, name: str, wrapper: Any) -> dict[str, Any]:
        kept = tf.not_equal(getattr(wrapper.layer, name), 0)
        return {**self._quantizer.build(shape, name, wrapper), "kept": kept}

    def __call__(self, kernel: Any, training: Any, weights: Any, **options: Any) -> Any:
        sparse = tf.where(weights["kept"], kernel, 0.0)
        return self._quantizer(sparse, training, weights, **options)


class _KeepZeros:
    """TFMOT's scheme; its layout transformer adds the masks."""

    def __init__(self, scheme: Any) -> None:
        self.get_quantize_registry = scheme.get_quantize_registry
        self._layout = scheme.get_layout_transformer()

    def get_layout_transformer(self) -> _KeepZeros:
        return self

    def knows(self, layer: Any) -> bool:
        """Tells whether TFMOT knows a layer; batch norm also needs the right place."""
        if type(layer).__name__ in _TAKEN:
            return True
        if isinstance(layer, keras_api.TF_KERAS.module.layers.RNN):
            return False  # In the registry, but unproven: its kernels lie in a cell.
        activation = getattr(layer, "activation", None)
        name = getattr(activation, "__name__", None)
        known = activation is None or name in _ACTIVATIONS
        return known and self.get_quantize_registry().supports(layer)

    def apply(self, model: Any, configs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Returns a model in TFMOT's layout, and how to quantize its layers."""
        model, configs = self._layout.apply(model, configs)
        for layer in model.layers:
            registry = self.get_quantize_registry()  # One for all would share configs.
            if not registry.supports(layer):
                continue
            config = registry.get_quantize_config(layer)
            if not getattr(config, "weight_attrs", None):
                continue
            given = configs[layer.name]["quantize_config"]
            if hasattr(given, "weight_attrs"):
                config = given
            elif given is not None:
                # Before a ReLU layer, TFMOT means to quantize nothing in between, but
                # takes the kernel's quantizer away as well.
                config.activation_attrs = []
            config.weight_quantizer = _Masked(config.weight_quantizer)
            configs[layer.name]["quantize_config"] = config
        return model, configs
