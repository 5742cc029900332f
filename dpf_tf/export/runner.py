"""Runs TFLite files; a program of its own, which needs NumPy and ai_edge_litert only.

    python runner.py run model.tflite samples.npz outputs.npz [--without-delegates]
    python runner.py time samples.npz SECONDS model.tflite other.tflite ...

`run` gives the model every sample and writes its outputs; `time` takes the files in
turn, again and again. Both print one line of JSON. A file that kills the runtime kills
this process alone, its memory is measured in a fresh one, and on another machine (a
phone's processor, or its emulation) the same program runs.

`samples.npz` holds the arrays `"{index}/{input}"`, one for each sample and input of the
model's signature; `outputs.npz` holds `"{index}/{output}"`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from ai_edge_litert import interpreter as litert

Samples = list[dict[str, np.ndarray]]


class Model:
    """A file in the interpreter, with the names of its only signature.

    Args:
        path: the file.
        without_delegates: whether TFLite's own kernels are taken, not XNNPACK's.
    """

    def __init__(self, path: str, without_delegates: bool = False) -> None:
        kinds = litert.OpResolverType
        self.interpreter = litert.Interpreter(
            path,
            num_threads=1,
            experimental_op_resolver_type=(
                kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                if without_delegates
                else kinds.AUTO
            ),
        )
        runner = self.interpreter.get_signature_runner()
        self.inputs = runner.get_input_details()
        self.outputs = runner.get_output_details()
        self._shapes: dict[str, tuple[int, ...]] = {}

    def feed(self, sample: dict[str, np.ndarray]) -> None:
        """Sets the inputs."""
        if sorted(sample) != sorted(self.inputs):
            raise ValueError(
                f"The model's inputs are {sorted(self.inputs)}, the sample's "
                f"{sorted(sample)}."
            )
        shapes = {name: value.shape for name, value in sample.items()}
        if shapes != self._shapes:
            for name, shape in shapes.items():
                self.interpreter.resize_tensor_input(self.inputs[name]["index"], shape)
            self.interpreter.allocate_tensors()
            self._shapes = shapes
        for name, value in sample.items():
            self.interpreter.set_tensor(self.inputs[name]["index"], value)

    def run(self, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs for one sample."""
        self.feed(sample)
        self.interpreter.invoke()
        return {
            name: self.interpreter.get_tensor(details["index"])
            for name, details in self.outputs.items()
        }


def load(path: str) -> Samples:
    """Reads samples, or outputs."""
    found: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            index, _, name = key.partition("/")
            found.setdefault(int(index), {})[name] = arrays[key]
    return [found[index] for index in sorted(found)]


def save(path: str, samples: Samples) -> None:
    """Writes samples, or outputs."""
    arrays = {
        f"{i}/{name}": value
        for i, sample in enumerate(samples)
        for name, value in sample.items()
    }
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def memory(key: str) -> int | None:
    """Returns this process's memory in bytes; None where it is not told (not Linux)."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            lines = [line.split() for line in status]
    except OSError:
        return None
    return next((int(words[1]) * 1024 for words in lines if words[0] == key), None)


def run(path: str, samples: str, outputs: str, *flags: str) -> dict[str, Any]:
    """Runs a model on all samples, and returns what it took."""
    wanted = load(samples)
    before = memory("VmRSS:")
    model = Model(path, without_delegates="--without-delegates" in flags)
    first = model.run(wanted[0])
    peak = memory("VmHWM:")
    found = [first, *(model.run(sample) for sample in wanted[1:])]
    again = model.run(wanted[0])
    if any(not np.array_equal(first[x], again[x], equal_nan=True) for x in first):
        raise ValueError("the same sample gives other outputs later")
    save(outputs, found)
    known = before is not None and peak is not None
    return {"memory_bytes": peak - before if known else None}


def time_in_turn(samples: str, seconds: str, *paths: str) -> dict[str, Any]:
    """Times the models in turn, for so many seconds but in 5 rounds at least."""
    sample = load(samples)[0]
    models = [Model(path) for path in paths]
    for model in models:
        model.run(sample)
    rounds: list[list[float]] = []
    end = time.perf_counter() + float(seconds)
    while len(rounds) < 5 or (time.perf_counter() < end and len(rounds) < 1000):
        times = []
        for model in models:
            begin = time.perf_counter()
            model.interpreter.invoke()
            times.append(time.perf_counter() - begin)
        rounds.append(times)
    return {"seconds": [list(times) for times in zip(*rounds, strict=True)]}


def main(arguments: list[str]) -> None:
    """Runs what the command line asks for."""
    verb, *rest = arguments
    print(json.dumps(run(*rest) if verb == "run" else time_in_turn(*rest)))


if __name__ == "__main__":
    main(sys.argv[1:])
