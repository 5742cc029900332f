"""CIFAR-10 and Fashion-MNIST: kept in memory as bytes, batches made by whole arrays.

A batch is a function of its number alone, so a training goes on at any epoch without
reading what came before. As in PyTorch, images are padded with black, cropped, flipped,
and only then normalised.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import tensorflow as tf

from official_models.data.info import DataInfo, builder, eval_split
from official_models.data.pixels import normalised
from official_models.data.schedule import Purpose, Schedule, key, permuted
from official_models.data.share import Share


@dataclasses.dataclass(frozen=True)
class Treatment:
    """How a data set is augmented and normalised, for pixels from 0 to 1."""

    padding: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


TREATMENTS = {
    "cifar10": Treatment(4, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "fashion_mnist": Treatment(2, (0.2860,), (0.3530,)),
}


def training(
    info: DataInfo, schedule: Schedule, share: Share, augment: bool
) -> tf.data.Dataset:
    """Returns the batches of this pipeline's replicas in turn, step by step."""
    images, labels = _examples(info, "train")
    treatment = TREATMENTS[info.name]

    def batch(step: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, ...]:
        epoch, step = step // schedule.steps_per_epoch, step % schedule.steps_per_epoch
        position = step * schedule.global_batch + start
        position += tf.range(share.batch, dtype=tf.int64)
        chosen = permuted(position, info.train_examples, schedule.seed, epoch)
        pixels = tf.gather(images, chosen)
        if augment:
            # Drawn for the whole global batch: who shares it makes no difference.
            shape = [schedule.global_batch, 3]
            draws = tf.random.stateless_uniform(
                shape, key(Purpose.CROP, schedule.seed, epoch, step)
            )
            draws = tf.slice(draws, [start, 0], [share.batch, 3])
            corners = tf.cast(draws[:, :2] * (2 * treatment.padding + 1), tf.int32)
            top, left, flip = corners[:, 0], corners[:, 1], draws[:, 2] < 0.5
            pixels = crop_and_flip(pixels, top, left, flip, treatment.padding)
        return (
            normalised(pixels, treatment.mean, treatment.std),
            tf.one_hot(tf.gather(labels, chosen), info.classes),
        )

    first = schedule.first_epoch * schedule.steps_per_epoch
    return _batches(batch, range(first, first + schedule.steps), share)


def evaluation(info: DataInfo, steps: int, share: Share) -> tf.data.Dataset:
    """Returns the same of the test split, with weights: 0 for what fills up the end."""
    images, labels = _examples(info, eval_split(info))
    treatment = TREATMENTS[info.name]

    def batch(step: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, ...]:
        position = step * (share.pipelines * share.size) + start
        position += tf.range(share.batch, dtype=tf.int64)
        chosen = position % info.eval_examples
        return (
            normalised(tf.gather(images, chosen), treatment.mean, treatment.std),
            tf.one_hot(tf.gather(labels, chosen), info.classes),
            tf.cast(position < info.eval_examples, tf.float32),
        )

    return _batches(batch, range(steps), share)


def crop_and_flip(
    images: tf.Tensor, top: tf.Tensor, left: tf.Tensor, flip: tf.Tensor, padding: int
) -> tf.Tensor:
    """Pads images with black, crops them to their size again, and mirrors some.

    Args:
        images: Of shape [batch, height, width, channels].
        top: The first row of each crop, from 0 to twice the padding.
        left: The first column likewise.
        flip: Whether each crop is mirrored, left to right.
        padding: The rows and columns of black on each side.

    Examples:
        >>> images = tf.reshape(tf.range(1, 5), [1, 2, 2, 1])
        >>> print(images[0, :, :, 0].numpy())
        [[1 2]
         [3 4]]
        >>> down, mirrored = tf.constant([0]), tf.constant([True])
        >>> cropped = crop_and_flip(images, down, tf.constant([1]), mirrored, padding=1)
        >>> print(cropped[0, :, :, 0].numpy())
        [[0 0]
         [2 1]]
    """
    count, height, width, channels = images.shape
    sides = [padding, padding]
    padded = tf.pad(images, [[0, 0], sides, sides, [0, 0]])
    _, rows, columns, _ = padded.shape
    # All pixels are taken at once, by their numbers in the padded batch.
    ahead = tf.range(width)
    row = tf.range(count)[:, None] * rows + top[:, None] + tf.range(height)
    column = left[:, None] + tf.where(flip[:, None], ahead[::-1], ahead)
    pixel = row[:, :, None] * columns + column[:, None, :]
    return tf.gather(tf.reshape(padded, [-1, channels]), pixel)


def _batches(
    batch: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]],
    steps: range,
    share: Share,
) -> tf.data.Dataset:
    """Calls `batch` with each step, and the start of each replica's part of it."""

    def numbered(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        step, replica = number // share.replicas, number % share.replicas
        return batch(step, share.start + replica * share.batch)

    numbers = tf.data.Dataset.range(
        steps.start * share.replicas, steps.stop * share.replicas
    )
    batches = numbers.map(numbered, tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


@functools.lru_cache(maxsize=2)
def _examples(info: DataInfo, split: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns all images and labels of a split, read once."""
    # On the CPU, where the batches are made: not on a GPU, nor in a training's graph.
    with tf.init_scope(), tf.device("CPU:0"):
        found = builder(info.directory).as_dataset(split=split, batch_size=-1)
        return tf.identity(found["image"]), tf.identity(found["label"])
