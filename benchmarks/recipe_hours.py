"""What each recipe of official_models costs: seconds of a step here, hours in all.

    python -m benchmarks.recipe_hours --out=benchmarks/results/recipe_hours.json

A model is trained by DPF, in float32, on random images of its data's shape. The models
take turns, in shuffled rounds, and the median step is told. Mask updates, validation
and the input pipeline are not in it; the first two are small, the third is measured by
`benchmarks.input_pipeline`. The batch is smaller than the recipe's, so that a step ends
soon, and the time of an image is what counts. `exaflops` takes three forward passes for
each training image, two operations for each multiply-accumulate, and nothing off for
zeros: dense hardware gains nothing by them.
"""

from __future__ import annotations

import importlib
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

import dpf_tf
from benchmarks import record
from official_models import models, recipes

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "JSON file for the results; without it, only printed.")
flags.DEFINE_enum("keras", "tf_keras", ["keras", "tf_keras"], "What to train with.")
flags.DEFINE_integer("rounds", 7, "Steps of each model, in turn.", lower_bound=2)
flags.DEFINE_integer("batch", 32, "Batch size.", lower_bound=1)
flags.DEFINE_multi_string("recipe", None, "Recipes to measure. Default: all.")

# Classes, image shape and training examples of what TFDS calls by these names.
DATA = {
    "cifar10": (10, (32, 32, 3), 50_000),
    "fashion_mnist": (10, (28, 28, 1), 60_000),
    "imagenet2012": (1000, (224, 224, 3), 1_281_167),
}


def trained_steps(
    keras: Any, model: Any, shape: tuple[int, ...], classes: int
) -> Callable[[], float]:
    """Returns a function that makes a training step, and returns its seconds."""
    schedule = dpf_tf.ConstantSparsity(0.5)
    pruned = dpf_tf.prune_low_magnitude_dpf(model, schedule)
    dpf_tf.MaskUpdater(pruned, total_steps=1).update(0)
    dpf_tf.freeze_masks(pruned)
    pruned.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=(FLAGS.batch, *shape)).astype("float32")
    labels = np.eye(classes, dtype="float32")[rng.integers(0, classes, FLAGS.batch)]

    def step() -> float:
        start = time.perf_counter()
        pruned.train_on_batch(images, labels)
        return time.perf_counter() - start

    step()  # Traces.
    return step


def main(argv: list[str]) -> None:
    keras = importlib.import_module(FLAGS.keras)
    names = FLAGS.recipe or list(recipes.RECIPES)
    steps: dict[Any, Callable[[], float]] = {}
    products: dict[Any, int] = {}
    for recipe in map(recipes.get, names):
        classes, shape, _ = DATA[recipe.data]
        if (recipe.model, shape) not in steps:
            model = models.build(
                recipe.model,
                keras,
                classes=classes,
                input_shape=shape,
                weight_decay=recipe.weight_decay,
            )
            products[recipe.model, shape] = dpf_tf.count_macs(model).dense
            steps[recipe.model, shape] = trained_steps(keras, model, shape, classes)
    times = defaultdict(list)
    order = random.Random(0)
    for _ in range(FLAGS.rounds):
        for key in order.sample(list(steps), len(steps)):
            times[key].append(steps[key]())
    results = []
    for name in names:
        recipe = recipes.get(name)
        _, shape, examples = DATA[recipe.data]
        key = recipe.model, shape
        seconds, images = statistics.median(times[key]), recipe.epochs * examples
        results.append(
            {
                "recipe": name,
                "model": recipe.model,
                "epochs": recipe.epochs,
                "batch_size": recipe.batch_size,
                "macs": products[key],
                "exaflops": 6 * products[key] * images / 1e18,
                "step_seconds": seconds,
                "step_seconds_quartiles": statistics.quantiles(times[key])[::2],
                "images_per_second": FLAGS.batch / seconds,
                "hours": images * seconds / FLAGS.batch / 3600,
            }
        )
        print(
            f"{name:30} {FLAGS.batch / seconds:8.1f} images/s"
            f" {results[-1]['exaflops']:9.3f} EFLOP {results[-1]['hours']:10.1f} h",
            flush=True,
        )
    if FLAGS.out:
        settings = {"keras": FLAGS.keras, "batch": FLAGS.batch, "rounds": FLAGS.rounds}
        record.write(FLAGS.out, {"settings": settings, "results": results})
        print(FLAGS.out)


if __name__ == "__main__":
    app.run(main)
