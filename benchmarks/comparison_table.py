"""The tables of a comparison: accuracies by arm and sparsity, and what is computed."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import comparison, markdown


def lines(
    choice: comparison.Choice, results: pathlib.Path = comparison.RESULTS
) -> list[str]:
    """Returns the accuracies of some trainings, best arms first.

    Takes the arguments of `comparison.records`, and raises its errors.
    """
    records = comparison.records(choice, results)
    days = sorted({record["date"][:10] for record in records})
    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    there, all_of_them = len(records), len(choice.cells())
    count = f"{there}" if there == all_of_them else f"{there} of {all_of_them}"
    scores: Mapping[str, Mapping[float, object]] = comparison.scores(records)
    statistic = "mean and standard deviation of the seeds"
    if len({seed for _, _, seed in choice.cells()}) == 1:
        statistic = "of one seed"
        scores = {
            arm: {sparsity: f"{each.mean:.2f}" for sparsity, each in cells.items()}
            for arm, cells in comparison.scores(records).items()
        }
    return [
        f"{records[0]['model']}, {choice.data}, {records[0]['epochs']} epochs; test "
        f"accuracy of the last epoch in percent, {statistic}, by "
        f"{choice.common.sparsity}:",
        "",
        *_rows(scores),
        "",
        f"`python -m benchmarks.compare {choice}`, {count} trainings, "
        f"{period}, {markdown.where(*records)}.",
    ]


def macs(choice: comparison.Choice) -> list[str]:
    """Returns the multiply-accumulates of the final networks."""
    return [
        f"Multiply-accumulates with kept weights, {choice.data}, as a share of the "
        f"dense network's, mean of the seeds, by {choice.common.sparsity}:",
        "",
        *_rows(
            _shares(choice, lambda last: last["macs_sparse"] / last["macs_dense"]),
        ),
    ]


def macs_left(choice: comparison.Choice) -> list[str]:
    """Returns the multiply-accumulates that `shrink` leaves of the final networks."""
    return [
        f"Multiply-accumulates after shrinking, {choice.data}, as a share of the dense "
        f"network's, mean of the seeds, by {choice.common.sparsity}:",
        "",
        *_rows(
            _shares(
                choice,
                lambda last: (
                    last["cost"]["shrunk"]["macs"] / last["cost"]["dense"]["macs"]
                ),
            )
        ),
    ]


def _shares(
    choice: comparison.Choice, share: Callable[[dict[str, Any]], float]
) -> dict[str, dict[float, str]]:
    """Returns a mean over the seeds for each arm and sparsity, smallest arms first."""
    values: dict[str, dict[float, list[float]]] = {}
    for record in comparison.records(choice):
        if record["arm"] != "dense":
            cells = values.setdefault(record["arm"], {})
            cells.setdefault(record["sparsity"], []).append(share(record["last"]))
    means = {
        arm: {sparsity: statistics.mean(cells[sparsity]) for sparsity in sorted(cells)}
        for arm, cells in values.items()
    }
    order = sorted(means, key=lambda arm: means[arm][max(means[arm])])
    return {arm: {s: f"{mean:.1%}" for s, mean in means[arm].items()} for arm in order}


def _rows(cells: Mapping[str, Mapping[float, object]]) -> list[str]:
    """Returns a row for each arm, a column for each sparsity."""
    sparsities = sorted({sparsity for row in cells.values() for sparsity in row})
    return [
        *markdown.head(["", *(f"{s:.0%}" if s else "dense" for s in sparsities)]),
        *(
            markdown.row(
                [arm, *(str(row.get(sparsity, "")) for sparsity in sparsities)]
            )
            for arm, row in cells.items()
        ),
    ]
