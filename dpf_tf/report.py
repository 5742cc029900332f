"""`sparsity_report`: what is pruned, how sparse it is, and what was left dense."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dpf_tf import prunable
from dpf_tf.cost import cost_of
from dpf_tf.graph import is_graph, output_layers, pruned_layers, walk, wrappers
from dpf_tf.groups import count_kept, size, views
from dpf_tf.keras_api import Kernel, weight_name
from dpf_tf.selection import default_reason
from dpf_tf.structures import Filters, Structure
from dpf_tf.text import table
from dpf_tf.ties import ties_of
from dpf_tf.wrapper import PruneLowMagnitudeDPF


class SparsityReport(dict):
    """A plain dict that prints as a table. See `sparsity_report`."""

    def __str__(self) -> str:
        """Returns the report as a table."""
        rows = [["kernel", "shape", "weights", "kept", "sparsity", "share of kept"]]
        for k in self["kernels"]:
            rows.append(_row(k["path"], _shape(k["shape"]), k))
        rows.append(_row("pruned layers' kernels", "", self["pruned"]))
        rows.append(_row("whole model", "", self["overall"]))
        if any("filters" in k for k in self["kernels"]):
            filters = [
                f"{k['filters_kept']} of {k['filters']}" if "filters" in k else ""
                for k in self["kernels"]
            ]
            column = ["filters", *filters, "", ""]
            rows = [[*row, cell] for row, cell in zip(rows, column, strict=True)]
        lines = table(rows, rules=(1, len(rows) - 2))
        lines += ["", *table(self._costs(), rules=(1,))]
        if self["skipped"]:
            lines.append("")
            lines.append("left dense:")
            skipped = [
                [s["path"], _shape(s["shape"]), f"{s['weights']:,}", s["reason"]]
                for s in self["skipped"]
            ]
            lines.extend(table(skipped, rules=(), last_left=True))
        return "\n".join(lines)

    def _costs(self) -> list[list[str]]:
        rows = [["cost", "parameters", "MACs"]]
        for form, cost in self["cost"].items():
            rows.append(
                [form, *("-" if x is None else f"{x:,}" for x in cost.values())]
            )
        return rows


def sparsity_report(model: Any) -> SparsityReport:
    """Counts the weights of a pruned model, kernel by kernel and in total.

    Args:
        model: a pruned model or wrapped layer, built.

    Returns:
        A dict that prints as a table, of plain Python values:

        - `kernels`: one dict per pruned kernel, with `path`, `shape`, `weights`,
          `kept`, `sparsity` (share of zeros) and `share` (of all kept weights); where
          whole filters are pruned, with `filters` and `filters_kept`, too. Kept is what
          the masks keep; with ST-3, what of it lies above the threshold;
        - `pruned`: `weights`, `kept` and `sparsity` over these kernels;
        - `overall`: the same over all weights of the model (biases and batch norm's
          statistics included; masks are not weights);
        - `cost`: `parameters` and `macs` (multiply-accumulates of one example) of the
          model `dense`, `masked` (without zeros) and `shrunk` (what `shrink` leaves of
          it); `None` where that cannot be told;
        - `skipped`: kernels left dense, with `path`, `shape`, `weights`, `reason`:
          what kind of kernel it is, or that it was `"not selected"` (`layers=`,
          `exclude=`), `"not wrapped"` (in a subclassed model), part of a
          `"frozen layer"` or of an `"unknown layer"`.

    Raises:
        TypeError: if `model` is no Keras model or layer.
        ValueError: if nothing is pruned, or the model is not built yet.

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3),
        ...                           keras.layers.Dense(2, name="logits")])
        >>> pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.5)
        >>> _ = dpf_tf.MaskUpdater(pruned, total_steps=10).update(0)
        >>> report = dpf_tf.sparsity_report(pruned)
        >>> report["pruned"]
        {'weights': 12, 'kept': 12, 'sparsity': 0.0}
        >>> report["skipped"][0]["reason"]
        "makes the model's output"
    """
    kernels: list[dict[str, Any]] = []
    own: set[int] = set()
    masked: dict[int, np.ndarray] = {}
    for path, layer in pruned_layers(model):
        own.update(id(variable) for variable in layer.own_variables)
        masked |= {id(weight): value.numpy() for weight, value in layer.computed}
        for kernel, mask in zip(layer.places, layer.masks.values(), strict=True):
            if layer.settings.method.computes_masked:
                kept = count_kept([mask])
            else:  # Of what the mask keeps, some may be zero.
                kept = int(np.count_nonzero(masked[id(kernel.variable)]))
            kernels.append(
                {"path": f"{path}/{kernel.path}", "shape": list(mask.shape)}
                | _counts(size([mask]), kept)
                | _filters(layer, kernel, mask)
            )
    if not kernels:
        raise ValueError(
            f"'{model.name}' has no kernels yet: build it, by a call on a batch, "
            "before you ask for a report."
        )
    pruned = _total(kernels)
    for kernel in kernels:
        kernel["share"] = kernel["kept"] / max(1, pruned["kept"])
    weights = sum(math.prod(tuple(w.shape)) for w in model.weights if id(w) not in own)
    zeros = pruned["weights"] - pruned["kept"]
    return SparsityReport(
        kernels=kernels,
        pruned=pruned,
        overall=_counts(weights, weights - zeros),
        cost=cost_of(model, weights, zeros, masked),
        skipped=_skipped(model),
    )


def _counts(weights: int, kept: int) -> dict[str, Any]:
    return {"weights": weights, "kept": kept, "sparsity": (weights - kept) / weights}


def _filters(layer: Any, kernel: Kernel, mask: Any) -> dict[str, int]:
    """Returns how many filters a kernel has, and keeps, where they are pruned whole."""
    if not isinstance(layer.settings.structure, Filters):
        return {}
    (view,), axes = views([mask]), prunable.filter_axes(kernel)
    kept = view.any(tuple(i for i in range(view.ndim) if i not in axes))
    return {"filters": kept.size, "filters_kept": int(kept.sum())}


def _total(kernels: list[dict[str, Any]]) -> dict[str, Any]:
    return _counts(
        sum(kernel["weights"] for kernel in kernels),
        sum(kernel["kept"] for kernel in kernels),
    )


def _skipped(model: Any) -> list[dict[str, Any]]:
    pruned = {id(k) for _, x in wrappers(model) for k in x.kernels.values()}
    found = _left_in_graph(model) if is_graph(model) else _left_elsewhere(model)
    return [
        {
            "path": path,
            "shape": list(variable.shape),
            "weights": math.prod(tuple(variable.shape)),
            "reason": reason,
        }
        for path, variable, reason in found
        if variable is not None and id(variable) not in pruned
    ]


def _left_in_graph(model: Any) -> Iterator[tuple[str, Any, str]]:
    """Yields path, variable and reason, of pruned kernels too."""
    outputs = output_layers(model)
    structure, stays = _structure(model)
    for path, layer in walk(model):
        inner = layer.layer if isinstance(layer, PruneLowMagnitudeDPF) else layer
        if not inner.trainable:
            for weight in inner.weights:
                if len(weight.shape) > 1:
                    yield f"{path}/{weight_name(weight)}", weight, "frozen layer"
            continue
        for kernel in prunable.kernels(inner):
            reason = default_reason(kernel, id(layer) in outputs, structure)
            reason = reason or stays(kernel.owner) or "not selected"
            yield f"{path}/{kernel.path}", kernel.variable, reason
        names = prunable.unknown_kernels(inner)
        for weight in inner.trainable_weights:
            if (name := weight_name(weight)) in names:
                yield f"{path}/{name}", weight, "unknown layer"


def _structure(model: Any) -> tuple[Structure, Callable[[Any], str | None]]:
    """Returns what is pruned as one, and what tells why a layer's filters stay."""
    layers = [layer for _, layer in wrappers(model)]
    structure = layers[0].settings.structure
    if not isinstance(structure, Filters):
        return structure, lambda layer: None
    ties = ties_of(model, structure.keep_residual)
    pruned = {id(layer.layer) for layer in layers}

    def reason(layer: Any) -> str | None:
        return ties.reason(layer, ties.fixed({*pruned, id(layer)}))

    return structure, reason


def _left_elsewhere(model: Any) -> Iterator[tuple[str, Any, str]]:
    """The same for a subclassed model, or a layer by itself."""
    seen = set()
    for path, wrapper in wrappers(model):
        for kernel in prunable.kernels(wrapper.layer, frozen=True):
            seen.add(id(kernel.variable))
            reason = default_reason(kernel, False, wrapper.settings.structure)
            reason = reason or "not selected"
            yield f"{path}/{kernel.path}", kernel.variable, reason
    for kernel in prunable.kernels(model, frozen=True):
        if id(kernel.variable) not in seen:
            yield kernel.path, kernel.variable, "not wrapped"


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _row(name: str, shape: str, counts: dict[str, Any]) -> list[str]:
    return [
        name,
        shape,
        f"{counts['weights']:,}",
        f"{counts['kept']:,}",
        f"{counts['sparsity']:.4f}",
        f"{counts['share']:.2%}" if "share" in counts else "",
    ]
