"""Kernels are told apart: each has a path, a variable and a mask of its own."""

import warnings

import numpy as np
import pytest

import dpf_tf
from tests.helpers import values


def nested(keras):
    """Kernels at `block/cell/kernel` and at `block_cell/kernel`."""
    dense = keras.layers.Dense

    class Inner(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.cell = dense(6, use_bias=False)

        def build(self, shape):
            self.cell.build(shape)
            self.built = True

        def call(self, inputs):
            return self.cell(inputs)

    class Outer(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.block = Inner()
            self.block_cell = dense(6, use_bias=False)

        def build(self, shape):
            self.block.build(shape)
            self.block_cell.build(shape)
            self.built = True

        def call(self, inputs):
            return self.block_cell(self.block(inputs))

    layer = Outer(name="two")
    layer.build((None, 6))
    return layer


def test_paths_that_look_alike_have_masks_of_their_own(keras):
    layer = nested(keras)
    kernels = {
        "two/block/cell/kernel": layer.block.cell.kernel,
        "two/block_cell/kernel": layer.block_cell.kernel,
    }
    pruned = dpf_tf.PruneLowMagnitudeDPF(layer, dpf_tf.ConstantSparsity(0.75))
    updater = dpf_tf.MaskUpdater(pruned)
    assert updater.update(0).sparsity == 0.75
    masks = dpf_tf.get_masks(pruned)
    assert masks.keys() == kernels.keys()
    largest = np.sort(np.abs(np.stack(values(kernels.values()))), axis=None)[-18]
    for path, kernel in kernels.items():
        np.testing.assert_array_equal(masks[path], np.abs(kernel.numpy()) >= largest)


def test_a_mask_does_not_take_the_place_of_a_method(keras):
    """Of a kernel named `compute`: `compute_mask` is what Keras calls."""

    class Product(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.supports_masking = True

        def build(self, shape):
            self.compute = self.add_weight(name="compute", shape=(shape[-1], 4))
            self.built = True

        def call(self, inputs):
            return inputs @ self.compute

        def get_prunable_weights(self):
            return [self.compute]

    layers = [keras.Input((3,)), keras.layers.Embedding(5, 4, mask_zero=True)]
    layers += [Product(name="product"), keras.layers.LSTM(2), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    inputs = np.array([[1, 2, 0]])
    expected = model.predict(inputs, verbose=0)
    pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.5, layers="product")
    np.testing.assert_array_equal(pruned.predict(inputs, verbose=0), expected)
    assert list(dpf_tf.get_masks(pruned)) == ["product/compute"]


def test_layers_of_one_name_are_numbered(keras):
    class Inner(keras.Model):
        def __init__(self):
            super().__init__(name="inner")
            self.one = keras.layers.Dense(6, name="fc", use_bias=False)
            self.two = keras.layers.Dense(6, name="fc", use_bias=False)

        def call(self, inputs):
            return self.two(self.one(inputs))

    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(1)(Inner()(inputs)))
    schedule = dpf_tf.ConstantSparsity(0.5)
    pruned = dpf_tf.prune_low_magnitude_dpf(model, schedule)
    assert dpf_tf.MaskUpdater(pruned).update(0).sparsity == 0.5
    masks = dpf_tf.get_masks(pruned)
    assert list(masks) == ["inner/fc/kernel", "inner/fc:2/kernel"]


def test_a_variable_under_two_wrappers_is_refused_by_both_paths(keras):
    class Transposed(keras.layers.Layer):
        def __init__(self, dense, **options):
            super().__init__(**options)
            self.dense = dense

        def call(self, inputs):
            return inputs @ keras.backend.transpose(self.dense.kernel)

    if hasattr(keras, "ops"):
        Transposed.call = lambda self, x: x @ keras.ops.transpose(self.dense.kernel)
    encoder = keras.layers.Dense(6, name="encoder", use_bias=False)
    inputs = keras.Input((6,))
    decoded = Transposed(encoder, name="decoder")(encoder(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(decoded))
    pruned = dpf_tf.prune_low_magnitude_dpf(model, dpf_tf.ConstantSparsity(0.5))
    message = "'decoder/dense/kernel' is the same variable as 'encoder/kernel'"
    with pytest.raises(ValueError, match=message):
        dpf_tf.MaskUpdater(pruned).update(0)


def test_paths_in_the_report_are_those_of_keras_3(keras):
    class Product(keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(name="w", shape=(shape[-1], 4))
            self.built = True

        def call(self, inputs):
            return inputs @ self.w

    layers = [keras.Input((4,)), keras.layers.Dense(4, name="still", trainable=False)]
    layers += [keras.layers.Dense(4), Product(name="debias")]
    model = keras.Sequential([*layers, keras.layers.Dense(2, name="logits")])
    with pytest.warns(UserWarning, match=r"'debias' .* look like kernels \(w\)"):
        pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        skipped = dpf_tf.sparsity_report(pruned)["skipped"]
    assert [(each["path"], each["reason"]) for each in skipped] == [
        ("still/kernel", "frozen layer"),
        ("debias/w", "unknown layer"),
        ("logits/kernel", "makes the model's output"),
    ]
