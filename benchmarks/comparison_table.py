"""The tables of a comparison: accuracies by arm and sparsity, and what is computed."""

from __future__ import annotations

import dataclasses
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
    one_seed = len({seed for _, _, seed in choice.cells()}) == 1
    statistic = (
        "of one seed" if one_seed else "mean and standard deviation of the seeds"
    )
    scores = {
        arm: {
            s: f"{each.mean:.2f}" if one_seed else str(each) for s, each in row.items()
        }
        for arm, row in comparison.scores(records).items()
    }
    return [
        f"{records[0]['model']}, {choice.data}, {comparison.epochs(records)} epochs; "
        f"test accuracy of the last epoch in percent, {statistic}, by "
        f"{choice.common.sparsity}:",
        "",
        *_rows(scores),
        "",
        _made(choice, records),
    ]


def by_epochs(
    short: comparison.Choice,
    long: comparison.Choice,
    results: pathlib.Path = comparison.RESULTS,
) -> list[str]:
    """Returns what some arms reach in few epochs and in many, those of many in order.

    Args:
        short: trainings of few epochs; of these, what the others have is shown.
        long: of many.
        results: the folder of both.
    """
    many = comparison.records(long, results)
    after = comparison.scores(many)
    short = dataclasses.replace(short, arms=tuple(after))
    few = comparison.records(short, results)
    before = comparison.scores(few)
    sparsities = sorted({sparsity for row in after.values() for sparsity in row})
    epochs = [f"{comparison.epochs(found)} epochs" for found in (few, many)]
    return [
        f"{many[0]['model']}, {long.data}; test accuracy of the last epoch in "
        "percent, mean and standard deviation of the seeds, by "
        f"{long.common.sparsity} and epochs:",
        "",
        *markdown.head(
            ["", *(f"{_share(s)}, {each}" for s in sparsities for each in epochs)]
        ),
        *(
            markdown.row(
                [
                    arm,
                    *(
                        str(scores.get(arm, {}).get(sparsity, ""))
                        for sparsity in sparsities
                        for scores in (before, after)
                    ),
                ]
            )
            for arm in after
        ),
        "",
        f"{epochs[0].capitalize()}: {_made(short, few)}",
        "",
        f"{epochs[1].capitalize()}: {_made(long, many)}",
    ]


def _made(choice: comparison.Choice, records: list[dict[str, Any]]) -> str:
    """Returns by what, when and where some results were made."""
    days = sorted({record["date"][:10] for record in records})
    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    there, all_of_them = len(records), len(choice.cells())
    count = f"{there}" if there == all_of_them else f"{there} of {all_of_them}"
    return (
        f"`python -m benchmarks.compare {choice}`, {count} trainings, "
        f"{period}, {markdown.where(*records)}."
    )


def tickets(
    choice: comparison.Choice, results: pathlib.Path = comparison.RESULTS
) -> list[str]:
    """Returns how tickets end beside the very trainings that found their masks.

    Takes the arguments of `comparison.records`; there are no lines without tickets.
    """
    columns: dict[str, Callable[[dict[str, Any]], float]] = {
        "ticket": lambda r: 100 * r["accuracy"],
        "what found its masks": lambda r: 100 * r["masks_from_accuracy"],
        "difference": lambda r: 100 * (r["accuracy"] - r["masks_from_accuracy"]),
    }
    found = [r for r in comparison.records(choice, results) if "masks_from" in r]
    if not found:
        return []
    values = [comparison.values(found, column) for column in columns.values()]
    cells = [(arm, sparsity) for arm, row in values[0].items() for sparsity in row]
    several = len({sparsity for _, sparsity in cells}) > 1
    return [
        "Each ticket beside the training that found its masks; test accuracy of the "
        "last epoch in percent, mean and standard deviation of the seeds:",
        "",
        *markdown.head(["", *columns]),
        *(
            markdown.row(
                [
                    f"{arm}, {_share(sparsity)}" if several else arm,
                    *(str(comparison.score(v[arm][sparsity])) for v in values),
                ]
            )
            for arm, sparsity in cells
        ),
    ]


def macs(choice: comparison.Choice) -> list[str]:
    """Returns the multiply-accumulates of the final networks."""
    return _shares(
        choice,
        "with kept weights",
        lambda last: last["macs_sparse"] / last["macs_dense"],
    )


def macs_left(choice: comparison.Choice) -> list[str]:
    """Returns the multiply-accumulates that `shrink` leaves of the final networks."""
    return _shares(
        choice,
        "after shrinking",
        lambda last: last["cost"]["shrunk"]["macs"] / last["cost"]["dense"]["macs"],
    )


def _shares(
    choice: comparison.Choice, which: str, share: Callable[[dict[str, Any]], float]
) -> list[str]:
    """Returns shares of the dense network's multiply-accumulates, smallest first."""
    sparse = [r for r in comparison.records(choice) if r["arm"] != "dense"]
    means = {
        arm: {sparsity: statistics.mean(each) for sparsity, each in cells.items()}
        for arm, cells in comparison.values(sparse, lambda r: share(r["last"])).items()
    }
    order = sorted(means, key=lambda arm: means[arm][max(means[arm])])
    return [
        f"Multiply-accumulates {which}, {choice.data}, as a share of the dense "
        f"network's, mean of the seeds, by {choice.common.sparsity}:",
        "",
        *_rows({arm: {s: f"{m:.1%}" for s, m in means[arm].items()} for arm in order}),
    ]


def _rows(cells: Mapping[str, Mapping[float, str]]) -> list[str]:
    """Returns a row for each arm, a column for each sparsity."""
    sparsities = sorted({sparsity for row in cells.values() for sparsity in row})
    return [
        *markdown.head(["", *map(_share, sparsities)]),
        *(
            markdown.row([arm, *(row.get(sparsity, "") for sparsity in sparsities)])
            for arm, row in cells.items()
        ),
    ]


def _share(sparsity: float) -> str:
    return f"{sparsity:.0%}" if sparsity else "dense"
