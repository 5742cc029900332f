"""The kept weights are exactly those of a plain sort, whatever the weights are."""

from unittest import mock

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpf_tf import threshold
from dpf_tf.threshold import count_flips, keep_largest
from dpf_tf.threshold_xla import keep_largest_xla

DENORMAL = np.float32(1e-45)
TINY = np.finfo(np.float32).tiny
TIED = [0.0, -0.0, 1.0, -1.0, 2.0, np.inf, -np.inf, DENORMAL, -2 * DENORMAL, TINY]
# With these, dozens of weights are handled as millions are: by sample, parts, threads.
SMALL = dict(_SAMPLE=8, _CHUNK=16, _THREADS=2)
REAL = {name: getattr(threshold, name) for name in SMALL}


def by_sorting(kernels, keep, scales=None):
    """The oracle: each kernel's first largest weight, the rest by a stable sort."""
    scales = [1.0] * len(kernels) if scales is None else scales
    scores = [
        (np.abs(k) * np.float32(s)).astype(np.float64).ravel()
        for k, s in zip(kernels, scales, strict=True)
    ]
    ends = np.cumsum([s.size for s in scores])
    kept = np.concatenate([np.arange(s.size) == s.argmax() for s in scores])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    kept[order[~kept[order]][: keep - len(kernels)]] = True
    flat = np.split(kept, ends[:-1])
    return [m.reshape(k.shape) for m, k in zip(flat, kernels, strict=True)]


def assert_same(masks, expected):
    for mask, right in zip(masks, expected, strict=True):
        assert mask.dtype == np.bool_
        assert mask.shape == right.shape
        np.testing.assert_array_equal(mask, right)


@st.composite
def pools(draw):
    """Kernels of any rank and a count to keep."""
    kinds = [
        st.floats(width=32, allow_nan=False),
        st.floats(0, float(TINY), width=32),
        st.sampled_from(TIED),
        st.sampled_from([0.0, 1.0]),
    ]
    elements = draw(st.sampled_from(kinds))
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, max_side=6)
    arrays = hnp.arrays(np.float32, shapes, elements=elements)
    kernels = draw(st.lists(arrays, min_size=1, max_size=8))
    total = sum(kernel.size for kernel in kernels)
    return kernels, draw(st.integers(len(kernels), total))


@pytest.mark.parametrize("sizes", [REAL, SMALL])
@hypothesis.given(pool=pools())
def test_kept_weights_are_those_of_a_stable_sort(sizes, pool):
    with mock.patch.multiple(threshold, **sizes):
        assert_same(keep_largest(*pool), by_sorting(*pool))


@pytest.mark.parametrize("sizes", [REAL, SMALL])
@hypothesis.given(pool=pools(), data=st.data())
def test_scaled_magnitudes_are_ranked_in_float32(sizes, pool, data):
    kernels, keep = pool
    positive = st.floats(2.0**-100, 2.0**100, width=32)
    scales = data.draw(st.lists(positive, min_size=len(kernels), max_size=len(kernels)))
    with np.errstate(over="ignore", under="ignore"):
        expected = by_sorting(kernels, keep, scales)
    with mock.patch.multiple(threshold, **sizes):
        assert_same(keep_largest(kernels, keep, scales=scales), expected)


@hypothesis.given(pools())
def test_count_is_exact_and_no_kernel_is_empty(pool):
    kernels, keep = pool
    before = [kernel.copy() for kernel in kernels]
    masks = keep_largest(kernels, keep)
    assert sum(int(mask.sum()) for mask in masks) == keep
    assert all(mask.any() for mask in masks)
    np.testing.assert_equal(kernels, before)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, DENORMAL, np.inf])
def test_of_equal_weights_the_first_are_kept(value):
    kernels = [np.full((3, 4), value, np.float32), np.full(5, -value, np.float32)]
    masks = keep_largest(kernels, 8)
    assert masks[0].ravel().tolist() == [True] * 7 + [False] * 5
    assert masks[1].tolist() == [True] + [False] * 4


@pytest.mark.parametrize(
    ("weights", "keep", "expected"),
    [
        pytest.param([-0.0, 0, -0.0, 0], 2, [1, 1, 0, 0], id="zeros of both signs"),
        pytest.param(np.multiply([1, 3, 0, -2], DENORMAL), 2, [0, 1, 0, 1], id="tiny"),
        pytest.param([3e38, -np.inf, 1, np.inf], 2, [0, 1, 0, 1], id="infinities"),
    ],
)
def test_special_weights_are_ranked_right(weights, keep, expected):
    (mask,) = keep_largest([np.float32(weights)], keep)
    assert mask.tolist() == list(map(bool, expected))


def test_one_weight_is_kept():
    masks = keep_largest([np.float32(0.0), np.zeros((1, 1), np.float32)], 2)
    assert [(mask.shape, mask.item()) for mask in masks] == [((), True), ((1, 1), True)]


def test_order_is_that_of_the_array_not_of_its_memory():
    kernel = np.zeros((3, 4), np.float32).T[::-1]
    assert keep_largest([kernel], 4)[0].ravel().tolist() == [True] * 4 + [False] * 8


NORMAL = np.random.default_rng(0).standard_normal(1_000_003, dtype=np.float32)
INDEX = np.arange(NORMAL.size)
HARD = {
    "ascending": [np.sort(np.abs(NORMAL))],
    "descending": [np.sort(np.abs(NORMAL))[::-1]],
    "two values": [np.where(NORMAL > 1, 2, 1).astype(np.float32)],
    "mostly zeros": [np.where(NORMAL > 1, NORMAL, 0)],
    "all equal": [np.ones_like(NORMAL)],
    "hidden large": [np.where(INDEX % 7, NORMAL, NORMAL * np.float32(1e-3))],
    "hidden small": [np.where(INDEX % 7, NORMAL, NORMAL * np.float32(1e3))],
    "one huge, many tiny": [NORMAL, *np.full((300, 2), 1e-6, np.float32)],
    "many tiny first": [*np.full((300, 2), 1e-6, np.float32), NORMAL],
    "channels": [NORMAL[:1_000_000].reshape(-1, 8) * np.float32(10.0 ** np.arange(8))],
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.9995])
def test_large_pools_are_exact(name, sparsity):
    kernels = HARD[name]
    total = sum(kernel.size for kernel in kernels)
    keep = total - round(sparsity * total)
    assert_same(keep_largest(kernels, keep), by_sorting(kernels, keep))


def test_a_misleading_sample_costs_passes_not_exactness():
    passes = mock.Mock(wraps=threshold._in_threads)
    with mock.patch.object(threshold, "_in_threads", passes):
        for keep in (1, 100_000, NORMAL.size):
            passes.reset_mock()
            keep_largest([NORMAL], keep)
            assert passes.call_count == 1
        keep_largest(HARD["hidden small"], 500_000)
        assert passes.call_count > 2


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_threshold_is_that_of_np_partition(sparsity):
    keep = NORMAL.size - round(sparsity * NORMAL.size)
    smallest = np.partition(np.abs(NORMAL), NORMAL.size - keep)[NORMAL.size - keep]
    (mask,) = keep_largest([NORMAL], keep)
    assert np.count_nonzero(mask) == keep
    assert np.abs(NORMAL[mask]).min() == smallest
    assert np.abs(NORMAL[~mask]).max() <= smallest


@pytest.mark.parametrize("sizes", [REAL, SMALL])
@pytest.mark.parametrize("nan", [np.nan, -np.nan])
@pytest.mark.parametrize("scales", [None, [1.0, 2.0]])
def test_nan_is_refused_by_name_and_count(sizes, nan, scales):
    kernels = [np.ones(40, np.float32), np.ones((5, 8), np.float32)]
    kernels[1][3, 2:4] = nan
    with mock.patch.multiple(threshold, **sizes):
        with pytest.raises(ValueError, match=r"NaN.*: dense/kernel \(2\)\."):
            names = ["conv/kernel", "dense/kernel"]
            keep_largest(kernels, 10, names=names, scales=scales)
        with pytest.raises(ValueError, match=r"NaN.*: 1 \(2\)\."):
            keep_largest(kernels, 2, scales=scales)


ONE = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("kernels", "keep", "options", "error", "says"),
    [
        ([], 0, {}, ValueError, "0 kernels"),
        ([ONE, ONE[:0]], 2, {}, ValueError, r"Kernel 1 has no weights.*\(0,\)"),
        ([ONE, ONE], 1, {}, ValueError, "between 2.* and 6.*keep=1"),
        ([ONE], 0, {}, ValueError, "keep=0"),
        ([ONE], 4, {}, ValueError, "between 1.* and 3.*keep=4"),
        ([ONE], 1.5, {}, TypeError, "float"),
        ([ONE.astype(np.float16)], 1, {}, TypeError, "ranks 0 is float16.*float32"),
        ([ONE.astype(np.float64)], 1, {}, TypeError, "ranks 0 is float64.*float32"),
        ([tf.constant(ONE, tf.bfloat16)], 1, {}, TypeError, "is bfloat16.*float32"),
        ([ONE], 1, {"names": ["a", "b"]}, ValueError, "1 kernels, 2 names"),
        ([ONE], 1, {"scales": [1.0, 1.0]}, ValueError, "1 numbers"),
        ([ONE], 1, {"scales": [0.0]}, ValueError, "positive"),
        ([ONE], 1, {"scales": [-1.0]}, ValueError, "positive"),
        ([ONE], 1, {"scales": [1e-60]}, ValueError, "float32"),
        ([ONE], 1, {"scales": [1e60]}, ValueError, "float32"),
        ([ONE], 1, {"scales": [np.nan]}, ValueError, "finite"),
    ],
)
def test_what_cannot_be_ranked_is_refused(kernels, keep, options, error, says):
    with pytest.raises(error, match=says):
        keep_largest(kernels, keep, **options)


@hypothesis.given(st.data())
def test_flips_are_the_differing_entries(data):
    shapes = data.draw(st.lists(hnp.array_shapes(min_dims=0, max_side=4), max_size=9))
    old, new = ([data.draw(hnp.arrays(bool, s)) for s in shapes] for _ in range(2))
    expected = sum(int((a ^ b).sum()) for a, b in zip(old, new, strict=True))
    with mock.patch.multiple(threshold, **SMALL):
        assert count_flips(old, new) == count_flips(new, old) == expected
        assert count_flips(old, old) == 0


@pytest.mark.parametrize("new", [[], [np.ones(3, bool)]])
def test_flips_of_unlike_masks_are_refused(new):
    with pytest.raises(ValueError, match=r"\(2,\)"):
        count_flips([np.ones(2, bool)], new)


# Few shapes for the compiled form: every new one is compiled.
SHAPES = [(3, 3, 2, 4), (5,), (), (7, 6)]
TOTAL = 120
select = tf.function(keep_largest_xla, jit_compile=True)


@pytest.fixture(scope="module", params=["normal", "tied", "denormal", "zero", "small"])
def xla_kernels(request):
    rng = np.random.default_rng(1)
    make = {
        "normal": lambda shape: rng.standard_normal(shape),
        "tied": lambda shape: rng.choice(TIED, shape),
        "denormal": lambda shape: rng.integers(-9, 9, shape) * float(DENORMAL),
        "zero": lambda shape: np.zeros(shape),
        # All but the first kernel far below it.
        "small": lambda shape: rng.standard_normal(shape) * (1e-9 ** (len(shape) < 4)),
    }[request.param]
    return [np.asarray(make(shape), np.float32) for shape in SHAPES]


def test_compiled_form_is_equal_bit_for_bit(xla_kernels):
    tensors = [tf.constant(kernel) for kernel in xla_kernels]
    for keep in [*range(len(SHAPES), TOTAL, 7), TOTAL]:
        masks, nans = select(tensors, tf.constant(keep))
        assert_same([mask.numpy() for mask in masks], keep_largest(xla_kernels, keep))
        assert nans.numpy().tolist() == [0] * len(SHAPES)


def test_compiled_form_is_equal_with_scales():
    rng = np.random.default_rng(2)
    tensors = [rng.choice([1, -3, 0.7, 1e-3], s).astype(np.float32) for s in SHAPES]
    for _ in range(20):
        scales = rng.lognormal(size=len(SHAPES)).astype(np.float32)
        keep = int(rng.integers(len(SHAPES), TOTAL))
        masks, _ = select(tensors, tf.constant(keep), scales=tf.constant(scales))
        expected = keep_largest(tensors, keep, scales=scales.tolist())
        assert_same([mask.numpy() for mask in masks], expected)


def test_compiled_form_is_traced_once_for_all_counts():
    function = tf.function(keep_largest_xla, jit_compile=True)
    for keep in (1, 2, 5):
        function([tf.ones(5)], tf.constant(keep))
    assert function.experimental_get_tracing_count() == 1


def test_compiled_form_counts_nan_in_each_kernel():
    kernels = [np.ones(shape, np.float32) for shape in SHAPES]
    kernels[0][1, 2, 0, :3] = np.nan
    kernels[2][()] = -np.nan
    _, nans = select([tf.constant(kernel) for kernel in kernels], tf.constant(50))
    assert nans.numpy().tolist() == [3, 0, 1, 0]


def test_eager_form_is_equal():
    masks, nans = keep_largest_xla([ONE, -ONE], 3)
    assert_same([mask.numpy() for mask in masks], keep_largest([ONE, -ONE], 3))
    assert nans.dtype == tf.int32


@pytest.mark.parametrize(
    ("shapes", "dtype", "error", "says"),
    [
        ([], tf.float32, ValueError, "none empty"),
        ([(3,), (0, 2)], tf.float32, ValueError, r"\(0, 2\)"),
        ([(None, 2)], tf.float32, ValueError, r"\(None, 2\)"),
        ([(2**16, 2**14), (2**16, 2**14)], tf.float32, ValueError, "2\\*\\*31"),
        ([(3,)], tf.float16, TypeError, "float16"),
    ],
)
def test_compiled_form_refuses_at_the_trace(shapes, dtype, error, says):
    specs = [tf.TensorSpec(shape, dtype) for shape in shapes]
    with pytest.raises(error, match=says):
        select.get_concrete_function(specs, tf.TensorSpec([], tf.int32))
