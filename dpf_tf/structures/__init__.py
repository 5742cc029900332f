"""Structures: what is kept or pruned as one.

| structure        | unit                                   | runs faster          |
|------------------|----------------------------------------|----------------------|
| `"unstructured"` | a single weight                        | phones: see `export` |
| `Filters()`      | a filter, with all that goes with it   | everywhere: `shrink` |
| `Block(1, 4)`    | inputs of a dense layer, side by side  | dense, in TFLite     |
| `NofM(2, 4)`     | a weight, but two of every four stay   | sparse tensor cores  |
"""

from __future__ import annotations

import difflib
from typing import Any

from dpf_tf.structures.block import Block
from dpf_tf.structures.filters import Filters
from dpf_tf.structures.n_of_m import NofM
from dpf_tf.structures.structure import Structure
from dpf_tf.structures.units import Units

__all__ = ["Block", "Filters", "NofM", "Structure", "Units", "get"]

_NAMED: dict[str, type[Structure]] = {"unstructured": Structure, "filters": Filters}
_CLASSES: dict[str, type[Structure]] = {
    "Block": Block,
    "Filters": Filters,
    "NofM": NofM,
}


def get(structure: Any) -> Structure:
    """Returns the structure that a user's argument stands for.

    Args:
        structure: a structure, `"unstructured"` or `"filters"`.

    Raises:
        TypeError: if it is something else.
        ValueError: if the name is unknown.
    """
    if isinstance(structure, Structure):
        return structure
    known = "'unstructured', dpf_tf.Filters(), dpf_tf.Block(1, 4), dpf_tf.NofM(2, 4)"
    if not isinstance(structure, str):
        raise TypeError(
            f"`structure` must be one of {known}. Received: {structure!r} (of type "
            f"{type(structure).__name__})"
        )
    if structure not in _NAMED:
        close = difflib.get_close_matches(structure.lower(), _NAMED, n=1)
        raise ValueError(
            f"Unknown structure {structure!r}. Known: {known}."
            + (f" Did you mean {close[0]!r}?" if close else "")
        )
    return _NAMED[structure]()


def serialize(structure: Structure, keras: Any) -> Any:
    """Returns a structure as plain data, for a layer's config."""
    if type(structure) is Structure:
        return "unstructured"
    if type(structure) in _CLASSES.values():
        return {
            "class_name": type(structure).__name__,
            "config": structure.get_config(),
        }
    return keras.saving.serialize_keras_object(structure)


def deserialize(data: Any, keras: Any, custom_objects: Any = None) -> Structure:
    """Returns the structure that `serialize` has described."""
    if isinstance(data, dict):
        if "registered_name" not in data:
            return _CLASSES[data["class_name"]](**data["config"])
        data = keras.saving.deserialize_keras_object(
            data, custom_objects=custom_objects
        )
    return get(data)
