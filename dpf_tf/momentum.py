"""The momentum that an optimizer keeps for each kernel."""

from __future__ import annotations

from typing import Any

# How Keras's optimizers call their lists of momenta: SGD, Adam and its kin, Adamax.
_LISTS = ("momentums", "_momentums", "_m")


def optimizer_of(model: Any, optimizer: Any = None) -> Any:
    """Returns the optimizer of a model, without loss scaling, or `None`."""
    optimizer = optimizer or getattr(model, "optimizer", None)
    return getattr(optimizer, "inner_optimizer", optimizer)


def is_built(optimizer: Any) -> bool:
    """Tells whether an optimizer has made its variables."""
    if hasattr(optimizer, "get_slot"):  # A legacy optimizer of tf_keras has no word.
        return True
    if hasattr(optimizer, "built"):
        return bool(optimizer.built)
    return hasattr(optimizer, "_index_dict")  # tf_keras has nothing public for it.


def momenta(optimizer: Any, kernels: list[Any]) -> list[list[Any]]:
    """Returns the variables that hold the momentum of each kernel.

    Args:
        optimizer: an optimizer of either Keras, without loss scaling.
        kernels: dense variables that it trains.

    Returns:
        A list for each kernel: one variable, or none where the optimizer keeps no
        momentum, has not made its variables yet, or does not train the kernel.
    """
    if hasattr(optimizer, "get_slot"):  # A legacy optimizer of tf_keras.
        slots = [n for n in optimizer.get_slot_names() if n in ("momentum", "m")]
        return [[optimizer.get_slot(kernel, s) for s in slots] for kernel in kernels]
    if (
        getattr(optimizer, "momentum", None) == 0
    ):  # tf_keras has variables all the same.
        return [[] for _ in kernels]
    lists = (getattr(optimizer, name, None) for name in _LISTS)
    found = next((each for each in lists if each), None)
    if not found:
        return [[] for _ in kernels]
    places = [_index(optimizer, kernel) for kernel in kernels]
    return [[] if place is None else [found[place]] for place in places]


def _index(optimizer: Any, kernel: Any) -> int | None:
    # No public attribute tells which momentum is whose: names are not unique, and after
    # loading tf_keras's are others. This is how the optimizers find their own.
    try:
        if hasattr(optimizer, "_get_variable_index"):
            return optimizer._get_variable_index(kernel)
        return optimizer._index_dict[optimizer._var_key(kernel)]
    except KeyError:
        return None
