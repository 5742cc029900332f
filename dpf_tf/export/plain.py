"""The model that is converted: stripped, in float32, with inputs that are known."""

from __future__ import annotations

from typing import Any

from dpf_tf import copies, keras_api, prunable
from dpf_tf.graph import wrappers
from dpf_tf.strip import strip_pruning

_HALVES = ("float16", "bfloat16")


def plain_model(model: Any) -> Any:
    """Returns a model without dpf_tf in it, whose layers compute in float32.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if its inputs are not known, or it cannot be stripped.
    """
    api = keras_api.require(model, "a model of Keras 3 or tf_keras")
    if not isinstance(model, api.module.Model):
        raise TypeError(
            "`model` must be a model, not a layer: `keras.Sequential([keras.Input(...),"
            f" layer])` makes one. Received: {model!r}"
        )
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"The inputs of '{model.name}' ({type(model).__name__}) are not known: it "
            "is subclassed, or not built. Give `keras.Model(inputs, model(inputs))`, "
            "with `inputs = keras.Input(shape)`."
        )
    if wrappers(model):
        model = strip_pruning(model)
    if any(is_half(layer) for layer in prunable.all_layers(model)):
        model = _in_float32(model)
    if isinstance(getattr(model, "input", None), dict) and api is keras_api.KERAS3:
        # The converter calls the model with a list.
        model = api.module.Model(list(model.inputs), model.output, name=model.name)
    return model


def is_half(layer: Any) -> bool:
    """Tells whether a layer computes in half precision."""
    return layer.compute_dtype in _HALVES


def _in_float32(model: Any) -> Any:
    """Returns a copy whose layers compute in float32; TFLite has no float16 layers."""

    def make(layer: Any) -> Any:
        try:
            return type(layer).from_config(_float32(layer.get_config()))
        except Exception as error:
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) computes in half "
                f"precision and cannot be made anew in float32: {error} Build the "
                "model without mixed precision, carry the weights over "
                "(`float32_model.set_weights(model.get_weights())`), and export that."
            ) from error

    policies = keras_api.of(model).module.mixed_precision
    before = policies.global_policy()
    policies.set_global_policy("float32")  # A config may leave the dtype to it.
    try:
        return copies.copy_model(model, "export", make, copies.copy_state)
    finally:
        policies.set_global_policy(before)


def _float32(config: Any) -> Any:
    """Returns a layer's config with float32 for its dtype, and its sublayers'."""
    if isinstance(config, dict):
        return {
            key: "float32" if key == "dtype" and _is_mixed(value) else _float32(value)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [_float32(item) for item in config]
    return config


def _is_mixed(dtype: Any) -> bool:
    if isinstance(dtype, dict):  # A policy's config.
        dtype = dtype.get("config", {}).get("name")
    return isinstance(dtype, str) and (dtype.startswith("mixed_") or dtype in _HALVES)
