"""Dense or sparse: which way of storing a model's kernels is worth it, and works.

TFLite stores a kernel with at least 30 % zeros without them, if it is asked to: the
numbers that are left, and where they stand. What was measured (docs/phones.md):

- It pays in bytes the sooner, the more bits a weight has. In 8 bits a position takes as
  much as a number, and dense zeros compress better.
- Some pairs of weights and encoding are broken in the runtime, some on ARM alone, where
  the run on this machine does not find out; see `fault`.
"""

from __future__ import annotations

import collections
from typing import Any

from dpf_tf.export.chain import Chain
from dpf_tf.export.flatbuffer import Contents
from dpf_tf.export.operators import operators_of

ENCODINGS = ("auto", "dense", "sparse")
INT8 = ("int8", "int8_full")


def fault(weights: str, contents: Contents, model: Any) -> str | None:
    """Says why the runtime cannot run a sparse file, where that is known.

    Args:
        weights: how weights are stored.
        contents: of the file.
        model: the plain model that it was made of.
    """
    if not contents.sparse:
        return (
            "no kernel has enough zeros (30 %) to be stored sparsely: prune the "
            "model first, or take encoding='dense'"
        )
    blocks = [w for w in contents.sparse if w.encoding != "sparse"]
    if weights == "float16" and blocks:
        return (
            f"the runtime computes NaN with float16 in blocks ('{blocks[0].name}' is "
            f"stored as {blocks[0].encoding}; kernels that are nearly empty get "
            "blocks, too): take weights='float32' or encoding='dense'"
        )
    for w in contents.sparse:
        if w.type != "INT8":
            continue
        if w.encoding != "sparse" and weights == "int8":
            return (
                "8-bit kernels in blocks, with activations in float32, give NaN or "
                f"kill the runtime ('{w.name}' is stored as {w.encoding}): take "
                "weights='int8_full' or encoding='dense'"
            )
        # A full 8-bit convolution is the exception: it loads, and is right.
        if w.encoding == "sparse" and (
            weights == "int8" or "FULLY_CONNECTED" in w.operators
        ):
            return (
                "the runtime (XNNPACK) cannot load single zeros in 8-bit kernels "
                f"('{w.name}'): take encoding='dense', which is smaller, too, once it "
                "is compressed"
            )
    if any("CONV_2D" in w.operators and w.type != "INT8" for w in contents.sparse):
        return _mixed_layouts(contents, model)
    return None


def _mixed_layouts(contents: Contents, model: Any) -> str | None:
    """Says what makes XNNPACK compute wrong numbers on ARM, in silence."""
    if not any(w.shape[1:] == (3, 3, 3) for w in contents.kernels):
        return None  # No convolution at which its chain begins.
    operators = operators_of(model)
    seen = collections.Counter(x.kind for x in operators)
    kinds = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise"}
    if any(contents.operators[name] > seen[kind] for name, kind in kinds.items()):
        return (
            "a layer of your own holds convolutions that cannot be looked into, and on "
            "ARM, XNNPACK computes wrong numbers with sparse kernels if the model has "
            "a form that it half knows: build the model of Keras's own layers, or take "
            "encoding='dense'"
        )
    for finding in Chain(operators).findings():
        if finding["level"] == "error":
            return (
                "on ARM, XNNPACK may compute wrong numbers with sparse kernels in this "
                f"model. Rule '{finding['rule']}', '{finding['path']}': "
                f"{finding['reason']} {finding['mend']} Or take encoding='dense'"
            )
    return None


def prefers_sparse(weights: str, sparse_bytes: int, dense_bytes: int | None) -> bool:
    """Tells what `encoding="auto"` takes; without a dense file, there is no choice."""
    if dense_bytes is None:
        return True
    return weights not in INT8 and sparse_bytes < dense_bytes
