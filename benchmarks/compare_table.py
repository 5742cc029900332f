r"""Prints a comparison of `benchmarks.compare`, and draws its accuracies.

    python -m benchmarks.compare_table --data=fashion_mnist --budget=short
    python -m benchmarks.compare_table --data=cifar10 --arms=dpf,gmp --results=mine
    python -m benchmarks.compare_table --data=cifar10 --sparsities=0.9 \
        --arms=dpf,dpf_p4,dpf_p64 --against=period

Lottery tickets stand once more beside the trainings that found their masks. The figure
is written into the folder of the results, over an older one, if nobody says otherwise.
Those in docs/ are made by `benchmarks.figures`, the tables by `benchmarks.tables`.
"""

from __future__ import annotations

import pathlib
import sys

from absl import app, flags

from benchmarks import comparison, comparison_flags, comparison_table

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(comparison_flags)  # So that --help tells of them.
flags.DEFINE_enum(
    "against",
    "sparsity",
    ["sparsity", "period"],
    "What the figure shows accuracy against; period: the steps between two masks.",
)
flags.DEFINE_string("figure", None, "PNG file to draw to.")


def main(arguments: list[str]) -> None:
    choice, results = comparison_flags.choice(arguments), comparison_flags.results()
    if FLAGS.figure and not FLAGS.figure.endswith(".png"):
        raise app.UsageError(f"--figure must end in .png. Received: {FLAGS.figure!r}")
    for table in (comparison_table.lines, comparison_table.tickets):
        if lines := table(choice, results):
            print("\n".join(lines), end="\n\n")
    try:
        from benchmarks import accuracy_figure, period_figure
    except ImportError:
        sys.exit("The figure needs matplotlib: pip install '.[demo]'.")
    by_period = FLAGS.against == "period"
    name = f"{'periods' if by_period else 'compare'}_{choice.data}_{choice.budget}.png"
    path = pathlib.Path(FLAGS.figure or results / name)
    draw = period_figure.draw if by_period else accuracy_figure.draw
    try:
        draw(choice, comparison.records(choice, results), path)
    except OSError as error:
        sys.exit(f"The figure cannot be written: {error}")
    print(f"Drawn: {path}")


if __name__ == "__main__":
    app.run(main)
