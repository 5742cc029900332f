"""Prints a comparison of `benchmarks.compare`, and draws accuracy against sparsity.

    python -m benchmarks.compare_table --data=fashion_mnist --budget=short
    python -m benchmarks.compare_table --data=cifar10 --arms=dpf,gmp --results=mine

The figure is written into the folder of the results, if nobody says otherwise. The
tables in docs/ are made by `benchmarks.tables`, the figures by `benchmarks.figures`.
"""

from __future__ import annotations

import pathlib
import sys

from absl import app, flags

from benchmarks import comparison, comparison_flags, comparison_table

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(comparison_flags)  # So that --help tells of them.
flags.DEFINE_string("figure", None, "PNG file to draw to.")


def main(arguments: list[str]) -> None:
    choice, results = comparison_flags.choice(arguments), comparison_flags.results()
    print("\n".join(comparison_table.lines(choice, results)))
    default = results / f"compare_{choice.data}_{choice.budget}.png"
    path = pathlib.Path(FLAGS.figure or default)
    try:
        from benchmarks import accuracy_figure
    except ImportError:
        sys.exit("The figure needs matplotlib: pip install '.[demo]'.")
    accuracy_figure.draw(choice, comparison.records(choice, results), path)
    print(f"Drawn: {path}")


if __name__ == "__main__":
    app.run(main)
