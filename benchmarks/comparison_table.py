"""The table of a comparison: accuracies by arm and sparsity."""

from __future__ import annotations

import pathlib

from benchmarks import comparison, markdown


def lines(
    choice: comparison.Choice, results: pathlib.Path = comparison.RESULTS
) -> list[str]:
    """Returns the accuracies of some trainings, best arms first.

    Takes the arguments of `comparison.records`, and raises its errors.
    """
    records = comparison.records(choice, results)
    scores = comparison.scores(records)
    sparsities = sorted({sparsity for cells in scores.values() for sparsity in cells})
    days = sorted({record["date"][:10] for record in records})
    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    there, all_of_them = len(records), len(choice.cells())
    count = f"{there}" if there == all_of_them else f"{there} of {all_of_them}"
    return [
        f"{records[0]['model']}, {choice.data}, {records[0]['epochs']} epochs; test "
        "accuracy of the last epoch in percent, mean and standard deviation of the "
        f"seeds, by {choice.common.sparsity}:",
        "",
        *markdown.head(["", *(f"{s:.0%}" if s else "dense" for s in sparsities)]),
        *(
            markdown.row(
                [arm, *(str(cells.get(sparsity, "")) for sparsity in sparsities)]
            )
            for arm, cells in scores.items()
        ),
        "",
        f"`python -m benchmarks.compare {choice}`, {count} trainings, "
        f"{period}, {markdown.where(*records)}.",
    ]
