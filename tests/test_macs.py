"""`count_macs` counts the products that a forward pass makes."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import dpf_tf
from tests.helpers import assert_bits_equal, values

KERNELS = {
    "dense": lambda layers: (layers.Dense(3), (5,)),
    "dense_of_a_sequence": lambda layers: (layers.Dense(3), (4, 5)),
    "dense_of_images": lambda layers: (layers.Dense(3), (4, 6, 5)),
    "conv1d": lambda layers: (layers.Conv1D(3, 3, 2), (9, 2)),
    "conv2d": lambda layers: (layers.Conv2D(3, (3, 2), (2, 1)), (8, 7, 2)),
    "conv3d": lambda layers: (layers.Conv3D(2, 2), (4, 3, 5, 2)),
    "dilated": lambda layers: (layers.Conv2D(3, 3, dilation_rate=2), (8, 7, 2)),
    "grouped": lambda layers: (layers.Conv2D(6, 3, groups=2), (8, 7, 4)),
    "depthwise": lambda layers: (
        layers.DepthwiseConv2D(3, 2, depth_multiplier=2),
        (8, 8, 3),
    ),
    "transposed": lambda layers: (layers.Conv2DTranspose(3, 3, 2), (4, 5, 2)),
}


def with_random_zeros(layer):
    kernel, *others = values(layer.weights)
    rng = np.random.default_rng(0)
    layer.set_weights([kernel * (rng.random(kernel.shape) < 0.3), *others])
    return layer


@pytest.mark.parametrize("kind", KERNELS)
def test_a_layers_count_is_the_number_of_products_it_makes(keras, kind):
    layer, shape = KERNELS[kind](keras.layers)
    model = keras.Sequential([keras.Input(shape), layer])
    with_random_zeros(layer)
    counted = dpf_tf.count_macs(model)
    # With inputs and weights of ones, and no padding, the outputs sum up the products.
    kernel, bias = values(layer.weights)

    def products(weights):
        layer.set_weights([weights, 0 * bias])
        return int(np.sum(model(np.ones((1, *shape), "float32"))))

    assert counted.sparse == products((kernel != 0).astype("float32"))
    assert counted.dense == products(np.ones_like(kernel))
    assert 0 < counted.sparse < counted.dense


def test_both_kernels_of_a_separable_convolution_are_counted(keras):
    layer = keras.layers.SeparableConv2D(5, 3, 2, name="separable")
    model = keras.Sequential([keras.Input((9, 9, 2)), layer])
    assert dpf_tf.count_macs(model).dense == 4 * 4 * (3 * 3 * 2 + 2 * 5)


def test_a_net_is_counted_as_by_loops(keras):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((7, 6, 2)),
            layers.Conv2D(4, 3, 2, padding="same", name="conv"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
            layers.Flatten(),
            layers.Dense(5, name="dense"),
        ]
    )
    expected = {}
    # Pixels at which the kernel is laid on: 7 x 6, in steps of 2; then each of 4 x 3.
    for name, pixels in (
        ("conv", list(np.ndindex(7, 6))),
        ("depthwise", list(np.ndindex(4, 3))),
        ("dense", [(0, 0)]),
    ):
        kernel = values(with_random_zeros(model.get_layer(name)).weights)[0]
        dense = sparse = 0
        for i, j in pixels:
            if name == "conv" and (i % 2 or j % 2):
                continue
            for weight in kernel.flat:
                dense += 1
                sparse += weight != 0
        expected[name] = (dense, sparse)
    counted = dpf_tf.count_macs(model)
    assert counted.layers == expected
    assert counted.dense == sum(dense for dense, _ in expected.values())
    assert counted.sparse == sum(sparse for _, sparse in expected.values())


def test_nested_models_are_entered(keras):
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv")], name="inner"
    )
    images = keras.Input((8, 8, 3))
    middle = keras.Model(images, layers.Flatten()(inner(images)), name="middle")
    outer = keras.Sequential(
        [keras.Input((8, 8, 3)), middle, layers.Dense(2, name="dense")]
    )
    counted = dpf_tf.count_macs(outer)
    assert {path: layer.dense for path, layer in counted.layers.items()} == {
        "middle/inner/conv": 36 * 108,
        "dense": 36 * 4 * 2,
    }
    assert not counted.not_counted


def test_a_layer_is_counted_by_its_call_in_this_model(keras):
    conv = keras.layers.Conv2D(4, 3, padding="same", name="conv")
    back = keras.layers.Conv2DTranspose(2, 3, padding="same", name="back")
    for size in (8, 32):
        images = keras.Input((size, size, 3))
        model = keras.Model(images, back(conv(images)))
        counted = dpf_tf.count_macs(model).layers
        assert counted["conv"].dense == size**2 * 3 * 3 * 3 * 4
        assert counted["back"].dense == size**2 * 3 * 3 * 4 * 2


def test_calls_are_those_in_this_model_wherever_it_holds_the_layer(keras):
    layers = keras.layers
    shared = layers.Dense(4, name="shared")

    def nested(name):
        inputs = keras.Input((4,))
        return keras.Model(inputs, shared(inputs), name=name)

    once, twice, again = nested("once"), nested("twice"), nested("again")
    inputs = keras.Input((4,))
    both = layers.Add()([once(inputs), layers.Dense(4, name="own")(inputs)])
    counted = dpf_tf.count_macs(keras.Model(inputs, both))
    assert {path: each.dense for path, each in counted.layers.items()} == {
        "once/shared": 16,
        "own": 16,
    }
    assert not counted.not_counted
    sums = layers.Add()([twice(inputs), twice(inputs), again(shared(inputs))])
    counted = dpf_tf.count_macs(keras.Model(inputs, sums))
    assert {path: each.dense for path, each in counted.layers.items()} == {
        "again/shared": 16,
        "shared": 16,
    }
    assert counted.not_counted == ("twice/shared (Dense, called 2 times)",)


def test_no_layer_is_asked_for_its_configuration(keras):
    class Scale(keras.layers.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, x):
            return x * self.factor

    class Apply(keras.layers.Layer):
        def __init__(self, function, **options):
            super().__init__(**options)
            self.function = function

        def call(self, x):
            return self.function(x)

    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, name="hidden"),
            Scale(2),
            Apply(lambda x: -x, name="negative"),
            keras.layers.Dense(2, name="classes"),
        ]
    )
    assert dpf_tf.count_macs(model).dense == 6 * 8 + 8 * 2
    pruned = dpf_tf.prune_low_magnitude_dpf(model, dpf_tf.ConstantSparsity(0.5))
    dpf_tf.MaskUpdater(pruned).update(0)
    cost = dpf_tf.sparsity_report(pruned)["cost"]
    assert cost["dense"]["macs"] == 6 * 8 + 8 * 2
    assert cost["masked"]["macs"] == 6 * 8 / 2 + 8 * 2


def test_counting_leaves_the_model_as_it_was(keras):
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            # Neither it nor the loss could be copied from a configuration.
            keras.layers.Lambda(lambda x: 2 * x),
            keras.layers.Conv2D(2, 3, name="conv"),
        ]
    )
    model.compile(loss=lambda truth, outputs: outputs)
    conv, weights = model.layers[-1], values(model.weights)
    seen = conv.input, conv.output
    assert dpf_tf.count_macs(model).dense == 2 * 2 * 3 * 3 * 3 * 2
    assert all(x is y for x, y in zip(seen, (conv.input, conv.output), strict=True))
    assert_bits_equal(values(model.weights), weights)


def test_what_is_not_counted_is_named(keras):
    layers = keras.layers

    class Bilinear(layers.Dense):
        pass

    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(10, 4, name="embedding")(words)
    x = layers.LSTM(4, return_sequences=True, name="lstm")(x)
    x = layers.MultiHeadAttention(2, 2, name="heads")(x, x)
    x = layers.Attention(name="attention")([x, x])
    x = layers.TimeDistributed(layers.Dense(4), name="each")(x)
    twice = layers.Dense(4, name="twice")
    x = layers.PReLU(name="prelu")(twice(twice(x)))
    x = Bilinear(4, name="own")(x)
    counted = dpf_tf.count_macs(keras.Model(words, layers.Dense(3, name="dense")(x)))
    assert list(counted.layers) == ["dense"]
    assert sorted(counted.not_counted) == [
        "attention (Attention)",
        "each (TimeDistributed)",
        "heads (MultiHeadAttention)",
        "lstm (LSTM)",
        "own (Bilinear)",
        "twice (Dense, called 2 times)",
    ]


def test_calls_for_a_loss_alone_are_not_counted():
    layers = tf_keras.layers  # In Keras 3, losses are no part of the graph.
    inputs = tf_keras.Input((4,))
    shared, aside = layers.Dense(3, name="shared"), layers.Dense(5, name="aside")
    model = tf_keras.Model(inputs, shared(inputs))
    model.add_loss(tf.reduce_mean(aside(shared(-inputs))))
    counted = dpf_tf.count_macs(model)
    assert counted.layers == {"shared": (12, 12)}
    assert counted.not_counted == ("aside (Dense, not before an output)",)


def test_a_model_that_cannot_be_counted_is_refused(keras):
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    for model in (Subclassed(), keras.Sequential([keras.layers.Dense(2)])):
        with pytest.raises(ValueError, match="functional or sequential.*is built"):
            dpf_tf.count_macs(model)
    model = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3, name="conv")]
    )
    with pytest.raises(ValueError, match="'conv' the size.*Build the model with"):
        dpf_tf.count_macs(model)
    # The layers inside are not told the size with which it is called.
    outer = keras.Sequential([keras.Input((8, 8, 3)), model], name="outer")
    message = f"'{model.name}/conv' the size.*Build the nested model '{model.name}'"
    with pytest.raises(ValueError, match=message):
        dpf_tf.count_macs(outer)
