"""Prune a small convolutional net on real handwritten digits, and see what it costs.

Trains the same net twice from the same initial weights: dense, and by dynamic model
pruning with feedback. Then strips the pruned one to a plain Keras model, saves it, and
draws how the pruning went. The digits come with scikit-learn; nothing is downloaded.

    python examples/digits.py --out=demo_output
"""

import pathlib
import sys

import keras
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import dpf_tf

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "demo_output", "Folder for the sparse model and the figure.")
flags.DEFINE_float("sparsity", 0.9, "Share of the pruned kernels' weights to remove.")
flags.DEFINE_integer("epochs", 40, "Epochs of each training.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the initial weights and the batches' order.")

BATCH_SIZE = 32


def load_data():
    """Returns ((images, labels) to train on, (images, labels) to test on).

    1,257 and 540 images of 8x8 pixels with values from 0 to 1, and labels from 0 to 9.
    The split is always the same, with equal shares of each digit in both parts.
    """
    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.3, stratify=digits.target, random_state=0
    )
    return (x_train, y_train), (x_test, y_test)


def conv_block(x, filters, strides, name):
    x = keras.layers.Conv2D(
        filters,
        3,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        kernel_regularizer=keras.regularizers.L2(1e-4),
        name=name,
    )(x)
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def build_model():
    """Returns a net of four convolutions and a dense head: 38,000 weights."""
    inputs = x = keras.Input((8, 8, 1))
    x = conv_block(x, 32, strides=1, name="conv1")
    x = conv_block(x, 32, strides=1, name="conv2")
    x = conv_block(x, 32, strides=1, name="conv3")
    x = conv_block(x, 64, strides=2, name="conv4")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    regularizer = keras.regularizers.L2(1e-4)
    x = keras.layers.Dense(10, kernel_regularizer=regularizer, name="logits")(x)
    return keras.Model(inputs, x, name="digits")


def train(model, data, callbacks=()):
    """Trains a model; dense and pruned ones are treated exactly alike."""
    steps = FLAGS.epochs * -(-len(data[0]) // BATCH_SIZE)
    model.compile(
        optimizer=keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(0.05, steps),
            momentum=0.9,
            nesterov=True,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        *data,
        batch_size=BATCH_SIZE,
        epochs=FLAGS.epochs,
        callbacks=list(callbacks),
        # Into a file, a line for each epoch reads better than a progress bar.
        verbose=1 if sys.stdout.isatty() else 2,
    )


def accuracy(model, data):
    images, labels = data
    return np.mean(model.predict(images, verbose=0).argmax(axis=-1) == labels)


class UpdateHistory(keras.callbacks.Callback):
    """Notes what each mask update has changed. Stands after `PruningCallback`."""

    def __init__(self):
        super().__init__()
        self.steps, self.sparsity, self.flips = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        if logs["mask_age"] == 1:  # The masks changed right before this step.
            self.steps.append(int(self.model.optimizer.iterations))
            self.sparsity.append(logs["sparsity"])
            self.flips.append(logs["mask_flips"])


def save_and_reload(model, path, images):
    """Saves a model, and makes sure that the file gives the same predictions."""
    model.save(path)
    reloaded = keras.models.load_model(path)
    np.testing.assert_allclose(
        reloaded.predict(images, verbose=0),
        model.predict(images, verbose=0),
        rtol=1e-5,
        atol=1e-5,
    )


def draw_layers(axes, report):
    kernels = report["kernels"]
    names = [
        f"{k['path'].removesuffix('/kernel')}\n{k['kept']:,} of {k['weights']:,}"
        for k in kernels
    ]
    bars = axes.barh(names, [k["sparsity"] for k in kernels], color="tab:blue")
    axes.bar_label(bars, fmt="{:.0%}", padding=3)
    axes.invert_yaxis()
    axes.spines["right"].set_visible(False)
    axes.set(title="Sparsity, and weights kept, of each layer", xlabel="sparsity")
    axes.set_xlim(0, 1)


def draw_history(axes, history):
    flips_axes = axes.twinx()
    flips_axes.plot(history.steps, history.flips, color="tab:orange", linewidth=1)
    flips_axes.set_ylabel("mask flips per update", color="tab:orange")
    flips_axes.set_ylim(bottom=0)
    axes.plot(history.steps, history.sparsity, color="tab:blue", linewidth=2)
    axes.set_ylabel("sparsity", color="tab:blue")
    axes.set(title="Sparsity and mask flips", xlabel="training step", ylim=(0, 1))


def draw(report, history, path):
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_layers(left, report)
    draw_history(right, history)
    for axes in figure.axes:
        axes.spines["top"].set_visible(False)
    figure.savefig(path, dpi=120)


def main(_):
    out = pathlib.Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    training, test = load_data()

    print("\nDense training")
    keras.utils.set_random_seed(FLAGS.seed)
    dense = build_model()
    train(dense, training)

    print(f"\nTraining to {FLAGS.sparsity:.0%} sparsity, from the same initial weights")
    keras.utils.set_random_seed(FLAGS.seed)
    pruned = dpf_tf.prune_low_magnitude_dpf(build_model(), FLAGS.sparsity)
    history = UpdateHistory()
    train(pruned, training, [dpf_tf.PruningCallback(), history])

    report = dpf_tf.sparsity_report(pruned)
    sparse = dpf_tf.strip_pruning(pruned)
    print(f"\n{report}\n")
    print(f"dense accuracy: {accuracy(dense, test):.3f}")
    print(f"sparse accuracy: {accuracy(sparse, test):.3f}\n")

    save_and_reload(sparse, out / "sparse.keras", test[0])
    print(f"The sparse model, a plain Keras one: {out / 'sparse.keras'}")
    draw(report, history, out / "pruning.png")
    print(f"How the pruning went: {out / 'pruning.png'}")


if __name__ == "__main__":
    app.run(main)
