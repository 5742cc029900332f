"""One training from its recipe to the stripped model: the job of `train`.

    summary = training.run(recipe, options, strategy)

The same call goes on with a training that was interrupted, and returns the result of a
finished one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import json
import math
import shlex
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

import dpf_tf
from official_models import (
    batches,
    callbacks,
    data,
    learning_rates,
    methods,
    models,
    strategies,
    summaries,
)
from official_models.errors import InputError
from official_models.options import Options
from official_models.recipes import Recipe
from official_models.run_folder import RunFolder
from official_models.state import TrainingState


def run(recipe: Recipe, options: Options, strategy: Any) -> dict[str, Any]:
    """Trains, or goes on, and returns the summary.

    Args:
        recipe: all numbers of the training.
        options: where, on what and how.
        strategy: of tf.distribute, made before anything else ran in TensorFlow.

    Returns:
        What `summary.json` says; `{}` in a worker that does not write it.

    Raises:
        InputError: if the data is not prepared, the folder holds another training, or
            Keras cannot carry the options.
    """
    return Training(recipe, options, strategy).run()


class Training:
    """The parts of one training, and what they have in common. See `run`.

    Attributes:
        model: what is trained, while it is.
    """

    def __init__(self, recipe: Recipe, options: Options, strategy: Any) -> None:
        self.recipe, self.options, self.strategy = recipe, options, strategy
        self.keras = importlib.import_module(options.keras)
        strategies.refuse_what_keras_cannot(
            strategy, self.keras, options.steps_per_execution, options.jit_compile
        )
        worker = strategies.worker(strategy)
        self.chief = worker == 0
        self.folder = RunFolder(options.model_dir, worker)
        self.info = data.describe(recipe.data, options.data_dir)
        self.steps_per_epoch = options.steps_per_epoch or (
            self.info.train_examples // recipe.batch_size
        )
        self.method = methods.get(options.method, options.method_options, options.seed)
        self.model: Any = None
        self.pruned = self.method is not None
        self.given_masks: Any = None
        if options.masks_from:
            self.given_masks = RunFolder(options.masks_from).history.final()
        self.check()

    def check(self) -> None:
        """Refuses sizes that do not go together."""
        recipe, info, steps = self.recipe, self.info, self.steps_per_epoch
        replicas = self.strategy.num_replicas_in_sync
        execution = self.options.steps_per_execution
        if steps < 1:
            raise InputError(
                f"A batch of {recipe.batch_size} is more than {info.name} has, "
                f"{info.train_examples} examples. Give a smaller --batch_size, or "
                "--steps_per_epoch, to go through the data several times in an epoch."
            )
        if recipe.batch_size % replicas:
            raise InputError(
                f"--batch_size={recipe.batch_size} is that of all replicas together, "
                f"and does not divide by their number, {replicas}."
            )
        if self.given_masks and not self.pruned:
            raise InputError("--masks_from needs a --method that prunes, such as dpf.")
        if self.options.record_masks and (self.given_masks or not self.pruned):
            raise InputError(
                "--record_masks keeps the masks of every update, and with "
                "--method=dense or --masks_from there is none. Leave it out."
            )
        sizes = [("steps", steps)]
        if self.method is not None:
            schedule = methods.schedule(self.method, recipe, steps)
            methods.check(self.method, recipe, schedule)
            sizes.append(("mask period", getattr(schedule, "frequency", execution)))
            sizes.append(("step of its mask", getattr(schedule, "step", execution)))
        for name, number in sizes:
            if number % execution:
                raise InputError(
                    f"--steps_per_execution={execution} does not divide the {name}, "
                    f"{number}: masks and epochs begin between two executions. Give "
                    "another, or --steps_per_epoch and --mask_period that fit."
                )

    def check_batch_norm(self, model: Any) -> None:
        """Refuses to estimate statistics anew where there are none."""
        base = self.keras.layers.BatchNormalization
        steps = self.recipe.recalibrate_steps
        if steps and not any(isinstance(layer, base) for layer in model.layers):
            raise InputError(
                f"{self.recipe.model} has no batch norm whose statistics "
                f"--recalibrate_steps={steps} could estimate anew. Leave it out."
            )

    def run(self) -> dict[str, Any]:
        """Trains, or goes on, or returns what a finished training has written."""
        with self.folder.held():
            self.folder.begin(self.config())
            finished = self.folder.summary()
            if finished is not None:
                self.tell(f"The training in {self.folder.path} is finished.")
                self.folder.clean()
                return finished if self.chief else {}
            return self.train()

    def config(self) -> dict[str, Any]:
        """Returns what must not change in an interrupted training."""
        recipe = dataclasses.asdict(self.recipe)
        del recipe["source"]
        found = {
            "method_options": self.method_options,
            "data_version": self.info.version,
        }
        return recipe | self.options.config() | found

    @property
    def method_options(self) -> dict[str, Any]:
        """All options of the method, those that nobody gave too."""
        return self.method.get_config() if self.method is not None else {}

    def train(self) -> dict[str, Any]:
        """Trains in one or two stages, and writes what came of it."""
        recipe, options = self.recipe, self.options
        steps = recipe.epochs * self.steps_per_epoch
        self.keras.utils.set_random_seed(options.seed)
        with self.strategy.scope(), _dtype_policy(self.keras, recipe.dtype_policy):
            dense = self.build()
            self.check_batch_norm(dense)
            self.model, carrying = methods.prepare(
                self.method,
                dense,
                recipe,
                self.steps_per_epoch,
                batches.OfStep(
                    self.strategy,
                    self.info,
                    recipe.batch_size,
                    self.steps_per_epoch,
                    options.seed,
                ),
            )
        state = TrainingState(self.model, self.folder)
        rate = learning_rates.training(
            self.keras,
            recipe,
            steps,
            round(recipe.warmup_epochs * self.steps_per_epoch),
        )
        if self.given_masks:
            carrying = [self.take_masks()]
        elif carrying:
            history = self.folder.history if options.record_masks else None
            carrying += [
                callbacks.MaskLog(
                    self.folder.masks, options.steps_per_execution, history
                )
            ]
        self.fit(state, "training", recipe.epochs, rate, carrying)
        if recipe.finetune_epochs:
            self.fine_tune(state)
        return self.finish(state)

    def build(self) -> Any:
        """Returns a fresh dense model."""
        return models.build(
            self.recipe.model,
            self.keras,
            classes=self.info.classes,
            input_shape=self.info.image_shape,
            weight_decay=self.recipe.weight_decay,
            synchronized_batch_norm=self.options.synchronized_batch_norm,
        )

    def take_masks(self) -> Any:
        """Takes the masks of another training, and makes them final."""
        with self.strategy.scope():
            try:
                dpf_tf.set_masks(self.model, self.given_masks)
            except ValueError as error:
                place = f"--masks_from={self.options.masks_from}"
                raise InputError(f"{place}: {error}") from error
        return self.freeze()

    def freeze(self) -> Any:
        """Makes the masks final, and returns the callback that logs them."""
        dpf_tf.freeze_masks(self.model)
        return callbacks.FrozenMasks(self.sparsity())

    def sparsity(self) -> float:
        """Returns the present share of zeros of the pruned kernels."""
        return dpf_tf.sparsity_report(self.model)["pruned"]["sparsity"]

    def fine_tune(self, state: TrainingState) -> None:
        """Trains on with the masks as they are."""
        epochs = self.recipe.finetune_epochs
        rate = learning_rates.fine_tuning(
            self.keras, self.recipe, epochs * self.steps_per_epoch
        )
        carrying = [self.freeze()] if self.pruned else []
        self.fit(state, "finetuning", self.epochs, rate, carrying)

    def fit(
        self,
        state: TrainingState,
        stage: str,
        epochs: int,
        rate: Any,
        carrying: list[Any],
    ) -> None:
        """Trains one stage up to epoch `epochs`, from where it is."""
        keras, recipe, options = self.keras, self.recipe, self.options
        with self.strategy.scope(), _dtype_policy(keras, recipe.dtype_policy):
            self.model.compile(
                keras.optimizers.SGD(
                    rate, momentum=recipe.momentum, nesterov=recipe.nesterov
                ),
                keras.losses.CategoricalCrossentropy(
                    from_logits=True, label_smoothing=recipe.label_smoothing
                ),
                weighted_metrics=summaries.metrics(keras),
                steps_per_execution=options.steps_per_execution,
                jit_compile=options.jit_compile,
            )
            interrupted = state.enter(stage)
        if strategies.is_multi_worker(self.strategy):
            # tf_keras would add up metrics that are the same in all workers.
            self.model.distribute_reduction_method = "first"
        first = state.epochs
        if first >= epochs:
            return
        self.refuse_disagreement(first)
        if interrupted:
            self.tell(f"Going on after epoch {first}.")
        # All mask updates are those of the first stage.
        step = int(tf.convert_to_tensor(self.model.optimizer.iterations))
        self.folder.forget_after(first, step if stage == "training" else math.inf)
        validation_steps = batches.evaluation_steps(
            self.info, recipe.batch_size, options.steps_per_execution
        )
        self.model.fit(
            batches.training(
                self.strategy,
                self.info,
                global_batch=recipe.batch_size,
                steps_per_epoch=self.steps_per_epoch,
                first_epoch=first,
                epochs=epochs,
                seed=options.seed,
            ),
            initial_epoch=first,
            epochs=epochs,
            steps_per_epoch=self.steps_per_epoch,
            validation_data=batches.evaluation(
                self.strategy, self.info, recipe.batch_size, validation_steps
            ),
            validation_steps=validation_steps,
            callbacks=[
                *carrying,
                callbacks.Progress(rate, self.epochs, self.tell),
                callbacks.KeepBest(state, self.final_sparsity(), self.sparse_from()),
                keras.callbacks.CSVLogger(str(self.folder.log), append=True),
                keras.callbacks.TensorBoard(str(self.folder.tensorboard)),
                callbacks.SaveState(state),
            ],
            verbose=self.verbosity(),
            shuffle=False,  # It is shuffled already.
        )

    @property
    def epochs(self) -> int:
        """The epochs of all stages."""
        return self.recipe.epochs + self.recipe.finetune_epochs

    def final_sparsity(self) -> float:
        """Returns the sparsity from which on a model is a candidate for the best."""
        if not self.pruned or self.given_masks:
            return 0.0
        if (self.recipe.structure or self.method.structure) != "unstructured":
            return 1e-9  # The share of zeros is not that of filters or blocks.
        report = dpf_tf.sparsity_report(self.model)
        # Of each kernel's weights a whole number is kept.
        rounding = len(report["kernels"]) / report["pruned"]["weights"]
        return self.recipe.sparsity - rounding

    def sparse_from(self) -> int:
        """Returns the first epoch that ends with as many weights as there shall be."""
        if not self.pruned or self.given_masks:
            return 0
        steps = self.steps_per_epoch
        weights = dpf_tf.sparsity_report(self.model)["pruned"]["weights"]
        schedule = methods.schedule(self.method, self.recipe, steps)
        rest = math.floor(steps * self.recipe.epochs * (1 - self.recipe.settle))
        for epoch in range(self.recipe.epochs):
            last = schedule.last_update(min(rest, steps * (epoch + 1) - 1))
            if last is None:
                continue
            # A ramp may end between two updates: the last one misses no whole weight.
            if (schedule.final_sparsity - schedule(last)[1]) * weights < 0.5:
                return epoch
        return self.recipe.epochs

    def refuse_disagreement(self, epoch: int) -> None:
        """Refuses workers of other settings, or that have come to another epoch.

        Raises:
            InputError: in all workers alike.
        """
        text = json.dumps(self.config(), sort_keys=True).encode()
        if not strategies.agree(self.strategy, [epoch, zlib.crc32(text)]):
            raise InputError(
                "The workers do not agree on the training: on its settings, or on the "
                f"epochs that are done, {epoch} here. Give all of them the same "
                f"command, and a --model_dir that all of them see. Received here: "
                f"{self.folder.path}"
            )

    def tell(self, line: str) -> None:
        """Prints a line, in one of the workers."""
        if self.chief:
            print(line, flush=True)

    def verbosity(self) -> int:
        """Returns Keras's `verbose`: a bar, a line for each epoch, or nothing."""
        if not self.chief:
            return 0
        return 1 if sys.stdout.isatty() else 2

    def finish(self, state: TrainingState) -> dict[str, Any]:
        """Strips, saves and measures the last model and the best one."""
        results = {"last": self.keep("")}
        if self.pruned and self.chief:
            self.folder.history.write_final(dpf_tf.get_masks(self.model))
        if state.best_epoch >= 0:
            state.restore_best()
            results["best"] = self.keep("best_")
            results["best"]["epoch"] = state.best_epoch + 1
        self.folder.clean()
        summary = self.summary(results) if self.chief else {}
        if self.chief:
            self.folder.finish(summary)
        strategies.agree(self.strategy, [0])  # The others wait for the chief.
        return summary

    def summary(self, results: dict[str, Any]) -> dict[str, Any]:
        """Returns what `summary.json` says: what was trained, how, and the results."""
        return {
            "recipe": dataclasses.asdict(self.recipe),
            "options": dataclasses.asdict(self.options),
            "method_options": self.method_options,
            "strategy": type(self.strategy).__name__,
            "replicas": self.strategy.num_replicas_in_sync,
            "data": dataclasses.asdict(self.info),
            "steps_per_epoch": self.steps_per_epoch,
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": summaries.versions(),
            **results,
        }

    def recalibrate(self, plain: Any) -> None:
        """Estimates batch norm's statistics anew, as the last mask wants them."""
        recipe = self.recipe
        found = data.training(
            self.info,
            global_batch=recipe.batch_size,
            steps_per_epoch=recipe.recalibrate_steps,
            first_epoch=self.epochs,
            epochs=self.epochs + 1,
            seed=self.options.seed,
        )
        dpf_tf.recalibrate_batch_norm(plain, found)

    def keep(self, prefix: str) -> dict[str, Any]:
        """Saves a model as a plain one in float32, and returns what it is worth."""
        with _dtype_policy(self.keras, "float32"):
            plain = self.build()
        result: dict[str, Any] = {}
        # All workers read the weights: some of them are kept in shares.
        if self.pruned:
            dpf_tf.strip_pruning(self.model, into=plain)
            report = dpf_tf.sparsity_report(self.model)
            result |= {name: report[name] for name in ("pruned", "kernels", "cost")}
        else:
            plain.set_weights(self.model.get_weights())
        if self.recipe.recalibrate_steps:
            self.recalibrate(plain)
        if self.chief:
            file = prefix + ("sparse.keras" if self.pruned else "dense.keras")
            plain.save(self.folder.path / file)
            result |= summaries.measured(self.keras, plain, self.info)
            result["file"] = file
        return result


@contextlib.contextmanager
def _dtype_policy(keras: Any, name: str) -> Iterator[None]:
    """Lets layers be made with a dtype policy, without a trace in the process."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
