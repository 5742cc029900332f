"""Whether a file computes what its model computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf.export.errors import ExportError
from dpf_tf.export.samples import Inputs, Sample

# Largest difference, relative to the largest output.
TOLERANCES = {"float32": 1e-5, "float16": 1e-3, "int8": 2e-2, "int8_full": 5e-2}

Outputs = list[dict[str, np.ndarray]]


class Reference:
    """The outputs of the Keras model, and the comparison with them.

    Args:
        model: a plain model.
        inputs: its inputs.
        samples: what it is given.

    Raises:
        ExportError: if an output is NaN or infinite.
    """

    def __init__(self, model: Any, inputs: Inputs, samples: list[Sample]) -> None:
        results = [inputs.call(model, sample) for sample in samples]
        self._names = _names(results[0], model)
        self._outputs = [
            [np.asarray(output) for output in tf.nest.flatten(result)]
            for result in results
        ]
        for name, *values in zip(self._names, *self._outputs, strict=True):
            if not all(_finite(value) for value in values):
                raise ExportError(
                    f"The Keras model itself gives NaN or infinity (output '{name}') "
                    "on the samples."
                )

    @property
    def is_constant(self) -> bool:
        """Whether all outputs are the same for all samples: then they prove little."""
        first, *others = self._outputs
        return bool(others) and all(
            np.allclose(a, b, rtol=1e-6, atol=1e-12)
            for other in others
            for a, b in zip(first, other, strict=True)
        )

    def difference(self, outputs: Outputs) -> float:
        """Returns the largest difference, relative to the output's scale.

        The scale of an output is its largest absolute value over all samples. Of an
        output of whole numbers, it is the share of those that differ.

        Raises:
            ExportError: if the outputs are others, or one of them is not finite.
        """
        keys = _in_order(list(outputs[0]), self._names)
        differences = []
        for position, key in enumerate(keys):
            found = np.stack([output[key] for output in outputs])
            wanted = np.stack([output[position] for output in self._outputs])
            if found.shape != wanted.shape:
                raise ExportError(
                    f"output '{key}' has the shape {found.shape[1:]}, the model's "
                    f"has {wanted.shape[1:]}"
                )
            if not _finite(found):
                raise ExportError(f"output '{key}' is NaN or infinite")
            differences.append(_relative(found, wanted))
        return max(differences)


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    if wanted.dtype.kind != "f":
        return float(np.mean(found != wanted))
    difference = np.abs(found.astype(np.float64) - wanted).max(initial=0.0)
    scale = np.abs(wanted).max(initial=0.0)
    return float(difference / scale if scale > 0 else difference)


def _finite(value: np.ndarray) -> bool:
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _names(result: Any, model: Any) -> list[str]:
    """Returns the names of the outputs, in the order of `tf.nest.flatten`."""
    if isinstance(result, dict):
        return sorted(result)
    count = len(tf.nest.flatten(result))
    names = list(getattr(model, "output_names", None) or [])
    return names if len(names) == count else [f"output_{i}" for i in range(count)]


def _in_order(keys: list[str], names: list[str]) -> list[str]:
    """Returns the file's output names in the order of the model's outputs."""
    numbered = [f"output_{i}" for i in range(len(names))]
    if sorted(keys) == sorted(names):
        return names
    if sorted(keys) == sorted(numbered):  # As Keras 3 calls them.
        return numbered
    if len(keys) == len(names) == 1:
        return keys
    raise ExportError(f"the outputs are {sorted(keys)}, the model's {sorted(names)}")
