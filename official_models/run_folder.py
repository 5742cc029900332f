"""The folder of one training: what it was asked to do, how far it is, what came of it.

config.json      the recipe and the options; another command is refused here
checkpoints/     the state at the end of the last epoch, and of the best one
log.csv          a row for each epoch
masks.csv        a row for each mask update
masks/           the final masks; those of each update too, if they are recorded
tensorboard/     the same for TensorBoard
sparse.keras     the last model, stripped; best_sparse.keras: the best one
summary.json     the result; while it is absent the training is not finished
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from official_models.errors import InputError
from official_models.mask_history import MaskHistory

try:
    import fcntl
except ImportError:  # On Windows: folders are not locked there.
    fcntl = None


class RunFolder:
    """Paths and files of one training.

    Args:
        path: the folder; all workers must see the same one.
        worker: number of this process. Worker 0 writes what is read again; the others
            write to folders of their own, removed at the end, because saving is a
            collective operation that all workers must take part in.
    """

    def __init__(self, path: str | os.PathLike[str], worker: int = 0) -> None:
        if "://" in str(path):
            raise InputError(
                f"The folder of a training must be a local or mounted one. Received: "
                f"{path}"
            )
        self.path = pathlib.Path(path)
        self._own = self.path / f"worker-{worker}" if worker else self.path
        self._chief = worker == 0
        self.log = self._own / "log.csv"
        self.masks = self._own / "masks.csv"
        self.history = MaskHistory(self._own / "masks")
        self.tensorboard = self._own / "tensorboard"

    def begin(self, config: dict[str, Any]) -> None:
        """Notes what is to be trained, or holds the command to what was noted before.

        A training that has not come to the end of an epoch binds nothing; a finished
        one binds even after its checkpoints are deleted.

        Raises:
            InputError: if the folder belongs to a training of other settings.
        """
        self._own.mkdir(parents=True, exist_ok=True)
        path = self.path / "config.json"
        if path.exists() and self.binds():
            _refuse_other(_read_json(path), config, self.path)
        elif self._chief:
            _write_json(path, config)

    def binds(self) -> bool:
        """Tells whether there is a training to go on with, or a finished one."""
        begun = any(self.path.glob("checkpoints/*/checkpoint"))
        return begun or self.summary() is not None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes out of the folder; a dead one holds nothing.

        Raises:
            InputError: if another process trains in this folder.
        """
        self._own.mkdir(parents=True, exist_ok=True)
        with (self._own / "lock").open("w") as lock:
            try:
                if fcntl:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"Another process trains in {str(self.path)!r}. Wait for its end, "
                    "or give another --model_dir."
                ) from error
            yield

    def checkpoints(self, stage: str) -> str:
        """Returns where this process writes the checkpoints of a stage."""
        return str(self._own / "checkpoints" / stage)

    def restored_from(self, stage: str) -> str:
        """Returns where every process reads the checkpoints of a stage."""
        return str(self.path / "checkpoints" / stage)

    def forget_after(self, epochs: int, step: float) -> None:
        """Drops rows of epochs and mask updates that an interrupted training lost."""
        _keep_rows(self.log, lambda row: int(row["epoch"]) < epochs)
        _keep_rows(self.masks, lambda row: int(row["step"]) < step)
        self.history.forget_after(step)

    def summary(self) -> dict[str, Any] | None:
        """Returns the result of a finished training; None of an unfinished one."""
        path = self.path / "summary.json"
        return _read_json(path) if path.exists() else None

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the result: from now on the training is finished."""
        _write_json(self.path / "summary.json", summary)

    def clean(self) -> None:
        """Removes what a worker other than the chief had to write."""
        if not self._chief:
            shutil.rmtree(self._own, ignore_errors=True)


def _refuse_other(
    noted: dict[str, Any], asked: dict[str, Any], path: pathlib.Path
) -> None:
    asked = json.loads(json.dumps(asked))  # Tuples become lists, as in the file.
    differing = [
        f"{key}: {noted.get(key)!r} there, {asked.get(key)!r} asked"
        for key in sorted(noted.keys() | asked.keys())
        if noted.get(key) != asked.get(key)
    ]
    if differing:
        raise InputError(
            f"The folder {str(path)!r} holds a training of other settings: "
            f"{'; '.join(differing)}. Give the same command to go on with it, or "
            "another --model_dir."
        )


def _keep_rows(path: pathlib.Path, keep: Any) -> None:
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names, rows = reader.fieldnames or [], [row for row in reader if keep(row)]
    if not rows:  # Whoever writes next writes the heading too.
        path.unlink()
        return
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
