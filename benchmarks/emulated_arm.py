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
import sys
import tempfile
from typing import Any

import keras
from absl import app, flags

import dpf_tf
from benchmarks import record
from benchmarks.phone_models import PHONE_MODELS, PhoneModel
from dpf_tf.export.conversion import convert
from dpf_tf.export.parity import TOLERANCES, Reference
from dpf_tf.export.runtime import Runtime, median_ratio
from dpf_tf.export.samples import Inputs
from official_models import models

FLAGS = flags.FLAGS
flags.DEFINE_string("arm", None, "Folder made by tools/aarch64_root.sh.", required=True)
flags.DEFINE_list(
    "models",
    ["mobilenet_v1", "mobilenet_v2", "resnet20", "keras.applications.MobileNet"],
    "Which models.",
)
flags.DEFINE_list("weights", ["float32", "float16"], "Which forms of weights.")
flags.DEFINE_float("sparsity", 0.9, "Share of zeros.")
flags.DEFINE_string(
    "out", "benchmarks/results/emulated_arm.json", "The JSON file to write."
)


def measure(name: str, weights: str) -> dict[str, Any]:
    """Runs one model's dense and sparse file, and returns what was seen."""
    chosen = PHONE_MODELS[name]
    model = chosen.pruned(keras, FLAGS.sparsity)
    samples = Inputs(model).read(chosen.inputs(model, 2, seed=0), "samples", 2)
    reference = Reference(Inputs(model), samples)
    files, here, there = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(folder, samples, arm_python())
        for encoding in ("dense", "sparse"):
            file = pathlib.Path(folder, f"{encoding}.tflite")
            report = dpf_tf.export_tflite(
                model, file, encoding, weights, tolerance=2 * TOLERANCES[weights]
            )
            here[encoding] = report["parity"]["max_relative_error"]["by default"]
            outputs, _ = runtime.run(file, without_delegates=False)
            there[encoding] = reference.difference(outputs)
            files.append(file)
        dense, sparse, again = runtime.time([*files, files[0]], seconds=0)
    return {
        "model": name,
        "weights": weights,
        "max_relative_error": there,
        "max_relative_error_on_x86": here,
        "fits": dpf_tf.check_xnnpack_sparse(model)["fits"],
        "agrees": max(there.values())
        <= max(TOLERANCES[weights], 2 * max(here.values())),
        "emulated_seconds": {
            "dense": statistics.median(dense),
            "sparse": statistics.median(sparse),
            "dense again": statistics.median(again),
        },
        "dense_to_sparse": median_ratio(dense, sparse),
        "dense_to_dense_again": median_ratio(dense, again),
    }


def wrong_numbers() -> dict[str, Any]:
    """Returns what a sparse file that `export_tflite` refuses computes on ARM.

    At 100x100 pixels, a layer with strides sees an odd size.
    """
    keras.utils.set_random_seed(0)
    chosen = PhoneModel(
        lambda k: models.build("mobilenet_v1", k, classes=10, input_shape=(100, 100, 3))
    )
    model = chosen.pruned(keras, FLAGS.sparsity)
    samples = Inputs(model).read(chosen.inputs(model, 2, seed=0), "samples", 2)
    reference = Reference(Inputs(model), samples)
    result: dict[str, Any] = {"model": "mobilenet_v1, 100x100 pixels"}
    with tempfile.TemporaryDirectory() as folder:
        for encoding in ("dense", "sparse"):
            file = pathlib.Path(folder, f"{encoding}.tflite")
            file.write_bytes(convert(model, "float32", encoding == "sparse", None))
            for name, python in (("x86", sys.executable), ("arm", arm_python())):
                outputs, _ = Runtime(folder, samples, python).run(file, False)
                result[f"{encoding}_on_{name}"] = reference.difference(outputs)
        try:
            dpf_tf.export_tflite(model, file, "sparse")
        except dpf_tf.ExportError as error:
            result["refused"] = str(error)
    return result


def arm_python() -> str:
    return str(pathlib.Path(FLAGS.arm, "python"))


def check(results: list[dict[str, Any]], wrong: dict[str, Any]) -> None:
    """Fails if a file is wrong, or a model that fits does not go the sparse way."""
    for result in results:
        assert result["agrees"], result
        assert not result["fits"] or result["dense_to_sparse"] >= 3, result
    assert "refused" in wrong, wrong


def main(_: list[str]) -> None:
    results: list[dict[str, Any]] = []
    wrong = wrong_numbers()
    print(wrong, flush=True)
    for name in FLAGS.models:
        for weights in FLAGS.weights:
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
                | {"results": results, "wrong_numbers": wrong},
            )
    check(results, wrong)


if __name__ == "__main__":
    app.run(main)
