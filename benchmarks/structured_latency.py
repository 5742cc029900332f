"""What structures save: latency, memory, file and work in stock TFLite on this machine.

    python -m benchmarks.structured_latency \
        --out=benchmarks/results/structured_latency.json

The models are not trained (what an operator costs does not depend on its values); half
of the filters, or the smallest blocks, are taken by magnitude, in all layers alike. The
files of the dense and of the pruned model are run in turn, with one thread, in a fresh
process; the time of a pruned one is compared with the dense one's of the same round.
The dense file is loaded a second time, too: its distance from 1 is what a ratio is
worth.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import app, flags

import dpf_tf
from benchmarks import record
from dpf_tf.export import runtime
from official_models import models

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "JSON file for the results; without it, only printed.")
flags.DEFINE_float("seconds", 20.0, "For how long each pair of files is timed.")
flags.DEFINE_list("cases", None, "Which cases. Default: all.")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and what is pruned of it.

    Attributes:
        build: makes the dense model.
        structure: what is pruned as one.
        sparsity: share of it.
        layers: which kernels, where it is not the default.
        constants: whether pruned channels leave constants behind, as trained ones do
            that are not silenced.
        target: the least ratio of times that is expected, if one is.
        memory_target: the largest ratio of memory, likewise.
    """

    build: Callable[[], Any]
    structure: Any
    sparsity: float = 0.5
    layers: str | None = None
    constants: bool = False
    target: float | None = None
    memory_target: float | None = None


def resnet20() -> Any:
    """Returns ResNet-20 for CIFAR-10."""
    return models.build("resnet20", keras, classes=10)


def mobilenet() -> Any:
    """Returns MobileNetV1 for ImageNet."""
    return models.build("mobilenet_v1", keras, classes=1000)


def dense() -> Any:
    """Returns four dense layers of 2048 units, the last one pruned as well."""
    layers = [keras.layers.Dense(2048, "relu", name=f"dense{i}") for i in range(4)]
    return keras.Sequential([keras.Input((2048,), name="features"), *layers])


INNER = dpf_tf.Filters(keep_residual=True)
CASES = {
    "ResNet-20, inner filters": Case(resnet20, INNER, target=1.5),
    "ResNet-20, inner filters, constants left": Case(resnet20, INNER, constants=True),
    "ResNet-20, all widths": Case(resnet20, dpf_tf.Filters(), target=2.5),
    "ResNet-20, all widths, constants left": Case(
        resnet20, dpf_tf.Filters(), constants=True
    ),
    "MobileNetV1, all widths": Case(mobilenet, dpf_tf.Filters(), target=3.0),
    "MobileNetV1, all widths, constants left": Case(
        mobilenet, dpf_tf.Filters(), constants=True
    ),
    "4 x Dense 2048, 1x4 blocks": Case(
        dense, dpf_tf.Block(1, 4), 0.9, "dense", target=3.0, memory_target=0.12
    ),
    "4 x Dense 2048, 2 of 4": Case(dense, dpf_tf.NofM(2, 4), 0.5, "dense"),
    "ResNet-20, 1x4 blocks in convolutions": Case(
        resnet20, dpf_tf.Block(1, 4), 0.9, "stage"
    ),
}


def leave_constants(model: Any) -> None:
    """Gives batch norm shifts, such that pruned channels are not zero behind it."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.beta.assign(rng.uniform(0.05, 0.5, layer.beta.shape))


def measure(case: Case, seconds: float) -> dict[str, Any]:
    """Returns the ratios of a pruned model to the dense one, and both sizes."""
    keras.utils.set_random_seed(0)
    model, structure = case.build(), case.structure
    if case.constants:
        leave_constants(model)
        structure = dataclasses.replace(structure, silent=False)
    pruned = dpf_tf.magnitude_prune(
        model,
        case.sparsity,
        structure,
        allocation="uniform",
        layers=case.layers,
    )
    small = pruned
    if isinstance(structure, dpf_tf.Filters):
        small = dpf_tf.shrink(pruned)
    rng = np.random.default_rng(0)
    shape = (4, *model.inputs[0].shape[1:])
    inputs = rng.normal(size=shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder, f"{name}.tflite") for name in ("dense", "small")]
        reports = [
            dpf_tf.export_tflite(model, files[0], "dense", samples=inputs),
            dpf_tf.export_tflite(small, files[1], samples=inputs),
        ]
        timed = runtime.Runtime(folder, [{_input(files[0]): inputs[:1]}])
        first, again, times = timed.time([files[0], files[0], files[1]], seconds)
    found = [report["files"][report["encoding"]] for report in reports]
    return {
        "sparsity": case.sparsity,
        "structure": str(structure),
        "encoding": reports[1]["encoding"],
        "rounds": len(first),
        "dense_ms": 1e3 * statistics.median(first),
        "pruned_ms": 1e3 * statistics.median(times),
        "dense_to_pruned": ratios(first, times),
        "dense_to_dense_again": ratios(first, again),
        "memory": found[1]["memory_bytes"] / found[0]["memory_bytes"],
        "bytes": [file["bytes"] for file in found],
        "parameters": [model.count_params(), small.count_params()],
        "macs": [dpf_tf.count_macs(each).dense for each in (model, small)],
        "target": case.target,
        "memory_target": case.memory_target,
    }


def ratios(times: list[float], others: list[float]) -> dict[str, Any]:
    """Returns the median and the quartiles of ratios of times taken in turn."""
    found = [a / b for a, b in zip(times, others, strict=True)]
    lower, median, upper = statistics.quantiles(found)
    return {"median": median, "quartiles": [lower, upper]}


def _input(file: pathlib.Path) -> str:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(file)).get_signature_runner()
    (name,) = runner.get_input_details()
    return name


def main(_: list[str]) -> None:
    cases = {}
    for name in FLAGS.cases or CASES:
        cases[name] = found = measure(CASES[name], FLAGS.seconds)
        print(
            f"{name}: {found['dense_to_pruned']['median']:.2f} times as fast (dense "
            f"again {found['dense_to_dense_again']['median']:.2f}), "
            f"{found['memory']:.3f} of the memory",
            flush=True,
        )
        keras.backend.clear_session()
    if FLAGS.out:
        record.write(FLAGS.out, {"threads": 1, "cases": cases})


if __name__ == "__main__":
    app.run(main)
