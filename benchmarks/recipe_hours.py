"""What each recipe of official_models costs: seconds of a step here, hours in all.

    python -m benchmarks.recipe_hours --out=benchmarks/results/recipe_hours.json

A model is trained by DPF for some steps on random images of its data's shape, in
float32, from the middle of the ramp on; its input pipeline is measured apart
(`benchmarks.input_pipeline`). The batch is smaller than the recipe's, so that a step
ends soon, and the time of an image is what is told. `exaflops` counts three forward
passes for each training image, two operations for each multiply-accumulate, and nothing
for zeros: dense hardware gains nothing by them.
"""

from __future__ import annotations

import importlib
import statistics
import time
from typing import Any

import numpy as np
from absl import app, flags

import dpf_tf
from benchmarks import record
from official_models import macs, models, recipes

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "JSON file for the results; without it, only printed.")
flags.DEFINE_enum("keras", "tf_keras", ["keras", "tf_keras"], "What to train with.")
flags.DEFINE_integer("steps", 5, "Steps to measure, after two.", lower_bound=1)
flags.DEFINE_integer("batch", 32, "Batch size.", lower_bound=1)
flags.DEFINE_multi_string("recipe", None, "Recipes to measure. Default: all.")

# Classes, image shape and training examples of what TFDS calls by these names.
DATA = {
    "cifar10": (10, (32, 32, 3), 50_000),
    "fashion_mnist": (10, (28, 28, 1), 60_000),
    "imagenet2012": (1000, (224, 224, 3), 1_281_167),
}


def step_seconds(keras: Any, model: Any, shape: tuple[int, ...], classes: int) -> float:
    """Returns the median time of a training step."""
    schedule = dpf_tf.ConstantSparsity(0.5, frequency=FLAGS.steps + 2)
    pruned = dpf_tf.prune_low_magnitude_dpf(model, schedule)
    pruned.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=(FLAGS.batch, *shape)).astype("float32")
    labels = np.eye(classes, dtype="float32")[rng.integers(0, classes, FLAGS.batch)]
    updater = dpf_tf.MaskUpdater(pruned, total_steps=FLAGS.steps + 2)
    times = []
    for step in range(FLAGS.steps + 2):
        start = time.perf_counter()
        updater.update(step)
        pruned.train_on_batch(images, labels)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def main(_: list[str]) -> None:
    keras = importlib.import_module(FLAGS.keras)
    results, measured = [], {}
    for name in FLAGS.recipe or recipes.RECIPES:
        recipe = recipes.get(name)
        classes, shape, examples = DATA[recipe.data]
        key = recipe.model, shape
        if key not in measured:
            keras.backend.clear_session()
            model = models.build(
                recipe.model,
                keras,
                classes=classes,
                input_shape=shape,
                weight_decay=recipe.weight_decay,
            )
            products = macs.count(model).dense
            measured[key] = products, step_seconds(keras, model, shape, classes)
        products, seconds = measured[key]
        images = recipe.epochs * examples
        results.append(
            {
                "recipe": name,
                "model": recipe.model,
                "epochs": recipe.epochs,
                "batch_size": recipe.batch_size,
                "macs": products,
                "exaflops": 6 * products * images / 1e18,
                "step_seconds": seconds,
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
        settings = {"keras": FLAGS.keras, "batch": FLAGS.batch, "steps": FLAGS.steps}
        record.write(FLAGS.out, {"settings": settings, "results": results})
        print(FLAGS.out)


if __name__ == "__main__":
    app.run(main)
