"""Which steps a pipeline delivers, and the randomness of each of them."""

from __future__ import annotations

import dataclasses
import enum

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps of a training, from `first_epoch` up to and without `epochs`."""

    global_batch: int
    steps_per_epoch: int
    first_epoch: int
    epochs: int
    seed: int

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch={self.steps_per_epoch} must be positive")
        if not 0 <= self.first_epoch <= self.epochs:
            raise ValueError(
                f"first_epoch={self.first_epoch} must lie between 0 and "
                f"epochs={self.epochs}"
            )
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed={self.seed} must lie between 0 and 2**31 - 1")

    @property
    def steps(self) -> int:
        """The number of steps that are left."""
        return (self.epochs - self.first_epoch) * self.steps_per_epoch


class Purpose(enum.IntEnum):
    """What randomness is for: no two purposes share it."""

    FILES = 0
    BUFFER = 1
    CROP = 2
    FLIP = 3


def key(purpose: Purpose, seed: int, epoch: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Returns the seed of a tf.random.stateless_* function, another for each call.

    The functions hash it, so distinct numbers suffice, below 2**31, 2**23 and 2**40.
    """
    return tf.stack(
        [
            tf.constant(seed * len(Purpose) + purpose, tf.int64),
            tf.cast(epoch, tf.int64) * 2**40 + tf.cast(number, tf.int64),
        ]
    )


def permuted(
    position: tf.Tensor, size: int, seed: int, epoch: int | tf.Tensor
) -> tf.Tensor:
    """Returns the examples at positions of an epoch, each found by itself.

    The first `size` positions are a permutation of 0 ... size - 1, the next `size`
    ones another, and so on.

    It is a block cipher. tf.random.experimental.index_shuffle runs only 4 rounds of
    it: then the permutations of successive epochs resemble each other so much that the
    same examples meet in a batch again and again. With 24 rounds, not detectably.
    """
    seeds = [
        tf.fill(position.shape, tf.cast(seed, tf.int64)),
        tf.fill(position.shape, tf.cast(epoch, tf.int64)),
        position // size,
    ]
    return tf.raw_ops.RandomIndexShuffle(
        index=position % size,
        seed=tf.stack(seeds, axis=1),
        max_index=tf.constant(size - 1, tf.int64),
        rounds=24,
    )
