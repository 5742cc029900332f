"""Batch norm's statistics belong to the final masks: settling and recalibration."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

import dpf_tf
from tests.helpers import assert_bits_equal, state_variables, values

COMMON = 336  # Steps that all runs share: the masks are as sparse as they get.
CYCLES = 8  # Mask updates, 16 steps apart, after which the accuracy is looked at.
END = COMMON + 16 * CYCLES


@functools.cache
def digits():
    """Real handwritten digits, split into train and test."""
    bunch = load_digits()
    x = (bunch.images / 16).astype("float32")[..., None]
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], bunch.target[order]
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def batches(first, count):
    (x, y), _ = digits()
    chosen = np.random.default_rng(1).integers(0, len(x), (END, 64))
    chosen = chosen[first : first + count]
    return tf.data.Dataset.from_tensor_slices((x[chosen], y[chosen]))


def net(keras):
    layers, body = keras.layers, []
    for filters, strides in ((16, 1), (32, 2), (32, 1)):
        body += [
            layers.Conv2D(filters, 3, strides, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]
    head = [layers.GlobalAveragePooling2D(), layers.Dropout(0.1), layers.Dense(10)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *body, *head])
    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.95, end_step=300)
    pruned = dpf_tf.prune_low_magnitude_dpf(model, schedule)
    pruned.compile(
        keras.optimizers.SGD(0.3, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return pruned


def train(model, first, count, settle, *callbacks):
    pruning = dpf_tf.PruningCallback(settle=settle)
    model.fit(batches(first, count), verbose=0, callbacks=[pruning, *callbacks])


def accuracy(model):
    x, y = digits()[1]
    return float((np.argmax(model(x, training=False), -1) == y).mean())


def state_of(model):
    return [(v, v.numpy()) for v in state_variables(model)]


def test_accuracy_after_fit_is_independent_of_the_last_update_once_masks_settle(keras):
    model = net(keras)
    train(model, 0, COMMON, settle=0)
    state = state_of(model)

    # Without settling the masks do not depend on the announced length: the accuracy
    # after each step is that right after a fit of so many steps.
    unsettled = []

    class Accuracy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            unsettled.append(accuracy(self.model))

    train(model, COMMON, END - COMMON, 0, Accuracy())
    settled = []
    for shorter in range(16):
        for variable, value in state:
            variable.assign(value)
        train(model, COMMON, END - COMMON - shorter, 0.2)
        settled.append(accuracy(model))

    cycles = np.reshape(unsettled, (CYCLES, 16))
    lost = np.ptp(cycles, axis=1).mean()
    print(f"1 to 16 steps after a mask update: {np.round(cycles.mean(0), 3)}")
    print(f"with the masks settled, by length: {np.round(settled, 3)}")
    assert lost > 0.04, "nothing is lost without settling: no test"
    assert np.ptp(settled) < 0.5 * lost
    assert min(settled) > cycles.min(axis=1).mean() + 0.03


def test_recalibration_gives_back_what_the_last_mask_update_took(keras):
    model = net(keras)
    train(model, 0, COMMON, settle=0)
    gained = []
    for step in range(COMMON, END, 16):
        train(model, step, 1, settle=0)  # The masks are made anew before this step.
        before = accuracy(model)
        dpf_tf.recalibrate_batch_norm(model, batches(0, 20))
        gained.append(accuracy(model) - before)
        train(model, step + 1, 15, settle=0)
    assert np.mean(gained) > 0.04


def test_recalibration_changes_the_statistics_and_nothing_else(keras):
    model = net(keras)
    train(model, 0, 32, settle=0)
    statistics = {
        id(v)
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        for v in (layer.moving_mean, layer.moving_variance)
    }
    changed = [v for v in model.variables if id(v) in statistics]
    others = [v for v, _ in state_of(model) if id(v) not in statistics]
    before = values(changed), values(others)
    dpf_tf.recalibrate_batch_norm(model, batches(0, 4))
    assert_bits_equal(values(others), before[1])
    for old, new in zip(before[0], values(changed), strict=True):
        assert (old != new).any()
    assert all(
        layer.momentum == 0.9
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    )


def test_recalibrated_statistics_are_the_averages_over_the_batches(keras):
    layer = keras.layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential([keras.Input((3,)), layer])
    data = np.random.default_rng(0).normal(3, 2, (5, 16, 3)).astype("float32")
    dpf_tf.recalibrate_batch_norm(model, tf.data.Dataset.from_tensor_slices(data))
    np.testing.assert_allclose(layer.moving_mean, data.mean(1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, data.var(1).mean(0), rtol=1e-4)


def test_a_call_that_is_traced_does_not_keep_the_momentum_of_the_first_batch(keras):
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        @tf.function
        def call(self, inputs, training=None):
            return self.norm(inputs, training=training)

    block = Block()
    model = keras.Sequential([keras.Input((3,)), block])
    data = np.random.default_rng(0).normal(3, 2, (5, 16, 3)).astype("float32")
    dpf_tf.recalibrate_batch_norm(model, list(data))
    found = block.norm.moving_mean
    np.testing.assert_allclose(found, data.mean(1).mean(0), rtol=1e-5)
    assert not tf.config.functions_run_eagerly()


def test_recalibration_mends_statistics_that_are_no_numbers(keras):
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.moving_mean.assign(np.array([np.nan, np.inf, 0], np.float32))
    data = np.random.default_rng(0).normal(3, 2, (16, 3)).astype("float32")
    dpf_tf.recalibrate_batch_norm(model, [data])
    np.testing.assert_allclose(layer.moving_mean, data.mean(0), rtol=1e-5)


def test_the_callback_recalibrates_before_each_validation(keras):
    model = net(keras)
    train(model, 0, COMMON, settle=0)
    state = state_of(model)
    losses = []
    for data in (None, batches(0, 20)):
        for variable, value in state:
            variable.assign(value)
        pruning = dpf_tf.PruningCallback(
            settle=0, recalibrate_data=data, recalibrate_steps=20
        )
        history = model.fit(
            batches(COMMON, 1),
            verbose=0,
            callbacks=[pruning],
            validation_data=digits()[1],
        )
        losses.append(history.history["val_loss"][0])
    assert losses[1] < losses[0]


def test_what_cannot_be_recalibrated_is_refused(keras):
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no trainable batch normalization"):
        dpf_tf.recalibrate_batch_norm(plain, [np.ones((2, 3))])
    pruned = dpf_tf.prune_low_magnitude_dpf(keras.layers.Dense(2), 0.5)
    model = keras.Sequential([keras.Input((3,)), pruned])
    model.compile("sgd", "mse")
    begun = dpf_tf.PruningCallback(recalibrate_data=[np.ones((2, 3))])
    begun.set_model(model)
    with pytest.raises(ValueError, match="no trainable batch normalization"):
        begun.on_train_begin()
    for steps, error in ((2.5, TypeError), (0, ValueError)):
        with pytest.raises(error, match=f"`steps` must be .*Received: {steps}"):
            dpf_tf.recalibrate_batch_norm(net(keras), [], steps)
    with pytest.raises(ValueError, match="no batch"):
        dpf_tf.recalibrate_batch_norm(net(keras), [])
    with pytest.raises(TypeError, match="of type str"):
        dpf_tf.recalibrate_batch_norm("model", [])
    with pytest.raises(TypeError, match="of type tuple"):
        dpf_tf.recalibrate_batch_norm(net(keras), digits()[0])
    unbuilt = keras.Sequential([keras.layers.BatchNormalization()])
    with pytest.raises(ValueError, match="not built"):
        dpf_tf.recalibrate_batch_norm(unbuilt, [np.ones((2, 3))])


def test_a_recalibration_that_fails_leaves_everything_as_it_was(keras):
    model = net(keras)
    before = values(model.variables)
    with pytest.raises(Exception, match=r"(?i)shape|input|dimension"):
        dpf_tf.recalibrate_batch_norm(model, [digits()[0][0][:8], np.ones((8, 3))])
    assert_bits_equal(values(model.variables), before)
