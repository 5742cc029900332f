"""Prints a comparison of `benchmarks.compare`, and draws accuracy against sparsity.

    python -m benchmarks.compare_table --data=fashion_mnist --budget=short

The figure is written to docs/. The tables in docs/ are made by `benchmarks.tables`.
"""

from __future__ import annotations

import pathlib

from absl import app, flags

from benchmarks import accuracy_figure, comparison, tables

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "The data.", required=True)
flags.DEFINE_string("budget", "short", "The budget.")
flags.DEFINE_list("arms", None, "Which arms. Default: those of the budget.")
flags.DEFINE_string("results", str(comparison.RESULTS), "Where the results are.")
flags.DEFINE_string("figure", None, "Where to draw. Default: in docs/.")

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"


def main(_: list[str]) -> None:
    data, budget, arms = FLAGS.data, FLAGS.budget, FLAGS.arms
    comparison.refuse_unknown(arms)
    try:
        results = pathlib.Path(FLAGS.results)
        found = comparison.records(data, budget, arms, results=results)
        lines = tables.compare(data, budget, arms, results=results)
    except FileNotFoundError as error:
        raise app.UsageError(str(error)) from error
    print("\n".join(lines))
    path = pathlib.Path(FLAGS.figure or DOCS / f"compare_{data}_{budget}.png")
    accuracy_figure.draw(
        comparison.scores(found),
        found[0],
        comparison.budget_of(data, budget).sparsity,
        path,
    )
    print(f"Drawn: {path}")


if __name__ == "__main__":
    app.run(main)
