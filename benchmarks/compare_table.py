"""Prints a comparison of `benchmarks.compare`, and draws accuracy against sparsity.

    python -m benchmarks.compare_table --data=fashion_mnist --budget=short
    python -m benchmarks.compare_table --data=cifar10 --arms=dpf,gmp --results=mine

The figure of a whole comparison is written to docs/ by default, any other into the
folder of the results. The tables in docs/ are made by `benchmarks.tables`.
"""

from __future__ import annotations

import pathlib

from absl import app, flags

from benchmarks import (
    accuracy_figure,
    comparison,
    comparison_flags,
    comparison_table,
    markdown,
)

FLAGS = flags.FLAGS
flags.DEFINE_string("figure", None, "PNG file to draw to.")


def main(arguments: list[str]) -> None:
    choice, results = comparison_flags.choice(arguments), comparison_flags.results()
    found = comparison.records(choice, results)
    print("\n".join(comparison_table.lines(choice, results)))
    scores = comparison.scores(found)
    path = pathlib.Path(FLAGS.figure or figure(choice, results))
    accuracy_figure.draw(scores, found[0], choice.common.sparsity, path)
    print(f"Drawn: {path}")


def figure(choice: comparison.Choice, results: pathlib.Path) -> pathlib.Path:
    """Returns where a comparison is drawn if nobody says where."""
    whole = comparison.Choice(choice.data, choice.budget)
    committed = choice == whole and results == comparison.RESULTS
    folder = markdown.ROOT / "docs" if committed else results
    return folder / f"compare_{choice.data}_{choice.budget}.png"


if __name__ == "__main__":
    app.run(main)
