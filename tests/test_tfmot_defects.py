"""What TensorFlow Model Optimization gets wrong in silence, and what it refuses.

Each defect is a function that tells whether a library shows it. dpf_tf must show none,
in either Keras; TFMOT shows every one, which proves that the function can see it. When
a release of TFMOT mends one, its row here fails, and goes.
"""

import os
import warnings

import numpy as np
import pytest
import tensorflow as tf

import dpf_tf
from tests.helpers import values

STEPS = 4


class DPF:
    """dpf_tf, asked to prune half of everything at every step."""

    def __init__(self, keras):
        self.keras = keras

    def schedule(self, **options):
        return dpf_tf.ConstantSparsity(0.5, frequency=1, **options)

    def prune(self, model, schedule=None, **options):
        if isinstance(model, self.keras.Model):  # The model's outputs included.
            options.setdefault("layers", ".")
        schedule = self.schedule() if schedule is None else schedule
        return dpf_tf.prune_low_magnitude_dpf(model, schedule, **options)

    def prune_by_default(self, model):
        return dpf_tf.prune_low_magnitude_dpf(model, 0.5, layers=".")

    def callback(self):
        return dpf_tf.PruningCallback(settle=0)

    def strip(self, model, **options):
        return dpf_tf.strip_pruning(model, **options)

    def layer_with_options(self):
        layer = self.keras.layers.SeparableConv1D(4, 2)
        return dpf_tf.PruneLowMagnitudeDPF(
            layer,
            dpf_tf.PolynomialDecay(
                final_sparsity=0.8, begin_step=3, end_step=7, power=2, frequency=2,
                freeze_step=9,
            ),
            allocation={"kernel": 0.3},
            kernels=["depthwise_kernel"],
            frozen=True,
        )  # fmt: skip

    def options(self, wrapper):
        return wrapper.settings, wrapper.frozen, wrapper.get_config()


class TFMOT:
    """The peer, asked for the same."""

    def __init__(self, keras, tfmot):
        self.keras, self.tfmot = keras, tfmot

    def schedule(self, begin_step=0):
        return self.tfmot.ConstantSparsity(0.5, begin_step, frequency=1)

    def prune(self, model, schedule=None, **options):
        schedule = self.schedule() if schedule is None else schedule
        return self.tfmot.prune_low_magnitude(model, schedule, **options)

    def prune_by_default(self, model):
        return self.tfmot.prune_low_magnitude(model)

    def callback(self):
        return self.tfmot.UpdatePruningStep()

    def strip(self, model, into=None):
        return self.tfmot.strip_pruning(model)

    def layer_with_options(self):
        layer = self.keras.layers.Dense(4)
        return self.tfmot.prune_low_magnitude(layer, sparsity_m_by_n=(2, 4))

    def options(self, wrapper):
        return wrapper.sparsity_m_by_n


@pytest.fixture(scope="module")
def tfmot():
    """TFMOT's pruning; what its import does to the process is undone."""
    _ = tf.keras.__version__  # Resolved now, it stays the user's Keras.
    name = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(name)
    try:
        package = pytest.importorskip("tensorflow_model_optimization")
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
    return package.sparsity.keras


@pytest.fixture
def library(request, keras):
    if request.param == "dpf_tf":
        return DPF(keras)
    return TFMOT(keras, request.getfixturevalue("tfmot"))


every_library = pytest.mark.parametrize(
    ("keras", "library"),
    [("keras", "dpf_tf"), ("tf_keras", "dpf_tf"), ("tf_keras", "tfmot")],
    indirect=True,
)


def batch(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def fit(library, model, *inputs, rate=0.01, steps=STEPS):
    """Makes a few training steps of a pruned model."""
    model.compile(library.keras.optimizers.SGD(rate), "mse")
    x = inputs if len(inputs) > 1 else inputs[0]
    targets = np.zeros((len(inputs[0]), 1))
    size = len(targets) // steps
    model.fit(x, targets, size, verbose=0, callbacks=[library.callback()])
    return model


def sequential(keras, *layers, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *layers])


def zeros(library, model, name):
    """Returns the share of zeros in the kernel that a pruned model will deliver."""
    return np.mean(library.strip(model).get_layer(name).kernel.numpy() == 0)


# --- Silent wrong results: True where a library shows it -----------------------------


def drops_padding_masks(library):
    k = library.keras.layers
    layers = [k.Embedding(5, 3, mask_zero=True), k.LSTM(4)]
    model = library.keras.Sequential(
        [library.keras.Input((None,), dtype="int32"), *layers]
    )
    pruned = library.prune(model)
    short = tf.constant([[1, 2], [3, 4]])
    padded = tf.pad(short, [[0, 0], [0, 3]])
    return not np.allclose(pruned(short), pruned(padded), atol=1e-6)


def drops_activity_regularizers(library):
    losses = []
    for prune in (lambda layer: layer, library.prune):
        layer = library.keras.layers.Dense(
            4, kernel_initializer="ones", activity_regularizer="l2"
        )
        model = sequential(library.keras, prune(layer))
        model.compile("sgd", "mse")
        losses.append(model.evaluate(batch(8, 4), batch(8, 4), verbose=0))
    return not np.isclose(*losses, rtol=1e-6)


def computes_float32_heads_in_float16(library):
    keras = library.keras
    keras.mixed_precision.set_global_policy("mixed_float16")
    head = keras.layers.Activation("softmax", dtype="float32", name="head")
    model = sequential(keras, keras.layers.Dense(4), head)
    return library.prune(model)(batch(1, 4)).dtype != model(batch(1, 4)).dtype


def loses_options_on_save(library):
    wrapper = library.layer_with_options()
    copy = type(wrapper).from_config(wrapper.get_config())
    return library.options(copy) != library.options(wrapper)


def prunes_frozen_layers(library):
    k = library.keras.layers
    model = sequential(library.keras, k.Dense(4, name="base"), k.Dense(4, name="top"))
    model.get_layer("base").trainable = False
    pruned = fit(library, library.prune(model), batch(8, 4))
    assert zeros(library, pruned, "top") == 0.5
    return zeros(library, pruned, "base") > 0


def ignores_unknown_keywords(library):
    model = sequential(library.keras, library.keras.layers.Dense(4))
    try:
        library.prune(model, sparsity=0.9)
    except TypeError:
        return False
    return True


def does_nothing_by_default_in_a_short_run(library):
    model = sequential(library.keras, library.keras.layers.Dense(4, name="dense"))
    pruned = fit(library, library.prune_by_default(model), batch(64, 4), steps=64)
    return zeros(library, pruned, "dense") == 0


def says_nothing_when_the_schedule_comes_too_late(library):
    model = sequential(library.keras, library.keras.layers.Dense(4, name="dense"))
    pruned = library.prune(model, library.schedule(begin_step=100))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(library, pruned, batch(8, 4))
    told = [str(warning.message) for warning in caught]
    return not any(f"steps 0 to {STEPS - 1}" in text for text in told)


def keeps_all_of_equal_weights(library):
    layer = library.keras.layers.Dense(4, kernel_initializer="ones", name="dense")
    pruned = library.prune(sequential(library.keras, layer))
    return zeros(library, fit(library, pruned, batch(8, 4), rate=0.0), "dense") != 0.5


def writes_weights_in_predict(library):
    layer = library.keras.layers.Dense(4)
    pruned = library.prune(sequential(library.keras, layer))
    fit(library, pruned, batch(8, 4))
    layer.kernel.assign(batch(4, 4))
    before = values(layer.weights)
    pruned.predict(batch(8, 4), verbose=0)
    return not all(map(np.array_equal, values(layer.weights), before))


def counts_a_shared_layer_twice(library):
    keras = library.keras
    a, b = keras.Input((4,)), keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    model = keras.Model([a, b], keras.layers.Add()([shared(a), shared(b)]))
    schedule = library.schedule(begin_step=STEPS + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # We say that nothing will be pruned.
        pruned = fit(library, library.prune(model, schedule), batch(8, 4), batch(8, 4))
    return zeros(library, pruned, "shared") > 0


def changes_names_of_layers_and_outputs(library):
    keras = library.keras
    x = keras.Input((4,))
    outputs = [keras.layers.Dense(2, name=name)(x) for name in ("class", "box")]
    model = keras.Model(x, outputs)
    pruned = library.prune(model)
    names = [[layer.name for layer in m.layers] for m in (model, pruned)]
    return names[0] != names[1] or pruned.output_names != model.output_names


SILENT = [
    drops_padding_masks,
    drops_activity_regularizers,
    computes_float32_heads_in_float16,
    loses_options_on_save,
    prunes_frozen_layers,
    ignores_unknown_keywords,
    does_nothing_by_default_in_a_short_run,
    says_nothing_when_the_schedule_comes_too_late,
    keeps_all_of_equal_weights,
    writes_weights_in_predict,
    counts_a_shared_layer_twice,
    changes_names_of_layers_and_outputs,
]


@every_library
@pytest.mark.parametrize("defect", SILENT, ids=lambda defect: defect.__name__)
def test_a_silent_defect_is_the_peers_alone(library, defect):
    assert defect(library) == isinstance(library, TFMOT)


# --- Refused without need: these must work -------------------------------------------


def model_with(*make):
    """Returns a use of a model in which a dense layer follows some others."""

    def use(library):
        k = library.keras.layers
        layers = [layer(k) for layer in make]
        top = [k.Flatten(), k.Dense(2, name="top")]
        model = sequential(library.keras, *layers, *top, shape=(4, 4))
        pruned = fit(library, library.prune(model), batch(8, 4, 4))
        assert zeros(library, pruned, "top") > 0

    return use


def unbuilt_sequential(library):
    k = library.keras.layers
    model = library.keras.Sequential([k.Dense(4), k.Dense(4)])
    library.strip(fit(library, library.prune(model), batch(8, 4)))


def subclassed_model(library):
    class Net(library.keras.Model):
        def __init__(self, prune):
            super().__init__()
            self.blocks = [prune(library.keras.layers.Dense(4)) for _ in range(2)]

        def call(self, inputs):
            for block in self.blocks:
                inputs = block(inputs)
            return inputs

    pruned, plain = Net(library.prune), Net(lambda layer: layer)
    plain(batch(8, 4))
    fit(library, pruned, batch(8, 4))
    stripped = library.strip(pruned, into=plain)
    np.testing.assert_allclose(stripped(batch(8, 4)), pruned(batch(8, 4)), rtol=1e-6)


def keras_3(library):
    import keras

    keras3 = type(library).__new__(type(library))
    keras3.__dict__.update(vars(library), keras=keras)
    model_with(lambda k: k.Dense(4))(keras3)


REFUSED = {
    "Keras 3": keras_3,
    "subclassed model": subclassed_model,
    "unbuilt Sequential": unbuilt_sequential,
    "Rescaling": model_with(lambda k: k.Rescaling(0.5)),
    "GroupNormalization": model_with(lambda k: k.GroupNormalization(2)),
    "PReLU": model_with(lambda k: k.PReLU()),
    "Bidirectional": model_with(lambda k: k.Bidirectional(k.SimpleRNN(4))),
    "EinsumDense": model_with(lambda k: k.EinsumDense("abc,cd->abd", (4, 3))),
}


@every_library
@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED)
def test_what_the_peer_refuses_without_need_works(library, use):
    if isinstance(library, TFMOT):
        with pytest.raises((ValueError, AttributeError, NotImplementedError)):
            use(library)
    else:
        use(library)
