"""The kernels of one layer that are pruned, or why they cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpf_tf import keras_api, prunable
from dpf_tf.keras_api import Kernel


def kernels(layer: Any, name: str, paths: Sequence[str] | None) -> list[Kernel]:
    """Returns the kernels of a built layer that a wrapper prunes.

    Args:
        layer: the layer.
        name: what error messages call it.
        paths: the kernels asked for, by their paths below the layer. `None` chooses
            all but depthwise kernels and embeddings, or these if there are no others.

    Raises:
        ValueError: if there is no such kernel, or one cannot be pruned.
    """
    # What a wrapper prunes does not change when its layer is frozen later.
    frozen = paths is not None or not layer.trainable
    found = [
        kernel
        for kernel in prunable.kernels(layer, frozen=frozen)
        if kernel.variable is not None
    ]
    if paths is None:
        chosen = prunable.usual(found)
    else:
        known = {kernel.path: kernel for kernel in found}
        unknown = [path for path in paths if path not in known]
        if unknown:
            raise ValueError(
                f"Layer '{name}' has no kernel {unknown}. "
                f"Its kernels are {sorted(known)}"
            )
        chosen = [known[path] for path in paths]
    if not chosen:
        raise ValueError(
            f"Layer '{name}' ({type(layer).__name__}) has no weight that can be "
            "pruned. A layer of your own becomes prunable by a method "
            "`get_prunable_weights()` that returns its kernels."
        )
    for kernel in chosen:
        _check(layer, name, kernel)
    return chosen


def _check(layer: Any, name: str, kernel: Kernel) -> None:
    api = keras_api.of(layer)
    for owner in (layer, kernel.owner):
        if hasattr(owner.call, "get_concrete_function"):
            raise ValueError(
                f"The `call` of layer '{owner.name}' ({type(owner).__name__}) is a "
                "`tf.function`, which would keep the pruned kernel of its first trace. "
                "Take the decorator off: `fit` compiles the whole step."
            )
    dtype = api.dtype(kernel.variable)
    if dtype != "float32":
        raise ValueError(
            f"Kernel '{name}/{kernel.path}' is stored as {dtype}; magnitudes are "
            "ranked in float32. For speed in lower precision use a mixed policy, such "
            "as 'mixed_bfloat16', which keeps variables in float32."
        )
    if kernel.attribute is None and api is keras_api.TF_KERAS:
        raise ValueError(
            f"Kernel '{name}/{kernel.path}' is not held by an attribute of its layer "
            "(it may be in a list). Under tf_keras a kernel must be an attribute, such "
            "as `self.kernel`, to be pruned."
        )
    if not api.in_scope(kernel.variable):
        raise ValueError(
            f"Layer '{name}' was built in another scope of tf.distribute than it is "
            "pruned in, and its masks would not live where its kernels do. Build, "
            "prune and compile the model inside one `with strategy.scope():`."
        )
