"""The table of where the masks of trainings end, from their analyses."""

from __future__ import annotations

from typing import Any

from benchmarks import markdown

RUNS = {"DPF": "cifar10_resnet8_dpf", "ST-3": "cifar10_resnet8_st3_kernel"}


def kernels() -> list[str]:
    """Returns each kernel's final sparsity, and how much of what it kept came back."""
    records = {label: markdown.load(f"masks/{name}") for label, name in RUNS.items()}
    found = [record["analysis"]["kernels"] for record in records.values()]
    columns = [
        column for label in RUNS for column in (f"sparsity, {label}", "... came back")
    ]
    rows = [
        [f"`{same[0]['path']}`", *_cells([[kernel] for kernel in same])]
        for same in zip(*found, strict=True)
    ]
    return [
        *markdown.head(["kernel", "weights", *columns]),
        *(markdown.row(row) for row in [*rows, ["all", *_cells(found)]]),
        "",
        "Came back: of the weights kept at the end, the share that had been pruned at "
        f"some time before. {markdown.where(*records.values())}. The trainings:",
        *(line for label in RUNS for line in ("", _made(label, records[label]))),
    ]


def _cells(trainings: list[list[dict[str, Any]]]) -> list[str]:
    """Returns the cells of some kernels, the same ones in each training."""
    weights = sum(kernel["weights"] for kernel in trainings[0])
    cells = [f"{weights:,}"]
    for kernels in trainings:
        kept, back = (sum(k[name] for k in kernels) for name in ("kept", "came_back"))
        cells += [f"{1 - kept / weights:.1%}", f"{back / max(1, kept):.1%}"]
    return cells


def _made(label: str, record: dict[str, Any]) -> str:
    summary = record["summary"]
    return (
        f"{label}, {summary['last']['top1']:.2%} in the end: `{summary['command']}`, "
        f"{summary['date'][:10]}."
    )
