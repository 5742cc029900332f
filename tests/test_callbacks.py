"""`PruningCallback` in `fit`: when masks change, and what the user is told."""

import csv
import gc
import warnings
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import dpf_tf
from dpf_tf import keras_api
from tests.helpers import assert_bits_equal

STEPS = 64  # 256 examples in batches of 4.


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * STEPS, 8)).astype("float32")
    return x, (x @ rng.normal(size=(8, 2)) > 0).astype("float32")


def small_model(keras, schedule=0.75, batch_norm=False, **compile_options):
    layers = [keras.Input((8,)), keras.layers.Dense(32, name="hidden")]
    layers += [keras.layers.BatchNormalization()] if batch_norm else []
    layers += [keras.layers.ReLU(), keras.layers.Dense(2, name="logits")]
    pruned = dpf_tf.prune_low_magnitude_dpf(keras.Sequential(layers), schedule)
    compile_options.setdefault("optimizer", keras.optimizers.SGD(0.05, momentum=0.9))
    pruned.compile(loss="mse", **compile_options)
    return pruned


def recorder(keras):
    """A callback that notes, for every batch, the iterations and the kept weights."""

    class Recorder(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.kept = {}

        def on_train_batch_begin(self, batch, logs=None):
            step = int(self.model.optimizer.iterations)
            self.kept.setdefault(step, []).append(kept_weights(self.model))

    return Recorder()


def kept_weights(model):
    return int(sum(mask.sum() for mask in dpf_tf.get_masks(model).values()))


def fit(model, *callbacks, epochs=1, batch_size=4, **options):
    x, y = data()
    options = {"verbose": 0, "shuffle": False, **options}
    return model.fit(
        x, y, batch_size, epochs=epochs, callbacks=list(callbacks), **options
    )


def counts(schedule, steps, weights=256):
    """What the schedule asks for before each step: the count at the last due step."""
    kept, expected = weights, []
    for step in range(steps):
        due, sparsity = schedule(step)
        kept = weights - round(sparsity * weights) if due else kept
        expected.append(kept)
    return expected


RAMP = dpf_tf.PolynomialDecay(final_sparsity=0.9, end_step=40, frequency=8)


def test_every_step_trains_with_the_count_that_the_schedule_asks_for(keras):
    model, record = small_model(keras, RAMP), recorder(keras)
    fit(model, dpf_tf.PruningCallback(settle=0), record)
    kept = [record.kept[step] for step in range(STEPS)]
    assert kept == [[count] for count in counts(RAMP, STEPS)]


def test_a_bare_target_ramps_over_three_quarters_of_all_announced_epochs(keras):
    model, record = small_model(keras, 0.75), recorder(keras)
    fit(model, dpf_tf.PruningCallback(settle=0), record, epochs=2)
    full = dpf_tf.PolynomialDecay(final_sparsity=0.75, end_step=96)
    assert [record.kept[s][0] for s in range(128)] == counts(full, 128)
    assert model.layers[0].settings.schedule == full


def test_the_ramp_of_the_first_fit_is_kept_in_later_fits(keras):
    model, record = small_model(keras, 0.75), recorder(keras)
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(model, dpf_tf.PruningCallback(settle=0), record)
    full = dpf_tf.PolynomialDecay(final_sparsity=0.75, end_step=48)
    assert [record.kept[s][0] for s in range(192)] == counts(full, 192)


def test_begin_equal_to_end_prunes_at_once(keras):
    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.5, begin_step=16, end_step=16)
    model, record = small_model(keras, schedule), recorder(keras)
    fit(model, dpf_tf.PruningCallback(), record)
    assert [record.kept[s][0] for s in (0, 15, 16, 63)] == [256, 256, 128, 128]


def test_logs_reach_history_csv_and_progress_bar(keras, tmp_path, capsys):
    model = small_model(keras, RAMP)
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    history = fit(model, dpf_tf.PruningCallback(), log, epochs=2, verbose=2).history
    sparsity = 1 - kept_weights(model) / 256
    assert history["sparsity"][-1] == sparsity
    assert set(history) >= {"sparsity", "mask_flips", "mask_age"}
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["sparsity"]) == sparsity
    printed = capsys.readouterr().out
    assert "sparsity: 0.89" in printed and "mask_flips:" in printed


def test_tensorboard_sees_the_sparsity_of_every_epoch(keras, tmp_path):
    import tensorflow as tf

    model = small_model(keras, RAMP)
    board = keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)
    history = fit(model, dpf_tf.PruningCallback(), board, epochs=2).history
    seen = {}
    for path in (tmp_path / "train").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if "sparsity" in value.tag:
                    seen[event.step] = float(tf.make_ndarray(value.tensor))
    np.testing.assert_allclose([seen[0], seen[1]], history["sparsity"], rtol=1e-6)


def test_mask_flips_are_the_entries_that_the_last_update_changed(keras):
    model = small_model(keras, dpf_tf.ConstantSparsity(0.5, begin_step=60))
    history = fit(model, dpf_tf.PruningCallback(settle=0)).history
    assert history["mask_flips"] == [128]
    assert history["mask_age"] == [4]


def test_masks_stand_still_in_the_settled_share_of_the_announced_training(keras):
    schedule = dpf_tf.ConstantSparsity(0.5, frequency=1)
    model, seen = small_model(keras, schedule), []

    class Masks(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(dpf_tf.get_masks(self.model)["hidden/kernel"])

    fit(model, dpf_tf.PruningCallback(settle=0.25), Masks())
    still = [bool((seen[i] == seen[i + 1]).all()) for i in range(STEPS - 1)]
    assert all(still[48:]) and not all(still[:48])


def test_gradient_stays_unmasked_while_masks_stand_still(keras):
    schedule = dpf_tf.ConstantSparsity(0.5, end_step=0)
    model = small_model(keras, schedule)
    dense = model.layers[0].kernels["kernel"].numpy().copy()
    fit(model, dpf_tf.PruningCallback())
    moved = model.layers[0].kernels["kernel"].numpy() != dense
    pruned = ~dpf_tf.get_masks(model)["hidden/kernel"]
    assert moved[pruned].mean() > 0.9


@pytest.mark.parametrize("execution", [2, 8])
def test_steps_per_execution_changes_nothing(keras, execution):
    weights = []
    for steps in (1, execution):
        keras.utils.set_random_seed(1)
        model = small_model(keras, RAMP, steps_per_execution=steps)
        fit(model, dpf_tf.PruningCallback(settle=0), epochs=2)
        weights.append([v.numpy() for v in model.variables])
    for one, several in zip(*weights, strict=True):
        np.testing.assert_allclose(one, several, rtol=1e-5, atol=1e-6)


def test_a_mask_due_inside_an_execution_is_refused_with_the_numbers(keras):
    model = small_model(keras, RAMP, steps_per_execution=3)
    with pytest.raises(ValueError, match=r"due at step 8.*steps_per_execution=3"):
        fit(model, dpf_tf.PruningCallback())
    # 10 steps an epoch: executions start at 0, 4, 8, 10, 14, ...; step 16 is inside.
    model = small_model(keras, RAMP, steps_per_execution=4)
    with pytest.raises(ValueError, match="due at step 16, which is batch 6"):
        fit(model, dpf_tf.PruningCallback(), steps_per_epoch=10, epochs=4)


def test_steps_per_execution_auto_is_refused():
    import tf_keras

    model = small_model(tf_keras, RAMP, steps_per_execution="auto")
    with pytest.raises(ValueError, match="steps_per_execution='auto'"):
        fit(model, dpf_tf.PruningCallback())


def test_jit_compile_gives_the_same_masks_and_weights(keras):
    weights = []
    for jit in (False, True):
        keras.utils.set_random_seed(1)
        model = small_model(keras, RAMP, jit_compile=jit)
        fit(model, dpf_tf.PruningCallback(settle=0))
        weights.append([v.numpy() for v in model.variables])
    for plain, compiled in zip(*weights, strict=True):
        np.testing.assert_allclose(plain, compiled, rtol=1e-4, atol=1e-5)


def test_gradient_accumulation_counts_optimizer_steps_not_batches():
    import keras

    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)
    model, record = small_model(keras, 0.75, optimizer=optimizer), recorder(keras)
    fit(model, dpf_tf.PruningCallback(settle=0), record, epochs=2)
    # 128 batches are 64 steps: the ramp ends at step 48.
    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.75, end_step=48)
    assert model.layers[0].settings.schedule == schedule
    expected = counts(schedule, 64)
    assert [record.kept[s] for s in range(64)] == [[count] * 2 for count in expected]


def test_gradient_accumulation_updates_masks_once_a_step_and_ages_them_in_steps():
    import keras

    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=8)
    schedule = dpf_tf.ConstantSparsity(0.5, end_step=11, frequency=4)
    layers = [keras.Input((8,)), keras.layers.Dense(32), keras.layers.Dense(2)]
    model = dpf_tf.prune(keras.Sequential(layers), schedule, "set")
    model.compile(optimizer, "mse")
    moved = []
    recompute = dpf_tf.MaskUpdater.recompute

    def noted(updater, step, since=None):
        moved.append(step)
        return recompute(updater, step, since)

    with mock.patch.object(dpf_tf.MaskUpdater, "recompute", noted):
        logs = fit(model, dpf_tf.PruningCallback(settle=0), epochs=3).history
    assert moved == [0, 4, 8]
    assert logs["mask_age"] == [8 - 4, 16 - 8, 24 - 8]


def test_an_epoch_of_accumulated_steps_is_rounded_to_whole_ones():
    import keras

    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=3)
    schedule = dpf_tf.ConstantSparsity(0.5, frequency="epoch")
    model = small_model(keras, schedule, optimizer=optimizer)
    fit(model, dpf_tf.PruningCallback(settle=0), batch_size=32)  # 8 batches.
    assert model.get_layer("hidden").settings.schedule.frequency == 3


def test_masks_follow_the_iterations_of_float16_loss_scaling(keras):
    keras.mixed_precision.set_global_policy("mixed_float16")
    scaling = getattr(keras.mixed_precision, "LossScaleOptimizer", None)
    scaling = scaling or keras.optimizers.LossScaleOptimizer
    # So high a scale overflows: the first batches make no step. They count as
    # iterations in tf_keras, and not in Keras 3.
    optimizer = scaling(keras.optimizers.SGD(0.05), initial_scale=2.0**24)
    model, record = small_model(keras, RAMP, optimizer=optimizer), recorder(keras)
    fit(model, dpf_tf.PruningCallback(settle=0), record)
    batches = [len(record.kept[step]) for step in sorted(record.kept)]
    assert sum(batches) == STEPS
    skipped = STEPS - len(batches)
    assert 3 < skipped < 20 if keras.__name__ == "keras" else skipped == 0
    expected = counts(RAMP, len(batches))
    assert all(set(kept) == {expected[step]} for step, kept in record.kept.items())
    assert model.layers[0].kernels["kernel"].numpy().dtype == np.float32


def test_validation_in_between_changes_no_weight_and_no_mask(keras):
    weights = []
    for options in ({}, {"validation_data": data(1), "validation_batch_size": 16}):
        keras.utils.set_random_seed(1)
        model = small_model(keras, RAMP)
        fit(model, dpf_tf.PruningCallback(), epochs=2, **options)
        weights.append([v.numpy() for v in model.variables])
    for without, with_validation in zip(*weights, strict=True):
        np.testing.assert_array_equal(without, with_validation)


def test_training_without_the_callback_is_refused_at_the_first_step(keras):
    model = small_model(keras, RAMP)
    with pytest.raises(RuntimeError, match="PruningCallback"):
        fit(model)
    fit(model, dpf_tf.PruningCallback())
    with pytest.raises(RuntimeError, match="PruningCallback"):
        fit(model)  # The step was traced before: it is checked again all the same.


def test_a_fit_that_is_broken_off_leaves_no_permission_behind(keras):
    model = small_model(keras, RAMP)

    class Broken(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    pruning = dpf_tf.PruningCallback()
    with pytest.raises(KeyboardInterrupt):
        fit(model, pruning, Broken())
    with pytest.raises(RuntimeError, match="nothing updates its masks"):
        fit(model)


def test_an_updater_permits_training_from_its_first_update_as_long_as_it_lives(keras):
    model = small_model(keras, RAMP)
    x, _ = data()
    dpf_tf.MaskUpdater(model).update(0)
    with pytest.raises(RuntimeError, match="nothing updates its masks"):
        model(x[:4], training=True)
    updater = dpf_tf.MaskUpdater(model)
    with pytest.raises(RuntimeError, match="nothing updates its masks"):
        model(x[:4], training=True)
    updater.update(1)  # No mask is due.
    model(x[:4], training=True)
    fit(model, dpf_tf.PruningCallback())  # It does not take the updater's place.
    model(x[:4], training=True)
    del updater
    gc.collect()
    with pytest.raises(RuntimeError, match="nothing updates its masks"):
        model(x[:4], training=True)


def test_two_callbacks_for_one_model_are_refused(keras):
    model = small_model(keras, RAMP)
    with pytest.raises(ValueError, match="Two `PruningCallback`s"):
        fit(model, dpf_tf.PruningCallback(), dpf_tf.PruningCallback())
    fit(model, dpf_tf.PruningCallback())


def test_a_step_that_is_made_anew_during_fit_is_no_second_callback(keras):
    class Remake(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.make_train_function(force=True)

    fit(small_model(keras, RAMP), dpf_tf.PruningCallback(), Remake(), epochs=2)


def test_final_masks_do_not_mind_the_length_of_a_later_fit(keras):
    ramp = dpf_tf.PolynomialDecay(final_sparsity=0.5, begin_step=30, frequency=4)
    model = small_model(keras, ramp)
    fit(model, dpf_tf.PruningCallback(), epochs=2)
    dpf_tf.freeze_masks(model)
    model.compile("sgd", "mse")
    fit(model, dpf_tf.PruningCallback(), batch_size=16)  # Ends at step 16.
    assert kept_weights(model) == 128


@pytest.mark.parametrize("method", ["dpf", "set", "rigl"])
def test_a_trial_of_few_steps_does_not_shorten_the_training_after_it(keras, method):
    def begun(trial):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(32), keras.layers.Dense(8)]
        )
        model = dpf_tf.prune(model, 0.75, method)
        x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        callback = dpf_tf.PruningCallback(data=lambda step: (x, x))
        if trial:
            model.compile("sgd", "mse")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Of a training that is too short.
                model.fit(x, x, 8, steps_per_epoch=trial, verbose=0, callbacks=callback)
        model.compile("sgd", "mse")
        history = model.fit(x, x, 8, 6, verbose=0, callbacks=[callback])
        return model.layers[0].settings, history.history["sparsity"]

    assert begun(trial=2) == begun(trial=0)


def test_masks_that_are_there_before_any_is_due_are_warned_of(keras):
    model = small_model(keras, dpf_tf.OneShot(final_sparsity=0.5))
    fit(model, dpf_tf.PruningCallback())
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="no mask has been due yet.*OneShot"):
        fit(model, dpf_tf.PruningCallback())


def test_a_training_that_goes_on_keeps_the_end_of_its_ramp(keras):
    model = small_model(keras, 0.9)
    fit(model, dpf_tf.PruningCallback())
    end = model.layers[0].settings.schedule.end_step
    fit(model, dpf_tf.PruningCallback())
    assert model.layers[0].settings.schedule.end_step == end


def test_an_updater_fills_in_another_length_while_the_masks_are_dense(keras):
    model = small_model(keras, 0.9)
    for total in (40, 4000):
        updater = dpf_tf.MaskUpdater(model, total_steps=total)
        assert model.layers[0].settings.schedule.end_step == 0.75 * total
    updater.update(2992)
    updater = dpf_tf.MaskUpdater(model, total_steps=40)
    assert model.layers[0].settings.schedule.end_step == 3000
    with pytest.warns(UserWarning, match=r"set the sparsity back.*end_step=30"):
        updater.update(0)


def test_the_length_of_an_epoch_is_kept_where_only_the_training_s_is_told(keras):
    model = small_model(keras, dpf_tf.ConstantSparsity(0.9, frequency="epoch"))
    dpf_tf.MaskUpdater(model, total_steps=40, epoch_steps=8)
    updater = dpf_tf.MaskUpdater(model, total_steps=80)
    assert [step for step in range(20) if updater.due(step)] == [0, 8, 16]


def test_later_fits_run_the_step_that_the_first_one_traced(keras):
    traces = []

    def activation(x):
        traces.append(x)
        return keras.activations.relu(x)

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(32), keras.layers.Dense(2)]
    )
    model.layers[0].activation = activation
    model = dpf_tf.prune_low_magnitude_dpf(model, RAMP)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    fit(model, dpf_tf.PruningCallback())
    assert traces
    traces.clear()
    fit(model, dpf_tf.PruningCallback())
    dpf_tf.freeze_masks(model)
    fit(model)
    assert not traces


def test_settle_is_a_share_of_each_fit_not_of_all_steps_ever_made(keras):
    schedule = dpf_tf.ConstantSparsity(0.5, frequency=4)
    model, record = small_model(keras, schedule), recorder(keras)
    for _ in range(25):  # 25 * 64 * 0.05 steps are more than one fit.
        fit(model, dpf_tf.PruningCallback(settle=0.05), record)
    last = fit(model, dpf_tf.PruningCallback(settle=0.05)).history
    assert last["mask_age"][0] < STEPS


def test_evaluate_predict_and_inference_need_no_callback(keras):
    model = small_model(keras, RAMP)
    x, y = data()
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model(x)


def test_frozen_masks_are_fine_tuned_without_the_callback(keras):
    model = small_model(keras, RAMP)
    fit(model, dpf_tf.PruningCallback())
    dpf_tf.freeze_masks(model)
    masks = dpf_tf.get_masks(model)["hidden/kernel"]
    dense = model.layers[0].kernels["kernel"].numpy()
    fit(model)
    fit(model, dpf_tf.PruningCallback())  # It does no harm either.
    assert (dpf_tf.get_masks(model)["hidden/kernel"] == masks).all()
    assert (model.layers[0].kernels["kernel"].numpy()[masks] != dense[masks]).any()


def test_a_model_without_pruned_layers_is_refused(keras):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="prune_low_magnitude_dpf"):
        fit(model, dpf_tf.PruningCallback())


def test_an_optimizer_that_makes_no_step_is_warned_about_after_an_epoch(keras):
    class Adversary(keras.Sequential):
        def compile(self, its_own, **options):
            super().compile(**options)
            self.its_own = its_own

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            variables = self.trainable_variables
            gradients = tape.gradient(loss, variables)
            self.its_own.apply_gradients(zip(gradients, variables, strict=True))
            return {"loss": loss}

    layers = [keras.Input((8,)), keras.layers.Dense(32), keras.layers.Dense(2)]
    layers = dpf_tf.prune_low_magnitude_dpf(keras.Sequential(layers), RAMP).layers
    model = Adversary([keras.Input((8,)), *layers])
    model.compile(keras.optimizers.SGD(0.05), optimizer="sgd", loss="mse")
    with pytest.warns(UserWarning, match="optimizer` has made no step") as told:
        fit(model, dpf_tf.PruningCallback(), epochs=2)
    assert len([each for each in told if "no step" in str(each.message)]) == 1


def test_early_stopping_before_the_target_is_warned_about(keras):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch >= 15

    model = small_model(keras, RAMP)
    with pytest.warns(UserWarning, match=r"ended at sparsity 0\.4\d+, below"):
        fit(model, dpf_tf.PruningCallback(), Stop())


@pytest.mark.parametrize("how", ["freeze_masks", "trainable"])
def test_a_layer_frozen_between_two_updates_keeps_its_masks(keras, how):
    model = small_model(keras, dpf_tf.ConstantSparsity(0.5, frequency=1))
    layer = model.get_layer("hidden")
    updater = dpf_tf.MaskUpdater(model)
    updater.update(0)
    before = dpf_tf.get_masks(model)["hidden/kernel"]
    if how == "freeze_masks":
        layer.set_frozen(True)
    else:
        layer.trainable = False
    layer.kernel.assign(-layer.kernel.numpy()[::-1])
    updater.update(1)
    after = dpf_tf.get_masks(model)["hidden/kernel"]
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("how", ["loop", "fit"])
def test_a_layer_frozen_in_mid_training_is_named_where_that_sets_others_back(
    keras, how
):
    layers = [keras.layers.Dense(32, name="a"), keras.layers.Dense(2, name="b")]
    layers[0].build((None, 8))
    layers[0].kernel.assign(0.01 * layers[0].kernel.numpy())
    model = keras.Sequential([keras.Input((8,)), *layers])
    schedule = dpf_tf.ConstantSparsity(0.5, frequency=4)
    model = dpf_tf.prune_low_magnitude_dpf(model, schedule, layers="[ab]")
    model.compile(keras.optimizers.SGD(0.001), "mse")
    updater = dpf_tf.MaskUpdater(model)
    if how == "loop":
        updater.update(0)
    else:
        fit(model, dpf_tf.PruningCallback())
    model.get_layer("b").trainable = False
    told = r"step \d+ .* to 0\.5000: the masks of b no longer change.*freeze_masks"
    with pytest.warns(UserWarning, match=told):
        if how == "loop":
            updater.update(4)
        else:
            model.compile(model.optimizer, "mse")
            fit(model, dpf_tf.PruningCallback())


def test_masks_frozen_below_the_target_are_warned_about_when_stripped(keras):
    model = small_model(keras, RAMP)
    dpf_tf.MaskUpdater(model).update(16)
    dpf_tf.freeze_masks(model)
    with pytest.warns(UserWarning, match=r"stripped at sparsity 0\.7\d+, below"):
        dpf_tf.strip_pruning(model)


def test_a_ramp_that_would_begin_in_its_midst_is_warned_about_with_the_numbers(keras):
    layers = [keras.Input((8,)), keras.layers.Dense(32, name="hidden")]
    dense = keras.Sequential([*layers, keras.layers.Dense(2)])
    dense.compile(keras.optimizers.SGD(0.05), "mse")
    fit(dense)
    model = dpf_tf.prune_low_magnitude_dpf(dense, RAMP)
    model.compile(dense.optimizer, "mse")
    with pytest.warns(UserWarning, match=r"from 64 on.* 0\.9000 since step 56"):
        fit(model, dpf_tf.PruningCallback())


def test_an_update_that_was_missed_in_a_loop_of_one_s_own_is_warned_about(keras):
    schedule = dpf_tf.OneShot(final_sparsity=0.5, step=0)
    pruned = small_model(keras, schedule)
    updater = dpf_tf.MaskUpdater(pruned)
    with pytest.warns(UserWarning, match=r"from 1 on.* 0\.5000 since step 0"):
        updater.update(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        updater.update(2)
        dpf_tf.MaskUpdater(pruned).update(0)
        dpf_tf.MaskUpdater(pruned).update(1)  # As after a restored checkpoint.


def test_restored_weights_of_a_denser_epoch_are_warned_about(keras):
    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.9, end_step=96)
    model = small_model(keras, schedule)
    best = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=5, restore_best_weights=True
    )
    with pytest.warns(UserWarning, match="weights of an earlier epoch"):
        fit(model, best, dpf_tf.PruningCallback(), epochs=2)


def test_a_schedule_that_cannot_finish_is_warned_about_with_the_numbers(keras):
    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.9, end_step=1000)
    with pytest.warns(UserWarning, match=r"step 48 of 64, reaches sparsity 0\.12"):
        fit(small_model(keras, schedule), dpf_tf.PruningCallback())
    schedule = dpf_tf.ConstantSparsity(0.9, begin_step=1000)
    with pytest.warns(UserWarning, match="No mask is due in this training"):
        fit(small_model(keras, schedule), dpf_tf.PruningCallback())


def test_masks_that_stand_still_before_their_target_are_warned_about(keras):
    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.9, end_step=100, frequency=4)
    model = small_model(keras, schedule)
    fit(model, dpf_tf.PruningCallback())
    told = (
        r"steps 64 to 127, masks may change up to step 51 \(settle=0.6 of the 2 epoch"
    )
    with pytest.warns(UserWarning, match=told):
        fit(model, dpf_tf.PruningCallback(settle=0.6), initial_epoch=1, epochs=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "No mask is due")
        fit(model, dpf_tf.PruningCallback(), epochs=2)
        fit(model, dpf_tf.PruningCallback(settle=0.6), initial_epoch=1, epochs=2)


def test_a_second_fit_in_which_nothing_would_move_is_warned_about(keras):
    schedule = dpf_tf.PolynomialDecay(
        final_sparsity=0.5, initial_sparsity=0.5, end_step=60, frequency=8
    )
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(32), keras.layers.Dense(2)]
    )
    model = dpf_tf.prune(model, schedule, "set")
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "SET moves")
        fit(model, dpf_tf.PruningCallback())
        # What goes on from an epoch has had its moves.
        fit(model, dpf_tf.PruningCallback(), initial_epoch=1, epochs=2)
    with pytest.warns(UserWarning, match=r"SET moves.*steps 128 to 191.*end_step=60"):
        fit(model, dpf_tf.PruningCallback())


def test_a_ramp_that_ends_between_two_updates_and_misses_no_weight_is_no_warning(keras):
    schedule = dpf_tf.PolynomialDecay(final_sparsity=0.9, end_step=60, power=12)
    assert schedule(48)[1] < 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small_model(keras, schedule)
        fit(model, dpf_tf.PruningCallback(settle=0.1))
    report = dpf_tf.sparsity_report(model)["pruned"]
    assert report["kept"] == report["weights"] - round(0.9 * report["weights"])


def test_unknown_length_is_an_error_for_a_relative_ramp_only(keras):
    import tensorflow as tf

    x, y = data()
    endless = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    endless = endless.filter(lambda *_: True)  # Its length cannot be known.
    with pytest.raises(ValueError, match="steps_per_epoch"):
        small_model(keras, 0.75).fit(
            endless, verbose=0, callbacks=[dpf_tf.PruningCallback()]
        )
    model = small_model(keras, RAMP, batch_norm=True)
    with pytest.warns(UserWarning, match="length of this training is unknown"):
        model.fit(endless, verbose=0, callbacks=[dpf_tf.PruningCallback()])
    assert kept_weights(model) == 256 - round(0.9 * 256)


def test_one_callback_object_serves_both_kerases_one_after_the_other():
    import keras
    import tf_keras

    callback = dpf_tf.PruningCallback()
    for module in (keras, tf_keras):
        assert isinstance(callback, module.callbacks.Callback)
        model = small_model(module, RAMP)
        fit(model, callback)
        assert kept_weights(model) == 256 - round(0.9 * 256)


def test_a_subclass_of_the_callback_works(keras):
    class Mine(dpf_tf.PruningCallback):
        updates = 0

        def on_train_batch_begin(self, batch, logs=None):
            super().on_train_batch_begin(batch, logs)
            self.updates += 1

    mine = Mine(settle=0)
    fit(small_model(keras, RAMP), mine)
    assert mine.updates == STEPS


@pytest.mark.parametrize("settle", [-0.1, 1.0, float("nan")])
def test_settle_outside_zero_to_one_is_refused(settle):
    with pytest.raises(ValueError, match="share of training"):
        dpf_tf.PruningCallback(settle=settle)


def test_wrong_types_and_misspelt_keywords_are_refused():
    with pytest.raises(TypeError, match="settle"):
        dpf_tf.PruningCallback(settle="0.1")
    with pytest.raises(TypeError, match="setle"):
        dpf_tf.PruningCallback(setle=0.1)
    with pytest.raises(TypeError, match="recalibrate_data.*batches"):
        dpf_tf.PruningCallback(recalibrate_data=data())
    with pytest.raises(TypeError, match="an iterator ends"):
        dpf_tf.PruningCallback(recalibrate_data=iter([data()]))
    with pytest.raises(TypeError, match="recalibrate_steps"):
        dpf_tf.PruningCallback(recalibrate_steps=2.5)
    with pytest.raises(ValueError, match="recalibrate_steps"):
        dpf_tf.PruningCallback(recalibrate_steps=0)


def test_steps_are_whole_numbers_or_the_iterations_of_an_optimizer(keras):
    model = small_model(keras, RAMP)
    updater = dpf_tf.MaskUpdater(model)
    model.optimizer.iterations.assign(40)
    assert updater.update(model.optimizer.iterations).sparsity == 1 - 26 / 256
    for step in ("1", 2.5):
        with pytest.raises(TypeError, match="`step` must be a whole number"):
            updater.update(step)
    with pytest.raises(ValueError, match="`step` must be at least 0. Received: -3"):
        updater.update(-3)
    for total, error in (("100", TypeError), (10.5, TypeError), (0, ValueError)):
        with pytest.raises(error, match="`total_steps` must be"):
            dpf_tf.MaskUpdater(model, total_steps=total)


def test_kernels_left_with_under_one_percent_of_their_weights_are_named_once(keras):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(64, name="small"),
            keras.layers.Dense(64, name="large"),
            keras.layers.Dense(2),
        ]
    )
    kernel = model.get_layer("small").kernel
    kernel.assign(1e-3 * kernel)
    pruned = dpf_tf.prune_low_magnitude_dpf(model, dpf_tf.ConstantSparsity(0.5))
    updater = dpf_tf.MaskUpdater(pruned)
    with pytest.warns(UserWarning, match=r"left in small/kernel \(1 of 512\)") as seen:
        updater.update(0)
        updater.update(16)
    assert len(seen) == 1


def test_a_ramp_that_starts_anew_is_warned_about_with_the_numbers(keras):
    model = small_model(keras, RAMP)
    fit(model, dpf_tf.PruningCallback())
    model.compile(keras.optimizers.SGD(0.01), "mse")  # Its iterations are 0.
    told = r"step 0 .* from 0\.8984 to 0\.0000.*schedule is now: .*end_step=40"
    with pytest.warns(UserWarning, match=told):
        fit(model, dpf_tf.PruningCallback())


def test_a_layer_frozen_under_its_own_pattern_does_not_stop_the_next_fit(keras):
    layers = [keras.layers.Dense(8, name=name) for name in ("one", "two", "out")]
    model = dpf_tf.prune_low_magnitude_dpf(
        keras.Sequential([keras.Input((8,)), *layers]),
        dpf_tf.ConstantSparsity(0.5, frequency=4),
        allocation={"one": 0.25, "two": 0.75},
    )
    model.compile("sgd", "mse")
    x = data()[0]
    dpf_tf.MaskUpdater(model).update(0)
    dpf_tf.freeze_masks(model.get_layer("one"))
    before = dpf_tf.get_masks(model)
    model.fit(x, x, verbose=0, callbacks=[dpf_tf.PruningCallback(settle=0)])
    assert_bits_equal([dpf_tf.get_masks(model)["one/kernel"]], [before["one/kernel"]])


def test_kernels_are_ranked_as_float32_under_mixed_precision(keras):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = small_model(keras, dpf_tf.ConstantSparsity(0.75))
    order = np.random.default_rng(0).permutation(256).reshape(8, 32)
    # In bfloat16 they would all be 1, and the first ones be kept.
    model.layers[0].kernels["kernel"].assign(1 + order * 2.0**-20)
    dpf_tf.MaskUpdater(model).update(0)
    [mask] = dpf_tf.get_masks(model).values()
    np.testing.assert_array_equal(mask, order >= 192)


def test_nan_weights_are_refused_by_name(keras):
    model = small_model(keras, RAMP)
    kernel = model.layers[0].kernels["kernel"]
    kernel.assign(np.full(kernel.shape, np.nan, "float32"))
    with pytest.raises(ValueError, match="hidden/kernel"):
        fit(model, dpf_tf.PruningCallback())


def test_updates_inside_a_traced_function_are_refused(keras):
    import tensorflow as tf

    updater = dpf_tf.MaskUpdater(small_model(keras, RAMP))
    with pytest.raises(RuntimeError, match="outside"):
        tf.function(lambda: updater.update(0))()


def test_masks_chosen_on_an_accelerator_are_those_chosen_on_the_host(keras):
    masks = []
    for on_host in (True, False):
        keras.utils.set_random_seed(1)
        model = dpf_tf.prune_low_magnitude_dpf(
            keras.Sequential(
                [keras.Input((8,)), keras.layers.Dense(32), keras.layers.Dense(2)]
            ),
            dpf_tf.ConstantSparsity(0.5),
            allocation="global_normalized",
            layers="kernel",
        )
        with mock.patch.object(keras_api, "on_cpu", return_value=on_host):
            update = dpf_tf.MaskUpdater(model).update(0)
        assert update == (0.5, 160)
        masks.append(dpf_tf.get_masks(model))
    assert_bits_equal(*[list(m.values()) for m in masks])
