"""Images per second of each input pipeline of official_models, by itself.

    python -m benchmarks.input_pipeline --out=benchmarks/results/input_pipeline.json

Every data set is read for training (augmented) and for evaluation, as a training on one
worker with one replica reads it, and its batches are thrown away. The pipelines take
turns, round by round; each measures for some seconds after its first batch. What comes
before that is told apart: the small data sets are decoded once, ImageNet fills its
shuffle buffer. `--data_dir` names the folder of the data sets; those that are not
prepared are left out, and named.

The time of an ImageNet image depends on its size: the file gives the mean bytes of a
record, and the number of examples tells generated images in ImageNet's layout from the
true ones.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import Any

import tensorflow as tf
from absl import app, flags

from benchmarks import record
from official_models import data
from official_models.data.info import eval_split, files
from official_models.errors import InputError

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "JSON file for the results; without it, only printed.")
flags.DEFINE_string("data_dir", None, "Folder of the data sets; by default TFDS's.")
flags.DEFINE_multi_string(
    "data_set", ["cifar10", "fashion_mnist", "imagenet2012"], "Data sets to measure."
)
flags.DEFINE_integer("batch", 128, "Batch size.", lower_bound=1)
flags.DEFINE_integer("rounds", 5, "Rounds of all pipelines in turn.", lower_bound=1)
flags.DEFINE_float("seconds", 5.0, "Time of a pipeline in a round.", lower_bound=0.0)

# The true ImageNet has 1,281,167 images to train on.
TRUE_IMAGENET = 1_000_000
SOURCES = ("training", "evaluation")


def dataset(info: data.DataInfo, source: str, seed: int) -> tf.data.Dataset:
    """Returns a stream that outlasts the measurement."""
    if source == "evaluation":
        return data.evaluation(info, global_batch=FLAGS.batch).repeat()
    steps = max(1, info.train_examples // FLAGS.batch)
    return data.training(
        info,
        global_batch=FLAGS.batch,
        steps_per_epoch=steps,
        first_epoch=0,
        epochs=1_000_000,
        seed=seed,
    )


def measure(info: data.DataInfo, source: str, seed: int) -> dict[str, float]:
    """Returns the seconds up to the first batch, and images per second after it."""
    start = time.perf_counter()
    batches = iter(dataset(info, source, seed))
    next(batches)
    first, cpu = time.perf_counter(), time.process_time()
    images, spent = 0, 0.0
    while not images or spent < FLAGS.seconds:
        batch = next(batches)
        # What fills up the last batch of an evaluation does not count.
        images += int(tf.reduce_sum(batch[2])) if len(batch) == 3 else FLAGS.batch
        spent = time.perf_counter() - first
    return {
        "first_batch_seconds": first - start,
        "images_per_second": images / spent,
        "cpu_seconds_per_1000_images": 1000 * (time.process_time() - cpu) / images,
    }


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    rates = [one["images_per_second"] for one in rounds]
    cpu = [one["cpu_seconds_per_1000_images"] for one in rounds]
    return {
        "images_per_second": statistics.median(rates),
        "min_images_per_second": min(rates),
        "max_images_per_second": max(rates),
        "cpu_seconds_per_1000_images": statistics.median(cpu),
        "first_batch_seconds": rounds[0]["first_batch_seconds"],
    }


def description(info: data.DataInfo) -> dict[str, Any]:
    return {
        "version": info.version,
        "train_examples": info.train_examples,
        "eval_examples": info.eval_examples,
        "image_shape": info.image_shape,
        "mean_record_bytes": mean_record_bytes(info),
        "generated_images": info.name == "imagenet2012"
        and info.train_examples < TRUE_IMAGENET,
    }


def mean_record_bytes(info: data.DataInfo) -> float:
    paths = files(info.directory, "train") + files(info.directory, eval_split(info))
    total = sum(tf.io.gfile.stat(path).length for path in paths)
    return total / (info.train_examples + info.eval_examples)


def main(_: list[str]) -> None:
    infos, missing = [], []
    for name in FLAGS.data_set:
        try:
            infos.append(data.describe(name, FLAGS.data_dir))
        except InputError as error:
            print(f"left out: {error}")
            missing.append(name)
    rounds = defaultdict(list)
    for turn in range(FLAGS.rounds):
        for info in infos:
            for source in SOURCES:
                rounds[info.name, source].append(measure(info, source, turn))
    results = {}
    for info in infos:
        results[info.name] = description(info)
        for source in SOURCES:
            result = results[info.name][source] = summary(rounds[info.name, source])
            print(
                f"{info.name:14} {source:10}"
                f" {result['images_per_second']:10,.0f} images/s"
                f" {result['cpu_seconds_per_1000_images']:8.3f} CPU s per 1,000"
                f" {result['first_batch_seconds']:7.2f} s to the first batch"
            )
    if FLAGS.out:
        settings = {
            "batch": FLAGS.batch,
            "rounds": FLAGS.rounds,
            "seconds": FLAGS.seconds,
        }
        record.write(
            FLAGS.out, {"settings": settings, "missing": missing, "results": results}
        )
        print(f"\n{FLAGS.out}")


if __name__ == "__main__":
    app.run(main)
