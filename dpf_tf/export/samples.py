"""The inputs on which an exported file is compared with its model.

A sample is a dict from the name of an input to an array with a batch of one (or of the
size that the model is fixed to).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf import prunable

Sample = dict[str, np.ndarray]
MADE = 8


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a model; `shape` with the batch, `None` where it varies."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype

    @property
    def batch(self) -> int:
        """How many examples are given at a time."""
        return self.shape[0] or 1


class Inputs:
    """The inputs of a model, by name.

    Args:
        model: a model whose `inputs` are known.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        # A tensor, a list or a dict, as the model is called. (The `input` of a
        # Sequential of Keras 3 is that of its last call, as part of another model.)
        tensors = model.inputs[0]
        if len(model.inputs) > 1 or isinstance(getattr(model, "input", None), dict):
            tensors = model.input
        self._names = tf.nest.map_structure(_name, tensors)
        self.all = [
            Input(_name(t), tuple(t.shape), np.dtype(_dtype(t)))
            for t in tf.nest.flatten(tensors)
        ]
        for x in self.all:
            if x.dtype.kind not in "fiub":
                raise ValueError(
                    f"Input '{x.name}' holds {x.dtype}, not numbers. Export the part "
                    "of the model that follows the preprocessing of text."
                )

    def call(self, sample: Sample) -> Any:
        """Returns the model's outputs for a sample, as the model arranges them."""
        given = tf.nest.map_structure(
            lambda name: tf.convert_to_tensor(sample[name]), self._names
        )
        return self.model(given, training=False)

    def make(self, count: int = MADE) -> list[Sample]:
        """Makes samples: normal numbers; integers below the smallest vocabulary.

        Without an embedding, 8-bit integers are images (0 to 255), others 0 or 1.

        Raises:
            ValueError: if a shape or type leaves open what a sample is.
        """
        rng = np.random.default_rng(0)
        tables = [
            x
            for x in prunable.all_layers(self.model)
            if type(x).__name__ == "Embedding"
        ]
        vocabulary = min((table.input_dim for table in tables), default=None)
        return [
            {x.name: self._make(x, vocabulary, rng) for x in self.all}
            for _ in range(count)
        ]

    def _make(
        self, spec: Input, vocabulary: int | None, rng: np.random.Generator
    ) -> np.ndarray:
        shape = (spec.batch, *spec.shape[1:])
        if None in shape:
            raise ValueError(
                f"Samples of input '{spec.name}' (shape {spec.shape}, {spec.dtype}) "
                "cannot be made. Give some: `export_tflite(..., samples=arrays)`."
            )
        sizes = [int(n) for n in shape if n is not None]
        if spec.dtype.kind == "f":
            return rng.normal(size=sizes).astype(spec.dtype)
        upper = vocabulary or (256 if spec.dtype == np.uint8 else 2)
        if spec.dtype.kind == "b":
            upper = 2
        return rng.integers(0, upper, sizes).astype(spec.dtype)

    def read(self, given: Any, name: str, limit: int) -> list[Sample]:
        """Takes samples out of what a user gives, `limit` at most.

        Args:
            given: an array, a list or dict of arrays (one for each input), or batches:
                a `tf.data.Dataset`, a generator or a function that makes one, with
                labels or without.
            name: the argument, for messages.
            limit: after so many the rest is not read.

        Raises:
            ValueError: if what was given does not fit the model's inputs.
        """
        if callable(given):
            given = given()
        batches: Iterable[Any]
        one_each = (
            isinstance(given, list | tuple)
            and len(self.all) == len(given) > 1
            and not isinstance(given[0], dict | list | tuple)
        )
        if isinstance(given, tuple) and not one_each:
            raise ValueError(
                self._refusal(name, "a tuple; if it holds labels, leave them out")
            )
        if one_each or isinstance(given, np.ndarray | tf.Tensor | dict):
            batches = [given]
        elif isinstance(given, Iterable):
            batches = given
        else:
            raise ValueError(self._refusal(name, type(given).__name__))
        found = list(
            itertools.islice(
                (sample for batch in batches for sample in self._split(batch, name)),
                limit,
            )
        )
        if not found:
            size = self.all[0].batch
            raise ValueError(
                f"`{name}` holds no samples of the model's inputs"
                + (f", which takes {size} at a time." if size > 1 else ".")
            )
        return found

    def _split(self, batch: Any, name: str) -> Iterator[Sample]:
        arrays = self._arrays(batch, name)
        size = self.all[0].batch
        for begin in range(0, len(arrays[0]) - size + 1, size):
            yield {
                x.name: np.ascontiguousarray(array[begin : begin + size], x.dtype)
                for x, array in zip(self.all, arrays, strict=True)
            }

    def _arrays(self, batch: Any, name: str) -> list[np.ndarray]:
        """Returns one array for each input, without labels."""
        inputs = batch
        if isinstance(inputs, tuple | list) and len(inputs) != len(self.all):
            inputs = inputs[0] if inputs else []  # (inputs, labels), weights too.
        elif isinstance(inputs, tuple | list) and isinstance(
            inputs[0], dict | tuple | list
        ):
            inputs = inputs[0]  # Two inputs, and labels.
        if isinstance(inputs, dict):
            if set(inputs) != {x.name for x in self.all}:
                raise ValueError(self._refusal(name, f"inputs {sorted(inputs)}"))
            inputs = [inputs[x.name] for x in self.all]
        elif not isinstance(inputs, tuple | list):
            inputs = [inputs]
        arrays = [np.asarray(array) for array in inputs]
        if not self._fit(arrays):
            found = ", ".join(f"{array.shape} {array.dtype}" for array in arrays)
            raise ValueError(self._refusal(name, f"arrays {found}"))
        return arrays

    def _fit(self, arrays: list[np.ndarray]) -> bool:
        if len(arrays) != len(self.all):
            return False
        if len({len(a) if a.ndim else 0 for a in arrays}) != 1:
            return False
        return all(
            array.ndim == len(x.shape)
            and all(
                n in (None, m)
                for n, m in zip(x.shape[1:], array.shape[1:], strict=True)
            )
            and np.can_cast(array.dtype, x.dtype, "same_kind")
            for x, array in zip(self.all, arrays, strict=True)
        )

    def _refusal(self, name: str, received: str) -> str:
        wanted = ", ".join(f"'{x.name}' {x.shape} {x.dtype}" for x in self.all)
        return (
            f"`{name}` must hold batches of the model's inputs: {wanted}. Give an "
            "array, a list or dict of arrays, or a data set of batches. "
            f"Received: {received}"
        )


def _name(tensor: Any) -> str:
    # tf_keras names its symbolic tensors after the layer, too.
    return tensor.name.partition(":")[0]


def _dtype(tensor: Any) -> str:
    return tf.as_dtype(tensor.dtype).as_numpy_dtype
