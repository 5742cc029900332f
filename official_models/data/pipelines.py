"""The batches of a data set, for one training pipeline or one of several.

Called inside `strategy.distribute_datasets_from_function(lambda context: ...)`, with
that context, these functions deliver batches of a replica's size, for each of the
worker's replicas in turn, and only this worker's.
"""

from __future__ import annotations

from types import ModuleType

import tensorflow as tf

from official_models.data import imagenet, memory
from official_models.data.info import DataInfo
from official_models.data.schedule import Schedule
from official_models.data.share import share_of


def training(
    info: DataInfo,
    *,
    global_batch: int,
    steps_per_epoch: int,
    first_epoch: int,
    epochs: int,
    seed: int,
    context: tf.distribute.InputContext | None = None,
    augment: bool = True,
) -> tf.data.Dataset:
    """Returns the batches of a training, a pure function of seed, epoch and step.

    So a training that was stopped and goes on at `first_epoch` gets the very batches
    that it would have got. Every epoch starts a new permutation of the examples, and
    goes on with another where its steps need more than all examples.

    Args:
        info: The data set.
        global_batch: The number of examples in a step, over all replicas.
        steps_per_epoch: The number of steps in an epoch.
        first_epoch: The epoch to start at, counted from 0.
        epochs: The epoch to stop before: the dataset ends after
            (epochs - first_epoch) * steps_per_epoch steps.
        seed: Of the order and of the augmentation; 0 to 2**31 - 1.
        context: The input context of the strategy; None for a single replica.
        augment: Whether images are augmented; else they are as in the evaluation.

    Returns:
        A dataset of (images, labels): normalised float32 images of shape
        [batch, height, width, channels] and one-hot float32 labels of shape
        [batch, classes], with static shapes. On ImageNet's scale the order depends on
        the number of workers; the small data sets' does not.

    Raises:
        ValueError: if the global batch does not divide by the replicas, or the epochs,
            steps or seed are out of range.
    """
    share = share_of(global_batch, context)
    schedule = Schedule(global_batch, steps_per_epoch, first_epoch, epochs, seed)
    return _module(info).training(info, schedule, share, augment)


def evaluation(
    info: DataInfo,
    *,
    global_batch: int,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Returns every example of the test or validation split once, in a fixed order.

    Args:
        info: The data set.
        global_batch: The number of examples in a step, over all replicas.
        context: The input context of the strategy; None for a single replica.

    Returns:
        A dataset of (images, labels, weights), the first two as in `training`. The
        weights, float32 of shape [batch], are 1; and 0 for the examples that fill up
        the last global batch, so that every worker has equally many, full batches.

    Raises:
        ValueError: if the global batch does not divide by the replicas.
    """
    share = share_of(global_batch, context)
    steps = evaluation_steps(info, global_batch)
    return _module(info).evaluation(info, steps, share)


def evaluation_steps(info: DataInfo, global_batch: int) -> int:
    """Returns the number of global batches in an evaluation: the last is filled up.

    Examples:
        See `official_models.data.DataInfo`.
    """
    return -(-info.eval_examples // global_batch)


def _module(info: DataInfo) -> ModuleType:
    return memory if info.name in memory.TREATMENTS else imagenet
