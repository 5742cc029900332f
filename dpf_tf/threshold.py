"""Which weights stay: the exact `keep` largest magnitudes over one pool of kernels.

A float32's bits without the sign, read as an integer, are ordered as its magnitude is.
So all ranking here is of integers: denormals are ranked right even where the processor
flushes them to zero, and -0.0 ties with 0.0.

    >>> kernels = [np.array([[0.3, -2.0], [0.1, 0.0]], np.float32),
    ...            np.array([0.5, -0.4], np.float32)]
    >>> [mask.astype(int).tolist() for mask in keep_largest(kernels, keep=3)]
    [[[0, 1], [0, 0]], [1, 1]]

`keep_largest` is for arrays in the host's memory, `keep_largest_xla` for tensors on an
accelerator. Both give the same masks, bit for bit.
"""

import operator
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_TOP = 0x7FFFFFFF  # above every magnitude's bits; also the mask that drops the sign
_INFINITY = 0x7F800000  # bits above these are NaN
_CHUNK = 1 << 17  # weights handled at once: the scratch stays in a core's cache
_SAMPLE = 1 << 16
_THREADS = min(os.cpu_count() or 1, 4)
_ALIGN = 64  # bytes; TensorFlow then takes a mask as it is, without a copy


class _Part(NamedTuple):
    """A stretch of one kernel, short enough for the cache."""

    kernel: int
    weights: np.ndarray
    scale: np.float32 | None
    mask: np.ndarray
    position: int  # of its first mask entry in the buffer that holds all masks


class _Found(NamedTuple):
    """What a scan saw in one part."""

    largest: int
    above: int  # how many magnitudes lie above the bracket
    inside: int  # how many in it
    positions: np.ndarray | None  # of those, in index order
    bits: np.ndarray | None  # and their magnitudes


def keep_largest(
    kernels: Sequence[np.ndarray],
    keep: int,
    *,
    scales: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Marks the `keep` weights of largest magnitude in one pool of kernels.

    A sample brackets the smallest kept magnitude. One pass over the weights marks what
    lies above the bracket and collects what lies inside, a percent or so; only those
    are ranked. Where the sample misled, the bracket is moved and widened and the pass
    repeated: the result is exact for every input.

    Args:
      kernels: Float32 arrays of any shape, none of them empty.
      keep: How many weights of the pool to keep, from one per kernel to all.
      scales: A positive factor per kernel: `abs(w) * np.float32(scale)`, computed in
        float32, is ranked in place of the magnitude.
      names: What to call the kernels in error messages; their numbers if left out.

    Returns:
      A bool array of the same shape per kernel, `keep` entries True in all. The
      larger magnitude is kept; of equals the one in the earlier kernel, or earlier in
      its kernel in C order. Each kernel keeps at least its (first) largest weight.

    Raises:
      TypeError: a kernel is not float32, or `keep` is no integer.
      ValueError: a kernel is empty or holds NaN, there is none, `keep` is out of
        range, or `scales` do not fit.

    Example:
      The second kernel is small, and still keeps its largest weight:

      >>> large, small = np.float32([3, -2, 1]), np.float32([0.1, -0.2])
      >>> [m.tolist() for m in keep_largest([large, small], 2)]
      [[True, False, False], [False, True]]
    """
    kernels = [np.asarray(kernel) for kernel in kernels]
    names = [str(i) for i in range(len(kernels))] if names is None else names
    keep = operator.index(keep)
    _check_pool(kernels, names, keep)
    masks, buffer, parts = _cut(kernels, _checked_scales(scales, len(kernels)))
    low, high = _bracket(parts, keep)
    widening = 1
    while True:
        found = _scan(parts, low, high)
        _refuse_nan(kernels, names, parts, found)
        # A kernel with nothing above the bracket is given its (first) largest weight.
        forced = _largest_of_empty(parts, found)
        buffer[[position for position, _ in forced]] = True
        missing = keep - sum(f.above for f in found) - len(forced)
        free = sum(f.inside for f in found) - sum(bits > low for _, bits in forced)
        if missing < 0:
            low, high = high, min(high + widening, _TOP)
        elif missing > free:
            low, high = max(low - widening, -1), low
        else:
            break
        widening <<= 10  # at first to the ties of one value, then ever further
    if high - low == 1:
        _mark_ties(parts, high, missing)
    elif missing:
        _mark_inside(buffer, found, missing)
    return masks


def _check_pool(kernels: list[np.ndarray], names: Sequence[str], keep: int) -> None:
    """Refuses what cannot be ranked."""
    if not kernels:
        raise ValueError("No kernels were given: there is nothing to rank.")
    if len(names) != len(kernels):
        raise ValueError(f"{len(names)} names were given for {len(kernels)} kernels.")
    for name, kernel in zip(names, kernels):
        if kernel.dtype != np.float32:
            raise TypeError(
                f"Kernel {name} is {kernel.dtype}; expected float32. Rank the float32 "
                "variable itself: a rounded or converted copy has ties of its own."
            )
        if not kernel.size:
            raise ValueError(f"Kernel {name} has no weights (shape {kernel.shape}).")
    total = sum(kernel.size for kernel in kernels)
    if not len(kernels) <= keep <= total:
        raise ValueError(
            f"keep={keep}; expected {len(kernels)} (one weight for each kernel) to "
            f"{total} (all weights of the pool)."
        )


def _checked_scales(scales: Sequence[float] | None, count: int) -> list:
    """The scales as float32, or None for each kernel."""
    if scales is None:
        return [None] * count
    if len(scales) != count:
        raise ValueError(f"{len(scales)} scales were given for {count} kernels.")
    with np.errstate(over="ignore"):
        rounded = [np.float32(scale) for scale in scales]
    for scale, given in zip(rounded, scales):
        if not 0 < scale < np.inf:
            raise ValueError(
                f"Scale {given!r} is {scale} in float32; expected a positive, finite "
                "number."
            )
    return rounded


def _cut(
    kernels: list[np.ndarray], scales: list
) -> tuple[list[np.ndarray], np.ndarray, list[_Part]]:
    """Makes room for the masks (in one buffer) and cuts the kernels into parts."""
    room = sum(-(-kernel.size // _ALIGN) * _ALIGN for kernel in kernels)
    buffer = np.empty(room + _ALIGN, np.bool_)
    buffer = buffer[-buffer.ctypes.data % _ALIGN :]
    masks, parts, start = [], [], 0
    for i, (kernel, scale) in enumerate(zip(kernels, scales)):
        weights, mask = kernel.reshape(-1), buffer[start : start + kernel.size]
        for a in range(0, kernel.size, _CHUNK):
            b = a + _CHUNK
            parts.append(_Part(i, weights[a:b], scale, mask[a:b], start + a))
        masks.append(mask.reshape(kernel.shape))
        start += -(-kernel.size // _ALIGN) * _ALIGN
    return masks, buffer, parts


def _bits(part: _Part, scratch: np.ndarray) -> np.ndarray:
    """The magnitudes of a part as int32 bits, written to the scratch."""
    bits = scratch[: part.weights.size]
    if part.scale is None:
        return np.bitwise_and(part.weights.view(np.int32), _TOP, out=bits)
    with np.errstate(all="ignore"):  # per thread; infinities and NaN are seen later
        np.multiply(part.weights, part.scale, out=bits.view(np.float32))
    return np.bitwise_and(bits, _TOP, out=bits)


def _bracket(parts: list[_Part], keep: int) -> tuple[int, int]:
    """Guesses (low, high], which holds the smallest magnitude to keep."""
    total = sum(part.weights.size for part in parts)
    if total <= _SAMPLE:
        return -1, _TOP
    # An odd stride does not fall on the same few channels of every filter.
    stride = total // _SAMPLE | 1
    picked = [p._replace(weights=p.weights[-p.position % stride :: stride]) for p in parts]
    sample = [_bits(p, np.empty(p.weights.size, np.int32)) for p in picked]
    sample = np.concatenate(sample)
    share = 1 - keep / total
    # Four standard deviations of a sampled rank to either side.
    spread = 4 * (sample.size * share * (1 - share)) ** 0.5 + 2
    ranks = sample.size * share + np.array([-spread, spread])
    first, last = np.clip(ranks, 0, sample.size - 1).astype(int)
    sample.partition((first, last))
    low, high = int(sample[first]), int(sample[last])
    # The ends are left out, as they may be a tie of very many weights.
    return (low, high - 1) if high - low > 1 else (low - 1, low)


def _scan(parts: list[_Part], low: int, high: int) -> list[_Found]:
    """Marks what lies above (low, high] in the masks, and collects what lies inside.

    Of a bracket of one value (high = low + 1) the inside is counted, not collected.
    """
    found: list = [None] * len(parts)
    waiting = deque(range(len(parts)))

    def work(_: int) -> None:
        scratch = np.empty(_CHUNK, np.int32)
        flags = np.empty(_CHUNK, np.bool_)
        while True:
            try:
                i = waiting.popleft()
            except IndexError:
                return
            part = parts[i]
            bits = _bits(part, scratch)
            inside = flags[: bits.size]
            np.greater(bits, high, out=part.mask)
            np.greater(bits, low, out=inside)
            np.not_equal(inside, part.mask, out=inside)
            if high - low > 1:
                at = inside.nonzero()[0]
                count, picked = at.size, bits[at]
                at += part.position
            else:
                count, at, picked = np.count_nonzero(inside), None, None
            above = np.count_nonzero(part.mask)
            found[i] = _Found(int(bits.max()), above, count, at, picked)

    threads = min(_THREADS, len(parts) // 4)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
    else:
        work(0)
    return found


def _refuse_nan(
    kernels: list[np.ndarray],
    names: Sequence[str],
    parts: list[_Part],
    found: list[_Found],
) -> None:
    """Raises if a part's largest bits are those of a NaN."""
    bad = sorted({p.kernel for p, f in zip(parts, found) if f.largest > _INFINITY})
    if bad:
        counts = [np.count_nonzero(np.isnan(kernels[i])) for i in bad]
        listed = ", ".join(f"{names[i]} ({n})" for i, n in zip(bad, counts))
        raise ValueError(
            f"NaN among the weights of kernel {listed}: they have no rank. The training "
            "has diverged; restore an earlier checkpoint and lower the learning rate "
            "or clip the gradients."
        )


def _largest_of_empty(
    parts: list[_Part], found: list[_Found]
) -> list[tuple[int, int]]:
    """The first largest weight (position, bits) of kernels with no weight above."""
    above: dict[int, int] = {}
    best: dict[int, tuple[_Part, int]] = {}
    for part, seen in zip(parts, found):
        above[part.kernel] = above.get(part.kernel, 0) + seen.above
        if part.kernel not in best or seen.largest > best[part.kernel][1]:
            best[part.kernel] = part, seen.largest
    scratch = np.empty(_CHUNK, np.int32)
    return [
        (part.position + int(_bits(part, scratch).argmax()), largest)
        for kernel, (part, largest) in best.items()
        if not above[kernel]
    ]


def _mark_inside(buffer: np.ndarray, found: list[_Found], missing: int) -> None:
    """Marks the `missing` largest magnitudes collected inside the bracket."""
    positions = np.concatenate([seen.positions for seen in found])
    bits = np.concatenate([seen.bits for seen in found])
    free = ~buffer[positions]
    positions, bits = positions[free], bits[free]
    smallest = np.partition(bits, bits.size - missing)[bits.size - missing]
    larger = positions[bits > smallest]
    buffer[larger] = True
    buffer[positions[bits == smallest][: missing - larger.size]] = True


def _mark_ties(parts: list[_Part], bits: int, missing: int) -> None:
    """Marks the first `missing` magnitudes with these bits."""
    scratch = np.empty(_CHUNK, np.int32)
    for part in parts:
        if not missing:
            return
        equal = _bits(part, scratch) == bits
        at = np.flatnonzero(equal & ~part.mask)[:missing]
        part.mask[at] = True
        missing -= at.size


def count_flips(old: Sequence[np.ndarray], new: Sequence[np.ndarray]) -> int:
    """Counts the entries in which two lists of masks differ.

    Args:
      old: Bool arrays.
      new: As many bool arrays, of the same shapes.

    Returns:
      The number of differing entries over all arrays.

    Raises:
      ValueError: the lists differ in length, or two arrays in shape.

    Example:
      >>> count_flips([np.array([True, False])], [np.array([False, True])])
      2
    """
    if [np.shape(mask) for mask in old] != [np.shape(mask) for mask in new]:
        raise ValueError("Masks can be compared if their numbers and shapes are equal.")
    return sum(int(np.count_nonzero(a != b)) for a, b in zip(old, new))


def keep_largest_xla(
    kernels: Sequence[tf.Tensor],
    keep: int | tf.Tensor,
    *,
    scales: Sequence[float] | tf.Tensor | None = None,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """`keep_largest` for tensors of static shape, to be compiled for an accelerator.

    The smallest kept magnitude is found bit by bit, by 31 passes that compare and sum;
    ties are numbered by a cumulative sum. A pure function: wrap it in
    `tf.function(jit_compile=True)`, and pass `keep` (and the scales, where they change)
    as tensors, so that a new value does not trace it again.

    With scales, a product too small for a normal float32 may be flushed to zero here,
    where the array form keeps it; all other products are equal to the bit.

    Args:
      kernels: Float32 tensors of static shape, none of them empty.
      keep: How many weights to keep: an int32 scalar, from one per kernel to all. Not
        checked here.
      scales: A positive factor per kernel, as in `keep_largest`.

    Returns:
      The bool masks, and the number of NaN in each kernel (an int32 vector): where one
      is not zero, the masks mean nothing and must not be used.

    Raises:
      TypeError: a kernel is not float32.
      ValueError: there is no kernel, one is empty or of unknown shape, or the pool
        holds 2**31 weights or more.

    Example:
      >>> select = tf.function(keep_largest_xla, jit_compile=True)
      >>> masks, nans = select([tf.constant([3.0, -2.0, 1.0])], tf.constant(2))
      >>> masks[0].numpy().tolist(), nans.numpy().tolist()
      ([True, True, False], [0])
    """
    kernels = [tf.convert_to_tensor(kernel) for kernel in kernels]
    sizes = [kernel.shape.num_elements() for kernel in kernels]
    if any(kernel.dtype != tf.float32 for kernel in kernels):
        raise TypeError(f"Expected float32, got {[k.dtype.name for k in kernels]}.")
    if not kernels or not all(sizes):
        shapes = [str(kernel.shape) for kernel in kernels]
        raise ValueError(f"Expected kernels of known shapes, not empty; got {shapes}.")
    if sum(sizes) >= 2**31:
        raise ValueError(f"{sum(sizes)} weights; a pool is limited to 2**31 - 1.")
    keep = tf.cast(keep, tf.int32)
    ranked, nans = [], []
    for i, kernel in enumerate(kernels):
        if scales is not None:
            kernel *= tf.cast(scales[i], tf.float32)
        bits = tf.bitcast(tf.reshape(kernel, [-1]), tf.int32) & _TOP
        nans.append(_count(bits > _INFINITY))
        # The first largest weight of each kernel is ranked above all others.
        index = tf.range(sizes[i])
        tied = tf.where(bits == tf.reduce_max(bits), index, sizes[i])
        ranked.append(tf.where(index == tf.reduce_min(tied), _TOP, bits))
    ranked = tf.concat(ranked, 0)

    def try_bit(i: tf.Tensor, smallest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        trial = smallest | tf.bitwise.left_shift(1, i)
        return i - 1, tf.where(_count(ranked >= trial) >= keep, trial, smallest)

    _, smallest = tf.while_loop(lambda i, _: i >= 0, try_bit, (30, 0))
    larger, tied = ranked > smallest, ranked == smallest
    order = tf.cumsum(tf.cast(tied, tf.int32))
    flat = larger | (tied & (order <= keep - _count(larger)))
    masks = tf.split(flat, sizes)
    return [tf.reshape(m, k.shape) for m, k in zip(masks, kernels)], tf.stack(nans)


def _count(flags: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(flags, tf.int32))
