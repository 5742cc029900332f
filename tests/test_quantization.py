"""`quantization_aware`: 8 bits are learnt, and what was pruned stays zero."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from sklearn.datasets import load_digits
from tf_keras import layers

import dpf_tf
from dpf_tf import quantization_aware
from dpf_tf.export.quantization import _import_tfmot
from official_models import models
from tests.helpers import assert_bits_equal, result_of, start_python, values

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")


@pytest.fixture(autouse=True)
def seed():
    tf_keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def tfmot():
    return _import_tfmot()


# --- Models ---------------------------------------------------------------------------


def sequential(*made, shape=(4,)):
    return tf_keras.Sequential([tf_keras.Input(shape), *made])


def sparsify(model, share=0.7):
    """Sets a share of each kernel to zero, and all weights of a filter."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if variable.shape.rank > 1:
            # Scaled up, lest all activations are less than a step of 8 bits.
            kernel = np.where(random.random(variable.shape) < share, 0, 3 * variable)
            if kernel.shape[-1] > 1:  # Not a depthwise one.
                kernel[..., 0] = 0
            variable.assign(kernel)
    return model


def every_layer():
    """Returns a net with all kinds of kernels, each of another shape."""
    inputs = x = tf_keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3, use_bias=False, name="conv_bn_relu")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.ReLU()(layers.Conv2D(6, 3, name="conv_relu")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.SeparableConv2D(7, 2, name="separable")(x)
    x = layers.Conv2DTranspose(9, 2, name="transposed")(x)
    shared = layers.Conv2D(9, 3, padding="same", name="shared")
    x = layers.Add()([shared(x), shared(shared(x))])
    one = layers.Conv2D(10, 1, activation="relu", name="before_concatenate")(x)
    two = layers.Conv2D(11, 1, name="also_before_concatenate")(x)
    x = layers.GlobalAveragePooling2D()(layers.Concatenate()([one, two]))
    x = layers.ReLU()(layers.Dense(12, name="dense_relu")(x))
    return tf_keras.Model(inputs, layers.Dense(13, name="dense")(x))


def kernels(model):
    """Returns a model's kernels by shape."""
    arrays = [v.numpy() for v in model.trainable_weights if v.shape.rank > 1]
    assert len({array.shape for array in arrays}) == len(arrays)
    return {array.shape: array for array in arrays}


def fit(model, optimizer, steps=6):
    model.compile(optimizer, "mse")
    random = np.random.default_rng(1)
    x, y = (
        random.normal(size=(4 * steps, *shape[1:])).astype("float32")
        for shape in (model.input_shape, model.output_shape)
    )
    model.fit(x, y, 4, verbose=0)
    return x


# --- Files ----------------------------------------------------------------------------


def convert(model):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It expects, but does not need, statistics.
        return converter.convert()


def run(file, x):
    lite = Interpreter(model_content=file)
    (inputs,), (outputs,) = lite.get_input_details(), lite.get_output_details()
    lite.resize_tensor_input(inputs["index"], x.shape)
    lite.allocate_tensors()
    lite.set_tensor(inputs["index"], x)
    lite.invoke()
    return lite.get_tensor(outputs["index"])


def file_kernels(file):
    """Returns the int8 kernels in a file, in order, and how often each operator is."""
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if type(v) is int}
    model = schema.ModelT.InitFromPackedBuf(file)
    graph = model.subgraphs[0]
    found = {}
    for operator in graph.operators:
        name = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
        if name in WEIGHTED:
            tensor = graph.tensors[operator.inputs[1]]
            assert tensor.type == schema.TensorType.INT8, (name, tensor.name)
            data = np.array(model.buffers[tensor.buffer].data, np.uint8).view(np.int8)
            found[operator.inputs[1]] = keras_layout(name, data.reshape(tensor.shape))
    return list(found.values())


def keras_layout(operator, array):
    """Returns a kernel of a file with its axes in the order that tf_keras has."""
    axes = {
        "CONV_2D": (1, 2, 3, 0),
        "DEPTHWISE_CONV_2D": (1, 2, 3, 0),
        "TRANSPOSE_CONV": (1, 2, 0, 3),
        "FULLY_CONNECTED": (1, 0),
    }
    return array.transpose(axes[operator])


# --- Zeros ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A sparse model, its quantized copy after some steps, and the inputs of these."""
    tf_keras.utils.set_random_seed(0)
    sparse = sparsify(every_layer())
    model = quantization_aware(sparse)
    return sparse, model, fit(model, tf_keras.optimizers.SGD(0.05, 0.9, nesterov=True))


def test_in_training_zeros_stay_zero_and_every_kernel_learns(trained):
    before, after = map(kernels, trained[:2])
    assert before.keys() == after.keys()
    for shape, kernel in before.items():
        np.testing.assert_array_equal(after[shape] == 0, kernel == 0)
        assert np.any(after[shape] != kernel), shape


def test_every_zero_is_in_the_int8_file(trained):
    sparse, model, x = trained
    file = convert(model)
    expected = kernels(sparse)
    found = file_kernels(file)  # The shared layer's comes with each of its calls.
    assert {array.shape for array in found} == expected.keys()
    for array in found:
        assert not np.any(array[expected[array.shape] == 0]), array.shape
        assert np.any(array), array.shape
    # The empty filters have hardly a scale, and do no harm.
    np.testing.assert_allclose(run(file, x), model.predict(x, verbose=0), atol=0.2)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "ftrl", "adamw"])
def test_zeros_stay_zero_whatever_the_optimizer(optimizer):
    layer = layers.Dense(8, kernel_regularizer="l1_l2")
    sparse = sparsify(sequential(layer, layers.Dense(3)))
    model = quantization_aware(sparse)
    fit(model, optimizer)
    after = kernels(model)
    for shape, kernel in kernels(sparse).items():
        assert not np.any(after[shape][kernel == 0])


def test_the_peers_own_scheme_forgets_some_kernels(tfmot):
    # Why `quantization_aware` brings masks of its own.
    quantization = tfmot.quantization.keras
    sparse = sparsify(
        sequential(
            layers.Conv2D(5, 3, activation="relu", name="kept"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(6, 3, name="before_relu"),
            layers.ReLU(),
            shape=(8, 8, 3),
        )
    )
    model = quantization.quantize_apply(
        quantization.quantize_annotate_model(sparse),
        tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme(),
    )
    fit(model, "sgd")
    after = kernels(model)
    lost = []
    for layer in sparse.layers[:-1]:
        kernel = layer.get_weights()[0]
        if np.any(after[kernel.shape][kernel == 0]):
            lost.append(layer.name)
    assert lost == ["depthwise", "before_relu"]


# --- Real data ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """A net pruned on real digits; 1,257 of them to train on, and 540 to test on."""
    tf_keras.utils.set_random_seed(0)
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = (data.images[order, ..., np.newaxis] / 16).astype("float32")
    labels = data.target[order]
    training, test = (images[:1257], labels[:1257]), (images[1257:], labels[1257:])
    inputs = x = tf_keras.Input((8, 8, 1))
    for name, filters, strides in (("a", 16, 1), ("b", 32, 2), ("c", 24, 1)):
        x = layers.Conv2D(
            filters, 3, strides, padding="same", use_bias=False, name=f"conv_{name}"
        )(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dense(32, activation="relu", name="hidden")(layers.Flatten()(x))
    dense = tf_keras.Model(inputs, layers.Dense(10, name="logits")(x))
    pruned = dpf_tf.prune_low_magnitude_dpf(dense, 0.9)
    learn(pruned, training, 8, 0.05, [dpf_tf.PruningCallback()])
    return dpf_tf.strip_pruning(pruned), training, test


def learn(model, data, epochs, rate, callbacks=()):
    model.compile(
        tf_keras.optimizers.SGD(rate, 0.9, nesterov=True),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*data, 32, epochs, verbose=0, callbacks=list(callbacks))


def accuracy(logits, labels):
    return np.mean(logits.argmax(axis=-1) == labels)


def lost_zeros(sparse, file):
    """Returns how many zeros of the pruned kernels are none in a file, and of all."""
    expected = kernels(sparse)
    del expected[sparse.get_layer("logits").kernel.shape]
    found = {array.shape: array for array in file_kernels(file)}
    zeros = {shape: kernel == 0 for shape, kernel in expected.items()}
    assert sum(map(np.size, zeros.values())) * 0.9 <= sum(map(np.sum, zeros.values()))
    return [int(np.sum(found[shape][where] != 0)) for shape, where in zeros.items()]


def test_digits_keep_all_zeros_and_their_accuracy_in_int8(digits, tmp_path):
    sparse, training, (images, labels) = digits
    model = quantization_aware(sparse)
    learn(model, training, 2, 0.01)
    path = tmp_path / "model.tflite"
    report = dpf_tf.export_tflite(
        model, path, weights="int8_full", samples=images, tolerance=0.1
    )
    assert {t["type"] for t in report["tensors"]} == {"INT8"}
    with pytest.raises(ValueError, match="weights='int8_full'"):
        dpf_tf.export_tflite(model, path, weights="float16")
    file = path.read_bytes()
    assert not any(lost_zeros(sparse, file))
    before = accuracy(sparse.predict(images, verbose=0), labels)
    assert before > 0.93
    assert accuracy(run(file, images), labels) > before - 0.02


def test_digits_lose_zeros_without_masks(digits, tfmot):
    # The control: what the test above holds can fail.
    sparse, training, _ = digits
    model = tfmot.quantization.keras.quantize_model(sparse)
    learn(model, training, 1, 0.01)
    assert all(lost_zeros(sparse, convert(model)))


# --- What the model is, and is not ----------------------------------------------------


def small():
    return sequential(layers.Dense(8, activation="relu"), layers.Dense(3))


def test_the_given_model_stays_as_it_is():
    sparse = sparsify(small())
    before = values(sparse.weights)
    model = quantization_aware(sparse)
    fit(model, "sgd")
    assert_bits_equal(values(sparse.weights), before)
    assert model.name == sparse.name
    tf_keras.models.clone_model(sparse)


def test_a_pruned_model_is_stripped():
    pruned = dpf_tf.prune_low_magnitude_dpf(small(), dpf_tf.ConstantSparsity(0.5))
    dpf_tf.MaskUpdater(pruned).update(0)
    expected = kernels(dpf_tf.strip_pruning(pruned))
    for shape, kernel in kernels(quantization_aware(pruned)).items():
        np.testing.assert_array_equal(kernel, expected[shape])


def test_saved_weights_go_on_training_without_losing_zeros(tmp_path):
    sparse = sparsify(small())
    model = quantization_aware(sparse)
    x = fit(model, "sgd")
    model.save_weights(tmp_path / "model.weights.h5")
    again = quantization_aware(sparse)
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(
        again.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    fit(again, "sgd")
    for shape, kernel in kernels(sparse).items():
        np.testing.assert_array_equal(kernels(again)[shape] == 0, kernel == 0)


@pytest.mark.parametrize("name", ["model.h5", "saved_model"])
def test_a_loaded_model_converts_alike_but_has_no_masks(name, tmp_path, tfmot):
    sparse = sparsify(small())
    model = quantization_aware(sparse)
    x = fit(model, "sgd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras recommends its own format.
        model.save(tmp_path / name)
    with tfmot.quantization.keras.quantize_scope():
        loaded = tf_keras.models.load_model(tmp_path / name)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    expected = kernels(sparse)
    for array in file_kernels(convert(loaded)):
        assert not np.any(array[expected[array.shape] == 0])
    fit(loaded, "sgd")
    lost = [np.any(kernels(loaded)[s][k == 0]) for s, k in expected.items()]
    assert any(lost)  # Else the docstring warns without need.


# --- Refused --------------------------------------------------------------------------


class Subclassed(tf_keras.Model):
    pass


def test_keras_3_is_refused_with_what_to_do_instead():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(TypeError, match="(?s)Keras 3.*export_tflite.*set_weights"):
        quantization_aware(model)


@pytest.mark.parametrize("model", [None, 3, [layers.Dense(2)]])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match="Received"):
        quantization_aware(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Dense(3, name="one"), "'one' .Dense. must be"),
        (Subclassed, "Subclassed. must be"),
        (lambda: Subclassed(*[tf_keras.Input((4,))] * 2), "Subclassed. must be"),
        (lambda: tf_keras.Sequential([layers.Dense(3)]), "no weights yet"),
        (
            lambda: sequential(layers.Dense(3, dtype="mixed_bfloat16", name="low")),
            "half precision: .'low'.",
        ),
        (small, "No kernel .* has zeros"),
    ],
)
def test_models_of_another_kind_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        quantization_aware(make())


def test_all_layers_that_cannot_be_quantized_are_named():
    inputs = tf_keras.Input((4,))
    x = layers.Rescaling(2.0, name="scale")(inputs)
    x = layers.Dense(4, activation="elu", name="elu")(x) + x
    x = sequential(layers.Dense(4), shape=(4,))(x)
    model = sparsify(tf_keras.Model(inputs, layers.Dense(3, name="known")(x)))
    with pytest.raises(ValueError) as error:
        quantization_aware(model)
    for name in ("scale", "elu", "__operators__.add", "Sequential", "export_tflite"):
        assert name in str(error.value)
    assert "known" not in str(error.value)


def test_batch_norm_that_follows_no_convolution_is_named():
    model = sequential(layers.BatchNormalization(name="alone"), layers.Dense(3))
    with pytest.raises(ValueError, match="(?s)alone.*export_tflite"):
        quantization_aware(sparsify(model))


# --- The user's process ---------------------------------------------------------------

PROCESS = """
import json, os
import numpy as np
import tensorflow as tf
{first}
import tf_keras
from dpf_tf import quantization_aware
model = tf_keras.Sequential([tf_keras.Input((2,)), tf_keras.layers.Dense(2)])
model.set_weights([np.diag([0.3, 0.7]), np.zeros(2)])
before = os.environ.get("TF_USE_LEGACY_KERAS")
model = quantization_aware(model)
model.compile("sgd", "mse")
model.fit(np.ones((8, 2)), np.ones((8, 2)), verbose=0)
kept = [np.sum(v.numpy() == 0) for v in model.trainable_weights if len(v.shape) == 2]
print(json.dumps({{
    "zeros": int(kept[0]),
    "environment": [before, os.environ.get("TF_USE_LEGACY_KERAS")],
    "tf.keras": tf.keras.layers.Dense.__module__.split(".")[0],
}}))
"""


def test_either_order_of_imports_works_and_changes_nothing():
    # `tf.keras` is resolved when it is first used, and TFMOT's import uses it.
    orders = {"": "keras", "import tensorflow_model_optimization": "tf_keras"}
    processes = [start_python(PROCESS.format(first=first)) for first in orders]
    for process, expected in zip(processes, orders.values(), strict=True):
        answer = result_of(process)
        assert answer["zeros"] == 2
        assert answer["tf.keras"] == expected
        before, after = answer["environment"]
        assert before == after


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "vgg16_d", "convnet"])
def test_networks_of_official_models_keep_their_zeros(name):
    sparse = models.build(name, tf_keras, classes=10, input_shape=(32, 32, 3))
    sparsify(sparse)
    model = quantization_aware(sparse)
    fit(model, "sgd", steps=1)
    after = {v.name: v.numpy() for v in model.weights}
    checked = 0
    for variable in sparse.weights:
        if variable.shape.rank > 1:
            where = variable.numpy() == 0
            assert not np.any(after[variable.name][where]), variable.name
            checked += 1
    assert checked > 4
