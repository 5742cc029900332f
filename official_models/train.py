r"""Trains a network of a recipe, densely or pruned, on one device or many.

    python -m official_models.train --recipe=cifar10_resnet20 --sparsity=0.9 \
        --data_dir=... --model_dir=...
    python -m official_models.train --list_recipes

A run that was interrupted goes on when the same command is given again.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from absl import flags

from official_models import (
    common_flags,
    data,
    methods,
    recipes,
    strategies,
    summaries,
    training,
)
from official_models.errors import InputError
from official_models.options import Options

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common_flags)  # So that --help tells of them.

flags.DEFINE_bool("list_recipes", False, "List the recipes, and do nothing else.")
flags.DEFINE_string("recipe", None, "Name of the recipe; --list_recipes lists them.")
flags.DEFINE_enum(
    "method", "dpf", list(methods.METHODS), "How the network is made sparse."
)
flags.DEFINE_list(
    "method_options",
    [],
    "Options of the method: NAME=VALUE, several with commas between them, such as "
    "rescale=kernel. dpf_tf.methods tells which there are.",
)
flags.DEFINE_string(
    "masks_from",
    None,
    "Folder of a finished training: its masks are taken from the first step to the "
    "last, and --sparsity says nothing. With the same --seed the initial weights are "
    "the same too: a lottery ticket.",
)
flags.DEFINE_bool(
    "record_masks",
    False,
    "Keep the masks of every update that changes them, for official_models.analyze.",
)
flags.DEFINE_enum("keras", "keras", ["keras", "tf_keras"], "Keras 3, or Keras 2.")
flags.DEFINE_enum(
    "distribution_strategy",
    "one_device",
    strategies.NAMES,
    "What the training runs on: one device, all GPUs of this machine, all machines of "
    "a cluster, or a TPU. Every worker of a cluster gets the same command.",
)
flags.DEFINE_enum(
    "cluster",
    "tf_config",
    strategies.CLUSTERS,
    "Who knows the machines: the environment variable TF_CONFIG, or Slurm.",
)
flags.DEFINE_string("tpu", "local", "Name or address of the TPU.")
flags.DEFINE_integer(
    "seed",
    0,
    "Of the initial weights, the order of the data, its augmentation, and the lots "
    "that a method draws.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)
flags.DEFINE_integer(
    "steps_per_epoch", None, "Steps of an epoch. Default: one pass.", lower_bound=1
)
flags.DEFINE_integer(
    "steps_per_execution",
    1,
    "Steps between two returns to Python; it must divide --mask_period and the steps "
    "of an epoch.",
    lower_bound=1,
)
flags.DEFINE_bool("jit_compile", False, "Compile a training step with XLA.")
flags.DEFINE_bool(
    "synchronized_batch_norm",
    False,
    "Take batch norm's statistics over all replicas instead of each by itself.",
)

_DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def _define_recipe_flags() -> None:
    """Makes a flag for each field of a recipe, without a default."""
    types = typing.get_type_hints(recipes.Recipe)
    for field in dataclasses.fields(recipes.Recipe):
        if field.name == "source":
            continue
        help = f"Overrides the recipe. {field.metadata['help']}"
        if field.name in recipes.CHOICES:
            flags.DEFINE_enum(field.name, None, recipes.CHOICES[field.name], help)
        elif field.name == "milestones":
            flags.DEFINE_list(field.name, None, help)
        else:
            _DEFINE[_plain(types[field.name])](field.name, None, help)


def _plain(kind: Any) -> type:
    """Returns the type of a field that may be left out."""
    given = [each for each in typing.get_args(kind) if each is not type(None)]
    return given[0] if given else kind


_define_recipe_flags()


def asked_recipe() -> recipes.Recipe:
    """Returns the recipe that the flags describe."""
    recipe = recipes.get(common_flags.required("recipe"))
    changes: dict[str, Any] = {
        field.name: FLAGS[field.name].value
        for field in dataclasses.fields(recipe)
        if field.name in FLAGS and FLAGS[field.name].value is not None
    }
    if "milestones" in changes:
        changes["milestones"] = _shares(changes["milestones"])
    return recipe.changed(**changes)


def _shares(texts: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(text) for text in texts)
    except ValueError as error:
        raise InputError(
            "--milestones takes shares of the training, such as 0.5,0.75. Received: "
            f"{','.join(texts)}"
        ) from error


def _options() -> Options:
    common_flags.required("model_dir")
    values = {
        field.name: FLAGS[field.name].value for field in dataclasses.fields(Options)
    }
    return Options(**values | {"method_options": tuple(values["method_options"])})


def main() -> None:
    """Runs a training, or goes on with it."""
    if FLAGS.list_recipes:
        print(recipes.table())
        return
    recipe, options = asked_recipe(), _options()
    if FLAGS.ramp_end is not None:
        method = methods.get(options.method, options.method_options)
        methods.require_end(method, FLAGS.ramp_end)
    data.describe(recipe.data, options.data_dir)  # Before workers wait for each other.
    strategy = strategies.make(
        FLAGS.distribution_strategy,
        keras=FLAGS.keras,
        cluster=FLAGS.cluster,
        tpu=FLAGS.tpu,
    )
    summary = training.run(recipe, options, strategy)
    if summary:
        print(summaries.table(summary))


if __name__ == "__main__":
    common_flags.run(main)
