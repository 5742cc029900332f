"""Models as graphs: their layers by path, what makes their outputs, and rebuilding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dpf_tf import keras_api, prunable
from dpf_tf.wrapper import PruneLowMagnitudeDPF


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
    return found


def output_layers(model: Any) -> set[int]:
    """Returns the ids of the layers with weights that make the model's outputs.

    The search goes back from each output through layers and operations that have no
    weights and one input (softmax, reshape, pooling), through concatenations, and into
    nested models. Another merge, such as the last addition of a network without its
    head, ends it.
    """
    api = keras_api.of(model)
    if not getattr(model, "outputs", None):
        layers = getattr(model, "layers", [])  # A Sequential that is not built.
        for layer in reversed(layers):
            if _may_have_weights(layer):
                return output_layers(layer) if is_graph(layer) else {id(layer)}
        return set()
    found: set[int] = set()

    def search(tensor: Any) -> None:
        layer, inputs = api.producer(tensor)
        if is_graph(layer):
            found.update(output_layers(layer))
        elif getattr(layer, "weights", None):  # Operations of Keras 3 have no word.
            found.add(id(layer))
        elif len(inputs) == 1 or type(layer).__name__ == "Concatenate":
            for each in inputs:
                search(each)

    for tensor in model.outputs:
        search(tensor)
    return found


def _may_have_weights(layer: Any) -> bool:
    if is_graph(layer):  # An unbuilt Sequential of tf_keras refuses to be asked.
        return any(_may_have_weights(inner) for inner in layer.layers)
    return bool(layer.weights) or any(True for _ in prunable.kernels(layer))


def check_layers(layers: Iterable[Any]) -> None:
    """Refuses a list that holds something else than layers."""
    for layer in layers:
        if keras_api.of(layer) is None:
            raise TypeError(
                "A list must hold layers of Keras 3 or tf_keras only. "
                f"Received: {layer!r} (of type {type(layer).__name__})"
            )


def pruned_layers(model: Any) -> list[tuple[str, Any]]:
    """Returns `(path, wrapper)` of the pruned layers; an error if there are none."""
    keras_api.require(model)
    found = wrappers(model)
    if not found:
        raise ValueError(
            f"Nothing in '{model.name}' is pruned. Wrap it first: "
            "`dpf_tf.prune_low_magnitude_dpf(model, 0.9)`."
        )
    return found


def rebuild(model: Any, replace: Callable[[Any], Any], verb: str) -> Any:
    """Returns the same model over other layers; nested ones are kept if unchanged."""
    api = keras_api.of(model)
    made: dict[int, Any] = {}

    def leaf(layer: Any) -> Any:
        if id(layer) not in made:
            made[id(layer)] = replace(layer)
        return made[id(layer)]

    def clone(layer: Any) -> Any:
        if not is_graph(layer):
            return leaf(layer)
        if id(layer) not in made:
            changed = [leaf(x) is not x for _, x in walk(layer)]
            made[id(layer)] = remake(layer) if any(changed) else layer
        return made[id(layer)]

    def remake(model: Any) -> Any:
        copy = api.clone_model(model, clone)
        if type(copy) is not type(model):
            raise ValueError(
                f"Model '{model.name}' is a {type(model).__name__}; rebuilding it "
                f"would give a {type(copy).__name__} and lose its own methods, such as "
                f"`train_step`. To {verb} it, make the functional part a plain "
                "`keras.Model`, and your class around that."
            )
        return copy

    return remake(model)
