"""Pruning schemes: DPF, and those that it is compared with, on the same wrapper.

    pruned = dpf_tf.prune(model, 0.9, method="rigl", share=0.3)
    pruned = dpf_tf.prune(model, 0.9, method=dpf_tf.methods.RigL(share=0.3))

| name              | masks                                         | gradient |
|-------------------|-----------------------------------------------|----------|
| "dpf"             | largest weights, every 16 steps               | dense    |
| "straight_through"| largest weights, every step                   | dense    |
| "st3"             | as "dpf", with a soft threshold               | dense    |
| "gmp"             | largest of the kept weights, every 16 steps   | masked   |
| "one_shot"        | largest weights, once, at half of the training| masked   |
| "snip"            | largest gradient * weight, once, at the start | masked   |
| "set"             | drops small weights, grows at random          | masked   |
| "rigl"            | drops small weights, grows by the gradient    | masked   |
| "dsr"             | drops below a threshold, grows at random      | masked   |
| "sparse_momentum" | drops small weights, grows by the momentum    | dense    |
| "sfp"             | filters, once an epoch; values start anew     | dense    |
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Set
from typing import Any

from dpf_tf.feedback import masked
from dpf_tf.methods.dpf import DPF
from dpf_tf.methods.drop_and_grow import DropAndGrow
from dpf_tf.methods.dsr import DSR
from dpf_tf.methods.gmp import GMP
from dpf_tf.methods.method import Method
from dpf_tf.methods.one_shot import OneShotPruning
from dpf_tf.methods.rigl import RigL
from dpf_tf.methods.round import Round, select
from dpf_tf.methods.set import SET
from dpf_tf.methods.sfp import SFP
from dpf_tf.methods.snip import SNIP
from dpf_tf.methods.sparse_momentum import SparseMomentum
from dpf_tf.methods.st3 import ST3
from dpf_tf.methods.straight_through import StraightThrough

__all__ = [
    "DPF",
    "DSR",
    "GMP",
    "METHODS",
    "SET",
    "SFP",
    "SNIP",
    "ST3",
    "DropAndGrow",
    "Method",
    "OneShotPruning",
    "RigL",
    "Round",
    "SparseMomentum",
    "StraightThrough",
    "get",
    "masked",
    "select",
]

METHODS: dict[str, type[Method]] = {
    "dpf": DPF,
    "straight_through": StraightThrough,
    "st3": ST3,
    "gmp": GMP,
    "one_shot": OneShotPruning,
    "snip": SNIP,
    "set": SET,
    "rigl": RigL,
    "dsr": DSR,
    "sparse_momentum": SparseMomentum,
    "sfp": SFP,
}

# What the attributes of a method may hold.
WORDS = {
    "needs": frozenset({"gradients", "momenta"}),
    "restarts": frozenset({"weights", "pruned_weights", "momenta"}),
}

# What `dpf_tf.prune` takes beside a method's options.
BESIDE = ("allocation", "structure", "layers", "exclude")

# What is asked of a method but is said elsewhere.
ELSEWHERE = {
    "threshold": "A soft threshold is method='st3'.",
    "frequency": "It belongs to the schedule: `PolynomialDecay(..., frequency=...)`.",
    "settle": "It belongs to the callback: `PruningCallback(settle=...)`.",
    "data": "They belong to the callback: `PruningCallback(data=...)`.",
    "optimizer": "It belongs to the updater: `MaskUpdater(model, optimizer=...)`.",
    "loss": "It belongs to the updater: `MaskUpdater(model, loss=...)`.",
    **dict.fromkeys(
        ("period", "begin_step", "end_step", "freeze_step"),
        "The steps belong to the schedule: `PolynomialDecay(final_sparsity=...)`.",
    ),
}


def get(method: Any, **options: Any) -> Method:
    """Returns a scheme by its name, with its options.

    Args:
        method: a name, or a `Method`, which has its options already.
        **options: those of the scheme; see its class.

    Raises:
        TypeError: if `method` is neither, or has no such option.
        ValueError: if the name is unknown, or an option's value.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.get("rigl", share=0.1)
        RigL(share=0.1, seed=0)
    """
    if isinstance(method, Method):
        if options:
            raise TypeError(
                f"Options go with a method's name; {method!r} has its own. "
                f"Received: {', '.join(options)}"
            )
        _check_words(method)
        return method
    if not isinstance(method, str):
        its_class = ", not its class" if isinstance(method, type) else ""
        raise TypeError(
            f"`method` must be a name or a dpf_tf.methods.Method{its_class}. "
            f"Received: {method!r} (of type {type(method).__name__}). "
            f"Known names: {', '.join(METHODS)}"
        )
    if method not in METHODS:
        close = difflib.get_close_matches(method.lower(), METHODS, n=1)
        raise ValueError(
            f"Unknown method {method!r}. Known: {', '.join(METHODS)}."
            + (f" Did you mean {close[0]!r}?" if close else "")
        )
    known = [field.name for field in dataclasses.fields(METHODS[method])]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(
            f"Method {method!r} has no option {', '.join(map(repr, unknown))}. "
            f"Its options: {', '.join(known) or 'none'}."
            + "".join(_hint(name, known) for name in unknown)
        )
    return METHODS[method](**options)


def _hint(name: str, known: list[str]) -> str:
    if name in ELSEWHERE:
        return f" {ELSEWHERE[name]}"
    close = difflib.get_close_matches(name, [*known, *BESIDE], n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def _check_words(method: Method) -> None:
    for name, known in WORDS.items():
        if not isinstance(getattr(method, name), Set):
            raise TypeError(
                f"`{name}` of {type(method).__name__} is a frozenset of words, such as "
                f"`frozenset({sorted(known)[:1]})`. Received: "
                f"{getattr(method, name)!r}"
            )
        if unknown := sorted(getattr(method, name) - known):
            raise ValueError(
                f"`{name}` of {type(method).__name__} may hold "
                f"{', '.join(sorted(known))}. Received: {', '.join(unknown)}"
            )


def serialize(method: Method, keras: Any) -> dict[str, Any]:
    """Returns a scheme as plain data, for a layer's config."""
    for name, cls in METHODS.items():
        if type(method) is cls:
            return {"name": name, "config": method.get_config()}
    return keras.saving.serialize_keras_object(method)


def deserialize(data: Any, keras: Any, custom_objects: Any = None) -> Method:
    """Returns the scheme that `serialize` has described."""
    if isinstance(data, dict):
        if "name" in data:
            return METHODS[data["name"]].from_config(data["config"])
        data = keras.saving.deserialize_keras_object(
            data, custom_objects=custom_objects
        )
    return get(data)
