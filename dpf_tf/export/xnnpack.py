"""`check_xnnpack_sparse`: what keeps a CNN off the sparse kernels of ARM processors.

TFLite's default delegate, XNNPACK, multiplies by the kept weights only if a whole chain
of operators, from the first convolution to the global average pooling, is of a form
that it knows. Everything else runs dense, however sparse the kernels are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dpf_tf import allocation, graph, groups, keras_api
from dpf_tf.export.chain import Chain
from dpf_tf.export.operators import Operator, operators_of
from dpf_tf.export.rules import is_pointwise

_SHOWN = 6  # Paths in a line of the text.


class XnnpackReport(dict):
    """A plain dict that prints as a short text. See `check_xnnpack_sparse`."""

    def __str__(self) -> str:
        """Returns the report as text."""
        if self["fits"]:
            first, last = self["cluster"][0], self["cluster"][-1]
            lines = [f"Fits XNNPACK's sparse inference on ARM: '{first}' to '{last}'."]
        else:
            lines = ["Does not run on XNNPACK's sparse kernels on ARM:"]
        grouped: dict[tuple[str, ...], list[str]] = {}
        for finding in self["findings"]:
            key = tuple(finding[x] for x in ("level", "rule", "reason", "mend"))
            grouped.setdefault(key, []).append(finding["path"])
        for (level, rule, reason, mend), paths in grouped.items():
            more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            lines.append(f"- {rule} ({level}): {', '.join(paths[:_SHOWN])}{more}")
            lines += [f"    {reason}", f"    {mend}"]
        if any(finding["level"] == "error" for finding in self["findings"]):
            lines.append(
                "With an error, a file with sparse kernels may fail to load on ARM, or "
                "compute wrong numbers."
            )
        if self["zeros"] is None:
            lines.append(
                f"1x1 kernels: {self['weights']:,} weights, none of them zero. It "
                "needs more than 2/3 zeros; give `sparsity=`."
            )
        elif self["weights"]:
            lines.append(
                f"1x1 kernels: {self['zeros']:,} of {self['weights']:,} weights are "
                f"zero, {self['share_of_zeros']:.1%}; more than 66.7% must be."
            )
        return "\n".join(lines)


def check_xnnpack_sparse(model: Any, sparsity: float | None = None) -> XnnpackReport:
    """Tells what keeps a model off XNNPACK's sparse inference on ARM, and the mends.

    The path is that of float32 and float16 CNNs, converted with sparse kernels and run
    by TFLite on ARM processors. It needs a 3x3 convolution with strides 2 on 3
    channels, then 1x1 convolutions, depthwise 3x3 and 5x5 ones, additions, products
    and activations, then global average pooling; with strides, the same padding on
    every side (`ZeroPadding2D`) of an even size; no other user of a value inside; and
    more than 2/3 zeros in the 1x1 kernels. All but the zeros can be asked before
    training.

    Args:
        model: a functional or sequential model of either Keras, built with a fixed
            input size, channels last: dense, pruned or stripped.
        sparsity: share of zeros to assume in the 1x1 kernels, in `[0, 1)`. `None`
            counts them; in a pruned model whose ramp is not over, those that the
            schedule ends at.

    Returns:
        A dict that prints as text, of plain Python values:

        - `fits`: whether there are no findings;
        - `findings`: one dict per finding, with `path` of the layer, `level`, `rule`
          (`"stem"`, `"convolution"`, `"depthwise"`, `"padding"`, `"batch_norm"`,
          `"operator"`, `"consumer"`, `"pooling"`, `"head"`, `"zeros"`), `reason` and
          `mend`. Level `"unfit"` costs the speed only. With level `"error"` the chain
          begins as it should and breaks off later, and XNNPACK mixes up the layouts:
          a file with sparse kernels may fail to load, or compute wrong numbers;
        - `cluster`: paths of the layers from the first convolution to the pooling;
        - `weights`, `zeros`, `share_of_zeros`: of the 1x1 kernels among them. The
          latter two are `None` for a model without zeros if `sparsity` is not given.

    Raises:
        TypeError: if `model` is no Keras model, or `sparsity` is no number.
        ValueError: if the model is neither functional nor sequential, if it is not
            built, or `sparsity` lies outside `[0, 1)`.

    Example:

        >>> import dpf_tf
        >>> import keras
        >>> layers = keras.layers
        >>> model = keras.Sequential([
        ...     keras.Input((64, 64, 3)),
        ...     layers.Conv2D(16, 3, 2, padding="same", name="stem"),
        ...     layers.Conv2D(32, 1, activation="relu", name="conv"),
        ...     layers.GlobalAveragePooling2D(name="pool"),
        ...     layers.Dense(10),
        ... ])
        >>> report = dpf_tf.check_xnnpack_sparse(model, sparsity=0.9)
        >>> report["fits"], report["cluster"]
        (False, ['stem', 'conv', 'pool'])
        >>> print(report)
        Does not run on XNNPACK's sparse kernels on ARM:
        - padding (unfit): stem
            padding='same' with strides 2 is no padding of fixed size.
            Put ZeroPadding2D(1) in front and set padding='valid'.
        1x1 kernels: 461 of 512 weights are zero, 90.0%; more than 66.7% must be.

    References:
        XNNPACK, `src/subgraph.c`: `xnn_check_nchw_compatibility`,
        `xnn_subgraph_rewrite_for_nchw`; and what an ARM build of ai-edge-litert 2.3
        did. Elsen et al., "Fast Sparse ConvNets", CVPR 2020.
    """
    keras_api.require(model, "a functional or sequential model of Keras 3 or tf_keras")
    if not (graph.is_graph(model) and getattr(model, "outputs", None)):
        raise ValueError(
            "`model` must be a functional or sequential model that is built: the graph "
            "of another cannot be followed. Make a `keras.Model(inputs, outputs)` of "
            f"its layers. Received: {model!r} (of type {type(model).__name__})"
        )
    if sparsity is not None:
        allocation.keep_count(1, sparsity)  # It refuses what is no share.
    chain = Chain(operators_of(model))
    convolutions = [x for x in chain.members if is_pointwise(x)]
    weights = sum(math.prod(_kernel(x).shape) for x in convolutions)
    zeros = _zeros(model, convolutions, weights, sparsity)
    findings = chain.findings()
    if zeros is not None and 3 * zeros <= 2 * weights:
        findings.append(_too_few(zeros, weights, convolutions, model))
    return XnnpackReport(
        fits=not findings,
        findings=findings,
        cluster=list(dict.fromkeys(x.path for x in chain.members)),
        weights=weights,
        zeros=zeros,
        share_of_zeros=None if zeros is None or not weights else zeros / weights,
    )


def _too_few(
    zeros: int, weights: int, convolutions: list[Operator], model: Any
) -> dict[str, Any]:
    found = {"path": model.name, "level": "unfit", "rule": "zeros"}
    if not convolutions:
        return found | {
            "reason": "There is no 1x1 convolution: it is their zeros that count.",
            "mend": "Build the network of 1x1 and depthwise convolutions.",
        }
    return found | {
        "path": convolutions[0].path,
        "reason": f"Of the {weights:,} weights of all 1x1 kernels {zeros:,} are zero.",
        "mend": "Prune them further, to more than 2/3 zeros together: "
        "`prune_low_magnitude_dpf(model, 0.8, layers=dpf_tf.pointwise)`.",
    }


def _kernel(convolution: Operator) -> Any:
    return getattr(convolution.layer, convolution.kernel)


def _zeros(
    model: Any, convolutions: list[Operator], weights: int, sparsity: float | None
) -> int | None:
    """Returns the zeros in the kernels; `None` if there are none as yet."""
    if not weights:
        return 0
    if sparsity is not None:
        return weights - allocation.keep_count(weights, sparsity)
    final = _final_shares(model)
    zeros = 0.0
    for x in convolutions:
        kernel = _kernel(x)
        if id(kernel) in final:
            zeros += final[id(kernel)] * math.prod(kernel.shape)
            continue
        pruned = {} if x.wrapper is None else x.wrapper.masked_kernels
        value = np.asarray(pruned[x.kernel] if x.kernel in pruned else kernel.numpy())
        zeros += value.size - np.count_nonzero(value)
    return round(zeros) or None


def _final_shares(model: Any) -> dict[int, float]:
    """Returns the shares of zeros, by the kernel's id, that are still to be reached.

    Within a pool, which kernel becomes how sparse is not known before: all count alike.
    """
    shares: dict[int, float] = {}
    for group in groups.collect(model, graph.wrappers(model)):
        target = group.settings.schedule.final_sparsity
        for pool in [] if target is None else group.pools(target):
            share = 1 - pool.keep / group.units.size(pool)
            indices = group.units.kernels_of(pool)
            masks = [group.masks[i] for i in indices]
            if 1 - groups.count_kept(masks) / groups.size(masks) < share:
                shares |= {id(group.kernels[i]): share for i in indices}
    return shares
