"""The masks of a training, one file for each update that changed them.

masks/0000016.npz    the masks made at step 16: kernel's path -> boolean array
masks/final.npz      those that the training ended with
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np

from official_models.errors import InputError

Masks = dict[str, np.ndarray]
FINAL = "final"


class MaskHistory:
    """Writes and reads the masks of a training.

    Args:
        path: their folder.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def write(self, step: int, masks: Masks) -> None:
        """Keeps the masks that were made at a step."""
        self._write(f"{step:07d}", masks)

    def write_final(self, masks: Masks) -> None:
        """Keeps the masks that the training ends with."""
        self._write(FINAL, masks)

    def final(self) -> Masks:
        """Returns the masks that the training has ended with.

        Raises:
            InputError: if it has not ended, or had no masks.
        """
        path = self._path / f"{FINAL}.npz"
        if not path.exists():
            raise InputError(
                f"{str(self._path.parent)!r} holds no masks of a finished training. "
                "Give the --model_dir of a training that prunes, after it has ended."
            )
        return _read(path)

    def steps(self) -> list[int]:
        """Returns the steps whose masks were kept, in order."""
        return sorted(int(path.stem) for path in self._path.glob("[0-9]*.npz"))

    def updates(self) -> Iterator[tuple[int, Masks]]:
        """Yields each step at which masks were made, with these, in order."""
        for step in self.steps():
            yield step, _read(self._path / f"{step:07d}.npz")

    def forget_after(self, step: float) -> None:
        """Drops the masks of updates that an interrupted training lost."""
        for found in self.steps():
            if found >= step:
                (self._path / f"{found:07d}.npz").unlink()

    def _write(self, name: str, masks: Masks) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        partial = self._path / f"{name}.partial"
        with partial.open("wb") as file:
            np.savez_compressed(file, **masks)  # type: ignore[arg-type]
        partial.replace(partial.with_suffix(".npz"))


def _read(path: pathlib.Path) -> Masks:
    with np.load(path) as found:
        return dict(found)
