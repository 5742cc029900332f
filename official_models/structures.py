"""What is pruned as one: what `--structure` can name."""

from __future__ import annotations

from typing import Any

import dpf_tf

_STRUCTURES: dict[str, Any] = {
    "unstructured": "unstructured",
    "filters": dpf_tf.Filters(),
    "filters_l1": dpf_tf.Filters(norm="l1"),
    "inner_filters": dpf_tf.Filters(keep_residual=True),
    "block1x4": dpf_tf.Block(1, 4),
    "block1x16": dpf_tf.Block(1, 16),
    "2of4": dpf_tf.NofM(2, 4),
}


def names() -> tuple[str, ...]:
    """Returns the names that `get` knows."""
    return tuple(_STRUCTURES)


def get(name: str | None) -> Any:
    """Returns a structure by its name; `None`, the method's own, as it is.

    Args:
        name: one of `names()`, or `None`.

    Example:

        >>> from official_models import structures
        >>> structures.get("block1x4")
        Block(outputs=1, inputs=4)
    """
    return None if name is None else _STRUCTURES[name]
