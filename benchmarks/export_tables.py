"""The tables of docs/phones.md."""

from __future__ import annotations

import collections
from typing import Any

from benchmarks import markdown
from benchmarks.phone_models import PHONE_MODELS
from dpf_tf.export.conversion import WEIGHTS

# What a refusal's reason contains, and what the table calls it.
_REASONS = {
    "no kernel has enough zeros": "sparse encoding asked of kernels without zeros",
    "cannot load single zeros in 8-bit": "single zeros in 8 bits",
    "NaN with float16 in blocks": "float16 in blocks",
    "differ from the model's": "outputs further from the model's than the tolerance",
}


def sizes() -> list[str]:
    """Returns what files of 90 % sparse models weigh."""
    record = markdown.load("export_matrix")
    rows = []
    for name in PHONE_MODELS:
        for weights in WEIGHTS:
            cell = record["cells"][f"{name}, {weights}, auto, 0.9"]
            if cell["outcome"] == "file":
                rows.append(markdown.row([name, weights, *_sizes(cell)]))
    return [
        "Kilobytes of files whose kernels are 90 % zeros (depthwise ones and "
        "embeddings are dense), their ratio to the information bound in brackets, and "
        'what `encoding="auto"` takes:',
        "",
        *markdown.head(
            [
                "model",
                "weights",
                "dense",
                "dense, gzip",
                "sparse",
                "sparse, gzip",
                "bound",
                "auto",
            ]
        ),
        *rows,
        "",
        markdown.made(record),
    ]


def _sizes(cell: dict[str, Any]) -> list[str]:
    bound = cell["bound_bytes"]
    texts = []
    for encoding in ("dense", "sparse"):
        file = cell["files"][encoding]
        for key in ("bytes", "gzip_bytes"):
            if "refused" in file:
                texts.append("refused")
            else:
                texts.append(f"{file[key] / 1000:,.0f} ({file[key] / bound:.2f})")
    return [*texts, f"{bound / 1000:,.0f}", cell["taken"]]


def matrix() -> list[str]:
    """Returns what became of all exports."""
    record = markdown.load("export_matrix")
    counts: dict[tuple[str, str], collections.Counter[str]] = {}
    for key, cell in record["cells"].items():
        name, weights, _, _ = key.split(", ")
        counter = counts.setdefault((name, weights), collections.Counter())
        counter[cell["outcome"]] += 1
    rows = [
        markdown.row([name, *(_outcome(counts[name, weights]) for weights in WEIGHTS)])
        for name in PHONE_MODELS
    ]
    outcomes = record["outcomes"]
    return [
        f"{sum(outcomes.values())} exports, with three encodings and at four "
        f"sparsities (0, 50, 90, 98 %): {outcomes.get('file', 0)} files that are "
        f"right on other inputs, too, {outcomes.get('refused', 0)} refusals with their "
        f"reason, {outcomes.get('silent failure', 0)} silent failures. Files and "
        "refusals:",
        "",
        *markdown.head(["", *WEIGHTS]),
        *rows,
        "",
        f"Reasons: {_reasons(record['cells'])}.",
        "",
        markdown.made(record),
    ]


def _reasons(cells: dict[str, Any]) -> str:
    counter: collections.Counter[str] = collections.Counter()
    for cell in cells.values():
        if cell["outcome"] == "refused":
            names = [name for key, name in _REASONS.items() if key in cell["reason"]]
            counter[names[0] if names else "others"] += 1
    return "; ".join(f"{name} ({n})" for name, n in counter.most_common())


def _outcome(counter: collections.Counter[str]) -> str:
    wrong = counter["silent failure"]
    text = f"{counter['file']} / {counter['refused']}"
    return f"{text}, {wrong} wrong" if wrong else text


def emulated_arm() -> list[str]:
    """Returns whether files go the sparse way on an emulated ARM."""
    record = markdown.load("emulated_arm")
    wrong = record["wrong_numbers"]
    return [
        f"Time dense / sparse at {record['sparsity']:.0%} zeros on a "
        f"{record['processor']}, and the largest difference from the Keras model:",
        "",
        *markdown.head(
            ["model", "weights", "dense / sparse", "dense / dense again", "difference"]
        ),
        *(
            markdown.row(
                [
                    result["model"],
                    result["weights"],
                    f"{result['dense_to_sparse']:.2f}",
                    f"{result['dense_to_dense_again']:.2f}",
                    f"{max(result['max_relative_error'].values()):.0e}",
                ]
            )
            for result in record["results"]
        ),
        "",
        f"What `export_tflite` refuses: {wrong['model']}, which fits half. Its sparse "
        f"file differs from the model by {wrong['sparse_on_x86']:.0e} on x86, and by "
        f"{wrong['sparse_on_arm']:.0%} of the largest output on ARM, where the dense "
        f"one differs by {wrong['dense_on_arm']:.0e}.",
        "",
        markdown.made(record),
    ]
