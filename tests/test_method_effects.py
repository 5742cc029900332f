"""What schemes do to the training around them: losses, metrics, late layers, files."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import dpf_tf
from dpf_tf import keras_api, methods, prunable
from dpf_tf.methods.drop_and_grow import apportion
from tests.helpers import pruned_layers, values

CONSTANT = {"final_sparsity": 0.5, "initial_sparsity": 0.5, "end_step": 100}
X = np.random.default_rng(5).normal(size=(32, 6)).astype("float32")
Y = np.tanh(X[:, :2] + X[:, 2:4])


def net(keras, *, dtype="float32", regularizer=None):
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(
                8, name="a", dtype=dtype, kernel_regularizer=regularizer
            ),
            keras.layers.ReLU(dtype=dtype),
            keras.layers.Dense(2, name="b", dtype="float32"),
        ]
    )


def compiled(keras, model, rate=0.01):
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse", jit_compile=False)
    return model


def fit(model, x=X, y=Y, batch_size=8, epochs=2, data=None):
    """Trains, with the whole data as the batch for gradients."""
    data = (lambda step: (x, y)) if data is None else data
    callback = dpf_tf.PruningCallback(settle=0, data=data)
    return model.fit(
        x, y, batch_size, epochs=epochs, verbose=0, shuffle=False, callbacks=[callback]
    )


def snip_mask(model):
    """The mask that SNIP makes of the model's first weights, and these."""
    first = [layer.kernels["kernel"].numpy() for layer in pruned_layers(model)]
    fit(model, epochs=1)
    return list(dpf_tf.get_masks(model).values()), first


# --- Decay of pruned weights ---


def decay_of_one_step(keras, call, dtype="float32"):
    """What one step of plain SGD takes off the pruned weights, relative to them."""
    layer = keras.layers.Dense(6, use_bias=False, dtype=dtype)
    schedule = dpf_tf.ConstantSparsity(0.5)
    wrapped = dpf_tf.prune(layer, schedule, pruned_gradient=0, pruned_decay=1.0)
    inputs = keras.Input((6,))
    model = keras.Model(
        inputs, keras.layers.Flatten(dtype="float32")(call(wrapped, inputs))
    )
    optimizer = keras.optimizers.SGD(0.01)
    if dtype == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse", jit_compile=False)
    before = wrapped.kernels["kernel"].numpy()
    fit(model, y=Y @ np.ones((2, 6), np.float32), batch_size=32, epochs=1)
    after, mask = wrapped.kernels["kernel"].numpy(), wrapped.masks["kernel"].numpy()
    assert (~mask).sum() == 18
    return 1 - (after / before)[~mask]


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
@pytest.mark.parametrize("calls", [1, 3])
def test_decay_of_pruned_weights_is_the_same_in_float16_and_for_a_shared_layer(
    keras, dtype, calls
):
    def call(layer, x):
        for _ in range(calls):
            x = layer(x)
        return x

    found = decay_of_one_step(keras, call, dtype)
    np.testing.assert_allclose(found, 0.01, rtol=1e-3)


# --- The pass that finds gradients ---


def test_regularizers_have_no_part_in_the_gradients_that_are_ranked(keras):
    masks = []
    for regularizer in (None, keras.regularizers.L2(10.0)):
        keras.utils.set_random_seed(2)
        model = dpf_tf.prune(net(keras, regularizer=regularizer), 0.5, "snip")
        masks.append(snip_mask(compiled(keras, model))[0])
    for left, right in zip(*masks, strict=True):
        np.testing.assert_array_equal(left, right)


def test_losses_that_a_layer_adds_have_their_part(keras):
    @keras.saving.register_keras_serializable("test_method_effects")
    class Square(keras.layers.Layer):
        """Adds the squares of its inputs to the loss, the only one that counts."""

        def call(self, x):
            self.add_loss(tf.reduce_mean(tf.square(x)))
            return x

    inputs = keras.Input((6,))
    hidden = Square()(keras.layers.Dense(8, name="a", use_bias=False)(inputs))
    outputs = keras.layers.Dense(2, kernel_initializer="zeros", name="b")(hidden)
    model = compiled(
        keras, dpf_tf.prune(keras.Model(inputs, outputs), 0.5, "snip", layers="a")
    )
    (mask,), (kernel,) = snip_mask(model)
    scores = np.abs(2 * X.T @ (X @ kernel) * kernel)
    expected = scores >= np.sort(scores.ravel())[-24]
    np.testing.assert_array_equal(mask, expected)


def test_masks_by_gradients_in_float16_are_nearly_those_in_float32(keras):
    """At the loss scale that training begins with the gradients overflow here."""
    found = []
    for dtype in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(2)
        model = dpf_tf.prune(net(keras, dtype=dtype), 0.5, "snip", layers="a")
        optimizer = keras.optimizers.SGD(1e-6)
        if dtype != "float32":
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
        model.compile(optimizer, "mse", jit_compile=False)
        callback = dpf_tf.PruningCallback(data=lambda step: (X, 300 * Y))
        model.fit(X, 300 * Y, verbose=0, callbacks=[callback])
        found.append(dpf_tf.get_masks(model)["a/kernel"])
    assert (found[0] == found[1]).mean() > 0.95


def test_gradients_that_are_not_finite_are_refused_with_the_step(keras):
    model = compiled(keras, dpf_tf.prune(net(keras), 0.5, "snip", layers="a"))
    wrong = np.where(np.arange(6) == 2, np.nan, X)
    with pytest.raises(ValueError, match="step 0 are not finite"):
        fit(model, data=[(wrong, Y)])


def test_a_pass_leaves_no_trace_in_the_logs(keras):
    """Before the first step tf_keras has not made its metrics."""
    losses = []
    for method in ("snip", "one_shot"):
        keras.utils.set_random_seed(2)
        schedule = dpf_tf.OneShot(final_sparsity=0.0, step=0)
        model = compiled(keras, dpf_tf.prune(net(keras), schedule, method))
        history = fit(model, data=[(100 * X, 100 * Y)])
        losses.append(history.history["loss"])
    assert losses[0] == losses[1]


def test_data_that_can_be_gone_through_once_are_refused_and_empty_ones_too(keras):
    with pytest.raises(TypeError, match="begun anew"):
        dpf_tf.PruningCallback(data=iter([(X, Y)]))
    with pytest.raises(TypeError, match="`data`"):
        dpf_tf.PruningCallback(data=3)
    model = compiled(keras, dpf_tf.prune(net(keras), 0.5, "snip", layers="a"))
    with pytest.raises(ValueError, match="no batches"):
        fit(model, data=[])


def test_batches_begin_anew_when_they_end(keras):
    schedule = dpf_tf.PolynomialDecay(**CONSTANT, frequency=1)
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, "rigl", layers="a"))
    fit(model, data=[(X, Y)], epochs=5)
    assert dpf_tf.sparsity_report(model)["pruned"]["sparsity"] == 0.5


def test_a_method_that_does_not_say_what_it_needs_is_told_to(keras):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Silent(methods.Method):
        def masks(self, round):
            return round.largest(round.gradients)

    model = compiled(keras, dpf_tf.prune(net(keras), 0.5, Silent(), layers="a"))
    x, y = X, Y
    with pytest.raises(ValueError, match="needs = frozenset"):
        model.fit(x, y, verbose=0, callbacks=[dpf_tf.PruningCallback()])


# --- Masks, values and momenta ---


def test_momenta_are_cleared_of_weights_that_come_back_though_their_values_stay(keras):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Turns(methods.Method):
        """Keeps one half of the weights, then the other."""

        restarts = frozenset({"pruned_weights", "momenta"})

        def masks(self, round):
            even = [np.indices(m.shape).sum(0) % 2 == 0 for m in round.masks]
            return even if not round.step else [~mask for mask in even]

    schedule = dpf_tf.ConstantSparsity(0.5, frequency=4)
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, Turns(), layers="a"))
    updater = dpf_tf.MaskUpdater(model)
    for step in range(4):
        updater.update(step)
        model.train_on_batch(X, Y)
    [layer] = pruned_layers(model)
    kernel = layer.kernels["kernel"]
    momentum = model.optimizer.momentums[0]
    assert values([momentum])[0].all()
    [before] = values([kernel])
    updater.update(4)
    back = np.indices((6, 8)).sum(0) % 2 == 1
    [after], [moved] = values([kernel]), values([momentum])
    np.testing.assert_array_equal(after, np.where(back, before, 0))
    assert not moved.any()


def test_what_is_no_momentum_though_it_is_called_so_is_refused(keras):
    if not hasattr(keras.optimizers, "ScheduleFreeAdamW"):
        pytest.skip("this Keras has no ScheduleFreeAdamW")
    schedule = dpf_tf.PolynomialDecay(**CONSTANT, frequency=5)
    for method in ("sparse_momentum", "set"):
        model = dpf_tf.prune(net(keras), schedule, method)
        model.compile(keras.optimizers.ScheduleFreeAdamW(), "mse")
        if method == "set":  # What is cleared is the same.
            fit(model)
            continue
        with pytest.raises(ValueError, match="momentum, and ScheduleFreeAdamW keeps"):
            fit(model)


@pytest.mark.parametrize(
    "restarts", [(), ("weights",), ("momenta",), ("weights", "momenta")]
)
def test_a_scheme_clears_what_it_says(keras, restarts):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Clearing(methods.Method):
        def masks(self, round):
            half = [np.arange(m.size).reshape(m.shape) % 2 == 0 for m in round.masks]
            return half if round.step else round.masks

    Clearing.restarts = frozenset(restarts)
    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.5, end_step=4, frequency=4)
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, Clearing(), layers="a"))
    updater = dpf_tf.MaskUpdater(model)
    (layer,) = pruned_layers(model)
    kernel = layer.kernels["kernel"]
    for step in range(4):
        updater.update(step)
        model.train_on_batch(X, Y)
    momentum = getattr(model.optimizer, "momentums", None)[0]
    before = values([kernel, momentum])
    updater.update(4)
    odd = np.arange(48).reshape(6, 8) % 2 == 1
    for name, old, new in zip(
        ("weights", "momenta"), before, values([kernel, momentum]), strict=True
    ):
        assert old.all()
        np.testing.assert_array_equal(new[~odd], old[~odd])
        assert new[odd].any() == (name not in restarts)


def test_words_of_a_scheme_that_nothing_understands_are_refused(keras):
    class Misspelt(methods.GMP):
        restarts = frozenset({"weight", "momenta"})

    with pytest.raises(ValueError, match="may hold momenta, pruned_.*Received: weight"):
        dpf_tf.prune(net(keras), 0.5, Misspelt())


def test_an_optimizer_without_a_momentum_that_is_known_is_named_once(keras):
    def trained(optimizer):
        schedule = dpf_tf.ConstantSparsity(0.5, frequency=1)
        model = dpf_tf.prune(net(keras), schedule, "gmp")
        model.compile(optimizer, "mse")
        updater = dpf_tf.MaskUpdater(model)
        for step in range(3):
            updater.update(step)
            model.train_on_batch(X, Y)

    with pytest.warns(UserWarning, match="GMP clears .* finds none in Adagrad") as told:
        trained(keras.optimizers.Adagrad())
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for optimizer in (keras.optimizers.SGD(), keras.optimizers.Adam()):
            trained(optimizer)


@pytest.mark.parametrize("method", ["sparse_momentum", "set", "gmp"])
@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {"momentum": 0.9}), ("SGD", {}), ("Adam", {})]
)
def test_a_legacy_optimizer_of_tf_keras_trains_as_its_successor(method, name, options):
    def trained(optimizers):
        tf_keras.utils.set_random_seed(0)
        schedule = dpf_tf.PolynomialDecay(**CONSTANT, frequency=2)
        model = dpf_tf.prune(net(tf_keras), schedule, method, layers=".")
        optimizer = getattr(optimizers, name)(0.01, **options)
        model.compile(optimizer, "mse", jit_compile=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(model)
        return dpf_tf.get_masks(model), model.get_weights()

    if method == "sparse_momentum" and options == {} and name == "SGD":
        with pytest.raises(ValueError, match="SGD keeps none"):
            trained(tf_keras.optimizers.legacy)
        return
    masks, weights = trained(tf_keras.optimizers.legacy)
    expected_masks, expected = trained(tf_keras.optimizers)
    for path, mask in expected_masks.items():
        np.testing.assert_array_equal(masks[path], mask)
    for found, want in zip(weights, expected, strict=True):
        np.testing.assert_allclose(found, want, atol=1e-6)


def test_a_kernel_that_a_legacy_optimizer_does_not_train_has_no_momentum_to_clear():
    model = compiled(tf_keras, dpf_tf.prune(net(tf_keras), 0.5, "gmp", layers="."))
    optimizer = tf_keras.optimizers.legacy.SGD(0.01, momentum=0.9)
    updater = dpf_tf.MaskUpdater(model, total_steps=20, optimizer=optimizer)
    weights = model.trainable_variables[:2]
    optimizer.apply_gradients((tf.ones_like(weight), weight) for weight in weights)
    assert updater.update(16).sparsity == pytest.approx(0.5)
    kernel = pruned_layers(model)[0].kernels["kernel"]
    momentum = optimizer.get_slot(kernel, "momentum").numpy()
    np.testing.assert_array_equal(momentum != 0, dpf_tf.get_masks(model)["a/kernel"])


def test_a_legacy_optimizer_that_is_given_before_its_first_step_is_built():
    model = dpf_tf.prune(net(tf_keras), 0.5, "gmp")
    optimizer = tf_keras.optimizers.legacy.Adam()
    updater = dpf_tf.MaskUpdater(model, total_steps=20, optimizer=optimizer)
    assert updater.update(16).sparsity == 0.5


def test_a_scheme_may_return_masks_of_the_round_beside_new_ones(keras):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class First(methods.Method):
        def masks(self, round):
            return [round.kernels[0] > 0, *round.masks[1:]]

    schedule = dpf_tf.ConstantSparsity(0.5, frequency=2)
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, First(), layers="."))
    fit(model)
    masks = dpf_tf.get_masks(model)
    assert not masks["a/kernel"].all() and masks["b/kernel"].all()


@pytest.mark.parametrize("method", ["set", "snip", "one_shot", "dpf"])
def test_layers_that_are_made_late_are_pruned_as_well(keras, method):
    class Model(keras.Model):
        def __init__(self, schedule, method):
            super().__init__()
            self.first = dpf_tf.prune(
                keras.layers.Dense(8, name="first"), schedule, method
            )
            self.first.build((None, 6))
            self.second = dpf_tf.prune(
                keras.layers.Dense(8, name="second"), schedule, method
            )
            self.outputs_ = keras.layers.Dense(2)

        def call(self, x, training=None):
            return self.outputs_(
                self.second(self.first(x, training=training), training=training)
            )

    schedule = {
        "set": dpf_tf.PolynomialDecay(**CONSTANT, frequency=5),
        "snip": dpf_tf.OneShot(final_sparsity=0.5, step=0),
        "one_shot": dpf_tf.OneShot(final_sparsity=0.5, step=0),
        "dpf": dpf_tf.ConstantSparsity(0.5, frequency=1000),
    }[method]
    made = methods.get(method)
    model = Model(schedule, made)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)

    def loss(model, batch):
        x, y = batch
        return tf.reduce_mean(tf.square(model(x, training=True) - y))

    updater = dpf_tf.MaskUpdater(
        model, optimizer=optimizer, data=lambda step: (X, Y), loss=loss
    )
    for step in range(3):
        updater.update(step)
        with tf.GradientTape() as tape:
            value = loss(model, (X, Y))
        variables = model.trainable_variables
        gradients = tape.gradient(value, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    found = {path: 1 - mask.mean() for path, mask in dpf_tf.get_masks(model).items()}
    assert len(found) == 2
    assert all(0.2 < sparsity < 0.8 for sparsity in found.values()), found
    assert updater.sparsity == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("method", ["sparse_momentum", "gmp"])
def test_an_optimizer_that_trains_unknown_to_the_updater_is_noticed(keras, method):
    schedule = dpf_tf.PolynomialDecay(**CONSTANT, frequency=5)
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, method))
    updater = dpf_tf.MaskUpdater(model)
    updater.update(0)
    problem = "has made no step from step 0 to step 5.*optimizer=optimizer"
    if method == "gmp":
        with pytest.warns(UserWarning, match=problem):
            updater.update(5)
    else:
        with pytest.raises(ValueError, match=problem):
            updater.update(5)


def test_a_schedule_that_wants_nothing_between_its_masks_is_made_up_for(keras):
    model = dpf_tf.prune(net(keras), lambda t: (t % 10 == 0, 0.5 * (t % 10 == 0)))
    updater = dpf_tf.MaskUpdater(model)
    assert [updater.update(step).sparsity for step in range(0, 40, 7)] == [0.5] * 6


@pytest.mark.parametrize("method", ["set", "rigl", "dsr", "sparse_momentum"])
def test_a_step_that_comes_again_has_had_its_masks(keras, method):
    def trained(times):
        keras.utils.set_random_seed(3)
        schedule = dpf_tf.PolynomialDecay(**CONSTANT, frequency=2)
        model = compiled(keras, dpf_tf.prune(net(keras), schedule, method))
        asked = []
        updater = dpf_tf.MaskUpdater(model, data=lambda t: asked.append(t) or (X, Y))
        for step in range(7):
            for _ in range(times):
                update = updater.update(step)
            assert update.flips == 0 or times == 1
            model.train_on_batch(X, Y)
        return [asked, *values(model.variables)]

    once, often = trained(1), trained(3)
    assert once[0] == often[0] == ([2, 4, 6] if method == "rigl" else [])
    for left, right in zip(once[1:], often[1:], strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("method", ["set", "rigl", "dsr", "sparse_momentum"])
def test_masks_that_are_given_stay_at_step_0(keras, method):
    schedule = dpf_tf.PolynomialDecay(**CONSTANT, frequency=2)
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, method, layers="a"))
    given = np.arange(48).reshape(6, 8) % 2 == 0
    dpf_tf.set_masks(model, {"a/kernel": given})
    assert dpf_tf.MaskUpdater(model, data=[(X, Y)]).update(0).flips == 0
    np.testing.assert_array_equal(dpf_tf.get_masks(model)["a/kernel"], given)


def test_an_update_that_fails_is_made_up_for(keras):
    schedule = dpf_tf.PolynomialDecay(**CONSTANT, frequency=10)
    model = dpf_tf.prune(net(keras), schedule)
    [layer] = pruned_layers(model)
    kernel = layer.kernels["kernel"]
    weights = kernel.numpy()
    updater = dpf_tf.MaskUpdater(model)
    updater.update(0)
    kernel.assign(weights * np.nan)
    with pytest.raises(ValueError, match="NaN"):
        updater.update(15)
    kernel.assign(1 / weights)
    assert updater.update(15).flips == 48


def test_an_optimizer_that_has_not_trained_yet_is_no_idle_one(keras):
    schedule = dpf_tf.PolynomialDecay(**CONSTANT, frequency=5)
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, "sparse_momentum"))
    updater = dpf_tf.MaskUpdater(model)  # Of a training resumed from weights alone.
    for step in range(50, 61, 5):
        assert updater.update(step).sparsity == 0.5
        model.train_on_batch(X, Y)


@pytest.mark.parametrize("stride", [1, 7, 10])
@pytest.mark.parametrize("method", ["dpf", "one_shot"])
def test_an_update_makes_up_for_masks_that_were_due_since_the_last(
    keras, method, stride
):
    model = dpf_tf.prune(net(keras), 0.5, method)
    updater = dpf_tf.MaskUpdater(
        model, total_steps=100, optimizer=keras.optimizers.SGD()
    )
    found = {step: updater.update(step).sparsity for step in range(0, 100, stride)}
    schedule = pruned_layers(model)[0].settings.schedule
    for step in found:
        due = schedule.last_update(step)
        wanted = 0.0 if due is None else schedule(due)[1]
        assert found[step] == pytest.approx(round(wanted * 48) / 48)
    assert found[step] == 0.5


def test_momenta_of_a_checkpoint_that_would_come_too_late_are_told_of(keras):
    schedule = dpf_tf.PolynomialDecay(**CONSTANT, frequency=5)
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, "sparse_momentum"))
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    updater = dpf_tf.MaskUpdater(model, optimizer=optimizer)
    updater.update(0)
    with pytest.raises(ValueError, match="optimizer.build"):
        updater.update(5)
    optimizer.build(model.trainable_variables)
    assert updater.update(5).sparsity == pytest.approx(0.5)


def test_the_length_of_an_epoch_is_enough_where_the_training_s_is_not_asked(keras):
    schedule = dpf_tf.ConstantSparsity(0.5, frequency="epoch")
    model = dpf_tf.prune(net(keras), schedule)
    updater = dpf_tf.MaskUpdater(model, epoch_steps=5)
    assert [step for step in range(12) if updater.due(step)] == [0, 5, 10]
    updater = dpf_tf.MaskUpdater(model, epoch_steps=6)  # Nothing was trained before.
    assert [step for step in range(13) if updater.due(step)] == [0, 6, 12]


def test_the_end_of_a_ramp_is_kept_where_only_the_length_of_an_epoch_is_told(keras):
    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.5, frequency="epoch")
    model = dpf_tf.prune(net(keras), schedule)
    dpf_tf.MaskUpdater(model, total_steps=40, epoch_steps=5)
    [settings] = dpf_tf.MaskUpdater(model, epoch_steps=8).settings
    assert (settings.schedule.end_step, settings.schedule.frequency) == (30, 8)


# --- ST-3: filters, and kernels without a magnitude ---


def test_filters_are_those_of_the_layers_outputs(keras):
    layers = keras.layers
    cases = [
        (layers.Dense(5), (None, 3), {"kernel": (1,)}),
        (layers.Conv2D(8, 3), (None, 8, 8, 4), {"kernel": (3,)}),
        (layers.Conv2D(8, 3, groups=4), (None, 8, 8, 4), {"kernel": (3,)}),
        (layers.Conv2DTranspose(8, 3), (None, 8, 8, 4), {"kernel": (2,)}),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (None, 8, 8, 4), {"": (2, 3)}),
        (
            layers.SeparableConv2D(8, 3),
            (None, 8, 8, 4),
            {"depthwise_kernel": (2, 3), "pointwise_kernel": (3,)},
        ),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 7)), (None, 6, 4), {"": (1, 2)}),
        (layers.EinsumDense("abcd,cde->abe", (None, 7)), (None, 6, 2, 4), {"": (2,)}),
        (layers.EinsumDense("...x,xy->...y", 7), (None, 6, 4), {"": (1,)}),
    ]
    for layer, shape, expected in cases:
        layer.build(shape)
        found = {k.path: prunable.filter_axes(k) for k in prunable.kernels(layer)}
        if "" in expected:
            assert list(found.values()) == list(expected.values()), layer
        else:
            assert found == expected, layer


def test_st3_scales_nothing_where_there_is_no_magnitude(keras):
    layer = keras.layers.Dense(4, kernel_initializer="zeros", name="a")
    layer.build((None, 6))
    pruned = dpf_tf.prune(layer, dpf_tf.ConstantSparsity(0.5), "st3")
    dpf_tf.MaskUpdater(pruned).update(0)
    np.testing.assert_array_equal(pruned.states["kernel"]["scale"].numpy(), 1.0)


def test_st3_refuses_an_allocation_that_ranks_other_magnitudes(keras):
    layer = keras.layers.Dense(4)
    with pytest.raises(ValueError, match="global_normalized.*sigma=True"):
        dpf_tf.prune(layer, 0.5, "st3", allocation="global_normalized")


def test_st3_refuses_masks_that_are_not_its_own(keras):
    model = dpf_tf.prune(net(keras), 0.5, "st3")
    with pytest.raises(ValueError, match="ST3 makes more than masks.*method='dpf'"):
        dpf_tf.set_masks(model, dpf_tf.get_masks(model))


# --- Schedules and options ---


@pytest.mark.parametrize("method", ["set", "rigl", "straight_through"])
def test_one_mask_is_refused_by_schemes_that_make_many(keras, method):
    with pytest.raises(ValueError, match="Received: OneShot"):
        dpf_tf.prune(net(keras), dpf_tf.OneShot(final_sparsity=0.5), method)


def test_a_share_falls_to_nothing_at_the_end_of_the_schedule_or_stays():
    class Round:
        step = 10

    for schedule, expected in (
        (dpf_tf.PolynomialDecay(**CONSTANT), (1 + math.cos(math.pi / 10)) / 2),
        (dpf_tf.PolynomialDecay(**CONSTANT | {"end_step": 5}), 0.0),
        (dpf_tf.PolynomialDecay(**CONSTANT | {"end_step": 0}), 0.0),
        (dpf_tf.ConstantSparsity(0.5), 1.0),
    ):
        Round.schedule = schedule
        assert methods.drop_and_grow.cosine(Round) == pytest.approx(expected)


def test_numpy_numbers_are_options_and_are_saved(keras, tmp_path):
    method = methods.RigL(share=np.float32(0.25), seed=np.int64(3))
    assert (type(method.share), type(method.seed)) == (float, int)
    model = dpf_tf.prune(net(keras), 0.5, method)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].settings.method == method


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: methods.DSR(threshold=0.0), "threshold"),
        (lambda: methods.DSR(threshold=math.inf), "finite"),
        (lambda: methods.DPF(pruned_gradient=math.inf), "finite"),
    ],
)
def test_options_that_would_do_nothing_or_anything_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_kept_nan_is_not_hidden_by_the_soft_threshold(keras):
    model = compiled(
        keras, dpf_tf.prune(net(keras), dpf_tf.ConstantSparsity(0.5), "st3")
    )
    dpf_tf.MaskUpdater(model).update(0)
    [layer] = pruned_layers(model)
    kept = np.argmax(layer.masks["kernel"].numpy())
    kernel = layer.kernels["kernel"].numpy()
    kernel.flat[kept] = np.nan
    layer.kernels["kernel"].assign(kernel)
    found = np.flatnonzero(np.isnan(layer.masked_kernels["kernel"].numpy()))
    assert found.tolist() == [kept]


def test_the_threshold_of_dsr_comes_back_from_kernels_of_zeros(keras):
    schedule = dpf_tf.PolynomialDecay(
        final_sparsity=0.5, initial_sparsity=0.5, end_step=2000, frequency=1
    )
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, "dsr"))
    [layer] = pruned_layers(model)
    kernel = layer.kernels["kernel"]
    weights = kernel.numpy()
    kernel.assign(np.zeros_like(weights))
    updater = dpf_tf.MaskUpdater(model, optimizer=keras.optimizers.SGD())
    for step in range(200):
        updater.update(step)
    assert layer.states["kernel"]["threshold"].numpy() > 0
    flips = 0
    for step in range(200, 400):
        kernel.assign(weights)
        flips += updater.update(step).flips
    assert flips > 0


def test_momenta_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite.*nan"):
        apportion(3, np.array([1.0, np.nan]), np.array([2, 2]))


def test_what_counts_as_kept_can_be_said(keras):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Twice(methods.Method):
        """Prunes by magnitude, then drops one weight of what is left, grows another."""

        def masks(self, round):
            kept = round.largest()
            count = [int(mask.sum()) - 1 for mask in kept]
            left = methods.select(round.among_kept(round.kernels, kept), count)
            lots = [round.random(i) for i in range(len(kept))]
            grown = methods.select(round.among_pruned(lots, kept), [1] * len(kept))
            assert not any((a & b).any() for a, b in zip(kept, grown, strict=True))
            return [a | b for a, b in zip(left, grown, strict=True)]

    model = dpf_tf.prune(net(keras), dpf_tf.ConstantSparsity(0.5), Twice())
    assert dpf_tf.MaskUpdater(model).update(0).sparsity == 0.5


def test_nan_is_told_of_by_the_kernels_path(keras):
    schedule = dpf_tf.PolynomialDecay(**CONSTANT, frequency=2)
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, "set", layers="."))
    updater = dpf_tf.MaskUpdater(model)
    updater.update(0)
    kernel = pruned_layers(model)[1].kernels["kernel"]
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    with pytest.raises(ValueError, match="b/kernel"):
        updater.update(2)


def test_a_read_only_array_is_copied():
    array = np.zeros(64, bool)
    array.flags.writeable = False
    assert not keras_api.shared_tensor(array).numpy().any()


@pytest.mark.parametrize("method", ["rigl", "snip"])
def test_gradients_are_found_in_a_model_whose_call_is_a_function(keras, method):
    """Its trace of training is of no use in the pass, nor the pass's in training."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            schedule = {
                "rigl": dpf_tf.PolynomialDecay(**CONSTANT, frequency=2),
                "snip": dpf_tf.OneShot(final_sparsity=0.5, step=0),
            }[method]
            self.hidden = dpf_tf.prune(keras.layers.Dense(8), schedule, method)
            self.hidden.build((None, 6))
            self.logits = keras.layers.Dense(2)

        @tf.function
        def call(self, x, training=None):
            return self.logits(self.hidden(x))

    seen = []

    class Spy(dpf_tf.methods.METHODS[method]):
        def masks(self, round):
            seen.append([] if round.step == 0 and method == "rigl" else round.gradients)
            return super().masks(round)

    model = Model()
    model.hidden._state.settings = dataclasses.replace(
        model.hidden.settings, method=Spy()
    )
    fit(compiled(keras, model), batch_size=32, epochs=7, data=[(X, Y)])
    assert all(np.abs(g).max() > 1e-4 for each in seen for g in each)
    assert len(seen) == {"rigl": 4, "snip": 1}[method]


def test_a_kernel_that_the_loss_does_not_reach_is_named(keras):
    inputs = keras.Input((6,))
    outputs = [
        keras.layers.Dense(2, name=name)(
            keras.layers.Dense(4, name=f"{name}_in")(inputs)
        )
        for name in ("used", "idle")
    ]
    model = dpf_tf.prune(keras.Model(inputs, outputs), 0.5, "snip")
    model.compile("sgd", ["mse", None])
    with pytest.raises(ValueError, match=r"does not depend on .*exclude="):
        fit(model, y=[Y, Y], data=[(X, (Y, Y))])


def test_late_layers_leave_the_group_at_exactly_its_sparsity():
    import keras

    for sparsity in (0.3, 0.9):
        schedule = dpf_tf.PolynomialDecay(
            final_sparsity=sparsity, initial_sparsity=sparsity, end_step=99, frequency=2
        )

        class Model(keras.Model):
            def __init__(self, schedule):
                super().__init__()
                self.parts = [
                    dpf_tf.prune(keras.layers.Dense(n), schedule, "set")
                    for n in (8, 40, 1)
                ]
                self.parts[0].build((None, 6))

            def call(self, x):
                for part in self.parts:
                    x = part(x)
                return x

        model = Model(schedule)
        optimizer = keras.optimizers.SGD(0.01)
        updater = dpf_tf.MaskUpdater(model, optimizer=optimizer)
        updater.update(0)
        model(X)
        optimizer.build(model.trainable_variables)
        for step in range(1, 9):
            update = updater.update(step)
        total = 48 + 320 + 40
        pruned = sum(int((~m).sum()) for m in dpf_tf.get_masks(model).values())
        assert pruned == pytest.approx(sparsity * total, abs=1.5)
        assert update.sparsity == pytest.approx(pruned / total)


def test_given_masks_come_back_to_the_sparsity_of_the_schedule(keras):
    schedule = dpf_tf.PolynomialDecay(
        final_sparsity=0.5, initial_sparsity=0.5, end_step=100, frequency=2
    )
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, "set", layers="."))
    updater = dpf_tf.MaskUpdater(model)
    updater.update(0)
    masks = dpf_tf.get_masks(model)
    for mask in masks.values():
        mask.flat[: mask.size * 9 // 10] = True
    dpf_tf.set_masks(model, masks)
    given = {path: mask.copy() for path, mask in masks.items()}
    assert updater.update(2).sparsity == 0.5
    for path, mask in dpf_tf.get_masks(model).items():
        assert not (mask & ~given[path]).any()  # The largest of those that were kept.
    assert updater.update(4).flips > 0


def test_a_late_layer_moves_the_masks_of_its_own_group_alone(keras):
    wrap = dpf_tf.prune
    a = wrap(keras.layers.Dense(8), dpf_tf.ConstantSparsity(0.5, frequency=100))
    b = wrap(keras.layers.Dense(8), dpf_tf.ConstantSparsity(0.5, frequency=50))
    a.build((None, 6))

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = a, b

        def call(self, x):
            return self.b(self.a(x))

    model = Model()
    updater = dpf_tf.MaskUpdater(model)
    updater.update(0)
    before = a.masks["kernel"].numpy()
    a.kernel.assign(-a.kernel[::-1])
    model(X)
    assert updater.update(1).flips == 32
    np.testing.assert_array_equal(a.masks["kernel"].numpy(), before)
    assert (~b.masks["kernel"].numpy()).sum() == 32


def test_momenta_are_zeros_before_the_first_step(keras):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Looking(methods.Method):
        needs = frozenset({"momenta"})

        def masks(self, round):
            assert not any(momentum.any() for momentum in round.momenta)
            return round.largest()

    schedule = dpf_tf.ConstantSparsity(0.5, frequency=1000)
    model = compiled(keras, dpf_tf.prune(net(keras), schedule, Looking()))
    fit(model, epochs=1)


def test_a_kernel_that_the_optimizer_does_not_train_has_no_momentum_to_clear(keras):
    model = compiled(keras, dpf_tf.prune(net(keras), 0.5, "gmp", layers="."))
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    optimizer.build(model.trainable_variables[:2])
    updater = dpf_tf.MaskUpdater(model, total_steps=20, optimizer=optimizer)
    assert updater.update(16).sparsity == pytest.approx(0.5)
    other = dpf_tf.prune(net(keras), 0.5, "sparse_momentum", layers=".")
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    optimizer.build(other.trainable_variables[:2])
    updater = dpf_tf.MaskUpdater(other, 20, 2, optimizer=optimizer)
    with pytest.raises(ValueError, match="does not train all"):
        updater.update(0)


def test_plain_dpf_evaluates_no_regularizer_of_its_own(keras):
    def operations(method):
        model = dpf_tf.prune(
            net(keras, regularizer=keras.regularizers.L2(1.0)), 0.5, method
        )
        graph = tf.function(lambda x: model(x)).get_concrete_function(X).graph
        kinds = [operation.type for operation in graph.get_operations()]
        return sorted(kind for kind in kinds if kind != "ReadVariableOp")

    assert operations("dpf") == operations("gmp")
