"""Copies compute what their layers do, and freeze the same parts of them."""

import numpy as np
import pytest

import dpf_tf
from dpf_tf.export.plain import plain_model
from dpf_tf.prunable import all_layers

HALF = dpf_tf.ConstantSparsity(0.5)


def bidirectional(keras):
    return keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True))


def block(keras):
    """Two dense layers of one shape, and batch norm between them."""

    @keras.saving.register_keras_serializable("test_copies")
    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = keras.layers.Dense(6, activation="tanh")
            self.norm = keras.layers.BatchNormalization()
            self.last = keras.layers.Dense(6)

        def build(self, input_shape):
            for layer in (self.first, self.norm, self.last):
                layer.build(input_shape)
            self.built = True

        def call(self, x):
            return self.last(self.norm(self.first(x)))

    return Block()


def outer(keras):
    """Two blocks, of which one can be frozen as a whole."""
    inner = type(block(keras))

    @keras.saving.register_keras_serializable("test_copies")
    class Outer(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.blocks = [inner(), inner()]

        def build(self, input_shape):
            for layer in self.blocks:
                layer.build(input_shape)
            self.built = True

        def call(self, x):
            return self.blocks[1](self.blocks[0](x))

    return Outer()


CASES = {
    "one direction": (bidirectional, lambda layer: layer.forward_layer),
    "one dense layer": (block, lambda layer: layer.first),
    "batch norm": (block, lambda layer: layer.norm),
    "one block of two": (outer, lambda layer: layer.blocks[0]),
    "a layer in a block": (outer, lambda layer: layer.blocks[0].last),
    "all": (outer, lambda layer: layer),
}
composites = pytest.mark.parametrize(("make", "part"), CASES.values(), ids=CASES)


def net(keras, make):
    inputs = keras.Input((5, 4))
    x = keras.layers.Dense(6, name="before")(inputs)
    x = keras.layers.Dense(6, name="reader")(x)
    composite = make(keras)
    x = keras.layers.Dense(6, name="behind")(composite(x))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    rng = np.random.default_rng(0)
    for variable in model.weights:  # No two are alike.
        variable.assign(rng.uniform(0.1, 0.9, variable.shape))
    return model, composite


def partly_frozen(keras, make, part):
    model, composite = net(keras, make)
    part(composite).trainable = False
    return model, composite


def half_pruned(model):
    pruned = dpf_tf.prune_low_magnitude_dpf(model, HALF)
    dpf_tf.MaskUpdater(pruned).update(0)
    return pruned


def batch(model):
    shape = (3, *model.inputs[0].shape[1:])
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def assert_same(copy, model, composite, tolerance=0.0):
    expected = np.asarray(model(batch(model)), "float32")
    found = np.asarray(copy(batch(model)), "float32")
    bound = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
    assert_as_frozen(copy.get_layer(composite.name), composite)


def assert_as_frozen(copy, composite):
    assert copy is not composite
    flags = [[x.trainable for x in all_layers(each)] for each in (copy, composite)]
    assert flags[0] == flags[1]


@composites
def test_a_stripped_model_is_the_pruned_one_and_as_frozen(keras, make, part):
    model, composite = partly_frozen(keras, make, part)
    pruned = half_pruned(model)
    assert_same(dpf_tf.strip_pruning(pruned), pruned, composite)


@pytest.mark.filterwarnings("ignore:.* is stripped at sparsity")  # One of the pool.
@composites
def test_a_layer_stripped_alone_is_the_pruned_one_and_as_frozen(keras, make, part):
    model, composite = net(keras, make)
    wrapper = half_pruned(model).get_layer(composite.name)
    part(composite).trainable = False
    (plain,) = dpf_tf.strip_pruning([wrapper])
    x = np.ones((3, 5, 6), "float32")
    np.testing.assert_array_equal(plain(x).numpy(), wrapper(x).numpy())
    assert_as_frozen(plain, composite)


@composites
def test_a_plain_model_takes_the_weights_whatever_is_frozen(keras, make, part):
    pruned = half_pruned(partly_frozen(keras, make, part)[0])
    into, composite = net(keras, make)
    *_, other = all_layers(composite)
    other.trainable = False
    flags = [x.trainable for x in all_layers(into)]
    dpf_tf.strip_pruning(pruned, into=into)
    np.testing.assert_array_equal(into(batch(into)).numpy(), pruned(batch(into)))
    assert [x.trainable for x in all_layers(into)] == flags


@composites
def test_what_is_pruned_at_once_is_as_frozen(keras, make, part):
    model, composite = partly_frozen(keras, make, part)
    assert_same(dpf_tf.magnitude_prune(model, 0.0), model, composite)


@composites
def test_a_smaller_model_computes_the_same_and_is_as_frozen(keras, make, part):
    model, composite = partly_frozen(keras, make, part)
    kernel, bias = model.get_layer("before").get_weights()
    kernel[:, 2] = 0
    model.get_layer("before").set_weights([kernel, bias])
    small = dpf_tf.shrink(model)
    assert small.get_layer("before").units == 5
    assert_same(small, model, composite, tolerance=1e-5)


@composites
def test_a_copy_in_float32_computes_the_same_and_is_as_frozen(keras, make, part):
    keras.mixed_precision.set_global_policy("float16")  # The variables, too.
    model, composite = partly_frozen(keras, make, part)
    keras.mixed_precision.set_global_policy("float32")
    plain = plain_model(model)
    assert {x.compute_dtype for x in all_layers(plain)} == {"float32"}
    assert_same(plain, model, composite, tolerance=0.01)
