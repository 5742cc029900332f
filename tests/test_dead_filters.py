"""Filters that are pruned as a whole get no longer gradients than those that live."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import dpf_tf
from dpf_tf.feedback import bounded

KERNELS = {  # Layer, shape of its inputs, the axes within a filter.
    "Dense": (lambda k: k.Dense(6), (5,), (0,)),
    "Conv2D": (lambda k: k.Conv2D(6, 3), (8, 8, 4), (0, 1, 2)),
    "Conv2DTranspose": (lambda k: k.Conv2DTranspose(6, 3), (8, 8, 4), (0, 1, 3)),
    "DepthwiseConv2D": (lambda k: k.DepthwiseConv2D(3), (8, 8, 6), (0, 1)),
}


def rms(x):
    return np.sqrt(np.mean(np.square(x, dtype=np.float64)))


@hypothesis.given(
    kernel=st.integers(1, 8).flatmap(
        lambda n: st.lists(
            st.lists(st.sampled_from([-3.0, 0.0, 0.5, 300.0]), min_size=n, max_size=n),
            min_size=1,
            max_size=6,
        )
    ),
    seed=st.integers(0, 99),
)
def test_one_factor_bounds_the_dead_filters_and_nothing_else(kernel, seed):
    gradient = np.array(kernel, np.float32)
    mask = np.random.default_rng(seed).random(gradient.shape) < 0.2
    found = bounded(tf.constant(gradient), tf.constant(mask), (1,)).numpy()
    living, lengths = mask.any(0), np.linalg.norm(gradient, axis=0)
    longest = lengths.max(where=living, initial=0)
    if longest == 0 or lengths.max() <= longest:
        np.testing.assert_array_equal(found, gradient)
    else:
        np.testing.assert_array_equal(found[:, living], gradient[:, living])
        expected = longest / lengths.max() * gradient[:, ~living]
        np.testing.assert_allclose(found[:, ~living], expected, rtol=1e-5)


@pytest.mark.parametrize("layer", KERNELS)
def test_the_filters_are_those_of_the_layer(keras, layer):
    make, shape, within = KERNELS[layer]
    inputs = np.random.default_rng(0).normal(size=(7, *shape)).astype("float32")
    gradients = {}
    for each in (True, False):
        keras.utils.set_random_seed(3)
        wrapped = dpf_tf.prune(
            make(keras.layers), dpf_tf.ConstantSparsity(0.5), "dpf", bounded=each
        )
        outputs = wrapped(inputs)
        ((path, mask),) = dpf_tf.get_masks(wrapped).items()
        dead = np.arange(6) % 2 == 0
        mask &= ~dead.reshape([6 if size == 6 else 1 for size in mask.shape])
        dpf_tf.set_masks(wrapped, {path: mask})
        # As batch norm would have it: the dead channels' gradient is far larger.
        weights = tf.where(dead, 300.0, 1.0) * tf.random.stateless_normal(
            outputs.shape, [1, 2]
        )
        wrapped.permit("test")
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(weights * wrapped(inputs, training=True))
        (kernel,) = wrapped.kernels.values()
        gradients[each] = tape.gradient(loss, kernel).numpy()
    ours, papers = gradients[True], gradients[False]
    living = mask.any(within, keepdims=True) & np.ones_like(mask)
    np.testing.assert_array_equal(ours[living], papers[living])
    lengths = np.sqrt(np.sum(papers**2, within))
    factor = lengths[~dead.reshape(lengths.shape)].max() / lengths.max()
    assert factor < 0.1
    np.testing.assert_allclose(ours[~living], factor * papers[~living], rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "structure"), [("dpf", None), ("dpf", "filters"), ("sfp", "filters")]
)
def test_behind_batch_norm_dead_filters_stay_comparable(keras, method, structure):
    """Unbounded, the same training makes them 10 times as large as the others."""
    sizes = {}
    for each in [True] if method == "sfp" else [True, False]:
        options = {} if method == "sfp" else {"bounded": each}
        if structure:
            options["structure"] = dpf_tf.Filters()
        sizes[each] = size_of_dead_filters(keras, method, options)
    assert sizes[True] < 3
    assert method == "sfp" or sizes[False] > 10


def size_of_dead_filters(keras, method, options):
    """Trains one masked convolution; returns dead weights' size, relative to others."""
    keras.utils.set_random_seed(5)
    conv = keras.layers.Conv2D(16, 3, use_bias=False, name="conv")
    model = keras.Sequential(
        [
            keras.Input((10, 10, 4)),
            conv,
            # The shift lets a dead channel through ReLU.
            keras.layers.BatchNormalization(epsilon=1e-5, beta_initializer="ones"),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    # No mask update is due but at step 0.
    schedule = dpf_tf.ConstantSparsity(0.5, frequency=10**6)
    model = dpf_tf.prune(model, schedule, method, exclude="logits", **options)
    wrapper = next(x for x in model.layers if x.name == "conv")
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 10, 10, 4)).astype("float32")
    y = x.mean((1, 2))[:, :3].argmax(1)
    mask = np.ones((3, 3, 4, 16), bool)
    mask[..., ::2] = False
    for variable in wrapper.masks.values():
        variable.assign(mask)
    updater = dpf_tf.MaskUpdater(model)
    assert updater.update(1).flips == 0  # None is due, but it is in charge.
    for _ in range(5):
        for i in range(0, 256, 32):
            model.train_on_batch(x[i : i + 32], y[i : i + 32])
    del updater
    kernel = conv.kernel.numpy()
    return rms(kernel[~mask]) / rms(kernel[mask])
