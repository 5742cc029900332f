"""What came of a training: accuracy, weights and multiply-accumulates of its models."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import tensorflow as tf

import dpf_tf
from official_models import data

PACKAGES = ("dpf_tf", "keras", "tf_keras", "numpy")
# A training's batch may be that of many devices; this is evaluated on one.
BATCH = 128


def metrics(keras: Any) -> list[Any]:
    """Returns the metrics of a training; weighted, so that filling counts nothing."""
    return [
        keras.metrics.CategoricalAccuracy(name="top1"),
        keras.metrics.TopKCategoricalAccuracy(5, name="top5"),
        keras.metrics.CategoricalCrossentropy(from_logits=True, name="cross_entropy"),
    ]


def measured(keras: Any, model: Any, info: data.DataInfo) -> dict[str, Any]:
    """Measures a plain model on the whole test set.

    Args:
        keras: the Keras that the model belongs to.
        model: a stripped or dense model.
        info: the data set.

    Returns:
        `top1`, `top5` and `cross_entropy` on the test set; `weights`, its trainable
        weights, `kept`, those of them that are no zeros of a kernel, and `sparsity`,
        the share of zeros; `macs_dense` and `macs_sparse`, multiply-accumulates for
        one example.
    """
    model.compile(
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=metrics(keras),
        jit_compile=False,
    )
    found = model.evaluate(
        data.evaluation(info, global_batch=BATCH),
        steps=data.evaluation_steps(info, BATCH),
        return_dict=True,
        verbose=0,
    )
    found = {name: float(found[name]) for name in ("top1", "top5", "cross_entropy")}
    values = [variable.numpy() for variable in model.trainable_variables]
    weights = sum(value.size for value in values)
    zeros = sum(int(np.sum(value == 0)) for value in values if value.ndim > 1)
    counted = dpf_tf.count_macs(model)
    return found | {
        "weights": weights,
        "kept": weights - zeros,
        "sparsity": zeros / weights,
        "macs_dense": counted.dense,
        "macs_sparse": counted.sparse,
    }


def versions() -> dict[str, str]:
    """Returns the versions of the packages that a result depends on."""
    found = {"tensorflow": tf.__version__}  # Its package has several names.
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # A checkout, not installed.
            continue
    return found


def table(summary: dict[str, Any]) -> str:
    """Returns the final table of a training: a column for each model it has left."""
    names = [name for name in ("last", "best") if name in summary]
    columns = [_column(summary[name]) for name in names]
    heads = [_head(name, summary[name]) for name in names]
    rows = [["", *heads]]
    rows += [[label, *(column[label] for column in columns)] for label in columns[0]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _head(name: str, result: dict[str, Any]) -> str:
    return f"best, epoch {result['epoch']}" if name == "best" else name


def _column(result: dict[str, Any]) -> dict[str, str]:
    column = {
        "top-1 accuracy": f"{result['top1']:.4f}",
        "top-5 accuracy": f"{result['top5']:.4f}",
        "parameters, dense": f"{result['weights']:,}",
        "parameters, kept": f"{result['kept']:,}",
        "sparsity, whole model": f"{result['sparsity']:.4f}",
    }
    if "pruned" in result:
        column["sparsity, pruned kernels"] = f"{result['pruned']['sparsity']:.4f}"
    column["MACs, dense"] = f"{result['macs_dense']:,}"
    column["MACs, sparse"] = f"{result['macs_sparse']:,}"
    if any("filters" in kernel for kernel in result.get("kernels", [])):
        shrunk = result["cost"]["shrunk"]
        column["parameters, shrunk"] = f"{shrunk['parameters']:,}"
        column["MACs, shrunk"] = f"{shrunk['macs']:,}"
    return column | {"file": result["file"]}
