"""The contract that every layer keeps when it is wrapped.

A wrapped layer must be its dense twin with `mask * kernel` written in: the same
outputs, losses, state and gradients, and the kernel's gradient unmasked. The dense
kernel itself is only read.
"""

import collections
import functools
import importlib
import json
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import dpf_tf
from tests.helpers import assert_bits_equal, values

# --- Layers of one's own, as users write them ----------------------------------------


@functools.cache
def custom(keras):
    """Returns layers of one's own over the `Layer` of a Keras, by name."""
    register = keras.saving.register_keras_serializable("tests")

    class Declared(keras.layers.Layer):
        """Says itself which of its weights are kernels."""

        def build(self, input_shape):
            self.form = self.add_weight(
                name="form", shape=(input_shape[-1], 4), initializer="glorot_uniform"
            )
            self.shift = self.add_weight(name="shift", shape=(4,), initializer="ones")
            self.built = True

        def call(self, inputs):
            return tf.nn.relu(
                tf.matmul(inputs, tf.convert_to_tensor(self.form)) + self.shift
            )

        def compute_output_shape(self, input_shape):
            return (*tuple(input_shape)[:-1], 4)

        def get_prunable_weights(self):
            return [self.form]

    class Listed(Declared):
        """Keeps its kernels in a list."""

        def build(self, input_shape):
            shape = (input_shape[-1], 4)
            self.kernels = [self.add_weight(name="form", shape=shape)]
            self.built = True

        def call(self, inputs):
            return tf.nn.relu(tf.matmul(inputs, tf.convert_to_tensor(self.kernels[0])))

        def get_prunable_weights(self):
            return list(self.kernels)

    class Unused(Declared):
        """Declares a kernel that its call never reads."""

        def call(self, inputs):
            return inputs * self.shift[0]

    class Compiled(Declared):
        """Has made a `tf.function` of its own call."""

        call = tf.function(Declared.call)

    class Writing(Declared):
        """Writes to its kernel in its call."""

        def call(self, inputs):
            self.form.assign(self.form * 0.5)
            return super().call(inputs)

    class Branching(Declared):
        """Branches and loops in Python on values of tensors."""

        def call(self, inputs):
            x = tf.matmul(inputs, tf.convert_to_tensor(self.form)) + self.shift
            if tf.reduce_sum(x) > 0:
                x = x * 2.0
            else:
                x = x - 1.0
            for _ in tf.range(2):
                x = tf.tanh(x)
            return x

    class Costly(Declared):
        """Adds losses of its own."""

        def call(self, inputs):
            x = super().call(inputs)
            self.add_loss(0.1 * tf.reduce_mean(tf.square(x)))
            return x

    class Block(keras.layers.Layer):
        """Holds sublayers, and leaves their building to the first call."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = keras.layers.Dense(6, use_bias=False)
            self.norm = keras.layers.BatchNormalization(momentum=0.5)
            self.last = keras.layers.Dense(3, activation="tanh")

        def call(self, inputs, training=None):
            return self.last(self.norm(self.first(inputs), training=training))

    class BuiltBlock(Block):
        """Builds its sublayers itself."""

        def build(self, input_shape):
            self.first.build(input_shape)
            inner = (*tuple(input_shape)[:-1], 6)
            self.norm.build(inner)
            self.last.build(inner)
            self.built = True

    layers = (
        Declared, Listed, Unused, Compiled, Writing, Branching, Costly, Block,
        BuiltBlock,
    )  # fmt: skip
    return collections.namedtuple("Custom", [cls.__name__ for cls in layers])(
        *map(register, layers)
    )


# --- The layers under contract -------------------------------------------------------


class Case:
    """A layer under contract.

    Args:
        make: from `keras.layers` and our own layers to a fresh layer.
        *inputs: shapes of its positional inputs, or arrays.
        kernels: paths of what is pruned, separated by spaces; a dict by the Keras's
            name where they differ.
        named: inputs given by keyword, shapes or arrays.
        without: where the dense layer fails or does not repeat itself: `"keras-jit"`.
        refused: the Keras whose form of the layer is refused; see the tests of that.
    """

    def __init__(
        self, make, *inputs, kernels="kernel", named=(), without=(), refused=None
    ):
        self.make, self.inputs, self.named = make, inputs, dict(named)
        self.kernels, self.without, self.refused = kernels, without, refused

    def layer(self, keras):
        return self.make(keras.layers, custom(keras))

    def paths(self, keras):
        named = isinstance(self.kernels, dict)
        return (self.kernels[keras.__name__] if named else self.kernels).split()

    def call(self):
        """Returns the arguments of a call; the same numbers each time."""
        rng = np.random.default_rng(1)

        def tensor(shape):
            if isinstance(shape, tuple):
                return tf.constant(rng.normal(size=shape), tf.float32)
            return tf.constant(shape)

        return [tensor(x) for x in self.inputs], {
            name: tensor(x) for name, x in self.named.items()
        }


PADDING = np.array([[True, True, False], [True, False, False]])
CELL = "cell/kernel cell/recurrent_kernel"
DEPTHWISE = {"keras": "kernel", "tf_keras": "depthwise_kernel"}
ATTENTION = "query_dense/kernel key_dense/kernel value_dense/kernel output_dense/kernel"
CASES = {
    "Dense": Case(lambda k, c: k.Dense(4, activation="relu"), (2, 3)),
    "Dense without bias": Case(lambda k, c: k.Dense(4, use_bias=False), (2, 3, 3)),
    "Dense with activity regularizer": Case(
        lambda k, c: k.Dense(4, activity_regularizer="l2"), (2, 3)
    ),
    "Conv1D": Case(lambda k, c: k.Conv1D(4, 3, dilation_rate=2), (2, 7, 3)),
    "Conv2D": Case(lambda k, c: k.Conv2D(4, 3, strides=2), (2, 7, 7, 3)),
    "Conv2D in groups": Case(
        lambda k, c: k.Conv2D(6, 3, groups=2, padding="same"), (2, 5, 5, 4)
    ),
    "Conv3D": Case(lambda k, c: k.Conv3D(2, 2), (2, 3, 3, 3, 2)),
    "Conv1DTranspose": Case(lambda k, c: k.Conv1DTranspose(4, 3, 2), (2, 5, 3)),
    "Conv2DTranspose": Case(lambda k, c: k.Conv2DTranspose(4, 3, 2), (2, 4, 4, 3)),
    "Conv3DTranspose": Case(lambda k, c: k.Conv3DTranspose(2, 2), (2, 3, 3, 3, 2)),
    "SeparableConv1D": Case(
        lambda k, c: k.SeparableConv1D(4, 3), (2, 5, 3), kernels="pointwise_kernel"
    ),
    "SeparableConv2D": Case(
        lambda k, c: k.SeparableConv2D(4, 3), (2, 5, 5, 3), kernels="pointwise_kernel"
    ),
    "DepthwiseConv1D": Case(
        lambda k, c: k.DepthwiseConv1D(3), (2, 5, 3), kernels=DEPTHWISE
    ),
    "DepthwiseConv2D": Case(
        lambda k, c: k.DepthwiseConv2D(3), (2, 5, 5, 3), kernels=DEPTHWISE
    ),
    "EinsumDense": Case(
        lambda k, c: k.EinsumDense("abc,cde->abde", (4, 2, 3), bias_axes="e"),
        (2, 4, 3),
    ),
    "Embedding": Case(
        lambda k, c: k.Embedding(7, 4), [[1, 2, 5], [1, 0, 6]], kernels="embeddings"
    ),
    "MultiHeadAttention": Case(
        lambda k, c: k.MultiHeadAttention(2, 3), (2, 4, 6), (2, 5, 6), kernels=ATTENTION
    ),
    "MultiHeadAttention without bias, with a key": Case(
        lambda k, c: k.MultiHeadAttention(2, 3, use_bias=False),
        (2, 4, 6), (2, 5, 6), (2, 5, 7), kernels=ATTENTION,
    ),
    "MultiHeadAttention by keyword": Case(
        lambda k, c: k.MultiHeadAttention(2, 3), kernels=ATTENTION,
        named={"query": (2, 4, 6), "value": (2, 5, 6), "key": (2, 5, 6)},
    ),
    "SimpleRNN": Case(lambda k, c: k.SimpleRNN(4), (2, 3, 3), kernels=CELL),
    "LSTM": Case(lambda k, c: k.LSTM(4), (2, 3, 3), kernels=CELL),
    "LSTM of sequences and state": Case(
        lambda k, c: k.LSTM(4, return_sequences=True, return_state=True, unroll=True),
        (2, 3, 3), kernels=CELL,
    ),
    "LSTM with state": Case(
        lambda k, c: k.LSTM(4, stateful=True), (2, 3, 3), kernels=CELL
    ),
    "LSTM of padded steps": Case(
        lambda k, c: k.LSTM(4, return_sequences=True), (2, 3, 3),
        named={"mask": PADDING}, kernels=CELL,
    ),
    "LSTM with dropout": Case(
        lambda k, c: k.LSTM(4, dropout=0.4, seed=3), (2, 3, 3),
        kernels=CELL, without=("tf_keras-jit",),
    ),
    # In a graph tf_keras draws the masks of the gates in any order, each time another.
    "LSTM with recurrent dropout": Case(
        lambda k, c: k.LSTM(4, recurrent_dropout=0.4, seed=3), (2, 3, 3),
        kernels=CELL, without=("tf_keras-graph", "tf_keras-jit"),
    ),
    "GRU": Case(lambda k, c: k.GRU(4), (2, 3, 3), kernels=CELL),
    "GRU of padded steps": Case(
        lambda k, c: k.GRU(4, reset_after=False), (2, 3, 3), named={"mask": PADDING},
        kernels=CELL,
    ),
    "ConvLSTM2D": Case(lambda k, c: k.ConvLSTM2D(2, 2), (2, 3, 4, 4, 2), kernels=CELL),
    "RNN of stacked cells": Case(
        lambda k, c: k.RNN(k.StackedRNNCells([k.GRUCell(3), k.LSTMCell(2)])),
        (2, 3, 3),
        kernels="cell/cells/0/kernel cell/cells/0/recurrent_kernel "
        "cell/cells/1/kernel cell/cells/1/recurrent_kernel",
    ),
    "Bidirectional": Case(
        lambda k, c: k.Bidirectional(k.LSTM(4), merge_mode="sum"), (2, 3, 3),
        kernels="forward_layer/cell/kernel forward_layer/cell/recurrent_kernel "
        "backward_layer/cell/kernel backward_layer/cell/recurrent_kernel",
    ),
    "TimeDistributed Dense": Case(
        lambda k, c: k.TimeDistributed(k.Dense(4)), (2, 3, 3), kernels="layer/kernel"
    ),
    "TimeDistributed Conv2D": Case(
        lambda k, c: k.TimeDistributed(k.Conv2D(2, 3)), (2, 3, 4, 4, 2),
        kernels="layer/kernel",
    ),
    "own layer": Case(lambda k, c: c.Declared(), (2, 3), kernels="form"),
    "own layer with a list": Case(
        lambda k, c: c.Listed(), (2, 3), kernels="weight_0",
        refused="tf_keras",
    ),
    "own layer with branches": Case(
        lambda k, c: c.Branching(), (2, 3), kernels="form",
        without=("keras-graph", "keras-jit"),
    ),
    "own layer with losses": Case(
        lambda k, c: c.Costly(activity_regularizer="l2"), (2, 3), kernels="form"
    ),
    "own block": Case(
        lambda k, c: c.Block(), (4, 5), kernels="first/kernel last/kernel"
    ),
    "own block with build": Case(
        lambda k, c: c.BuiltBlock(), (4, 5), kernels="first/kernel last/kernel"
    ),
}  # fmt: skip


# --- The harness ---------------------------------------------------------------------

MODES = {
    "eager": lambda step: step,
    "graph": tf.function,
    "jit": functools.partial(tf.function, jit_compile=True),
}


def skip_where_dense_fails(keras, case, mode="eager"):
    if f"{keras.__name__}-{mode}" in case.without:
        pytest.skip("the dense layer itself does not run so, or not twice alike")
    if keras.__name__ == case.refused:
        pytest.skip(f"{case.refused} cannot hold such a kernel: refused by name")


def wrap(layer):
    # Gradients as they are: no bound on those of filters that are pruned as a whole.
    return dpf_tf.prune(layer, 0.5, bounded=False)


def wrapped(keras, case):
    """Returns the layer of a case, wrapped before it was built, and built since."""
    wrapper = wrap(case.layer(keras))
    args, kwargs = case.call()
    wrapper(*args, **kwargs)
    return wrapper


def prune_half(wrapper):
    """Gives every kernel a random mask, and takes charge of the masks."""
    rng = np.random.default_rng(2)
    for mask in wrapper.masks.values():
        mask.assign(rng.random(tuple(mask.shape)) < 0.5)
    wrapper.permit("test")


def write_masked(wrappers, source, target):
    """Copies variables; of the pruned kernels, `mask * kernel`."""
    masks = {
        id(kernel): mask.numpy()
        for wrapper in wrappers
        for kernel, mask in zip(
            wrapper.kernels.values(), wrapper.masks.values(), strict=True
        )
    }
    for ours, theirs in zip(source, target, strict=True):
        theirs.assign(ours.numpy() * masks.get(id(ours), 1))


def masked_twin(keras, case, wrapper):
    """Returns the dense layer with `mask * kernel` written into its kernels."""
    twin = case.layer(keras)
    args, kwargs = case.call()
    twin(*args, **kwargs)
    write_masked([wrapper], wrapper.layer.variables, twin.variables)
    return twin


def raw(variable):
    """Returns the variable that a gradient tape knows, of either Keras."""
    return variable.value if hasattr(variable, "path") else variable


def reset(layer):
    """Forgets the losses (as Keras does each step) and states of earlier calls."""
    layer._clear_losses()
    if getattr(layer, "stateful", False):
        layer.reset_states()


def infer(layer, call):
    args, kwargs = call
    reset(layer)
    return values(tf.nest.flatten(layer(*args, **kwargs, training=False)))


Observation = collections.namedtuple("Observation", "outputs losses gradients")


def observe(keras, layer, call, mode="eager"):
    """Calls a layer once, and returns all that a training step would see of it."""
    args, kwargs = call
    reset(layer)
    keras.utils.set_random_seed(4)

    def step():
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(layer(*args, **kwargs, training=True))
            losses = [tf.cast(loss, tf.float32) for loss in layer.losses]
            total = tf.add_n(losses) if losses else 0.0
            for output in outputs:  # No two elements weigh the same in the gradient.
                weights = tf.cos(tf.range(tf.size(output), dtype=tf.float32))
                flat = tf.cast(tf.reshape(output, [-1]), tf.float32)
                total += tf.tensordot(flat, weights, 1)
        variables = [raw(variable) for variable in layer.trainable_variables]
        gradients = tape.gradient(total, variables)
        return outputs, losses, [tf.convert_to_tensor(g) for g in gradients]

    return Observation(*map(values, MODES[mode](step)()))


def assert_close(actual, expected):
    assert len(actual) == len(expected)
    for left, right in zip(actual, expected, strict=True):
        assert left.dtype == right.dtype
        left, right = np.asarray(left, "float32"), np.asarray(right, "float32")
        np.testing.assert_allclose(left, right, rtol=2e-6, atol=1e-6)


def assert_keeps_contract(keras, case, wrapper, mode="eager"):
    prune_half(wrapper)
    twin = masked_twin(keras, case, wrapper)
    kernels, masks = values(wrapper.kernels.values()), values(wrapper.masks.values())
    expected = observe(keras, twin, case.call(), mode)
    actual = observe(keras, wrapper, case.call(), mode)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs)
    # The dense kernels and the masks are only read ...
    assert_bits_equal(values(wrapper.kernels.values()), kernels)
    assert_bits_equal(values(wrapper.masks.values()), masks)
    # ... and all other state (statistics, states, seeds) moves as in the dense layer.
    pruned = {id(kernel) for kernel in wrapper.kernels.values()}
    both = zip(wrapper.layer.variables, twin.variables, strict=True)
    others = [pair for pair in both if id(pair[0]) not in pruned]
    assert_close(*([pair[i].numpy() for pair in others] for i in (0, 1)))
    # The feedback: pruned weights get their gradient too.
    trained = [id(variable) for variable in wrapper.trainable_variables]
    for (path, kernel), mask in zip(wrapper.kernels.items(), masks, strict=True):
        gradient = actual.gradients[trained.index(id(kernel))]
        assert np.any(gradient[~mask]), path


# --- The contract --------------------------------------------------------------------

# Loops over time and compiling take long: few cases stand for all, the rest is slow.
COMPILED = {
    "Dense", "Conv2D", "SeparableConv2D", "EinsumDense", "Embedding", "LSTM",
    "MultiHeadAttention", "own layer with branches", "own layer with losses",
    "own block",
}  # fmt: skip
VARIANTS = {name for name in CASES if name.startswith(("LSTM ", "GRU "))}


def unless(fast):
    return [] if fast else [pytest.mark.slow]


def cases_and_modes():
    for name, case in CASES.items():
        for mode in MODES:
            fast = name in COMPILED and (name, mode) != ("LSTM", "jit")
            marks = unless(mode == "eager" or fast)
            yield pytest.param(case, mode, id=f"{name}-{mode}", marks=marks)


@pytest.mark.parametrize(("case", "mode"), list(cases_and_modes()))
def test_a_wrapped_layer_is_its_dense_twin_with_unmasked_gradients(keras, case, mode):
    skip_where_dense_fails(keras, case, mode)
    assert_keeps_contract(keras, case, wrapped(keras, case), mode)


@pytest.mark.filterwarnings("ignore:.* is stripped at sparsity")  # Masks by hand.
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_stripped_layer_gives_the_same_outputs(keras, case):
    skip_where_dense_fails(keras, case)
    wrapper = wrapped(keras, case)
    prune_half(wrapper)
    try:
        plain = dpf_tf.strip_pruning(wrapper)
    except ValueError as error:
        assert "makes its variables when it is first called" in str(error)
        plain = case.layer(keras)
        infer(plain, case.call())
        dpf_tf.strip_pruning(wrapper, into=plain)
    assert type(plain) is type(wrapper.layer)
    outputs = infer(plain, case.call())
    assert_bits_equal(outputs, infer(wrapper, case.call()))
    assert_bits_equal(infer(plain, case.call()), outputs)


def dump(keras, layer):
    return json.dumps(keras.saving.serialize_keras_object(layer))


def load(keras, saved):
    """Returns a layer from its JSON, and the JSON without the shapes seen so far."""
    layer = keras.saving.deserialize_keras_object(json.loads(saved))

    def shapeless(items):
        return {key: value for key, value in items.items() if key != "build_config"}

    return layer, json.loads(saved, object_hook=shapeless)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=unless(name not in VARIANTS))
        for name, case in CASES.items()
    ],
)
def test_wrapping_before_or_after_building_and_loading_are_alike(keras, case):
    skip_where_dense_fails(keras, case)
    args, kwargs = case.call()

    def symbolic(x):
        return keras.Input(batch_shape=tuple(x.shape), dtype=x.dtype.name)

    wrapper = wrapped(keras, case)
    prune_half(wrapper)
    layer = case.layer(keras)
    layer(*args, **kwargs)
    loaded, config = load(keras, dump(keras, wrapper))
    specs = loaded(
        *map(symbolic, args), **{name: symbolic(x) for name, x in kwargs.items()}
    )
    expected = infer(wrapper, case.call())
    for spec, output in zip(tf.nest.flatten(specs), expected, strict=True):
        assert tuple(spec.shape) == output.shape
        assert tf.as_dtype(spec.dtype) == output.dtype
    for other in (wrap(layer), loaded):
        assert isinstance(other, dpf_tf.PruneLowMagnitudeDPF)
        assert list(other.kernels) == list(wrapper.kernels) == case.paths(keras)
        other.set_weights(wrapper.get_weights())
        assert_bits_equal(values(other.masks.values()), values(wrapper.masks.values()))
        assert_bits_equal(infer(other, case.call()), expected)
    assert loaded.name == wrapper.name == wrapper.layer.name
    assert load(keras, dump(keras, loaded))[1] == config


MIXED = {
    name: CASES[name]
    for name in (
        "Dense", "Conv2D", "MultiHeadAttention", "Embedding", "LSTM", "Bidirectional",
        "TimeDistributed Dense", "own block", "own layer with losses",
    )
} | {
    "a float32 head": Case(lambda k, c: k.Dense(4, dtype="float32"), (2, 3)),
    "a float32 head over time": Case(
        lambda k, c: k.TimeDistributed(k.Dense(4, dtype="float32")), (2, 3, 3),
        kernels="layer/kernel",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "policy"),
    [pytest.param(case, "mixed_bfloat16", id=name) for name, case in MIXED.items()]
    + [
        pytest.param(MIXED[name], "mixed_float16", id=f"{name} in float16")
        for name in ("Dense", "own block", "a float32 head over time")
    ],
)
def test_the_contract_holds_in_mixed_precision(keras, case, policy):
    keras.mixed_precision.set_global_policy(policy)
    wrapper = wrapped(keras, case)
    assert wrapper.dtype_policy.name == wrapper.layer.dtype_policy.name
    assert {x.numpy().dtype.name for x in wrapper.kernels.values()} == {"float32"}
    assert {x.numpy().dtype.name for x in wrapper.masks.values()} == {"bool"}
    assert_keeps_contract(keras, case, wrapper)


# --- What a wrapper lets through -----------------------------------------------------


def test_weight_decay_acts_on_the_dense_kernel(keras):
    decay = keras.regularizers.L2(0.1)
    wrapper = wrap(keras.layers.Dense(4, kernel_regularizer=decay, use_bias=False))
    wrapper.build((None, 3))
    prune_half(wrapper)
    with tf.GradientTape() as tape:
        (loss,) = wrapper.losses
    kernel = wrapper.kernel.numpy()
    np.testing.assert_allclose(loss, 0.1 * np.sum(kernel**2), rtol=1e-6)
    gradient = tape.gradient(loss, raw(wrapper.kernel))
    np.testing.assert_allclose(gradient, 0.2 * kernel, rtol=1e-6)


def test_attributes_of_the_wrapped_layer_pass_through(keras):
    layer = keras.layers.Dense(4, activation="relu")
    wrapper = wrap(layer)
    wrapper.build((None, 3))
    assert wrapper.kernel is layer.kernel and wrapper.bias is layer.bias
    assert wrapper.units == 4 and wrapper.activation is layer.activation
    assert not hasattr(wrapper, "filters")
    with pytest.raises(AttributeError, match="filters"):
        _ = wrapper.filters


def test_attributes_that_are_set_reach_the_wrapped_layer(keras):
    layer = keras.layers.Dense(4)
    wrapper = wrap(layer)
    wrapper.activation = keras.activations.relu
    wrapper.note = "of the wrapper"
    assert layer.activation is keras.activations.relu
    assert wrapper.note == "of the wrapper" and not hasattr(layer, "note")
    inputs = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    assert np.min(wrapper(inputs)) == 0


def test_a_wrapped_layer_has_the_same_trainable_weights(keras):
    layer = keras.layers.Dense(4)
    wrapper = wrap(layer)
    wrapper.build((None, 3))
    ours, theirs = wrapper.trainable_weights, layer.trainable_weights
    assert list(map(id, ours)) == list(map(id, theirs))


def text_model(keras, length=None):
    """Tokens, of which 0 is padding, through every kind of layer that heeds masks."""
    k = keras.layers
    tokens = keras.Input((length,), dtype="int32")
    x = k.Embedding(7, 6, mask_zero=True, name="embedding")(tokens)
    x = k.Bidirectional(k.SimpleRNN(3, return_sequences=True), name="both")(x)
    x = k.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = k.TimeDistributed(k.Dense(5), name="each")(x)
    x = k.SimpleRNN(4, name="last")(k.Dense(5, name="dense")(x))
    return keras.Model(tokens, x)


def test_padding_changes_nothing_in_a_model_of_wrapped_layers(keras):
    pruned = dpf_tf.prune_low_magnitude_dpf(text_model(keras), 0.5, layers=".")
    assert all(isinstance(x, dpf_tf.PruneLowMagnitudeDPF) for x in pruned.layers[1:])
    for layer in pruned.layers[1:]:
        prune_half(layer)
    short = tf.constant([[1, 2], [4, 6]])
    padded = tf.pad(short, [[0, 0], [0, 3]])
    np.testing.assert_allclose(pruned(short), pruned(padded), rtol=1e-6, atol=1e-6)
    twin = text_model(keras)
    masks = {id(m) for layer in pruned.layers[1:] for m in layer.masks.values()}
    source = [v for v in pruned.variables if id(v) not in masks]
    write_masked(pruned.layers[1:], source, twin.variables)
    np.testing.assert_allclose(pruned(padded), twin(padded), rtol=1e-6, atol=1e-6)


def test_the_mask_of_a_layer_in_front_passes_a_wrapped_layer(keras):
    k = keras.layers
    layers = [k.Masking(), k.Dense(4, name="dense"), k.SimpleRNN(4, name="rnn")]
    model = keras.Sequential([keras.Input((None, 3)), *layers])
    pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.5, layers=".")
    for layer in pruned.layers[1:]:
        prune_half(layer)
    short = np.random.default_rng(0).normal(size=(2, 2, 3)).astype("float32")
    padded = np.pad(short, [(0, 0), (0, 3), (0, 0)])
    np.testing.assert_allclose(pruned(short), pruned(padded), rtol=1e-6, atol=1e-6)


def test_state_is_kept_and_reset_as_in_the_dense_model(keras):
    x = keras.Input(batch_shape=(2, 3, 3))
    layer = keras.layers.LSTM(4, stateful=True, name="rnn")
    model = keras.Model(x, layer(x))
    pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.5, layers="rnn")
    batch = np.ones((2, 3, 3), "float32")

    def three_batches(model):
        outputs = [model.predict_on_batch(batch), model.predict_on_batch(batch)]
        if hasattr(model, "reset_states"):
            model.reset_states()
        else:
            model.layers[-1].reset_states()
        return [*outputs, model.predict_on_batch(batch)]

    layer.reset_states()
    first, second, again = three_batches(pruned)
    layer.reset_states()
    assert_bits_equal([first, second, again], three_batches(model))
    assert np.abs(first - second).max() > 0 and np.array_equal(first, again)


@pytest.mark.parametrize("training", [True, False, None])
def test_whether_it_is_training_reaches_the_wrapped_layer(keras, training):
    case = CASES["own block"]
    wrapper = wrapped(keras, case)
    wrapper.permit("test")
    args, _ = case.call()
    mean = wrapper.norm.moving_mean.numpy()
    wrapper(*args, training=training)
    moved = np.any(wrapper.norm.moving_mean.numpy() != mean)
    assert moved == bool(training)


def test_training_may_be_given_as_a_tensor(keras):
    wrapper = wrapped(keras, CASES["Dense"])
    wrapper.permit("test")
    args, _ = CASES["Dense"].call()
    for training in (True, False):
        output = wrapper(*args, training=tf.constant(training))
        np.testing.assert_array_equal(output, wrapper(*args))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_subclassed_model_wraps_unbuilt_layers_in_its_init(keras, policy):
    keras.mixed_precision.set_global_policy(policy)

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            schedule = dpf_tf.ConstantSparsity(0.75, frequency=1)
            self.hidden = dpf_tf.PruneLowMagnitudeDPF(keras.layers.Dense(8), schedule)
            self.blocks = [
                dpf_tf.prune_low_magnitude_dpf(keras.layers.Dense(8), schedule)
                for _ in range(2)
            ]
            self.head = keras.layers.Dense(1)

        def call(self, inputs):
            x = self.hidden(inputs)
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    net = Net()
    net.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    net.fit(x, x[:, :1], 8, verbose=0, callbacks=[dpf_tf.PruningCallback()])
    masks = dpf_tf.get_masks(net)
    assert [mask.shape for mask in masks.values()] == [(4, 8), (8, 8), (8, 8)]
    assert sum(mask.sum() for mask in masks.values()) == 160 - 120  # One pool.


# --- What is refused -----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_kernel_that_the_layer_does_not_use_is_refused_by_name(keras, mode):
    wrapper = wrap(custom(keras).Unused(name="idle"))
    with pytest.raises(ValueError, match=r"'idle' \(Unused\) does not use \['form'\]"):
        MODES[mode](lambda: wrapper(tf.ones((2, 3))))()


@pytest.mark.parametrize("built", [False, True])
def test_a_call_that_is_a_function_of_its_own_is_refused_by_name(keras, built):
    # It would keep the pruned kernel of the moment at which it was traced.
    layer = custom(keras).Compiled(name="traced")
    if built:
        layer.build((2, 3))
    with pytest.raises(ValueError, match=r"'traced' \(Compiled\).*tf\.function"):
        wrap(layer)(tf.ones((2, 3)))


@pytest.mark.parametrize("keras", ["tf_keras"], indirect=True)
def test_a_kernel_in_a_list_is_refused_by_name_where_it_cannot_work(keras):
    with pytest.raises(ValueError, match="'listed/weight_0' is not held by an attr"):
        wrap(custom(keras).Listed(name="listed"))(tf.ones((2, 3)))


def test_a_layer_that_writes_its_kernel_is_refused_and_the_kernel_kept(keras):
    wrapper = wrap(custom(keras).Writing(name="writing"))
    wrapper.build((2, 3))
    kernel = wrapper.form.numpy()
    with pytest.raises((ValueError, AttributeError)) as error:
        wrapper(tf.ones((2, 3)))
    # tf_keras's own words are that a tensor has no `assign`.
    assert "'writing" in str(error.value) and "assign" in str(error.value)
    assert_bits_equal([wrapper.form.numpy()], [kernel])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("built", [False, True])
def test_kernels_stored_in_another_precision_are_refused_by_name(keras, dtype, built):
    layer = keras.layers.Dense(4, dtype=dtype, name="coarse")
    if built:
        layer.build((2, 3))
    with pytest.raises(ValueError, match=f"'coarse/kernel' is stored as {dtype}"):
        wrap(layer).build((2, 3))


@pytest.mark.parametrize("built", [False, True])
def test_spectral_normalization_stays_dense_with_a_warning(keras, built):
    layer = keras.layers.SpectralNormalization(keras.layers.Dense(4), name="spectral")
    if built and keras.__name__ == "tf_keras":
        pytest.skip("tf_keras cannot build this layer beside Keras 3")
    if built:
        layer.build((2, 3))
    with pytest.warns(UserWarning, match=r"'spectral' \(SpectralNormalization\)"):
        assert wrap(layer) is layer


def test_keras_3_on_another_backend_is_refused_by_its_name():
    keras = importlib.import_module("keras")
    layer = keras.layers.Dense(2)
    # The real ones need packages of their own.
    with (
        mock.patch.object(keras.backend, "backend", return_value="jax"),
        pytest.raises(ValueError, match="'jax' here. Set KERAS_BACKEND=tensorflow"),
    ):
        dpf_tf.PruneLowMagnitudeDPF(layer, 0.5)


def test_wrapping_twice_is_refused_by_name(keras):
    wrapper = wrap(keras.layers.Dense(4, name="once"))
    with pytest.raises(ValueError, match="'once' is wrapped already"):
        dpf_tf.PruneLowMagnitudeDPF(wrapper, 0.5)


@pytest.mark.parametrize("layer", [None, "dense", object, tf.Module()])
def test_what_is_no_layer_is_refused_with_its_type(layer):
    with pytest.raises(TypeError, match=r"Received: .* \(of type"):
        dpf_tf.PruneLowMagnitudeDPF(layer, 0.5)


def test_a_layer_without_kernels_is_refused_by_name(keras):
    layer = keras.layers.ReLU(name="plain")
    with pytest.raises(ValueError, match="'plain' .* no weight that can be pruned"):
        dpf_tf.PruneLowMagnitudeDPF(layer, 0.5)(tf.ones((2, 3)))


def test_unknown_kernel_paths_are_refused_with_the_known_ones(keras):
    layer = keras.layers.Dense(4, name="d")
    wrapper = dpf_tf.PruneLowMagnitudeDPF(layer, 0.5, kernels=["weights"])
    with pytest.raises(ValueError, match=r"no kernel \['weights'\].*\['kernel'\]"):
        wrapper.build((2, 3))
