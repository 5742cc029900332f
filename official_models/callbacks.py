"""What happens beside `fit`: logs of the pruning, progress, and saved states.

They stand after `dpf_tf.PruningCallback`, whose logs they read, in the order of this
file. Each works in both Kerases.
"""

from __future__ import annotations

import csv
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tf_keras

import dpf_tf
from official_models.mask_history import MaskHistory
from official_models.state import TrainingState


class _Callback(keras.callbacks.Callback, tf_keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        # tf_keras would copy the logs from the device at every step.
        self._supports_tf_logs = True

    def _step(self) -> int:
        return int(tf.convert_to_tensor(self.model.optimizer.iterations))


class MaskLog(_Callback):
    """Writes a row for each update that changed masks: step, sparsity, flips.

    Args:
        path: the CSV file, continued if it exists.
        steps_per_execution: how many steps lie between two looks at the masks.
        history: where the masks themselves are kept, if they are.
    """

    def __init__(
        self,
        path: pathlib.Path,
        steps_per_execution: int,
        history: MaskHistory | None = None,
    ) -> None:
        super().__init__()
        self._path, self._execution, self._history = path, steps_per_execution, history

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Writes a row if masks changed right before this execution."""
        if logs["mask_age"] > self._execution or not logs["mask_flips"]:
            return
        row = {
            "step": self._step() - logs["mask_age"],
            "sparsity": logs["sparsity"],
            "flips": logs["mask_flips"],
        }
        new = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        if self._history:
            self._history.write(row["step"], dpf_tf.get_masks(self.model))


class FrozenMasks(_Callback):
    """Gives the logs of a stage with frozen masks the columns of the pruning."""

    def __init__(self, sparsity: float) -> None:
        super().__init__()
        self._sparsity = sparsity

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds `sparsity`, `mask_flips` and `mask_age` to the logs."""
        logs |= {"sparsity": self._sparsity, "mask_flips": 0, "mask_age": self._step()}


class Progress(_Callback):
    """Adds the learning rate and the seconds of the epoch, and tells the time left.

    Args:
        learning_rate: the schedule of the optimizer.
        epochs: the epoch at which the training ends, all stages together.
        tell: called with a line for each epoch.
    """

    def __init__(
        self, learning_rate: Any, epochs: int, tell: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._learning_rate, self._epochs, self._tell = learning_rate, epochs, tell
        self._started = 0.0
        self._seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds `learning_rate` and `seconds` to the logs."""
        self._seconds.append(time.perf_counter() - self._started)
        logs["learning_rate"] = float(self._learning_rate(self._step() - 1))
        logs["seconds"] = self._seconds[-1]
        left = self._epochs - epoch - 1
        mean = sum(self._seconds) / len(self._seconds)
        self._tell(
            f"Epoch {epoch + 1} of {self._epochs} took {_duration(self._seconds[-1])}; "
            f"about {_duration(left * mean)} left."
        )


class KeepBest(_Callback):
    """Keeps the best model among the epochs that end at final sparsity."""

    def __init__(self, state: TrainingState, final_sparsity: float, first: int) -> None:
        super().__init__()
        self._state, self._final_sparsity = state, final_sparsity
        self._first = first

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Offers the model, once the masks have their final sparsity."""
        final = logs.get("sparsity", 0.0) >= self._final_sparsity
        if final and epoch >= self._first:
            self._state.offer(epoch, float(logs["val_top1"]))


class SaveState(_Callback):
    """Saves the state at the end of each epoch. The last one: logs come before."""

    def __init__(self, state: TrainingState) -> None:
        super().__init__()
        self._state = state

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves."""
        self._state.save(epoch + 1)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
