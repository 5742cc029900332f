"""`check_xnnpack_sparse`: each rule broken alone. The levels are as seen on ARM."""

import json

import numpy as np
import pytest

import dpf_tf
from dpf_tf import check_xnnpack_sparse
from official_models import models


def stem(layers, x, pad=1, strides=2, padding="valid"):
    if pad:
        x = layers.ZeroPadding2D(pad)(x)
    return layers.Conv2D(8, 3, strides, padding=padding, name="stem")(x)


def depthwise(layers, x, size=3, pad=0, **options):
    if pad:
        x = layers.ZeroPadding2D(pad)(x)
    return layers.DepthwiseConv2D(size, name="odd", **options)(x)


def excitation(layers, x):
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = layers.Conv2D(4, 1, activation="swish")(y)
    y = layers.Conv2D(8, 1, activation="sigmoid")(y)
    return layers.Multiply()([x, y])


def net(keras, body=None, begin=stem, size=(32, 32, 3), pool=None, head=None):
    """A stem, what is tried, a 1x1 convolution, pooling and a classifier."""
    layers = keras.layers
    images = keras.Input(size)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(begin(layers, images)))
    if body is not None:
        x = body(layers, x)
    x = layers.Conv2D(12, 1, activation="relu", name="last")(x)
    pool = pool or layers.GlobalAveragePooling2D(name="pool")
    x = layers.Dropout(0.2)(pool(x))
    return keras.Model(images, head(layers, x) if head else layers.Dense(5)(x))


def found(report):
    return [(x["rule"], x["level"], x["path"]) for x in report["findings"]]


FITS = {
    "nothing else": None,
    "depthwise 3x3, same": lambda k, x: depthwise(k, x, padding="same"),
    "depthwise 3x3, strides 2": lambda k, x: depthwise(k, x, pad=1, strides=2),
    "depthwise 5x5": lambda k, x: depthwise(k, x, 5, pad=2),
    "depthwise 5x5, same": lambda k, x: depthwise(k, x, 5, padding="same"),
    "depthwise 5x5, strides 2": lambda k, x: depthwise(k, x, 5, pad=2, strides=2),
    "separable": lambda k, x: k.SeparableConv2D(8, 3, padding="same")(x),
    "residual": lambda k, x: k.ReLU()(k.Add()([x, k.Conv2D(8, 1)(x)])),
    "residual, an operation": lambda k, x: x + k.Conv2D(8, 1)(x),
    "product": lambda k, x: k.Multiply()([x, k.Conv2D(8, 1)(x)]),
    "squeeze and excitation": excitation,
    "batch norm behind 1x1": lambda k, x: k.BatchNormalization()(k.Conv2D(8, 1)(x)),
    "bilinear": lambda k, x: k.UpSampling2D(2, interpolation="bilinear")(x),
    "no-ops": lambda k, x: k.Activation("linear")(k.Dropout(0.1)(x)),
    "layer as activation": lambda k, x: k.Conv2D(8, 1, activation=k.ReLU(6.0))(x),
    "leaky ReLU": lambda k, x: k.LeakyReLU()(x),
    **{
        name: lambda k, x, name=name: k.Conv2D(8, 1, activation=name)(x)
        for name in ("relu", "sigmoid", "tanh", "elu", "gelu", "swish", "exponential")
    },
}


@pytest.mark.parametrize("body", FITS.values(), ids=FITS)
def test_what_fits(keras, body):
    report = check_xnnpack_sparse(net(keras, body), sparsity=0.9)
    assert found(report) == []
    assert report["fits"]
    assert (report["cluster"][0], report["cluster"][-1]) == ("stem", "pool")


GAP = {  # What works on a pooling that keeps its dimensions, and goes on inside.
    "product": lambda k, x, y: k.Multiply()([x, y]),
    "gate": lambda k, x, y: k.Multiply()([x, k.Activation("sigmoid")(y)]),
    "sum": lambda k, x, y: k.Add()([x, y]),
}


@pytest.mark.parametrize("use", GAP.values(), ids=GAP)
def test_only_a_1x1_convolution_may_follow_a_pooling_inside(keras, use):
    def body(layers, x):
        return use(layers, x, layers.GlobalAveragePooling2D(keepdims=True)(x))

    report = check_xnnpack_sparse(net(keras, body), sparsity=0.9)
    assert {(x["rule"], x["level"]) for x in report["findings"]} == {("head", "error")}


def named(layer):
    return lambda k, x: getattr(k, layer[0])(*layer[1:], name="odd")(x)


INSIDE = {  # What breaks the chain inside, and the rule that names it.
    "3x3": (named(("Conv2D", 8, 3, 1, "same")), "convolution"),
    "1x1, strides 2": (named(("Conv2D", 8, 1, 2)), "convolution"),
    "1x1, groups": (
        lambda k, x: k.Conv2D(8, 1, groups=2, name="odd")(x),
        "convolution",
    ),
    "1x1, padded": (
        lambda k, x: k.Conv2D(8, 1, name="odd")(k.ZeroPadding2D(1)(x)),
        "padding",
    ),
    "depthwise 3x3, not padded": (depthwise, "padding"),
    "depthwise 5x5, pad 1": (lambda k, x: depthwise(k, x, 5, pad=1), "padding"),
    "depthwise 5x5, padded twice": (
        lambda k, x: depthwise(k, x, 5, pad=1, padding="same"),
        "padding",
    ),
    "depthwise 3x3, pad on one side": (
        lambda k, x: depthwise(k, x, pad=((0, 1), (0, 1)), strides=2),
        "padding",
    ),
    "depthwise, same, strides 2": (
        lambda k, x: depthwise(k, x, padding="same", strides=2),
        "padding",
    ),
    "depthwise 7x7": (lambda k, x: depthwise(k, x, 7, pad=3), "depthwise"),
    "depthwise, strides 3": (
        lambda k, x: depthwise(k, x, pad=1, strides=3),
        "depthwise",
    ),
    "depth multiplier": (
        lambda k, x: depthwise(k, x, pad=1, depth_multiplier=2),
        "depthwise",
    ),
    "dilation": (lambda k, x: depthwise(k, x, pad=2, dilation_rate=2), "depthwise"),
    "separable, strides 2": (
        lambda k, x: k.SeparableConv2D(8, 3, 2, padding="same", name="odd")(x),
        "padding",
    ),
    "max pooling": (named(("MaxPooling2D", 2)), "operator"),
    "padding before pooling": (
        lambda k, x: k.AveragePooling2D(2)(k.ZeroPadding2D(1, name="odd")(x)),
        "padding",
    ),
    "nearest": (named(("UpSampling2D", 2)), "operator"),
    "concatenation": (
        lambda k, x: k.Concatenate(name="odd")([x, k.Conv2D(8, 1)(x)]),
        "operator",
    ),
    "difference": (
        lambda k, x: k.Subtract(name="odd")([x, k.Conv2D(8, 1)(x)]),
        "operator",
    ),
    "constant": (named(("Rescaling", 0.5, 1.0)), "operator"),
    "PReLU": (named(("PReLU",)), "operator"),
    "ReLU with a threshold": (
        lambda k, x: k.ReLU(threshold=0.5, name="odd")(x),
        "operator",
    ),
    "hard sigmoid": (named(("Activation", "hard_sigmoid")), "operator"),
    "selu of a convolution": (
        lambda k, x: k.Conv2D(8, 1, activation="selu", name="odd")(x),
        "operator",
    ),
    "own activation": (
        lambda k, x: k.Conv2D(8, 1, activation=lambda y: y, name="odd")(x),
        "operator",
    ),
    "batch norm behind ReLU": (named(("BatchNormalization",)), "batch_norm"),
    "batch norm beside": (
        lambda k, x: k.Add()([x, k.BatchNormalization(name="odd")(x)]),
        "batch_norm",
    ),
    "channels first": (
        lambda k, x: k.DepthwiseConv2D(
            3, padding="same", data_format="channels_first", name="odd"
        )(x),
        "operator",
    ),
}


@pytest.mark.parametrize(("body", "rule"), INSIDE.values(), ids=INSIDE)
def test_what_breaks_the_chain_inside_is_an_error(keras, body, rule):
    report = check_xnnpack_sparse(net(keras, body), sparsity=0.9)
    wrong = [x for x in found(report) if x[2] == "odd"]
    assert wrong == [(rule, "error", "odd")]
    assert not report["fits"]
    assert "wrong numbers" in str(report)


STEMS = {
    "same": (lambda k, x: stem(k, x, 0, padding="same"), (32, 32, 3), "padding"),
    # The converter turns a padding that "same" would make into "same".
    "odd size": (stem, (33, 33, 3), "padding"),
    "same, odd size": (
        lambda k, x: stem(k, x, 0, padding="same"),
        (33, 33, 3),
        "padding",
    ),
    "unknown size": (stem, (None, None, 3), "padding"),
    "one side": (
        lambda k, x: stem(k, x, ((0, 1), (0, 1))),
        (32, 32, 3),
        "padding",
    ),
    "not padded": (lambda k, x: stem(k, x, 0), (32, 32, 3), "padding"),
    "strides 1": (lambda k, x: stem(k, x, strides=1), (32, 32, 3), "stem"),
    "grey": (stem, (32, 32, 1), "stem"),
    "7x7": (
        lambda k, x: k.Conv2D(8, 7, 2, name="stem")(k.ZeroPadding2D(3)(x)),
        (32, 32, 3),
        "stem",
    ),
    "1x1": (lambda k, x: k.Conv2D(8, 1, name="stem")(x), (32, 32, 3), "stem"),
    "depthwise": (
        lambda k, x: k.DepthwiseConv2D(3, padding="same", name="stem")(x),
        (32, 32, 3),
        "stem",
    ),
    "separable": (
        lambda k, x: k.SeparableConv2D(8, 3, 2, name="stem")(k.ZeroPadding2D(1)(x)),
        (32, 32, 3),
        "stem",
    ),
}


@pytest.mark.parametrize(("begin", "size", "rule"), STEMS.values(), ids=STEMS)
def test_a_chain_that_does_not_begin_well_is_slow_only(keras, begin, size, rule):
    report = check_xnnpack_sparse(net(keras, begin=begin, size=size), sparsity=0.9)
    assert found(report) == [(rule, "unfit", "stem")]


def test_what_comes_before_the_stem_is_free(keras):
    def begin(layers, x):
        x = layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])(x)
        return stem(layers, layers.Rescaling(1 / 127.5, -1)(x))

    # One even side is enough.
    for size in ((32, 32, 3), (32, 33, 3)):
        assert check_xnnpack_sparse(net(keras, begin=begin, size=size), 0.9)["fits"]


def test_strided_convolutions_share_no_padding(keras):
    def two(layers, x, strides):
        x = layers.ZeroPadding2D(1)(x)
        each = [layers.DepthwiseConv2D(3, strides, name=f"odd{i}") for i in (1, 2)]
        return layers.Add()([layer(x) for layer in each])

    # Without strides the converter writes "same" for each.
    model = net(keras, lambda k, x: two(k, x, 1))
    assert check_xnnpack_sparse(model, 0.9)["fits"]
    report = check_xnnpack_sparse(net(keras, lambda k, x: two(k, x, 2)), 0.9)
    assert {x[:2] for x in found(report)} == {("padding", "error")}
    assert {x[2] for x in found(report)} == {"odd1", "odd2"}


def test_an_odd_size_inside_is_named(keras):
    model = net(keras, lambda k, x: depthwise(k, x, pad=1, strides=2), size=(34, 34, 3))
    report = check_xnnpack_sparse(model, sparsity=0.9)
    assert found(report) == [("padding", "error", "odd")]
    assert "17x17" in report["findings"][0]["reason"]


HEADS = {
    "two dense": (False, lambda k, x: k.Dense(5)(k.Dense(9, "relu")(x)), None),
    "flatten": (False, lambda k, x: k.Dense(5, "softmax")(k.Flatten()(x)), None),
    "kept, flatten": (True, lambda k, x: k.Dense(5)(k.Flatten()(x)), None),
    "kept, reshape": (True, lambda k, x: k.Dense(5)(k.Reshape((12,))(x)), None),
    "kept, 1x1": (True, lambda k, x: k.Conv2D(5, 1, name="odd")(x), "odd"),
    "kept, dense": (True, lambda k, x: k.Dense(5, name="odd")(x), "odd"),
    "kept, ReLU": (True, lambda k, x: k.Flatten()(k.ReLU(name="odd")(x)), "odd"),
    "kept, output": (True, lambda k, x: x, "pool"),
}


@pytest.mark.parametrize(("keep", "head", "path"), HEADS.values(), ids=HEADS)
def test_behind_the_pooling(keras, keep, head, path):
    pool = keras.layers.GlobalAveragePooling2D(keepdims=keep, name="pool")
    report = check_xnnpack_sparse(net(keras, pool=pool, head=head), sparsity=0.9)
    assert found(report) == ([("head", "error", path)] if path else [])


@pytest.mark.parametrize("pool", ["Flatten", "GlobalMaxPooling2D"])
def test_without_global_average_pooling(keras, pool):
    report = check_xnnpack_sparse(net(keras, pool=getattr(keras.layers, pool)()), 0.9)
    assert found(report) == [("pooling", "unfit", "last")]


def test_a_value_inside_that_leaves_the_chain(keras):
    layers = keras.layers
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 1, name="inner")(stem(layers, images))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1, name="last")(x))
    for other, rule, path in (
        (x, "consumer", "inner"),
        (layers.GlobalMaxPooling2D(name="side")(x), "consumer", "inner"),
        (layers.Conv2D(2, 1, name="side")(x), "pooling", "side"),
    ):
        model = keras.Model(images, [layers.Dense(5)(pooled), other])
        assert found(check_xnnpack_sparse(model, 0.9)) == [(rule, "error", path)]
    # A second classifier, and the pooled features, are no harm.
    aside = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(images, [pooled, layers.Dense(5)(pooled), aside])
    assert check_xnnpack_sparse(model, 0.9)["fits"]


def test_a_model_without_images_has_no_chain(keras):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="mlp")
    report = check_xnnpack_sparse(model, 0.9)
    assert found(report) == [("zeros", "unfit", "mlp")]
    assert "no 1x1 convolution" in str(report)
    assert report["cluster"] == []
    assert report["share_of_zeros"] is None


def test_a_second_input_inside_breaks_the_chain(keras):
    layers = keras.layers
    images, gates = keras.Input((32, 32, 3)), keras.Input((16, 16, 8))
    x = layers.Multiply(name="odd")([stem(layers, images), gates])
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1)(x))
    report = check_xnnpack_sparse(keras.Model([images, gates], x), 0.9)
    assert found(report) == [("stem", "error", "odd")]


@pytest.mark.parametrize("sparsity", [0.6, 0.7])
def test_more_than_two_thirds_must_be_zero(keras, sparsity):
    model = net(keras)
    assumed = check_xnnpack_sparse(model, sparsity)
    kernel, bias = (w.numpy() for w in model.get_layer("last").weights)
    mask = np.arange(kernel.size).reshape(kernel.shape) >= sparsity * kernel.size
    model.get_layer("last").set_weights([kernel * mask, bias])
    counted = check_xnnpack_sparse(model)
    for report in (assumed, counted):
        assert report["weights"] == 8 * 12  # The stem's and dense ones do not count.
        assert report["share_of_zeros"] == pytest.approx(sparsity, abs=0.01)
        zeros = [("zeros", "unfit", "last")]
        assert found(report) == (zeros if sparsity < 2 / 3 else [])


def test_a_dense_model_is_told_what_it_needs(keras):
    report = check_xnnpack_sparse(net(keras))
    assert report["fits"]
    assert report["zeros"] is report["share_of_zeros"] is None
    assert str(report).splitlines() == [
        "Fits XNNPACK's sparse inference on ARM: 'stem' to 'pool'.",
        "1x1 kernels: 96 weights, none of them zero. It needs more than 2/3 zeros; "
        "give `sparsity=`.",
    ]


def test_a_pruned_model_counts_as_it_will_be(keras):
    model = net(keras, lambda k, x: k.Conv2D(10, 1, name="other")(x))
    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.8, end_step=8, frequency=4)
    pruned = dpf_tf.prune_low_magnitude_dpf(
        model, schedule, allocation="uniform", layers=dpf_tf.pointwise
    )
    before = check_xnnpack_sparse(pruned)
    updater = dpf_tf.MaskUpdater(pruned)
    updater.update(0)
    updater.update(8)
    after = check_xnnpack_sparse(pruned)
    stripped = check_xnnpack_sparse(dpf_tf.strip_pruning(pruned))
    assert before == after == stripped
    assert after["zeros"] == 64 + 96
    assert after["fits"]
    # The masks of another target are those that count once they are final.
    dpf_tf.set_masks(
        pruned,
        {path: np.ones_like(m) for path, m in dpf_tf.get_masks(pruned).items()},
    )
    dpf_tf.freeze_masks(pruned)
    assert check_xnnpack_sparse(pruned)["zeros"] is None


def test_nested_models_are_opened(keras):
    layers = keras.layers
    block = keras.Sequential(
        [
            keras.Input((16, 16, 8)),
            layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
            layers.BatchNormalization(),
            layers.Conv2D(8, 1, name="conv"),
        ],
        name="block",
    )
    features = keras.Input((16, 16, 8))
    body = keras.Model(
        features, [block(features), layers.ReLU()(features)], name="body"
    )

    def both(layers, x):
        y, z = body(x)
        return layers.Add()([block(y), z])

    report = check_xnnpack_sparse(net(keras, both), 0.9)
    assert found(report) == []
    assert "body/block/conv" in report["cluster"]
    assert "block/depthwise" in report["cluster"]
    # A kernel counts at each of its calls.
    assert report["weights"] == 2 * 64 + 96


def test_the_networks_for_phones_fit(keras):
    for name in ("mobilenet_v1", "mobilenet_v2"):
        report = check_xnnpack_sparse(models.build(name, keras, classes=1000), 0.9)
        assert report["fits"]
        assert (report["cluster"][0], report["cluster"][-1]) == ("stem", "pool")


def test_those_for_cifar_do_not(keras):
    report = check_xnnpack_sparse(models.build("resnet20", keras, classes=10), 0.9)
    rules = {x["rule"] for x in report["findings"]}
    assert rules == {"stem", "convolution"}


def test_mobilenet_of_keras_lacks_three_things(keras):
    model = keras.applications.MobileNet(weights=None)
    report = check_xnnpack_sparse(model, 0.9)
    strided = ["conv_dw_2", "conv_dw_4", "conv_dw_6", "conv_dw_12"]
    assert found(report) == [
        *[("padding", "unfit", path) for path in ("conv1", *strided)],
        ("head", "unfit", "conv_preds"),
    ]
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "EfficientNetB0"])
def test_other_applications_are_unfit_with_reasons(keras, name):
    report = check_xnnpack_sparse(getattr(keras.applications, name)(weights=None))
    assert report["findings"]
    assert {x["level"] for x in report["findings"]} == {"unfit"}
    assert all(x["reason"] and x["mend"] and x["path"] for x in report["findings"])


def test_equal_findings_are_printed_once(keras):
    def body(layers, x):
        for i in range(8):
            x = layers.MaxPooling2D(1, name=f"pool{i}")(x)
        return x

    text = str(check_xnnpack_sparse(net(keras, body), 0.9))
    line = "- operator (unfit): pool1, pool2, pool3, pool4, pool5, pool6 and 1 more"
    assert line in text
    assert text.count("MaxPooling2D does not run") == 2  # The first is an error.


def test_what_cannot_be_checked_is_refused(keras):
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    for model in (Subclassed(), keras.Sequential([keras.layers.Dense(2)])):
        with pytest.raises(ValueError, match="functional or sequential.*is built"):
            check_xnnpack_sparse(model)
    with pytest.raises(TypeError, match="functional or sequential.*Received: 'model'"):
        check_xnnpack_sparse("model")
    with pytest.raises(ValueError, match="sparsity must lie in .*Received: 90"):
        check_xnnpack_sparse(net(keras), sparsity=90)
    with pytest.raises(TypeError, match="sparsity must be a number.*Received: '0.9'"):
        check_xnnpack_sparse(net(keras), sparsity="0.9")
