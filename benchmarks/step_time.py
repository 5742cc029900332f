"""What pruning adds to training: time, graph and memory, beside dense training.

    python -m benchmarks.step_time --out=benchmarks/results/step_time.json

ResNet-20 on random images of CIFAR's shape, float32, SGD with Nesterov momentum, with
Keras 3 and with tf_keras. The arms: dense; dense once more, a model of its own, whose
distance from 1 shows what a ratio is worth here; DPF at 90 %, with a mask update every
16 steps; and, with tf_keras, TFMOT's magnitude pruning at the same sparsity and
frequency. All arms run in one process, in turn, each round in another order.

A machine that others share changes its speed from minute to minute, so times are
compared within a round: the result is the median of the rounds' ratios to dense, with
its quartiles. The fastest round of each arm is noted too.
"""

from __future__ import annotations

import gc
import importlib
import random
import statistics
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import app, flags

import dpf_tf
from benchmarks import record
from official_models import models

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "JSON file for the results; without it, only printed.")
flags.DEFINE_multi_enum(
    "keras", ["keras", "tf_keras"], ["keras", "tf_keras"], "Which Kerases to measure."
)
flags.DEFINE_multi_integer("batch", [128, 8], "Batch sizes for the time of a step.")
flags.DEFINE_integer("rounds", 20, "Rounds of all arms in turn.", lower_bound=1)
flags.DEFINE_integer(
    "steps", 16, "Timed steps of an arm in a round; below batch 32, four times as many."
)
flags.DEFINE_integer("fresh", 4, "Fresh models for the time of the first step.", 1)
flags.register_validator(
    "steps",
    lambda steps: steps > 0 and steps % FREQUENCY == 0,
    "must be a multiple of 16, the steps between two mask updates",
)

SPARSITY = 0.9
FREQUENCY = 16
# Steps at the start of a round that are not timed: a fit may trace its step anew.
WARM_UP = 4
TARGETS = {
    "step_time": {"128": 1.02, "8": 1.10},
    "first_step": 1.5,
    "graph_operations": 1.5,
    "extra_bytes_per_prunable_weight": 1.01,
}


class Subject(NamedTuple):
    """A compiled model under test, and the callbacks of its training."""

    model: Any
    callbacks: Callable[[], list[Any]]
    prunable: int  # How many weights its scheme can prune.


def resnet20(keras: types.ModuleType) -> Any:
    return models.build("resnet20", keras, classes=10, weight_decay=1e-4)


def dense(keras: types.ModuleType) -> Subject:
    return Subject(resnet20(keras), list, 0)


def dpf(keras: types.ModuleType) -> Subject:
    schedule = dpf_tf.ConstantSparsity(SPARSITY, frequency=FREQUENCY)
    model = dpf_tf.prune_low_magnitude_dpf(resnet20(keras), schedule)
    prunable = sum(mask.size for mask in dpf_tf.get_masks(model).values())
    # Nothing is settled: masks are updated in every round as in the midst of training.
    return Subject(model, lambda: [dpf_tf.PruningCallback(settle=0)], prunable)


def tfmot(keras: types.ModuleType) -> Subject:
    # Imported here, after Keras: its import sets TF_USE_LEGACY_KERAS.
    sparsity = importlib.import_module("tensorflow_model_optimization").sparsity.keras
    schedule = sparsity.ConstantSparsity(SPARSITY, 0, frequency=FREQUENCY)
    model = sparsity.prune_low_magnitude(resnet20(keras), schedule)
    prunable = sum(
        int(np.prod(weight.shape))
        for layer in model.layers
        for weight in getattr(layer, "prunable_weights", [])
    )
    return Subject(model, lambda: [sparsity.UpdatePruningStep()], prunable)


ARMS = {
    "keras": {"dense": dense, "dense_again": dense, "dpf": dpf},
    "tf_keras": {"dense": dense, "dense_again": dense, "dpf": dpf, "tfmot": tfmot},
}


def build(keras: types.ModuleType, arm: Callable[..., Subject]) -> Subject:
    subject = arm(keras)
    subject.model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return subject


def random_batches(batch: int, steps: int) -> tf.data.Dataset:
    """Returns one random batch, again and again: input costs next to nothing."""
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, 32, 32, 3), "float32")
    return tf.data.Dataset.from_tensors((x, random.integers(0, 10, batch))).repeat(
        steps
    )


def stopwatch(keras: Any, steps: int) -> Any:
    """Returns a callback that times `steps` steps after the warm-up; for every arm.

    It looks only at the beginnings of batches: a callback that looks at their ends
    would make Keras 3 wait for each one's logs, in the dense arm too.
    """

    class Stopwatch(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self._supports_tf_logs = True  # Else tf_keras copies the logs each step.

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch in (WARM_UP, WARM_UP + steps):
                int(self.model.optimizer.iterations)  # Waits for the device.
                now = np.array([time.perf_counter(), time.process_time()])
                if batch == WARM_UP:
                    self._start = now
                else:
                    self.wall, self.cpu = (now - self._start) / steps

    return Stopwatch()


def fit(subject: Subject, data: tf.data.Dataset, *callbacks: Any) -> None:
    watched = [*callbacks, *subject.callbacks()]
    subject.model.fit(data, verbose=0, shuffle=False, callbacks=watched)


def steps_per_round(batch: int) -> int:
    return FLAGS.steps * (4 if batch < 32 else 1)


def measure_steps(keras: types.ModuleType, batch: int) -> dict[str, Any]:
    """Returns what a step takes in each arm, at steady state."""
    steps = steps_per_round(batch)
    data = random_batches(batch, WARM_UP + steps + 1)
    subjects = {name: build(keras, arm) for name, arm in ARMS[keras.__name__].items()}
    names = list(subjects)
    seconds: dict[str, dict[str, list[float]]] = {
        name: {"wall": [], "cpu": []} for name in names
    }
    for subject in subjects.values():  # A round that does not count.
        fit(subject, data.take(2))
    for order in orders(names, FLAGS.rounds):
        for name in order:
            watch = stopwatch(keras, steps)
            fit(subjects[name], data, watch)
            seconds[name]["wall"].append(watch.wall)
            seconds[name]["cpu"].append(watch.cpu)
    return {
        name: {
            clock: summary(seconds[name][clock], seconds["dense"][clock])
            for clock in ("wall", "cpu")
        }
        for name in names
    }


def orders(names: list[str], rounds: int) -> list[list[str]]:
    """Returns an order of the arms for each round: none always follows another."""
    shuffle = random.Random(0)
    return [shuffle.sample(names, len(names)) for _ in range(rounds)]


def summary(seconds: list[float], dense: list[float]) -> dict[str, Any]:
    """Returns median and fastest round, and their ratios to those of dense."""
    ratios = [one / other for one, other in zip(seconds, dense, strict=True)]
    return {
        "median_seconds": statistics.median(seconds),
        "median_ratio": statistics.median(ratios),  # Within a round.
        "median_ratio_quartiles": np.percentile(ratios, [25, 75]).tolist(),
        "fastest_seconds": min(seconds),
        "fastest_ratio": min(seconds) / min(dense),
        "seconds": seconds,
    }


def measure_fresh(keras: types.ModuleType) -> dict[str, Any]:
    """Returns the time of fresh models' first steps, and what the models consist of."""
    arms = ARMS[keras.__name__]
    data = random_batches(8, 1)
    fit(build(keras, dense), data)  # TensorFlow's own first step.
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    sizes: dict[str, dict[str, Any]] = {}
    for order in orders(list(arms), FLAGS.fresh):
        for name in order:
            subject = build(keras, arms[name])
            start = time.perf_counter()
            fit(subject, data)
            seconds[name].append(time.perf_counter() - start)
            if name not in sizes:
                sizes[name] = {
                    "graph_operations": count_operations(subject.model),
                    "weight_bytes": weight_bytes(subject.model),
                    "prunable_weights": subject.prunable,
                }
            del subject
            keras.backend.clear_session()
            gc.collect()
    plain = sizes["dense"]
    for size in sizes.values():
        extra = size["weight_bytes"] - plain["weight_bytes"]
        size["graph_ratio"] = size["graph_operations"] / plain["graph_operations"]
        if size["prunable_weights"]:
            size["extra_bytes_per_prunable_weight"] = extra / size["prunable_weights"]
    return {
        name: {"first_step": summary(seconds[name], seconds["dense"]), **sizes[name]}
        for name in arms
    }


def count_operations(model: Any) -> int:
    """Returns the operations of a training step's graph, nested functions' included."""
    if any(isinstance(x, dpf_tf.PruneLowMagnitudeDPF) for x in model.layers):
        dpf_tf.freeze_masks(model)  # Else a step outside `fit` would be refused.
    step = tf.function(lambda *batch: model.train_step(batch))
    graph = step.get_concrete_function(*random_batches(8, 1).element_spec).graph
    definition = graph.as_graph_def()
    functions = definition.library.function
    return len(definition.node) + sum(len(inner.node_def) for inner in functions)


def weight_bytes(model: Any) -> int:
    """Returns the size of all weights of a model, masks and thresholds included."""
    return sum(
        int(np.prod(weight.shape)) * tf.as_dtype(weight.dtype).size
        for weight in model.weights
    )


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['keras']}: median time, ratio to dense and its quartiles")
    for batch, arms in result["step_time"].items():
        for name, times in arms.items():
            print(f"  batch {batch:>3}   {name:<12} {_line(times['wall'])}")
    for name, fresh in result["fresh"].items():
        masks = fresh.get("extra_bytes_per_prunable_weight")
        print(
            f"  first step  {name:<12} {_line(fresh['first_step'])}"
            f"  graph {fresh['graph_operations']:,} ({fresh['graph_ratio']:.2f})"
            + (f"  extra bytes per weight {masks:.4f}" if masks is not None else "")
        )


def _line(times: dict[str, Any]) -> str:
    low, high = times["median_ratio_quartiles"]
    return (
        f"{times['median_seconds'] * 1e3:9.2f} ms"
        f"  {times['median_ratio']:.3f} ({low:.3f} to {high:.3f})"
    )


def main(_: list[str]) -> None:
    results = []
    for name in dict.fromkeys(FLAGS.keras):
        keras = importlib.import_module(name)
        keras.utils.set_random_seed(0)
        print(f"{name}: fresh models", flush=True)
        result = {"keras": name, "fresh": measure_fresh(keras), "step_time": {}}
        for batch in FLAGS.batch:
            print(f"{name}: steps at batch {batch}", flush=True)
            result["step_time"][str(batch)] = measure_steps(keras, batch)
            keras.backend.clear_session()
            gc.collect()
        show(result)
        results.append(result)
    if FLAGS.out:
        settings = {
            "model": "ResNet-20 for CIFAR",
            "sparsity": SPARSITY,
            "frequency": FREQUENCY,
            "rounds": FLAGS.rounds,
            "timed_steps_per_round": {str(b): steps_per_round(b) for b in FLAGS.batch},
            "fresh_models": FLAGS.fresh,
        }
        record.write(
            FLAGS.out, {"settings": settings, "targets": TARGETS, "results": results}
        )
        print(f"\n{FLAGS.out}")


if __name__ == "__main__":
    app.run(main)
