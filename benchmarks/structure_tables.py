"""The tables of docs/structures.md: what structures cost and save."""

from __future__ import annotations

from typing import Any

from benchmarks import markdown


def latency() -> list[str]:
    """Returns what structures save in stock TFLite."""
    record = markdown.load("structured_latency")
    rows = [
        [
            f"{name}, {case['sparsity']:.0%}",
            _times(case["dense_to_pruned"]),
            _times(case["dense_to_dense_again"]),
            f"{case['memory']:.2f}",
            _of(case["bytes"], 1e6, ".2f"),
            _of(case["parameters"], 1e6, ".2f"),
            _of(case["macs"], 1e6, ",.1f"),
            _target(case),
        ]
        for name, case in record["cases"].items()
    ]
    return [
        "How many times as fast as the dense file the pruned one runs (dense again: "
        "the dense file, loaded once more, which shows the noise): the median of the "
        "ratios of times taken in turn, in brackets the quartiles. Memory is what "
        "loading and one run take, as a share of the dense file's:",
        "",
        *markdown.head(
            [
                "what is pruned",
                "times as fast",
                "dense again",
                "memory",
                "file, MB",
                "parameters, millions",
                "MACs, millions",
                "target",
            ]
        ),
        *(markdown.row(row) for row in rows),
        "",
        markdown.made(record),
    ]


def _times(ratios: dict[str, Any]) -> str:
    low, high = ratios["quartiles"]
    return f"{ratios['median']:.2f} ({low:.2f} to {high:.2f})"


def _of(pair: list[int], unit: float, form: str) -> str:
    """Returns how much is left of how much."""
    dense, left = (format(value / unit, form) for value in pair)
    return f"{left} of {dense}"


def _target(case: dict[str, Any]) -> str:
    parts = []
    if case["target"] is not None:
        parts.append(f"at least {case['target']:g} times")
    if case["memory_target"] is not None:
        parts.append(f"memory at most {case['memory_target']:g}")
    return ", ".join(parts)
