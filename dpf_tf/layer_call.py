"""How layers are called: wrapped ones by their names, traced ones without the trace."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf import keras_api, prunable


@contextlib.contextmanager
def untraced(model: Any) -> Iterator[None]:
    """Runs in Python the layers whose `call` is a `tf.function`.

    A traced call goes on with what it found in its layers when it was traced.
    """
    eagerly = tf.config.functions_run_eagerly()
    calls = (layer.call for layer in prunable.all_layers(model))
    if any(hasattr(call, "get_concrete_function") for call in calls):
        tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(eagerly)


def by_name(
    layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Passes the first argument by position and the others by the layer's names.

    The wrapper's own `call` has another name for the first one. And in a second
    positional argument tf_keras would see `training`, which it looks for by its place.
    """
    names = [
        name
        for name, parameter in inspect.signature(layer.call).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if not args and names and names[0] in kwargs:
        args = (kwargs.pop(names[0]),)
    named = dict(zip(names[1:], args[1:], strict=False))
    if len(args) > len(names) or named.keys() & kwargs.keys():
        return args, kwargs
    return args[:1], {**named, **kwargs}


@tf.autograph.experimental.do_not_convert
def taken(layer: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments without a mask that the layer does not take.

    tf_keras gives the mask of the inputs to every `call` with `**kwargs`: the
    wrapper's.
    """
    parameters = inspect.signature(layer.call).parameters
    if "mask" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    ):
        return kwargs
    return {name: value for name, value in kwargs.items() if name != "mask"}


def build(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Builds a layer as Keras would: by a call, on symbolic inputs.

    Composite layers and attention make their kernels only then, and a wrapper's own
    `build` sees the first input's shape alone.
    """
    keras = keras_api.of(layer).module

    def symbolic(x: Any) -> Any:
        if isinstance(x, np.ndarray):  # Of which tf_keras's question would fail.
            return keras.Input(batch_shape=x.shape, dtype=x.dtype.name)
        # tf_keras's question fails of a bool, too.
        if not hasattr(x, "shape") or keras.backend.is_keras_tensor(x):
            return x
        return keras.Input(batch_shape=tuple(x.shape), dtype=x.dtype)

    args, kwargs = tf.nest.map_structure(symbolic, (args, dict(kwargs)))
    layer(*args, **kwargs)
