"""`TrainingState`: what an interrupted training needs to go on, and its best model."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from official_models.run_folder import RunFolder


class TrainingState:
    """Weights, masks, optimizer and progress, saved at the end of each epoch.

    Args:
        model: the model that is trained, pruned or not.
        folder: where it is saved.

    Attributes:
        epochs: how many epochs are done, over all stages.
        best_epoch: the best epoch at final sparsity, from 0; -1 if none has come yet.
        best_accuracy: its accuracy.
    """

    def __init__(self, model: Any, folder: RunFolder) -> None:
        self._model, self._folder = model, folder
        self._epochs = tf.Variable(0, dtype=tf.int64)
        self._best_epoch = tf.Variable(-1, dtype=tf.int64)
        self._best_accuracy = tf.Variable(-1.0, dtype=tf.float64)
        # Its epoch and accuracy go with it, whatever befalls the training after.
        self._best_checkpoint = tf.train.Checkpoint(
            model=model,
            best_epoch=self._best_epoch,
            best_accuracy=self._best_accuracy,
        )
        self._best = self._manager("best", self._best_checkpoint)
        self._last: tf.train.CheckpointManager | None = None

    @property
    def epochs(self) -> int:
        """How many epochs are done."""
        return int(self._epochs)

    @property
    def best_epoch(self) -> int:
        """The best epoch at final sparsity, from 0; -1 if there is none."""
        return int(self._best_epoch)

    @property
    def best_accuracy(self) -> float:
        """The accuracy of the best epoch."""
        return float(self._best_accuracy)

    def enter(self, stage: str) -> bool:
        """Begins a stage, or goes on with it: returns whether it was interrupted."""
        optimizer = self._model.optimizer
        optimizer.build(self._model.trainable_variables)
        checkpoint = tf.train.Checkpoint(
            model=self._model,
            optimizer=optimizer,
            epochs=self._epochs,
        )
        self._last = self._manager(stage, checkpoint)
        found = tf.train.latest_checkpoint(self._folder.restored_from(stage))
        if found:
            checkpoint.restore(found).assert_existing_objects_matched()
        best = tf.train.latest_checkpoint(self._folder.restored_from("best"))
        if best:
            tf.train.Checkpoint(
                best_epoch=self._best_epoch, best_accuracy=self._best_accuracy
            ).restore(best).expect_partial()
        return bool(found)

    def save(self, epochs: int) -> None:
        """Saves the state after so many epochs."""
        self._epochs.assign(epochs)
        self._last.save(epochs)

    def offer(self, epoch: int, accuracy: float) -> None:
        """Keeps the model if its accuracy is the best so far."""
        if accuracy > self.best_accuracy:
            self._best_epoch.assign(epoch)
            self._best_accuracy.assign(accuracy)
            self._best.save(epoch)

    def restore_best(self) -> None:
        """Gives the model the weights and masks of the best epoch."""
        found = tf.train.latest_checkpoint(self._folder.restored_from("best"))
        self._best_checkpoint.restore(found).assert_existing_objects_matched()

    def _manager(self, stage: str, checkpoint: Any) -> tf.train.CheckpointManager:
        return tf.train.CheckpointManager(
            checkpoint, self._folder.checkpoints(stage), max_to_keep=1
        )
