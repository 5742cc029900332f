"""Exported files on a 64-bit ARM, emulated: they load, agree, and go the sparse way.

    bash tools/aarch64_root.sh FOLDER
    python -m benchmarks.emulated_arm --arm=FOLDER

Each model is exported dense and sparse (90 % of the weights of every kernel but the
depthwise ones are zero) and run by the aarch64 build of the runtime in qemu-user. The
emulation's times say one thing only: whether the path for sparse convolutions is taken.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
from typing import Any

import keras
from absl import app, flags

import dpf_tf
from benchmarks import record
from benchmarks.phone_models import PHONE_MODELS
from dpf_tf.export.parity import TOLERANCES, Reference
from dpf_tf.export.runtime import Runtime
from dpf_tf.export.samples import Inputs

FLAGS = flags.FLAGS
flags.DEFINE_string("arm", None, "Folder made by tools/aarch64_root.sh.", required=True)
flags.DEFINE_list(
    "models",
    ["mobilenet_v1", "mobilenet_v2", "resnet20", "keras.applications.MobileNet"],
    "Which models.",
)
flags.DEFINE_float("sparsity", 0.9, "Share of zeros.")
flags.DEFINE_string(
    "out", "benchmarks/results/emulated_arm.json", "The JSON file to write."
)


def measure(name: str, weights: str) -> dict[str, Any]:
    """Runs one model's dense and sparse file, and returns what was seen."""
    chosen = PHONE_MODELS[name]
    model = chosen.pruned(keras, FLAGS.sparsity)
    samples = Inputs(model).read(chosen.inputs(model, 2, seed=0), "samples", 2)
    reference = Reference(model, Inputs(model), samples)
    files, errors = [], {}
    with tempfile.TemporaryDirectory() as folder:
        python = str(pathlib.Path(FLAGS.arm, "python"))
        runtime = Runtime(folder, samples, python)
        for encoding in ("dense", "sparse"):
            file = pathlib.Path(folder, f"{encoding}.tflite")
            dpf_tf.export_tflite(model, file, encoding, weights)
            outputs, _ = runtime.run(file, without_delegates=False)
            errors[encoding] = reference.difference(outputs)
            files.append(file)
        dense, sparse, again = runtime.time([*files, files[0]], seconds=0)
    return {
        "model": name,
        "weights": weights,
        "max_relative_error": errors,
        "agrees": max(errors.values()) <= TOLERANCES[weights],
        "emulated_seconds": {
            "dense": statistics.median(dense),
            "sparse": statistics.median(sparse),
            "dense again": statistics.median(again),
        },
        "dense_to_sparse": statistics.median(
            a / b for a, b in zip(dense, sparse, strict=True)
        ),
        "dense_to_dense_again": statistics.median(
            a / b for a, b in zip(dense, again, strict=True)
        ),
    }


def main(_: list[str]) -> None:
    results = []
    for name in FLAGS.models:
        for weights in ("float32", "float16"):
            result = measure(name, weights)
            results.append(result)
            print(
                f"{name}, {weights}: dense / sparse {result['dense_to_sparse']:.2f} "
                f"(emulated), agrees: {result['agrees']}",
                flush=True,
            )
            record.write(
                FLAGS.out,
                {"processor": "cortex-a76, emulated", "sparsity": FLAGS.sparsity}
                | {"results": results},
            )


if __name__ == "__main__":
    app.run(main)
