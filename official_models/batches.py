"""A data set's batches as `fit` takes them under a strategy of tf.distribute."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from official_models import data


def training(strategy: Any, info: data.DataInfo, **arguments: Any) -> Any:
    """Returns the distributed batches of a training; `data.training` says of what."""
    return strategy.distribute_datasets_from_function(
        lambda context: data.training(info, context=context, **arguments)
    )


def evaluation_steps(info: data.DataInfo, batch: int, execution: int) -> int:
    """Returns the steps of a validation, in whole executions of several steps.

    Keras 3 runs whole ones only.
    """
    steps = data.evaluation_steps(info, batch)
    return -(-steps // execution) * execution


def evaluation(strategy: Any, info: data.DataInfo, batch: int, steps: int) -> Any:
    """Returns the distributed test set, over and over, each time in so many steps.

    Every example counts once. Keras divides the loss of a batch by all its places, also
    those that only fill it up; the weights make up for that, and its mean is exact.
    """
    weight = steps * batch / info.eval_examples
    filling = steps - data.evaluation_steps(info, batch)

    def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
        found = data.evaluation(info, global_batch=batch, context=context)
        replicas = context.num_replicas_in_sync // context.num_input_pipelines
        empty = found.take(replicas).repeat(filling)
        empty = empty.map(lambda images, labels, real: (images, labels, 0.0 * real))
        found = found.map(lambda images, labels, real: (images, labels, weight * real))
        return found.concatenate(empty).repeat()

    return strategy.distribute_datasets_from_function(batches)
