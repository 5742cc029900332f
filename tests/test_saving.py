"""Saved, loaded, resumed, stripped: a model stays the same, bit for bit."""

import functools
import importlib.util
import sys
import zipfile

import keras as keras_3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import dpf_tf
from tests.helpers import (
    assert_bits_equal,
    pruned_layers,
    run_python,
    state_variables,
    values,
)

BATCH = 8  # 8 steps an epoch.


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6, 6, 3)).astype("float32")
    return x, rng.integers(0, 4, 64).astype("int32")


def compiled(keras, model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, loss, jit_compile=False)
    return model


def varied_model(keras, seed=0):
    """Each layer has its own schedule, allocation and choice of kernels."""
    keras.utils.set_random_seed(seed)
    layers, prune = keras.layers, dpf_tf.prune_low_magnitude_dpf
    inputs = keras.Input((6, 6, 3))
    relative = dpf_tf.PolynomialDecay(final_sparsity=0.8, frequency=4)
    x = prune(layers.Conv2D(8, 3, name="conv"), relative)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    steady = dpf_tf.ConstantSparsity(0.5, begin_step=3, frequency=4)
    x = prune(
        layers.SeparableConv2D(8, 3, activation="relu", name="separable"),
        steady,
        allocation={"pointwise": 0.6, "depthwise": 0.25},
        layers="kernel",
    )(x)
    ramp = dpf_tf.PolynomialDecay(
        final_sparsity=0.7, initial_sparsity=0.2, begin_step=1, end_step=20, power=2.5,
        frequency=3, freeze_step=40,
    )  # fmt: skip
    x = prune(layers.Dense(8, name="hidden"), ramp, "uniform")(layers.Flatten()(x))
    x = layers.Dense(4, name="logits")(layers.ReLU()(x))
    return compiled(keras, keras.Model(inputs, x))


def fit(model, *callbacks, epochs, **options):
    x, y = data()
    return model.fit(
        x, y, BATCH, epochs=epochs, shuffle=False, verbose=0,
        callbacks=[*callbacks] or [dpf_tf.PruningCallback(settle=0)], **options,
    )  # fmt: skip


def train_model(keras):
    model = varied_model(keras)
    fit(model, epochs=3)
    dpf_tf.freeze_masks(model.get_layer("hidden"))
    assert_has_masks(model)
    return model


# For tests that leave the model as it is.
trained_model = functools.cache(train_model)


def options_of(model):
    """What pruning knows of each layer beside its variables."""
    return [(x.settings, x.frozen, list(x.kernels)) for x in pruned_layers(model)]


def state(model):
    return values(state_variables(model))


def set_state(model, arrays):
    for variable, array in zip(state_variables(model), arrays, strict=True):
        variable.assign(array)


def assert_has_masks(model):
    assert all(not mask.all() for mask in dpf_tf.get_masks(model).values())


def assert_same_model(found, expected):
    assert options_of(found) == options_of(expected)
    assert_bits_equal(values(found.variables), values(expected.variables))
    x, _ = data()
    outputs = [model.predict(x, verbose=0) for model in (found, expected)]
    np.testing.assert_array_equal(*outputs)


# Formats of a whole model.


def test_keras_file_brings_back_everything_and_training_goes_on(keras, tmp_path):
    model = train_model(keras)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("conv").settings.schedule.end_step == 18  # 75 % of 24.
    assert loaded.get_layer("hidden").frozen
    assert_same_model(loaded, model)
    assert_bits_equal(state(loaded), state(model))
    for each in (model, loaded):
        fit(each, epochs=2)
    assert_bits_equal(state(loaded), state(model))


LOAD = """
import sys
import keras, tf_keras
import numpy as np
for path in sys.argv[1:]:
    keras = sys.modules[path.split("/")[-2]]
    model = keras.models.load_model(path)
    with np.load(path + ".npz") as arrays:
        outputs, *expected = [arrays[f"arr_{i}"] for i in range(len(arrays) - 1)]
        found = model.predict(arrays["x"], verbose=0)
    np.testing.assert_array_equal(found, outputs)
    for array, variable in zip(expected, model.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), array)
"""


def save_for_another_process(keras, model, folder):
    """Saves a model, and beside it what another process must find in it."""
    (folder / keras.__name__).mkdir()
    paths = [folder / keras.__name__ / name for name in ("x.keras", "x.h5")]
    x, _ = data()
    for path in paths:
        model.save(path)
        outputs = model.predict(x, verbose=0)
        np.savez(f"{path}.npz", outputs, *values(model.variables), x=x)
    return paths


def test_a_fresh_process_needs_only_to_import_dpf_tf(tmp_path):
    paths = [
        path
        for keras in (keras_3, tf_keras)
        for path in save_for_another_process(keras, trained_model(keras), tmp_path)
    ]
    run_python(f"import dpf_tf\n{LOAD}", *paths)


def test_a_saved_model_serves_the_outputs_of_the_pruned_model(keras, tmp_path):
    model = trained_model(keras)
    x, _ = data()
    expected = model.predict(x, verbose=0)
    model.export(str(tmp_path / "exported"))
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_array_equal(exported.serve(x), expected)
    tf.saved_model.save(model, tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"]
    [served] = saved(tf.constant(x)).values()
    np.testing.assert_array_equal(served, expected)


def test_a_saved_model_of_tf_keras_loads_as_the_pruned_model(tmp_path):
    model = trained_model(tf_keras)
    model.save(tmp_path / "folder", save_format="tf")
    assert_same_model(tf_keras.models.load_model(tmp_path / "folder"), model)


# Formats of weights: they are loaded into a model of the same making.


def test_weights_bring_back_kernels_masks_and_optimizer(keras, tmp_path):
    model, other = trained_model(keras), varied_model(keras, seed=1)
    other.optimizer.build(other.trainable_variables)
    initial = state(other)
    by_checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = by_checkpoint.save(tmp_path / "checkpoint")
    by_checkpoint = tf.train.Checkpoint(model=other, optimizer=other.optimizer)
    by_checkpoint.restore(path).assert_consumed()
    assert_bits_equal(state(other), state(model))
    # What Keras calls by these names; the old format, .h5, holds no optimizer.
    names = ["x.weights.h5"] if keras is keras_3 else ["x.weights.h5", "x", "x.h5"]
    for name in names:
        set_state(other, initial)
        model.save_weights(tmp_path / name)
        other.load_weights(tmp_path / name)
        saved = state if name != "x.h5" else lambda m: values(m.variables)
        assert_bits_equal(saved(other), saved(model))


# Schedules that are not ours.

TFMOT = """
import sys
import keras, tf_keras
from tensorflow_model_optimization.sparsity import keras as tfmot
import dpf_tf
for module in keras, tf_keras:
    layer = module.layers.Dense(8, name="hidden")
    schedule = tfmot.PolynomialDecay(0.1, 0.7, 2, 10, power=2, frequency=4)
    model = module.Sequential(
        [module.Input((6,)), dpf_tf.prune_low_magnitude_dpf(layer, schedule)])
    model.save(sys.argv[1] + "/" + module.__name__ + ".keras")
"""


@pytest.fixture(scope="module")
def saved_with_tfmot(tmp_path_factory):
    """A folder of models given a schedule of TFMOT, whose import changes a process."""
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        pytest.skip("TFMOT is not installed")
    folder = tmp_path_factory.mktemp("tfmot")
    run_python(TFMOT, folder)
    return folder


@pytest.mark.slow
def test_a_schedule_of_tfmot_is_loaded_without_tfmot(
    keras, saved_with_tfmot, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    path = saved_with_tfmot / f"{keras.__name__}.keras"
    assert "tensorflow_model_optimization" not in config_text(path)
    [layer] = pruned_layers(keras.models.load_model(path))
    assert layer.settings.schedule == dpf_tf.PolynomialDecay(
        final_sparsity=0.7, initial_sparsity=0.1, begin_step=2, end_step=10, power=2,
        frequency=4, freeze_step=10,
    )  # fmt: skip


def config_text(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


class Steps:
    """A schedule of one's own, without a config."""

    final_sparsity = 0.5

    def __init__(self, period):
        self.period = period

    def __call__(self, step):
        return step % self.period == 0, 0.5


class SavedSteps(Steps):
    def get_config(self):
        return {"period": self.period}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def scheduled_model(keras, schedule):
    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten()])
    model.add(dpf_tf.prune_low_magnitude_dpf(keras.layers.Dense(4), schedule))
    return compiled(keras, model)


def test_a_schedule_of_one_s_own_without_config_fails_when_saved(keras, tmp_path):
    model = scheduled_model(keras, Steps(3))
    with pytest.raises(TypeError, match=r"Steps.* give it a `get_config`"):
        model.save(tmp_path / "model.keras")


def test_a_registered_schedule_of_one_s_own_is_saved_and_loaded(keras, tmp_path):
    keras.saving.register_keras_serializable("tests")(SavedSteps)
    model = scheduled_model(keras, SavedSteps(3))
    fit(model, epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    [layer] = pruned_layers(loaded)
    assert [layer.settings.schedule(step) for step in (2, 3)] == [
        (False, 0.5),
        (True, 0.5),
    ]
    for each in (model, loaded):
        fit(each, epochs=1)
    assert_bits_equal(state(loaded), state(model))


@pytest.mark.parametrize(
    ("option", "ours"),
    [
        ("pruning_schedule", dpf_tf.PolynomialDecay(final_sparsity=0.5, end_step=9)),
        ("pruning_schedule", dpf_tf.ConstantSparsity(0.5)),
        ("pruning_schedule", dpf_tf.OneShot(final_sparsity=0.5, step=3)),
        ("structure", dpf_tf.structures.Structure()),
        ("structure", dpf_tf.Filters(norm="l1")),
        ("structure", dpf_tf.Block(1, 4)),
        ("structure", dpf_tf.NofM(2, 4)),
        ("method", dpf_tf.methods.DPF(pruned_gradient=0.5)),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_a_registered_subclass_of_ours_is_loaded_as_itself(
    keras, tmp_path, option, ours
):
    derived = type("Derived", (type(ours),), {})
    keras.saving.register_keras_serializable("tests")(derived)
    options = {"pruning_schedule": 0.5, option: derived(**ours.get_config())}
    layers = [keras.Input((16,)), dense(keras, 8), dense(keras, 8)]
    model = dpf_tf.prune(keras.Sequential(layers), **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    [*before], [*after] = (
        [layer.settings for layer in pruned_layers(each)] for each in (model, loaded)
    )
    assert before and after == before
    assert any(isinstance(value, derived) for value in vars(after[0]).values())


def test_schedules_of_one_s_own_form_one_pool_after_loading(keras, tmp_path):
    schedule = SavedSteps(4)
    layers = [keras.Input((8,)), *(dense(keras, n) for n in (32, 8, 2))]
    model = dpf_tf.prune_low_magnitude_dpf(keras.Sequential(layers), schedule)
    small = model.layers[0].kernel
    small.assign(small * 1e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"SavedSteps": SavedSteps}
    )
    for each in (model, loaded):
        dpf_tf.MaskUpdater(each).update(0)
    masks = [list(dpf_tf.get_masks(each).values()) for each in (model, loaded)]
    assert_bits_equal(*masks)
    # The half of both that has the larger weights, not half of each kernel.
    assert masks[0][0].mean() < 0.1 and masks[0][1].mean() > 0.9


def test_what_was_frozen_after_wrapping_is_loaded_with_its_masks(keras, tmp_path):
    model = train_model(keras)
    model.get_layer("separable").trainable = False
    model.get_layer("conv").layer.trainable = False
    model.save(tmp_path / "part.keras")
    model.trainable = False
    model.save(tmp_path / "whole.keras")
    for name in ("part", "whole"):
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        found, expected = dpf_tf.get_masks(loaded), dpf_tf.get_masks(model)
        assert list(found) == list(expected)
        assert_bits_equal(list(found.values()), list(expected.values()))


# A training that is killed.


class Killed(Exception):
    pass


def killer(keras, epoch, batch):
    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, number, logs=None):
            if (self.epoch, number) == (epoch, batch):
                raise Killed

    return Kill()


def settled():
    return dpf_tf.PruningCallback(settle=0.1)


@functools.cache
def uninterrupted(keras):
    model = varied_model(keras)
    history = fit(model, settled(), epochs=4).history
    return history["sparsity"], options_of(model), state(model)


@pytest.fixture(params=["pruning first", "backup first"])
def callbacks(keras, request, tmp_path):
    """Makes new callbacks for a fit that is backed up, in one order or the other."""

    def make():
        pair = [settled(), keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))]
        return pair if request.param == "pruning first" else pair[::-1]

    return make


def test_a_killed_fit_resumes_as_if_nothing_had_happened(keras, callbacks):
    with pytest.raises(Killed):
        fit(varied_model(keras), *callbacks(), killer(keras, 2, 3), epochs=4)
    resumed = varied_model(keras, seed=1)
    history = fit(resumed, *callbacks(), epochs=4).history
    sparsity, options, expected = uninterrupted(keras)
    assert history["sparsity"] == sparsity[2:]
    assert options_of(resumed) == options
    assert_bits_equal(state(resumed), expected)


def test_a_loaded_model_may_be_wrapped_again_as_it_was(keras, tmp_path):
    model = scheduled_model(keras, 0.75)  # `fit` fills in when the ramp ends.
    fit(model, dpf_tf.PruningCallback(), epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert dpf_tf.prune_low_magnitude_dpf(loaded, 0.75) is not None
    with pytest.raises(ValueError, match="wrapped already, with other settings"):
        dpf_tf.prune_low_magnitude_dpf(loaded, 0.5)


def test_the_age_of_masks_goes_on_after_a_break(keras, tmp_path):
    """Masks are due every 2 steps, and stand still in the last of 2 epochs."""
    ages = []

    class Log(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ages.append(logs["mask_age"])

    def callbacks():
        backup = keras.callbacks.BackupAndRestore(str(tmp_path))
        return dpf_tf.PruningCallback(settle=0.5), backup

    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.75, end_step=8, frequency=2)
    fit(scheduled_model(keras, schedule), *callbacks(), Log(), epochs=2)
    whole = list(ages)
    with pytest.raises(Killed):
        model = scheduled_model(keras, schedule)
        fit(model, *callbacks(), killer(keras, 1, 0), epochs=2)
    ages.clear()
    fit(scheduled_model(keras, schedule), *callbacks(), Log(), epochs=2)
    assert ages == whole[len(whole) // 2 :]
    assert ages[-1] > len(ages) // 2


def test_logs_of_a_resumed_fit_start_with_the_restored_sparsity(keras, tmp_path):
    logged = []

    class Log(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            logged.append(logs["sparsity"])

    def callbacks():
        backup = keras.callbacks.BackupAndRestore(str(tmp_path))
        return dpf_tf.PruningCallback(), backup

    schedule = dpf_tf.ConstantSparsity(0.5, frequency=5)
    with pytest.raises(Killed):
        model = scheduled_model(keras, schedule)
        fit(model, *callbacks(), killer(keras, 1, 0), epochs=2)
    fit(scheduled_model(keras, schedule), *callbacks(), Log(), epochs=2)
    assert logged == [0.5] * 8  # No mask is due before the third of them.


# Without pruning.


def sequential(keras, wrap):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(6, 3, use_bias=False, name="conv"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="logits"),
        ]
    )


def nested(keras, wrap):
    """Two inputs through a shared layer and a shared inner model, two outputs."""
    x = keras.Input((6, 6, 3))
    y = keras.layers.SeparableConv2D(5, 3, activation="relu", name="separable")(x)
    y = keras.layers.Dense(4, activation="relu", name="mixer")(y)
    inner = keras.Model(x, keras.layers.Flatten()(y), name="inner")
    shared = keras.layers.Conv2D(3, 1, name="shared")
    a, b = keras.Input((6, 6, 3), name="a"), keras.Input((6, 6, 3), name="b")
    joined = keras.layers.Concatenate()([inner(shared(a)), inner(shared(b))])
    outputs = {
        "logits": keras.layers.Dense(4, name="logits")(joined),
        "value": keras.layers.Dense(1, name="value")(joined),
    }
    return keras.Model({"a": a, "b": b}, outputs)


def subclassed(keras, wrap):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = [
                wrap(keras.layers.Conv2D(6, 3, activation="relu", name="conv")),
                keras.layers.Flatten(),
                wrap(keras.layers.Dense(8, activation="relu", name="hidden")),
            ]
            self.head = keras.layers.Dense(4, name="logits")

        def call(self, x):
            for layer in self.body:
                x = layer(x)
            return self.head(x)

    return Net()


def example(form):
    x, _ = data()
    y = np.random.default_rng(1).normal(size=(len(x), 4)).astype("float32")
    if form is nested:
        return {"a": x, "b": x[::-1].copy()}, {"logits": y, "value": y[:, :1]}
    return x, y


def plain_model(keras, form):
    model = form(keras, lambda layer: layer)
    model(example(form)[0])
    return model


def pruned_model(keras, form):
    half = dpf_tf.ConstantSparsity(0.5, frequency=4)
    if form is subclassed:
        return form(keras, lambda x: dpf_tf.prune_low_magnitude_dpf(x, half))
    return dpf_tf.prune_low_magnitude_dpf(plain_model(keras, form), half)


def train(keras, form, model, *callbacks):
    loss = {"logits": "mse", "value": "mse"} if form is nested else "mse"
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer, loss, jit_compile=False)
    model.fit(*example(form), BATCH, verbose=0, callbacks=list(callbacks))


@functools.cache
def trained_and_stripped(keras, form):
    pruned = pruned_model(keras, form)
    train(keras, form, pruned, dpf_tf.PruningCallback(settle=0))
    into = plain_model(keras, form) if form is subclassed else None
    return pruned, dpf_tf.strip_pruning(pruned, into=into)


def predictions(model, form):
    found = model.predict(example(form)[0], verbose=0)
    return [found[k] for k in sorted(found)] if isinstance(found, dict) else [found]


@pytest.mark.parametrize("form", [sequential, nested, subclassed])
def test_stripped_model_has_equal_outputs_and_exact_zeros(keras, form):
    pruned, sparse = trained_and_stripped(keras, form)
    assert_bits_equal(predictions(sparse, form), predictions(pruned, form))
    arrays = {array.shape: array for array in values(sparse.trainable_variables)}
    masks = dpf_tf.get_masks(pruned)
    assert masks
    for path, mask in masks.items():
        kernel = arrays[mask.shape]
        np.testing.assert_array_equal(kernel != 0, mask, err_msg=path)
        assert not np.signbit(kernel[~mask]).any()


@pytest.mark.parametrize("form", [sequential, nested])
def test_stripped_model_is_saved_and_loaded_without_a_trace_of_dpf_tf(
    keras, form, tmp_path
):
    _, sparse = trained_and_stripped(keras, form)
    sparse.save(tmp_path / "model.keras")
    assert "dpf_tf" not in config_text(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_bits_equal(predictions(loaded, form), predictions(sparse, form))


@pytest.mark.parametrize("form", [nested, subclassed])
def test_training_the_pruned_or_the_stripped_model_leaves_the_other(keras, form):
    pruned = pruned_model(keras, form)
    into = plain_model(keras, form) if form is subclassed else None
    pruned(example(form)[0])
    dpf_tf.MaskUpdater(pruned).update(0)
    sparse = dpf_tf.strip_pruning(pruned, into=into)
    for trained, other in ((sparse, pruned), (pruned, sparse)):
        here, there = values(trained.variables), values(other.variables)
        callbacks = [dpf_tf.PruningCallback()] if trained is pruned else []
        train(keras, form, trained, *callbacks)
        assert_bits_equal(values(other.variables), there)
        changed = zip(values(trained.variables), here, strict=True)
        assert any((new != old).any() for new, old in changed)


@pytest.mark.slow
def test_stripped_models_load_where_dpf_tf_cannot_be_imported(tmp_path):
    paths = []
    for keras in (keras_3, tf_keras):
        _, sparse = trained_and_stripped(keras, sequential)
        paths += save_for_another_process(keras, sparse, tmp_path)
    run_python(f"import sys\nsys.modules['dpf_tf'] = None\n{LOAD}", *paths)


def test_stripping_into_the_model_that_was_pruned_is_refused(keras):
    model = keras.Sequential([keras.Input((4,)), *(dense(keras, n) for n in (8, 2))])
    pruned = dpf_tf.prune_low_magnitude_dpf(model, dpf_tf.ConstantSparsity(0.5))
    dpf_tf.MaskUpdater(pruned).update(0)
    before = values(pruned.variables)
    with pytest.raises(ValueError, match="shares its variables"):
        dpf_tf.strip_pruning(pruned, into=model)
    assert_bits_equal(values(pruned.variables), before)
    sparse = dpf_tf.strip_pruning(pruned, into=keras.models.clone_model(model))
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(sparse(x).numpy(), pruned(x).numpy())


def test_other_frozen_layers_do_not_mix_up_the_weights_of_a_plain_model(keras):
    model = keras.Sequential([keras.Input((4,)), *(dense(keras, 4) for _ in "abc")])
    pruned = dpf_tf.prune_low_magnitude_dpf(model, dpf_tf.ConstantSparsity(0.5))
    dpf_tf.MaskUpdater(pruned).update(0)
    plain = keras.models.clone_model(model)
    plain.layers[0].trainable = False
    x = np.ones((2, 4), "float32")
    dpf_tf.strip_pruning(pruned, into=plain)
    np.testing.assert_array_equal(plain(x).numpy(), pruned(x).numpy())
    assert [layer.trainable for layer in plain.layers] == [False, True, True]


def dense(keras, units):
    return keras.layers.Dense(units, kernel_initializer="glorot_normal")


def test_stripping_keeps_what_a_layer_has_beside_its_variables(keras):
    """Adapted statistics, a vocabulary, and a function that no config can hold."""
    adapted = keras.layers.Normalization()
    adapted.adapt(np.random.default_rng(0).normal(3, 2, (64, 4)))
    lookup = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
    x, word = keras.Input((4,)), keras.Input((1,), dtype="string")
    hidden = keras.layers.Lambda(lambda x: 2 * x)(dense(keras, 8)(adapted(x)))
    joined = keras.layers.Concatenate()([hidden, lookup(word)])
    model = keras.Model([x, word], dense(keras, 2)(joined))
    pruned = dpf_tf.prune_low_magnitude_dpf(model, dpf_tf.ConstantSparsity(0.5))
    dpf_tf.MaskUpdater(pruned).update(0)
    sparse = dpf_tf.strip_pruning(pruned)
    batch = [tf.random.normal((2, 4)), tf.constant([["b"], ["c"]])]
    np.testing.assert_array_equal(sparse(batch).numpy(), pruned(batch).numpy())


def test_a_list_of_layers_is_stripped_layer_by_layer(keras):
    half = dpf_tf.ConstantSparsity(0.5)
    layers = [dense(keras, 8), keras.layers.ReLU(), keras.layers.BatchNormalization()]
    nested = keras.Sequential([keras.Input((8,)), dense(keras, 4), dense(keras, 2)])
    layers.append(nested)
    pruned = dpf_tf.prune_low_magnitude_dpf(layers, half)
    x = outputs = np.ones((2, 4), "float32")
    for layer in pruned:
        outputs = layer(outputs)
    for layer in (pruned[0], pruned[3]):
        dpf_tf.MaskUpdater(layer).update(0)
    plain = dpf_tf.strip_pruning(pruned)
    assert [type(layer) for layer in plain] == [type(layer) for layer in layers]
    ours = {id(v) for layer in pruned for v in layer.variables}
    assert not ours & {id(v) for layer in plain for v in layer.variables}
    expected = x
    for layer, twin in zip(plain, pruned, strict=True):
        x, expected = layer(x), twin(expected)
    np.testing.assert_array_equal(x.numpy(), expected.numpy())
    with pytest.raises(ValueError, match="No layer of the list is pruned"):
        dpf_tf.strip_pruning(layers[1:3])
    with pytest.raises(TypeError, match="must hold layers"):
        dpf_tf.strip_pruning([*pruned, "relu"])


def test_a_model_below_its_target_is_stripped_with_a_warning(keras):
    """Whatever the order of callbacks: best weights may be restored after the last."""
    layers = [keras.Input((4,)), dense(keras, 16), dense(keras, 2)]
    ramp = dpf_tf.PolynomialDecay(final_sparsity=0.9, end_step=12, frequency=4)
    model = dpf_tf.prune_low_magnitude_dpf(keras.Sequential(layers), ramp)
    model.compile("sgd", "mse")
    best = keras.callbacks.EarlyStopping(
        "sparsity", mode="min", patience=1, restore_best_weights=True
    )
    x, y = np.ones((32, 4), "float32"), np.ones((32, 2), "float32")
    callbacks = [dpf_tf.PruningCallback(), best]
    model.fit(x, y, 4, epochs=3, verbose=0, callbacks=callbacks)
    restored = dpf_tf.sparsity_report(model)["pruned"]["sparsity"]
    assert restored < 0.85, "the best weights were not restored: no test"
    with pytest.warns(UserWarning, match="stripped at sparsity"):
        dpf_tf.strip_pruning(model)


def test_into_a_model_that_does_not_fit_is_refused_and_left_as_it_was(keras):
    pruned, _ = trained_and_stripped(keras, subclassed)
    for target in (
        keras.Sequential([keras.Input((6, 6, 3)), keras.layers.ReLU()]),
        plain_model(keras, sequential),
        pruned_model(keras, subclassed),  # Not built.
    ):
        before = values(target.variables)
        with pytest.raises(ValueError, match="are not those of the pruned model"):
            dpf_tf.strip_pruning(pruned, into=target)
        assert_bits_equal(values(target.variables), before)
