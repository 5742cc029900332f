"""Trains under one strategy of tf.distribute and prints what came of it, as JSON.

Run by tests/test_distribution.py, each time in a process of its own: strategies must be
made before anything else runs, and several of them in one process collide.

    python -m tests.distributed_training mirrored keras
    TF_CONFIG=... python -m tests.distributed_training multi_worker tf_keras
"""

import collections
import contextlib
import hashlib
import importlib
import json
import sys
import warnings

import numpy as np
import tensorflow as tf

import dpf_tf
from tests.helpers import pruned_layers, values
from tests.test_methods import FORMS

BATCH, EPOCHS = 16, 4  # 32 steps, 8 mask updates.
SCHEDULE = dpf_tf.PolynomialDecay(final_sparsity=0.8, end_step=24, frequency=4)


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 8, 8, 3)).astype("float32")
    return x, rng.integers(0, 4, 128).astype("int32")


def make_model(
    keras, build=None, prune=None, compile=None, dense=False, method=None, **options
):
    """A compiled model; each of the three steps is made in the scope given for it."""
    here = contextlib.nullcontext
    keras.utils.set_random_seed(0)
    with build.scope() if build else here():
        decay = {"kernel_regularizer": keras.regularizers.L2(0.05)}
        # Of all replicas' batches, as the norm of one replica.
        norm = keras.layers.BatchNormalization(synchronized=True)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(8, 3, name="conv", **decay),
                *([norm] if method == "st3_auto" else []),
                keras.layers.ReLU(),
                keras.layers.Flatten(),
                keras.layers.Dense(16, activation="relu", **decay),
                keras.layers.Dense(4),
            ]
        )
    with prune.scope() if prune else here():
        if method:
            model = dpf_tf.prune(model, schedule_of(method), METHODS[method])
        elif not dense:
            model = dpf_tf.prune_low_magnitude_dpf(model, SCHEDULE)
    with compile.scope() if compile else here():
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            **{"jit_compile": False, **options},
        )
    return model


def train(model, *callbacks):
    x, y = data()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    model.fit(dataset, epochs=EPOCHS, verbose=0, callbacks=list(callbacks))
    return model


METHODS = {
    **{name: dpf_tf.methods.get(name) for name in dpf_tf.methods.METHODS},
    # Unbounded: each replica bounds the gradient of dead filters by itself.
    **{
        form: dpf_tf.methods.get(method, bounded=False, **options)
        for form, (method, options) in FORMS.items()
    },
    "levers": dpf_tf.methods.DPF(pruned_gradient=0.5, pruned_decay=0.1),
}


def schedule_of(method):
    """A schedule by which the scheme acts several times in the training."""
    cls = type(METHODS[method])
    if issubclass(cls, dpf_tf.methods.DropAndGrow):
        return dpf_tf.PolynomialDecay(
            final_sparsity=0.8, initial_sparsity=0.8, end_step=32, frequency=8
        )
    if isinstance(cls().schedule(0.8), dpf_tf.OneShot):
        return cls().schedule(0.8)
    frequency = 1 if method == "straight_through" else 4
    return dpf_tf.PolynomialDecay(final_sparsity=0.8, end_step=24, frequency=frequency)


def training_by_method(keras, method, strategy=None):
    model = make_model(keras, strategy, strategy, strategy, method=method)
    batches = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)
    return train(model, dpf_tf.PruningCallback(settle=0, data=batches))


def subclassed_training(keras, strategy):
    """A subclassed model, whose layers and masks are made by its first batch."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            layers, prune = keras.layers, dpf_tf.prune_low_magnitude_dpf
            self.conv = prune(layers.Conv2D(8, 3, activation="relu"), SCHEDULE)
            self.flatten = layers.Flatten()
            self.head = layers.Dense(4)

        def call(self, x):
            return self.head(self.flatten(self.conv(x)))

    with strategy.scope():
        model = Net()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=False)
    return train(model, dpf_tf.PruningCallback(settle=0))


def pruned_training(keras, strategy=None, **options):
    model = make_model(keras, strategy, strategy, strategy, **options)
    return train(model, dpf_tf.PruningCallback(settle=0))


def error(function, *arguments, **options):
    """What a call raises, and None if it succeeds."""
    try:
        function(*arguments, **options)
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"
    return None


def difference(model, other):
    pairs = zip(
        values(model.trainable_variables),
        values(other.trainable_variables),
        strict=True,
    )
    return max(float(np.abs(left - right).max()) for left, right in pairs)


def digest(model):
    """A hash of all kernels, biases and masks."""
    arrays = [*values(model.trainable_variables), *dpf_tf.get_masks(model).values()]
    return hashlib.md5(b"".join(array.tobytes() for array in arrays)).hexdigest()


def replicas(strategy, model):
    """The masks of each replica, all in one array."""
    found = []
    for layer in pruned_layers(model):
        for mask in layer.masks.values():
            variable = mask if isinstance(mask, tf.Variable) else mask.value
            copies = strategy.experimental_local_results(variable)
            found.append([copy.numpy().ravel() for copy in copies])
    return [np.concatenate(masks) for masks in zip(*found, strict=True)]


def collectives(strategy, model, batch):
    """How often each collective operation stands in the graph of a training step."""
    step = tf.function(lambda batch: strategy.run(model.train_step, args=(batch,)))
    graph = step.get_concrete_function(batch).graph.as_graph_def()
    functions = [graph.node, *(f.node_def for f in graph.library.function)]
    kinds = collections.Counter(node.op for nodes in functions for node in nodes)
    parts = ("Collective", "AllReduce", "Reduction", "Nccl")
    return {op: n for op, n in kinds.items() if any(part in op for part in parts)}


def two_cpus():
    [cpu] = tf.config.list_physical_devices("CPU")
    halves = [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
    tf.config.set_logical_device_configuration(cpu, halves)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def statistics(strategy, model):
    """Batch norm's moving statistics of each replica."""
    norm = next(x for x in model.layers if "BatchNorm" in type(x).__name__)
    variables = [v.value if hasattr(v, "path") else v for v in norm.weights[2:]]
    return [
        copy.numpy()
        for variable in variables
        for copy in strategy.experimental_local_results(variable)
    ]


def pass_for_gradients(keras, strategy):
    """What a mask update by gradients leaves of the replicas' statistics."""
    schedule = schedule_of("rigl")
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(8, 3, name="conv"),
                keras.layers.BatchNormalization(),
                keras.layers.Flatten(),
                keras.layers.Dense(4),
            ]
        )
        model = dpf_tf.prune(model, schedule, "rigl")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=False)
    batches = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)
    train(model, dpf_tf.PruningCallback(settle=0, data=batches))
    before = statistics(strategy, model)
    flips = dpf_tf.MaskUpdater(model, data=batches).update(8).flips
    after = statistics(strategy, model)
    return {
        "flips": flips,
        "replicas_differ": bool((before[0] != before[1]).any()),
        "statistics_kept": all(map(np.array_equal, before, after)),
    }


def schemes(keras):
    """Every scheme on two replicas and on one."""
    strategy = two_cpus()
    reports = {"pass": pass_for_gradients(keras, strategy)}
    for method in METHODS:
        single = training_by_method(keras, method)
        model = training_by_method(keras, method, strategy)
        expected = np.concatenate(
            [mask.ravel() for mask in dpf_tf.get_masks(single).values()]
        )
        found = replicas(strategy, model)
        reports[method] = {
            "difference": difference(model, single),
            "masks_like_single": [bool((m == expected).all()) for m in found],
            "pruned": [int((~m).sum()) for m in found],
            "weights": expected.size,
        }
    return reports


def mirrored(keras):
    strategy = two_cpus()
    single, model = pruned_training(keras), pruned_training(keras, strategy)
    single_masks = np.concatenate(
        [mask.ravel() for mask in dpf_tf.get_masks(single).values()]
    )
    of_replicas = replicas(strategy, model)
    dense = train(make_model(keras, strategy, strategy, strategy, dense=True))
    dpf_tf.freeze_masks(model)  # Else a step outside `fit` would be refused.
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)
    batch = next(iter(strategy.experimental_distribute_dataset(dataset)))
    several = {}

    def executions():
        fitted = pruned_training(keras, strategy, steps_per_execution=4)
        several["difference"] = difference(fitted, single)

    return {
        "subclassed": [
            [int((~m).sum()), m.size]
            for m in dpf_tf.get_masks(subclassed_training(keras, strategy)).values()
        ],
        "difference": difference(model, single),
        "masks_like_single": [bool((m == single_masks).all()) for m in of_replicas],
        "pruned": [int((~m).sum()) for m in of_replicas],
        "weights": single_masks.size,
        "collectives": [collectives(strategy, m, batch) for m in (dense, model)],
        "executions_error": error(executions),
        "executions_difference": several.get("difference"),
        "jit_error": error(pruned_training, keras, strategy, jit_compile=True),
        "pruned_outside_error": error(make_model, keras, strategy),
        "built_outside_error": error(make_model, keras, None, strategy),
    }


def training_by_hand(keras, strategy):
    """The training of `fit`, in a loop of one's own."""
    model = make_model(keras, strategy, strategy, strategy)
    updater = dpf_tf.MaskUpdater(model)
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)

    def on_replica(x, y):
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(
                y, model(x, training=True), from_logits=True
            )
            loss = tf.reduce_sum(losses) / BATCH
        gradients = tape.gradient(loss, model.trainable_variables)
        pairs = zip(gradients, model.trainable_variables, strict=True)
        model.optimizer.apply_gradients(pairs)

    step = tf.function(lambda batch: strategy.run(on_replica, args=batch))
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH).repeat(EPOCHS)
    batches = strategy.experimental_distribute_dataset(dataset)
    for i, batch in enumerate(batches):
        updater.update(i)
        step(batch)
    return model


def multi_worker(keras):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refused = make_model(keras, strategy, strategy, strategy)
    fit_error = error(train, refused, dpf_tf.PruningCallback())
    model = (training_by_hand if fit_error else pruned_training)(keras, strategy)
    return {
        "workers": strategy.num_replicas_in_sync,
        "digest": digest(model),
        "difference": difference(model, pruned_training(keras)),
        "fit_error": fit_error,
        "warnings": [str(warning.message) for warning in caught],
    }


if __name__ == "__main__":
    name, module = sys.argv[1:]
    runs = {"mirrored": mirrored, "multi_worker": multi_worker, "schemes": schemes}
    run = runs[name]
    print(json.dumps(run(importlib.import_module(module))), flush=True)
