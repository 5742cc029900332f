"""Which of a model's kernels are pruned: the default, `layers=` and `exclude=`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dpf_tf import prunable
from dpf_tf.keras_api import Kernel

Choice = str | list[str] | Callable[[Any], bool] | None


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
