"""Draws the figures of docs/ that show comparisons, from the JSON files.

    python -m benchmarks.figures

The others: `benchmarks.training_curves` (of masks), examples/digits.py (docs/demo.png).
"""

from __future__ import annotations

from benchmarks import accuracy_figure, choices, comparison, markdown, period_figure

FIGURES = {
    "compare_fashion_mnist_short": (choices.FASHION, accuracy_figure.draw),
    "compare_cifar10_short": (choices.CIFAR, accuracy_figure.draw),
    "compare_cifar10_long": (choices.LONG, accuracy_figure.draw),
    "compare_cifar10_filters": (choices.FILTERS, accuracy_figure.draw),
    "mask_periods": (choices.PERIODS, period_figure.draw),
}


if __name__ == "__main__":
    for name, (choice, draw) in FIGURES.items():
        path = markdown.ROOT / "docs" / f"{name}.png"
        draw(choice, comparison.records(choice), path)
        print(f"Drawn: {path}")
