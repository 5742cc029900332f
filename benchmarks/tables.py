"""The tables in README.md and docs/, made from the JSON files of the benchmarks.

    python -m benchmarks.tables

writes them anew, between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import (
    choices,
    comparison_table,
    export_tables,
    markdown,
    mask_tables,
    structure_tables,
)

DOCS = markdown.ROOT / "docs"
FILES = [markdown.ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
ARMS = {"dpf": "DPF", "tfmot": "TFMOT", "dense_again": "dense again"}
KERASES = {"keras": "Keras 3", "tf_keras": "tf_keras"}


def step_time() -> list[str]:
    """Returns the table of what pruning adds to a training of ResNet-20."""
    record = markdown.load("step_time")
    columns: dict[str, dict[str, str]] = {}
    for result in record["results"]:
        for arm in ARMS:
            if arm in result["fresh"]:
                column = f"{ARMS[arm]}, {KERASES[result['keras']]}"
                columns[column] = _ratios(result, arm)
    rows = list(next(iter(columns.values())))
    return [
        "ResNet-20, 90 % sparse, a mask update every 16 steps, as ratios to dense "
        "training (dense again: the same model once more, which shows the noise). "
        "Of the times, the median of the rounds' ratios; in brackets, the quartiles:",
        "",
        *markdown.head(["", *columns]),
        *(
            markdown.row([row, *(column[row] for column in columns.values())])
            for row in rows
        ),
        "",
        markdown.made(record),
    ]


def _ratios(result: dict[str, Any], arm: str) -> dict[str, str]:
    fresh = result["fresh"][arm]
    masks = fresh.get("extra_bytes_per_prunable_weight", 0.0)
    return {
        **{
            f"step, batch {batch}": _times(arms[arm]["wall"])
            for batch, arms in result["step_time"].items()
        },
        "first step": _times(fresh["first_step"]),
        "graph operations": f"{fresh['graph_ratio']:.2f}",
        "bytes added per prunable weight": f"{masks:.2f}",
    }


def _times(times: dict[str, Any]) -> str:
    low, high = times["median_ratio_quartiles"]
    return f"{times['median_ratio']:.2f} ({low:.2f} to {high:.2f})"


def mask_update() -> list[str]:
    """Returns the table of one global mask update of ResNet-50."""
    record = markdown.load("mask_update")
    arms = {
        "update": "the whole update: masks found, flips counted, masks assigned",
        "partition": "`np.partition` of the magnitudes, in one array",
        "abs_partition": "`np.abs` and `np.partition`",
        "sort": "a full sort of each kernel, as TFMOT does",
        "xla": "our form for accelerators, compiled for the CPU",
    }
    results = record["results"]
    millions, kernels = results[0]["weights"] / 1e6, results[0]["kernels"]
    return [
        f"One exact global mask update of ResNet-50 ({millions:.1f} million weights in "
        f"{kernels} kernels), in seconds, by sparsity:",
        "",
        *markdown.head(["", *(f"{result['sparsity']:.0%}" for result in results)]),
        *(
            markdown.row(
                [label, *(f"{r['arms'][arm]['median_seconds']:.3f}" for r in results)]
            )
            for arm, label in arms.items()
        ),
        *(
            markdown.row(
                [label, *(f"{r['arms']['update'][ratio]:.2f}" for r in results)]
            )
            for ratio, label in (
                ("ratio_to_partition", "the update, as a share of `np.partition`"),
                ("ratio_to_abs_partition", "... of `np.abs` and `np.partition`"),
            )
        ),
        "",
        markdown.made(record),
    ]


def recipe_hours() -> list[str]:
    """Returns what each recipe costs: on this machine, and in operations."""
    record = markdown.load("recipe_hours")
    settings = record["settings"]
    rows = [
        [
            f"`{r['recipe']}`",
            f"{r['epochs']}",
            f"{r['macs'] / 1e6:,.1f}",
            _short(1000 * r["exaflops"]),
            f"{r['images_per_second']:,.0f}",
            _short(r["hours"]),
            # 10 TFLOP/s: a petaFLOP in 100 s.
            _short(1000 * r["exaflops"] * 100 / 3600),
        ]
        for r in record["results"]
    ]
    return [
        *markdown.head(
            [
                "recipe",
                "epochs",
                "MACs of an image, millions",
                "training, petaFLOP",
                "images/s, 2 cores",
                "hours, 2 cores",
                "hours at 10 TFLOP/s",
            ]
        ),
        *(markdown.row(row) for row in rows),
        "",
        f"Training steps alone, with {settings['keras']}, masks, float32 and a batch "
        f"of {settings['batch']}: the median of {settings['rounds']} rounds. The last "
        f"column is computed. {markdown.made(record)}",
    ]


def _short(value: float) -> str:
    """Returns a number with two digits, or all of its integer part."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def input_pipeline() -> list[str]:
    """Returns the images per second of each input pipeline by itself."""
    record, sources = markdown.load("input_pipeline"), ("training", "evaluation")
    rows = [
        [
            f"`{name}`{', generated images' if r['generated_images'] else ''}",
            f"{r['mean_record_bytes'] / 1000:.1f}",
            *(f"{r[kind]['images_per_second']:,.0f}" for kind in sources),
            *(f"{r[kind]['cpu_seconds_per_1000_images']:.3f}" for kind in sources),
        ]
        for name, r in record["results"].items()
    ]
    return [
        *markdown.head(
            [
                "data set",
                "kB of an example",
                "images/s, training",
                "evaluation",
                "CPU seconds per 1,000 images, training",
                "evaluation",
            ]
        ),
        *(markdown.row(row) for row in rows),
        "",
        markdown.made(record),
    ]


def training() -> list[str]:
    """Returns what the trainings came to whose results are kept, and their commands."""
    folder = markdown.ROOT / "benchmarks" / "results" / "training"
    records = [
        markdown.load(f"training/{path.stem}") for path in sorted(folder.glob("*.json"))
    ]
    rows, lines = [], []
    for record in records:
        summary, epochs = record["summary"], record["epochs"]
        last, recipe = summary["last"], summary["recipe"]
        pruned = last.get("pruned", {"sparsity": 0.0})
        seconds = statistics.median(epochs["seconds"])
        images = summary["steps_per_epoch"] * recipe["batch_size"]
        rows.append(
            [
                f"{recipe['model']}, {summary['options']['method']}",
                recipe["data"],
                f"{recipe['epochs']} x {summary['steps_per_epoch']}",
                f"{last['top1']:.2%}",
                f"{pruned['sparsity']:.2%}",
                f"{last['sparsity']:.2%}",
                f"{last['kept']:,} of {last['weights']:,}",
                f"{last['macs_sparse'] / 1e6:,.1f} of {last['macs_dense'] / 1e6:,.1f}",
                f"{images / seconds:,.0f}",
            ]
        )
        note = f" {record['note']}" if record["note"] else ""
        lines += ["", f"`{summary['command']}`, {summary['date'][:10]}.{note}"]
    return [
        *markdown.head(
            [
                "training",
                "data",
                "epochs x steps",
                "test top-1, last model",
                "sparsity, pruned kernels",
                "whole model",
                "weights kept",
                "MACs kept, millions",
                "images/s",
            ]
        ),
        *(markdown.row(row) for row in rows),
        "",
        "Images per second are those of a median epoch, its validation and all else "
        f"included. {markdown.where(records[0])}. The commands:",
        *lines,
    ]


TABLES: dict[str, Callable[[], list[str]]] = {
    "step_time": step_time,
    "mask_update": mask_update,
    "recipe_hours": recipe_hours,
    "input_pipeline": input_pipeline,
    "training": training,
    "export_sizes": export_tables.sizes,
    "export_matrix": export_tables.matrix,
    "emulated_arm": export_tables.emulated_arm,
    "structured_latency": structure_tables.latency,
    "compare_fashion_mnist_short": partial(comparison_table.lines, choices.FASHION),
    "compare_fashion_mnist_lenet": partial(comparison_table.lines, choices.LENET),
    "compare_cifar10_short": partial(comparison_table.lines, choices.CIFAR),
    "compare_cifar10_long": partial(
        comparison_table.by_epochs, choices.CIFAR, choices.LONG
    ),
    "compare_cifar10_filters": partial(comparison_table.lines, choices.FILTERS),
    "macs_fashion_mnist_short": partial(comparison_table.macs, choices.FASHION),
    "macs_cifar10_filters": partial(comparison_table.macs_left, choices.FILTERS),
    "mask_kernels": mask_tables.kernels,
    "levers_cifar10_short": partial(comparison_table.lines, choices.LEVERS_ON_DPF),
    "periods_cifar10_short": partial(comparison_table.lines, choices.PERIODS),
    "tickets_cifar10_short": partial(comparison_table.lines, choices.LOTTERY),
    "tickets_and_their_masks": partial(comparison_table.tickets, choices.LOTTERY),
}


def fill(text: str) -> str:
    """Returns a Markdown text with its tables made anew."""

    def fresh(found: re.Match[str]) -> str:
        return "\n".join([found[1], *TABLES[found[2]](), "<!-- end -->"])

    return re.sub(
        r"(<!-- table: (\w+) -->).*?<!-- end -->", fresh, text, flags=re.DOTALL
    )


if __name__ == "__main__":
    for file in FILES:
        file.write_text(fill(file.read_text(encoding="utf-8")), encoding="utf-8")
