"""The figure of a comparison: accuracy against sparsity, a line for each arm."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import comparison

Scores = dict[str, dict[float, comparison.Score]]


def draw(
    choice: comparison.Choice, found: list[dict[str, Any]], path: pathlib.Path
) -> None:
    """Draws a line for each arm: mean and standard deviation over the seeds.

    Args:
        choice: what is compared.
        found: its results; see `comparison.records`.
        path: of the PNG.
    """
    scores, record = comparison.scores(found), found[0]
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.color_sequences["tab10"]
    lines = ["-", "--", ":", "-.", (0, (8, 2, 1, 2, 1, 2))]
    styles = itertools.cycle(itertools.product(lines, colors))
    sparsities = sorted({s for cells in scores.values() for s in cells if s})
    places = {sparsity: place for place, sparsity in enumerate(sparsities)}
    arms = [arm for arm in scores if arm != "dense"]
    for i, (arm, (line, color)) in enumerate(zip(arms, styles, strict=False)):
        # Side by side, so that the bars do not hide each other; but hardly, for on a
        # steep line a point that is moved aside looks better or worse than it is.
        shift = 0.08 * (i / max(1, len(arms) - 1) - 0.5)
        cells = {
            places[sparsity] + shift: score for sparsity, score in scores[arm].items()
        }
        plot(axes, cells, label=arm, linestyle=line, color=color)
    if "dense" in scores:
        dense = scores["dense"][0.0]
        axes.axhline(dense.mean, color="black", linewidth=1, label="dense")
    axes.set_xticks(range(len(sparsities)), [f"{s:.0%}" for s in sparsities])
    axes.set_xlim(-0.25, max(1, len(sparsities)) - 0.75)
    axes.set_xlabel(choice.common.sparsity)
    axes.set_ylabel("test accuracy, %, last epoch")
    axes.set_title(
        f"{record['model']}, {record['data']}, {comparison.epochs(found)} epochs; "
        f"{meaning(scores)}",
        fontsize="medium",
    )
    axes.grid(axis="y", alpha=0.3)
    # Outside: inside it would hide points.
    figure.legend(loc="outside right upper", fontsize="small")
    save(figure, scores, path)


def plot(axes: Axes, cells: Mapping[Any, comparison.Score], **style: Any) -> None:
    """Draws means over places, with bars; hollow where there are few seeds."""
    means = [score.mean for score in cells.values()]
    bars = [score.deviation or 0.0 for score in cells.values()]
    axes.errorbar(
        list(cells), means, bars, marker="o", markersize=4, capsize=2, **style
    )
    few = {x: score.mean for x, score in cells.items() if score.seeds < 3}
    hollow = {"facecolor": "white", "edgecolor": style["color"]}
    axes.scatter(list(few), list(few.values()), s=16, zorder=3, **hollow)


def meaning(scores: Scores) -> str:
    """Returns what bars and markers say."""
    drawn = [s for cells in scores.values() for x, s in cells.items() if x]
    few = any(score.seeds < 3 for score in drawn)
    bars = "bars: standard deviation of the seeds"
    return f"{bars}; hollow: fewer than three" if few else bars


def save(figure: Figure, scores: Scores, path: pathlib.Path) -> None:
    """Writes a PNG that tells which results it shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Description": description(scores)})


def description(scores: Scores) -> str:
    """Returns in words what is drawn."""
    return "\n".join(
        f"{arm} {sparsity:g}: {score}"
        for arm, cells in scores.items()
        for sparsity, score in cells.items()
    )
