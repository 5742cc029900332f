"""A sparsity is shared exactly: totals, ramps, and no kernel without a weight."""

import math
import re
import tracemalloc

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpf_tf.allocation import (
    ALLOCATIONS,
    Pool,
    check_patterns,
    keep_count,
    pools,
    scales,
    validate,
)

sparsities = st.floats(0, 1, exclude_max=True)
shape_lists = st.lists(
    hnp.array_shapes(min_dims=0, max_dims=4, max_side=40), min_size=1, max_size=20
)
PATHS = ["stem/conv/kernel", "block1/conv/kernel", "block1/dense/kernel", "head/kernel"]
SHAPES = [(3, 3, 3, 16), (3, 3, 16, 16), (16, 64), (64, 10)]


def paths_of(shapes):
    return [f"layer{i}/kernel" for i in range(len(shapes))]


def sizes_of(shapes):
    return [math.prod(shape) for shape in shapes]


def shared(allocation, shapes, sparsity, final_sparsity=None):
    return pools(allocation, paths_of(shapes), shapes, sparsity, final_sparsity)


@hypothesis.given(st.integers(1, 10**8), sparsities, st.integers(1, 5))
def test_keep_count_is_that_of_the_rounded_share(size, sparsity, kernels):
    keep = keep_count(size, sparsity, min(kernels, size))
    assert min(kernels, size) <= keep <= size
    if keep > kernels:
        assert keep == size - round(size * sparsity)


def test_keep_count_does_not_round_through_float32():
    assert keep_count(25_502_912, 0.9) == 2_550_291
    assert keep_count(25_502_913, 0.5) == 25_502_913 - round(12_751_456.5)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 90, math.nan])
def test_sparsities_outside_the_range_are_refused(sparsity):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        keep_count(10, sparsity)
    for allocation in (*ALLOCATIONS, {"kernel": 0.5}):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            pools(allocation, PATHS, SHAPES, sparsity, 0.9)


@hypothesis.given(st.sampled_from(ALLOCATIONS), shape_lists, sparsities)
def test_each_kernel_is_in_one_pool_and_can_keep_a_weight(name, shapes, sparsity):
    made = shared(name, shapes, sparsity)
    assert sorted(i for p in made for i in p.indices) == list(range(len(shapes)))
    for pool in made:
        size = sum(math.prod(shapes[i]) for i in pool.indices)
        assert len(pool.indices) <= pool.keep <= size
        assert isinstance(pool.keep, int)


@pytest.mark.parametrize("name", ["global", "global_normalized"])
@hypothesis.given(shapes=shape_lists, sparsity=sparsities)
def test_global_is_one_pool(name, shapes, sparsity):
    keep = keep_count(sum(sizes_of(shapes)), sparsity, len(shapes))
    assert shared(name, shapes, sparsity) == [Pool(tuple(range(len(shapes))), keep)]


@hypothesis.given(shape_lists, sparsities)
def test_uniform_gives_each_kernel_its_own_exact_count(shapes, sparsity):
    assert shared("uniform", shapes, sparsity) == [
        Pool((i,), keep_count(size, sparsity))
        for i, size in enumerate(sizes_of(shapes))
    ]


@hypothesis.given(shape_lists, sparsities)
def test_erk_keeps_exactly_the_total(shapes, sparsity):
    made = shared("erk", shapes, sparsity)
    total = keep_count(sum(sizes_of(shapes)), sparsity, len(shapes))
    assert sum(pool.keep for pool in made) == total
    for pool, size in zip(made, sizes_of(shapes), strict=True):
        assert 1 <= pool.keep <= size


def erdos_renyi_kernel(shapes, keep):
    """Section 3 of Evci et al. 2020, by the letter: the counts before rounding."""
    dense = set()
    while True:
        free = [i for i in range(len(shapes)) if i not in dense]
        left = keep - sum(math.prod(shapes[i]) for i in dense)
        raw = {i: sum(shapes[i]) / math.prod(shapes[i]) for i in free}
        factor = left / sum(raw[i] * math.prod(shapes[i]) for i in free)
        over = {i for i in free if factor * raw[i] > 1}
        if not over:
            break
        dense |= over
    return [
        math.prod(s) if i in dense else factor * sum(s) for i, s in enumerate(shapes)
    ]


@hypothesis.given(
    st.lists(hnp.array_shapes(max_dims=4, min_side=2, max_side=40), min_size=1),
    st.floats(0.01, 0.8),
)
def test_erk_follows_the_paper(shapes, sparsity):
    keep = keep_count(sum(sizes_of(shapes)), sparsity, len(shapes))
    expected = erdos_renyi_kernel(shapes, keep)
    hypothesis.assume(min(expected) >= 1)  # The paper lets kernels become empty.
    # All are rounded with one factor, which may make up for half a weight of each.
    factor = 1 + len(shapes) / keep
    for pool, count in zip(shared("erk", shapes, sparsity), expected, strict=True):
        assert count / factor - 0.5 <= pool.keep <= count * factor + 0.5


def test_erk_of_known_shapes():
    # A dense layer of 8 x 8 has 16 units of the sum, one of 64 x 64 has 128: at 80 % in
    # all, 832 weights stay and the small one is dense.
    assert shared("erk", [(8, 8), (64, 64)], 0.8) == [Pool((0,), 64), Pool((1,), 768)]
    assert shared("erk", [(8, 8), (64, 64)], 0.95) == [Pool((0,), 23), Pool((1,), 185)]


@hypothesis.given(
    st.sampled_from(ALLOCATIONS), shape_lists, st.tuples(sparsities, sparsities)
)
@hypothesis.example("erk", [(2, 2), (2, 8), (2, 8)], (15 / 36, 16 / 36))
def test_more_sparsity_never_keeps_more_of_any_kernel(name, shapes, pair):
    low, high = sorted(pair)
    less, more = shared(name, shapes, high), shared(name, shapes, low)
    assert sum(p.keep for p in less) <= sum(p.keep for p in more)
    for a, b in zip(less, more, strict=True):
        assert a.keep <= b.keep


def kept(made):
    return [pool.keep for pool in made]


def test_first_matching_pattern_counts_and_others_follow_the_schedule():
    allocation = {"block1": 0.5, "dense|conv": 0.9}
    made = pools(allocation, PATHS, SHAPES, 0.8, 0.8)
    expected = [0.9, 0.5, 0.5, 0.8]
    assert kept(made) == [
        keep_count(n, s) for n, s in zip(sizes_of(SHAPES), expected, strict=True)
    ]


@hypothesis.given(st.floats(0, 0.99), st.floats(0.01, 0.99), st.floats(0, 1))
def test_patterns_ramp_as_the_schedule_does(target, final, progress):
    made = pools({"conv": target}, PATHS, SHAPES, progress * final, final)
    conv, dense = math.prod(SHAPES[1]), math.prod(SHAPES[2])
    assert abs(made[1].keep - (conv - target * progress * conv)) <= 1
    assert made[2].keep == keep_count(dense, progress * final)


def test_patterns_reach_their_sparsity_exactly_and_stay():
    for sparsity in (0.8, 0.95):  # At the end, and where a schedule starts above it.
        made = pools({"conv": 0.9}, PATHS, SHAPES, sparsity, 0.8)
        assert made[1].keep == keep_count(math.prod(SHAPES[1]), 0.9)


def test_patterns_hold_at_once_under_a_schedule_that_ends_dense():
    made = pools({"conv": 0.9}, PATHS, SHAPES, 0.0, 0.0)
    assert made[0].keep == keep_count(math.prod(SHAPES[0]), 0.9)
    assert made[3].keep == math.prod(SHAPES[3])


def test_an_empty_pattern_leaves_the_others_dense():
    made = pools({"conv": 0.9, "": 0.0}, PATHS, SHAPES, 0.9, 0.9)
    assert kept(made)[2:] == sizes_of(SHAPES)[2:]


def test_patterns_need_a_final_sparsity():
    with pytest.raises(ValueError, match="final_sparsity"):
        pools({"conv": 0.9}, PATHS, SHAPES, 0.5)


def test_paths_and_shapes_must_agree():
    with pytest.raises(ValueError, match="4 paths.* 3 shapes"):
        pools("global", PATHS, SHAPES[:3], 0.5)


@pytest.mark.parametrize("allocation", [*ALLOCATIONS, {"conv": 0.5}])
def test_no_kernels_make_no_pools(allocation):
    assert pools(allocation, [], [], 0.5, 0.5) == []


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_known_names_are_valid(allocation):
    assert validate(allocation) == allocation


def test_valid_dict_becomes_a_plain_one():
    given = {"a": np.float32(0.5), "b": 0}
    made = validate(given)
    assert made == {"a": 0.5, "b": 0.0}
    assert made is not given
    assert [type(value) for value in made.values()] == [float, float]


@pytest.mark.parametrize(
    ("allocation", "error", "says"),
    [
        ("Globl", ValueError, "Unknown.*'uniform', 'erk'.*Did you mean 'global'"),
        ("ERK", ValueError, "Did you mean 'erk'"),
        ("xyz", ValueError, r"'xyz'\. Expected 'global'.*sparsity}\.$"),
        (0.9, TypeError, "0.9 .of type float"),
        (None, TypeError, "None"),
        ({}, ValueError, "empty dict"),
        ({"conv": 1.0}, ValueError, r"'conv'.*\[0, 1\).*1.0"),
        ({"conv": -0.1}, ValueError, "-0.1"),
        ({"conv": math.nan}, ValueError, "nan"),
        ({"conv": "0.9"}, TypeError, "'conv'.*number.*'0.9'"),
        ({"conv": True}, TypeError, "bool"),
        ({3: 0.9}, TypeError, "text.*3 .of type int"),
        ({re.compile("a"): 0.9}, TypeError, "text.*Pattern"),
        ({"conv(": 0.9}, ValueError, r"'conv\(' is not a regular expression: missing"),
    ],
)
def test_wrong_allocations_are_refused(allocation, error, says):
    with pytest.raises(error, match=says):
        validate(allocation)


def test_patterns_without_a_kernel_are_refused():
    check_patterns({"conv": 0.5, "^head": 0.5}, PATHS)
    for name in ALLOCATIONS:
        check_patterns(name, [])
    with pytest.raises(ValueError, match=r"'lstm', '\^kernel' in .*stem/conv/kernel"):
        check_patterns({"conv": 0.5, "lstm": 0.5, "^kernel": 0.5}, PATHS)
    with pytest.raises(ValueError, match="and 3 more"):
        check_patterns({"lstm": 0.5}, PATHS * 2)
    with pytest.raises(ValueError, match="there are none"):
        check_patterns({"lstm": 0.5}, [])


@hypothesis.given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, max_side=30),
        elements=st.floats(width=32),
    )
)
def test_scale_is_one_over_the_norm_and_fit_for_float32(kernel):
    (scale,) = scales("global_normalized", [kernel])
    assert isinstance(scale, float)
    assert 0 < np.float32(scale) < np.inf
    norm = np.sqrt(np.sum(np.square(kernel.astype(np.longdouble))))
    if not 0 < norm < np.inf:
        assert scale == 1.0
    elif 1e-38 < norm < 1e37:
        assert scale == pytest.approx(float(1 / norm))


def test_scales_are_none_unless_normalized():
    for allocation in ("global", "uniform", "erk", {"conv": 0.5}):
        assert scales(allocation, [np.ones(3, np.float32)]) is None


def test_norms_need_no_large_temporaries():
    kernel = np.ones((1000, 1000), np.float32)
    tracemalloc.start()
    try:
        assert scales("global_normalized", [kernel]) == [1e-3]
        assert tracemalloc.get_traced_memory()[1] < kernel.nbytes / 2
    finally:
        tracemalloc.stop()
