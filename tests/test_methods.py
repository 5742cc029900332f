"""Every scheme does what its definition says, checked against NumPy, step by step."""

import math

import numpy as np
import pytest
import tensorflow as tf

import dpf_tf
from tests.helpers import assert_bits_equal, pruned_layers, run_python, values

RATE, MOMENTUM, L2, BATCH, EPOCHS = 0.05, 0.9, 2e-3, 16, 20
STEPS, END, TARGET = 200, 150, 0.75
SHAPES = [(12, 24), (24, 6)]
SIZES = [12 * 24, 24 * 6]


def regression():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(160, 12)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(12, 6))) + rng.normal(size=(160, 6)) / 10
    return x, y.astype("float32")


def batches():
    x, y = regression()
    return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, 160, BATCH)] * EPOCHS


def batch_for_gradients(step):
    x, y = regression()
    start = step % 128
    return x[start : start + 32], y[start : start + 32]


# Forms of a scheme that owe the same to their user as the schemes by themselves.
FORMS = {
    "st3_sigma": ("st3", {"sigma": True}),
    "st3_none": ("st3", {"rescale": "none"}),
    "st3_auto": ("st3", {"rescale": "auto"}),
}


def make(keras, method, schedule=TARGET, **options):
    """A pruned, compiled net of two dense layers, all of whose kernels are pruned."""
    # It makes the scale of the first layer free, which one form alone looks at. It has
    # no variables that are trained.
    norm = keras.layers.BatchNormalization(center=False, scale=False)
    method, form = FORMS.get(method, (method, {}))
    regularizer = keras.regularizers.L2(L2)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(24, kernel_regularizer=regularizer, name="first"),
            *([norm] if form.get("rescale") == "auto" else []),
            keras.layers.ReLU(),
            keras.layers.Dense(6, kernel_regularizer=regularizer, name="second"),
        ]
    )
    model = dpf_tf.prune(model, schedule, method, layers="kernel", **form, **options)
    optimizer = keras.optimizers.SGD(RATE, momentum=MOMENTUM)
    model.compile(optimizer, keras.losses.MeanSquaredError(), jit_compile=False)
    return model


def bound(gradient, mask):
    """No column without a weight gets a longer gradient than the longest other."""
    living, lengths = mask.any(0), np.linalg.norm(gradient, axis=0)
    if not living.any() or lengths.max() <= lengths[living].max():
        return gradient
    factor = lengths[living].max() / lengths.max()
    return np.where(living, gradient, factor * gradient)


# The definitions, once more and as plainly as can be.


class Definition:
    """A scheme in NumPy: float64, sorted lists, one step at a time."""

    masked_gradient, bounded, cleared = False, True, ()
    pruned_gradient, pruned_decay = 1, 0

    def __init__(self, parameters):
        self.parameters = [p.astype("float64") for p in parameters]
        self.buffers = [np.zeros_like(p) for p in self.parameters]
        self.masks = [np.ones(shape, bool) for shape in SHAPES]
        self.step_number, self.gaps, self.bounds = 0, [1.0], 0

    @property
    def kernels(self):
        return self.parameters[::2]

    def due(self, step):
        return step % 16 == 0

    def sparsity(self, step):
        return TARGET * (1 - (1 - min(step, END) / END) ** 3)

    def pruned(self):
        """What the layers compute with."""
        return [
            np.where(m, w, 0) for m, w in zip(self.masks, self.kernels, strict=True)
        ]

    def gradients(self, x, y, kernels):
        biases, inputs, sums = self.parameters[1::2], [x.astype("float64")], []
        for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            sums.append(inputs[-1] @ kernel + bias)
            inputs.append(np.maximum(sums[-1], 0) if i == 0 else sums[-1])
        upstream = 2 * (sums[-1] - y) / y.size
        last = [inputs[1].T @ upstream, upstream.sum(0)]
        upstream = (upstream @ kernels[1].T) * (sums[0] > 0)
        return [inputs[0].T @ upstream, upstream.sum(0), *last]

    def dense_gradients(self):
        x, y = batch_for_gradients(self.step_number)
        return self.gradients(x, y, self.pruned())[::2]

    def train(self, x, y):
        if self.due(self.step_number):
            new = self.new_masks()
            for i, (old, mask) in enumerate(zip(self.masks, new, strict=True)):
                for what in self.cleared:
                    getattr(self, what)[2 * i][~(old & mask)] = 0
            self.masks = new
        self.step_number += 1
        found = self.gradients(x, y, self.pruned())
        for i in range(4):
            gradient = found[i]
            if i % 2 == 0:
                if self.masked_gradient:
                    gradient = np.where(self.masks[i // 2], gradient, 0)
                mask, kernel = self.masks[i // 2], self.parameters[i]
                within = bound(gradient, mask)
                self.bounds += within is not gradient
                if self.bounded:
                    gradient = within
                gradient = np.where(mask, gradient, self.pruned_gradient * gradient)
                gradient = gradient + np.where(mask, 0, self.pruned_decay * kernel)
                gradient = gradient + 2 * L2 * kernel
            self.buffers[i] = MOMENTUM * self.buffers[i] - RATE * gradient
            self.parameters[i] = self.parameters[i] + self.buffers[i]

    def top(self, scores, count):
        """Marks the largest of several arrays, and notes how clear the choice was."""
        flat = np.concatenate([np.abs(score).ravel() for score in scores])
        order = np.lexsort((np.arange(flat.size), -flat))
        if 0 < count < flat.size and flat[order[count]] > 0:
            last, next_ = flat[order[count - 1]], flat[order[count]]
            self.gaps.append((last - next_) / last)
        marks = np.zeros(flat.size, bool)
        marks[order[:count]] = True
        parts = np.split(marks, np.cumsum([s.size for s in scores])[:-1])
        return [p.reshape(s.shape) for p, s in zip(parts, scores, strict=True)]

    def keep(self):
        return sum(SIZES) - round(self.sparsity(self.step_number) * sum(SIZES))

    def new_masks(self):
        return self.top(self.kernels, self.keep())


class StraightThrough(Definition):
    def due(self, step):
        return True


class ST3(Definition):
    thresholds, scales = (0, 0), (1, 1)
    rescale, sigma = "filter", False

    def pruned(self):
        return [
            c * np.sign(w) * np.maximum(np.abs(w) - t, 0) * m
            for c, t, w, m in zip(
                self.scales, self.thresholds, self.kernels, self.masks, strict=True
            )
        ]

    def new_masks(self):
        units = [(12 + 24) ** -0.5, (24 + 6) ** -0.5] if self.sigma else [1, 1]
        scores = [w / unit for w, unit in zip(self.kernels, units, strict=True)]
        masks = self.top(scores, self.keep())
        pairs = list(zip(scores, masks, strict=True))
        threshold = max([0, *(abs(v) for w, m in pairs for v in w[~m])])
        self.thresholds = [threshold * unit for unit in units]
        if self.rescale == "filter":
            shares = [np.abs(w * m).sum(0) / np.abs(w).sum(0) for w, m in pairs]
            self.scales = [1.01 / (share + 0.01) for share in shares]
        elif self.rescale == "kernel":
            self.scales = [
                np.abs(w[m]).sum() / (np.abs(w[m]) - threshold).sum() for w, m in pairs
            ]
        return masks


class GMP(Definition):
    masked_gradient, cleared = True, ("parameters", "buffers")

    def new_masks(self):
        kept = [
            np.where(m, w, 0) for m, w in zip(self.masks, self.kernels, strict=True)
        ]
        return self.top(kept, self.keep())


class OneShot(GMP):
    def due(self, step):
        return step == STEPS // 2

    def sparsity(self, step):
        return TARGET


class SNIP(GMP):
    def due(self, step):
        return step == 0

    def sparsity(self, step):
        return TARGET

    def new_masks(self):
        pairs = zip(self.dense_gradients(), self.kernels, strict=True)
        return self.top([g * w for g, w in pairs], self.keep())


def draw(seed, step, index):
    numbers = np.random.default_rng([seed, step, index])
    return numbers.random(SHAPES[index], dtype=np.float32).astype("float64")


class DropAndGrow(Definition):
    masked_gradient, cleared = True, ("parameters", "buffers")
    period, share = 100, 0.3

    def due(self, step):
        return step % self.period == 0

    def new_masks(self):
        if self.step_number == 0:
            counts = [n - round(TARGET * n) for n in SIZES]
            lots = [draw(0, 0, i) for i in range(2)]
            return [self.top([s], n)[0] for s, n in zip(lots, counts, strict=True)]
        counts = [int(m.sum()) for m in self.masks]
        dropped = self.dropped(counts)
        kept = [
            # One that was grown, and got no gradient since, is zero and yet kept.
            self.top([np.where(m, np.maximum(np.abs(w), 1e-300), 0)], n - k)[0]
            for m, w, n, k in zip(
                self.masks, self.kernels, counts, dropped, strict=True
            )
        ]
        grown = self.grown(kept, dropped)
        scores = self.growth()
        return [
            m | self.top([np.where(m, 0, s)], n)[0] if n else m
            for m, s, n in zip(kept, scores, grown, strict=True)
        ]

    def dropped(self, counts):
        left = (1 + math.cos(math.pi * min(1, self.step_number / END))) / 2
        return [int(self.share * left * n) for n in counts]

    def grown(self, kept, dropped):
        return dropped

    def growth(self):
        return [draw(1, self.step_number, i) for i in range(2)]


class SET(DropAndGrow):
    period = 10  # An epoch.


class RigL(DropAndGrow):
    period = 25

    def growth(self):
        return self.dense_gradients()


def shared(total, weights):
    """Largest remainders; no kernel here has too little room."""
    exact = total * np.array(weights) / sum(weights)
    counts = np.floor(exact).astype(int)
    if counts.sum() < total:
        counts[np.argmax(exact - counts)] += 1
    return counts.tolist()


class DSR(DropAndGrow):
    period, share, threshold = 20, 0.138, 0.02

    def dropped(self, counts):
        below = [
            int((np.abs(w[m]) < self.threshold).sum())
            for w, m in zip(self.kernels, self.masks, strict=True)
        ]
        if self.step_number >= END:
            return [0, 0]
        wanted = self.share * sum(counts)
        if sum(below) < 0.9 * wanted:
            self.threshold *= 2
        elif sum(below) > 1.1 * wanted:
            self.threshold /= 2
        return below

    def grown(self, kept, dropped):
        return shared(sum(dropped), [m.sum() for m in kept])


class SparseMomentum(DropAndGrow):
    masked_gradient, bounded, cleared = False, False, ("parameters",)
    period, share = 10, 0.5

    def growth(self):
        return self.buffers[::2]

    def grown(self, kept, dropped):
        pairs = zip(self.buffers[::2], self.masks, strict=True)
        return shared(sum(dropped), [np.abs(b[m]).mean() for b, m in pairs])


CONSTANT = {"initial_sparsity": TARGET, "final_sparsity": TARGET}
DEFINITIONS = {
    "dpf": (Definition, {}),
    "straight_through": (StraightThrough, {}),
    "st3": (ST3, {}),
    "gmp": (GMP, {}),
    "one_shot": (OneShot, {}),
    "snip": (SNIP, {}),
    "set": (SET, {"allocation": "uniform"}),
    "rigl": (
        RigL,
        {
            "allocation": "uniform",
            "schedule": dpf_tf.PolynomialDecay(**CONSTANT, end_step=END, frequency=25),
        },
    ),
    "dsr": (
        DSR,
        {
            "threshold": 0.02,
            "schedule": dpf_tf.PolynomialDecay(**CONSTANT, end_step=END, frequency=20),
        },
    ),
    "sparse_momentum": (SparseMomentum, {}),
}


def test_every_scheme_of_single_weights_is_held_to_a_definition():
    schemes = dpf_tf.methods.METHODS.items()
    assert list(DEFINITIONS) == [k for k, x in schemes if x.only_for != "filters"]


LEVERS = [
    ("dpf", {"pruned_gradient": 0.4}),
    ("dpf", {"pruned_decay": 0.05}),
    ("straight_through", {"pruned_gradient": 0.5, "pruned_decay": 0.02}),
    ("st3", {"rescale": "kernel"}),
    ("st3", {"rescale": "none", "pruned_gradient": 0.5}),
    ("st3", {"sigma": True, "pruned_decay": 0.05}),
]


@pytest.mark.parametrize(
    ("method", "levers"), [*((name, {}) for name in DEFINITIONS), *LEVERS]
)
def test_training_equals_the_definition_in_numpy(keras, method, levers):
    definition, options = DEFINITIONS[method]
    model = make(keras, method, **options, **levers)
    oracle = definition(values(model.trainable_variables))
    for name, value in levers.items():
        setattr(oracle, name, value)
    # A rescale stretches what a rounding makes of the difference to the threshold.
    assert_trains_as(
        keras, model, oracle, 5e-4 if levers.get("rescale") == "kernel" else 5e-6
    )


class Sudden(Definition):
    def sparsity(self, step):
        return TARGET


@pytest.mark.parametrize("bounded", [True, False])
def test_the_bound_of_a_column_without_weights_is_as_defined(keras, bounded):
    schedule = dpf_tf.PolynomialDecay(**CONSTANT, end_step=END)
    model = make(keras, "dpf", schedule, bounded=bounded)
    kernel, bias, following, _ = model.trainable_variables
    first = np.arange(24) == 0  # A unit whose weights are small, and whose use great.
    kernel.assign(np.where(first, 0.01, 1) * values([kernel])[0])
    bias.assign(first)
    following.assign(np.where(first, 3, 1)[:, None] * values([following])[0])
    oracle = Sudden(values(model.trainable_variables))
    oracle.bounded = bounded
    assert_trains_as(keras, model, oracle)
    assert oracle.bounds > 0


def assert_trains_as(keras, model, oracle, within=5e-6):
    """Trains both, and holds every mask and the last values to be equal."""
    seen = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(list(dpf_tf.get_masks(self.model).values()))

    callback = dpf_tf.PruningCallback(settle=0, data=batch_for_gradients)
    x, y = regression()
    model.fit(
        x, y, BATCH, epochs=EPOCHS, verbose=0, shuffle=False,
        callbacks=[callback, Record()],
    )  # fmt: skip
    assert len(seen) == STEPS
    for masks, (inputs, targets) in zip(seen, batches(), strict=True):
        oracle.train(inputs, targets)
        assert_bits_equal(masks, oracle.masks)
    # What the comparison of masks rests on: no choice hung on a rounding.
    assert min(oracle.gaps) > 1e-6
    for mine, expected in (
        (model.trainable_variables, oracle.parameters),
        (model.optimizer.momentums, oracle.buffers),
    ):
        for left, right in zip(values(mine), expected, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=5e-6)
    stripped = dpf_tf.strip_pruning(model)
    kernels = [w for w in stripped.get_weights() if w.ndim == 2]
    for kernel, expected in zip(kernels, oracle.pruned(), strict=True):
        np.testing.assert_allclose(kernel, expected, rtol=1e-3, atol=within)


# What every scheme owes to its user, whatever its definition.

every_method = pytest.mark.parametrize("method", [*DEFINITIONS, *FORMS])


def fit(model, epochs, *callbacks, settle=0.0):
    x, y = regression()
    callback = dpf_tf.PruningCallback(settle=settle, data=batch_for_gradients)
    return model.fit(
        x, y, BATCH, epochs=epochs, verbose=0, shuffle=False,
        callbacks=[callback, *callbacks],
    )  # fmt: skip


def options_of(method, **changed):
    """Arguments that make the scheme act several times in 60 steps."""
    method, period = FORMS.get(method, (method,))[0], {"frequency": 20}
    schedule = {
        "one_shot": dpf_tf.OneShot(final_sparsity=TARGET, step=20),
        "snip": dpf_tf.OneShot(final_sparsity=TARGET, step=0),
        "straight_through": dpf_tf.PolynomialDecay(
            final_sparsity=TARGET, end_step=40, frequency=1
        ),
    }
    if issubclass(dpf_tf.methods.METHODS[method], dpf_tf.methods.DropAndGrow):
        schedule[method] = dpf_tf.PolynomialDecay(**CONSTANT, end_step=60, **period)
    ramp = dpf_tf.PolynomialDecay(final_sparsity=TARGET, end_step=40, frequency=16)
    return {"schedule": schedule.get(method, ramp), **changed}


def state(model):
    optimizer = model.optimizer.variables
    optimizer = optimizer() if callable(optimizer) else optimizer
    return values([*model.variables, *optimizer])


@every_method
def test_a_saved_model_trains_on_as_if_it_had_not_been_saved(keras, method, tmp_path):
    model = make(keras, method, **options_of(method))
    fit(model, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].settings == model.layers[0].settings
    assert_bits_equal(state(loaded), state(model))
    for each in (model, loaded):
        fit(each, 3)
    assert_bits_equal(state(loaded), state(model))


class Killed(Exception):
    pass


@every_method
def test_a_killed_fit_resumes_as_if_nothing_had_happened(keras, method, tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                raise Killed

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    whole, broken, resumed = (make(keras, method, **options_of(method)) for _ in "123")
    for other in (broken, resumed):
        other.set_weights(whole.get_weights())
    fit(whole, 6)
    with pytest.raises(Killed):
        fit(broken, 6, Kill(), backup())
    fit(resumed, 6, backup())
    assert_bits_equal(state(resumed), state(whole))


@every_method
def test_evaluation_leaves_every_variable_as_it_is(keras, method):
    model = make(keras, method, **options_of(method))
    fit(model, 5)
    before, (x, y) = state(model), regression()
    model.predict(x, verbose=0)
    model.evaluate(x, y, verbose=0)
    assert_bits_equal(
        state(model)[: len(model.variables)], before[: len(model.variables)]
    )


@every_method
def test_the_stripped_model_computes_the_same_with_exact_zeros(keras, method):
    model = make(keras, method, **options_of(method))
    fit(model, 6)
    stripped, (x, _) = dpf_tf.strip_pruning(model), regression()
    outputs = [each.predict(x, verbose=0) for each in (model, stripped)]
    np.testing.assert_array_equal(*outputs)
    kernels = [w for w in stripped.get_weights() if w.ndim == 2]
    masks = list(dpf_tf.get_masks(model).values())
    assert sum(int((~m).sum()) for m in masks) == round(TARGET * sum(SIZES))
    for kernel, mask in zip(kernels, masks, strict=True):
        assert not kernel[~mask].any()
        assert not np.signbit(kernel[~mask]).any()


GRADIENTS = {
    "dense": ("dpf", "straight_through", "st3", "sparse_momentum"),
    "masked": ("gmp", "one_shot", "snip", "set", "rigl", "dsr"),
}


def has_dense_gradient(method):
    return FORMS.get(method, (method,))[0] in GRADIENTS["dense"]


@every_method
def test_pruned_weights_get_the_gradient_that_the_scheme_says(keras, method):
    model = make(keras, method, **options_of(method))
    fit(model, 5)
    dpf_tf.freeze_masks(model)
    x, y = regression()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
    kernels = [k for layer in pruned_layers(model) for k in layer.kernels.values()]
    found = tape.gradient(loss, kernels)
    masks = dpf_tf.get_masks(model).values()
    for gradient, mask in zip(found, masks, strict=True):
        gradient = gradient.numpy()
        assert gradient[mask].any()
        assert gradient[~mask].any() == has_dense_gradient(method)


# Of weights that are pruned at an update, and of those that come back.
CLEARED = {
    "weights": ("gmp", "one_shot", "snip", "set", "rigl", "dsr", "sparse_momentum"),
    "pruned_weights": ("sfp",),  # Not of those that come back.
    "momenta": ("gmp", "one_shot", "snip", "set", "rigl", "dsr"),
}


@pytest.mark.parametrize("method", [*DEFINITIONS, *FORMS, "sfp"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop"])
def test_values_and_momenta_of_changed_weights_are_kept_or_cleared(
    keras, method, optimizer
):
    model = make(keras, method, **options_of(method))
    options = {} if optimizer == "Adam" else {"momentum": 0.9}
    model.compile(getattr(keras.optimizers, optimizer)(0.02, **options), "mse")
    seen = []

    def snapshot():
        momenta = getattr(model.optimizer, "momentums", None)
        if momenta is None:
            momenta = getattr(model.optimizer, "_momentums", None)
        kernels = values(model.trainable_variables)[::2]
        masks = list(dpf_tf.get_masks(model).values())
        scales = values(getattr(model.optimizer, "_velocities", []))
        return masks, kernels, values(momenta)[::2] if momenta else None, scales

    class Before(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.before = snapshot()

    class After(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append((before.before, snapshot()))

    before = Before()
    x, y = regression()
    pruning = dpf_tf.PruningCallback(settle=0, data=batch_for_gradients)
    model.fit(x, y, BATCH, epochs=6, verbose=0, callbacks=[before, pruning, After()])
    changes = 0
    for (old, w0, b0, v0), (new, w1, b1, v1) in seen:
        if v0:  # Second moments stay.
            assert_bits_equal(v1, v0)
        for i in range(len(old)):
            changed = old[i] != new[i]
            if not changed.any():
                continue
            changes += 1
            stays = old[i] & new[i]
            zero = ~stays & (method in CLEARED["weights"])
            zero |= ~new[i] & (method in CLEARED["pruned_weights"])
            np.testing.assert_array_equal(w1[i], np.where(zero, 0, w0[i]))
            if b0 is None:  # Before the first step.
                continue
            np.testing.assert_array_equal(b1[i][stays], b0[i][stays])
            cleared = method in CLEARED["momenta"]
            assert not (b1[i][changed].any() if cleared else (b1[i] != b0[i]).any())
    assert changes


@every_method
def test_pruned_weights_stay_exactly_zero_where_the_gradient_is_masked(keras, method):
    if has_dense_gradient(method):
        pytest.skip("pruned weights move by definition")
    model = make(keras, method, **options_of(method))

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            masks = dpf_tf.get_masks(self.model).values()
            kernels = values(self.model.trainable_variables)[::2]
            for kernel, mask in zip(kernels, masks, strict=True):
                assert not kernel[~mask].any()

    fit(model, 6, Watch())


def test_gmp_begins_with_the_mask_of_tfmot(keras):
    if keras.__name__ == "keras":
        pytest.skip("TFMOT prunes tf_keras models alone")
    result = run_python(TFMOT_FIRST_MASK)
    assert result["equal"] and result["pruned"] > 0


TFMOT_FIRST_MASK = """
import json, os
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, tf_keras
import tensorflow_model_optimization as tfmot
import dpf_tf
tf_keras.utils.set_random_seed(3)
layer = lambda: tf_keras.layers.Dense(37)
models = [tf_keras.Sequential([tf_keras.Input((53,)), layer(), layer()]) for _ in "12"]
models[1].set_weights(models[0].get_weights())
theirs = tfmot.sparsity.keras.prune_low_magnitude(
    models[0], tfmot.sparsity.keras.PolynomialDecay(0.0, 0.9, 0, 100, frequency=10)
)
schedule = dpf_tf.PolynomialDecay(final_sparsity=0.9, end_step=100, frequency=10)
ours = dpf_tf.prune(models[1], schedule, "gmp", allocation="uniform", layers=".")
ours.compile("sgd", "mse")
updater = dpf_tf.MaskUpdater(ours)
step = 50
updater.update(step)
theirs.compile("sgd", "mse")
for wrapper in theirs.layers:
    wrapper.pruning_step.assign(step)
    wrapper.pruning_obj.conditional_mask_update()
masks = [w.pruning_vars[0][1].numpy().astype(bool) for w in theirs.layers]
mine = list(dpf_tf.get_masks(ours).values())
print(json.dumps({
    "equal": all(np.array_equal(a, b) for a, b in zip(masks, mine, strict=True)),
    "pruned": int(sum((~m).sum() for m in mine)),
}))
"""
