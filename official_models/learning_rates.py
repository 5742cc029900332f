"""Learning rates over the steps of a training: step or cosine decay, with a warm-up."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from official_models.recipes import Recipe


def training(keras: Any, recipe: Recipe, steps: int, warmup_steps: int) -> Any:
    """Returns the learning-rate schedule of a recipe, for a training of `steps`."""
    schedules = keras.optimizers.schedules
    if recipe.decay == "cosine":
        schedule = schedules.CosineDecay(recipe.learning_rate, steps)
    else:
        # Keras changes the rate after a boundary, we want it to change at it.
        boundaries = [round(share * steps) - 1 for share in recipe.milestones]
        values = [
            recipe.learning_rate * recipe.decay_factor**power
            for power in range(len(boundaries) + 1)
        ]
        schedule = schedules.PiecewiseConstantDecay(boundaries, values)
    return _warmed_up(keras, schedule, warmup_steps) if warmup_steps else schedule


def fine_tuning(keras: Any, recipe: Recipe, steps: int) -> Any:
    """Returns the learning-rate schedule of the stage with frozen masks."""
    return keras.optimizers.schedules.CosineDecay(recipe.finetune_learning_rate, steps)


def _warmed_up(keras: Any, schedule: Any, steps: int) -> Any:
    class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
        """A schedule whose first steps grow linearly (Goyal et al., section 2.2)."""

        def __call__(self, step: Any) -> tf.Tensor:
            grown = (tf.cast(step, tf.float32) + 1.0) / steps
            return schedule(step) * tf.minimum(1.0, grown)

        def get_config(self) -> dict[str, Any]:
            return {"schedule": schedule, "steps": steps}

    return WarmUp()
