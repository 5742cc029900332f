"""The figure of accuracy against the number of steps between two masks."""

from __future__ import annotations

import pathlib
from typing import Any

from absl import app
from matplotlib.figure import Figure

from benchmarks import accuracy_figure, comparison
from benchmarks.budgets import BY_PERIOD


def draw(
    choice: comparison.Choice, found: list[dict[str, Any]], path: pathlib.Path
) -> None:
    """Draws mean and deviation for each period, and those of GMP as a band.

    Takes the arguments of `accuracy_figure.draw`, at one sparsity.

    Raises:
        UsageError: if there are several, or no arm is DPF with a period.
    """
    scores, record = comparison.scores(found), found[0]
    periods = {period: arm for period, arm in BY_PERIOD.items() if arm in scores}
    sparsities = sorted({s for arm in periods.values() for s in scores[arm]})
    if len(sparsities) != 1:
        there = ", ".join(map(str, sparsities)) or "none"
        raise app.UsageError(
            "The figure against the period shows DPF at one sparsity. Choose it by "
            f"--sparsities, and --arms={','.join(BY_PERIOD.values())}, with gmp if you "
            f"like. There are results of them at these: {there}"
        )
    sparsity = sparsities[0]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    cells = {period: scores[arm][sparsity] for period, arm in periods.items()}
    accuracy_figure.plot(axes, cells, label="DPF", color="tab:blue")
    if gmp := scores.get("gmp", {}).get(sparsity):
        axes.axhline(gmp.mean, color="black", linewidth=1, label="GMP, every 16 steps")
        spread = gmp.deviation or 0.0
        axes.axhspan(gmp.mean - spread, gmp.mean + spread, color="black", alpha=0.1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(BY_PERIOD), [str(period) for period in BY_PERIOD])
    axes.set_xlabel("steps between two masks")
    axes.set_ylabel("test accuracy, %, last epoch")
    axes.set_title(
        f"{record['model']}, {record['data']}, {sparsity:.0%} sparse, "
        f"{comparison.epochs(found)} epochs; {accuracy_figure.meaning(scores)}",
        fontsize="small",
    )
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    accuracy_figure.save(figure, scores, path)
