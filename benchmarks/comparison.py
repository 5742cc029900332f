"""The results of `benchmarks.compare`: read, and summed up over the seeds."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Callable
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


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which trainings are meant. What is left empty is as the budget has it.

    Attributes:
        data: that they are trained on.
        budget: name of what they have in common.
        arms: which of `benchmarks.budgets.ARMS`.
        sparsities: at which; dense training has none, and is not asked.
        seeds: with which.

    Raises:
        UsageError: if there is no such comparison or arm, or a number is out of range.
    """

    data: str
    budget: str
    arms: tuple[str, ...] = ()
    sparsities: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.data, self.budget) not in BUDGETS:
            known = ", ".join(f"--data={d} --budget={b}" for d, b in BUDGETS)
            raise app.UsageError(
                f"There is no {self.budget!r} for {self.data}. Known: {known}"
            )
        if unknown := [arm for arm in self.arms if arm not in ARMS]:
            raise app.UsageError(
                f"Unknown arms: {', '.join(map(repr, unknown))}. Known: "
                f"{', '.join(ARMS)}"
            )
        if not all(0 < sparsity < 1 for sparsity in self.sparsities):
            raise app.UsageError(
                "--sparsities are shares of what is pruned, such as 0.9,0.95. "
                f"Received: {','.join(map(str, self.sparsities))}"
            )
        if not all(seed >= 0 for seed in self.seeds):
            raise app.UsageError(
                "--seeds are whole numbers from 0 on. Received: "
                f"{','.join(map(str, self.seeds))}"
            )

    @property
    def common(self) -> Budget:
        """What the trainings have in common."""
        return BUDGETS[self.data, self.budget]

    def cells(self) -> list[tuple[str, float, int]]:
        """Returns arm, sparsity and seed of each: first one seed of all, then more."""
        found = [
            (arm, 0.0 if arm == "dense" else sparsity, seed)
            for seed in self.seeds or self.common.seeds
            for sparsity in self.sparsities or self.common.sparsities
            for arm in self.arms or self.common.arms
        ]
        return list(dict.fromkeys(found))  # Dense training has no sparsity.

    def __str__(self) -> str:
        """The flags that choose these."""
        lists = {
            name: ",".join(map(str, getattr(self, name)))
            for name in ("arms", "sparsities", "seeds")
        }
        given = {"data": self.data, "budget": self.budget, **lists}
        return " ".join(f"--{name}={value}" for name, value in given.items() if value)


def name(arm: str, sparsity: float, seed: int) -> str:
    """Returns what the files of a training are called."""
    share = f"_{100 * sparsity:g}" if sparsity else ""
    return f"{arm}{share}_seed{seed}"


def records(choice: Choice, results: pathlib.Path = RESULTS) -> list[dict[str, Any]]:
    """Returns the results of those trainings that have one.

    Raises:
        UsageError: if none has, or a file is no result, or that of another training
            than its name says.
    """
    wanted = {name(*cell) for cell in choice.cells()}
    folder = results / f"{choice.data}_{choice.budget}"
    there = {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
    found = [record for stem, record in there.items() if stem in wanted]
    if not found:
        where = "" if results == RESULTS else f" --results={results}"
        others = f" There are {', '.join(there)}." if len(there) in range(1, 13) else ""
        raise app.UsageError(
            f"There is no such result in {folder}.{others} Run this first:\n"
            f"python -m benchmarks.compare {choice}{where}"
        )
    return found


def read(path: pathlib.Path) -> dict[str, Any]:
    """Returns a result.

    Raises:
        UsageError: if the file is none, or that of another training than its name says.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        training = name(record["arm"], record["sparsity"], record["seed"])
    except (ValueError, KeyError, TypeError) as error:
        raise app.UsageError(f"{path} is no result of a training.") from error
    if path.stem != training:
        raise app.UsageError(
            f"{path} is a result of {training}, and would count beside it. Move it "
            "away."
        )
    return record


def scores(found: list[dict[str, Any]]) -> dict[str, dict[float, Score]]:
    """Returns what each arm comes to at each sparsity.

    The best arms come first, by the highest sparsity that all of them have.
    """
    accuracies = values(found, lambda record: 100 * record["accuracy"])
    arms = {
        arm: {sparsity: score(each) for sparsity, each in cells.items()}
        for arm, cells in accuracies.items()
    }
    sparse = [cells.keys() for arm, cells in arms.items() if arm != "dense"]
    common = set.intersection(*map(set, sparse)) if sparse else set()

    def order(arm: str) -> tuple[bool, float]:
        if arm == "dense" or not common:
            return arm != "dense", 0.0
        return True, -arms[arm][max(common)].mean

    return {arm: arms[arm] for arm in sorted(arms, key=order)}


def epochs(found: list[dict[str, Any]]) -> str:
    """Returns how long the trainings took, in words."""
    return " or ".join(map(str, sorted({record["epochs"] for record in found})))


def values(
    found: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]
) -> dict[str, dict[float, list[float]]]:
    """Returns a value of each training, by arm and sparsity."""
    arms: dict[str, dict[float, list[float]]] = {}
    for record in sorted(found, key=lambda record: record["sparsity"]):
        cells = arms.setdefault(record["arm"], {})
        cells.setdefault(record["sparsity"], []).append(value(record))
    return arms


def score(accuracies: list[float]) -> Score:
    """Returns mean, deviation and number of some accuracies."""
    several = len(accuracies) > 1
    deviation = statistics.stdev(accuracies) if several else None
    return Score(statistics.mean(accuracies), deviation, len(accuracies))
