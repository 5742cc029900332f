"""How accuracy and masks of trainings moved, drawn in one figure.

    python -m benchmarks.training_curves --figure=curves.png DENSE.json DPF.json

Each file is one that `benchmarks.training_run` has made. Where it holds an analysis of
the masks, their likeness to the final ones is drawn too.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from absl import app, flags
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

FLAGS = flags.FLAGS
flags.DEFINE_string("figure", None, "PNG file for the curves.", required=True)

LABELS = {"dpf": "DPF", "st3": "ST-3"}  # The others are called by their names.


def draw(runs: list[dict[str, Any]]) -> Figure:
    """Returns the figure of what `benchmarks.training_run` has collected."""
    analyzed = any(run.get("analysis") for run in runs)
    rows = 4 if analyzed else 3
    figure = Figure(figsize=(7.2, 0.4 + 2 * rows), layout="constrained")
    accuracy, sparsity, flips, *likeness = figure.subplots(rows, sharex=True)
    for run in runs:
        method = run["summary"]["options"]["method"]
        label = LABELS.get(method, method)
        epochs = [epoch + 1 for epoch in run["epochs"]["epoch"]]
        [line] = accuracy.plot(epochs, run["epochs"]["val_top1"], label=label)
        updates, colour = run["mask_updates"], line.get_color()
        epoch_steps = run["summary"]["steps_per_epoch"]
        if updates:
            at = [step / epoch_steps for step in updates["step"]]
            sparsity.step(at, updates["sparsity"], where="post", color=colour)
            flips.plot(at, updates["flips"], linewidth=0.8, color=colour)
        if analysis := run.get("analysis"):
            at = [step / epoch_steps for step in analysis["step"]]
            likeness[0].plot(at, analysis["iou"], color=colour)
            kept = [1 - sparsity for sparsity in updates["sparsity"]]
            most = [kept[-1] / each for each in kept]  # All that is kept at the end.
            likeness[0].plot(at, most, color="grey", linestyle="--", linewidth=0.8)
    accuracy.set_ylabel("test accuracy")
    accuracy.legend(frameon=False, loc="lower right")
    sparsity.set_ylabel("sparsity of the\npruned kernels")
    sparsity.set_ylim(0, 1)
    flips.set_ylabel("mask flips\nper update")
    flips.set_yscale("log")
    for axes in likeness:
        axes.set_ylabel("IoU with the\nfinal masks")
        axes.set_ylim(0, 1)
    panels = [accuracy, sparsity, flips, *likeness]
    panels[-1].set_xlabel("epoch")
    for axes in panels:
        axes.grid(alpha=0.3)
    for axes in (accuracy, sparsity):
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def main(arguments: list[str]) -> None:
    paths = [pathlib.Path(path) for path in arguments[1:]]
    if not paths:
        raise app.UsageError("Which trainings? Give their files, DENSE.json DPF.json.")
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    figure = pathlib.Path(FLAGS.figure)
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw(runs).savefig(figure, dpi=110)
    print(figure)


if __name__ == "__main__":
    app.run(main)
