"""The flags that choose trainings of a comparison."""

from __future__ import annotations

import pathlib
from typing import Any

from absl import app, flags

from benchmarks import comparison
from benchmarks.budgets import ARMS, BUDGETS

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "data", None, ["cifar10", "fashion_mnist"], "The data.", required=True
)
flags.DEFINE_string(
    "budget",
    "short",
    "What is compared, for how long; of "
    + ", ".join(f"{budget} ({data})" for data, budget in BUDGETS),
)
flags.DEFINE_list("arms", None, f"Of {', '.join(ARMS)}. Default: those of the budget.")
flags.DEFINE_list("sparsities", None, "Which. Default: those of the budget.")
flags.DEFINE_list("seeds", None, "Which. Default: those of the budget.")
flags.DEFINE_string(
    "results", str(comparison.RESULTS), "Where the results are, and come to."
)


def choice(arguments: list[str]) -> comparison.Choice:
    """Returns the trainings that were asked for.

    Args:
        arguments: what `main` gets: the program and what is no flag.

    Raises:
        UsageError: if something is no flag, or no such choice.
    """
    if arguments[1:]:
        raise app.UsageError(
            f"Not a flag: {' '.join(arguments[1:])}. Flags look like --budget=short, "
            "lists like --arms=dpf,gmp."
        )
    return comparison.Choice(
        FLAGS.data,
        FLAGS.budget,
        _values("arms", str),
        _values("sparsities", float),
        _values("seeds", int),
    )


def results() -> pathlib.Path:
    """Returns where the results are."""
    return pathlib.Path(FLAGS.results)


def _values(flag: str, kind: type) -> tuple[Any, ...]:
    texts = FLAGS[flag].value
    if texts is None:
        return ()
    try:
        if not texts:
            raise ValueError("empty")
        return tuple(kind(text) for text in texts)
    except ValueError as error:
        what = "names" if kind is str else "numbers"
        raise app.UsageError(
            f"--{flag} must be {what} with commas between them. Received: "
            f"{','.join(texts)!r}"
        ) from error
