"""How a model is made sparse while it trains: what `--method` can name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import dpf_tf
from official_models import structures
from official_models.errors import InputError
from official_models.recipes import Recipe

METHODS = ("dense", *dpf_tf.methods.METHODS)


class Prepared(NamedTuple):
    """A model made ready for a method.

    Attributes:
        model: the model to train.
        callbacks: what carries the method out, first in `fit`'s list.
    """

    model: Any
    callbacks: list[Any]


def get(
    name: str, options: tuple[str, ...] = (), seed: int = 0
) -> dpf_tf.methods.Method | None:
    """Returns a method, or `None` for dense training.

    Args:
        name: one of `METHODS`.
        options: of the method, as text: `("share=0.2", "seed=1")`.
        seed: of a method that draws lots, unless an option gives one.

    Raises:
        InputError: if the method has no such option, or not with this value.

    Example:

        >>> from official_models import methods
        >>> methods.get("rigl", ("share=0.2",), seed=1)
        RigL(share=0.2, seed=1)
    """
    values = dict(_parsed(option) for option in options)
    if name == "dense":
        if values:
            raise InputError(f"Dense training has no options. Received: {options}")
        return None
    try:
        method = dpf_tf.methods.get(name, **values)
        if "seed" in method.get_config():
            method = dpf_tf.methods.get(name, **{"seed": seed} | values)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error
    return method


def schedule(
    method: dpf_tf.methods.Method, recipe: Recipe, steps_per_epoch: int
) -> Any:
    """Returns a method's schedule for the target and the length of a recipe."""
    steps = recipe.epochs * steps_per_epoch
    found = method.schedule(recipe.sparsity)
    changes: dict[str, Any] = {}
    if _ends(found):
        changes["end_step"] = max(1, round(recipe.ramp_end * steps))
    if hasattr(found, "frequency") and recipe.mask_period is not None:
        changes["frequency"] = recipe.mask_period
    return dataclasses.replace(found, **changes).resolve(steps, steps_per_epoch)


def require_end(method: dpf_tf.methods.Method | None, ramp_end: float) -> None:
    """Refuses `--ramp_end` for a method whose masks know no such time.

    Dense training takes it, as it does all that is for masks: it is the control.

    Raises:
        InputError: if it would have no effect.
    """
    if method is not None and not _ends(method.schedule(0.5)):
        raise InputError(
            f"{type(method).__name__} has no ramp: it has no --ramp_end. "
            f"Received: {ramp_end}"
        )


def _ends(schedule: Any) -> bool:
    # A constant sparsity has no ramp: its `end_step` would freeze the masks.
    constant = isinstance(schedule, dpf_tf.ConstantSparsity)
    return hasattr(schedule, "end_step") and not constant


def check(method: dpf_tf.methods.Method, recipe: Recipe, schedule: Any) -> None:
    """Refuses a recipe for which a method is not defined.

    Raises:
        InputError: if it says so, or makes one mask only and a period is given.
    """
    if recipe.mask_period is not None and not hasattr(schedule, "frequency"):
        raise InputError(
            f"{type(method).__name__} makes one mask: it has no --mask_period. "
            f"Received: {recipe.mask_period}"
        )
    try:
        method.check(schedule, recipe.allocation or method.allocation)
    except ValueError as error:
        raise InputError(str(error)) from error


def prepare(
    method: dpf_tf.methods.Method | None,
    model: Any,
    recipe: Recipe,
    steps_per_epoch: int,
    data: Callable[[int], Any],
) -> Prepared:
    """Makes a model ready to be trained by a method.

    Args:
        method: of `get`.
        model: dense.
        recipe: of the training.
        steps_per_epoch: its length.
        data: from a step to a batch, for methods that look at the gradient.

    Raises:
        InputError: if the method is not defined for the recipe's structure, or
            nothing of the model has such units.
    """
    if method is None:
        return Prepared(model, [])
    try:
        pruned = dpf_tf.prune(
            model,
            schedule(method, recipe, steps_per_epoch),
            method,
            allocation=recipe.allocation,
            structure=structures.get(recipe.structure),
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    return Prepared(pruned, [dpf_tf.PruningCallback(settle=recipe.settle, data=data)])


def _parsed(option: str) -> tuple[str, Any]:
    name, equals, text = option.partition("=")
    if not (name and equals and text):
        raise InputError(
            "An option of a method is NAME=VALUE, such as share=0.2. "
            f"Received: {option!r}"
        )
    if text in ("true", "false"):
        return name, text == "true"
    for kind in (int, float):
        try:
            return name, kind(text)
        except ValueError:
            pass
    return name, text
