"""Whether a file computes what its model computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf import keras_api
from dpf_tf.export.errors import ExportError
from dpf_tf.export.samples import Inputs, Sample

# Largest difference, relative to the largest output.
TOLERANCES = {"float32": 1e-5, "float16": 1e-3, "int8": 2e-2, "int8_full": 5e-2}

Outputs = list[dict[str, np.ndarray]]


class Reference:
    """The outputs of the Keras model, and the comparison with them.

    Args:
        inputs: those of a plain model.
        samples: what it is given.

    Raises:
        ExportError: if an output is NaN or infinite.
    """

    def __init__(self, inputs: Inputs, samples: list[Sample]) -> None:
        results = _called(inputs, samples)
        self._inputs, self._samples = inputs, samples
        self._names = _names(results[0], inputs.model)
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
            a.shape == b.shape and _Difference().add(a, b).relative < 1e-6
            for other in others
            for a, b in zip(first, other, strict=True)
        )

    def check(self, inputs: Inputs, tolerance: float) -> None:
        """Holds the model that was given to compute what its plain copy does.

        Args:
            inputs: those of the model that was given.
            tolerance: the largest relative difference that is accepted.

        Raises:
            ExportError: if it does not.
        """
        names = [x.name for x in self._inputs.all]
        own = [x.name for x in inputs.all]
        if sorted(own) == sorted(names):
            own = names
        renamed = [  # A copy's unnamed inputs get other names.
            {new: sample[old] for old, new in zip(names, own, strict=True)}
            for sample in self._samples
        ]
        found = [
            [np.asarray(output, np.float32) for output in tf.nest.flatten(result)]
            for result in _called(inputs, renamed)
        ]
        if not all(_finite(output) for outputs in found for output in outputs):
            raise ExportError(
                "The Keras model itself gives NaN or infinity on the samples, in the "
                "precision that it computes in; its plain copy in float32 does not."
            )
        difference = self._largest(found)
        if not difference <= tolerance:  # NaN fails here too.
            raise ExportError(
                "The model's plain copy in float32, which was to be converted, "
                f"computes something else (a difference of {difference:.2e} of the "
                "outputs' scale): some layer has state that its config and weights do "
                "not hold. Build the model plain and in float32 yourself, and export "
                "that."
            )

    def difference(self, outputs: Outputs) -> float:
        """Returns the largest difference, relative to the output's scale.

        The scale of an output is its largest absolute value over all samples. Of an
        output of whole numbers, it is the share of those that differ.

        Raises:
            ExportError: if the outputs are others, or one of them is not finite.
        """
        keys = _in_order(list(outputs[0]), self._names)
        for output, wanted in zip(outputs, self._outputs, strict=True):
            for key, value in zip(keys, wanted, strict=True):
                if output[key].shape != value.shape:
                    raise ExportError(
                        f"output '{key}' has the shape {output[key].shape}, the "
                        f"model's has {value.shape}"
                    )
                if not _finite(output[key]):
                    raise ExportError(f"output '{key}' is NaN or infinite")
        return self._largest([[output[key] for key in keys] for output in outputs])

    def _largest(self, outputs: list[list[np.ndarray]]) -> float:
        differences = [_Difference() for _ in self._names]
        for found, wanted in zip(outputs, self._outputs, strict=True):
            for difference, a, b in zip(differences, found, wanted, strict=True):
                difference.add(a, b)
        return max(difference.relative for difference in differences)


class _Difference:
    """The difference of one output, over samples that may differ in length."""

    def __init__(self) -> None:
        self._largest = self._scale = 0.0
        self._other = self._count = 0

    def add(self, found: np.ndarray, wanted: np.ndarray) -> _Difference:
        self._count += wanted.size
        if wanted.dtype.kind == "f":
            off = np.abs(found.astype(np.float64) - wanted).max(initial=0.0)
            self._largest = float(np.maximum(self._largest, off))  # NaN stays NaN.
            self._scale = max(self._scale, float(np.abs(wanted).max(initial=0.0)))
        else:
            self._other += int(np.sum(found != wanted))
        return self

    @property
    def relative(self) -> float:
        if self._other:
            return self._other / self._count
        return self._largest / self._scale if self._scale > 0 else self._largest


def _called(inputs: Inputs, samples: list[Sample]) -> list[Any]:
    try:
        return [inputs.call(sample) for sample in samples]
    except Exception as error:
        raise ExportError(
            f"The Keras model itself fails on the samples: {error}"
        ) from error


def _finite(value: np.ndarray) -> bool:
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _names(result: Any, model: Any) -> list[str]:
    """Returns the file's names of the outputs, in the order of `tf.nest.flatten`."""
    count = len(tf.nest.flatten(result))
    if isinstance(result, dict) and keras_api.of(model) is keras_api.KERAS3:
        names = sorted(result)
    else:
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
