"""`Momentum`: what the optimizer keeps for each kernel, read or to be set to zero."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf import keras_api
from dpf_tf.methods import Method

# How Keras's optimizers call their lists of momenta: SGD, Adam and its kin, Adamax.
_LISTS = ("momentums", "_momentums", "_m")


class Momentum:
    """Finds the momenta of the kernels in the optimizer that trains them.

    Args:
        model: the pruned model.
        optimizer: what trains it; by default what it is compiled with.

    Raises:
        TypeError: if `optimizer` is no optimizer.
    """

    def __init__(self, model: Any, optimizer: Any = None) -> None:
        known = hasattr(optimizer, "apply_gradients")
        if optimizer is not None and (isinstance(optimizer, type) or not known):
            raise TypeError(
                "`optimizer` must be the optimizer that trains the model, an object. "
                f"Received: {optimizer!r} (of type {type(optimizer).__name__})"
            )
        self._model, self._given = model, optimizer
        self._told: set[str] = set()  # What is odd about the optimizer.
        self._first: tuple[int, int] | None = None  # Its steps when it was first asked.

    @property
    def _optimizer(self) -> Any:
        return optimizer_of(self._model, self._given)

    def check(self, method: Method) -> None:
        """Raises ValueError if a method looks at momenta, and there can be none."""
        if "momenta" not in method.needs | method.restarts:
            return
        if self._optimizer is None:
            raise ValueError(
                f"{type(method).__name__} looks at the optimizer's momentum, or clears "
                "it where weights are pruned, and the model is not compiled with an "
                "optimizer. Give it: `dpf_tf.MaskUpdater(model, optimizer=optimizer)`."
            )
        useless = lacks_momentum(self._optimizer) or keeps_iterate(self._optimizer)
        if "momenta" in method.needs and useless:
            self._refuse(method)

    def variables(
        self, method: Method, kernels: list[Any], step: int
    ) -> list[list[Any]]:
        """Returns the variables that hold the momentum of each kernel.

        Raises:
            ValueError: if the optimizer has made none as yet, though steps were made.
        """
        if lacks_momentum(self._optimizer):  # tf_keras has variables all the same.
            return [[] for _ in kernels]
        self._notice_idle(method, step)
        built = is_built(self._optimizer)
        legacy = _is_legacy(self._optimizer)  # These make variables one by one.
        if not built and self._given is not None and step and not legacy:
            raise ValueError(
                f"At step {step} the optimizer has no variables as yet: momenta of a "
                "checkpoint would come too late. Call "
                "`optimizer.build(model.trainable_variables)` before this update."
            )
        needed = step > 0 or "momenta" in method.needs
        if not built and needed and (self._given is None or legacy):
            with keras_api.strategy_of(self._model).scope():
                build(self._optimizer, self._model.trainable_variables)
        found = momenta(self._optimizer, kernels)
        if is_built(self._optimizer) and not any(found):
            self._warn_of_none(method)
        return found

    def read(self, method: Method, kernels: list[Any], step: int) -> list[np.ndarray]:
        """Returns the momenta as arrays; before the first step they are zero."""
        if self._optimizer is None:
            raise ValueError(
                f"{type(method).__name__} looks at the optimizer's momentum, and no "
                "optimizer is known. Give it: `dpf_tf.MaskUpdater(model, "
                "optimizer=optimizer)`. A method of your own says that it wants it: "
                "`needs = frozenset({'momenta'})`."
            )
        found = self.variables(method, kernels, step)
        if not is_built(self._optimizer) and not step:
            return [np.zeros(kernel.shape, np.float32) for kernel in kernels]
        if not all(found) or keeps_iterate(self._optimizer):
            self._refuse(method)
        dense = keras_api.of(self._model).dense
        return [keras_api.numpy_view(dense(momentum)) for momentum, *_ in found]

    def _notice_idle(self, method: Method, step: int) -> None:
        """Refuses, or warns of, an optimizer of `compile` that makes no steps."""
        made = getattr(self._optimizer, "iterations", None)
        if self._given is not None or made is None:
            return
        now = step, int(tf.convert_to_tensor(made))
        first = self._first = self._first or now
        if now[0] <= first[0] or now[1] > first[1]:
            return
        looks = "momenta" in method.needs
        problem = (
            f"{type(method).__name__} {'looks at' if looks else 'clears'} the momentum "
            "of the optimizer, and that which the model is compiled with has made no "
            f"step from step {first[0]} to step {step}. If your loop trains with "
            "another, give it: `dpf_tf.MaskUpdater(model, optimizer=optimizer)`."
        )
        if looks:
            raise ValueError(problem)
        self._tell("idle", problem)

    def _refuse(self, method: Method) -> None:
        raise ValueError(
            f"{type(method).__name__} looks at the optimizer's momentum, and "
            f"{type(self._optimizer).__name__} keeps none, or does not train all of "
            "the pruned kernels. Use SGD with `momentum=0.9`, or Adam."
        )

    def _warn_of_none(self, method: Method) -> None:
        if "momenta" in method.needs:
            return
        self._tell(
            "none",
            f"{type(method).__name__} clears the momentum of weights that are pruned, "
            f"and finds none in {type(self._optimizer).__name__}. If it keeps some "
            "under a name of its own, pruned weights go on moving. SGD and Adam are "
            "known.",
        )

    def _tell(self, what: str, problem: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warnings.warn(problem, stacklevel=8)


def optimizer_of(model: Any, optimizer: Any = None) -> Any:
    """Returns the optimizer of a model, without loss scaling, or `None`."""
    optimizer = optimizer or getattr(model, "optimizer", None)
    return getattr(optimizer, "inner_optimizer", optimizer)


def is_built(optimizer: Any) -> bool:
    """Tells whether an optimizer has made its variables."""
    if _is_legacy(optimizer):  # It has no word for it; SGD without momentum no slots.
        return bool(optimizer.get_slot_names()) or lacks_momentum(optimizer)
    if hasattr(optimizer, "built"):
        return bool(optimizer.built)
    return hasattr(optimizer, "_index_dict")  # tf_keras has nothing public for it.


def lacks_momentum(optimizer: Any) -> bool:
    """Tells whether an optimizer could keep a momentum, and is told not to."""
    return bool(getattr(optimizer, "momentum", None) == 0)


def keeps_iterate(optimizer: Any) -> bool:
    """Tells the optimizer whose `momentum` is a second copy of the weights."""
    return type(optimizer).__name__ == "ScheduleFreeAdamW"


def build(optimizer: Any, variables: list[Any]) -> None:
    """Makes the variables that an optimizer keeps for what it trains."""
    if _is_legacy(optimizer):  # Nothing public makes slots before the first step.
        optimizer._create_all_weights(variables)
    else:
        optimizer.build(variables)


def momenta(optimizer: Any, kernels: list[Any]) -> list[list[Any]]:
    """Returns the variables that hold the momentum of each kernel.

    Args:
        optimizer: an optimizer of either Keras, without loss scaling.
        kernels: dense variables that it trains.

    Returns:
        A list for each kernel: one variable, or none where the optimizer keeps no
        momentum, has not made its variables yet, or does not train the kernel.
    """
    if _is_legacy(optimizer):
        return [_slots(optimizer, kernel) for kernel in kernels]
    lists = (getattr(optimizer, name, None) for name in _LISTS)
    found = next((each for each in lists if each), None)
    if not found:
        return [[] for _ in kernels]
    places = [_index(optimizer, kernel) for kernel in kernels]
    return [[] if place is None else [found[place]] for place in places]


def _is_legacy(optimizer: Any) -> bool:
    """Tells the legacy optimizers of tf_keras."""
    return hasattr(optimizer, "get_slot")


def _slots(optimizer: Any, kernel: Any) -> list[Any]:
    names = [name for name in optimizer.get_slot_names() if name in ("momentum", "m")]
    try:
        return [optimizer.get_slot(kernel, name) for name in names]
    except KeyError:
        return []


def _index(optimizer: Any, kernel: Any) -> int | None:
    # No public attribute tells which momentum is whose: names are not unique, and after
    # loading tf_keras's are others. This is how the optimizers find their own.
    try:
        if hasattr(optimizer, "_get_variable_index"):
            return optimizer._get_variable_index(kernel)
        return optimizer._index_dict[optimizer._var_key(kernel)]
    except KeyError:
        return None
