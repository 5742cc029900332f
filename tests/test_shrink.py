"""`shrink`: a smaller model of the same outputs, and what has to stay is named."""

import warnings

import numpy as np
import pytest

import dpf_tf
from dpf_tf.channels import trace_channels
from dpf_tf.graph import walk
from dpf_tf.plan import plan, shapes
from dpf_tf.shrink import shrink
from official_models import models
from tests.helpers import assert_bits_equal, values

RANGES = {
    "gamma": (0.5, 1.5),
    "beta": (-0.5, 0.8),
    "moving_mean": (-0.5, 0.5),
    "moving_variance": (0.5, 1.5),
    "bias": (-0.5, 0.5),
    "alpha": (0.1, 0.4),
}


def randomize(model):
    """Gives biases, and what else makes constants of zeros, values other than 0."""
    rng = np.random.default_rng(0)
    for _, layer in walk(model):
        for name, (low, high) in RANGES.items():
            variable = getattr(layer, name, None)
            if hasattr(variable, "assign"):
                variable.assign(rng.uniform(low, high, variable.shape))
    return model


def zero(layer, filters):
    """Zeroes filters of a layer, or output channels of a depthwise one."""
    kernel, *others = layer.get_weights()
    kind = type(layer).__name__
    if kind.startswith("Depthwise"):
        kernel.reshape(*kernel.shape[:-2], -1)[..., filters] = 0
    elif kind.endswith("Transpose"):
        kernel[..., filters, :] = 0
    else:
        kernel[..., filters] = 0
    layer.set_weights([kernel, *others])


def zero_half(model):
    """Zeroes the filters of half of the units; returns how many units that is."""
    channels = trace_channels(model)
    every = np.unique(np.concatenate(list(channels.units.values())))
    dead = np.random.default_rng(1).random(len(every)) < 0.5
    dead[list(channels.kept)] = False
    for _, layer in walk(model):
        units = channels.units.get(id(layer))
        if units is not None and not hasattr(layer, "moving_mean"):
            zero(layer, dead[units])
    return int(dead.sum())


def normalize(model):
    """Gives batch norm nearly the statistics of images, so that signals live on."""
    rng = np.random.default_rng(2)
    norms = [layer for _, layer in walk(model) if hasattr(layer, "moving_mean")]
    for layer in norms:
        layer.momentum = 0.0
    model(images_of(model, 8), training=True)
    for layer in norms:
        mean, variance = values([layer.moving_mean, layer.moving_variance])
        variance += 0.1 * variance.mean() + 1e-3
        shift = rng.uniform(-0.3, 0.3, mean.shape) * np.sqrt(variance)
        layer.moving_mean.assign(mean + shift)
        layer.moving_variance.assign(variance * rng.uniform(0.7, 1.5, mean.shape))
        layer.momentum = 0.9


def images_of(model, count=3):
    rng = np.random.default_rng(3)
    return rng.normal(size=(count, *model.input_shape[1:])).astype("float32")


def assert_same_outputs(small, model, tolerance=1e-5):
    images = images_of(model)
    expected = np.asarray(model(images, training=False), np.float64)
    actual = np.asarray(small(images, training=False), np.float64)
    # They do depend on the input, or little would be shown.
    assert expected.std(0).max() > 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


def quietly_shrunk(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return shrink(model)


def widths(model, *names):
    return {name: model.get_layer(name).output.shape[-1] for name in names}


NETWORKS = {
    # The carriers: one for each residual stream and each pair of 3x3 convolutions.
    "resnet20": (None, 3 + 9),
    "resnet50": ((64, 64, 3), 16),
    "vgg16_d": (None, 12),
    "mobilenet_v1": ((64, 64, 3), 0),
    "mobilenet_v2": ((64, 64, 3), 0),
    "densenet40_12": (None, None),
}


def assert_half_goes(model, carriers):
    randomize(model)
    dead = zero_half(model)
    normalize(model)
    small = quietly_shrunk(model)
    assert_same_outputs(small, model)
    stay = dead - plan(model).gone.sum()
    assert stay == carriers if carriers is not None else 0 < stay < 12
    assert small.count_params() < 0.4 * model.count_params()
    assert [x.name for x in small.layers] == [x.name for x in model.layers]


@pytest.mark.parametrize("name", NETWORKS)
def test_an_official_network_shrinks_to_the_same_outputs(keras, name):
    shape, carriers = NETWORKS[name]
    model = models.build(name, keras, classes=10, input_shape=shape)
    assert_half_goes(model, carriers)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, carriers", [("ResNet50", 16), ("MobileNet", 0), ("MobileNetV2", 0)]
)
def test_keras_applications_shrink_to_the_same_outputs(keras, name, carriers):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    )
    assert_half_goes(model, carriers)


def conv(layers, x, name, filters=4, size=3, padding="same", **options):
    return layers.Conv2D(filters, size, padding=padding, name=name, **options)(x)


def net(keras, body, shape=(8, 8, 3)):
    """Images, `body`, and a dense layer behind what it gives."""
    images = keras.Input(shape, name="images")
    x = body(keras.layers, images)
    if len(x.shape) == 4:
        x = keras.layers.GlobalAveragePooling2D()(x)
    elif len(x.shape) == 3:
        x = keras.layers.GlobalMaxPooling1D()(x)
    return randomize(keras.Model(images, keras.layers.Dense(2, name="head")(x)))


def dense(k, x):
    x = k.Dense(4, activation="tanh", name="a")(k.Flatten()(x))
    return k.Dense(5, activation="relu", name="b")(x)


def normed(k, x):
    x = k.BatchNormalization(name="norm")(conv(k, x, "a", use_bias=False))
    return conv(k, k.ELU()(x), "b", size=1, use_bias=False)


def softmax(k, x):
    x = conv(k, conv(k, x, "a"), "b", size=1, activation="softmax")
    return k.Dense(4, activation="softmax", name="c")(k.Flatten()(x))


def to_norm(k, x):
    x = conv(k, conv(k, x, "a"), "b", padding="valid", use_bias=False)
    return k.LeakyReLU()(k.BatchNormalization(name="norm")(x))


def concatenated(k, x):
    a, b = conv(k, x, "a"), k.MaxPooling2D(3, 1, padding="same")(conv(k, x, "b", 3))
    return conv(k, k.Concatenate()([b, a, b]), "c", size=1)


def padded(k, x):
    x = k.ZeroPadding2D(((1, 0), (2, 1)))(conv(k, x, "a", activation="softplus"))
    return conv(k, x, "b", padding="valid")


def pooled(pooling):
    def body(k, x):
        x = k.ZeroPadding2D()(conv(k, x, "a", activation="tanh"))
        return conv(k, getattr(k, pooling)(3, 1)(x), "b", padding="valid")

    return body


def sparse_pool(k, x):
    # Windows of a single pixel: some see the padding alone.
    x = k.ZeroPadding2D()(conv(k, x, "a", activation="tanh"))
    return conv(k, k.MaxPooling2D(1, 2)(x), "b", padding="valid")


def summed(k, x):
    x = conv(k, x, "a")
    y = conv(k, k.ReLU()(x), "b")
    return conv(k, x + y, "c", size=1)


def product(k, x):
    x = conv(k, x, "a", activation="silu")
    return conv(k, x * conv(k, x, "b"), "c", size=1)


def excited(k, x):
    x = conv(k, x, "a")
    y = k.GlobalAveragePooling2D(keepdims=True)(x)
    y = conv(k, conv(k, y, "squeeze", 2, 1), "b", 4, 1, activation="sigmoid")
    return conv(k, k.Multiply()([x, y]), "c", size=1)


def scaled(k, x):
    x = conv(k, x, "a")
    y = k.Dense(4, activation="sigmoid", name="b")(k.GlobalMaxPooling2D()(x))
    return conv(k, k.Multiply()([x, y]), "c", size=1)


def depthwise(k, x):
    x = k.ReLU()(conv(k, x, "a", activation="tanh"))
    x = k.DepthwiseConv2D(3, depth_multiplier=2, padding="valid", name="middle")(x)
    return conv(k, k.BatchNormalization(name="norm")(x), "b")


def sloped(axes):
    def body(k, x):
        x = k.PReLU(shared_axes=axes, name="slope")(conv(k, x, "a"))
        return conv(k, x, "b", size=1)

    return body


def sequence(k, x):
    x = k.Conv1D(4, 3, padding="causal", name="a")(k.Reshape((-1, 3))(x))
    x = k.Conv1D(5, 3, padding="causal", name="b")(k.Dropout(0.5)(x))
    return k.Dense(3, activation="relu", name="c")(x)


def volume(k, x):
    x = k.Conv3D(4, 3, padding="same", name="a")(k.Reshape((8, 4, 2, 3))(x))
    x = k.AveragePooling3D(2, padding="same")(x)
    return k.GlobalAveragePooling3D()(k.Conv3D(3, 1, name="b")(x))


# Body, zero filters, widths, all but that of the head: (width with carriers).
BODIES = {
    "dense layers": (dense, {"a": [1], "b": [0, 3]}, {"a": 3, "b": 3}),
    "a bias is made": (normed, {"a": [0, 2]}, {"a": 2, "norm": 2, "b": 4}),
    "softmax": (softmax, {"a": [1, 2]}, {"a": 2, "b": 4, "c": 4}),
    "batch norm takes it": (to_norm, {"a": [0, 2]}, {"a": 2, "b": 4, "norm": 4}),
    "carrier": (lambda k, x: conv(k, conv(k, x, "a"), "b"), {"a": [0, 2]}, {"a": 3}),
    "concatenation": (concatenated, {"a": [1], "b": [0, 2]}, {"a": 3, "b": 1}),
    "zero padding": (padded, {"a": [0, 1, 3]}, {"a": 2}),
    "max of padded": (pooled("MaxPooling2D"), {"a": [0, 1, 2]}, {"a": 2}),
    "mean of padded": (pooled("AveragePooling2D"), {"a": [0, 1, 2]}, {"a": 2}),
    "pixels of padded": (sparse_pool, {"a": [0, 1, 2]}, {"a": 2}),
    "sum": (summed, {"a": [0, 1], "b": [0, 1]}, {"a": 3, "b": 3}),
    "product": (product, {"a": [1, 3], "b": [1, 3]}, {"a": 3, "b": 3}),
    "scaled by a vector": (
        scaled,
        {"a": [1, 3], "b": [1, 3]},
        {"a": 2, "b": 2},
    ),
    "excitation": (
        excited,
        {"a": [1, 3], "b": [1, 3], "squeeze": [0]},
        {"a": 2, "b": 2, "squeeze": 1},
    ),
    "depthwise": (
        depthwise,
        {"a": [1, 3]},
        {"a": 3, "middle": 6, "norm": 6},
    ),
    "slopes of channels": (sloped((1, 2)), {"a": [1, 3]}, {"a": 2, "slope": 2}),
    "causal": (
        sequence,
        {"a": [1, 2], "b": [0, 4], "c": [0]},
        {"a": 3, "b": 3, "c": 2},
    ),
    "volume": (volume, {"a": [1, 2], "b": [0]}, {"a": 2, "b": 2}),
    "upsampling": (
        lambda k, x: conv(
            k, k.UpSampling2D(interpolation="bilinear")(conv(k, x, "a")), "b"
        ),
        {"a": [0, 2]},
        {"a": 3},
    ),
    "resizing": (
        lambda k, x: conv(k, k.Resizing(5, 6)(conv(k, x, "a")), "b", size=1),
        {"a": [0, 2]},
        {"a": 2},
    ),
    "mean, same": (
        lambda k, x: conv(
            k, k.AveragePooling2D(3, padding="same")(conv(k, x, "a")), "b", size=1
        ),
        {"a": [0, 2]},
        {"a": 2},
    ),
    "flattened padding": (
        lambda k, x: k.Flatten()(k.ZeroPadding2D()(conv(k, x, "a"))),
        {"a": [0, 2]},
        {"a": 2},
    ),
    "mean of padding": (
        lambda k, x: k.ZeroPadding2D()(conv(k, x, "a")),
        {"a": [0, 2]},
        {"a": 2},
    ),
    "reshaped": (
        lambda k, x: k.Reshape((16, 16), name="flat")(conv(k, x, "a")),
        {"a": [0, 2]},
        {"a": 2, "flat": 8},
    ),
    "transposed": (
        lambda k, x: conv(
            k, k.Conv2DTranspose(5, 3, 2, name="b")(conv(k, x, "a")), "c", size=1
        ),
        {"a": [0, 2], "b": [1, 3]},
        {"a": 3, "b": 3},
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_outputs_stay_and_only_carriers_of_constants_are_left(keras, case):
    body, filters, expected = BODIES[case]
    model = net(keras, body)
    for name, indices in filters.items():
        zero(model.get_layer(name), indices)
    small = quietly_shrunk(model)
    assert widths(small, *expected) == expected
    assert_same_outputs(small, model)


def test_borders_are_those_of_a_convolution_by_loops(keras):
    model = net(keras, lambda k, x: conv(k, conv(k, x, "a", 5), "b", 2), (5, 4, 2))
    zero(model.get_layer("a"), [0, 2, 3])
    small = quietly_shrunk(model)
    assert widths(small, "a") == {"a": 3}
    (image,) = images_of(model, 1).astype(np.float64)
    for name in ("a", "b"):
        kernel, bias = values(model.get_layer(name).weights)
        framed = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        image = np.empty((5, 4, len(bias)))
        for i, j in np.ndindex(5, 4):
            window = framed[i : i + 3, j : j + 3, :, None]
            image[i, j] = (window * kernel).sum((0, 1, 2)) + bias
    features = keras.Model(small.input, small.get_layer("b").output)
    actual = np.asarray(features(images_of(model, 1)))[0]
    np.testing.assert_allclose(actual, image, rtol=0, atol=1e-5 * np.abs(image).max())


def test_constants_of_zero_leave_nothing_behind(keras):
    def body(layers, x):
        for name in ("a", "b"):
            x = layers.ReLU()(conv(layers, x, name, use_bias=False))
        return layers.ReLU()(conv(layers, x, "c", padding="valid", use_bias=False))

    model = net(keras, body)
    zero(model.get_layer("a"), [1, 2])
    zero(model.get_layer("b"), [0, 1, 2])
    small = quietly_shrunk(model)
    assert widths(small, "a", "b", "c") == {"a": 2, "b": 1, "c": 4}
    assert not any(small.get_layer(name).use_bias for name in "abc")
    assert_same_outputs(small, model)


def test_batch_norms_mean_takes_a_constant_rather_than_a_new_bias(keras):
    model = net(keras, to_norm)
    zero(model.get_layer("a"), [0, 2])
    small = quietly_shrunk(model)
    assert not small.get_layer("b").use_bias
    before, after = (
        values([x.get_layer("norm").moving_mean])[0] for x in (model, small)
    )
    assert (before != after).all()
    model = net(keras, normed)
    zero(model.get_layer("a"), [0, 2])
    assert quietly_shrunk(model).get_layer("b").use_bias


def test_consumers_of_one_stream_share_a_carrier(keras):
    def body(layers, x):
        x = conv(layers, x, "stem", 8)
        for name in ("a", "b", "c"):
            x = layers.Add()([x, conv(layers, layers.ReLU()(x), name, 8)])
        return x

    model = net(keras, body)
    for name in ("stem", "a", "b", "c"):
        zero(model.get_layer(name), [0, 2, 3, 5, 6])
    small = quietly_shrunk(model)
    assert widths(small, "stem", "c")["c"] in (4, 5)
    assert_same_outputs(small, model)


def test_one_filter_of_each_layer_stays(keras):
    model = net(keras, lambda k, x: conv(k, conv(k, x, "a", size=1), "b", size=1))
    model.get_layer("a").kernel.assign(np.zeros((1, 1, 3, 4)))
    small = quietly_shrunk(model)
    assert widths(small, "a", "b") == {"a": 1, "b": 4}
    images = images_of(model)
    np.testing.assert_allclose(small(images), model(images), rtol=1e-5)


def test_nested_and_shared_models_shrink_inside(keras):
    layers = keras.layers
    images = keras.Input((8, 8, 3))
    inside = conv(layers, conv(layers, images, "first"), "second", size=1)
    encoder = keras.Model(images, inside, name="encoder")

    def body(layers, x):
        y = layers.Concatenate()([encoder(x), encoder(layers.ReLU()(x))])
        return conv(layers, y, "c", size=1)

    model = net(keras, body)
    randomize(encoder)
    zero(encoder.get_layer("first"), [0, 1])
    zero(encoder.get_layer("second"), [3])
    zero(model.get_layer("c"), [2])
    small = quietly_shrunk(model)
    assert widths(small.get_layer("encoder"), "first", "second") == {
        "first": 2,
        "second": 3,
    }
    assert widths(small, "c") == {"c": 3}
    assert_same_outputs(small, model)


def test_a_shared_convolution_shrinks_on_both_sides(keras):
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")

    def body(layers, x):
        a, b = conv(layers, x, "a"), conv(layers, x, "b")
        model_a, model_b = shared(layers.ReLU()(a)), shared(layers.ReLU()(b))
        return conv(layers, layers.Concatenate()([model_a, model_b]), "c", size=1)

    model = net(keras, body)
    b = model.get_layer("b")
    b.bias.assign(model.get_layer("a").bias)
    for name in "ab":
        zero(model.get_layer(name), [0, 2])
    zero(shared, [3])
    small = quietly_shrunk(model)
    assert widths(small, "a", "b")["a"] == widths(small, "a", "b")["b"] < 4
    assert small.get_layer("shared").filters == 3
    assert_same_outputs(small, model)
    # Other constants at each call: no bias could stand for both.
    b.bias.assign(b.bias + 1)
    with pytest.warns(UserWarning, match="a: 2 .other constants at each call of"):
        small = shrink(model)
    assert_same_outputs(small, model)


def test_a_sequential_model_stays_one(keras):
    layers = keras.layers
    row = [layers.Dense(8, name="a"), layers.ReLU(), layers.Dense(2)]
    model = randomize(keras.Sequential([keras.Input((5,)), *row], name="row"))
    zero(model.get_layer("a"), range(3))
    small = quietly_shrunk(model)
    assert type(small) is keras.Sequential and small.name == "row"
    assert widths(small, "a") == {"a": 5}
    assert_same_outputs(small, model)


STUCK = {
    "the last layer": (
        lambda k, x: conv(k, x, "a"),
        {"head": [1]},
        "head: 1 .makes the model's output",
    ),
    "what mixes channels": (
        lambda k, x: k.LayerNormalization(name="odd")(conv(k, x, "a")),
        {"a": [0, 3]},
        "a: 2 .used by 'odd' .LayerNormalization., which mixes or fixes channels",
    ),
    "a depthwise border": (
        lambda k, x: k.DepthwiseConv2D(3, padding="same", name="odd")(conv(k, x, "a")),
        {"a": [0, 3]},
        "a: 2 .not constant behind 'odd' .DepthwiseConv2D",
    ),
    "one side of a sum": (
        lambda k, x: k.Add()([conv(k, x, "a"), conv(k, x, "b")]),
        {"a": [0, 3], "b": [0]},
        "a: 1 .tied to filters that are not zero",
    ),
    "batch norm of a padding": (
        lambda k, x: k.BatchNormalization(name="n")(k.ZeroPadding2D()(conv(k, x, "a"))),
        {"a": [0, 3]},
        "a: 2 .not constant behind 'n' .BatchNormalization",
    ),
    "slopes of positions": (
        lambda k, x: k.PReLU(
            alpha_initializer="random_normal", name="n", trainable=False
        )(conv(k, x, "a", bias_initializer="ones")),
        {"a": [0, 3]},
        None,
    ),
}


@pytest.mark.parametrize("case", STUCK)
def test_what_cannot_go_is_named_in_one_warning(keras, case):
    body, filters, expected = STUCK[case]
    model = net(keras, body)
    for name, indices in filters.items():
        zero(model.get_layer(name), indices)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = shrink(model)
    assert_same_outputs(small, model)
    if expected:
        (message,) = [str(x.message) for x in caught]
        with pytest.raises(ValueError, match=expected):
            raise ValueError(message)


def test_a_long_warning_is_cut(keras):
    def body(layers, x):
        for i in range(10):
            x = layers.Softmax()(conv(layers, x, f"conv{i}", size=1))
        return x

    model = net(keras, body)
    for i in range(10):
        zero(model.get_layer(f"conv{i}"), [0])
    with pytest.warns(UserWarning, match="conv7.*; [.]{3}$") as caught:
        shrink(model)
    assert len(caught) == 1 and "conv8" not in str(caught[0].message)


def test_the_given_model_stays_as_it_was(keras):
    model = net(keras, excited)
    zero(model.get_layer("squeeze"), [0])
    before = values(model.variables)
    small = shrink(model)
    assert not {id(x) for x in model.variables} & {id(x) for x in small.variables}
    for variable in small.variables:
        variable.assign(variable + 1)
    assert_bits_equal(values(model.variables), before)


def test_weights_that_no_constant_touches_are_copied_bit_by_bit(keras):
    model = net(keras, concatenated)
    zero(model.get_layer("a"), [1])
    small = quietly_shrunk(model)
    kernel, bias = values(model.get_layer("a").weights)
    left = [0, 2, 3]
    assert_bits_equal(
        values(small.get_layer("a").weights), [kernel[..., left], bias[left]]
    )
    assert_bits_equal(
        values(small.get_layer("b").weights), values(model.get_layer("b").weights)
    )


def test_names_options_and_frozen_layers_stay(keras):
    l2 = keras.regularizers.L2(0.1)

    def body(layers, x):
        x = conv(layers, x, "a", kernel_regularizer=l2, trainable=False)
        return conv(layers, x, "b", size=1, strides=2, dtype="float64")

    model = net(keras, body)
    zero(model.get_layer("a"), [1])
    small = quietly_shrunk(model)
    assert small.name == model.name
    assert [x.name for x in small.layers] == [x.name for x in model.layers]
    a, b = small.get_layer("a"), small.get_layer("b")
    assert not a.trainable and a.kernel_regularizer is not None
    assert b.strides == (2, 2) and b.compute_dtype == "float64"


def everything(layers, x):
    x = layers.BatchNormalization()(conv(layers, x, "a", use_bias=False))
    x = layers.PReLU(shared_axes=(1, 2))(x)
    y = layers.Dropout(0.1)(conv(layers, x, "b", activation="relu"))
    x = layers.Concatenate()([layers.Add()([x, y]), y])
    x = layers.DepthwiseConv2D(3, padding="valid")(x)
    return layers.Dense(6, name="c")(layers.Reshape((-1, 36 * 8))(x))


def small_of_everything(keras):
    model = net(keras, everything)
    zero(model.get_layer("a"), [0, 2])
    zero(model.get_layer("b"), [0, 2])
    zero(model.get_layer("c"), [1])
    small = quietly_shrunk(model)
    assert_same_outputs(small, model)
    assert small.count_params() < model.count_params()
    return small


def test_the_result_trains_and_can_be_saved(keras, tmp_path):
    small = small_of_everything(keras)
    small.compile("sgd", "mse")
    before = values(small.trainable_variables)
    small.fit(images_of(small, 4), np.ones((4, 2)), verbose=0)
    after = values(small.trainable_variables)
    assert all((x != y).any() for x, y in zip(before, after, strict=True))
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert_bits_equal(values(loaded.weights), values(small.weights))
    assert_same_outputs(loaded, small)


def test_the_result_can_be_pruned_stripped_and_shrunk_again(keras):
    small = small_of_everything(keras)
    pruned = dpf_tf.prune_low_magnitude_dpf(small, dpf_tf.ConstantSparsity(0.5, 0))
    with pytest.warns(UserWarning, match="below the target"):  # It was not trained.
        stripped = dpf_tf.strip_pruning(pruned)
    zero(stripped.get_layer("a"), [-1])
    zero(stripped.get_layer("b"), [-1])
    again = shrink(stripped)
    assert again.count_params() < small.count_params()
    assert_same_outputs(again, stripped)


def test_the_result_can_be_exported(keras, tmp_path):
    pytest.importorskip("ai_edge_litert")
    model = net(keras, lambda k, x: conv(k, conv(k, x, "a"), "b"))
    zero(model.get_layer("a"), [0, 2])
    small = quietly_shrunk(model)
    sizes = []
    for x in (model, small):
        dpf_tf.export_tflite(x, tmp_path / "model.tflite", weights="float32")
        sizes.append((tmp_path / "model.tflite").stat().st_size)
    assert sizes[1] < sizes[0]


def test_a_pruned_model_is_stripped_first(keras):
    model = net(keras, lambda k, x: conv(k, conv(k, x, "a"), "b"))
    model.get_layer("a").kernel.assign(
        values([model.get_layer("a").kernel])[0] * [1, 1, 1e-6, 1]
    )
    pruned = dpf_tf.prune_low_magnitude_dpf(model, dpf_tf.ConstantSparsity(0.5, 0))
    pruned.compile("sgd", "mse")
    pruned.fit(
        images_of(model),
        np.zeros((3, 2)),
        verbose=0,
        callbacks=[dpf_tf.PruningCallback()],
    )
    # The plan can be asked for what the masks leave, with nothing built.
    masked = {
        id(kernel): np.asarray(value)
        for layer in pruned.layers
        if isinstance(layer, dpf_tf.PruneLowMagnitudeDPF)
        for kernel, value in zip(
            layer.kernels.values(), layer.masked_kernels.values(), strict=True
        )
    }
    planned = plan(pruned, masked)
    stripped = dpf_tf.strip_pruning(pruned)
    zeros = int((~values([stripped.get_layer("a").kernel])[0].any((0, 1, 2))).sum())
    assert zeros >= 1
    small = shrink(pruned)
    # One of them carries the constants.
    a = pruned.get_layer("a").layer
    assert len(planned.outputs[id(a)]) == small.get_layer("a").filters == 5 - zeros
    assert_same_outputs(small, stripped)


@pytest.mark.parametrize("body", [everything, to_norm, depthwise, excited, normed])
def test_planned_shapes_are_those_of_the_result(keras, body):
    model = net(keras, body)
    zero(model.get_layer("a"), [0, 2])
    zero(model.get_layer("b"), [0, 2])
    planned = plan(model)
    small = shrink(model)
    for layer in small.layers:
        expected = shapes(planned).get(id(model.get_layer(layer.name)))
        if expected is not None:
            found = {name: tuple(getattr(layer, name).shape) for name in expected}
            assert found == expected
            assert len(found) == len(layer.variables)


def test_positions_that_are_not_fixed_need_no_size(keras):
    def body(layers, x):
        x = layers.ReLU()(conv(layers, conv(layers, x, "a"), "b", size=1))
        return layers.MaxPooling2D()(x)

    model = net(keras, body, (None, None, 3))
    zero(model.get_layer("a"), [0, 2])
    zero(model.get_layer("b"), [1])
    small = quietly_shrunk(model)
    assert widths(small, "a", "b") == {"a": 2, "b": 3}
    images = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype("float32")
    np.testing.assert_allclose(small(images), model(images), atol=1e-5)


def test_a_padding_of_unknown_size_keeps_its_constants(keras):
    model = net(keras, padded, (None, None, 3))
    zero(model.get_layer("a"), [0, 2])
    with pytest.warns(UserWarning, match="a: 2 .not constant behind .*ZeroPadding2D"):
        small = shrink(model)
    assert widths(small, "a") == {"a": 4}


def test_half_precision_shrinks(keras):
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = net(keras, lambda k, x: conv(k, conv(k, x, "a"), "b", size=1))
    zero(model.get_layer("a"), [0, 2])
    small = quietly_shrunk(model)
    assert widths(small, "a") == {"a": 2}
    assert small.get_layer("a").compute_dtype == "float16"
    assert_same_outputs(small, model, tolerance=5e-3)


def test_models_of_several_inputs_and_outputs_shrink(keras):
    layers = keras.layers
    left, right = (
        keras.Input((8, 8, n), name=name) for n, name in ((3, "l"), (2, "r"))
    )
    a, b = conv(layers, left, "a"), conv(layers, right, "b")
    both = conv(layers, layers.Concatenate()([a, b]), "c", size=1)
    ends = [layers.GlobalAveragePooling2D()(x) for x in (both, b)]
    outputs = {"both": layers.Dense(2)(ends[0]), "b": ends[1]}
    model = randomize(keras.Model({"l": left, "r": right}, outputs))
    for name in "abc":
        zero(model.get_layer(name), [1])
    with pytest.warns(UserWarning, match="b: 1 .makes the model's output"):
        small = shrink(model)
    assert widths(small, "a", "b", "c") == {"a": 3, "b": 4, "c": 3}
    rng = np.random.default_rng(0)
    images = {"l": rng.normal(size=(2, 8, 8, 3)), "r": rng.normal(size=(2, 8, 8, 2))}
    images = {name: x.astype("float32") for name, x in images.items()}
    expected, found = model(images), small(images)
    for name in outputs:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_a_model_without_zero_filters_is_refused(keras):
    model = net(keras, lambda k, x: conv(k, x, "a"))
    with pytest.raises(ValueError, match="No filter .* structure=dpf_tf.Filters"):
        shrink(model)


def test_other_than_built_graph_models_are_refused(keras):
    class Own(keras.Model):
        def call(self, x):
            return x

    for model in (Own(), keras.Sequential([keras.layers.Dense(2)])):
        with pytest.raises(ValueError, match="functional or sequential model that is"):
            shrink(model)
    with pytest.raises(ValueError, match="functional or sequential"):
        shrink(keras.layers.Dense(2))
    with pytest.raises(TypeError, match="functional or sequential Keras model"):
        shrink("model")
