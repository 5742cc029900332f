"""Every model, form of weights, encoding and sparsity: a file or a reason.

    python -m benchmarks.export_matrix --out=benchmarks/results/export_matrix.json

Each cell is a call of `export_tflite`. What it wrote is run again here, on other
inputs, and compared with the model; a file that is wrong makes the cell a silent
failure. Cells that the JSON file holds are not done again, so that an interrupted run
goes on.
"""

from __future__ import annotations

import collections
import json
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np
from absl import app, flags
from ai_edge_litert.interpreter import Interpreter

import dpf_tf
from benchmarks import record
from benchmarks.phone_models import PHONE_MODELS, PhoneModel
from dpf_tf.export import candidates
from dpf_tf.export.conversion import WEIGHTS
from dpf_tf.export.encodings import ENCODINGS
from dpf_tf.export.parity import TOLERANCES

FLAGS = flags.FLAGS
flags.DEFINE_list("models", list(PHONE_MODELS), "Which models.")
flags.DEFINE_list("sparsities", ["0", "0.5", "0.9", "0.98"], "Shares of zeros.")
flags.DEFINE_string(
    "out", "benchmarks/results/export_matrix.json", "The JSON file to write."
)


class Conversions:
    """Converts each model once for all encodings that are asked of it."""

    def __init__(self) -> None:
        self._convert = candidates.convert
        self._files: dict[tuple[Any, ...], bytes] = {}

    def __call__(
        self, model: Any, weights: str, sparse: bool, calibration: Any
    ) -> bytes:
        key = (id(model), weights, sparse)
        if key not in self._files:
            self._files[key] = self._convert(model, weights, sparse, calibration)
        return self._files[key]

    def clear(self) -> None:
        self._files.clear()


def cell(
    chosen: PhoneModel, model: Any, weights: str, encoding: str, folder: str
) -> dict[str, Any]:
    """Returns what became of one call."""
    path = pathlib.Path(folder, "model.tflite")
    calibration = chosen.inputs(model, 32, seed=2) if weights == "int8_full" else None
    try:
        report = dpf_tf.export_tflite(
            model,
            path,
            encoding,
            weights,
            calibration,
            samples=chosen.inputs(model, 4, seed=0),
        )
    except dpf_tf.ExportError as error:
        outcome = "refused" if not path.exists() else "silent failure"
        return {"outcome": outcome, "reason": str(error)}
    off = difference(path, model, chosen.inputs(model, 4, seed=3))
    good = off <= 1.5 * TOLERANCES[weights]  # The inputs are others; NaN fails too.
    return {
        "outcome": "file" if good else "silent failure",
        "taken": report["encoding"],
        "files": report["files"],
        "bound_bytes": report["bound_bytes"],
        "ratios": report["ratios"],
        "latency": report["latency"],
        "max_relative_error": report["parity"]["max_relative_error"],
        "error_on_other_inputs": off,
    }


def difference(path: pathlib.Path, model: Any, inputs: np.ndarray) -> float:
    """Returns the largest difference of file and model, relative to the outputs."""
    wanted = np.asarray(model(inputs, training=False))
    runner = Interpreter(str(path)).get_signature_runner()
    (name,) = runner.get_input_details()
    found = [next(iter(runner(**{name: x[None]}).values())) for x in inputs]
    return float(np.abs(np.concatenate(found) - wanted).max() / np.abs(wanted).max())


def main(_: list[str]) -> None:
    out = pathlib.Path(FLAGS.out)
    done = json.loads(out.read_text())["cells"] if out.exists() else {}
    candidates.convert = conversions = Conversions()
    for name in FLAGS.models:
        for sparsity in map(float, FLAGS.sparsities):
            keys = {
                f"{name}, {weights}, {encoding}, {sparsity:g}": (weights, encoding)
                for weights in WEIGHTS
                for encoding in ENCODINGS
            }
            if set(keys) <= set(done):
                continue
            model = PHONE_MODELS[name].pruned(keras, sparsity)
            for key, (weights, encoding) in keys.items():
                if key in done:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    done[key] = cell(
                        PHONE_MODELS[name], model, weights, encoding, folder
                    )
                print(f"{key}: {done[key]['outcome']}", flush=True)
                totals = collections.Counter(each["outcome"] for each in done.values())
                record.write(out, {"outcomes": dict(totals), "cells": done})
            conversions.clear()
            keras.backend.clear_session()


if __name__ == "__main__":
    app.run(main)
