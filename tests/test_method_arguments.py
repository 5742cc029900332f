"""What a scheme cannot do is refused with the mend; schemes of one's own; set_masks."""

import dataclasses
import inspect
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import dpf_tf
from dpf_tf import methods
from tests.helpers import assert_bits_equal, pruned_layers

RAMP = dpf_tf.PolynomialDecay(final_sparsity=0.5, end_step=10, frequency=2)


def make(keras, method="dpf", schedule=0.5, optimizer=None, **options):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, name="a"),
            keras.layers.Dense(4, name="b"),
            keras.layers.Dense(1, name="outputs"),
        ]
    )
    model = dpf_tf.prune(model, schedule, method, **options)
    model.compile(optimizer or keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    return model


def fit(model, callback=None, epochs=2):
    callback = callback or dpf_tf.PruningCallback(settle=0)
    x, y = np.ones((32, 6), np.float32), np.ones((32, 1), np.float32)
    return model.fit(x, y, 4, epochs=epochs, verbose=0, callbacks=[callback])


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("rigle", {}, ValueError, r"Known: dpf, .*sparse_momentum.*mean 'rigl'"),
        ("RigL", {}, ValueError, "mean 'rigl'"),
        (methods.RigL, {}, TypeError, r"not its class.*Known names: dpf"),
        (None, {}, TypeError, r"methods\.Method\. Received: None"),
        ("dpf", {"threshold": "soft"}, TypeError, "A soft threshold is method='st3'"),
        ("gmp", {"frequency": 4}, TypeError, r"schedule: `PolynomialDecay\(.*frequ"),
        ("snip", {"data": []}, TypeError, r"`PruningCallback\(data=\.\.\.\)`"),
        ("set", {"seed": -1}, ValueError, "must be at least 0. Received: -1"),
        ("gmp", {"share": 0.2}, TypeError, "'gmp' has no option 'share'.*none"),
        ("rigl", {"threshold": 0.1}, TypeError, "Its options: share, seed"),
        ("rigl", {"share": 1.5}, ValueError, r"\[0, 1\].*1.5"),
        ("rigl", {"share": "0.2"}, TypeError, "must be a number.*'0.2'"),
        ("set", {"seed": 0.5}, TypeError, "whole number.*0.5"),
        ("dsr", {"threshold": -1.0}, ValueError, "threshold"),
        ("dpf", {"pruned_gradient": -1.0}, ValueError, "pruned_gradient"),
        ("dpf", {"pruned_decay": float("nan")}, ValueError, "pruned_decay"),
        ("st3", {"rescale": "layer"}, ValueError, "'filter', 'kernel', 'none'"),
        ("st3", {"sigma": 1}, TypeError, "sigma"),
        (methods.RigL(), {"share": 0.2}, TypeError, "has its own. Received: share"),
    ],
)
def test_wrong_methods_and_options_are_refused_by_name(
    keras, method, options, error, message
):
    with pytest.raises(error, match=message):
        make(keras, method, **options)


@pytest.mark.parametrize("method", ["set", "rigl", "dsr", "sparse_momentum"])
def test_a_ramp_is_refused_by_schemes_of_one_sparsity(keras, method):
    with pytest.raises(ValueError, match=r"at one sparsity.*ConstantSparsity"):
        make(keras, method, RAMP)


@pytest.mark.parametrize("method", ["set", "rigl", "dsr", "snip", "one_shot"])
def test_a_ramp_of_somebody_elses_is_refused_as_ours_is(keras, method):
    class Ramp:
        final_sparsity = 0.5

        def __call__(self, step):
            return step % 2 == 0, min(0.5, step / 20)

    with pytest.raises(ValueError, match="at one sparsity|makes one mask"):
        make(keras, method, Ramp())


@pytest.mark.parametrize("method", ["set", "rigl", "dsr", "sparse_momentum", "snip"])
def test_scores_that_are_no_magnitudes_are_not_divided_by_norms(keras, method):
    with pytest.raises(ValueError, match="ranks other scores.*'global_normalized'"):
        make(keras, method, allocation="global_normalized")


@pytest.mark.parametrize("method", ["snip", "one_shot"])
def test_a_ramp_is_refused_by_schemes_of_one_mask(keras, method):
    with pytest.raises(ValueError, match=r"makes one mask, and has no ramp.*OneShot"):
        make(keras, method, RAMP)
    make(keras, method, dpf_tf.OneShot(final_sparsity=0.5, step=3))
    make(keras, method, dpf_tf.ConstantSparsity(0.5, begin_step=3))


@pytest.mark.parametrize("method", ["set", "dsr"])
def test_a_late_beginning_is_refused_by_schemes_of_one_sparsity(keras, method):
    for late in (
        dpf_tf.ConstantSparsity(0.5, begin_step=100),
        dpf_tf.PolynomialDecay(
            final_sparsity=0.5, initial_sparsity=0.5, begin_step=100, end_step=200
        ),
    ):
        with pytest.raises(ValueError, match=r"at one sparsity.*from step 0 on"):
            make(keras, method, late)


def test_straight_through_masks_of_several_steps_are_refused(keras):
    with pytest.raises(ValueError, match="frequency=1.*method='dpf'"):
        make(keras, "straight_through", RAMP)


def test_soft_threshold_is_st3_and_another_is_refused(keras):
    layer = keras.layers.Dense(4)
    soft = dpf_tf.prune_low_magnitude_dpf(layer, 0.5, threshold="soft")
    assert soft.settings.method == methods.ST3(rescale="auto")
    with pytest.raises(ValueError, match="'hard', 'soft'.*'medium'"):
        dpf_tf.prune_low_magnitude_dpf(layer, 0.5, threshold="medium")


@pytest.mark.parametrize("method", ["rigl", "snip"])
def test_a_scheme_of_gradients_without_data_tells_how_to_give_them(keras, method):
    model = make(keras, method)
    with pytest.raises(ValueError, match=r"PruningCallback\(data=training_dataset\)"):
        fit(model)
    with pytest.raises(ValueError, match=r"MaskUpdater\(model, data=training_datas"):
        dpf_tf.MaskUpdater(model, total_steps=10)


def test_data_that_are_no_batches_with_targets_are_refused(keras):
    x = np.ones((32, 6), np.float32)
    with pytest.raises(TypeError, match="iterable of batches.*type ndarray"):
        dpf_tf.PruningCallback(data=x)
    with pytest.raises(ValueError, match=r"have no targets.*`\(x, y\)`"):
        fit(make(keras, "snip"), dpf_tf.PruningCallback(data=[x]))


def test_a_training_in_which_nothing_is_dropped_and_grown_is_warned_of(keras):
    """Of 16 steps, where the share that moves is zero from step 12 on."""
    x, y = np.ones((4, 6), np.float32), np.ones((4, 1), np.float32)

    def trained(schedule):
        model = make(keras, "rigl", schedule)
        fit(model, dpf_tf.PruningCallback(settle=0, data=[(x, y)]))

    def falling(frequency):
        return dpf_tf.PolynomialDecay(
            final_sparsity=0.5, initial_sparsity=0.5, frequency=frequency
        )

    constant = dpf_tf.ConstantSparsity
    for idle in (falling(100), falling(12), constant(0.5, frequency=100)):
        with pytest.warns(
            UserWarning, match=r"RigL moves .*steps 0 to 15,.* there is none"
        ):
            trained(idle)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for acting in (falling(8), constant(0.5, frequency=8)):
            trained(acting)


def test_a_loop_of_ones_own_must_name_the_optimizer_whose_momentum_is_asked(keras):
    model = make(keras, "sparse_momentum")
    model.optimizer = None
    with pytest.raises(ValueError, match=r"MaskUpdater\(model, optimizer=optimizer\)"):
        dpf_tf.MaskUpdater(model, total_steps=10, epoch_steps=2)


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad"])
def test_sparse_momentum_without_a_momentum_is_refused_at_once(keras, optimizer):
    optimizer = getattr(keras.optimizers, optimizer)(0.01)
    model = make(keras, "sparse_momentum", optimizer=optimizer)
    name = type(optimizer).__name__
    with pytest.raises(ValueError, match=rf"{name} keeps none.*momentum=0\.9"):
        fit(model)
    assert int(tf.convert_to_tensor(optimizer.iterations)) == 0


def test_an_epoch_schedule_without_its_length_is_refused(keras):
    model = make(keras, "sparse_momentum")
    with pytest.raises(ValueError, match="epoch"):
        dpf_tf.MaskUpdater(model, total_steps=10).update(0)


def test_layers_wrapped_for_another_scheme_are_not_wrapped_again(keras):
    with pytest.raises(ValueError, match="other settings"):
        dpf_tf.prune(make(keras, "gmp"), 0.5, "dpf")


# --- A scheme of one's own ---


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every(methods.Method):
    """Keeps every n-th weight."""

    n: int = 2

    def masks(self, round):
        found = [np.arange(w.size).reshape(w.shape) for w in round.kernels]
        return [places % self.n == 0 for places in found]


def test_a_scheme_of_ones_own_trains_saves_and_strips(keras, tmp_path):
    registered = {"Every": Every}
    model = make(keras, Every(n=4), RAMP)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", registered)
    assert loaded.layers[0].settings.method == Every(n=4)
    kernel = dpf_tf.strip_pruning(loaded).get_layer("a").get_weights()[0]
    assert np.flatnonzero(kernel).tolist() == list(range(0, kernel.size, 4))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrong(methods.Method):
    """Returns what is no mask."""

    def masks(self, round):
        return [kernel != 0 for kernel in round.kernels][:1]


def test_masks_of_a_wrong_form_are_refused_with_what_was_expected(keras):
    with pytest.raises(ValueError, match=r"Wrong.masks must return.*bool\[6, 8\]"):
        fit(make(keras, Wrong(), RAMP))


def own(**overridden):
    """A scheme that differs from DPF in what is given."""
    return dataclasses.make_dataclass(
        "Own",
        [],
        bases=(methods.Method,),
        namespace=overridden,
        frozen=True,
        kw_only=True,
    )()


def half_at_random(method, round):
    count = [w.size // 2 for w in round.kernels]
    return methods.select([round.random(i) for i in range(len(count))], count)


def extra_state(method, round):
    round.states[0]["other"] = np.zeros((), np.float32)
    return round.masks


def no_state(method, round):
    round.states[0] = None
    return round.masks


def half_state(method, round):
    del round.states[0]
    return round.masks


def wide_state(method, round):
    round.states[0] = {"n": np.ones(2)}
    return round.masks


@pytest.mark.parametrize(
    ("overridden", "error", "message"),
    [
        ({"needs": "gradients"}, TypeError, "`needs` of Own is a frozenset of words"),
        ({"restarts": ("weights",)}, TypeError, "`restarts` of Own is a frozenset"),
        ({"masks": lambda *_: None}, ValueError, "Own.masks must.* Returned: None"),
        (
            {"masks": lambda _, round: [tf.constant(m) for m in round.masks]},
            ValueError,
            "Own.masks must return a list with a boolean array",
        ),
        (
            {"masks": lambda _, round: [np.zeros_like(m) for m in round.masks]},
            ValueError,
            "keeps no weight of a/kernel",
        ),
        (
            {"masks": extra_state},
            ValueError,
            r"Expected: \[{}, {}\]. .*{'other': \(\)}",
        ),
        (
            {"masks": lambda _, round: round.largest([w.T for w in round.kernels])},
            ValueError,
            r"a/kernel.*of the kernel's shape. Expected: \[\(6, 8\).*\[\(8, 6\)",
        ),
        (
            {
                "masks": lambda _, round: round.largest(
                    [w * np.nan for w in round.kernels]
                )
            },
            ValueError,
            "a/kernel.*scores of your own",
        ),
        ({"masks": no_state}, ValueError, r"Expected: \[{}, {}\]. Found: \[None, {}\]"),
        ({"masks": half_state}, ValueError, r"Expected: \[{}, {}\]. Found: \[{}\]"),
        (
            {"state": lambda *_: {"n": np.ones(())}, "masks": wide_state},
            ValueError,
            r"Expected: \[{'n': \(\)}.*Found: \[{'n': \(2,\)}",
        ),
        ({"state": lambda *_: {"mask": np.ones(())}}, ValueError, "name of the mask"),
        ({"schedule": lambda *_: "late"}, TypeError, "must be a target.*'late'"),
    ],
)
def test_a_scheme_that_breaks_its_contract_is_told_so(
    keras, overridden, error, message
):
    with pytest.raises(error, match=message):
        dpf_tf.MaskUpdater(make(keras, own(**overridden)), total_steps=1).update(0)


@pytest.mark.parametrize("returned", [None, tf.zeros([8])])
def test_a_scheme_whose_gradient_is_not_the_kernels_is_refused(keras, returned):
    model = make(keras, own(backward=lambda *_: returned), RAMP)
    with pytest.raises(ValueError, match=r"`backward` must return.*shape \(8, 4\)"):
        fit(model)


def test_a_scheme_that_looks_at_momenta_without_saying_so_is_told_to(keras):
    layer = keras.layers.Dense(4)
    layer.build((None, 4))
    looking = own(masks=lambda _, round: round.largest(round.momenta))
    with pytest.raises(ValueError, match="Own looks at.* no optimizer.*needs = frozen"):
        dpf_tf.MaskUpdater(dpf_tf.prune(layer, 0.5, looking), total_steps=1).update(0)


@pytest.mark.parametrize(
    "structure", [dpf_tf.Filters(), dpf_tf.Block(1, 4), dpf_tf.NofM(2, 4)]
)
def test_a_scheme_whose_masks_do_not_fit_the_structure_is_refused(keras, structure):
    schedule = dpf_tf.ConstantSparsity(0.5)
    scattered = make(keras, own(masks=half_at_random), schedule, structure=structure)
    with pytest.raises(ValueError, match=r"do not fit .* for a/kernel.*round.largest"):
        dpf_tf.MaskUpdater(scattered).update(0)
    random = own(masks=lambda _, round: round.largest([*map(round.random, range(2))]))
    whole = make(keras, random, schedule, structure=structure)
    assert dpf_tf.MaskUpdater(whole).update(0).sparsity > 0.39  # Of smaller units.


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"loss": "mse"}, TypeError, "`loss` must be a function.*Received: 'mse'"),
        ({"loss": tf_keras.losses.Huber()}, TypeError, "`loss` must be a func"),
        ({"loss": tf_keras.losses.mse}, TypeError, "`loss` must be a function"),
        ({"optimizer": "sgd"}, TypeError, "`optimizer` must be .*Received: 'sgd'"),
        ({"optimizer": tf_keras.optimizers.SGD}, TypeError, "`optimizer` must be"),
        ({"data": "train"}, TypeError, "`data` must be an iterable.*type str"),
        ({"data": {"x": 1}}, TypeError, "`data` must be an iterable.*type dict"),
        ({"total_steps": 0.5}, TypeError, "`total_steps` must be"),
    ],
)
def test_what_an_updater_cannot_use_is_refused_when_it_is_made(
    keras, given, error, message
):
    with pytest.raises(error, match=message):
        dpf_tf.MaskUpdater(make(keras), **given)


def test_lengths_may_be_tensors(keras):
    model = make(keras)
    steps = tf.data.Dataset.range(10).cardinality() * 4
    dpf_tf.MaskUpdater(model, total_steps=steps)
    assert pruned_layers(model)[0].settings.schedule.end_step == 30


@pytest.mark.parametrize("method", ["rigl", "snip"])
def test_a_scheme_of_gradients_without_a_loss_is_told_so_when_it_begins(keras, method):
    layers = [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(4)]
    model = dpf_tf.prune(keras.Sequential(layers), 0.5, method)
    with pytest.raises(ValueError, match="gradient of the loss.*loss=loss"):
        dpf_tf.MaskUpdater(model, optimizer=keras.optimizers.SGD(), data=lambda t: 0)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("allocaton", "Did you mean `allocation`"),
        ("excludes", "Did you mean `exclude`"),
        ("pruned_decai", "Did you mean `pruned_decay`"),
        ("end_step", "belong to the schedule"),
        ("optimizer", "MaskUpdater"),
    ],
)
def test_an_option_that_is_none_comes_with_what_may_be_meant(option, message):
    with pytest.raises(TypeError, match=f"no option '{option}'.*{message}"):
        methods.get("dpf", **{option: 1})


def test_layers_can_be_pruned_by_several_schemes(keras, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, name="a"),
            keras.layers.Dense(10, name="b"),
            keras.layers.Dense(2, name="c"),
        ]
    )
    model = dpf_tf.prune(model, 0.25, "gmp", layers="a/")
    with pytest.raises(
        ValueError, match="'a' is wrapped already, with other .*exclude"
    ):
        dpf_tf.prune(model, 0.75, "dpf")
    model = dpf_tf.prune(model, 0.75, "dpf", exclude="a/")
    model.compile("sgd", "mse")
    fit(model, epochs=5)
    model.save(tmp_path / "model.keras")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        found = {path: 1 - m.mean() for path, m in dpf_tf.get_masks(each).items()}
        assert found == {"a/kernel": 0.25, "b/kernel": 0.75}
        kinds = [type(layer.settings.method) for layer in pruned_layers(each)]
        assert kinds == [methods.GMP, methods.DPF]
        kernel = dpf_tf.strip_pruning(each).get_layer("a").get_weights()[0]
        assert (kernel == 0).sum() == 12


def test_whole_filters_are_pruned_before_single_weights(keras):
    layers = [keras.layers.Dense(8, name="a"), keras.layers.Dense(10, name="b")]
    layers = [keras.Input((6,)), *layers, keras.layers.Dense(2, name="c")]
    model = dpf_tf.prune(
        keras.Sequential(layers), 0.5, structure=dpf_tf.Filters(), exclude="b/"
    )
    both = dpf_tf.prune(model, 0.75, layers="b/")
    dpf_tf.MaskUpdater(both, total_steps=1).update(16)
    found = {path: 1 - m.mean() for path, m in dpf_tf.get_masks(both).items()}
    assert found == {"a/kernel": 0.5, "b/kernel": 0.75}
    with pytest.raises(ValueError, match="whole filters are pruned before"):
        dpf_tf.prune(model, 0.25, structure=dpf_tf.Filters(), layers="b/")


def test_every_public_scheme_tells_its_options_and_its_source():
    for cls in methods.METHODS.values():
        text = inspect.getdoc(cls)
        assert "References:" in text and "Example:" in text, cls
        own = [field.name for field in dataclasses.fields(cls)]
        assert all(f"{name}:" in text for name in own), cls
        assert cls.__name__ in methods.__all__


# --- Masks of one's own ---


def test_masks_of_a_training_can_be_trained_again_from_the_first_weights(keras):
    model, again = make(keras, schedule=RAMP), make(keras)
    first = model.get_weights()
    again.set_weights(first)
    fit(model)
    masks = dpf_tf.get_masks(model)
    dpf_tf.set_masks(again, masks)
    dpf_tf.freeze_masks(again)
    x = np.ones((32, 6), np.float32)
    again.fit(x, x[:, :1], verbose=0)
    found = dpf_tf.get_masks(again)
    assert sum(int((~mask).sum()) for mask in found.values()) == (48 + 32) // 2
    assert_bits_equal(list(found.values()), list(masks.values()))
    for layer in pruned_layers(again):
        for path, kernel in layer.masked_kernels.items():
            mask = masks[f"{layer.name}/{path}"]
            assert not kernel.numpy()[~mask].any()


def test_set_masks_does_not_hold_on_to_the_array_it_is_given(keras):
    model = make(keras)
    masks = one_weight_each(model)
    dpf_tf.set_masks(model, masks)
    for mask in masks.values():
        mask[...] = True
    assert all(mask.sum() == 1 for mask in dpf_tf.get_masks(model).values())


def one_weight_each(model):
    masks = {path: ~mask for path, mask in dpf_tf.get_masks(model).items()}
    for mask in masks.values():
        mask.flat[0] = True
    return masks


def test_masks_that_do_not_fit_the_structure_are_refused(keras):
    model = make(keras, structure=dpf_tf.Filters())
    masks = dpf_tf.get_masks(model)
    masks["b/kernel"][:, 1] = False
    dpf_tf.set_masks(model, masks)
    masks["b/kernel"][0, 1] = True
    with pytest.raises(ValueError, match=r"masks of b/kernel do not fit Filters"):
        dpf_tf.set_masks(model, masks)
    assert dpf_tf.get_masks(model)["b/kernel"].sum() == 24
    with pytest.raises(TypeError, match="must map kernels' paths.*type list"):
        dpf_tf.set_masks(model, list(masks.values()))


def test_masks_that_are_made_final_too_early_are_warned_of(keras):
    model = make(keras, schedule=RAMP)
    with pytest.warns(UserWarning, match="final at sparsity 0.0000, and .* 0.5"):
        dpf_tf.freeze_masks(model)
    model = make(keras, schedule=RAMP)
    fit(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dpf_tf.freeze_masks(model.get_layer("a"))
        dpf_tf.freeze_masks(model)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda masks: masks.pop("a/kernel"), ValueError, "one side only: a/kernel"),
        (lambda masks: masks.update(c=1), ValueError, "one side only: c"),
        (
            lambda masks: masks.update({"a/kernel": np.ones((6, 8))}),
            TypeError,
            "a/kernel: an array of float64",
        ),
        (
            lambda masks: masks.update({"a/kernel": np.ones((8, 6), bool)}),
            ValueError,
            r"shape \(6, 8\). Received: \(8, 6\)",
        ),
        (
            lambda masks: masks.update({"b/kernel": np.zeros((8, 4), bool)}),
            ValueError,
            "b/kernel keeps no weight",
        ),
    ],
)
def test_wrong_masks_are_refused_and_nothing_is_changed(keras, change, error, message):
    model = make(keras)
    masks = one_weight_each(model)
    change(masks)
    with pytest.raises(error, match=message):
        dpf_tf.set_masks(model, masks)
    assert all(mask.all() for mask in dpf_tf.get_masks(model).values())
