"""Wrapping, choosing, freezing and stripping: models of every form, wrong input."""

import numpy as np
import pytest
import tensorflow as tf

import dpf_tf

HALF = dpf_tf.ConstantSparsity(0.5, frequency=1)


def paths(model):
    return list(dpf_tf.get_masks(model))


def dense(keras, units=4, **options):
    return keras.layers.Dense(units, **options)


def functional(keras):
    """Two inputs, a shared layer, a nested model with a nested model, two outputs."""
    inner = keras.Sequential(
        [
            keras.Input((6,)),
            dense(keras, 6, name="first"),
            dense(keras, 5, name="last"),
        ],
        name="inner",
    )
    x = keras.Input((6,), name="x")
    middle = keras.Model(x, inner(dense(keras, 6, name="in")(x)), name="middle")
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared = dense(keras, 6, name="shared")
    joined = keras.layers.Concatenate()([middle(shared(a)), middle(shared(b))])
    top = dense(keras, 3, name="top")(joined)
    outputs = {
        "logits": keras.layers.Softmax(name="logits")(top),
        "value": dense(keras, 1, name="value")(joined),
    }
    return keras.Model({"a": a, "b": b}, outputs, name="whole")


def step(model):
    """One mask update."""
    dpf_tf.MaskUpdater(model, total_steps=1).update(0)


def forward(model, seed=0):
    rng = np.random.default_rng(seed)
    x = {name: rng.normal(size=(3, 6)).astype("float32") for name in ("a", "b")}
    return {k: v.numpy() for k, v in model(x).items()}


def test_masks_are_named_by_their_path_through_nested_models_once_each(keras):
    pruned = dpf_tf.prune_low_magnitude_dpf(functional(keras), HALF)
    assert sorted(paths(pruned)) == [
        "middle/in/kernel",
        "middle/inner/first/kernel",
        "middle/inner/last/kernel",
        "shared/kernel",
    ]


def test_the_pruned_model_keeps_structure_names_and_outputs(keras):
    model = functional(keras)
    pruned = dpf_tf.prune_low_magnitude_dpf(model, HALF)
    assert pruned.name == "whole" and type(pruned) is type(model)
    assert [layer.name for layer in pruned.layers] == [x.name for x in model.layers]
    before, after = forward(model), forward(pruned)
    assert list(before) == list(after) == ["logits", "value"]
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_training_the_pruned_model_trains_the_weights_that_were_given(keras):
    model = functional(keras)
    pruned = dpf_tf.prune_low_magnitude_dpf(model, HALF)
    kernel = model.get_layer("shared").kernel
    assert pruned.get_layer("shared").kernel is kernel
    before = kernel.numpy()
    pruned.compile("sgd", {"logits": "mse", "value": "mse"})
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    y = {"logits": np.ones((8, 3)), "value": np.ones((8, 1))}
    pruned.fit({"a": x, "b": x}, y, verbose=0, callbacks=[dpf_tf.PruningCallback()])
    assert (kernel.numpy() != before).any()


def test_stripping_gives_equal_outputs_and_its_own_variables(keras):
    pruned = dpf_tf.prune_low_magnitude_dpf(functional(keras), HALF)
    step(pruned)
    sparse = dpf_tf.strip_pruning(pruned)
    expected, found = forward(pruned), forward(sparse)
    for name in expected:
        np.testing.assert_array_equal(expected[name], found[name])
    assert not {id(v) for v in sparse.variables} & {id(v) for v in pruned.variables}
    assert "dpf_tf" not in str(sparse.get_config())
    kernel = sparse.get_layer("shared").kernel.numpy()
    assert (kernel == 0).any() and not np.signbit(kernel[kernel == 0]).any()


def test_a_compiled_model_with_a_loss_of_one_s_own_is_wrapped_uncompiled(keras):
    model = functional(keras)
    model.compile(
        "sgd", {"logits": lambda y, p: keras.losses.mse(y, p), "value": "mse"}
    )
    pruned = dpf_tf.prune_low_magnitude_dpf(model, HALF)
    with pytest.raises(Exception, match="(?i)compile"):
        pruned.fit({"a": np.ones((1, 6)), "b": np.ones((1, 6))}, verbose=0)


def test_the_layer_of_the_outputs_is_found_behind_weightless_layers(keras):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="body")(inputs)
    x = layers.Conv2D(10, 1, name="head")(x)
    x = layers.Activation("softmax")(layers.Reshape((10,))(layers.GlobalAvgPool2D()(x)))
    pruned = dpf_tf.prune_low_magnitude_dpf(keras.Model(inputs, x), HALF)
    assert paths(pruned) == ["body/kernel"]


def test_the_layers_of_the_outputs_are_found_behind_operations_and_joins(keras):
    layers = keras.layers
    inputs = keras.Input((8,))
    body = layers.Dense(8, name="body")(inputs)
    heads = [layers.Dense(4, name=name)(body) for name in ("box", "class")]
    softmax = keras.ops.softmax if keras.__name__ == "keras" else tf.nn.softmax
    outputs = layers.Concatenate()([heads[0], softmax(heads[1])])[:, :6]
    pruned = dpf_tf.prune_low_magnitude_dpf(keras.Model(inputs, outputs), HALF)
    assert paths(pruned) == ["body/kernel"]


def test_a_network_without_its_head_is_pruned_to_its_last_convolution(keras):
    layers = keras.layers
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", name="last")(inputs)
    x = layers.ReLU()(layers.Add()([x, inputs]))
    pruned = dpf_tf.prune_low_magnitude_dpf(keras.Model(inputs, x), HALF)
    assert paths(pruned) == ["last/kernel"]


def test_by_default_depthwise_kernels_embeddings_and_outputs_stay_dense(keras):
    layers = keras.layers
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, name="words")(inputs)
    x = layers.SeparableConv1D(8, 3, name="separable")(x)
    x = layers.DepthwiseConv1D(3, name="depthwise")(x)
    x = layers.LSTM(4, name="lstm")(x)
    pruned = dpf_tf.prune_low_magnitude_dpf(
        keras.Model(inputs, dense(keras, name="out")(x)), HALF
    )
    assert paths(pruned) == [
        "separable/pointwise_kernel",
        "lstm/cell/kernel",
        "lstm/cell/recurrent_kernel",
    ]
    skipped = {
        s["path"]: s["reason"] for s in dpf_tf.sparsity_report(pruned)["skipped"]
    }
    assert set(skipped.values()) == {
        "embedding", "depthwise", "makes the model's output",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"layers": "first|top"}, {"middle/inner/first", "top"}),
        ({"layers": ["^shared/", "value"]}, {"shared", "value"}),
        ({"layers": lambda layer: layer.name == "in"}, {"middle/in"}),
        ({"exclude": "inner/"}, {"middle/in", "shared"}),
        ({"layers": "middle", "exclude": ["last", "in/"]}, {"middle/inner/first"}),
    ],
)
def test_layers_replaces_the_default_and_exclude_takes_away(keras, options, expected):
    pruned = dpf_tf.prune_low_magnitude_dpf(functional(keras), HALF, **options)
    assert {path.removesuffix("/kernel") for path in paths(pruned)} == expected


def test_pointwise_chooses_the_1x1_convolutions(keras):
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((8, 8, 3)),
        layers.Conv2D(4, 3, name="stem"),
        layers.DepthwiseConv2D(1, name="depthwise"),
        layers.Conv2D(4, 1, name="expand"),
        layers.Conv2DTranspose(4, 1, name="transposed"),
    ])  # fmt: skip
    pruned = dpf_tf.prune_low_magnitude_dpf(model, HALF, layers=dpf_tf.pointwise)
    assert paths(pruned) == ["expand/kernel"]


def test_a_layer_or_list_given_by_itself_is_always_pruned(keras):
    model = functional(keras)
    top, shared = model.get_layer("top"), model.get_layer("shared")
    wrapped = dpf_tf.prune_low_magnitude_dpf([top, shared, top], HALF)
    assert wrapped[0] is wrapped[2]
    assert [layer.name for layer in wrapped] == ["top", "shared", "top"]
    embedding = keras.layers.Embedding(5, 3, name="words")
    embedding.build((None,))
    assert paths(dpf_tf.prune_low_magnitude_dpf(embedding, HALF)) == [
        "words/embeddings"
    ]


def test_kernel_free_and_frozen_layers_are_left_alone(keras):
    relu = keras.layers.ReLU()
    assert dpf_tf.prune_low_magnitude_dpf([relu], HALF) == [relu]
    model = functional(keras)
    model.get_layer("shared").trainable = False
    pruned = dpf_tf.prune_low_magnitude_dpf(model, HALF)
    assert "shared/kernel" not in paths(pruned)
    assert pruned.get_layer("shared") is model.get_layer("shared")
    reasons = [s["reason"] for s in dpf_tf.sparsity_report(pruned)["skipped"]]
    assert "frozen layer" in reasons


def unknown_layer(keras):
    class Bilinear(keras.layers.Layer):
        def build(self, shape):
            self.form = self.add_weight(name="form", shape=(shape[-1], shape[-1]))

        def call(self, x):
            return x + (
                x @ keras.backend.convert_to_tensor(self.form)
                if hasattr(keras.backend, "convert_to_tensor")
                else x @ self.form
            )

    return Bilinear(name="bilinear")


def test_an_unknown_layer_stays_dense_with_a_warning_that_names_it(keras):
    model = keras.Sequential(
        [keras.Input((6,)), dense(keras), unknown_layer(keras), dense(keras)]
    )
    with pytest.warns(UserWarning, match="'bilinear'.*get_prunable_weights"):
        pruned = dpf_tf.prune_low_magnitude_dpf(model, HALF)
    assert len(paths(pruned)) == 1
    for choice in ("bilinear|dense", "/form"):
        for given in (model, model.get_layer("bilinear")):
            with pytest.raises(ValueError, match="'bilinear'.*get_prunable_weights"):
                dpf_tf.prune_low_magnitude_dpf(given, HALF, layers=choice)


def test_wrapping_twice_with_equal_settings_is_a_no_op_with_others_an_error(keras):
    pruned = dpf_tf.prune_low_magnitude_dpf(functional(keras), HALF)
    assert dpf_tf.prune_low_magnitude_dpf(pruned, HALF) is pruned
    layer = pruned.get_layer("shared")
    assert dpf_tf.prune_low_magnitude_dpf(layer, HALF) is layer
    with pytest.raises(ValueError, match="wrapped already, with other settings"):
        dpf_tf.prune_low_magnitude_dpf(pruned, 0.9)


def test_wrapping_again_after_a_training_is_a_no_op_too(keras):
    model = keras.Sequential([keras.Input((4,)), dense(keras), dense(keras)])
    pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.5)
    step(pruned)  # Fills in where the ramp ends.
    assert dpf_tf.prune_low_magnitude_dpf(pruned, 0.5) is pruned


def test_the_outputs_of_an_unbuilt_nest_of_sequentials_stay_dense(keras):
    head = keras.Sequential([dense(keras, name="hidden"), dense(keras, name="logits")])
    model = keras.Sequential([dense(keras, name="body"), head])
    pruned = dpf_tf.prune_low_magnitude_dpf(model, HALF)
    pruned(np.ones((1, 4), "float32"))
    assert sorted(path.split("/")[-2] for path in paths(pruned)) == ["body", "hidden"]


def test_exclude_chooses_among_the_kernels_that_are_pruned_by_default(keras):
    layer = keras.layers.SeparableConv2D(4, 3, name="both")
    layer.build((None, 8, 8, 3))
    assert dpf_tf.prune_low_magnitude_dpf(layer, 0.5, exclude="point") is layer
    assert dpf_tf.prune_low_magnitude_dpf(layer, 0.5, exclude="_kernel$") is layer
    pruned = dpf_tf.prune_low_magnitude_dpf(layer, 0.5, layers="depth")
    assert paths(pruned) == ["both/depthwise_kernel"]


def test_kernels_that_are_not_made_yet_cannot_be_chosen_by_path(keras):
    attention = keras.layers.MultiHeadAttention(2, 3, name="attention")
    for options in ({"exclude": "output"}, {"layers": "query"}):
        with pytest.raises(ValueError, match="'attention' .* Build it first"):
            dpf_tf.prune_low_magnitude_dpf(attention, 0.5, **options)
    assert dpf_tf.prune_low_magnitude_dpf(attention, 0.5, exclude="att") is attention
    pruned = dpf_tf.prune_low_magnitude_dpf(attention, 0.5, layers="attention")
    x = np.ones((1, 2, 6), "float32")
    pruned(x, x)
    assert len(paths(pruned)) == 4


@pytest.mark.parametrize("option", ["layers", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_kernels(keras, option):
    model = keras.Sequential([keras.Input((4,)), dense(keras, name="a"), dense(keras)])
    for given in (model, dense(keras, name="a"), [dense(keras, name="a")]):
        with pytest.raises(ValueError, match=f"`{option}` holds 'sterm'.* a/kernel"):
            dpf_tf.prune_low_magnitude_dpf(given, 0.5, **{option: ["a/", "sterm"]})


def test_an_unbuilt_sequential_gets_its_first_masks_at_its_first_batch(keras):
    model = keras.Sequential([dense(keras, 8, name="hidden"), dense(keras, 2)])
    pruned = dpf_tf.prune_low_magnitude_dpf(model, HALF)
    pruned.compile("sgd", "mse")
    x, y = np.ones((64, 4), "float32"), np.ones((64, 2), "float32")
    pruned.fit(x, y, 8, verbose=0, callbacks=[dpf_tf.PruningCallback(settle=0)])
    assert {k: int(v.sum()) for k, v in dpf_tf.get_masks(pruned).items()} == {
        "hidden/kernel": 16
    }
    assert [type(x).__name__ for x in dpf_tf.strip_pruning(pruned).layers] == [
        "Dense",
        "Dense",
    ]


def subclassed(keras, wrap):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = [wrap(dense(keras, 8, name=f"block{i}")) for i in range(2)]
            self.head = dense(keras, 2)

        def call(self, x):
            for layer in self.body:
                x = layer(x)
            return self.head(x)

    return Net()


def test_a_subclassed_model_wraps_its_layers_and_is_stripped_into_a_plain_one(keras):
    model = subclassed(keras, lambda x: dpf_tf.prune_low_magnitude_dpf(x, HALF))
    model.compile("sgd", "mse")
    x, y = np.ones((64, 4), "float32"), np.ones((64, 2), "float32")
    model.fit(x, y, 8, verbose=0, callbacks=[dpf_tf.PruningCallback(settle=0)])
    masks = dpf_tf.get_masks(model)
    assert len(masks) == 2
    # One pool over both: its count is exact over the pool, not over each kernel.
    assert sum(int(mask.sum()) for mask in masks.values()) == (4 * 8 + 8 * 8) // 2
    plain = subclassed(keras, lambda layer: layer)
    with pytest.raises(ValueError, match="are not those of the pruned model"):
        dpf_tf.strip_pruning(model, into=plain)  # It is not built yet.
    plain(x)
    assert dpf_tf.strip_pruning(model, into=plain) is plain
    np.testing.assert_array_equal(plain(x).numpy(), model(x).numpy())
    with pytest.raises(ValueError, match="into=plain_model"):
        dpf_tf.strip_pruning(model)


def test_a_subclassed_model_given_whole_is_refused_with_the_way_to_do_it(keras):
    with pytest.raises(ValueError, match="in its __init__"):
        dpf_tf.prune_low_magnitude_dpf(subclassed(keras, lambda layer: layer), HALF)


def test_a_functional_model_with_its_own_train_step_is_not_rebuilt_without_it(keras):
    class Mine(keras.Model):
        def __init__(self, width):
            inputs = keras.Input((width,))
            hidden = dense(keras, 8)(inputs)
            super().__init__(inputs, dense(keras, 2)(hidden))

    with pytest.raises(ValueError, match="train_step"):
        dpf_tf.prune_low_magnitude_dpf(Mine(4), HALF)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pruning_schedule": 1.0}, ValueError, r"\[0, 1\)"),
        ({"pruning_schedule": "0.9"}, TypeError, "'0.9'"),
        ({"allocation": "globl"}, ValueError, "global"),
        ({"allocation": {"shared": 1.5}}, ValueError, "1.5"),
        ({"allocation": {"no such layer": 0.5}}, ValueError, "no such layer"),
        ({"structure": "filter"}, ValueError, "unstructured"),
        ({"layers": "nothing"}, ValueError, "matches none of the kernels"),
        ({"layers": "("}, ValueError, "regular expression"),
        ({"layers": 3}, TypeError, "regular expression"),
        ({"exclude": ".*"}, ValueError, "left to prune"),
        ({"prunning_schedule": 0.9}, TypeError, "prunning_schedule"),
    ],
)
def test_wrong_options_are_refused_at_the_call(keras, options, error, message):
    arguments = {"pruning_schedule": HALF, **options}
    with pytest.raises(error, match=message):
        dpf_tf.prune_low_magnitude_dpf(functional(keras), **arguments)


def test_what_is_no_keras_model_is_refused():
    with pytest.raises(TypeError, match="of type str"):
        dpf_tf.prune_low_magnitude_dpf("model", 0.9)
    with pytest.raises(TypeError, match="of type int"):
        dpf_tf.prune_low_magnitude_dpf([1], 0.9)
    with pytest.raises(TypeError, match="layer of Keras 3 or tf_keras"):
        dpf_tf.PruneLowMagnitudeDPF(None, 0.9)


def test_layers_of_both_kerases_in_one_list_are_refused():
    import keras
    import tf_keras

    layers = [keras.layers.Dense(2), tf_keras.layers.Dense(2)]
    with pytest.raises(ValueError, match="mixes"):
        dpf_tf.prune_low_magnitude_dpf(layers, 0.9)


@pytest.mark.parametrize(
    "function",
    [
        dpf_tf.get_masks,
        dpf_tf.freeze_masks,
        dpf_tf.strip_pruning,
        dpf_tf.sparsity_report,
        dpf_tf.MaskUpdater,
    ],
)
def test_a_model_that_is_not_pruned_is_refused_by_name(keras, function):
    with pytest.raises(ValueError, match="'whole' is pruned"):
        function(functional(keras))
    with pytest.raises(TypeError, match="of type str"):
        function("model")


@pytest.mark.parametrize("allocation", ["global_normalized", "uniform", "erk"])
def test_every_allocation_prunes_a_model_to_its_count(keras, allocation):
    pruned = dpf_tf.prune_low_magnitude_dpf(functional(keras), HALF, allocation)
    step(pruned)
    counts = {k: (m.size, int(m.sum())) for k, m in dpf_tf.get_masks(pruned).items()}
    size, kept = (sum(column) for column in zip(*counts.values(), strict=True))
    assert kept == size - round(0.5 * size)
    if allocation == "uniform":
        assert all(kept == size // 2 for size, kept in counts.values())


def test_patterns_give_final_sparsities_and_the_schedule_the_rest(keras):
    pruned = dpf_tf.prune_low_magnitude_dpf(
        functional(keras), HALF, allocation={"shared": 0.75, "inner/": 0.0}
    )
    step(pruned)
    sparsity = {k: 1 - m.mean() for k, m in dpf_tf.get_masks(pruned).items()}
    assert sparsity == {
        "shared/kernel": 0.75,
        "middle/in/kernel": 0.5,
        "middle/inner/first/kernel": 0.0,
        "middle/inner/last/kernel": 0.0,
    }
