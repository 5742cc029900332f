"""From a plain Keras model to the bytes of a TFLite file."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from dpf_tf.export.errors import ExportError
from dpf_tf.export.samples import Sample

WEIGHTS = ("float32", "float16", "int8", "int8_full")


def convert(
    model: Any, weights: str, sparse: bool, calibration: list[Sample] | None
) -> bytes:
    """Converts a model.

    Args:
        model: a plain model whose inputs are known.
        weights: one of `WEIGHTS`.
        sparse: whether kernels with enough zeros are stored without them.
        calibration: for `"int8_full"`, inputs that show how large activations are; not
            for a model that knows it.

    Raises:
        ExportError: if TFLite's converter cannot do it.
    """
    # Only this way in: a SavedModel or concrete functions of a Keras 3 model give a
    # file whose outputs are NaN, without a word.
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = []
    if weights != "float32":
        converter.optimizations.append(tf.lite.Optimize.DEFAULT)
    if sparse:
        converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if calibration is not None:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: iter(calibration)
    try:
        with _quiet():
            return converter.convert()
    except Exception as error:  # The converter raises whatever its parts raise.
        raise ExportError(
            f"TFLite's converter cannot convert '{model.name}' to {weights}: "
            f"{_first_lines(error)}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the converter says of its inner steps from the user's screen."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _first_lines(error: Exception) -> str:
    """Returns the beginning of a message, without colours and places in the graph."""
    text = str(error)
    remedy = ""
    if "TensorList" in text:
        remedy = (
            " Build recurrent layers with `unroll=True`, or the model with a fixed "
            "batch: `keras.Input(shape, batch_size=1)`."
        )
    text = re.sub(r"\x1b\[\d*m|loc\(.*?\)+(?=:|\s|$)", "", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:400]}{remedy}"
