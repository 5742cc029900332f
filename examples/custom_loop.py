"""Pruning in a training loop of one's own, with either Keras.

`dpf_tf.MaskUpdater` does what `PruningCallback` does in `fit`: it is asked before every
training step, and recomputes the masks when the schedule says so.

    python examples/custom_loop.py --keras=tf_keras
"""

import importlib

import tensorflow as tf
from absl import app, flags
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import dpf_tf

FLAGS = flags.FLAGS
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Which Keras to train with.")
flags.DEFINE_integer("epochs", 20, "Epochs of training.", lower_bound=1)


def build_model(keras):
    inputs = x = keras.Input((8, 8, 1))
    for filters in (16, 32):
        x = keras.layers.Conv2D(filters, 3, activation="relu")(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def main(_):
    keras = importlib.import_module(FLAGS.keras)
    keras.utils.set_random_seed(0)
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype("float32")
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.3, random_state=0
    )
    batches = tf.data.Dataset.from_tensor_slices((x_train, y_train))
    batches = batches.shuffle(len(x_train)).batch(32, drop_remainder=True)

    pruned = dpf_tf.prune_low_magnitude_dpf(build_model(keras), 0.9)
    updater = dpf_tf.MaskUpdater(pruned, total_steps=FLAGS.epochs * len(batches))
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, pruned(x, training=True))
        weights = pruned.trainable_variables  # The dense kernels: all of it learns.
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return loss

    step = 0
    for epoch in range(1, FLAGS.epochs + 1):
        losses, all_flips = [], 0
        for x, y in batches:
            sparsity, flips = updater.update(step)  # Not inside the tf.function.
            losses.append(train_step(x, y))
            all_flips += flips
            step += 1
        loss = tf.reduce_mean(losses)
        print(f"epoch {epoch}: {loss=:.4f} {sparsity=:.4f} mask flips={all_flips}")

    sparse = dpf_tf.strip_pruning(pruned)  # A plain model with exact zeros.
    predicted = sparse.predict(x_test, verbose=0).argmax(axis=-1)
    print(f"sparse accuracy: {(predicted == y_test).mean():.3f}")


if __name__ == "__main__":
    app.run(main)
