"""A pruning scheme of one's own: AC/DC, which takes turns between sparse and dense.

A scheme says what its layers compute, what gradient the dense kernels get, and how the
masks are made. Here: whole kernels in one epoch, the largest weights alone in the next,
and these for good after 75 % of the training. All the rest (wrapping, counting, saving,
stripping, distribution) is the library's.

    python examples/own_scheme.py

Peste et al., "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural
Networks", NeurIPS 2021.
"""

import dataclasses

import keras
import numpy as np
from sklearn.datasets import load_digits

import dpf_tf


@keras.saving.register_keras_serializable("own_scheme")  # To be saved with a model.
@dataclasses.dataclass(frozen=True, kw_only=True)
class ACDC(dpf_tf.methods.Method):
    """Alternates phases of an epoch, dense and sparse; ends sparse."""

    # What is pruned begins at zero when it comes back, and so does its momentum.
    restarts = frozenset({"weights", "momenta"})

    def schedule(self, target):
        """Returns what a bare target stands for: one sparsity, a round an epoch."""
        return dpf_tf.PolynomialDecay(
            initial_sparsity=target, final_sparsity=target, frequency="epoch"
        )

    def backward(self, upstream, kernel, mask, state):
        """Returns the gradient of the kept weights: of all, in a dense phase."""
        return dpf_tf.methods.masked(upstream, mask)

    def masks(self, round):
        """Returns full masks and those of the largest weights in turns."""
        phase = round.step // round.schedule.frequency
        if phase % 2 == 0 and round.step < round.schedule.end_step:
            return [np.ones_like(mask) for mask in round.masks]
        return round.largest() if round.is_first else round.masks


def main():
    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    pruned = dpf_tf.prune(model, 0.9, method=ACDC())
    pruned.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = pruned.fit(
        images,
        digits.target,
        batch_size=32,
        epochs=12,
        validation_split=0.2,
        verbose=2,
        callbacks=[dpf_tf.PruningCallback()],
    ).history
    print("sparsity by epoch:", np.round(history["sparsity"], 2).tolist())
    print(f"sparse accuracy: {history['val_accuracy'][-1]:.3f}")


if __name__ == "__main__":
    main()
