"""A data set's batches as `fit` takes them under a strategy of tf.distribute."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from official_models import data


def training(strategy: Any, info: data.DataInfo, **arguments: Any) -> Any:
    """Returns the distributed batches of a training; `data.training` says of what."""
    return strategy.distribute_datasets_from_function(
        lambda context: data.training(info, context=context, **arguments)
    )


class OfStep:
    """From a step to a batch of its own, the same one in a training that is resumed.

    For methods that look at the gradient: drawn anew in every epoch, in another order
    than the training's batches.
    """

    def __init__(
        self, strategy: Any, info: data.DataInfo, batch: int, steps: int, seed: int
    ) -> None:
        self._make = functools.partial(
            training,
            strategy,
            info,
            global_batch=batch,
            steps_per_epoch=steps,
            seed=(seed + 1) % 2**31,
        )
        self._steps = steps
        self._epoch: int | None = None
        self._batches: Iterator[Any] = iter(())

    def __call__(self, step: int) -> Any:
        """Returns the next batch of the step's epoch."""
        epoch = step // self._steps
        if epoch != self._epoch:
            self._epoch = epoch
            self._batches = iter(self._make(first_epoch=epoch, epochs=epoch + 1))
        return next(self._batches)


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
