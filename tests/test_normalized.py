"""Where the scale of a filter is free, and what `rescale="auto"` makes of it."""

import numpy as np
import pytest

import dpf_tf
from dpf_tf.normalized import normalized
from official_models import models
from tests.helpers import pruned_layers

IMAGES = (6, 6, 3)
ONCE = dpf_tf.ConstantSparsity(0.9)


class Net:
    """The layers of one Keras, and a graph that is made of them."""

    def __init__(self, keras):
        self.keras, self.layers = keras, keras.layers
        self.images = keras.Input(IMAGES)
        self.number = 0

    def conv(self, **options):
        self.number += 1
        return self.layers.Conv2D(
            4,
            3,
            padding="same",
            bias_initializer=self.keras.initializers.RandomNormal(seed=self.number),
            kernel_initializer=self.keras.initializers.HeNormal(seed=9 * self.number),
            name=f"conv{self.number}",
            **options,
        )

    def norm(self, **options):
        return self.layers.BatchNormalization(epsilon=1e-9, **options)

    def model(self, outputs):
        return self.keras.Model(self.images, outputs)


def behind_a_norm(net):
    return net.norm()(net.conv()(net.images)), [True]


def behind_an_activation_of_its_own(net):
    return net.norm()(net.conv(activation="relu")(net.images)), [False]


def behind_a_layer_of_activation(net):
    x = net.layers.Activation("tanh")(net.conv()(net.images))
    return net.norm()(x), [False]


def read_by_a_norm_and_the_output(net):
    x = net.conv()(net.images)
    return [net.norm()(x), x], [False]


def read_by_two_norms(net):
    x = net.conv()(net.images)
    return [net.norm()(x), net.norm()(x)], [True]


def added(net):
    left, right = net.conv()(net.images), net.norm()(net.conv()(net.images))
    return net.norm()(net.layers.Add()([left, right])), [False, True]


def joined_and_pooled(net):
    left, right = net.conv()(net.images), net.conv()(net.images)
    x = net.layers.Concatenate()([net.layers.MaxPooling2D()(x) for x in (left, right)])
    return net.norm()(x), [True, True]


def padded(net):
    x = net.layers.ZeroPadding2D()(net.conv()(net.images))
    return net.norm()(x), [False]


def called_twice(net):
    conv = net.conv()
    return [net.norm()(conv(net.images)), conv(net.images)], [False]


def called_twice_for_norms(net):
    conv = net.conv()
    pooled = net.layers.AveragePooling2D(2)(net.images)
    return [net.norm()(conv(net.images)), net.norm()(conv(pooled))], [True]


def behind_a_function_called_linear(net):
    def linear(x):
        return net.keras.activations.tanh(x)

    return net.norm()(net.conv(activation=linear)(net.images)), [False]


def with_rows_for_channels(net):
    return net.norm(axis=1)(net.conv()(net.images)), [False]


def grouped(net):
    x = net.layers.Conv2D(6, 3, groups=3, name="conv_grouped")(net.images)
    return net.norm()(x), [True]


def frozen_norm(net):
    return net.norm(trainable=False)(net.conv()(net.images)), [False]


def nested(net):
    x = inner = net.keras.Input((6, 6, 4))
    x = net.conv()(net.norm()(x))
    block = net.keras.Model(inner, x)
    return net.norm()(block(net.conv()(net.images))), [True, True]


def depthwise(net):
    x = net.layers.DepthwiseConv2D(3, name="depthwise")(net.images)
    return net.norm()(x), [True]


def dense(net):
    x = net.layers.Dense(5, name="dense")(net.layers.Flatten()(net.images))
    return net.layers.Dense(2, name="last")(net.norm()(x)), [True, False]


GRAPHS = [
    behind_a_norm,
    behind_an_activation_of_its_own,
    behind_a_layer_of_activation,
    read_by_a_norm_and_the_output,
    read_by_two_norms,
    added,
    joined_and_pooled,
    padded,
    called_twice,
    called_twice_for_norms,
    behind_a_function_called_linear,
    with_rows_for_channels,
    grouped,
    frozen_norm,
    nested,
    depthwise,
    dense,
]


def with_kernels(model):
    """The layers with kernels, in the order in which they were named."""
    found, ahead = {}, list(model.layers)
    while ahead:
        layer = ahead.pop(0)
        ahead += getattr(layer, "layers", [])
        if layer.name.startswith(("conv", "dense", "depthwise", "last")):
            found[id(layer)] = layer
    return sorted(found.values(), key=lambda layer: layer.name)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_scale_is_said_to_be_free_if_and_only_if_it_changes_no_output(keras, graph):
    net = Net(keras)
    outputs, expected = graph(net)
    model = net.model(outputs)
    x = np.random.default_rng(1).normal(size=(8, *IMAGES)).astype("float32")

    def compute():
        found = model(x, training=True)
        return [np.asarray(y) for y in (found if isinstance(found, list) else [found])]

    before, free = compute(), normalized(model)
    for layer, is_free in zip(with_kernels(model), expected, strict=True):
        kernel = layer.trainable_variables[0]
        value = kernel.numpy()
        axes = value.shape[-2:] if layer.name == "depthwise" else value.shape[-1:]
        scale = np.linspace(0.5, 3, int(np.prod(axes)), dtype="float32").reshape(axes)
        kernel.assign(scale * value)
        changed = any(
            not np.allclose(old, new, rtol=1e-3, atol=1e-4)
            for old, new in zip(before, compute(), strict=True)
        )
        kernel.assign(value)
        assert changed is not is_free, layer.name
        assert (id(layer) in free) is is_free, layer.name


def at_inference(net):
    return net.norm()(net.conv()(net.images), training=False)


def nested_at_inference(net):
    block = net.model(net.norm()(net.conv()(net.images)))
    net.images = net.keras.Input(IMAGES)
    return block(net.images, training=False)


def channels_first(net):
    conv = net.layers.Conv2D(4, 3, data_format="channels_first", name="conv")
    return net.norm()(conv(net.images))


def regularized(net):
    return net.norm()(net.conv(activity_regularizer="l2")(net.images))


def held_by_a_layer(net):
    conv = net.conv()

    class Holder(net.layers.Layer):
        def __init__(self):
            super().__init__()
            self.held = conv

        def call(self, x):
            return self.held(x)

    left, right = conv(net.images), Holder()(net.images)
    return [net.norm()(left), right]


@pytest.mark.parametrize(
    "graph",
    [at_inference, nested_at_inference, channels_first, regularized, held_by_a_layer],
)
def test_a_scale_is_not_said_to_be_free_where_it_may_count(keras, graph):
    net = Net(keras)
    outputs = graph(net)
    assert normalized(net.model(outputs)) == set()


def pruned_conv(keras):
    conv = keras.layers.Conv2D(4, 3, name="conv")
    return dpf_tf.prune(conv, ONCE, "st3", rescale="auto")


def test_a_layer_that_a_subclassed_model_may_call_is_not_said_to_be_free(keras):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = pruned_conv(keras)
            layers = [keras.Input(IMAGES), self.conv, keras.layers.BatchNormalization()]
            self.block = keras.Sequential(layers)

        def call(self, x):
            return self.block(x) + self.conv(x)

    model = Own()
    assert normalized(model) == set()
    assert normalized(model.block) == {id(model.conv.layer)}


def scales(model, rescale):
    """The scales of each layer when the model is pruned, its masks made once."""
    pruned = dpf_tf.prune(model, ONCE, "st3", rescale=rescale)
    dpf_tf.MaskUpdater(pruned).update(0)
    return {
        layer.name: layer.states["kernel"]["scale"].numpy()
        for layer in pruned_layers(pruned)
    }


def mixed(keras):
    net = Net(keras)
    x = net.conv()(net.images)
    x = net.conv()(net.norm()(x))
    return net.model(net.layers.Dense(2)(net.layers.Flatten()(x)))


def test_auto_scales_as_the_authors_do_where_no_batch_norm_follows(keras):
    auto, filters = (scales(mixed(keras), name) for name in ("auto", "filter"))
    np.testing.assert_array_equal(auto["conv1"], 1.0)
    np.testing.assert_array_equal(auto["conv2"], filters["conv2"])
    assert (filters["conv1"] > 1).all() and (filters["conv2"] > 1).all()


def test_auto_scales_as_the_authors_do_where_there_is_no_graph(keras):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = pruned_conv(keras)
            self.norm = keras.layers.BatchNormalization()

        def call(self, x, training=None):
            return self.norm(self.conv(x), training=training)

    model = Own()
    model(np.zeros((1, *IMAGES), "float32"))
    dpf_tf.MaskUpdater(model).update(0)
    assert (model.conv.states["kernel"]["scale"].numpy() > 1).all()


def test_a_batch_norm_frozen_later_changes_no_scale(keras):
    model = dpf_tf.prune(mixed(keras), ONCE, "st3", rescale="auto")
    kernels = {layer.name: layer for layer in pruned_layers(model)}

    def scale(name):
        return kernels[name].states["kernel"]["scale"].numpy()

    updater = dpf_tf.MaskUpdater(model)
    updater.update(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    for later in (updater, dpf_tf.MaskUpdater(model)):
        later.update(16)
        np.testing.assert_array_equal(scale("conv1"), 1)
        assert (scale("conv2") > 1).all()


def test_a_saved_model_trains_on_with_the_scales_of_auto(keras, tmp_path):
    keras.utils.set_random_seed(4)
    ramp = dpf_tf.PolynomialDecay(final_sparsity=0.8, end_step=4, frequency=4)
    model = dpf_tf.prune_low_magnitude_dpf(mixed(keras), ramp, threshold="soft")
    model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
    x = np.random.default_rng(2).normal(size=(32, *IMAGES)).astype("float32")

    def fit(model):
        data = (x, x[:, :2, 0, 0])
        callback = dpf_tf.PruningCallback(settle=0)
        model.fit(*data, 4, epochs=1, verbose=0, shuffle=False, callbacks=[callback])

    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        fit(each)
    for one, other in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    layers = {layer.name: layer for layer in pruned_layers(loaded)}
    np.testing.assert_array_equal(layers["conv1"].states["kernel"]["scale"].numpy(), 1)
    assert (layers["conv2"].states["kernel"]["scale"].numpy() > 1).any()


BEST = {"resnet8": "none", "convnet": "none", "lenet_300_100": "filter"}


@pytest.mark.parametrize("name", BEST)
def test_auto_is_the_best_scale_of_each_network_of_the_comparison(keras, name):
    shape = (32, 32, 3) if name == "resnet8" else (28, 28, 1)
    found = []
    for rescale in ("auto", BEST[name]):
        keras.utils.set_random_seed(3)
        model = models.build(name, keras, classes=10, input_shape=shape)
        found.append(scales(model, rescale))
    assert found[0].keys() == found[1].keys()
    for layer in found[0]:
        np.testing.assert_array_equal(found[0][layer], found[1][layer])
