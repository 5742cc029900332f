"""`export_tflite`: what is written was run and is right; what is not is refused."""

import gzip
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import dpf_tf
from dpf_tf.export import __main__ as program
from dpf_tf.export import candidates, encodings, flatbuffer
from dpf_tf.export.conversion import WEIGHTS, convert
from dpf_tf.export.errors import ExportError
from dpf_tf.export.runtime import Runtime
from dpf_tf.export.samples import Inputs

TOLERANCE = {"float32": 1e-5, "float16": 1e-3, "int8": 2e-2, "int8_full": 5e-2}
RNG = np.random.default_rng(1)
STATE = RNG.bit_generator.state
EARLIER = b"\x1c\0\0\0TFL3 of an earlier export"


@pytest.fixture(autouse=True)
def same_numbers():
    """Whatever ran before, a test draws the same numbers."""
    RNG.bit_generator.state = STATE


def magnitude_pruned(keras, model, sparsity, block=1):
    """Sets each kernel's smallest weights to zero, in blocks along its input axis."""
    for layer in model.layers:
        if not hasattr(layer, "kernel") or not layer.get_weights():
            continue
        kernel, *rest = layer.get_weights()
        last = np.moveaxis(kernel, -2, -1)  # As TFLite stores it: inputs last.
        blocks = np.abs(last).reshape(*last.shape[:-1], -1, block).sum(-1)
        limit = np.quantile(blocks, sparsity)
        kept = np.repeat(blocks > limit, block, axis=-1)
        pruned = np.moveaxis(np.where(kept, last, 0), -1, -2).astype("float32")
        layer.set_weights([pruned, *rest])
    return model


def mlp(keras, sparsity=0.9, block=1):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((32,), name="features"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(8),
        ]
    )
    return magnitude_pruned(keras, model, sparsity, block)


def convolutional(keras, sparsity=0.8):
    """With batch norm, whose scales may be negative, as trained ones are."""
    keras.utils.set_random_seed(1)
    images = keras.Input((16, 16, 3), name="images")
    x = images
    for filters in (16, 32):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(gamma_initializer="random_normal")(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, keras.layers.Dense(8)(x))
    return magnitude_pruned(keras, model, sparsity)


def text(keras):
    keras.utils.set_random_seed(1)
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(50, 32)(tokens)
    x = keras.layers.LayerNormalization()(
        x + keras.layers.MultiHeadAttention(2, 16)(x, x)
    )
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, keras.layers.Dense(4)(x))


def run(path, resolver=OpResolverType.AUTO, **inputs):
    """Runs a file on its own: the test's witness."""
    interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver)
    return interpreter.get_signature_runner()(**inputs)


def zeros(model):
    """How many zeros each kernel of a Keras model has, by its size."""
    return sorted(
        (w.size, int((w == 0).sum())) for w in model.get_weights() if w.ndim > 1
    )


def zeros_in_file(path):
    """The same of a file, counted from its buffers."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    types = {0: np.float32, 1: np.float16, 9: np.int8}
    found = []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and tensor.type in types and len(tensor.shape) > 1:
            size = math.prod(tensor.shape)
            stored = np.asarray(data).view(types[tensor.type])
            found.append((size, size - int(np.count_nonzero(stored))))
    return sorted(found)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("build", [mlp, convolutional])
def test_each_pair_gives_a_file_that_agrees_or_a_refusal_that_leaves_none(
    keras, build, weights, tmp_path
):
    model = build(keras)
    (name,) = [tensor.name.partition(":")[0] for tensor in model.inputs]
    shape = model.inputs[0].shape[1:]
    calibration = RNG.normal(size=(50, *shape)).astype("float32")
    fresh = RNG.normal(size=(16, *shape)).astype("float32")
    wanted = model.predict(fresh, verbose=0)
    for encoding in encodings.ENCODINGS:
        path = tmp_path / f"{encoding}.tflite"
        try:
            report = dpf_tf.export_tflite(
                model,
                path,
                encoding,
                weights,
                calibration if weights == "int8_full" else None,
            )
        except ExportError as error:
            assert encoding == "sparse" and weights in ("int8", "int8_full")
            assert "cannot load single zeros in 8-bit kernels" in str(error)
            assert not path.exists()
            continue
        if encoding == "auto":
            eight_bits = weights in ("int8", "int8_full")
            assert report["encoding"] == ("dense" if eight_bits else "sparse")
        else:
            assert report["encoding"] == encoding
        for resolver in (
            OpResolverType.AUTO,
            OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        ):
            (found,) = run(path, resolver, **{name: fresh}).values()
            difference = np.abs(found - wanted).max() / np.abs(wanted).max()
            assert difference < 1.5 * TOLERANCE[weights]
        assert (difference == 0) <= (weights == "float32")  # It was converted.


@pytest.mark.parametrize("weights", WEIGHTS)
def test_zeros_stay_zeros_in_every_form_of_weights(keras, weights, tmp_path):
    model = convolutional(keras)
    path = tmp_path / "model.tflite"
    calibration = RNG.normal(size=(50, 16, 16, 3)).astype("float32")
    report = dpf_tf.export_tflite(
        model,
        path,
        weights=weights,
        representative_dataset=calibration if weights == "int8_full" else None,
    )
    wanted = zeros(model)
    counted = sorted(
        (t["weights"], t["zeros"]) for t in report["tensors"] if len(t["shape"]) > 1
    )
    assert counted == zeros_in_file(path)
    for (size, asked), (found_size, found) in zip(wanted, counted, strict=True):
        assert found_size == size
        # In 8 bits, small weights become zero, too.
        assert found == asked if "int8" not in weights else found >= asked


def test_a_pruned_model_gives_the_file_of_its_stripped_one(keras, tmp_path):
    model = mlp(keras, sparsity=0.0)
    pruned = dpf_tf.prune_low_magnitude_dpf(model, dpf_tf.ConstantSparsity(0.9))
    dpf_tf.MaskUpdater(pruned).update(0)
    files = []
    for each in (pruned, dpf_tf.strip_pruning(pruned)):
        path = tmp_path / "model.tflite"
        dpf_tf.export_tflite(each, path)
        files.append(flatbuffer.read(path.read_bytes()))
    assert files[0] == files[1]
    assert sum(w.zeros for w in files[0].weights) >= round(0.9 * (32 * 64 + 64 * 32))


def test_the_bound_counts_kept_bits_and_the_choice_of_positions():
    weights = flatbuffer.Weights(
        "kernel", (20, 10), "FLOAT16", ("CONV_2D",), 200, 180, "dense", 400
    )
    assert weights.bound_bytes == pytest.approx(
        (20 * 16 + math.log2(math.comb(200, 20))) / 8
    )


def test_the_report_tells_the_truth_about_the_file(keras, tmp_path):
    path = tmp_path / "model.tflite"
    report = dpf_tf.export_tflite(convolutional(keras), path)
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == dict(report)
    data = path.read_bytes()
    sparse, dense = report["files"]["sparse"], report["files"]["dense"]
    assert report["encoding"] == "sparse" and sparse["bytes"] == len(data)
    assert len(gzip.compress(data, 9)) == pytest.approx(sparse["gzip_bytes"], abs=20)
    assert report["ratios"]["file_to_dense"] == len(data) / dense["bytes"] < 0.5
    assert 1 < report["ratios"]["gzip_to_bound"] < report["ratios"]["file_to_bound"]
    assert report["operators"]["CONV_2D"] == 2
    assert {"dense", "sparse", "dense again"} == set(report["latency"]["ms"])
    if sys.platform == "linux":
        assert 1e5 < sparse["memory_bytes"] < 1e9
    assert len(report["parity"]["max_relative_error"]) == 2
    printed = str(report)
    for part in ("model.tflite", "Information bound", "dense / sparse", "conv2d"):
        assert part in printed
    if "avx" in report["machine"]["features"]:
        assert "x86 with AVX never takes XNNPACK's path" in printed


# --- What is broken is found out -----------------------------------------------------


def test_float16_in_blocks_is_refused_by_name_and_auto_takes_another(keras, tmp_path):
    model = mlp(keras, 0.9, block=4)
    path = tmp_path / "model.tflite"
    with pytest.raises(ExportError, match="NaN with float16 in blocks"):
        dpf_tf.export_tflite(model, path, "sparse", "float16")
    assert not path.exists()
    report = dpf_tf.export_tflite(model, path, "auto", "float16")
    assert report["encoding"] == "dense"
    assert "NaN with float16 in blocks" in report["files"]["sparse"]["refused"]
    assert "NaN with float16 in blocks" in str(report)
    # In float32, the blocks are kept and right.
    report = dpf_tf.export_tflite(model, path, "auto", "float32")
    assert {t["encoding"] for t in report["tensors"]} >= {"sparse 1x4 blocks"}


def test_a_sparse_file_that_arm_would_get_wrong_is_refused_by_its_layer(
    keras, tmp_path
):
    images = keras.Input((32, 32, 3), name="images")
    x = keras.layers.ZeroPadding2D(1)(images)
    x = keras.layers.Conv2D(16, 3, 2, name="stem")(x)
    x = keras.layers.Conv2D(32, 1, name="pointwise")(x)
    x = keras.layers.Conv2D(32, 3, padding="same", name="inner")(x)
    x = keras.layers.Conv2D(32, 1, name="last")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = magnitude_pruned(keras, keras.Model(images, keras.layers.Dense(4)(x)), 0.8)
    path = tmp_path / "model.tflite"
    with pytest.raises(ExportError, match=r"on ARM, .* wrong numbers.* 'inner'"):
        dpf_tf.export_tflite(model, path, "sparse")
    report = dpf_tf.export_tflite(model, path)
    assert report["encoding"] == "dense"
    assert "'inner'" in report["files"]["sparse"]["refused"]


def test_convolutions_hidden_in_a_layer_are_not_trusted_on_arm(keras, tmp_path):
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Conv2D(16, 3, padding="same")

        def call(self, x):
            return self.inner(x)

    images = keras.Input((32, 32, 3), name="images")
    x = keras.layers.Conv2D(16, 3, 2, name="stem")(
        keras.layers.ZeroPadding2D(1)(images)
    )
    x = keras.layers.GlobalAveragePooling2D()(Block()(x))
    model = keras.Model(images, keras.layers.Dense(4)(x))
    magnitude_pruned(keras, model, 0.8)
    with pytest.raises(ExportError, match="cannot be looked into"):
        dpf_tf.export_tflite(model, tmp_path / "model.tflite", "sparse")


@pytest.mark.parametrize(
    "weights, block, symptom",
    [
        ("float16", 4, "NaN"),
        ("int8", 1, "failed to (prepare|delegate)"),
        ("int8", 16, "NaN|killed by|differ"),  # It reads memory that is not its own.
    ],
)
def test_without_the_list_of_known_faults_the_run_finds_them(
    keras, weights, block, symptom, tmp_path, monkeypatch
):
    # So the list holds what is really broken, and what it misses is found.
    monkeypatch.setattr(encodings, "fault", lambda *_: None)
    path = tmp_path / "model.tflite"
    with pytest.raises(ExportError, match=symptom):
        dpf_tf.export_tflite(mlp(keras, 0.9, block), path, "sparse", weights)
    assert not path.exists()
    monkeypatch.undo()
    with pytest.raises(ExportError, match="NaN|single zeros|kill the runtime"):
        dpf_tf.export_tflite(mlp(keras, 0.9, block), path, "sparse", weights)


def test_a_file_that_computes_something_else_is_refused(keras, tmp_path, monkeypatch):
    def of_another(model, *arguments):
        return convert(other, *arguments)

    other = mlp(keras, sparsity=0.8)
    monkeypatch.setattr(candidates, "convert", of_another)
    path = tmp_path / "model.tflite"
    path.write_bytes(EARLIER)
    with pytest.raises(ExportError, match="differ from the model's by .* tolerance"):
        dpf_tf.export_tflite(mlp(keras), path)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_no_file(keras, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(candidates, "convert", interrupt)
    path = tmp_path / "model.tflite"
    path.write_bytes(EARLIER)
    with pytest.raises(KeyboardInterrupt):
        dpf_tf.export_tflite(mlp(keras), path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_kind_is_not_written_over(keras, tmp_path):
    path = tmp_path / "model.keras"
    mlp(keras).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not TFLite's, and would be lost"):
        dpf_tf.export_tflite(mlp(keras), path)
    assert program.main([str(path), str(path)]) == 1
    assert path.read_bytes() == before


def test_a_model_that_gives_nan_in_half_precision_alone_is_refused(keras, tmp_path):
    first, second = (keras.initializers.Constant(value) for value in (300.0, -300.0))
    layers = [
        keras.layers.Dense(64, dtype="mixed_float16", kernel_initializer=first),
        keras.layers.Dense(64, dtype="mixed_float16", kernel_initializer=second),
    ]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(2)])
    samples = np.ones((4, 8), np.float32)
    with pytest.raises(ExportError, match="NaN or infinity .* in the precision"):
        dpf_tf.export_tflite(model, tmp_path / "model.tflite", samples=samples)


def test_a_model_that_gives_nan_is_refused(keras, tmp_path):
    model = mlp(keras)
    model.layers[-1].set_weights([w * np.nan for w in model.layers[-1].get_weights()])
    with pytest.raises(ExportError, match="The Keras model itself gives NaN"):
        dpf_tf.export_tflite(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_tolerance_that_is_not_met_leaves_no_file(keras, tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(ExportError, match="more than the tolerance 1e-07"):
        dpf_tf.export_tflite(mlp(keras), path, weights="int8", tolerance=1e-7)
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_variables_is_refused(keras, tmp_path, monkeypatch):
    class Counter(tf.Module):
        def __init__(self):
            self.total = tf.Variable(tf.zeros((1, 8)))

        @tf.function(input_signature=[tf.TensorSpec((1, 32), name="features")])
        def __call__(self, features):
            return self.total.assign_add(features[:, :8])

    def convert(*arguments):
        module = Counter()
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [module.__call__.get_concrete_function()], module
        )
        converter.experimental_enable_resource_variables = True
        return converter.convert()

    monkeypatch.setattr(candidates, "convert", convert)
    with pytest.raises(ExportError, match="keeps variables"):
        dpf_tf.export_tflite(mlp(keras), tmp_path / "model.tflite")


def test_a_file_that_is_none_ends_in_an_error_not_in_this_process(tmp_path):
    file = tmp_path / "model.tflite"
    file.write_bytes(b"TFL3" * 100)
    runtime = Runtime(str(tmp_path), [{"x": np.zeros((1, 1), "float32")}])
    with pytest.raises(ExportError, match="model|killed by"):
        runtime.run(file, without_delegates=False)


def test_sparse_encoding_of_a_dense_model_is_refused(keras, tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(ExportError, match="no kernel has enough zeros"):
        dpf_tf.export_tflite(mlp(keras, 0.0), path, "sparse")
    assert dpf_tf.export_tflite(mlp(keras, 0.0), path)["encoding"] == "dense"


def test_outputs_that_do_not_depend_on_the_samples_are_named(keras, tmp_path):
    model = mlp(keras)
    model.layers[0].set_weights([w * 0 for w in model.layers[0].get_weights()])
    model.layers[-1].set_weights([w + 1 for w in model.layers[-1].get_weights()])
    with pytest.warns(UserWarning, match="same outputs for all samples"):
        report = dpf_tf.export_tflite(model, tmp_path / "model.tflite")
    assert "same outputs" in str(report)


# --- Kinds of models ----------------------------------------------------------------


def test_layers_of_mixed_precision_are_exported_in_float32(keras, tmp_path):
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = convolutional(keras)
    keras.mixed_precision.set_global_policy("float32")
    plain = convolutional(keras)
    plain.set_weights(model.get_weights())
    path = tmp_path / "model.tflite"
    dpf_tf.export_tflite(model, path)
    images = RNG.normal(size=(4, 16, 16, 3)).astype("float32")
    (found,) = run(path, images=images).values()
    np.testing.assert_allclose(found, plain.predict(images, verbose=0), atol=1e-5)


def test_what_a_layer_derives_from_its_state_is_kept_in_float32(keras, tmp_path):
    data = RNG.normal(5.0, 3.0, size=(50, 8)).astype("float32")
    keras.mixed_precision.set_global_policy("mixed_float16")
    normalization = keras.layers.Normalization()
    normalization.adapt(data)
    inputs = keras.Input((8,), name="features")
    model = keras.Model(inputs, keras.layers.Dense(4)(normalization(inputs)))
    keras.mixed_precision.set_global_policy("float32")
    path = tmp_path / "model.tflite"
    dpf_tf.export_tflite(model, path, samples=data)
    (found,) = run(path, features=data).values()
    np.testing.assert_allclose(found, model.predict(data, verbose=0), atol=0.02)


def test_a_copy_in_float32_that_is_another_model_is_refused(keras, tmp_path):
    class Scaled(keras.layers.Layer):
        scale = 1.0  # Neither in the config nor among the weights.

        def call(self, x):
            return x * self.scale

    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    scaled = Scaled()
    scaled.scale = 7.0
    inputs = keras.Input((8,))
    model = keras.Model(inputs, scaled(keras.layers.Dense(4)(inputs)))
    keras.mixed_precision.set_global_policy("float32")
    with pytest.raises(ExportError, match="copy in float32.* something else"):
        dpf_tf.export_tflite(model, tmp_path / "model.tflite")


def test_state_between_calls_is_refused_and_unrolled_layers_pass(keras, tmp_path):
    path = tmp_path / "model.tflite"
    for unroll in (False, True):
        inputs = keras.Input(batch_shape=(1, 5, 8))
        x = keras.layers.LSTM(6, unroll=unroll)(inputs)
        model = keras.Model(inputs, keras.layers.Dense(3)(x))
        samples = RNG.normal(size=(1, 5, 8))
        if not unroll and keras.__name__ == "tf_keras":  # A fused operator.
            with pytest.raises(ExportError, match="unroll=True"):
                dpf_tf.export_tflite(model, path, samples=samples)
        else:
            dpf_tf.export_tflite(model, path, samples=samples)


def test_recurrent_layers_of_a_free_batch_are_refused_with_the_mend(keras, tmp_path):
    inputs = keras.Input((5, 8))
    x = keras.layers.Bidirectional(keras.layers.GRU(6))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    with pytest.raises(ExportError, match="unroll=True.*batch_size=1"):
        dpf_tf.export_tflite(model, tmp_path / "model.tflite")


def test_a_model_that_was_called_in_another_is_exported_by_its_own_inputs(
    keras, tmp_path
):
    inner = mlp(keras)
    outer = keras.Input((32,), name="outer")
    keras.Model(outer, keras.layers.Dense(2)(inner(outer)))
    dpf_tf.export_tflite(inner, tmp_path / "model.tflite")


def test_outputs_are_matched_whatever_their_keys(keras, tmp_path):
    inputs = keras.Input((6,), name="features")
    small = keras.layers.Dense(3, name="a")(inputs)
    large = keras.layers.Dense(3, name="b")(inputs)
    for keys in (("one", "two"), ("b", "a")):  # Those of the layers, swapped.
        outputs = dict(zip(keys, (small, large), strict=True))
        dpf_tf.export_tflite(keras.Model(inputs, outputs), tmp_path / "model.tflite")


def test_images_of_bytes_are_made_as_such(keras):
    inputs = keras.Input((4, 4, 3), dtype="uint8", name="images")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    samples = Inputs(keras.Model(inputs, keras.layers.Dense(2)(x))).make()
    assert np.max([sample["images"] for sample in samples]) > 200


def test_a_model_without_weights_and_samples_of_several_lengths_pass(keras, tmp_path):
    inputs = keras.Input((None, 4), name="steps")
    model = keras.Model(inputs, keras.layers.ReLU()(inputs))
    samples = [{"steps": RNG.normal(size=(1, n, 4))} for n in (3, 5, 3)]
    report = dpf_tf.export_tflite(model, tmp_path / "model.tflite", samples=samples)
    assert report["parity"]["samples"] == 3


def test_tokens_are_made_below_the_vocabulary(keras):
    samples = Inputs(text(keras)).make(64)
    tokens = np.stack([sample["tokens"] for sample in samples])
    assert tokens.dtype == np.int32 and (tokens.min(), tokens.max()) == (0, 49)


def test_attention_is_exported(keras, tmp_path):
    model = text(keras)
    pruned = dpf_tf.prune_low_magnitude_dpf(
        model, dpf_tf.ConstantSparsity(0.8), allocation="uniform"
    )
    dpf_tf.MaskUpdater(pruned).update(0)
    report = dpf_tf.export_tflite(pruned, tmp_path / "model.tflite")
    assert report["encoding"] == "sparse"


@pytest.mark.parametrize("form", ["list", "dict"])
def test_several_inputs_and_outputs_are_matched_by_name(keras, form, tmp_path):
    left, right = keras.Input((6,), name="left"), keras.Input((4,), name="right")
    joined = keras.layers.Concatenate()([left * 2.0, right])
    outputs = [
        keras.layers.Dense(3, name="small")(joined),
        keras.layers.Dense(5, name="large")(joined),
    ]
    inputs = [right, left] if form == "list" else {"right": right, "left": left}
    if form == "dict":
        outputs = {"small": outputs[0], "large": outputs[1]}
    model = keras.Model(inputs, outputs)
    values = {
        "right": RNG.normal(size=(20, 4)).astype("float32"),
        "left": RNG.normal(size=(20, 6)).astype("float32"),
    }
    given = values if form == "dict" else [values["right"], values["left"]]
    data = tf.data.Dataset.from_tensor_slices((values, np.zeros(20))).batch(5)
    for samples in (None, given, data, values):
        report = dpf_tf.export_tflite(
            model, tmp_path / "model.tflite", samples=samples, weights="float32"
        )
        assert report["parity"]["samples"] == (8 if samples is None else 20)
    dpf_tf.export_tflite(model, tmp_path / "model.tflite", "dense", "int8_full", data)


def test_calibration_data_may_come_in_every_usual_form(keras):
    model = mlp(keras)
    x = RNG.normal(size=(10, 32))
    inputs = Inputs(model)

    def generator():
        for row in x.astype("float32"):
            yield [row[None]]

    forms = [
        x,
        [x[:5], x[5:]],
        generator,
        {"features": x},
        tf.data.Dataset.from_tensor_slices(x).batch(4),
        tf.data.Dataset.from_tensor_slices((x, np.zeros(10))).batch(4),
        (batch for batch in (x[:5], x[5:])),
    ]
    for form in forms:
        samples = inputs.read(form, "samples", 500)
        assert len(samples) == 10
        np.testing.assert_allclose(
            np.concatenate([sample["features"] for sample in samples]), x, rtol=1e-6
        )
    assert len(inputs.read(x, "samples", 3)) == 3


# --- Input that is wrong ------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"encoding": "csr"}, "`encoding` must be one of 'auto', 'dense', 'sparse'"),
        ({"weights": "int4"}, "`weights` must be one of .*Received: 'int4'"),
        ({"weights": "int8_full"}, "needs to know how large the activations are"),
        ({"representative_dataset": np.zeros((4, 32))}, "give the inputs .* `samples`"),
        ({"samples": np.zeros((4, 31), "float32")}, r"'features' \(None, 32\) float32"),
        ({"samples": np.zeros((0, 32), "float32")}, "holds no samples"),
        ({"samples": 3}, "`samples` must hold batches"),
        ({"path": "/no/such/folder/model.tflite"}, "folder of `path` does not exist"),
        ({"path": "/"}, "must be that of a file"),
        ({"tolerance": -1.0}, "`tolerance` must be"),
        ({"tolerance": "0.1"}, "`tolerance` must be"),
        ({"tolerance": math.inf}, "`tolerance` must be"),
        ({"samples": (np.ones((4, 32)), np.ones(4))}, "leave them out"),
    ],
)
def test_wrong_arguments_are_named_before_any_work(
    keras, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(candidates, "convert", None)
    kept = tmp_path / "model.tflite"
    kept.write_bytes(EARLIER)
    with pytest.raises(ValueError, match=message):
        dpf_tf.export_tflite(**{"model": mlp(keras), "path": kept} | arguments)
    assert kept.exists()


def test_models_that_cannot_be_exported_are_named(keras, tmp_path):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    path = tmp_path / "model.tflite"
    with pytest.raises(TypeError, match="must be a model of Keras 3 or tf_keras"):
        dpf_tf.export_tflite("model.keras", path)
    with pytest.raises(TypeError, match="must be a model, not a layer"):
        dpf_tf.export_tflite(keras.layers.Dense(2), path)
    for model in (Subclassed(), keras.Sequential([keras.layers.Dense(2)])):
        with pytest.raises(ValueError, match="inputs of .* are not known"):
            dpf_tf.export_tflite(model, path)
    inputs = keras.Input((4,))  # As the message says.
    dpf_tf.export_tflite(keras.Model(inputs, Subclassed()(inputs)), path)
    varying = keras.Input((None, 4))
    model = keras.Model(varying, keras.layers.Dense(2)(varying))
    with pytest.raises(ValueError, match="Samples of input .* cannot be made"):
        dpf_tf.export_tflite(model, path)
    dpf_tf.export_tflite(model, path, samples=RNG.normal(size=(3, 7, 4)))


def test_without_the_runtime_the_error_says_how_to_get_it(keras, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'dpf_tf\[export\]'"):
        dpf_tf.export_tflite(mlp(keras), tmp_path / "model.tflite")


# --- The command --------------------------------------------------------------------


def test_the_command_exports_what_either_keras_has_saved(keras, tmp_path, capsys):
    pruned = dpf_tf.prune_low_magnitude_dpf(mlp(keras), dpf_tf.ConstantSparsity(0.9))
    dpf_tf.MaskUpdater(pruned).update(0)
    pruned.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", RNG.normal(size=(20, 32)).astype("float32"))
    status = program.main(
        [
            *(str(tmp_path / "model.keras"), str(tmp_path / "model.tflite")),
            *("--weights=int8_full", f"--representative={tmp_path / 'x.npy'}"),
            f"--report={tmp_path / 'report.json'}",
        ]
    )
    assert status == 0
    assert "model.tflite: int8_full, dense encoding" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["weights"] == "int8_full"
    assert (tmp_path / "model.tflite").exists()


def test_the_command_says_in_a_line_what_is_wrong(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "dpf_tf.export", "none.keras", "model.tflite"],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).resolve().parents[1],
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Error: There is no file 'none.keras'."
    (tmp_path / "model.keras").write_text("something else")
    assert program.main([str(tmp_path / "model.keras"), "model.tflite"]) == 1


def test_blocks_that_do_not_fill_the_inputs_are_exported_dense(keras, tmp_path):
    model = keras.Sequential(
        [keras.Input((126,)), keras.layers.Dense(64), keras.layers.Dense(4)]
    )
    sparse = dpf_tf.magnitude_prune(model, 0.9, dpf_tf.Block(1, 4))
    report = dpf_tf.export_tflite(sparse, tmp_path / "model.tflite")
    assert report["encoding"] == "dense"
    assert "outputs differ" in report["files"]["sparse"]["refused"]
