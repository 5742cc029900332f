"""Which of a model's kernels are pruned: the default, `layers=` and `exclude=`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from dpf_tf import keras_api, prunable
from dpf_tf.keras_api import Kernel
from dpf_tf.wrapper import PruneLowMagnitudeDPF

Choice = str | list[str] | Callable[[Any], bool] | None


def is_graph(model: Any) -> bool:
    """Tells whether a model is Sequential or functional, so that it can be cloned."""
    api = keras_api.of(model)
    if api is None or not isinstance(model, api.module.Model):
        return False
    if isinstance(model, api.module.Sequential):
        return True
    return any(cls.__name__ == "Functional" for cls in type(model).__mro__)


def walk(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `(path, layer)` of a model's layers in order, nested models opened.

    Composite layers and wrappers are not opened: they are wrapped, or not, as one.
    A layer that is used in several places comes once.
    """
    seen: set[int] = set()

    def visit(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for layer in model.layers:
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            if is_graph(layer):
                yield from visit(layer, f"{prefix}{layer.name}/")
            else:
                yield prefix + layer.name, layer

    yield from visit(model, prefix)


def wrappers(model: Any) -> list[tuple[str, PruneLowMagnitudeDPF]]:
    """Returns `(path, wrapper)` of every pruned layer, wherever the model holds it."""
    seen: set[int] = set()
    found: list[tuple[str, PruneLowMagnitudeDPF]] = []

    def visit(layer: Any, path: str) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if isinstance(layer, PruneLowMagnitudeDPF):
            found.append((path, layer))
            return
        for name, child in prunable.sublayers(layer):
            visit(child, f"{path}/{name}" if path else name)

    is_model = isinstance(model, keras_api.of(model).module.Model)
    visit(model, "" if is_model else model.name)
    taken: dict[str, int] = {}
    unique = []
    for path, layer in found:  # A subclassed model may hold layers of the same name.
        taken[path] = taken.get(path, 0) + 1
        unique.append((path if taken[path] == 1 else f"{path}:{taken[path]}", layer))
    return unique


def output_layers(model: Any) -> set[int]:
    """Returns the ids of the layers with weights that make the model's outputs.

    The search goes back from each output through layers that have no weights and one
    input (softmax, reshape, pooling), and into nested models. A merge, such as the
    last addition of a network without its head, ends it.
    """
    api = keras_api.of(model)
    if not getattr(model, "outputs", None):
        layers = getattr(model, "layers", [])  # A Sequential that is not built.
        with_weights = [x for x in layers if _may_have_weights(x)]
        return {id(x) for x in with_weights[-1:]}
    found: set[int] = set()

    def search(tensor: Any) -> None:
        layer, inputs = api.producer(tensor)
        if is_graph(layer):
            found.update(output_layers(layer))
        elif not hasattr(layer, "weights"):
            return  # An operation such as `x + y`.
        elif layer.weights:
            found.add(id(layer))
        elif len(inputs) == 1:
            search(inputs[0])

    for tensor in model.outputs:
        search(tensor)
    return found


def _may_have_weights(layer: Any) -> bool:
    return bool(layer.weights) or any(True for _ in prunable.kernels(layer))


class Selection:
    """What `layers=` and `exclude=` mean, checked once.

    Args:
        layers: a regular expression, or a list of them, searched in a kernel's path
            (`"block1/conv2d/kernel"`); or a callable that says for a layer whether its
            kernels are pruned; `None` for the default.
        exclude: the same, for what stays dense.
    """

    def __init__(self, layers: Choice = None, exclude: Choice = None) -> None:
        self._wanted = None if layers is None else _matcher("layers", layers)
        self._unwanted = _matcher("exclude", exclude) if exclude is not None else None
        self.explicit = layers is not None

    def choose(
        self, path: str, layer: Any, is_output: bool
    ) -> tuple[list[Kernel], list[tuple[Kernel, str]]]:
        """Returns the kernels of a layer to prune, and the others with the reason."""
        chosen, skipped = [], []
        for kernel in prunable.kernels(layer):
            reason = self._reason(path, layer, kernel, is_output)
            if reason is None:
                chosen.append(kernel)
            else:
                skipped.append((kernel, reason))
        return chosen, skipped

    def takes(self, path: str, layer: Any, is_output: bool) -> bool:
        """Tells whether to wrap a layer whose kernels cannot be seen yet."""
        stand_in = Kernel("", None, layer, None, "kernel")
        return self._reason(path, layer, stand_in, is_output) is None

    def asked_for(self, path: str, layer: Any) -> bool:
        """Tells whether `layers=` names this layer."""
        return self._wanted is not None and self._wanted(f"{path}/", layer, layer)

    def _reason(
        self, path: str, layer: Any, kernel: Kernel, is_output: bool
    ) -> str | None:
        full = f"{path}/{kernel.path}"
        if self._unwanted is not None and self._unwanted(full, layer, kernel.owner):
            return "excluded"
        if self._wanted is not None:
            wanted = self._wanted(full, layer, kernel.owner)
            return None if wanted else "not selected"
        return default_reason(kernel, is_output)


def default_reason(kernel: Kernel, is_output: bool) -> str | None:
    """Returns why a kernel stays dense by default; `None` if it is pruned."""
    if kernel.kind != "kernel":
        return kernel.kind
    return "makes the model's output" if is_output else None


def _matcher(option: str, choice: Any) -> Callable[[str, Any, Any], bool]:
    if callable(choice):
        return lambda path, layer, owner: bool(choice(owner) or choice(layer))
    patterns = [choice] if isinstance(choice, str) else choice
    if not isinstance(patterns, list | tuple) or not patterns:
        raise TypeError(
            f"`{option}` must be a regular expression, a list of them, or a callable "
            f"`layer -> bool`. Received: {choice!r}"
        )
    compiled = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                f"`{option}` must hold regular expressions as text. "
                f"Received: {pattern!r} (of type {type(pattern).__name__})"
            )
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(
                f"`{option}` holds {pattern!r}, which is not a regular expression: "
                f"{error}"
            ) from error
    return lambda path, layer, owner: any(p.search(path) for p in compiled)
