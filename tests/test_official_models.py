import importlib
import itertools

import numpy as np
import pytest
import tensorflow as tf

import dpf_tf
from official_models import models
from official_models.models.blocks import Blocks
from tests.helpers import assert_bits_equal, values

DECAY = 1e-4
IMAGENET = ("resnet50", "mobilenet_v1", "mobilenet_v2")
# One network of each form, the smallest.
FORMS = (
    "resnet8",
    "resnet44_bottleneck",
    "wide_resnet28_2",
    "densenet40_12",
    "vgg16_d",
    "convnet",
    "lenet_300_100",
    *IMAGENET,
)
# Trainable parameters and multiply-accumulates, with 10 (CIFAR) or 1,000 classes.
FIGURES = {
    "resnet8": (78_042, 12_501_632),
    "resnet20": (272_474, 40_813_184),
    "resnet32": (466_906, 69_124_736),
    "resnet44": (661_338, 97_436_288),
    "resnet56": (855_770, 125_747_840),
    "resnet110": (1_730_714, 253_149_824),
    "resnet44_bottleneck": (684_058, 100_583_936),
    "resnet56_bottleneck": (869_530, 127_322_624),
    "resnet110_bottleneck": (1_704_154, 247_646_720),
    "wide_resnet28_2": (1_467_610, 214_353_152),
    "wide_resnet28_4": (5_849_050, 845_597_184),
    "wide_resnet28_8": (23_354_842, 3_360_084_992),
    "densenet40_12": (1_019_722, 264_812_928),
    "vgg16_d": (15_250_378, 313_725_952),
    "resnet50": (25_557_032, 4_089_184_256),
    "mobilenet_v1": (4_231_976, 568_740_352),
    "mobilenet_v2": (3_504_872, 300_774_272),
    "convnet": (62_106, 1_487_488),
    "lenet_300_100": (953_010, 952_600),
}
# Millions of parameters, milliards of multiply-accumulates, as printed.
PUBLISHED = {
    # Huang et al., 2017, table 2.
    "densenet40_12": ("1.0", None),
    # Lee et al., "SNIP", 2019, table 2 (VGG-D).
    "vgg16_d": ("15.2", None),
    # torchvision's tables of weights.
    "resnet50": ("25.557032", "4.09"),
    "mobilenet_v2": ("3.504872", "0.30"),
    # Howard et al., 2017, table 4.
    "mobilenet_v1": ("4.2", "0.569"),
}
# He et al., 2016, table 6: their shortcuts have no parameters (option A).
PUBLISHED_OPTION_A = {
    "resnet20": "0.27",
    "resnet32": "0.46",
    "resnet44": "0.66",
    "resnet56": "0.85",
    "resnet110": "1.7",
}


class Ledger:
    """Adds up a network by hand: convolutions with batch norm, and dense layers."""

    def __init__(self, channels, size):
        self.channels, self.size, self.parameters, self.macs = channels, size, 0, 0

    def norm(self, channels=None):
        self.parameters += 2 * (channels or self.channels)

    def conv(self, filters, kernel, stride=1, *, norm=True, groups=1, aside=False):
        weights = kernel**2 * self.channels * filters // groups
        size = self.size // stride
        self.parameters += weights
        self.macs += weights * size**2
        if norm:
            self.norm(filters)
        if not aside:  # A shortcut leaves the size to the block.
            self.channels, self.size = filters, size

    def dense(self, units, *, norm=False):
        self.parameters += self.channels * units
        self.macs += self.channels * units
        self.parameters += 2 * units if norm else units
        self.channels = units


def residual(depth, *, bottleneck):
    net = Ledger(3, 32)
    net.conv(16, 3)
    for planes, block in itertools.product((16, 32, 64), range((depth - 2) // 6)):
        stride = 2 if planes > 16 and block == 0 else 1
        if stride > 1 or (bottleneck and block == 0):
            net.conv(4 * planes if bottleneck else planes, 1, stride, aside=True)
        if bottleneck:
            net.conv(planes, 1)
        net.conv(planes, 3, stride)
        net.conv(4 * planes, 1) if bottleneck else net.conv(planes, 3)
    net.dense(10)
    return net


def wide(width):
    net = Ledger(3, 32)
    net.conv(16, 3, norm=False)
    for planes, block in itertools.product((16, 32, 64), range(4)):
        stride = 2 if planes > 16 and block == 0 else 1
        net.norm()
        if block == 0:
            net.conv(planes * width, 1, stride, norm=False, aside=True)
        net.conv(planes * width, 3, stride)
        net.conv(planes * width, 3, norm=False)
    net.norm()
    net.dense(10)
    return net


def dense():
    net = Ledger(3, 32)
    net.conv(16, 3, norm=False)
    for channels in (16, 160, 304):
        for i in range(12):
            net.channels = channels + 12 * i
            net.norm()
            net.conv(12, 3, norm=False)
        net.channels = channels + 144
        net.norm()
        if channels < 304:
            net.conv(net.channels, 1, norm=False)
            net.size //= 2
    net.dense(10)
    return net


def vgg():
    net = Ledger(3, 32)
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            net.conv(filters, 3)
        net.size //= 2
    net.dense(512, norm=True)
    net.dense(512, norm=True)
    net.dense(10)
    return net


def residual50():
    net = Ledger(3, 224)
    net.conv(64, 7, 2)
    net.size //= 2
    for planes, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(count):
            stride = 2 if planes > 64 and block == 0 else 1
            if block == 0:
                net.conv(4 * planes, 1, stride, aside=True)
            net.conv(planes, 1)
            net.conv(planes, 3, stride)
            net.conv(4 * planes, 1)
    net.dense(1000)
    return net


def mobile1():
    net = Ledger(3, 224)
    net.conv(32, 3, 2)
    for filters in (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024):
        stride = 2 if filters > net.channels and net.channels > 32 else 1
        net.conv(net.channels, 3, stride, groups=net.channels)
        net.conv(filters, 1)
    net.dense(1000)
    return net


def mobile2():
    net = Ledger(3, 224)
    net.conv(32, 3, 2)
    net.conv(32, 3, groups=32)
    net.conv(16, 1)
    for filters, count, first in (
        (24, 2, 2),
        (32, 3, 2),
        (64, 4, 2),
        (96, 3, 1),
        (160, 3, 2),
        (320, 1, 1),
    ):
        for stride in (first, *[1] * (count - 1)):
            net.conv(6 * net.channels, 1)
            net.conv(net.channels, 3, stride, groups=net.channels)
            net.conv(filters, 1)
    net.conv(1280, 1)
    net.dense(1000)
    return net


def small():
    net = Ledger(3, 32)
    net.conv(16, 5, 2)
    net.conv(32, 3, 2)
    net.conv(64, 3, 2)
    net.conv(64, 3)
    net.dense(10)
    return net


def lenet():
    net = Ledger(32 * 32 * 3, 1)
    for units in (300, 100, 10):
        net.dense(units)
    return net


LEDGERS = {
    **{
        name: lambda name=name: residual(
            int(name.removeprefix("resnet").removesuffix("_bottleneck")),
            bottleneck=name.endswith("_bottleneck"),
        )
        for name in FIGURES
        if name.startswith("resnet") and name != "resnet50"
    },
    "wide_resnet28_2": lambda: wide(2),
    "wide_resnet28_4": lambda: wide(4),
    "wide_resnet28_8": lambda: wide(8),
    "densenet40_12": dense,
    "vgg16_d": vgg,
    "resnet50": residual50,
    "mobilenet_v1": mobile1,
    "mobilenet_v2": mobile2,
    "convnet": small,
    "lenet_300_100": lenet,
}


@pytest.fixture(scope="module", params=FIGURES)
def network(request):
    """A network's name, and the network in both Kerases. It is built once."""
    modules = [importlib.import_module(name) for name in ("keras", "tf_keras")]
    classes = 1000 if request.param in IMAGENET else 10
    pair = [
        models.build(request.param, keras, classes=classes, weight_decay=DECAY)
        for keras in modules
    ]
    yield request.param, pair
    for keras in modules:
        keras.backend.clear_session()


def trainable(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def of_class(model, *names):
    return [layer for layer in model.layers if type(layer).__name__ in names]


def built(network, size, **options):
    """Builds a network of any depth or width in Keras 3, for square images."""
    keras = importlib.import_module("keras")
    images = keras.Input((size, size, 3))
    return keras.Model(images, network(Blocks(keras), images, 10, **options))


def exchange_weights(source, target):
    """Gives both models the source's weights, with a batch norm that does something."""
    rng = np.random.default_rng(0)
    for layer in source.layers:
        weights = values(layer.weights)
        if type(layer).__name__ == "BatchNormalization":
            weights = [rng.uniform(0.5, 1.5, w.shape) for w in weights]
        layer.set_weights(weights)
        target.get_layer(layer.name).set_weights(weights)


# --- Every network ---


def test_every_network_has_figures():
    assert set(models.names()) == set(FIGURES) == set(LEDGERS)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_follow_from_the_papers_layers(name):
    net = LEDGERS[name]()
    assert (net.parameters, net.macs) == FIGURES[name]


def assert_printed_as(figure, text):
    # A little wider than rounding: some papers cut digits off.
    assert abs(figure - float(text)) <= 0.51 * 10 ** -len(text.partition(".")[2])


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures_are_the_published_ones(name):
    (parameters, products), (millions, milliards) = FIGURES[name], PUBLISHED[name]
    assert_printed_as(parameters / 1e6, millions)
    if milliards is not None:
        assert_printed_as(products / 1e9, milliards)


@pytest.mark.parametrize("name", PUBLISHED_OPTION_A)
def test_resnets_without_their_projections_are_of_the_published_size(name):
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert_printed_as((FIGURES[name][0] - projections) / 1e6, PUBLISHED_OPTION_A[name])


def test_a_wide_resnet_of_width_10_is_of_the_published_size():
    # Zagoruyko & Komodakis, 2016, give no figures of WRN-28-2, -4 and -8.
    model = built(models.wide_resnet.wide_resnet, 32, depth=28, width=10)
    assert trainable(model) == wide(10).parameters
    assert_printed_as(trainable(model) / 1e6, "36.5")


def test_lenet_300_100_on_grey_digits_is_of_the_published_size(keras):
    model = models.build("lenet_300_100", keras, classes=10, input_shape=(28, 28, 1))
    assert_printed_as(trainable(model) / 1e3, "267")  # Han et al., 2015, table 1.


def test_network_has_these_figures_in_both_kerases(network):
    name, pair = network
    for model in pair:
        counted = dpf_tf.count_macs(model)
        assert (trainable(model), counted.dense) == FIGURES[name]
        assert 0.999 < counted.sparse / counted.dense <= 1
        assert not counted.not_counted


def test_names_and_shapes_are_the_same_in_both_kerases(network):
    name, pair = network
    first, second = (
        [(x.name, [tuple(w.shape) for w in x.weights]) for x in model.layers]
        for model in pair
    )
    assert first == second
    assert [model.name for model in pair] == [name, name]
    assert first[-1][0] == "logits"


def test_decay_is_on_kernels_but_depthwise_ones(network):
    _, pair = network
    for model in pair:
        decayed = of_class(model, "Conv2D", "Dense")
        for layer in decayed:
            assert layer.kernel_regularizer.get_config()["l2"] == pytest.approx(
                DECAY / 2
            )
            assert layer.bias_regularizer is None
        # One loss for each: nothing else has a regularizer.
        assert len(model.losses) == len(decayed)


def test_logits_are_the_same_in_both_kerases_with_the_same_weights(network):
    name, pair = network
    if name in IMAGENET:
        modules = [importlib.import_module(module) for module in ("keras", "tf_keras")]
        small = {"classes": 10, "input_shape": (64, 64, 3)}
        pair = [models.build(name, keras, **small) for keras in modules]
    exchange_weights(*pair)
    shape = pair[0].input_shape[1:]
    images = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
    first, second = (np.asarray(model(images, training=False)) for model in pair)
    assert np.ptp(first) > 0
    np.testing.assert_allclose(first, second, atol=1e-4 * np.abs(first).max())


# --- The wiring: each form once more, in TensorFlow alone, with a model's weights ---


class Reference:
    """Applies a model's weights, by the names of its layers."""

    def __init__(self, model):
        self.weights = {x.name: values(x.weights) for x in model.layers}
        self.most = 0.0  # What ReLU6 has been given.

    def conv(self, x, name, stride=1):
        (kernel,) = self.weights[name]
        side = kernel.shape[0] // 2
        x = tf.pad(x, [(0, 0), (side, side), (side, side), (0, 0)])
        return tf.nn.conv2d(x, kernel, stride, "VALID")

    def depthwise(self, x, name, stride=1):
        (kernel,) = self.weights[name]
        x = tf.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "VALID")

    def bn(self, x, name):
        gamma, beta, mean, variance = self.weights[f"{name}_bn"]
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-5)

    def conv_bn(self, x, name, stride=1):
        return self.bn(self.conv(x, name, stride), name)

    def relu6(self, x):
        self.most = max(self.most, float(tf.reduce_max(x)))
        return tf.clip_by_value(x, 0, 6)

    def logits(self, x):
        kernel, bias = self.weights["logits"]
        return tf.reduce_mean(x, [1, 2]) @ kernel + bias


def blocks_of(*counts):
    """Yields the blocks' names and strides, and whether they are a stage's first."""
    for stage, count in enumerate(counts, 1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            yield f"stage{stage}_block{block}", stride, block == 1


def basic_reference(net, x):
    x = tf.nn.relu(net.conv_bn(x, "stem"))
    for name, stride, _ in blocks_of(1, 1, 1):
        y = tf.nn.relu(net.conv_bn(x, f"{name}_conv1", stride))
        y = net.conv_bn(y, f"{name}_conv2")
        if stride == 2:
            x = net.conv_bn(x, f"{name}_shortcut", 2)
        x = tf.nn.relu(y + x)
    return net.logits(x)


def bottleneck_reference(net, x, name, stride, first):
    y = tf.nn.relu(net.conv_bn(x, f"{name}_conv1"))
    y = tf.nn.relu(net.conv_bn(y, f"{name}_conv2", stride))
    y = net.conv_bn(y, f"{name}_conv3")
    return tf.nn.relu(y + (net.conv_bn(x, f"{name}_shortcut", stride) if first else x))


def bottlenecks_reference(net, x):
    x = tf.nn.relu(net.conv_bn(x, "stem"))
    for block in blocks_of(2, 2, 2):
        x = bottleneck_reference(net, x, *block)
    return net.logits(x)


def resnet50_reference(net, x):
    x = tf.nn.relu(net.conv_bn(x, "stem", 2))
    x = tf.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    for block in blocks_of(3, 4, 6, 3):
        x = bottleneck_reference(net, x, *block)
    return net.logits(x)


def wide_reference(net, x):
    x = net.conv(x, "stem")
    for name, stride, _ in blocks_of(2, 2, 2):
        y = tf.nn.relu(net.bn(x, f"{name}_pre1"))
        if stride == 2:
            x = net.conv(y, f"{name}_shortcut", 2)
        y = net.conv(y, f"{name}_conv1", stride)
        y = net.conv(tf.nn.relu(net.bn(y, f"{name}_pre2")), f"{name}_conv2")
        x = y + x
    return net.logits(tf.nn.relu(net.bn(x, "last")))


def dense_reference(net, x):
    x = net.conv(x, "stem")
    for stage, layer in itertools.product((1, 2, 3), (1, 2, "transition")):
        if layer != "transition":
            name = f"stage{stage}_conv{layer}"
            x = tf.concat([x, net.conv(tf.nn.relu(net.bn(x, name)), name)], -1)
        elif stage < 3:
            name = f"transition{stage}"
            x = net.conv(tf.nn.relu(net.bn(x, name)), name)
            x = tf.nn.avg_pool2d(x, 2, 2, "VALID")
    return net.logits(tf.nn.relu(net.bn(x, "last")))


def vgg_reference(net, x):
    for stage, count in enumerate((2, 2, 3, 3, 3), 1):
        for i in range(1, count + 1):
            x = tf.nn.relu(net.conv_bn(x, f"stage{stage}_conv{i}"))
        x = tf.nn.max_pool2d(x, 2, 2, "SAME")
    x = tf.reshape(x, [len(x), -1])
    for name in ("dense1", "dense2"):
        x = tf.nn.relu(net.bn(x @ net.weights[name][0], name))
    return net.logits(x[:, None, None])


def mobile1_reference(net, x):
    x = net.relu6(net.conv_bn(x, "stem", 2))
    for i in range(1, 14):
        name = f"block{i}_depthwise"
        x = net.depthwise(x, name, 2 if i in (2, 4, 6, 12) else 1)
        x = net.relu6(net.bn(x, name))
        x = net.relu6(net.conv_bn(x, f"block{i}_pointwise"))
    return net.logits(x)


def mobile2_reference(net, x):
    x = net.relu6(net.conv_bn(x, "stem", 2))
    for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1), 1):
        for i in range(1, count + 1):
            name = f"stage{stage}_block{i}"
            y = x if stage == 1 else net.relu6(net.conv_bn(x, f"{name}_expand"))
            stride = 2 if i == 1 and stage in (2, 3, 4, 6) else 1
            y = net.depthwise(y, f"{name}_depthwise", stride)
            y = net.relu6(net.bn(y, f"{name}_depthwise"))
            y = net.conv_bn(y, f"{name}_project")
            x = y + x if i > 1 else y
    return net.logits(net.relu6(net.conv_bn(x, "head")))


def convnet_reference(net, x):
    for i in range(1, 5):
        x = tf.nn.relu(net.conv_bn(x, f"conv{i}", 2 if i < 4 else 1))
    return net.logits(x)


def lenet_reference(net, x):
    x = tf.reshape(x, [len(x), -1])
    for name in ("dense1", "dense2"):
        kernel, bias = net.weights[name]
        x = tf.nn.relu(x @ kernel + bias)
    return net.logits(x[:, None, None])


WIRINGS = {
    "basic": (models.resnet_cifar.basic, 32, {"depth": 8}, basic_reference),
    "bottleneck": (
        models.resnet_cifar.bottleneck,
        32,
        {"depth": 14},
        bottlenecks_reference,
    ),
    "wide": (
        models.wide_resnet.wide_resnet,
        32,
        {"depth": 16, "width": 1},
        wide_reference,
    ),
    "dense": (
        models.densenet.densenet,
        32,
        {"depth": 10, "growth": 4},
        dense_reference,
    ),
    "vgg": (models.vgg.vgg16_d, 40, {}, vgg_reference),
    "resnet50": (models.resnet50.resnet50, 64, {}, resnet50_reference),
    "mobilenet_v1": (models.mobilenet.mobilenet_v1, 64, {}, mobile1_reference),
    "mobilenet_v2": (models.mobilenet.mobilenet_v2, 64, {}, mobile2_reference),
    "convnet": (models.convnet.convnet, 28, {}, convnet_reference),
    "lenet": (models.lenet.lenet_300_100, 28, {}, lenet_reference),
}


@pytest.mark.parametrize("form", WIRINGS)
def test_logits_are_those_of_the_papers_wiring(form):
    network, size, options, reference = WIRINGS[form]
    model = built(network, size, **options)
    rng = np.random.default_rng(0)
    # With fresh batch norms, a missing or misplaced one would change nothing.
    for layer in of_class(model, "BatchNormalization"):
        shape = layer.gamma.shape
        shift, mean = rng.normal(0, 0.5, (2, *shape))
        scale, variance = rng.uniform(0.5, 1.5, (2, *shape))
        layer.set_weights([scale, shift, mean, variance])
    images = 4 * rng.normal(size=(2, size, size, 3)).astype("float32")
    net = Reference(model)
    expected = reference(net, images).numpy()
    logits = np.asarray(model(images, training=False))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    # Else ReLU would do as well.
    assert net.most > 6 or not form.startswith("mobilenet")


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_mobilenets_have_the_form_of_the_sparse_kernels_of_phones(name):
    keras = importlib.import_module("keras")
    model = models.build(name, keras, classes=10, input_shape=(32, 32, 3))
    feeds = {id(layer.output): layer for layer in model.layers}
    chain = {layer.name: layer for layer in model.layers}
    for layer in of_class(model, "Conv2D", "DepthwiseConv2D"):
        size, before = layer.kernel_size[0], feeds[id(layer.input)]
        strided = layer.strides != (1, 1)
        assert layer.padding == ("valid" if strided else "same")
        assert (type(before).__name__ == "ZeroPadding2D") is strided
        if strided:
            assert before.padding == ((size // 2, size // 2),) * 2
        activated = f"{layer.name}_relu" in chain
        assert activated is not layer.name.endswith("_project")
    # All that is no linear map of the pixels before the pooling is a ReLU6.
    kinds = {type(layer).__name__ for layer in model.layers[:-2]}
    assert kinds - {"Add"} == {
        "InputLayer",
        "ZeroPadding2D",
        "Conv2D",
        "DepthwiseConv2D",
        "BatchNormalization",
        "ReLU",
    }
    assert {float(layer.max_value) for layer in of_class(model, "ReLU")} == {6.0}
    pool, logits = model.layers[-2:]
    assert type(pool).__name__ == "GlobalAveragePooling2D"
    assert type(logits).__name__ == "Dense"
    assert logits.get_config()["activation"] == "linear"


# --- The builder ---


@pytest.mark.parametrize("name", FORMS)
def test_other_sizes_of_images_work(name):
    keras = importlib.import_module("keras")
    shape = (28, 33, 1)
    model = models.build(name, keras, classes=7, input_shape=shape)
    logits = np.asarray(model(np.ones((1, *shape), "float32")))
    assert logits.shape == (1, 7)
    assert np.isfinite(logits).all()


def test_odd_sizes_are_halved_upwards(keras):
    model = models.build("resnet8", keras, classes=10, input_shape=(33, 28, 1))
    sizes = [
        tuple(model.get_layer(f"stage{i}_block1_relu").output.shape[1:])
        for i in (1, 2, 3)
    ]
    assert sizes == [(33, 28, 16), (17, 14, 32), (9, 7, 64)]


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("depthwise", [False, True], ids=["conv", "depthwise"])
def test_strided_convolutions_pad_both_sides_alike(keras, size, depthwise):
    blocks = Blocks(keras)
    images = keras.Input((8, 6, 2))
    if depthwise:
        outputs = blocks.depthwise(images, size, 2, name="layer")
    else:
        outputs = blocks.conv(images, 3, size, 2, name="layer")
    model = keras.Model(images, outputs)
    x = np.random.default_rng(0).normal(size=(1, 8, 6, 2)).astype("float32")
    (kernel,) = values(model.weights)
    side = size // 2
    padded = np.pad(x[0], ((side, side), (side, side), (0, 0)))
    formula = "hwc,hwco->c" if depthwise else "hwc,hwco->o"
    expected = [
        [
            np.einsum(formula, padded[i : i + size, j : j + size], kernel)
            for j in range(0, 6, 2)
        ]
        for i in range(0, 8, 2)
    ]
    np.testing.assert_allclose(model(x)[0], expected, atol=1e-5)


def test_no_decay_means_no_regularizer(keras):
    model = models.build("resnet8", keras, classes=10)
    assert not model.losses
    layers = of_class(model, "Conv2D", "Dense")
    assert all(layer.kernel_regularizer is None for layer in layers)


def test_decay_adds_what_pytorchs_adds_to_the_gradient(keras):
    model = models.build("resnet8", keras, classes=10, weight_decay=0.5)
    kernels = [layer.kernel for layer in of_class(model, "Conv2D", "Dense")]
    with tf.GradientTape() as tape:
        loss = sum(model.losses)
    for kernel, gradient in zip(kernels, tape.gradient(loss, kernels), strict=True):
        np.testing.assert_allclose(gradient, 0.5 * kernel.numpy(), rtol=1e-5)


def test_batch_norm_is_as_in_pytorch_and_synchronized_if_asked(keras):
    for synchronized in (False, True):
        model = models.build(
            "resnet8", keras, classes=10, synchronized_batch_norm=synchronized
        )
        for layer in of_class(model, "BatchNormalization"):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
            assert layer.synchronized is synchronized
            np.testing.assert_array_equal(layer.gamma, np.ones(layer.gamma.shape))


def test_logits_stay_float32_under_mixed_precision(keras):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = models.build("resnet8", keras, classes=10)
    assert model.get_layer("stem").compute_dtype == "bfloat16"
    logits = model(np.ones((1, 32, 32, 3), "float32"))
    assert getattr(logits.dtype, "name", logits.dtype) == "float32"


def test_the_seed_gives_the_weights_and_no_two_kernels_are_equal(keras):
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        weights.append(
            values(models.build("resnet8", keras, classes=10).trainable_weights)
        )
    assert_bits_equal(*weights)
    kernels = [w for w in weights[0] if w.ndim > 1]
    assert len({w.ravel()[:20].tobytes() for w in kernels}) == len(kernels)


def test_kernels_are_he_normal_of_what_they_feed(keras):
    blocks = Blocks(keras)
    images = keras.Input((8, 8, 128))
    for outputs, fan_out in (
        (blocks.conv(images, 64, 3, name="conv"), 9 * 64),
        (blocks.depthwise(images, 9, name="depthwise"), 81),
    ):
        (kernel,) = values(keras.Model(images, outputs).weights)
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / fan_out), rel=0.03)


def test_unknown_name_is_refused_with_the_known_ones(keras):
    with pytest.raises(ValueError, match="resnet56_bottleneck.*Received.*'resnet21'"):
        models.build("resnet21", keras, classes=10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", 0),
        ("classes", 10.0),
        ("input_shape", (32, 32)),
        ("input_shape", (None, None, 3)),
        ("input_shape", 32),
        ("weight_decay", -1e-4),
        ("weight_decay", float("nan")),
    ],
)
def test_wrong_argument_is_refused_by_name(keras, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}="):
        models.build("resnet8", keras, **{"classes": 10, name: value})


def test_pruned_network_trains_and_its_stripped_form_has_fewer_products(keras):
    model = models.build("resnet8", keras, classes=10, weight_decay=DECAY)
    pruned = dpf_tf.prune_low_magnitude_dpf(
        model, dpf_tf.ConstantSparsity(0.9, frequency=1)
    )
    pruned.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rng = np.random.default_rng(0)
    history = pruned.fit(
        rng.normal(size=(8, 32, 32, 3)).astype("float32"),
        rng.integers(0, 10, 8),
        verbose=0,
        callbacks=[dpf_tf.PruningCallback(settle=0)],
    )
    assert np.isfinite(history.history["loss"]).all()
    with pytest.raises(ValueError, match=r"strip_pruning"):
        dpf_tf.count_macs(pruned)

    counted = dpf_tf.count_macs(dpf_tf.strip_pruning(pruned))
    assert counted.dense == FIGURES["resnet8"][1]
    masks = dpf_tf.get_masks(pruned)
    # The shortcuts, whose share of the products is not that of the weights, too.
    assert {f"{path}/kernel" for path in counted.layers} - set(masks) == {
        "logits/kernel"
    }
    for path, layer in counted.layers.items():
        mask = masks.get(f"{path}/kernel", np.ones(1))
        assert layer.sparse * mask.size == layer.dense * mask.sum()
