"""Training equals DPF written down twice more: in NumPy, and without any wrapper."""

import numpy as np
import pytest
import tensorflow as tf

import dpf_tf
from tests.helpers import assert_bits_equal, pruned_layers, state_variables, values
from tests.test_methods import bound

FREQUENCY, RAMP_END = 16, 150


def ramp(step, final, end=RAMP_END):
    """s(t) = s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3 with s_i = 0 and t0 = 0."""
    return final + (0.0 - final) * (1 - min(step, end) / end) ** 3


def schedule(final, end=RAMP_END):
    return dpf_tf.PolynomialDecay(
        final_sparsity=final, end_step=end, frequency=FREQUENCY
    )


def global_masks(kernels, sparsity):
    """Keeps exactly n - round(s n) weights of all kernels; ties by index.

    Also returns how far apart, in relative terms, the magnitudes on both sides of the
    threshold are: closer than rounding, and no two programs need agree.
    """
    flat = np.concatenate([np.abs(kernel).ravel() for kernel in kernels])
    pruned = round(sparsity * flat.size)
    # The last key counts most: magnitude downwards, then the earlier index.
    order = np.lexsort((np.arange(flat.size), -flat))
    kept, dropped = np.split(order, [flat.size - pruned])
    gap = (flat[kept[-1]] - flat[dropped[0]]) / flat[kept[-1]] if pruned else 1.0
    mask = np.ones(flat.size, bool)
    mask[dropped] = False
    ends = np.cumsum([kernel.size for kernel in kernels])[:-1]
    parts = np.split(mask, ends)
    masks = [part.reshape(k.shape) for part, k in zip(parts, kernels, strict=True)]
    assert all(part.any() for part in masks)  # A kernel may not lose all its weights.
    return masks, gap


class NumpyDPF:
    """DPF for dense layers with ReLU between them and the mean squared error."""

    def __init__(self, parameters, final, rate, momentum, nesterov, l2):
        # Kernel, bias, kernel, bias, ...: the order of a model's trainable variables.
        self.parameters = [p.astype("float64") for p in parameters]
        self.buffers = [np.zeros_like(p) for p in self.parameters]
        self.final, self.rate, self.l2 = final, rate, l2
        self.momentum, self.nesterov = momentum, nesterov
        self.masks, self.gaps, self.steps = [], [], 0

    def step(self, x, y):
        if self.steps % FREQUENCY == 0:
            sparsity = ramp(self.steps, self.final)
            self.masks, gap = global_masks(self.parameters[::2], sparsity)
            self.gaps.append(gap)
        self.steps += 1
        for i, gradient in enumerate(self.gradients(x, y)):
            old = self.momentum * self.buffers[i]
            self.buffers[i] = old - self.rate * gradient
            self.parameters[i] += (
                self.momentum * self.buffers[i] - self.rate * gradient
                if self.nesterov
                else self.buffers[i]
            )

    def gradients(self, x, y):
        """The loss's at the pruned weights, the L2 penalty's at the dense ones."""
        kernels, biases = self.parameters[::2], self.parameters[1::2]
        pruned = [np.where(m, w, 0) for m, w in zip(self.masks, kernels, strict=True)]
        inputs, sums = [x], []
        for kernel, bias in zip(pruned, biases, strict=True):
            sums.append(inputs[-1] @ kernel + bias)
            inputs.append(np.maximum(sums[-1], 0))
        upstream = 2 * (sums[-1] - y) / y.size
        found = []
        for i in reversed(range(len(kernels))):
            penalty = 2 * self.l2 * kernels[i]
            gradient = bound(inputs[i].T @ upstream, self.masks[i])
            found = [gradient + penalty, upstream.sum(0), *found]
            if i:
                upstream = (upstream @ pruned[i].T) * (sums[i - 1] > 0)
        return found


def regression(seed=3, examples=160):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, 12)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(12, 6))) + rng.normal(size=(examples, 6)) / 10
    return x, y.astype("float32")


def batches(x, y, batch, epochs):
    """Returns the batches of `fit` without shuffling."""
    starts = [*range(0, len(x), batch)] * epochs
    return [(x[i : i + batch], y[i : i + batch]) for i in starts]


def dense_net(keras, widths, final, l2):
    layers = [keras.Input((12,))]
    for i, width in enumerate(widths):
        layers += [keras.layers.ReLU()] if i else []
        regularizer = keras.regularizers.L2(l2)
        layers.append(keras.layers.Dense(width, kernel_regularizer=regularizer))
    # The layer of the outputs too: by default it would stay dense.
    return dpf_tf.prune_low_magnitude_dpf(
        keras.Sequential(layers), schedule(final), layers="kernel"
    )


def train_by_fit(keras, model, x, y, batch, epochs):
    """Trains with `fit`; returns the masks that each step was made with."""
    seen = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(list(dpf_tf.get_masks(self.model).values()))

    model.fit(
        x, y, batch, epochs=epochs, verbose=0, shuffle=False,
        callbacks=[dpf_tf.PruningCallback(settle=0), Record()],
    )  # fmt: skip
    return seen


def train_by_hand(keras, model, x, y, batch, epochs):
    """Trains in a loop with `MaskUpdater`; returns the masks of each step."""
    seen, updater = [], dpf_tf.MaskUpdater(model)

    @tf.function(jit_compile=model.jit_compile)
    def train(x, y):
        with tf.GradientTape() as tape:
            loss = tf.add_n([model.loss(y, model(x, training=True)), *model.losses])
        gradients = tape.gradient(loss, model.trainable_variables)
        pairs = zip(gradients, model.trainable_variables, strict=True)
        model.optimizer.apply_gradients(pairs)

    for step, (inputs, targets) in enumerate(batches(x, y, batch, epochs)):
        updater.update(step)
        seen.append(list(dpf_tf.get_masks(model).values()))
        train(tf.constant(inputs), tf.constant(targets))
    return seen


LINEAR, RELU = [6], [24, 6]


@pytest.mark.parametrize(
    ("widths", "nesterov", "loop"),
    [
        pytest.param(LINEAR, False, train_by_fit, id="linear-momentum-fit"),
        pytest.param(LINEAR, True, train_by_hand, id="linear-nesterov-hand"),
        pytest.param(RELU, False, train_by_hand, id="relu-momentum-hand"),
        pytest.param(RELU, True, train_by_fit, id="relu-nesterov-fit"),
    ],
)
def test_training_equals_dpf_in_numpy(keras, widths, nesterov, loop):
    batch, epochs, final, l2 = 16, 20, 0.8, 2e-3
    model = dense_net(keras, widths, final, l2)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=nesterov)
    model.compile(optimizer, keras.losses.MeanSquaredError(), jit_compile=False)
    x, y = regression()
    oracle = NumpyDPF(values(model.trainable_variables), final, 0.05, 0.9, nesterov, l2)
    seen = loop(keras, model, x, y, batch, epochs)
    assert len(seen) == 200
    for masks, part in zip(seen, batches(x, y, batch, epochs), strict=True):
        oracle.step(*(array.astype("float64") for array in part))
        assert_bits_equal(masks, oracle.masks)
    # What the comparison of masks rests on: no magnitudes tie at a threshold.
    assert min(oracle.gaps) > 1e-5
    for mine, expected in (
        (model.trainable_variables, oracle.parameters),
        # Of pruned weights too: momentum is not masked.
        (model.optimizer.momentums, oracle.buffers),
    ):
        for left, right in zip(values(mine), expected, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


# Without a wrapper: the optimizer holds the dense kernels, the variables of the model
# are the pruned ones.

RATE, DECAY = 0.05, 1e-3


def conv_layers(keras, l2):
    def options(name):
        regularizer = keras.regularizers.L2(l2) if l2 else None
        return {"use_bias": False, "kernel_regularizer": regularizer, "name": name}

    return [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(8, 3, **options("conv1")),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
        keras.layers.Conv2D(12, 3, **options("conv2")),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(16, **options("hidden")),
        keras.layers.Dense(4, name="logits"),
    ]


PRUNED = ("conv1", "conv2", "hidden")


def images(seed=5, examples=64):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, 8, 8, 3)).astype("float32")
    return x, rng.integers(0, 4, examples).astype("int32")


def classifier(keras, model, jit):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True)
    model.compile(optimizer, loss, jit_compile=jit)
    return model


def copy_variable(keras, variable):
    is_keras3 = hasattr(keras, "Variable")
    return (keras.Variable if is_keras3 else tf.Variable)(variable.numpy())


def train_without_wrapper(keras, model, final, x, y, batch, epochs):
    """DPF on a plain model; returns what is trained, and the masks of each step."""
    optimizer, loss_of = model.optimizer, model.loss
    kernels = [model.get_layer(name).kernel for name in PRUNED]
    dense = [copy_variable(keras, kernel) for kernel in kernels]
    held = {id(k): d for k, d in zip(kernels, dense, strict=True)}
    stepped = [held.get(id(v), v) for v in model.trainable_variables]

    @tf.function(jit_compile=model.jit_compile)
    def train(x, y):
        with tf.GradientTape() as tape:
            # At the dense kernels, though the model computes with the pruned ones.
            penalty = [DECAY * tf.reduce_sum(tf.square(d)) for d in dense]
            loss = tf.add_n([loss_of(y, model(x, training=True)), *penalty])
        at = model.trainable_variables
        gradients = tape.gradient(loss, [*at, *dense])
        own, decay = gradients[: len(at)], gradients[len(at) :]
        decay = {id(k): g for k, g in zip(kernels, decay, strict=True)}
        total = [
            gradient + decay[id(v)] if id(v) in decay else gradient
            for v, gradient in zip(at, own, strict=True)
        ]
        optimizer.apply_gradients(zip(total, stepped, strict=True))

    seen = []
    for step, (inputs, labels) in enumerate(batches(x, y, batch, epochs)):
        if step % FREQUENCY == 0:
            masks, _ = global_masks(values(dense), ramp(step, final, end=48))
        seen.append(masks)
        for kernel, mask, d in zip(kernels, masks, dense, strict=True):
            kernel.assign(np.where(mask, d.numpy(), np.float32(0)))
        train(tf.constant(inputs), tf.constant(labels))
    return stepped, seen


def statistics(model):
    norms = [x for x in model.layers if hasattr(x, "moving_mean")]
    return [v for norm in norms for v in (norm.moving_mean, norm.moving_variance)]


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "jit"])
def test_training_equals_dpf_without_a_wrapper(keras, jit):
    (x, y), batch, epochs, final = images(), 8, 10, 0.8
    plain = classifier(keras, keras.Sequential(conv_layers(keras, 0)), jit)
    wrapped = keras.Sequential(conv_layers(keras, DECAY))
    wrapped.set_weights(plain.get_weights())
    wrapped = dpf_tf.prune_low_magnitude_dpf(wrapped, schedule(final, end=48))
    classifier(keras, wrapped, jit)
    assert len(wrapped.losses) == 3

    masks = train_by_hand(keras, wrapped, x, y, batch, epochs)
    trained, expected = train_without_wrapper(keras, plain, final, x, y, batch, epochs)

    assert len(masks) == len(expected) == 80
    for mine, theirs in zip(masks, expected, strict=True):
        assert_bits_equal(mine, theirs)
    tolerance = 2e-6 if jit else 0
    for mine, theirs in (
        (wrapped.trainable_variables, trained),
        (wrapped.optimizer.momentums, plain.optimizer.momentums),
        (statistics(wrapped), statistics(plain)),
    ):
        for left, right in zip(values(mine), values(theirs), strict=True):
            np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)


def pruned_net(keras, final=0.75, **options):
    """A pruned net for `images`, all of its kernels pruned to `final` at step 0."""
    layers = conv_layers(keras, options.pop("l2", 0))
    layers.insert(-1, keras.layers.Dropout(0.25))
    model = dpf_tf.prune_low_magnitude_dpf(
        keras.Sequential(layers), dpf_tf.ConstantSparsity(final, **options)
    )
    return classifier(keras, model, False)


def kernels_and_masks(model):
    kernels = [k for x in pruned_layers(model) for k in x.kernels.values()]
    return values(kernels), list(dpf_tf.get_masks(model).values())


DECAYS = {
    "L2": lambda keras: ({"l2": 0.125}, keras.optimizers.SGD(0.25)),
    "decoupled in SGD": lambda keras: (
        {},
        keras.optimizers.SGD(0.25, weight_decay=0.25),
    ),
    "decoupled in AdamW": lambda keras: (
        {},
        keras.optimizers.AdamW(0.25, weight_decay=0.25),
    ),
}


@pytest.mark.parametrize("decay", DECAYS)
def test_decay_shrinks_pruned_weights_by_exactly_its_factor(keras, decay):
    options, optimizer = DECAYS[decay](keras)
    model = pruned_net(keras, **options)
    model.compile(optimizer, model.loss)
    before, _ = kernels_and_masks(model)
    # Black images without biases: no kernel gets a gradient from the data.
    x, y = images(examples=24)
    with_masks = dpf_tf.PruningCallback(settle=0)
    model.fit(0 * x, y, 8, verbose=0, callbacks=[with_masks])
    for kernel, mask, expected in zip(*kernels_and_masks(model), before, strict=True):
        assert not mask.all()
        for _ in range(3):  # Factors are powers of two: only this is rounded.
            expected = expected - np.float32(1 / 16) * expected
        assert_bits_equal([kernel], [expected])


def test_inference_leaves_every_variable_bit_identical(keras):
    model = pruned_net(keras)
    x, y = images()
    model.fit(x, y, 8, verbose=0, callbacks=[dpf_tf.PruningCallback()])
    variables = state_variables(model)
    before = values(variables)
    assert any(mask.mean() < 0.5 for mask in dpf_tf.get_masks(model).values())
    for inference in (
        lambda: model.evaluate(x, y, verbose=0),
        lambda: model.predict(x, verbose=0),
        lambda: model(x, training=False),
    ):
        inference()
        assert_bits_equal(values(variables), before)


def test_pruned_weights_go_on_learning_and_come_back(keras):
    model, (x, y) = pruned_net(keras, frequency=4), images()
    updates = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) % 4 == 0:
                both = kernels_and_masks(self.model)
                updates.append([np.concatenate([*map(np.ravel, a)]) for a in both])

    model.fit(
        x, y, 8, epochs=6, verbose=0,
        callbacks=[dpf_tf.PruningCallback(settle=0), Record()],
    )  # fmt: skip
    kernels, masks = map(np.stack, zip(*updates, strict=True))
    assert len(masks) == 12
    pruned = ~masks[:-1]
    assert (kernels[1:] != kernels[:-1])[pruned].mean() > 0.95  # ReLUs may be dead.
    regrown = pruned & masks[1:]
    assert regrown.sum() >= 10
    assert (regrown.any(axis=0) & masks[-1]).any()  # Some are there to stay.


def test_each_schedule_acts_at_its_own_steps_only(keras):
    own = {
        "conv1": dpf_tf.ConstantSparsity(0.5, end_step=8, frequency=4),
        "conv2": dpf_tf.ConstantSparsity(0.5, begin_step=3, frequency=5),
    }
    layers = [
        dpf_tf.prune_low_magnitude_dpf(layer, own[layer.name])
        if getattr(layer, "name", None) in own
        else layer
        for layer in conv_layers(keras, 0)
    ]
    model = classifier(keras, keras.Sequential(layers), False)
    seen = train_by_fit(keras, model, *images(), 8, epochs=3)
    for i, schedule in enumerate(own.values()):
        masks = [np.ones_like(seen[0][i]), *(step[i] for step in seen)]
        changed = {t for t in range(24) if (masks[t] != masks[t + 1]).any()}
        due = {t for t in range(24) if schedule(t)[0]}
        assert changed <= due
        assert len(changed) > 1
