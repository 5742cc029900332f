"""Which of a model's kernels are pruned: the default, `layers=` and `exclude=`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dpf_tf import prunable
from dpf_tf.keras_api import Kernel
from dpf_tf.structures import Structure

Choice = str | list[str] | Callable[[Any], bool] | None


class Selection:
    """What `layers=` and `exclude=` mean, checked once.

    Args:
        layers: a regular expression, or a list of them, searched in a kernel's path
            (`"block1/conv2d/kernel"`); or a callable that says for a layer whether its
            kernels are pruned; `None` for the default.
        exclude: the same, for what stays dense.
        structure: what is pruned as one: not every kernel has such units.
    """

    def __init__(self, layers: Choice, exclude: Choice, structure: Structure) -> None:
        self._structure = structure
        self._patterns = {"layers": _patterns("layers", layers)}
        self._patterns["exclude"] = _patterns("exclude", exclude)
        self._wanted = _matcher(layers, self._patterns["layers"])
        self._unwanted = _matcher(exclude, self._patterns["exclude"])
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

    def excludes(self, path: str, layer: Any, kernel: Kernel) -> bool:
        """Tells whether `exclude=` names a kernel."""
        return self._unwanted(f"{path}/{kernel.path}", layer, kernel.owner)

    def takes_unseen(self, path: str, layer: Any, is_output: bool) -> bool:
        """Tells whether to wrap a layer whose kernels cannot be seen yet.

        Raises:
            ValueError: if that depends on the kernels' paths.
        """
        place = f"{path}/"
        if self._unwanted(place, layer, layer):
            return False
        if not self._patterns["exclude"]:
            if not self.explicit:
                return not is_output and self._structure.takes_unseen
            if self._wanted(place, layer, layer):
                return True
            if not self._patterns["layers"]:
                return False
        raise ValueError(
            f"Layer '{path}' ({type(layer).__name__}) makes its kernels when it is "
            "first called, so `layers=` and `exclude=` cannot be compared with their "
            "paths. Build it first, or wrap it by `PruneLowMagnitudeDPF(layer, "
            "schedule, kernels=[...])`."
        )

    def asked_for(self, path: str, layer: Any) -> bool:
        """Tells whether `layers=` names this layer, or a weight that is no kernel."""
        names = ["", *prunable.unknown_kernels(layer)]
        return any(self._wanted(f"{path}/{name}", layer, layer) for name in names)

    def refuse_idle(self, layers: list[tuple[str, Any]]) -> None:
        """Refuses a pattern that matches none of the layers, given with their paths."""
        if not any(self._patterns.values()):
            return
        places = []
        for path, layer in layers:
            kernels = [k.path for k in prunable.kernels(layer, frozen=True)]
            if prunable.builds_kernels(layer) or not (kernels or layer.built):
                return  # It may match what cannot be seen yet.
            names = [*kernels, *prunable.unknown_kernels(layer)]
            places += [f"{path}/{name}" for name in names or [""]]
        for option, patterns in self._patterns.items():
            for pattern in patterns:
                if not any(pattern.search(place) for place in places):
                    raise ValueError(
                        f"`{option}` holds {pattern.pattern!r}, which matches none of "
                        f"the kernels: {', '.join(places[:12])}"
                        f"{', ...' if len(places) > 12 else ''}"
                    )

    def _reason(
        self, path: str, layer: Any, kernel: Kernel, is_output: bool
    ) -> str | None:
        if self.excludes(path, layer, kernel):
            return "excluded"
        if self.explicit:
            wanted = self._wanted(f"{path}/{kernel.path}", layer, kernel.owner)
            return self._structure.refusal(kernel) if wanted else "not selected"
        return default_reason(kernel, is_output, self._structure)


def default_reason(kernel: Kernel, is_output: bool, structure: Structure) -> str | None:
    """Returns why a kernel stays dense by default; `None` if it is pruned."""
    if kernel.kind != "kernel":
        return kernel.kind
    if is_output:
        return "makes the model's output"
    return structure.default_reason(kernel)


def _matcher(
    choice: Choice, patterns: list[re.Pattern[str]]
) -> Callable[[str, Any, Any], bool]:
    if callable(choice):
        return lambda path, layer, owner: bool(choice(owner) or choice(layer))
    return lambda path, layer, owner: any(p.search(path) for p in patterns)


def _patterns(option: str, choice: Choice) -> list[re.Pattern[str]]:
    if choice is None or callable(choice):
        return []
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
    return compiled
