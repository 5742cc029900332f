"""What a training needs beside its recipe: where, on what and how."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a training needs beside its recipe.

    Attributes:
        model_dir: the folder of the training; see `run_folder`.
        data_dir: where TFDS keeps its data; `None` for its own default.
        method: how the model is made sparse; see `methods`.
        method_options: of the method, as `("share=0.2",)`.
        masks_from: folder of a finished training whose masks are taken, for good;
            `None` for masks of this training's own.
        record_masks: whether the masks of every update are kept.
        keras: `"keras"` or `"tf_keras"`.
        seed: of the initial weights, the order of the data, its augmentation, and the
            lots that a method draws.
        steps_per_epoch: `None` for one pass over the data.
        steps_per_execution: steps between two returns to Python.
        jit_compile: whether XLA compiles a step.
        synchronized_batch_norm: whether batch norm's statistics are those of the whole
            batch, rather than of each replica's share.
    """

    model_dir: str
    data_dir: str | None = None
    method: str = "dpf"
    method_options: tuple[str, ...] = ()
    masks_from: str | None = None
    record_masks: bool = False
    keras: str = "keras"
    seed: int = 0
    steps_per_epoch: int | None = None
    steps_per_execution: int = 1
    jit_compile: bool = False
    synchronized_batch_norm: bool = False

    def config(self) -> dict[str, Any]:
        """Returns the options that must not change in an interrupted training."""
        free = {"model_dir", "data_dir", "steps_per_execution", "jit_compile"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in free}
