"""The results of `benchmarks.compare`: read, and summed up over the seeds."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from absl import app

from benchmarks.budgets import ARMS, BUDGETS, Budget

RESULTS = pathlib.Path(__file__).parent / "results" / "compare"


class Score(NamedTuple):
    """Test accuracies of an arm at a sparsity, in percent.

    Attributes:
        mean: over the seeds.
        deviation: the standard deviation of a seed (n - 1); `None` with one seed.
        seeds: how many.
    """

    mean: float
    deviation: float | None
    seeds: int

    def __str__(self) -> str:
        if self.deviation is None:
            return f"{self.mean:.2f} (1 seed)"
        left_out = "" if self.seeds >= 3 else f" ({self.seeds} seeds)"
        return f"{self.mean:.2f} ± {self.deviation:.2f}{left_out}"


def refuse_unknown(arms: Iterable[str] | None) -> None:
    """Raises UsageError if a comparison has no such arm."""
    if unknown := set(arms or ()) - ARMS.keys():
        raise app.UsageError(
            f"Unknown arms: {', '.join(sorted(unknown))}. Known: {', '.join(ARMS)}"
        )


def budget_of(data: str, budget: str) -> Budget:
    """Returns what a comparison's cells have in common.

    Raises:
        UsageError: if there is no such comparison.
    """
    if (data, budget) not in BUDGETS:
        known = ", ".join(f"--data={d} --budget={b}" for d, b in BUDGETS)
        raise app.UsageError(f"There is no {budget!r} for {data}. Known: {known}")
    return BUDGETS[data, budget]


def records(
    data: str,
    budget: str,
    arms: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    results: pathlib.Path = RESULTS,
) -> list[dict[str, Any]]:
    """Returns the cells of a comparison that are there.

    Args:
        data: that they were trained on.
        budget: name of it.
        arms: those that are wanted; by default those of the budget.
        seeds: those that are wanted; by default all.
        results: where they lie.

    Raises:
        FileNotFoundError: if there is none.
        UsageError: if there is no such comparison.
    """
    arms = arms or budget_of(data, budget).arms
    paths = sorted((results / f"{data}_{budget}").glob("*.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    chosen = [
        record
        for record in found
        if record["arm"] in arms and (not seeds or record["seed"] in seeds)
    ]
    if not chosen:
        raise FileNotFoundError(
            f"There is no such result of --data={data} --budget={budget} in "
            f"{results}. Run `python -m benchmarks.compare` first."
        )
    return chosen


def scores(found: list[dict[str, Any]]) -> dict[str, dict[float, Score]]:
    """Returns what each arm comes to at each sparsity.

    The best arms come first, by the highest sparsity that all of them have.
    """
    accuracies: dict[str, dict[float, list[float]]] = {}
    for record in found:
        cells = accuracies.setdefault(record["arm"], {})
        cells.setdefault(record["sparsity"], []).append(100 * record["accuracy"])
    arms = {
        arm: {sparsity: score(values) for sparsity, values in sorted(cells.items())}
        for arm, cells in accuracies.items()
    }
    sparse = [cells.keys() for arm, cells in arms.items() if arm != "dense"]
    common = set.intersection(*map(set, sparse)) if sparse else set()

    def order(arm: str) -> tuple[bool, float]:
        if arm == "dense" or not common:
            return arm != "dense", 0.0
        return True, -arms[arm][max(common)].mean

    return {arm: arms[arm] for arm in sorted(arms, key=order)}


def score(accuracies: list[float]) -> Score:
    """Returns mean, deviation and number of some accuracies."""
    several = len(accuracies) > 1
    deviation = statistics.stdev(accuracies) if several else None
    return Score(statistics.mean(accuracies), deviation, len(accuracies))
