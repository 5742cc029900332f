"""How a sparsity is shared among the kernels of a model.

An allocation says which kernels are ranked together, in one pool, and how many weights
each pool keeps:

    "global"             one pool of all kernels, ranked by magnitude
    "global_normalized"  the same, each kernel's magnitudes divided by its L2 norm
    "uniform"            every kernel by itself, all at the same sparsity
    "erk"                every kernel by itself, large ones sparser than small ones
    {pattern: sparsity}  every kernel by itself, at the final sparsity given for it

    >>> pools("global", ["conv/kernel", "dense/kernel"], [(3, 3, 1, 8), (8, 10)], 0.5)
    [Pool(indices=(0, 1), keep=76)]
    >>> pools("uniform", ["conv/kernel", "dense/kernel"], [(3, 3, 1, 8), (8, 10)], 0.5)
    [Pool(indices=(0,), keep=36), Pool(indices=(1,), keep=40)]
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from dpf_tf import arguments

Allocation = str | dict[str, float]

ALLOCATIONS = ("global", "global_normalized", "uniform", "erk")

_CHUNK = 1 << 16  # Weights converted to float64 at once.
_FLOAT32 = np.finfo(np.float32)


class Pool(NamedTuple):
    """Kernels ranked together.

    Attributes:
        indices: which kernels, by their number.
        keep: how many of their weights stay.
    """

    indices: tuple[int, ...]
    keep: int


def validate(allocation: Any) -> Allocation:
    """Checks an allocation.

    Args:
        allocation: one of the names above, or a dict from regular expressions to final
            sparsities in `[0, 1)`.

    Returns:
        The name, or a plain dict of strings and floats.

    Raises:
        TypeError: if it is neither text nor a dict, or the dict's patterns are not text
            or its values are no numbers.
        ValueError: if the name is unknown, the dict is empty, a pattern is not a
            regular expression or a value lies outside `[0, 1)`.

    Example:
        >>> validate({"conv": 0.5, "dense/kernel$": 0.9})
        {'conv': 0.5, 'dense/kernel$': 0.9}
    """
    known = f"{', '.join(map(repr, ALLOCATIONS))} or a dict {{pattern: sparsity}}"
    if isinstance(allocation, str):
        if allocation not in ALLOCATIONS:
            close = difflib.get_close_matches(allocation.lower(), ALLOCATIONS, n=1)
            raise ValueError(
                f"Unknown allocation {allocation!r}. Expected {known}."
                + (f" Did you mean {close[0]!r}?" if close else "")
            )
        return allocation
    if not isinstance(allocation, Mapping):
        raise TypeError(
            f"`allocation` must be {known}. Received: allocation={allocation!r} "
            f"(of type {type(allocation).__name__})"
        )
    if not allocation:
        raise ValueError(
            "The allocation is an empty dict. Give it a pattern, such as "
            '{"conv": 0.8}, or use "uniform".'
        )
    return {
        _pattern(key): arguments.sparsity(f"The sparsity for the pattern {key!r}", each)
        for key, each in allocation.items()
    }


def check_patterns(allocation: Allocation, paths: Sequence[str]) -> None:
    """Refuses patterns that match no kernel. Other allocations pass.

    Args:
        allocation: a valid allocation.
        paths: the paths of the kernels, such as "block1/conv2d/kernel".

    Raises:
        ValueError: if a pattern is not found in any path.

    Example:
        >>> check_patterns({"conv": 0.5}, ["conv2d/kernel", "dense/kernel"])
    """
    if isinstance(allocation, str):
        return
    idle = [key for key in allocation if not any(re.search(key, p) for p in paths)]
    if idle:
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        raise ValueError(
            f"No kernel matches {', '.join(map(repr, idle))} in the allocation. "
            "Patterns are regular expressions, searched in paths such as "
            f"{', '.join(paths[:5]) or '(there are none)'}{more}."
        )


def keep_count(size: int, sparsity: float, kernels: int = 1) -> int:
    """The number of weights that a pool keeps at a sparsity.

    Args:
        size: weights in the pool.
        sparsity: share of zeros, in `[0, 1)`.
        kernels: kernels in the pool, each of which keeps a weight at least.

    Returns:
        `size - round(sparsity * size)`, or `kernels` where that is more.

    Raises:
        ValueError: if the sparsity lies outside `[0, 1)`.

    Example:
        >>> keep_count(1000, 0.95), keep_count(1000, 0.9999, kernels=3)
        (50, 3)
    """
    # In Python's floats: float32 would miscount a pool of 25 million weights.
    return max(kernels, size - round(_valid(sparsity) * size))


def pools(
    allocation: Allocation,
    paths: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    sparsity: float,
    final_sparsity: float | None = None,
) -> list[Pool]:
    """Shares a sparsity among kernels.

    The sparsities of patterns are final ones. At a moment when the schedule is at
    `sparsity`, a kernel stands at its own times `sparsity / final_sparsity`: it ramps
    as the schedule does. A schedule that ends at 0 has no ramp to follow, and patterns
    then hold from its first update. The first pattern found in a path counts; kernels
    without one follow the schedule itself (end the dict with `"": 0.0` to leave them
    dense).

    Args:
        allocation: a valid allocation.
        paths: the paths of the kernels, in which patterns are searched.
        shapes: their shapes.
        sparsity: share of zeros now, in `[0, 1)`.
        final_sparsity: share of zeros at which the schedule ends. Only patterns need
            it.

    Returns:
        The pools. Each kernel is in one of them.

    Raises:
        ValueError: if a sparsity lies outside `[0, 1)`, paths and shapes differ in
            number, or patterns are given without `final_sparsity`.

    Example:
        Half of the way to the final sparsity of 0.8:

        >>> pools({"dense": 0.9}, ["conv/kernel", "dense/kernel"],
        ...       [(3, 3, 1, 100), (10, 100)], sparsity=0.4, final_sparsity=0.8)
        [Pool(indices=(0,), keep=540), Pool(indices=(1,), keep=550)]

    References:
        "erk": Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML
        2020, section 3 (Erdos-Renyi-Kernel).
    """
    if len(paths) != len(shapes):
        raise ValueError(f"{len(paths)} paths do not go with {len(shapes)} shapes.")
    _valid(sparsity)
    sizes = [math.prod(shape) for shape in shapes]
    if not sizes:
        return []
    if allocation in ("global", "global_normalized"):
        keep = keep_count(sum(sizes), sparsity, len(sizes))
        return [Pool(tuple(range(len(sizes))), keep)]
    if allocation == "uniform":
        counts = [keep_count(size, sparsity) for size in sizes]
    elif allocation == "erk":
        counts = _erk(shapes, keep_count(sum(sizes), sparsity, len(sizes)))
    else:
        patterns = cast(dict[str, float], validate(allocation))
        own = _ramped(patterns, paths, sparsity, final_sparsity)
        counts = [keep_count(size, s) for size, s in zip(sizes, own, strict=True)]
    return [Pool((i,), count) for i, count in enumerate(counts)]


def scales(allocation: Allocation, kernels: Sequence[np.ndarray]) -> list[float] | None:
    """The factors by which magnitudes are multiplied before kernels are ranked.

    Args:
        allocation: a valid allocation.
        kernels: the weights; looked at only for "global_normalized".

    Returns:
        For "global_normalized" one over each kernel's L2 norm, within what float32 can
        hold, and 1 where the norm is zero or not finite. `None` otherwise: magnitudes
        are ranked as they are.

    Example:
        >>> scales("global_normalized", [np.float32([3, 4]), np.zeros(2, np.float32)])
        [0.2, 1.0]
        >>> scales("global", [np.float32([3, 4])]) is None
        True
    """
    if allocation != "global_normalized":
        return None
    factors = []
    for kernel in kernels:
        norm = _norm(kernel)
        factor = 1 / norm if 0 < norm < math.inf else 1.0
        factors.append(min(max(factor, float(_FLOAT32.tiny)), float(_FLOAT32.max)))
    return factors


def _valid(sparsity: Any) -> float:
    return arguments.sparsity("The sparsity", sparsity)


def _pattern(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(
            "The patterns of an allocation must be text, regular expressions that are "
            f"searched in kernels' paths. Received: {key!r} (of type "
            f"{type(key).__name__})"
        )
    try:
        re.compile(key)
    except re.error as error:
        raise ValueError(f"{key!r} is not a regular expression: {error}.") from error
    return key


def _ramped(
    patterns: Mapping[str, float],
    paths: Sequence[str],
    sparsity: float,
    final_sparsity: float | None,
) -> list[float]:
    """The present sparsity of each kernel."""
    if final_sparsity is None:
        raise ValueError(
            "Sparsities by pattern ramp in proportion to the schedule's, which needs a "
            "schedule with a `final_sparsity`. This one has none."
        )
    # Past the final sparsity a pattern does not go: it could reach 1.
    progress = min(1.0, sparsity / final_sparsity) if _valid(final_sparsity) else 1.0
    first = [next((key for key in patterns if re.search(key, p)), None) for p in paths]
    return [sparsity if key is None else patterns[key] * progress for key in first]


def _erk(shapes: Sequence[tuple[int, ...]], keep: int) -> list[int]:
    """Keeps weights in proportion to the sum of a kernel's dimensions: `keep` in all.

    Density is that sum over their product, so the count is the sum times a factor,
    rounded: at most the kernel's size, at least 1. All have the same factor, the one
    with which the counts add up to `keep`. So no count rises when `keep` falls, as by
    largest remainders it would.
    """
    sums = np.array([max(sum(shape), 1) for shape in shapes], float)
    sizes = np.array([math.prod(shape) for shape in shapes])

    def counts(factor: float) -> np.ndarray:
        return np.clip(np.floor(factor * sums + 0.5), 1, sizes).astype(int)

    low, high = 0.0, float((sizes / sums).max()) + 1
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if counts(middle).sum() <= keep else (low, middle)
    # What enters at the very same factor: the first kernels first.
    enters = (counts(high) - counts(low)).cumsum()
    missing = keep - counts(low).sum()
    return (counts(low) + np.diff(enters.clip(max=missing), prepend=0)).tolist()


def _norm(kernel: np.ndarray) -> float:
    """The L2 norm in float64, without a float64 copy of the kernel."""
    flat, squares = kernel.reshape(-1), 0.0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK].astype(np.float64)
        squares += float(chunk @ chunk)
    return math.sqrt(squares)
