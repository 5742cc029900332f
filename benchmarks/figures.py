"""Draws the figures of docs/ that show comparisons, from the JSON files.

    python -m benchmarks.figures

The others: `benchmarks.training_curves` (of masks), examples/digits.py (docs/demo.png).
"""

from __future__ import annotations

import pathlib

from benchmarks import accuracy_figure, choices, comparison, markdown, period_figure

FIGURES = {
    "compare_fashion_mnist_short": choices.FASHION,
    "compare_cifar10_short": choices.CIFAR,
    "compare_cifar10_filters": choices.FILTERS,
    "mask_periods": choices.PERIODS,
}


def draw(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Draws a figure, and returns where."""
    choice, path = FIGURES[name], folder / f"{name}.png"
    found = comparison.records(choice)
    scores = comparison.scores(found)
    if choice == choices.PERIODS:
        period_figure.draw(scores, found[0], path)
    else:
        accuracy_figure.draw(scores, found[0], choice.common.sparsity, path)
    return path


if __name__ == "__main__":
    for each in FIGURES:
        print(f"Drawn: {draw(each, markdown.ROOT / 'docs')}")
