"""The dense gradient at a mask update: one pass over a batch, outside training."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf import keras_api
from dpf_tf.batch_norm import check_batches
from dpf_tf.feedback import probing
from dpf_tf.graph import wrappers
from dpf_tf.layer_call import untraced
from dpf_tf.methods import Method

LARGEST_SCALE = 2.0**15  # What Keras's loss scaling begins with.


class GradientPass:
    """Computes the loss's gradient at the pruned kernels, pruned weights included.

    Nothing else changes: batch norm's statistics and metrics are afterwards as before,
    and so are the seeds of Keras 3. The gradient is that of training mode at the values
    that the layers compute with, so that regularizers of the dense kernels have no
    share in it, and summed over the replicas.

    Args:
        model: the pruned model.
        data: batches, an iterable that is drawn from in turn, or a callable from the
            step to a batch; `None` if there are none.
        loss: `(model, batch) -> loss`, a scalar tensor; by default the loss that the
            model is compiled with.

    Raises:
        TypeError: if `data` are no batches, or `loss` is no such function.
    """

    def __init__(self, model: Any, data: Any, loss: Any = None) -> None:
        check_data(data)
        check_loss(loss)
        self._model, self._data, self._loss = model, data, loss
        self._batches: Iterator[Any] | None = None
        self._compiled: dict[tuple[int, ...], Any] = {}

    def check(self, method: Method) -> None:
        """Raises ValueError if a method looks at gradients, and there can be none."""
        if "gradients" not in method.needs:
            return
        if self._data is None:
            raise ValueError(
                f"{type(method).__name__} looks at the gradient on batches of training "
                "data, and has been given none. Give `fit` a "
                "`dpf_tf.PruningCallback(data=training_dataset)`; in a loop of your "
                "own, make `dpf_tf.MaskUpdater(model, data=training_dataset)`."
            )
        compiled = getattr(self._model, "optimizer", None) is not None
        if self._loss is None and not compiled and not _has_own_loss(self._model):
            raise ValueError(
                f"{type(method).__name__} looks at the gradient of the loss, and the "
                "model is not compiled with one. Give it: `dpf_tf.MaskUpdater(model, "
                "..., loss=loss)`, a function `(model, batch) -> loss`."
            )

    def __call__(self, step: int, kernels: list[Any]) -> list[np.ndarray]:
        """Returns the gradients at the kernels, float32 arrays of their shapes.

        Raises:
            ValueError: if there is no data, or a gradient is not finite.
        """
        if self._data is None:
            raise ValueError(
                "The masks ask for gradients, and there is no data to find them with. "
                "Give `dpf_tf.PruningCallback(data=training_dataset)`. A method of "
                "your own says that it wants it: `needs = frozenset({'gradients'})`."
            )
        api = keras_api.of(self._model)
        batch = self._next_batch(step)
        layers = [layer for _, layer in wrappers(self._model)]
        permitted = [layer.permit(self) for layer in layers]
        known = self._metrics()
        counted = [variable for metric in known for variable in metric.variables]
        touched = [*self._model.non_trainable_variables, *counted]
        with keras_api.strategy_of(self._model).scope():
            # Statistics of batch norm differ between replicas.
            copies = [copy for variable in touched for copy in api.copies(variable)]
        state = [(copy, copy.read_value()) for copy in copies]
        try:
            with untraced(self._model):
                return self._finite(step, batch, kernels)
        finally:
            for layer, before in zip(layers, permitted, strict=True):
                layer.permit(before)
            for copy, value in state:
                copy.assign(value)
            for metric in self._metrics():  # tf_keras makes some in the first pass.
                if not any(metric is each for each in known):
                    metric.reset_state()

    def _metrics(self) -> list[Any]:
        return list(getattr(self._model, "metrics", []))

    def _finite(self, step: int, batch: Any, kernels: list[Any]) -> list[np.ndarray]:
        """Returns the gradients; in float16 at a scale at which they do not overflow.

        The optimizer's own scale may be too large as yet, and adapts only in training.
        """
        scale = 1.0
        if _scales_loss(getattr(self._model, "optimizer", None)):
            scale = LARGEST_SCALE
        function = self._function(kernels)
        while True:
            found = [g.numpy() / scale for g in function(batch, tf.constant(scale))]
            if all(np.isfinite(gradient).all() for gradient in found):
                return found
            if scale <= 1.0:
                raise ValueError(
                    f"The gradients of the batch for the masks at step {step} are not "
                    "finite. Look at the batch, lower the learning rate, or clip the "
                    "gradients."
                )
            scale /= 16.0

    def _next_batch(self, step: int) -> Any:
        if callable(self._data):
            return tf.nest.map_structure(_tensor, self._data(step))
        if self._batches is None:
            data = self._data
            strategy = keras_api.strategy_of(self._model)
            several = strategy.num_replicas_in_sync > 1
            if several and isinstance(data, tf.data.Dataset):
                data = strategy.experimental_distribute_dataset(data)
            elif several and not isinstance(data, tf.distribute.DistributedDataset):
                raise TypeError(
                    "On several replicas `data` must be a tf.data.Dataset of global "
                    "batches, a distributed one, or a callable from the step to a "
                    f"batch of one. Received an object of type {type(data).__name__}"
                )
            self._batches = _over_and_over(data)
        return tf.nest.map_structure(_tensor, next(self._batches))

    def _function(self, kernels: list[Any]) -> Any:
        """Returns the pass as a graph, traced once for the kernels of a pool."""
        key = tuple(map(id, kernels))
        if key not in self._compiled:
            strategy = keras_api.strategy_of(self._model)

            def gradients(batch: Any, scale: tf.Tensor) -> list[tf.Tensor]:
                return self._gradients(batch, scale, kernels)

            def run(batch: Any, scale: tf.Tensor) -> list[tf.Tensor]:
                found = strategy.run(gradients, (batch, scale))
                return [
                    strategy.reduce(tf.distribute.ReduceOp.SUM, gradient, axis=None)
                    for gradient in found
                ]

            self._compiled[key] = tf.function(run, autograph=False)
        return self._compiled[key]

    def _gradients(
        self, batch: Any, scale: tf.Tensor, kernels: list[Any]
    ) -> list[tf.Tensor]:
        probes = [tf.zeros(kernel.shape) for kernel in kernels]
        with tf.GradientTape() as tape, probing(kernels, probes):
            tape.watch(probes)
            loss = (self._loss or _compiled_loss)(self._model, batch)
            loss = loss * tf.cast(scale, loss.dtype)
        found = tape.gradient(loss, probes)
        if lost := [k.name for k, x in zip(kernels, found, strict=True) if x is None]:
            raise ValueError(
                f"The loss does not depend on {', '.join(lost)}, so that there is no "
                "gradient to rank it by; or the model calls it in a `tf.function` of "
                "its own. Leave it dense with `exclude=`, or take the decorator off."
            )
        return found


def _compiled_loss(model: Any, batch: Any) -> tf.Tensor:
    unpack = keras_api.of(model).module.utils.unpack_x_y_sample_weight
    x, y, sample_weight = unpack(batch)
    if y is None and getattr(model, "loss", None) is not None:
        raise ValueError(
            "The masks ask for gradients, and the batches to find them with have no "
            "targets. Give `data=` batches `(x, y)` or `(x, y, sample_weight)`. "
            f"Received one of type {type(batch).__name__}"
        )
    outputs = model(x, training=True)
    return model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight)


def _scales_loss(optimizer: Any) -> bool:
    """Tells whether training scales the loss, for float16: Keras 3, then tf_keras."""
    names = ("scale_loss", "get_scaled_loss")
    inner = hasattr(optimizer, "inner_optimizer")
    return inner and any(hasattr(optimizer, name) for name in names)


def _tensor(part: Any) -> Any:
    return tf.convert_to_tensor(part) if isinstance(part, np.ndarray) else part


def _over_and_over(data: Any) -> Iterator[Any]:
    """Yields batches, and begins anew when they end; a dataset is shuffled anew too."""
    while True:
        empty = True
        for batch in data:
            empty = False
            yield batch
        if empty:
            raise ValueError("`data` holds no batches to find gradients with.")


def _has_own_loss(model: Any) -> bool:
    """Tells whether a model's class computes its loss itself."""
    usual = keras_api.of(model).module.Model.compute_loss
    return getattr(type(model), "compute_loss", usual) is not usual


def check_loss(loss: Any) -> None:
    """Checks the function by which the loss of a batch is found.

    Raises:
        TypeError: if it is none, or one of the outputs.
    """
    if loss is None:
        return
    kinds = tuple(api.module.losses.Loss for api in keras_api.BOTH)
    of_outputs = isinstance(loss, kinds) or (
        callable(loss) and "y_true" in inspect.signature(loss).parameters
    )
    if of_outputs or not callable(loss):
        raise TypeError(
            "`loss` must be a function `(model, batch) -> loss`, which calls the "
            f"model. Received: {loss!r} (of type {type(loss).__name__})"
        )


def check_data(data: Any) -> None:
    """Checks the batches that gradients are found with.

    Raises:
        TypeError: if they are no batches, or can be gone through only once.
    """
    if data is None or callable(data):
        return
    check_batches("data", data)
    if isinstance(data, Iterator):
        raise TypeError(
            "`data` is begun anew when it ends, and an iterator cannot be. Give a "
            "dataset, a list of batches, or a callable from the step to a batch. "
            f"Received an object of type {type(data).__name__}"
        )
