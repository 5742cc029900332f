"""Which weights stay, for tensors on an accelerator: see `threshold`.

The same masks, bit for bit, from static shapes and without a sort, so that XLA compiles
it for every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dpf_tf.threshold import INFINITY, TOP


def keep_largest_xla(
    kernels: Sequence[tf.Tensor],
    keep: int | tf.Tensor,
    *,
    scales: Sequence[float] | tf.Tensor | None = None,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Does what `keep_largest` does, with tensors that may lie on an accelerator.

    The bits of the smallest kept magnitude are found one by one, in 31 passes that
    compare and sum; ties are numbered by a cumulative sum. A pure function of tensors:
    call it through `tf.function(jit_compile=True)`, and pass `keep`, and scales that
    change, as tensors, so that a new value does not trace it again.

    A scaled magnitude too small for a normal float32 may be flushed to zero here and
    not in `keep_largest`. All else is equal to the bit.

    Args:
        kernels: float32 tensors of static shape, none of them empty.
        keep: how many weights of the pool to keep, an int32 scalar from one per kernel
            to all. Not checked.
        scales: a positive factor per kernel.

    Returns:
        The bool masks, and an int32 vector: how many NaN each kernel holds. If there
        is one, `refuse_nan` it and do not use the masks.

    Raises:
        TypeError: if a kernel is not float32.
        ValueError: if there is no kernel, one is empty or of unknown shape, or the pool
            holds 2**31 weights or more.

    Example:
        >>> select = tf.function(keep_largest_xla, jit_compile=True)
        >>> masks, nans = select([tf.constant([3.0, -2.0, 1.0])], tf.constant(2))
        >>> masks[0].numpy().tolist(), nans.numpy().tolist()
        ([True, True, False], [0])
    """
    kernels = [tf.convert_to_tensor(kernel) for kernel in kernels]
    shapes = [kernel.shape for kernel in kernels]
    sizes = [shape.num_elements() for shape in shapes]
    if any(kernel.dtype != tf.float32 for kernel in kernels):
        raise TypeError(f"Expected float32. Received: {[k.dtype for k in kernels]}")
    if not sizes or not all(sizes) or sum(sizes) > TOP:
        raise ValueError(
            "Expected kernels of known shapes, none empty, of fewer than 2**31 weights "
            f"in all. Received: {list(map(str, shapes))}"
        )
    keep = tf.cast(keep, tf.int32)
    bits, nans, keys = [], [], []
    for i, kernel in enumerate(kernels):
        if scales is not None:
            kernel *= tf.cast(scales[i], tf.float32)
        bits.append(tf.bitcast(tf.reshape(kernel, [-1]), tf.int32) & TOP)
        nans.append(_count(bits[i] > INFINITY))
        # The first of the largest, by one reduction: argmax promises no order of ties.
        index = tf.range(sizes[i], dtype=tf.int64)
        keys.append(tf.reduce_max(tf.cast(bits[i], tf.int64) * 2**31 - index))
    first = tf.cast(-tf.stack(keys) % 2**31, tf.int32)
    first += np.cumsum([0, *sizes[:-1]], dtype=np.int32)
    # Ranked above all others, each kernel's largest weight is sure to stay.
    ranked = tf.tensor_scatter_nd_update(
        tf.concat(bits, 0), first[:, tf.newaxis], tf.fill([len(sizes)], TOP)
    )

    def try_bit(bit: tf.Tensor, smallest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        trial = smallest | bit
        found = _count(ranked >= trial) >= keep
        return tf.bitwise.right_shift(bit, 1), tf.where(found, trial, smallest)

    _, smallest = tf.while_loop(lambda bit, _: bit > 0, try_bit, (1 << 30, 0))
    larger, tied = ranked > smallest, ranked == smallest
    order = tf.cumsum(tf.cast(tied, tf.int32))
    flat = tf.split(larger | (tied & (order <= keep - _count(larger))), sizes)
    return [tf.reshape(m, s) for m, s in zip(flat, shapes, strict=True)], tf.stack(nans)


def _count(flags: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(flags, tf.int32))
