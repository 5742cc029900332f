r"""A finished training of official_models as one JSON file of results.

    python -m official_models.train ... --model_dir=runs/dpf
    python -m benchmarks.training_run --run=runs/dpf \
        --out=benchmarks/results/training/cifar10_resnet20_dpf.json

It holds what the training was asked to do, its result, and its curves: a value for each
epoch, and for each mask update the step, the sparsity and the flips; and what
`official_models.analyze` has found of its masks, if it was asked. The figures of
several such files are drawn by `benchmarks.training_curves`. Collect a training on the
machine that ran it: the header tells the machine.
"""

from __future__ import annotations

import csv
import json
import pathlib
import re
from typing import Any

from absl import app, flags

from benchmarks import record

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Folder of a finished training.", required=True)
flags.DEFINE_string("out", None, "JSON file for the results.", required=True)
flags.DEFINE_string("note", "", "What a reader of the figures should know.")


def columns(path: pathlib.Path) -> dict[str, list[float]]:
    """Returns the columns of a CSV file; nothing if there is no such file."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # Seven digits are more than float32 has.
    return {
        name: [float(f"{float(row[name]):.7g}") for row in rows] for name in rows[0]
    }


def analysis(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns what `official_models.analyze` found; `None` if it was not asked.

    Sparsity and flips of the updates are left out: they are among `mask_updates`.
    """
    path = folder / "analysis.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    updates = found.pop("updates")
    iou = [float(f"{update['iou']:.7g}") for update in updates]
    return {**found, "step": [update["step"] for update in updates], "iou": iou}


def collected(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what the folder of a finished training holds, without its places.

    Raises:
        UsageError: if it has not ended, or there is none.
    """
    if not (folder / "summary.json").exists():
        raise app.UsageError(f"There is no finished training in {folder}.")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for place in ("model_dir", "data_dir"):
        del summary["options"][place]
    del summary["data"]["directory"]
    # Where the files lie is no part of the result.
    summary["command"] = re.sub(
        r"--(model_dir|data_dir)[= ]\S+", r"--\1=...", summary["command"]
    )
    return {
        "summary": summary,
        "epochs": columns(folder / "log.csv"),
        "mask_updates": columns(folder / "masks.csv"),
        "analysis": analysis(folder),
    }


def main(_: list[str]) -> None:
    found = collected(pathlib.Path(FLAGS.run))
    record.write(FLAGS.out, {"note": FLAGS.note, **found})
    print(FLAGS.out)


if __name__ == "__main__":
    app.run(main)
