"""ImageNet: JPEGs read from the TFRecord files that TFDS has written.

For training, the files are read in an order of their own in every pass, several at a
time, and their examples pass through a shuffle buffer; both orders, as all crops and
flips, follow from seed, epoch and position. A number of workers that divides that of
the files reads its own files only; else each worker reads all of them, and keeps its
share of the examples. So an example is seen once per pass (but for the few by which
files differ in length), and the order depends on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from official_models.data.info import DataInfo, builder, eval_split, files
from official_models.data.pixels import normalised
from official_models.data.schedule import Purpose, Schedule, key
from official_models.data.share import Share

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Of the shorter side, in the evaluation: 224 pixels of 256.
CENTRAL = 224 / 256

SHUFFLE_BUFFER = 16_384  # Undecoded JPEGs, of about 110 kB each.
FILES_AT_ONCE = 16

# From the shape of a JPEG to the top, left, height and width of a part of it.
Window = Callable[[tf.Tensor], tf.Tensor]


def training(
    info: DataInfo,
    schedule: Schedule,
    share: Share,
    augment: bool,
    shuffle_buffer: int = SHUFFLE_BUFFER,
) -> tf.data.Dataset:
    """Returns the batches of this pipeline's replicas in turn, step by step."""
    paths = files(info.directory, "train")
    buffer = min(shuffle_buffer, info.train_examples)

    def one_pass(epoch: tf.Tensor, number: tf.Tensor) -> tf.data.Dataset:
        # Dataset.shuffle mixes in the seed of tf.random.set_seed, which this function's
        # graph has inherited: the stream shall not depend on it.
        # tf.data's debug mode, which runs functions eagerly, is not supported.
        tf.compat.v1.get_default_graph().seed = 1
        seed = key(Purpose.FILES, schedule.seed, epoch, number)
        names = tf.random.experimental.stateless_shuffle(paths, seed)
        names = tf.data.Dataset.from_tensor_slices(names)
        # Unequal shares would repeat some examples in an epoch, and omit as many.
        if len(paths) % share.pipelines == 0:
            records = _records(names.shard(share.pipelines, share.pipeline))
        else:
            records = _records(names).shard(share.pipelines, share.pipeline)
        seed = tf.random.stateless_uniform(
            [], key(Purpose.BUFFER, schedule.seed, epoch, number), None, None, tf.int64
        )
        return records.shuffle(buffer, seed, reshuffle_each_iteration=False)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        passes = tf.data.Dataset.counter()
        records = passes.flat_map(lambda number: one_pass(epoch, number))
        records = records.take(schedule.steps_per_epoch * share.size).enumerate()
        return records.map(lambda count, record: (epoch, count, *record))

    def example(
        epoch: tf.Tensor, count: tf.Tensor, file: tf.Tensor, record: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if not augment:
            return _example(info, file, record, central_window)
        step, place = count // share.size, count % share.size
        position = step * schedule.global_batch + share.start + place
        seed = key(Purpose.CROP, schedule.seed, epoch, position)
        image, label = _example(
            info, file, record, lambda shape: random_window(shape, seed)
        )
        seed = key(Purpose.FLIP, schedule.seed, epoch, position)
        return tf.image.stateless_random_flip_left_right(image, seed), label

    epochs = tf.data.Dataset.range(schedule.first_epoch, schedule.epochs)
    # Each epoch starts by filling its buffer. An interleave would have read ahead, but
    # it holds the buffers of the next two epochs all the time, each of about 1.8 GB.
    examples = epochs.flat_map(one_epoch).map(
        example, tf.data.AUTOTUNE, deterministic=True
    )
    return _batches(examples, schedule.steps, share)


def evaluation(info: DataInfo, steps: int, share: Share) -> tf.data.Dataset:
    """Returns the same of the validation split, with weights: 0 for what fills it up.

    Every worker reads all records, but decodes only its own.
    """

    def mine(position: tf.Tensor, _: Any) -> tf.Tensor:
        return position // share.size % share.pipelines == share.pipeline

    def example(
        position: tf.Tensor, record: tuple[tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        weight = tf.cast(position < info.eval_examples, tf.float32)
        return *_example(info, *record, central_window), weight

    paths = files(info.directory, eval_split(info))
    records = _records(tf.data.Dataset.from_tensor_slices(paths))
    records = records.repeat().take(steps * share.pipelines * share.size)
    examples = (
        records.enumerate()
        .filter(mine)
        .map(example, tf.data.AUTOTUNE, deterministic=True)
    )
    return _batches(examples, steps, share)


def random_window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns 8 to 100 % of an image, 3:4 to 4:3; all of it if ten tries miss that."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def central_window(shape: tf.Tensor) -> tf.Tensor:
    """Returns the square in the middle, with 7/8 of the shorter side."""
    shorter = tf.cast(tf.reduce_min(shape[:2]), tf.float32)
    side = tf.cast(tf.round(CENTRAL * shorter), tf.int32)
    return tf.concat([(shape[:2] - side) // 2, [side, side]], axis=0)


def _example(
    info: DataInfo, file: tf.Tensor, record: tf.Tensor, window: Window
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the normalised image and the one-hot label of a record."""
    features = builder(info.directory).info.features.deserialize_example(
        record, decoders={"image": tfds.decode.SkipDecoding()}
    )
    pixels = _decoded(features["image"], window)
    name, label = features["file_name"], features["label"]
    readable = tf.debugging.Assert(
        tf.size(pixels) > 0,
        [
            f"{info.name}: this JPEG cannot be decoded; remove {info.directory} and "
            "prepare the data set again:",
            *(name, "label", label, file),
        ],
    )
    # Before it is resized: an image without pixels is an error there, without a name.
    with tf.control_dependencies([readable]):
        pixels = tf.identity(pixels)
    image = tf.image.resize(pixels, info.image_shape[:2])
    image = normalised(tf.ensure_shape(image, info.image_shape), MEAN, STD)
    return image, tf.one_hot(label, info.classes)


def _decoded(jpeg: tf.Tensor, window: Window) -> tf.Tensor:
    """Returns a part of a JPEG, as bytes; an image without pixels if it is broken.

    An operation's error cannot be caught in a graph, but a dataset can pass over it.
    So each JPEG is a dataset of its own here, and its error can be told with its name.
    """

    def part(jpeg: tf.Tensor) -> tf.Tensor:
        found = window(tf.image.extract_jpeg_shape(jpeg))
        # Greyscale becomes three channels.
        return tf.image.decode_and_crop_jpeg(jpeg, found, channels=3)

    readable = tf.data.Dataset.from_tensors(jpeg).map(part).ignore_errors()
    nothing = tf.data.Dataset.from_tensors(tf.zeros([0, 0, 3], tf.uint8))
    return readable.concatenate(nothing).take(1).get_single_element()


def _records(paths: tf.data.Dataset) -> tf.data.Dataset:
    """Returns (file, record) of all examples; the order follows from the files'."""

    def of_file(file: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(file).map(lambda record: (file, record))

    return paths.interleave(
        of_file,
        cycle_length=FILES_AT_ONCE,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _batches(examples: tf.data.Dataset, steps: int, share: Share) -> tf.data.Dataset:
    batches = examples.batch(
        share.batch,
        drop_remainder=True,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    batches = batches.apply(
        tf.data.experimental.assert_cardinality(steps * share.replicas)
    )
    return batches.prefetch(tf.data.AUTOTUNE)
