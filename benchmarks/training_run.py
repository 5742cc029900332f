r"""Finished trainings of official_models, put together: one JSON and one figure.

    python -m official_models.train ... --method=dense --model_dir=runs/dense
    python -m official_models.train ... --method=dpf --model_dir=runs/dpf
    python -m benchmarks.training_run --run=runs/dense --run=runs/dpf \
        --out=benchmarks/results/cifar10_resnet20.json \
        --figure=docs/cifar10_resnet20.png

The JSON holds what each training was asked to do, its result, and its curves: a value
for each epoch, and for each mask update the step, the sparsity and the flips.
"""

from __future__ import annotations

import csv
import json
import pathlib
from typing import Any

from absl import app, flags
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks import record

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("run", None, "Folder of a finished training.", required=True)
flags.DEFINE_string("out", None, "JSON file for the results.", required=True)
flags.DEFINE_string("figure", None, "PNG file for the curves.")
flags.DEFINE_string("note", "", "What a reader of the figures should know.")

LABELS = {"dense": "dense", "dpf": "DPF"}


def columns(path: pathlib.Path) -> dict[str, list[float]]:
    """Returns the columns of a CSV file; nothing if there is no such file."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def collected(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what a finished training has left in its folder."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for place in ("model_dir", "data_dir"):
        del summary["options"][place]
    del summary["data"]["directory"]
    return {
        "method": summary["options"]["method"],
        "summary": summary,
        "epochs": columns(folder / "log.csv"),
        "mask_updates": columns(folder / "masks.csv"),
    }


def draw(runs: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws accuracy over the epochs, and sparsity and flips over the updates."""
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    accuracy, sparsity, flips = figure.subplots(3, sharex=True)
    for run in runs:
        label = LABELS[run["method"]]
        epochs = [epoch + 1 for epoch in run["epochs"]["epoch"]]
        accuracy.plot(epochs, run["epochs"]["val_top1"], label=label)
        updates = run["mask_updates"]
        if updates:
            steps = run["summary"]["steps_per_epoch"]
            at = [step / steps for step in updates["step"]]
            sparsity.step(at, updates["sparsity"], where="post", label=label)
            flips.plot(at, updates["flips"], linewidth=0.8, label=label)
    accuracy.set_ylabel("test accuracy")
    sparsity.set_ylabel("sparsity of pruned kernels")
    sparsity.set_ylim(0, 1)
    flips.set_ylabel("mask flips per update")
    flips.set_yscale("log")
    flips.set_xlabel("epoch")
    for axes in (accuracy, sparsity, flips):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    for axes in (accuracy, sparsity):
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(_: list[str]) -> None:
    runs = [collected(pathlib.Path(folder)) for folder in FLAGS.run]
    record.write(FLAGS.out, {"note": FLAGS.note, "runs": runs})
    print(FLAGS.out)
    if FLAGS.figure:
        draw(runs, pathlib.Path(FLAGS.figure))
        print(FLAGS.figure)


if __name__ == "__main__":
    app.run(main)
