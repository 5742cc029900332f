"""`trace_channels`: which channels live and die together, and which cannot die."""

import numpy as np
import pytest

import dpf_tf
from dpf_tf.channels import trace_channels
from official_models import models


def net(keras, body, shape=(8, 8, 3)):
    """Images, `body`, and a dense layer behind global pooling."""
    images = keras.Input(shape, name="images")
    x = body(keras.layers, images)
    if len(x.shape) > 2:
        x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(2, name="head")(x))


def units(model, channels, *names):
    """The units of layers' outputs, numbered anew from 0."""
    found = [channels.units[id(model.get_layer(name))].tolist() for name in names]
    seen = {}
    return [[seen.setdefault(unit, len(seen)) for unit in each] for each in found]


def reasons(model, channels, name):
    """Why the channels of a layer are kept; None for those that are not."""
    own = channels.units[id(model.get_layer(name))].tolist()
    found = {channels.kept.get(unit) for unit in own}
    return found.pop() if len(found) == 1 else found


def conv(layers, x, name, filters=2, size=3, **options):
    return layers.Conv2D(filters, size, padding="same", name=name, **options)(x)


def test_filters_in_a_row_are_free_but_for_the_last(keras):
    def body(layers, x):
        x = layers.BatchNormalization(name="bn")(conv(layers, x, "a"))
        x = layers.Dropout(0.1)(layers.MaxPooling2D()(layers.ReLU()(x)))
        x = layers.ZeroPadding2D()(layers.UpSampling2D()(x))
        return layers.Activation("swish")(conv(layers, x, "b", activation="relu"))

    model = net(keras, body)
    channels = trace_channels(model)
    assert units(model, channels, "a", "bn", "b", "head") == [
        [0, 1],
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    assert set(channels.kept.values()) == {"makes the model's output"}
    assert reasons(model, channels, "head") == "makes the model's output"
    assert all(x.dtype == np.int64 for x in channels.units.values())


def merged(keras, merge):
    def body(layers, x):
        a = conv(layers, x, "a")
        return conv(layers, merge(layers, a, conv(layers, a, "b")), "c")

    return net(keras, body)


MERGES = {
    "sum of layers": lambda k, a, b: k.Add(name="merge")([a, b]),
    "sum": lambda k, a, b: a + b,
    "product": lambda k, a, b: a * b,
    "difference": lambda k, a, b: a - b,
    "maximum": lambda k, a, b: k.Maximum(name="merge")([a, b]),
    "average": lambda k, a, b: k.Average(name="merge")([a, b]),
    "vector": lambda k, a, b: k.Multiply()([a, k.GlobalMaxPooling2D()(b)]),
    "excitation": lambda k, a, b: k.Multiply()(
        [a, k.GlobalAveragePooling2D(keepdims=True)(b)]
    ),
}


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
def test_both_sides_of_a_merge_are_one_unit(keras, merge):
    model = merged(keras, merge)
    channels = trace_channels(model)
    assert units(model, channels, "a", "b", "c") == [[0, 1], [0, 1], [2, 3]]
    assert reasons(model, channels, "a") is None


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
def test_residual_channels_can_be_kept(keras, merge):
    model = merged(keras, merge)
    channels = trace_channels(model, keep_residual=True)
    assert "passes through" in reasons(model, channels, "b")
    assert reasons(model, channels, "a") == reasons(model, channels, "b")
    assert reasons(model, channels, "c") is None


def test_concatenation_lines_up_channels(keras):
    def body(layers, x):
        a, b = conv(layers, x, "a"), conv(layers, x, "b", 1)
        x = layers.Concatenate()([a, b, a])
        return layers.BatchNormalization(name="bn")(x)

    model = net(keras, body)
    channels = trace_channels(model)
    assert units(model, channels, "a", "b", "bn") == [[0, 1], [2], [0, 1, 2, 0, 1]]


def test_a_depthwise_convolution_repeats_its_input(keras):
    def body(layers, x):
        x = conv(layers, x, "a")
        x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
        return layers.BatchNormalization(name="bn")(x)

    model = net(keras, body)
    channels = trace_channels(model)
    assert units(model, channels, "a", "depthwise", "bn") == [
        [0, 1],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]


@pytest.mark.parametrize(
    "flat",
    [
        lambda k: k.Flatten(),
        lambda k: k.Reshape((-1,)),
        lambda k: k.Reshape((4, 2)),
        lambda k: k.Reshape((1, 2, 4)),
    ],
    ids=["flatten", "vector", "merged positions", "wider"],
)
def test_reshaping_repeats_channels(keras, flat):
    def body(layers, x):
        x = layers.AveragePooling2D(4)(conv(layers, x, "a"))
        x = layers.BatchNormalization(name="bn")(flat(layers)(x))
        return layers.Flatten()(x)

    model = net(keras, body)
    channels = trace_channels(model)
    (a,), (bn,) = units(model, channels, "a"), units(model, channels, "bn")
    assert bn == a * (len(bn) // 2)
    assert reasons(model, channels, "a") is None


def test_reshaping_that_splits_channels_keeps_them(keras):
    def body(layers, x):
        return layers.Flatten()(layers.Reshape((-1, 1))(conv(layers, x, "a")))

    model = net(keras, body)
    assert "Reshape" in reasons(model, trace_channels(model), "a")


def test_a_shared_layer_unites_what_enters_it(keras):
    shared = keras.layers.Conv2D(3, 1, name="shared")

    def body(layers, x):
        a, b = shared(conv(layers, x, "a")), shared(conv(layers, x, "b"))
        return layers.Concatenate()([a, b])

    model = net(keras, body)
    channels = trace_channels(model)
    assert units(model, channels, "a", "b", "shared") == [[0, 1], [0, 1], [2, 3, 4]]


def test_a_nested_model_is_opened_and_what_enters_it_kept(keras):
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(3, 1, name="inside"),
            layers.Conv2D(2, 1, name="last"),
        ],
        name="encoder",
    )

    def body(layers, x):
        x = conv(layers, x, "a")
        return layers.Add()([inner(x), conv(layers, inner(x), "b")])

    model = net(keras, body)
    channels = trace_channels(model)
    inside, last = (channels.units[id(x)] for x in inner.layers)
    assert reasons(model, channels, "a") == "enters the nested model 'encoder'"
    assert not set(channels.kept) & {*inside.tolist()}
    # Called twice: its own output enters it no more than once.
    (b,) = units(model, channels, "b")
    assert (last == channels.units[id(model.get_layer("b"))]).all() and b == [0, 1]


def test_a_nested_model_is_traced_as_if_it_were_flat(keras):
    def row(layers):
        return [layers.Conv2D(3, 1), layers.ReLU(), layers.Conv2D(2, 1)]

    inner = keras.Sequential([keras.Input((8, 8, 3)), *row(keras.layers)])
    outer = keras.Sequential([keras.Input((8, 8, 3)), inner, keras.layers.Dense(2)])
    found = list(trace_channels(outer).units.values())
    assert [x.tolist() for x in found] == [[0, 1, 2], [3, 4], [5, 6]]


class Own:
    """A layer of one's own, of either Keras."""

    def __new__(cls, layers, name):
        kind = type("Twice", (layers.Layer,), {"call": lambda self, x: 2 * x})
        return kind(name=name)


MIXES = {
    "LayerNormalization": lambda k: k.LayerNormalization(name="odd"),
    "Softmax": lambda k: k.Softmax(name="odd"),
    "Activation": lambda k: k.Activation("softmax", name="odd"),
    "Lambda": lambda k: k.Lambda(lambda x: x, name="odd"),
    "SeparableConv2D": lambda k: k.SeparableConv2D(2, 1, name="odd"),
    "Permute": lambda k: k.Permute((2, 1, 3), name="odd"),
    "Twice": lambda k: Own(k, "odd"),
}


@pytest.mark.parametrize("kind", MIXES)
def test_what_is_not_known_keeps_what_enters_and_leaves_it(keras, kind):
    def body(layers, x):
        x = MIXES[kind](layers)(conv(layers, x, "a"))
        return layers.Add(name="add")([x, conv(layers, x, "b")])

    model = net(keras, body)
    channels = trace_channels(model)
    expected = f"used by 'odd' ({kind}), which mixes or fixes channels"
    assert reasons(model, channels, "a") == expected
    expected = f"tied to the output of 'odd' ({kind}) by 'add' (Add)"
    assert reasons(model, channels, "b") == expected


def test_channels_tied_to_the_input_are_kept(keras):
    def body(layers, x):
        return layers.Add(name="add")([conv(layers, x, "a", 3), x])

    model = net(keras, body)
    expected = "tied to the model's input by 'add' (Add)"
    assert reasons(model, trace_channels(model), "a") == expected


def test_both_sides_of_a_grouped_convolution_are_kept(keras):
    def body(layers, x):
        return conv(layers, conv(layers, x, "a"), "grouped", groups=2)

    model = net(keras, body)
    channels = trace_channels(model)
    where = "by 'grouped' (Conv2D): a grouped convolution"
    assert reasons(model, channels, "a") == f"used {where}"
    assert reasons(model, channels, "grouped") == f"made {where}"


def test_a_softmax_keeps_its_own_layers_channels_only(keras):
    def body(layers, x):
        x = conv(layers, conv(layers, x, "a"), "b", activation="softmax")
        return conv(layers, x, "c")

    model = net(keras, body)
    channels = trace_channels(model)
    expected = "made by 'b' (Conv2D), whose activation may mix channels"
    assert reasons(model, channels, "b") == expected
    assert reasons(model, channels, "a") is reasons(model, channels, "c") is None


def test_channels_first_are_kept(keras):
    images = keras.Input((3, 8, 8))
    x = images
    for name in ("a", "b"):
        x = keras.layers.Conv2D(8, 1, data_format="channels_first", name=name)(x)
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    model = keras.Model(images, keras.layers.Dense(2)(x))
    channels = trace_channels(model)
    assert reasons(model, channels, "a").endswith("channels first")


def test_a_map_of_one_channel_that_scales_all_is_no_pairwise_merge(keras):
    def body(layers, x):
        x = conv(layers, x, "a")
        return layers.Multiply()([x, conv(layers, x, "map", 1)])

    model = net(keras, body)
    channels = trace_channels(model)
    assert "Multiply" in reasons(model, channels, "a")
    assert "Multiply" in reasons(model, channels, "map")


def test_a_constant_operand_keeps_channels(keras):
    model = net(keras, lambda layers, x: conv(layers, conv(layers, x, "a") * 2, "b"))
    assert "used by" in reasons(model, trace_channels(model), "a")


def test_a_pruned_models_units_are_those_of_the_plain_one(keras):
    model = models.build("resnet8", keras, classes=10)
    plain = trace_channels(model)
    pruned = trace_channels(dpf_tf.prune_low_magnitude_dpf(model, 0.5))
    assert [x.tolist() for x in plain.units.values()] == [
        x.tolist() for x in pruned.units.values()
    ]
    assert plain.kept == pruned.kept
    # By the layer that is wrapped, which the wrapper shares with the model.
    assert id(model.get_layer("stem")) in pruned.units


def free(channels):
    every = set(np.concatenate(list(channels.units.values())).tolist())
    return len(every - set(channels.kept))


@pytest.mark.parametrize(
    "name, shape, expected",
    [
        # A residual stream per stage, and the first convolution of each of 9 blocks.
        ("resnet20", None, (16 + 32 + 64) * (1 + 3)),
        # A unit for each channel that any of its 40 convolutions makes.
        ("densenet40_12", None, 16 + 36 * 12 + 160 + 304),
        # What the blocks give, and six times that inside the next one.
        (
            "mobilenet_v2",
            (64, 64, 3),
            (32 + 16 + 24 + 32 + 64 + 96 + 160 + 320 + 1280)
            + 6 * (16 + 2 * 24 + 3 * 32 + 4 * 64 + 3 * 96 + 3 * 160),
        ),
    ],
)
def test_free_units_of_official_networks(keras, name, shape, expected):
    model = models.build(name, keras, classes=10, input_shape=shape)
    assert free(trace_channels(model)) == expected
