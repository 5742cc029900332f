"""Which weights stay: exactly `keep` of a pool of kernels, by largest magnitude.

A float32's bits without the sign, read as an integer, are ordered as its magnitude is.
So all ranking here is of integers: denormals are ranked right even where the processor
flushes them to zero, and -0.0 ties with 0.0.

    >>> import numpy as np
    >>> kernels = [np.float32([[0.3, -2.0], [0.1, 0.0]]), np.float32([0.5, -0.4])]
    >>> [mask.astype(int).tolist() for mask in keep_largest(kernels, keep=3)]
    [[[0, 1], [0, 0]], [1, 1]]

This is for arrays in the host's memory; `threshold_xla` gives the same masks, bit for
bit, of tensors on an accelerator.
"""

from __future__ import annotations

import functools
import operator
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

TOP = 0x7FFFFFFF  # No magnitude has larger bits. As a mask, it drops the sign.
INFINITY = 0x7F800000  # Larger bits are NaN.
# Weights handled at once: few enough for a core's cache, enough for a thread's while.
_CHUNK = 1 << 18
_SAMPLE = 1 << 17
_THREADS = min(os.cpu_count() or 1, 4)
_ALIGN = 64  # Bytes: what TensorFlow asks of memory that it shares.


class _Part(NamedTuple):
    """A stretch of one kernel, and what a scan saw in it."""

    kernel: int
    weights: np.ndarray
    scale: np.float32 | None
    mask: np.ndarray
    position: int  # Of its first mask entry in the buffer of all masks.
    largest: int = 0  # Bits of the largest magnitude.
    above: int = 0  # How many magnitudes lie above the bracket,
    inside: int = 0  # and how many in it:
    positions: Any = None  # where, in index order,
    bits: Any = None  # and which.


def keep_largest(
    kernels: Sequence[np.ndarray],
    keep: int,
    *,
    scales: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Marks the `keep` weights of largest magnitude in one pool of kernels.

    A sample brackets the smallest magnitude to keep. One pass over the weights marks
    what lies above the bracket and collects what lies inside, a percent or so; only
    that is ranked. Where the sample misled, the bracket is moved and widened and the
    pass repeated, so that the result is exact for every input.

    Args:
        kernels: float32 arrays of any shape, none of them empty.
        keep: how many weights of the pool to keep, from one per kernel to all.
        scales: a positive factor per kernel. `abs(w) * np.float32(scale)`, computed in
            float32, is then ranked in place of the magnitude.
        names: what error messages call the kernels; by default their numbers.

    Returns:
        A bool array of the same shape per kernel, with `keep` entries True in all. The
        larger magnitude is kept; of equals that of the earlier kernel, or the earlier
        in C order. Each kernel keeps at least its (first) largest weight. The arrays
        share one buffer and are aligned for TensorFlow to take them without a copy.

    Raises:
        TypeError: if a kernel is not float32, or `keep` is no integer.
        ValueError: if there is no kernel, one is empty or holds NaN, `keep` is out of
            range, or `scales` or `names` do not fit.

    Example:
        The second kernel has only small weights, and still keeps one:

        >>> large, small = np.float32([3, -2, 1]), np.float32([0.1, -0.2])
        >>> [mask.tolist() for mask in keep_largest([large, small], 2)]
        [[True, False, False], [False, True]]
    """
    kernels = [np.asarray(kernel) for kernel in kernels]
    names = [str(i) for i in range(len(kernels))] if names is None else names
    keep = operator.index(keep)
    _check(kernels, names, keep)
    masks, buffer, parts = _cut(kernels, _float32(scales, len(kernels)))
    low, high = _bracket(parts, keep)
    widening = 1
    while True:
        parts = _in_threads(functools.partial(_scan, low=low, high=high), parts)
        if max(part.largest for part in parts) > INFINITY:
            refuse_nan([int(np.count_nonzero(np.isnan(k))) for k in kernels], names)
        # A kernel with nothing above the bracket is given its (first) largest weight.
        forced = _largest_of_empty(parts)
        buffer[list(forced)] = True
        missing = keep - sum(part.above for part in parts) - len(forced)
        free = sum(part.inside for part in parts)
        free -= sum(bits > low for bits in forced.values())
        if missing < 0:
            low, high = high, min(high + widening, TOP)
        elif missing > free:
            low, high = max(low - widening, -1), low
        else:
            break
        widening <<= 10  # At first to the ties of one value, then ever further.
    if high - low == 1:
        _mark_ties(parts, high, missing)
    elif missing:
        _mark_inside(parts, buffer, missing, bool(forced))
    return masks


def refuse_nan(counts: Sequence[int], names: Sequence[str]) -> None:
    """Raises ValueError if a kernel holds NaN, which has no rank.

    Args:
        counts: the number of NaN in each kernel.
        names: what to call the kernels.

    Raises:
        ValueError: if a count is not zero.

    Example:
        >>> refuse_nan([0, 0], ["conv/kernel", "dense/kernel"])
    """
    bad = [f"{name} ({n})" for name, n in zip(names, counts, strict=True) if n]
    if bad:
        raise ValueError(
            f"NaN cannot be ranked. What ranks these holds NaN (how many): "
            f"{', '.join(bad)}. If it is the kernels, the training has diverged: "
            "restore an earlier checkpoint, then lower the learning rate or clip the "
            "gradients. If it is scores of your own, look at how they are made."
        )


def count_flips(old: Sequence[np.ndarray], new: Sequence[np.ndarray]) -> int:
    """Counts the entries in which two lists of masks differ.

    Args:
        old: bool arrays.
        new: as many bool arrays, of the same shapes.

    Returns:
        The number of differing entries over all arrays.

    Raises:
        ValueError: if the lists differ in length, or two arrays in shape.

    Example:
        >>> count_flips([np.array([True, False])], [np.array([False, True])])
        2
    """
    shapes = [mask.shape for mask in old], [mask.shape for mask in new]
    if shapes[0] != shapes[1]:
        raise ValueError(f"Masks of shapes {shapes[0]} and {shapes[1]} do not compare.")
    pairs = [
        (a.reshape(-1)[i : i + _CHUNK], b.reshape(-1)[i : i + _CHUNK])
        for a, b in zip(old, new, strict=True)
        for i in range(0, a.size, _CHUNK)
    ]
    return sum(_in_threads(lambda p: int(np.count_nonzero(p[0] != p[1])), pairs))


def _check(kernels: list[np.ndarray], names: Sequence[str], keep: int) -> None:
    if len(names) != len(kernels) or not kernels:
        raise ValueError(
            f"Expected kernels and a name for each. Received: {len(kernels)} kernels, "
            f"{len(names)} names"
        )
    for name, kernel in zip(names, kernels, strict=True):
        if kernel.dtype != np.float32:
            raise TypeError(
                f"What ranks {name} is {kernel.dtype}, expected float32. Rank the "
                "float32 variable itself: rounding to another type makes and breaks "
                "ties. Scores of your own: `scores.astype(np.float32)`."
            )
        if not kernel.size:
            raise ValueError(f"Kernel {name} has no weights. Its shape: {kernel.shape}")
    total = sum(kernel.size for kernel in kernels)
    if not len(kernels) <= keep <= total:
        raise ValueError(
            f"`keep` must lie between {len(kernels)}, one weight for each kernel, and "
            f"{total}, all weights of the pool. Received: keep={keep}"
        )


def _float32(scales: Sequence[float] | None, count: int) -> list[Any]:
    if scales is None:
        return [None] * count
    with np.errstate(over="ignore", under="ignore"):
        rounded = [np.float32(scale) for scale in scales]
    if len(rounded) != count or not all(0 < scale < np.inf for scale in rounded):
        raise ValueError(
            f"`scales` must be {count} numbers, one per kernel, positive and finite in "
            f"float32. Received: scales={list(scales)}"
        )
    return rounded


def _cut(
    kernels: list[np.ndarray], scales: list[Any]
) -> tuple[list[np.ndarray], np.ndarray, list[_Part]]:
    """Makes masks, in one buffer (a large one has few page faults), and parts."""
    starts = np.cumsum([0] + [-(-k.size // _ALIGN) * _ALIGN for k in kernels]).tolist()
    buffer = np.empty(starts[-1] + _ALIGN, np.bool_)
    buffer = buffer[-buffer.ctypes.data % _ALIGN :]
    masks, parts = [], []
    for i, kernel in enumerate(kernels):
        weights, mask = kernel.reshape(-1), buffer[starts[i] :][: kernel.size]
        for a in range(0, kernel.size, _CHUNK):
            cut = slice(a, a + _CHUNK)
            parts.append(_Part(i, weights[cut], scales[i], mask[cut], starts[i] + a))
        masks.append(mask.reshape(kernel.shape))
    return masks, buffer, parts


def _bits(weights: np.ndarray, scale: np.float32 | None) -> np.ndarray:
    if scale is not None:
        with np.errstate(all="ignore"):  # Set per thread. NaN is refused later.
            weights = weights * scale
    return np.bitwise_and(weights.view(np.int32), TOP)


def _bracket(parts: list[_Part], keep: int) -> tuple[int, int]:
    """Guesses a bracket (low, high] around the smallest magnitude to keep."""
    total = sum(part.weights.size for part in parts)
    if total <= _SAMPLE:
        return -1, TOP
    # An odd stride does not fall on the same few channels of every filter.
    stride = total // _SAMPLE | 1
    picked = [(p.weights[-p.position % stride :: stride], p.scale) for p in parts]
    sample = np.concatenate([_bits(*weights) for weights in picked])
    share = 1 - keep / total
    # Three standard deviations of the sampled rank to either side.
    spread = 3 * (sample.size * share * (1 - share)) ** 0.5 + 1
    ranks = sample.size * share + np.array([-spread, spread])
    ends = np.clip(ranks, 0, sample.size - 1).astype(int)
    sample.partition(ends)
    low = int(sample[ends[0]]) if ranks[0] > 0 else -1
    high = int(sample[ends[1]]) if ranks[1] < sample.size else TOP
    # The upper end is left out, as the lower is: a tie of very many weights, perhaps.
    return (low, high - 1) if high - low > 1 else (high - 1, high)


def _in_threads(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Maps the items; NumPy lets threads run side by side in large arrays."""
    results: list[Any] = [None] * len(items)
    waiting = deque(range(len(items)))

    def work(_: int) -> None:
        while True:
            try:
                i = waiting.popleft()
            except IndexError:
                return
            results[i] = function(items[i])

    threads = min(_THREADS, len(items) // 4)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
    else:
        work(0)
    return results


def _scan(part: _Part, low: int, high: int) -> _Part:
    """Marks what lies above (low, high]; counts, and collects, what lies inside."""
    bits = _bits(part.weights, part.scale)
    np.greater(bits, high, out=part.mask)
    inside = bits > low
    np.not_equal(inside, part.mask, out=inside)
    above = int(np.count_nonzero(part.mask))
    seen = part._replace(largest=int(bits.max()), above=above)
    if high - low == 1:  # One value: ties, which may be all weights, are only counted.
        return seen._replace(inside=int(np.count_nonzero(inside)))
    at = inside.nonzero()[0]
    return seen._replace(inside=at.size, positions=at + part.position, bits=bits[at])


def _largest_of_empty(parts: list[_Part]) -> dict[int, int]:
    """Maps position to bits: the first largest weight of kernels with none above."""
    above: dict[int, int] = {}
    best: dict[int, _Part] = {}
    for part in parts:
        above[part.kernel] = above.get(part.kernel, 0) + part.above
        if part.largest > best.setdefault(part.kernel, part).largest:
            best[part.kernel] = part
    return {
        part.position + int(_bits(part.weights, part.scale).argmax()): part.largest
        for kernel, part in best.items()
        if not above[kernel]
    }


def _mark_inside(
    parts: list[_Part], buffer: np.ndarray, missing: int, forced: bool
) -> None:
    """Marks the `missing` largest of what was collected."""
    positions = np.concatenate([part.positions for part in parts])
    bits = np.concatenate([part.bits for part in parts])
    if forced:
        bits[buffer[positions]] = -1  # Those given to kernels are marked already.
    smallest = np.partition(bits, bits.size - missing)[bits.size - missing]
    larger = np.flatnonzero(bits > smallest)
    tied = np.flatnonzero(bits == smallest)[: missing - larger.size]
    buffer[positions[larger]] = True
    buffer[positions[tied]] = True


def _mark_ties(parts: list[_Part], bits: int, missing: int) -> None:
    """Marks the first `missing` weights with these bits."""
    for part in parts:
        if not missing:
            return
        equal = _bits(part.weights, part.scale) == bits
        at = np.flatnonzero(equal & ~part.mask)[:missing]
        part.mask[at] = True
        missing -= at.size
