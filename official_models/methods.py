"""How a model is made sparse while it trains: what `--method` can name."""

from __future__ import annotations

from typing import Any, NamedTuple

import dpf_tf
from official_models.recipes import Recipe


class Prepared(NamedTuple):
    """A model made ready for a method.

    Attributes:
        model: the model to train.
        callbacks: what carries the method out, first in `fit`'s list.
    """

    model: Any
    callbacks: list[Any]


def _dense(model: Any, recipe: Recipe, steps: int) -> Prepared:
    """Nothing is pruned: the control."""
    return Prepared(model, [])


def _dpf(model: Any, recipe: Recipe, steps: int) -> Prepared:
    """Dynamic model pruning with feedback (Lin et al., ICLR 2020)."""
    end_step, period = max(1, round(recipe.ramp_end * steps)), recipe.mask_period
    schedule = dpf_tf.PolynomialDecay(
        final_sparsity=recipe.sparsity, end_step=end_step, frequency=period
    )
    pruned = dpf_tf.prune_low_magnitude_dpf(
        model, schedule, allocation=recipe.allocation
    )
    return Prepared(pruned, [dpf_tf.PruningCallback(settle=recipe.settle)])


METHODS = {"dense": _dense, "dpf": _dpf}


def prepare(method: str, model: Any, recipe: Recipe, steps: int) -> Prepared:
    """Makes a model ready to be trained by a method, for `steps` in total."""
    return METHODS[method](model, recipe, steps)
