"""The table of where the masks of a training end, from its analysis."""

from __future__ import annotations

from benchmarks import markdown

RUNS = {"DPF": "cifar10_resnet8_dpf", "ST-3": "cifar10_resnet8_st3_kernel"}


def kernels() -> list[str]:
    """Returns each kernel's final sparsity, and how much of what it kept came back."""
    records = {label: markdown.load(f"masks/{name}") for label, name in RUNS.items()}
    analyses = [record["analysis"] for record in records.values()]
    rows = [
        [
            f"`{same[0]['path']}`",
            f"{same[0]['weights']:,}",
            *(cell for kernel in same for cell in _cells([kernel])),
        ]
        for same in zip(*(found["kernels"] for found in analyses), strict=True)
    ]
    total = sum(kernel["weights"] for kernel in analyses[0]["kernels"])
    everything = [cell for found in analyses for cell in _cells(found["kernels"])]
    columns = [
        column for label in RUNS for column in (f"sparsity, {label}", "... came back")
    ]
    commands = (f"`{r['summary']['command']}`" for r in records.values())
    return [
        *markdown.head(["kernel", "weights", *columns]),
        *(markdown.row(row) for row in [*rows, ["all", f"{total:,}", *everything]]),
        "",
        "Came back: the share of the finally kept weights that had been pruned once. "
        f"{', '.join(commands)}; {markdown.where(next(iter(records.values())))}.",
    ]


def _cells(kernels: list[dict[str, float]]) -> list[str]:
    weights, kept, back = (
        sum(kernel[name] for kernel in kernels)
        for name in ("weights", "kept", "came_back")
    )
    return [f"{1 - kept / weights:.1%}", f"{back / max(1, kept):.1%}"]
