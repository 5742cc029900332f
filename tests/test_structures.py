"""Filters, blocks and n of m weights: pruned whole, exactly, and with feedback."""

import itertools
import math
import warnings

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import dpf_tf
from tests.helpers import assert_bits_equal, pruned_layers, values
from tests.test_methods import (
    BATCH,
    EPOCHS,
    STEPS,
    Definition,
    Killed,
    batches,
    make,
    regression,
    state,
)


class Structured(Definition):
    """Training in NumPy whose units are listed one by one."""

    target = 0.75

    def units(self):
        """Lists units: for each kernel's index tuples of which weights go together."""
        raise NotImplementedError

    def sparsity(self, step):
        return super().sparsity(step) / 0.75 * self.target

    def new_masks(self):
        units = self.units()
        kept = len(units) - round(self.sparsity(self.step_number) * len(units))
        return self.best(units, kept, [True, False])

    def best(self, units, count, keep_others):
        kernels = self.ranked()
        scores = [
            math.sqrt(np.mean([kernels[k][at] ** 2 for k, at in unit]))
            for unit in units
        ]
        (chosen,) = self.top([np.array(scores)], count)
        masks = [np.ones(kernel.shape, bool) for kernel in kernels]
        for unit, stays in zip(units, chosen, strict=True):
            for k, at in unit:
                masks[k][at] = stays
        return masks

    def ranked(self):
        return self.kernels


class Columns(Structured):
    """The filters of the first layer; the second makes the model's outputs."""

    def units(self):
        return [[(0, (row, column)) for row in range(12)] for column in range(24)]


class Blocks(Structured):
    outputs, inputs = 1, 4

    def units(self):
        units = []
        for k, (rows, columns) in enumerate([(12, 24), (24, 6)]):
            for i in range(0, rows, self.inputs):
                for j in range(0, columns, self.outputs):
                    below = range(i, min(rows, i + self.inputs))
                    beside = range(j, min(columns, j + self.outputs))
                    units.append([(k, at) for at in itertools.product(below, beside)])
        return units


class UnevenBlocks(Blocks):
    outputs, inputs = 5, 7


class Groups(Structured):
    n, m, target = 2, 4, 0.5

    def new_masks(self):
        always, others = [], []
        for k, kernel in enumerate(self.ranked()):
            for j in range(kernel.shape[1]):
                for i in range(0, kernel.shape[0], self.m):
                    group = range(i, min(kernel.shape[0], i + self.m))
                    order = sorted(group, key=lambda r: (-abs(kernel[r, j]), r))
                    always += [(k, (r, j)) for r in order[: self.n]]
                    others += [(k, (r, j)) for r in order[self.n :]]
        total = len(always) + len(others)
        keep = total - round(self.sparsity(self.step_number) * total)
        masks = self.best([[x] for x in others], max(0, keep - len(always)), None)
        for k, at in always:
            masks[k][at] = True
        return masks


class UnevenGroups(Groups):
    n, m, target = 2, 5, 0.6


class GMP(Structured):
    masked_gradient, cleared = True, ("parameters", "buffers")

    def ranked(self):
        return [
            np.where(m, w, 0) for m, w in zip(self.masks, self.kernels, strict=True)
        ]


class StraightThrough(Columns):
    def due(self, step):
        return True


class OneShot(GMP, Columns):
    def due(self, step):
        return step == STEPS // 2

    def sparsity(self, step):
        return 0.75


class SFP(Columns):
    def due(self, step):
        return step % 10 == 0  # An epoch.

    def sparsity(self, step):
        return 0.75 if step else 0.0

    def train(self, x, y):
        due, step = self.due(self.step_number), self.step_number
        super().train(x, y)
        return due and step

    def new_masks(self):
        masks = super().new_masks()
        for kernel, mask in zip(self.kernels, masks, strict=True):
            kernel[~mask] = 0
        return masks


CASES = {
    "dpf, filters": (Columns, "dpf", dpf_tf.Filters()),
    "gmp, filters": (type("", (GMP, Columns), {}), "gmp", dpf_tf.Filters()),
    "straight_through, filters": (
        StraightThrough,
        "straight_through",
        dpf_tf.Filters(),
    ),
    "one_shot, filters": (OneShot, "one_shot", dpf_tf.Filters()),
    "sfp": (SFP, "sfp", None),
    "dpf, blocks": (Blocks, "dpf", dpf_tf.Block(1, 4)),
    "gmp, uneven blocks": (
        type("", (GMP, UnevenBlocks), {}),
        "gmp",
        dpf_tf.Block(5, 7),
    ),
    "dpf, 2 of 4": (Groups, "dpf", dpf_tf.NofM(2, 4)),
    "gmp, 2 of 5": (type("", (GMP, UnevenGroups), {}), "gmp", dpf_tf.NofM(2, 5)),
}


def test_every_scheme_of_whole_filters_is_held_to_a_definition():
    schemes = dpf_tf.methods.METHODS.items()
    own = {name for name, scheme in schemes if scheme.only_for == "filters"}
    assert own <= {method for _, method, _ in CASES.values()}


every_case = pytest.mark.parametrize("case", CASES)
one_case_each = pytest.mark.parametrize("case", ["sfp", "dpf, blocks", "dpf, 2 of 4"])


def pruned(keras, case, schedule=None):
    definition, method, structure = CASES[case]
    schedule = schedule or definition.target
    return make(keras, method, schedule, structure=structure)


def fit(model, epochs, *callbacks, settle=0.0):
    x, y = regression()
    model.fit(
        x, y, BATCH, epochs=epochs, verbose=0, shuffle=False,
        callbacks=[dpf_tf.PruningCallback(settle=settle), *callbacks],
    )  # fmt: skip


@every_case
def test_training_equals_the_definition_in_numpy(keras, case):
    model = pruned(keras, case)
    oracle = CASES[case][0](values(model.trainable_variables))
    seen = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(list(dpf_tf.get_masks(self.model).values()))

    fit(model, EPOCHS, Record())
    assert len(seen) == STEPS
    for masks, (inputs, targets) in zip(seen, batches(), strict=True):
        oracle.train(inputs, targets)
        assert_bits_equal(masks, oracle.masks[: len(masks)])
    assert min(oracle.gaps) > 1e-6
    for left, right in zip(
        values(model.trainable_variables), oracle.parameters, strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=5e-6)
    kernels = [w for w in dpf_tf.strip_pruning(model).get_weights() if w.ndim == 2]
    for kernel, expected in zip(kernels, oracle.pruned(), strict=True):
        np.testing.assert_allclose(kernel, expected, rtol=1e-3, atol=5e-6)


@one_case_each
def test_a_killed_fit_resumes_as_if_nothing_had_happened(keras, case, tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                raise Killed

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    whole, broken, resumed = (pruned(keras, case) for _ in "123")
    for other in (broken, resumed):
        other.set_weights(whole.get_weights())
    fit(whole, 6)
    with pytest.raises(Killed):
        fit(broken, 6, Kill(), backup())
    fit(resumed, 6, backup())
    assert_bits_equal(state(resumed), state(whole))


@one_case_each
def test_a_saved_model_trains_on_as_if_it_had_not_been_saved(keras, case, tmp_path):
    model = pruned(keras, case)
    fit(model, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].settings == model.layers[0].settings
    for each in (model, loaded):
        fit(each, 3)
    assert_bits_equal(state(loaded), state(model))


@one_case_each
def test_evaluation_leaves_every_variable_as_it_is(keras, case):
    model, (x, y) = pruned(keras, case), regression()
    fit(model, 5)
    before = state(model)
    model.predict(x, verbose=0)
    model.evaluate(x, y, verbose=0)
    count = len(model.variables)  # An evaluation may count in the optimizer.
    assert_bits_equal(state(model)[:count], before[:count])


@one_case_each
@pytest.mark.parametrize("settle", [0, 0.2])
def test_the_stripped_model_computes_the_same_with_exact_zeros(keras, case, settle):
    model, (x, _) = pruned(keras, case), regression()
    fit(model, 10, settle=settle)
    stripped = dpf_tf.strip_pruning(model)
    outputs = [each.predict(x, verbose=0) for each in (model, stripped)]
    np.testing.assert_array_equal(*outputs)
    for path, mask in dpf_tf.get_masks(model).items():
        kernel = stripped.get_layer(path.split("/")[0]).kernel.numpy()
        assert (~mask).any()
        assert not kernel[~mask].any()
        assert not np.signbit(kernel[~mask]).any()


@every_case
def test_pruned_weights_get_the_gradient_that_the_scheme_says(keras, case):
    model, (x, y) = pruned(keras, case), regression()
    fit(model, 10)
    for layer in pruned_layers(model):  # Final masks would silence filters as well.
        layer.permit(by=model)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
    kernels = [k for layer in pruned_layers(model) for k in layer.kernels.values()]
    masks = dpf_tf.get_masks(model).values()
    for gradient, mask in zip(tape.gradient(loss, kernels), masks, strict=True):
        assert gradient.numpy()[mask].any()
        assert gradient.numpy()[~mask].any() != CASES[case][0].masked_gradient


# What a unit is.


def mask_of(wrapper):
    """Returns the mask of a layer's only kernel."""
    (mask,) = dpf_tf.get_masks(wrapper).values()
    return mask


def one_layer(keras, shape, sparsity, structure, layer=None, **options):
    """Prunes one kernel once; returns its mask."""
    layer = layer or keras.layers.Dense(shape[-1], use_bias=False)
    layer.build((None, *shape[:-1]) if len(shape) == 2 else shape)
    schedule = dpf_tf.ConstantSparsity(sparsity)
    wrapper = dpf_tf.prune(layer, schedule, structure=structure, **options)
    dpf_tf.MaskUpdater(wrapper).update(0)
    return mask_of(wrapper)


@hypothesis.given(
    inputs=st.integers(1, 30),
    units=st.integers(1, 20),
    sides=st.tuples(st.integers(1, 6), st.integers(1, 9)).filter(lambda s: s != (1, 1)),
    sparsity=st.floats(0, 0.99),
)
@hypothesis.settings(max_examples=40)
def test_blocks_stay_or_go_whole_and_their_number_is_exact(
    inputs, units, sides, sparsity
):
    import keras

    block = dpf_tf.Block(*sides)
    mask = one_layer(keras, (inputs, units), sparsity, block)
    rows, columns = range(0, inputs, sides[1]), range(0, units, sides[0])
    states = [
        np.unique(mask[i : i + sides[1], j : j + sides[0]])
        for i in rows
        for j in columns
    ]
    assert all(len(state) == 1 for state in states)
    count = len(states)
    kept = sum(bool(state[0]) for state in states)
    assert kept == max(1, count - round(sparsity * count))


@hypothesis.given(
    inputs=st.integers(1, 30),
    m=st.integers(2, 9),
    share=st.floats(0, 1),
    data=st.data(),
)
@hypothesis.settings(max_examples=40)
def test_the_n_largest_of_every_m_always_stay_and_the_count_is_exact(
    inputs, m, share, data
):
    import keras

    structure = dpf_tf.NofM(data.draw(st.integers(1, m - 1)), m)
    layer = keras.layers.Dense(5, use_bias=False)
    layer.build((None, inputs))
    target = structure.sparsity
    schedule = dpf_tf.PolynomialDecay(
        final_sparsity=target, initial_sparsity=share * target, end_step=10
    )
    wrapper = dpf_tf.prune(layer, schedule, structure=structure)
    updater = dpf_tf.MaskUpdater(wrapper)
    for step, sparsity in ((0, share * target), (16, target)):
        updater.update(step)
        mask, kernel = mask_of(wrapper), layer.kernel.numpy()
        always = 0
        for i in range(0, inputs, m):
            for j in range(5):
                group = np.abs(kernel[i : i + m, j])
                largest = np.argsort(-group, kind="stable")[: structure.n]
                assert mask[i : i + m, j][largest].all()
                always += len(largest)
        assert mask.sum() == max(always, 5 * inputs - round(sparsity * 5 * inputs))
    assert mask.sum() == always


def test_blocks_and_groups_of_other_kernels_run_along_the_input_channels(keras):
    convolution = keras.layers.Conv2D(6, 3, use_bias=False)
    convolution.build((None, 8, 8, 8))
    transposed = keras.layers.Conv2DTranspose(6, 3, use_bias=False)
    transposed.build((None, 8, 8, 8))
    einsum = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 6))
    einsum.build((None, 5, 8))
    for layer, axis in ((convolution, 2), (transposed, 3), (einsum, 0)):
        for structure in (dpf_tf.Block(1, 4), dpf_tf.NofM(2, 4)):
            schedule = dpf_tf.ConstantSparsity(0.5)
            fresh = type(layer).from_config(layer.get_config())
            fresh.build((None, 5, 8) if layer is einsum else (None, 8, 8, 8))
            wrapper = dpf_tf.prune(fresh, schedule, structure=structure)
            dpf_tf.MaskUpdater(wrapper).update(0)
            mask = np.moveaxis(mask_of(wrapper), axis, -1)
            kept = set(mask.reshape(-1, 4).sum(1).tolist())
            assert kept == ({0, 4} if isinstance(structure, dpf_tf.Block) else {2})


def test_nan_in_a_unit_is_refused_with_the_kernels_name(keras):
    for structure in (dpf_tf.Filters(), dpf_tf.Block(1, 4), dpf_tf.NofM(2, 4)):
        layer = keras.layers.Dense(4, name="broken")
        layer.build((None, 8))
        layer.kernel.assign(np.full((8, 4), np.nan, np.float32))
        schedule = dpf_tf.ConstantSparsity(0.5)
        wrapper = dpf_tf.prune(layer, schedule, structure=structure)
        with pytest.raises(ValueError, match=r"broken/kernel.*diverged"):
            dpf_tf.MaskUpdater(wrapper).update(0)


# Filters in a graph.


def residual(keras):
    """Two blocks with an addition, a depthwise convolution and a concatenation."""
    layers, images = keras.layers, keras.Input((8, 8, 3))
    x = stem = layers.Conv2D(8, 3, padding="same", name="stem")(images)
    x = layers.Conv2D(6, 3, padding="same", name="inner")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(8, 1, name="outer")(layers.ReLU()(x))
    x = layers.Add(name="add")([x, stem])
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    y = layers.Conv2D(4, 1, name="left")(x)
    z = layers.Conv2D(4, 1, name="right")(x)
    x = layers.GlobalAveragePooling2D()(layers.Concatenate()([y, z]))
    x = layers.Dense(10, activation="relu", name="hidden")(x)
    return keras.Model(images, layers.Dense(2, name="logits")(x))


def filters_kept(model):
    """Maps a kernel's path to which of its filters have any weight."""
    return {
        path: mask.any(tuple(range(mask.ndim - 1))).tolist()
        if not path.startswith("depthwise")
        else mask.any((0, 1, 3)).tolist()
        for path, mask in dpf_tf.get_masks(model).items()
    }


def shrinkable(keras, target=0.5, **options):
    structure = dpf_tf.Filters(**options.pop("filters", {}))
    schedule = dpf_tf.ConstantSparsity(target)
    model = dpf_tf.prune_low_magnitude_dpf(
        residual(keras), schedule, structure=structure, **options
    )
    return model


def test_tied_filters_go_together_and_the_number_of_units_is_exact(keras):
    model = shrinkable(keras, 0.6)
    dpf_tf.MaskUpdater(model).update(0)
    kept = filters_kept(model)
    assert kept["stem/kernel"] == kept["outer/kernel"]
    assert kept["stem/kernel"] == kept[next(k for k in kept if "depthwise" in k)]
    assert "logits/kernel" not in kept
    free = ("stem", "inner", "left", "right", "hidden")
    count = sum(len(kept[f"{name}/kernel"]) for name in free)
    assert sum(sum(kept[f"{name}/kernel"]) for name in free) == count - round(
        0.6 * count
    )
    for mask in dpf_tf.get_masks(model).values():
        assert (mask.any((0, 1, 2)[: mask.ndim - 1]) >= 0).all()


def test_the_score_is_the_root_mean_square_over_all_tied_filters(keras):
    model = shrinkable(keras, 0.5, layers="stem|outer|depthwise")
    dpf_tf.MaskUpdater(model).update(0)
    sums, size = np.zeros(8), 0
    for layer in pruned_layers(model):
        (kernel,) = layer.kernels.values()
        kernel = kernel.numpy().astype("float64").reshape(-1, 8)
        sums += (kernel**2).sum(0)
        size += len(kernel)
    largest = np.argsort(-np.sqrt(sums / size))[:4]
    kept = filters_kept(model)["stem/kernel"]
    assert sorted(largest.tolist()) == np.flatnonzero(kept).tolist()


def test_l1_ranks_the_mean_magnitude(keras):
    layer = keras.layers.Dense(2, use_bias=False)
    layer.build((None, 4))
    # L2: the first is larger; L1: the second.
    layer.kernel.assign(np.float32([[3, 1], [0, 1], [0, 1], [0, 1]]))
    for norm, expected in (("l2", [True, False]), ("l1", [False, True])):
        structure = dpf_tf.Filters(norm=norm)
        fresh = type(layer).from_config(layer.get_config())
        fresh.build((None, 4))
        fresh.kernel.assign(layer.kernel)
        wrapper = dpf_tf.prune(fresh, dpf_tf.ConstantSparsity(0.5), structure=structure)
        dpf_tf.MaskUpdater(wrapper).update(0)
        assert mask_of(wrapper).all(0).tolist() == expected


def test_keep_residual_prunes_inner_filters_alone(keras):
    model = shrinkable(keras, filters={"keep_residual": True})
    dpf_tf.MaskUpdater(model).update(0)
    assert list(filters_kept(model)) == [
        "inner/kernel",
        "left/kernel",
        "right/kernel",
        "hidden/kernel",
    ]
    reasons = {s["path"]: s["reason"] for s in dpf_tf.sparsity_report(model)["skipped"]}
    assert "add" in reasons["stem/kernel"]
    assert reasons["logits/kernel"] == "makes the model's output"


def test_what_is_tied_to_a_dense_layer_stays_and_the_report_says_why(keras):
    model = shrinkable(keras, exclude="outer")
    dpf_tf.MaskUpdater(model).update(0)
    assert not {"stem/kernel", "outer/kernel"} & set(filters_kept(model))
    reasons = {s["path"]: s["reason"] for s in dpf_tf.sparsity_report(model)["skipped"]}
    assert reasons["stem/kernel"] == "tied to 'outer', which is not pruned with it"


@pytest.mark.parametrize(
    "allocation", [None, "uniform", "global", "global_normalized", {"left": 0.25}]
)
def test_allocations_share_units_among_sets_of_tied_layers(keras, allocation):
    model = shrinkable(keras, 0.5, allocation=allocation)
    dpf_tf.MaskUpdater(model).update(0)
    kept = {path: sum(each) for path, each in filters_kept(model).items()}
    if allocation in ("global", "global_normalized"):
        free = ("stem", "inner", "left", "right", "hidden")
        assert sum(kept[f"{name}/kernel"] for name in free) == 16  # Of 32.
        return
    assert kept["stem/kernel"] == kept["outer/kernel"] == 4
    assert (kept["inner/kernel"], kept["hidden/kernel"]) == (3, 5)
    assert kept["right/kernel"] == 2
    assert kept["left/kernel"] == (3 if isinstance(allocation, dict) else 2)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_every_set_of_filters_keeps_one_whatever_the_target(keras, allocation):
    model = shrinkable(keras, 0.99, allocation=allocation)
    dpf_tf.MaskUpdater(model).update(0)
    assert all(sum(each) >= 1 for each in filters_kept(model).values())


def test_in_a_subclassed_model_every_filter_is_a_unit_of_its_own(keras):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = dpf_tf.prune_low_magnitude_dpf(
                keras.layers.Dense(8), dpf_tf.ConstantSparsity(0.5), structure="filters"
            )
            self.last = keras.layers.Dense(1)

        def call(self, x):
            return self.last(self.first(x))

    model = Net()
    model(np.ones((2, 4), np.float32))
    dpf_tf.MaskUpdater(model).update(0)
    (mask,) = dpf_tf.get_masks(model).values()
    assert mask.any(0).sum() == mask.all(0).sum() == 4


def test_a_graph_inside_a_subclassed_model_keeps_its_ties(keras):
    inner = shrinkable(keras)

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = inner

        def call(self, x):
            return self.body(x)

    model = Net()
    model(np.ones((1, 8, 8, 3), np.float32))
    dpf_tf.MaskUpdater(model).update(0)
    masks = {path.split("/")[-2]: m for path, m in dpf_tf.get_masks(model).items()}
    kept = [masks[name].any((0, 1, 2)).tolist() for name in ("stem", "outer")]
    assert kept[0] == kept[1]


# Bad input.


@pytest.mark.parametrize(
    ("structure", "options", "error", "message"),
    [
        ("filter", {}, ValueError, "mean 'filters'"),
        (dpf_tf.Filters, {}, TypeError, "dpf_tf.Filters()"),
        (dpf_tf.NofM(2, 4), {"schedule": 0.9}, ValueError, "0.5. Received: 0.9"),
        (dpf_tf.NofM(2, 4), {"allocation": "erk"}, ValueError, "'erk' is not"),
        (dpf_tf.NofM(2, 4), {"allocation": {"a": 0.5}}, ValueError, "defined for n"),
        (dpf_tf.Filters(), {"allocation": "erk"}, ValueError, "for filters"),
        (dpf_tf.Filters(), {"method": "st3"}, ValueError, "not for filters"),
        (dpf_tf.Block(1, 4), {"method": "rigl"}, ValueError, "not for blocks"),
        ("unstructured", {"method": "sfp"}, ValueError, "defined for filters"),
        (dpf_tf.Block(1, 4), {"layers": "depthwise"}, ValueError, "left to prune"),
        (dpf_tf.Filters(), {"layers": "logits"}, ValueError, "the model's output"),
    ],
)  # fmt: skip
def test_what_a_structure_cannot_do_is_refused(
    keras, structure, options, error, message
):
    options = {"schedule": 0.5, "method": "dpf", **options}
    with pytest.raises(error, match=message):
        dpf_tf.prune(
            residual(keras),
            options.pop("schedule"),
            options.pop("method"),
            structure=structure,
            **options,
        )


@pytest.mark.parametrize(
    ("make_structure", "error", "message"),
    [
        (lambda: dpf_tf.Block(1, 1), ValueError, "unstructured"),
        (lambda: dpf_tf.Block(0, 4), ValueError, "at least 1"),
        (lambda: dpf_tf.Block(1, 2.5), TypeError, "whole number"),
        (lambda: dpf_tf.NofM(4, 4), ValueError, "smaller"),
        (lambda: dpf_tf.NofM(True, 4), TypeError, "whole number"),
        (lambda: dpf_tf.Filters(norm="linf"), ValueError, "'l2', 'l1'"),
        (lambda: dpf_tf.Filters(keep_residual=1), TypeError, "bool"),
    ],
)
def test_impossible_structures_are_refused(make_structure, error, message):
    with pytest.raises(error, match=message):
        make_structure()


def test_filters_of_a_model_that_is_not_built_cannot_be_followed(keras):
    model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="before it is built"):
        dpf_tf.prune_low_magnitude_dpf(model, 0.5, structure=dpf_tf.Filters())


def test_blocks_prune_dense_layers_alone_unless_others_are_asked_for(keras):
    schedule = dpf_tf.ConstantSparsity(0.5)
    model = dpf_tf.prune(residual(keras), schedule, structure=dpf_tf.Block(1, 4))
    assert list(dpf_tf.get_masks(model)) == ["hidden/kernel"]
    reasons = {s["path"]: s["reason"] for s in dpf_tf.sparsity_report(model)["skipped"]}
    assert reasons["stem/kernel"] == "blocks are faster in dense layers alone"
    model = dpf_tf.prune(
        residual(keras), schedule, structure=dpf_tf.Block(1, 4), layers="stem|inner"
    )
    assert list(dpf_tf.get_masks(model)) == ["stem/kernel", "inner/kernel"]


# Silence.


def shifted(keras, **options):
    """A residual net with batch norms whose shifts are not zero, and a loss."""
    layers, images = keras.layers, keras.Input((8, 8, 2))
    x = stem = layers.ReLU()(norm(keras, layers.Conv2D(8, 3, padding="same"), images))
    x = layers.ReLU()(norm(keras, layers.Conv2D(6, 3, padding="same"), x))
    x = norm(keras, layers.Conv2D(8, 3, padding="same", use_bias=False), x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([x, stem])))
    x = layers.Dense(10, activation="relu", bias_initializer="ones", name="hidden")(x)
    model = keras.Model(images, layers.Dense(2)(x))
    structure = dpf_tf.Filters(**options)
    model = dpf_tf.prune(model, 0.5, structure=structure, allocation="uniform")
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    return model


def norm(keras, layer, x):
    ones = keras.initializers.Constant(0.3)
    return keras.layers.BatchNormalization(beta_initializer=ones)(layer(x))


def train(model, epochs=5, settle=0.2, *callbacks):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 8, 8, 2)).astype("float32")
    y = rng.normal(size=(32, 2)).astype("float32")
    model.fit(
        x, y, 4, epochs=epochs, verbose=0, shuffle=False,
        callbacks=[dpf_tf.PruningCallback(settle=settle), *callbacks],
    )  # fmt: skip
    return x


def shifts(model):
    """Returns which shifts are zero in what the model computes with."""
    stripped = dpf_tf.strip_pruning(model)
    return [
        layer.beta.numpy() == 0 for layer in stripped.layers if hasattr(layer, "beta")
    ]


def dead(model):
    """Returns which filters are pruned, by kernel."""
    return [
        ~mask.any(tuple(range(mask.ndim - 1)))
        for mask in dpf_tf.get_masks(model).values()
    ]


def test_pruned_filters_are_silenced_when_the_masks_come_to_rest(keras):
    model, seen = shifted(keras), []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            masks = [
                m.numpy() for x in pruned_layers(self.model) for m in x.follower_masks
            ]
            seen.append(sum(int((~mask).sum()) for mask in masks))

    x = train(model, 5, 0.2, Watch())
    # Of 40 steps the last 8 are settled; the last masks are made before step 32.
    gone = [2 * 4, 2 * 3, 2 * 4, 4, 3, 5]
    assert seen == [0] * 32 + [sum(gone)] * 8
    stem, inner, outer, hidden = dead(model)
    for zero, expected in zip(shifts(model), (stem, inner, outer), strict=True):
        assert zero.tolist() == expected.tolist()
    assert (stem == outer).all()
    assert (inner.sum(), hidden.sum()) == (3, 5)
    small = dpf_tf.shrink(model)
    assert small.get_layer("hidden").units == 5
    np.testing.assert_allclose(
        small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )
    # No channel stays to carry a constant.
    shapes = [tuple(w.shape) for w in small.weights if len(w.shape) == 4]
    assert shapes == [(3, 3, 2, 4), (3, 3, 4, 3), (3, 3, 3, 4)]


def test_without_silence_the_constants_stay_and_shrinking_keeps_them(keras):
    model = shifted(keras, silent=False)
    x = train(model)
    assert not any(zero.any() for zero in shifts(model))
    assert not any(layer.follower_masks for layer in pruned_layers(model))
    small = dpf_tf.shrink(model)
    np.testing.assert_allclose(
        small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )
    shapes = [tuple(w.shape) for w in small.weights if len(w.shape) == 4]
    assert shapes[1][2:] == (5, 4)  # One channel of each carries a constant.


def test_masks_that_move_again_take_the_silence_back(keras):
    model = shifted(keras)
    train(model)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    with pytest.warns(UserWarning):  # The sparsity is set back.
        train(model, 3, 0.0)
    assert not any(zero.any() for zero in shifts(model))
    dpf_tf.freeze_masks(model)
    counts = [int(zero.sum()) for zero in shifts(model)]
    assert counts == [int(each.sum()) for each in dead(model)[:3]]


def test_silenced_weights_get_no_gradient_and_others_do(keras):
    model = shifted(keras)
    x = train(model)
    dpf_tf.freeze_masks(model)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x, training=True)))
    layers = pruned_layers(model)
    places = [place for layer in layers for place in layer.followers]
    masks = [mask.numpy() for layer in layers for mask in layer.follower_masks]
    gradients = tape.gradient(loss, [place.variable for place in places])
    moved = 0
    for gradient, mask in zip(gradients, masks, strict=True):
        assert not gradient.numpy()[~mask].any()
        moved += gradient.numpy()[mask].any()
    assert moved > len(masks) / 2  # Biases before a batch norm have none.


def test_silence_is_saved_and_survives_a_break(keras, tmp_path):
    model = shifted(keras)
    train(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_bits_equal(state(loaded), state(model))
    for ours, theirs in zip(shifts(loaded), shifts(model), strict=True):
        assert (ours == theirs).all()
        assert ours.any()


def small_net(keras):
    """A chain of two convolutions with batch norms, and one that makes the outputs."""
    layers, images = keras.layers, keras.Input((8, 8, 2))
    x = layers.ReLU()(norm(keras, layers.Conv2D(8, 3, name="a"), images))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.ReLU()(norm(keras, layers.Conv2D(8, 3, name="b"), x))
    return keras.Model(images, layers.Conv2D(2, 1, name="outputs")(x))


def halved(keras, model, **options):
    structure = dpf_tf.Filters(**options.pop("filters", {}))
    schedule = dpf_tf.ConstantSparsity(0.5)
    return dpf_tf.prune(
        model, schedule, structure=structure, allocation="uniform", **options
    )


def followers_off(model):
    """Counts the silenced entries of each layer that has followers."""
    return [
        int((~layer.follower_masks[0].numpy()).sum())
        for layer in pruned_layers(model)
        if layer.follower_masks
    ]


def test_silence_stays_where_a_layer_is_frozen_before_the_rest(keras):
    model = halved(keras, small_net(keras))
    updater = dpf_tf.MaskUpdater(model)
    updater.update(0)
    updater.silence()
    before = followers_off(model)
    assert before == [4] * len(before)
    x = np.ones((1, 8, 8, 2), np.float32)
    outputs = model.predict(x, verbose=0)
    dpf_tf.freeze_masks(model.get_layer("a"))
    model.get_layer("b").trainable = False
    dpf_tf.freeze_masks(model)
    assert followers_off(model) == before
    np.testing.assert_array_equal(model.predict(x, verbose=0), outputs)


def test_masks_that_are_given_take_their_silence_along(keras):
    model = halved(keras, small_net(keras))
    dpf_tf.MaskUpdater(model).update(0)
    dpf_tf.freeze_masks(model)
    masks = dpf_tf.get_masks(model)
    dpf_tf.set_masks(model, {path: ~mask for path, mask in masks.items()})
    for zero, each in zip(shifts(model), (0, 2), strict=True):
        kept = list(masks.values())[each].any((0, 1, 2))
        assert (zero == kept).all()  # The other half, now.


@pytest.mark.parametrize("execution", [1, 8])
def test_a_short_fit_ends_silent(keras, execution):
    model = halved(keras, small_net(keras))
    model.compile(keras.optimizers.SGD(0.01), "mse", steps_per_execution=execution)
    x, y = np.ones((64, 8, 8, 2), "float32"), np.ones((64, 4, 4, 2), "float32")
    model.fit(
        x, y[:, :2, :2], 4, epochs=1, verbose=0, callbacks=[dpf_tf.PruningCallback()]
    )
    assert followers_off(model) == [4] * len(followers_off(model))


def test_pruning_twice_with_equal_settings_changes_nothing(keras):
    model = halved(keras, small_net(keras))
    assert halved(keras, model) is model


def test_a_frozen_batch_norm_is_saved_and_loaded_with_its_silence(keras, tmp_path):
    model = halved(keras, small_net(keras))
    model.trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights)


def test_a_batch_norm_without_scale_is_silent_too(keras):
    layers, images = keras.layers, keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, use_bias=False, name="a")(images)
    x = layers.ReLU()(layers.BatchNormalization(scale=False, name="norm")(x))
    model = halved(keras, keras.Model(images, layers.Conv2D(2, 3, padding="same")(x)))
    model.get_layer("norm").moving_mean.assign(np.full(8, -1, np.float32))
    updater = dpf_tf.MaskUpdater(model)
    updater.update(0)
    updater.silence()
    assert dpf_tf.shrink(model).get_layer("a").filters == 4


def test_magnitude_pruning_leaves_the_given_model_as_it_was(keras):
    """Silence sets to zero the mean of a batch norm without scale."""
    layers, images = keras.layers, keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, use_bias=False, name="a")(images)
    norm = layers.BatchNormalization(scale=False)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(norm(x)))
    model = keras.Model(images, layers.Dense(2)(x))
    norm.moving_mean.assign(np.arange(1, 9, dtype=np.float32))
    before = values(model.variables)
    sparse = dpf_tf.magnitude_prune(model, 0.5, dpf_tf.Filters())
    assert_bits_equal(values(model.variables), before)
    assert np.sum(sparse.get_layer(norm.name).moving_mean.numpy() == 0) == 4

    class WithoutConfig(layers.Layer):
        def __init__(self, needed):
            super().__init__()
            self.needed = needed

        def build(self, shape):
            self.bias = self.add_weight(shape=(2,))
            self.built = True

        def call(self, inputs):
            return inputs + self.bias

    unclonable = keras.Model(images, WithoutConfig(object())(layers.Dense(2)(x)))
    with pytest.raises(Exception, match="WithoutConfig"):
        dpf_tf.magnitude_prune(unclonable, 0.5, dpf_tf.Filters())
    assert_bits_equal(values(model.variables), before)


def test_the_first_epoch_of_sfp_is_dense_in_layers_built_by_it_too(keras):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            hidden = keras.layers.Dense(8, name="hidden")
            schedule = dpf_tf.methods.SFP().schedule(0.5)
            self.hidden = dpf_tf.PruneLowMagnitudeDPF(hidden, schedule, method="sfp")
            self.logits = keras.layers.Dense(1)

        def call(self, inputs):
            return self.logits(self.hidden(inputs))

    shares = []

    class Log(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            (mask,) = values(model.hidden.masks.values())
            shares.append(mask.mean())

    model = Net()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x, y = np.random.default_rng(0).normal(size=(2, 64, 1)).astype("float32")
    callbacks = [dpf_tf.PruningCallback(settle=0), Log()]
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
    assert shares == [1.0] * 4 + [0.5] * 4


def test_sfp_that_goes_on_after_its_dense_epoch_warns_of_nothing(keras):
    x, y = np.random.default_rng(0).normal(size=(2, 64, 8)).astype("float32")
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(8)]
    )
    model = dpf_tf.prune(model, 0.5, "sfp")
    model.compile(keras.optimizers.SGD(0.01), "mse")
    callback = dpf_tf.PruningCallback(settle=0)
    with pytest.warns(UserWarning, match="No mask is due in this training"):
        model.fit(x, y, 16, verbose=0, callbacks=[callback])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="dpf_tf|keras|tf_keras")
        options = {"verbose": 0, "initial_epoch": 1, "epochs": 3}
        history = model.fit(x, y, 16, callbacks=[callback], **options)
    assert history.history["sparsity"] == [0.5, 0.5]


def test_what_is_wrapped_and_cannot_be_pruned_is_named(keras):
    schedule = dpf_tf.ConstantSparsity(0.5)
    wrapped = dpf_tf.prune(
        keras.layers.Dense(4, name="a"), schedule, structure="filters"
    )
    images = keras.Input((3,))
    model = keras.Model(images, wrapped(images))
    with pytest.warns(UserWarning, match="a/kernel: makes the model's output"):
        dpf_tf.MaskUpdater(model).update(0)


def test_an_excluded_batch_norm_is_not_silenced(keras):
    layers, images = keras.layers, keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, use_bias=False, name="a")(images)
    x = layers.BatchNormalization(name="norm")(x)
    whole = keras.Model(images, layers.Conv2D(2, 1)(layers.ReLU()(x)))
    model = halved(keras, whole, exclude="norm")
    assert [layer.name for layer in pruned_layers(model)] == ["a"]


def test_a_layer_by_itself_is_silent_with_its_bias(keras):
    layer = dpf_tf.prune(
        keras.layers.Dense(4, bias_initializer="ones"),
        dpf_tf.ConstantSparsity(0.5),
        structure=dpf_tf.Filters(),
    )
    layer.build((None, 3))
    dpf_tf.MaskUpdater(layer).update(0)
    dpf_tf.freeze_masks(layer)
    stripped = dpf_tf.strip_pruning(layer)
    assert (stripped.bias.numpy() != 0).sum() == 2


def test_graphs_that_share_layers_share_their_ties(keras):
    inner = halved(keras, small_net(keras))

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = keras.Model(inner.inputs, inner.get_layer("a").output)
            self.whole = inner

        def call(self, x):
            return self.whole(x)

    model = Net()
    model(np.ones((1, 8, 8, 2), np.float32))
    dpf_tf.MaskUpdater(model).update(0)
    kept = [mask.any((0, 1, 2)).sum() for mask in dpf_tf.get_masks(model).values()]
    # The encoder's outputs stay, with the depthwise filters behind them.
    assert kept[0] == 8
    assert kept[-1] == 4


def test_a_list_that_is_stripped_does_not_miss_targets_it_cannot_know(keras):
    model = halved(keras, residual(keras))
    dpf_tf.MaskUpdater(model).update(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        dpf_tf.strip_pruning([x for x in pruned_layers(model) if "batch" not in x.name])
