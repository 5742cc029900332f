"""The two Kerases, and the few things in which they differ.

`of(obj)` tells by the type of an object whether it belongs to Keras 3 or to tf_keras
(Keras 2), never by an environment variable: both may be imported in one process. What
the rest of the package needs from either stands here under one name.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tf_keras


class Kernel(NamedTuple):
    """A weight that can be pruned, and where its layer keeps it.

    Attributes:
        path: path below the wrapped layer, such as `"kernel"` or `"cell/kernel"`.
        variable: the dense variable.
        owner: the layer that owns the variable.
        attribute: the owner's attribute that holds it; `None` if it is in a container.
        kind: `"kernel"`, `"depthwise"` or `"embedding"`; `"follower"` of a bias or of
            batch norm's weights.
    """

    path: str
    variable: Any
    owner: Any
    attribute: str | None
    kind: str


Pruned = Sequence[tuple[Kernel, tf.Tensor]]


def weight_name(variable: Any) -> str:
    """Returns a weight's own name, alike in both Kerases: tf_keras says `layer/w:0`."""
    return variable.name.rsplit("/", 1)[-1].partition(":")[0]


class _PrunedScope(keras.StatelessScope):
    """Inside it, a kernel's value is the pruned one; all other state is as outside.

    Keras 3 asks the innermost stateless scope for every variable it reads. This one
    answers for the kernels only, and passes every assignment through at once (batch
    norm's statistics, seeds): a scope of Keras's own would collect them.
    """

    def __init__(self, pruned: Pruned, prove: bool) -> None:
        values = [(kernel.variable, value) for kernel, value in pruned]
        super().__init__(values, collect_losses=True, initialize_variables=False)
        self._paths = {id(kernel.variable): kernel.path for kernel, _ in pruned}
        self._unread = dict(self._paths) if prove else {}

    def unused(self, outputs: Any) -> list[str]:
        """Returns the paths of kernels that were not read inside the scope."""
        return list(self._unread.values())

    def get_current_value(self, variable: Any) -> tf.Tensor | None:
        if id(variable) in self._paths:
            self._unread.pop(id(variable), None)
            return super().get_current_value(variable)
        if self.original_scope is not None:
            return self.original_scope.get_current_value(variable)
        return None

    def add_update(self, update: tuple[Any, tf.Tensor]) -> None:
        variable, value = update
        if id(variable) in self._paths:
            raise ValueError(
                f"The layer assigns to its kernel '{variable.path}' in `call`. That "
                "would write the pruned kernel over the dense one, and pruned weights "
                "could not come back. Leave the layer dense with `exclude=`."
            )
        self.__exit__()
        try:
            variable.assign(value)
        finally:
            self.__enter__()


class _SwappedAttributes:
    """Inside it, the attributes that hold the kernels hold the pruned ones.

    tf_keras has no scope for variables, so the owner's attribute is exchanged, below
    the level at which Keras tracks attributes.
    """

    losses: Sequence[tf.Tensor] = ()  # tf_keras keeps them with the layer.

    def __init__(self, pruned: Pruned, prove: bool) -> None:
        self._pruned = [
            (kernel, tf.cast(value, kernel.owner.compute_dtype))
            if hasattr(kernel.variable, "true_dtype")
            else (kernel, value)
            for kernel, value in pruned
        ]
        self._prove = prove
        self._tape = (
            tf.GradientTape(persistent=True)
            if prove and tf.executing_eagerly()
            else None
        )

    def __enter__(self) -> _SwappedAttributes:
        if self._tape is not None:
            self._tape.__enter__()
            self._tape.watch([value for _, value in self._pruned])
        for kernel, value in self._pruned:
            kernel.owner.__dict__[kernel.attribute] = value
        return self

    def __exit__(self, *exception: Any) -> None:
        for kernel, _ in self._pruned:
            kernel.owner.__dict__[kernel.attribute] = kernel.variable
        if self._tape is not None:
            self._tape.__exit__(*exception)

    def unused(self, outputs: Any) -> list[str]:
        """Returns the paths of kernels that the outputs do not depend on."""
        return [
            kernel.path
            for kernel, value in self._pruned
            if self._prove and not self._is_used(value, outputs)
        ]

    def _is_used(self, value: tf.Tensor, outputs: Any) -> bool:
        if self._tape is None:
            return bool(value.consumers())
        results = [t for t in tf.nest.flatten(outputs) if tf.is_tensor(t)]
        return self._tape.gradient(results, value) is not None


class _EitherKeras:
    """What is the same in both."""

    @staticmethod
    def _stored(variable: Any) -> Any:
        """Returns TensorFlow's variable, in the dtype in which it is stored."""
        raise NotImplementedError

    @classmethod
    def _made(cls, variable: Any) -> Any:
        """Returns TensorFlow's variable itself; `None` if it is still to be made."""
        return cls._stored(variable)

    @classmethod
    def dense(cls, variable: Any) -> tf.Tensor:
        """Returns the dense kernel in its own dtype, watched by gradient tapes."""
        return tf.convert_to_tensor(cls._stored(variable))

    @classmethod
    def copies(cls, variable: Any) -> tuple[Any, ...]:
        """Returns the copies of a variable, one for each replica of this process."""
        strategy = tf.distribute.get_strategy()
        return strategy.experimental_local_results(cls._stored(variable))

    @classmethod
    def in_scope(cls, variable: Any) -> bool:
        """Tells whether a variable was made under the strategy that is in force."""
        extended = tf.distribute.get_strategy().extended
        made = cls._made(variable)
        return made is None or extended.variable_created_in_scope(made)

    @staticmethod
    def _node(tensor: Any) -> Any:
        """Returns Keras's record of the call that made a symbolic tensor."""
        # No public attribute tells which of a shared layer's calls made a tensor.
        layer, node_index, _ = tensor._keras_history
        return layer._inbound_nodes[node_index]

    @staticmethod
    def call_index(tensor: Any) -> int:
        """Returns which of its layer's calls made a symbolic tensor."""
        return tensor._keras_history[1]  # Public attributes tell names only.

    @staticmethod
    def output_index(tensor: Any) -> int:
        """Returns which of its layer's outputs a symbolic tensor is."""
        return tensor._keras_history[2]


class Keras3(_EitherKeras):
    """What the package needs from Keras 3."""

    module: types.ModuleType = keras

    @staticmethod
    def state_options(dtype: str) -> dict[str, Any]:
        """Returns `add_weight`'s arguments that make a mask, or what goes with it."""
        return {
            "trainable": False,
            "aggregation": "only_first_replica",
            "autocast": False,
            "dtype": dtype,
        }

    @staticmethod
    def _stored(variable: Any) -> Any:
        return variable.value

    @classmethod
    def _made(cls, variable: Any) -> Any:
        # While a model is built inside a call, `value` may be a cast or an initial
        # value, and no public attribute tells of the variable behind it.
        return variable._value

    @staticmethod
    def dtype(variable: Any) -> str:
        """Returns the dtype in which a variable is stored."""
        return variable._dtype  # `dtype` is that of mixed precision inside a call.

    @staticmethod
    def in_construction() -> bool:
        """Tells whether a model is being made or saved, not run."""
        return False  # Keras 3 asks `compute_output_spec` then.

    @staticmethod
    def substituted(pruned: Pruned, prove: bool) -> _PrunedScope:
        """Returns a context in which a layer sees pruned kernels for its dense ones.

        Args:
            pruned: kernels and their pruned values.
            prove: whether `unused` is asked for after the call.

        Returns:
            A context manager with `losses`, which the layer has added inside it, and
            `unused(outputs)`: paths of kernels that had no part in the outputs.
        """
        return _PrunedScope(pruned, prove)

    @classmethod
    def clone_model(cls, model: Any, clone_function: Any) -> Any:
        """Returns the same graph over the layers that `clone_function` gives."""

        def fresh_input(tensor: Any) -> Any:
            layer, _ = cls.producer(tensor)
            return type(layer).from_config(layer.get_config()).output

        options = {}
        if not isinstance(model, keras.Sequential):
            # Keras would give inputs without a name of their own another name.
            options["input_tensors"] = keras.tree.map_structure(
                fresh_input, model.input
            )
        # Keras would compile the clone from a config, which fails for a loss of one's
        # own; the clone needs a fresh optimizer anyway.
        compiled, model.compiled = model.compiled, False
        try:
            return keras.models.clone_model(
                model, clone_function=clone_function, **options
            )
        finally:
            model.compiled = compiled

    @classmethod
    def producer(cls, tensor: Any) -> tuple[Any, list[Any]]:
        """Returns the layer that made a symbolic tensor, and that layer's inputs."""
        return tensor._keras_history[0], list(cls._node(tensor).input_tensors)

    @classmethod
    def call_options(cls, tensor: Any) -> dict[str, Any]:
        """Returns the keyword arguments of the call that made a symbolic tensor."""
        return cls._node(tensor).arguments.kwargs


class TFKeras(_EitherKeras):
    """What the package needs from tf_keras (Keras 2)."""

    module: types.ModuleType = tf_keras

    @staticmethod
    def state_options(dtype: str) -> dict[str, Any]:
        """Returns `add_weight`'s arguments that make a mask, or what goes with it."""
        return {
            "trainable": False,
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
            "experimental_autocast": False,
            "dtype": dtype,
        }

    @staticmethod
    def _stored(variable: Any) -> Any:
        # Under mixed precision tf_keras hides the float32 variable in an
        # AutoCastVariable, which casts at every public read inside a layer's call.
        return variable._variable if hasattr(variable, "true_dtype") else variable

    @classmethod
    def dtype(cls, variable: Any) -> str:
        """Returns the dtype in which a variable is stored."""
        return cls._stored(variable).dtype.base_dtype.name

    @staticmethod
    def in_construction() -> bool:
        """Tells whether a model is being made or saved, not run."""
        name = getattr(tf.compat.v1.get_default_graph(), "name", None) or ""
        if name == "keras_graph" or name.endswith("_scratch_graph"):
            return True
        # A SavedModel gets a function of every layer's call in training, too.
        return "_layer_call_" in name

    @staticmethod
    def substituted(pruned: Pruned, prove: bool) -> _SwappedAttributes:
        """Returns a context with pruned kernels; see `Keras3.substituted`."""
        return _SwappedAttributes(pruned, prove)

    @staticmethod
    def clone_model(model: Any, clone_function: Any) -> Any:
        """Returns the same graph over the layers that `clone_function` gives."""
        return tf_keras.models.clone_model(model, clone_function=clone_function)

    @classmethod
    def producer(cls, tensor: Any) -> tuple[Any, list[Any]]:
        """Returns the layer that made a symbolic tensor, and that layer's inputs."""
        return tensor._keras_history[0], list(cls._node(tensor).keras_inputs)

    @classmethod
    def call_options(cls, tensor: Any) -> dict[str, Any]:
        """Returns the keyword arguments of the call that made a symbolic tensor."""
        return cls._node(tensor).call_kwargs


KERAS3 = Keras3()
TF_KERAS = TFKeras()
BOTH = (KERAS3, TF_KERAS)


def of(obj: Any) -> Keras3 | TFKeras | None:
    """Returns the Keras whose layer `obj` is, or `None` if it is no layer or model."""
    for api in BOTH:
        if isinstance(obj, api.module.layers.Layer):
            return api
    return None


def class_name(layer: Any) -> str:
    """Returns the name of a layer's class if it is one of Keras's own, else ''."""
    cls = type(layer)
    own = cls.__module__.split(".")[0] in ("keras", "tf_keras")
    return cls.__name__ if own else ""


def require(model: Any, kind: str = "a model or layer of Keras 3 or tf_keras") -> Any:
    """Returns the Keras of `model`, or raises TypeError: it must be `kind`."""
    api = of(model)
    if api is None:
        raise TypeError(
            f"`model` must be {kind}. "
            f"Received: {model!r} (of type {type(model).__name__})"
        )
    return api


def steps_per_execution(model: Any) -> int:
    """Returns how many training steps a compiled model makes at a time.

    Raises:
        ValueError: if the number is left to Keras (`"auto"`).
    """
    steps = model.steps_per_execution
    automatic = getattr(model, "autotune_steps_per_execution", False)
    if automatic or isinstance(steps, str):
        raise ValueError(
            "steps_per_execution='auto' changes during training, and masks can change "
            "only between executions. Compile the model with a number that divides "
            "the schedule's frequency."
        )
    return int(tf.convert_to_tensor(steps))  # tf_keras keeps it in a variable.


def on_cpu(tensor: Any) -> bool:
    """Tells whether an eager tensor lies in the host's memory."""
    return "CPU" in tensor.device


def numpy_view(tensor: Any) -> np.ndarray:
    """Returns a read-only array over an eager tensor; no copy where it is in memory."""
    if isinstance(tensor, np.ndarray):
        return tensor
    if on_cpu(tensor):
        return np.asarray(memoryview(tensor))
    return tensor.numpy()


def strategy_of(model: Any) -> tf.distribute.Strategy:
    """Returns the strategy that a model was made under; of a layer, that in force."""
    return getattr(model, "distribute_strategy", tf.distribute.get_strategy())


def shared_tensor(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor over an array's memory, which must not be written to any more.

    `tf.convert_to_tensor` would copy it. That is done where TensorFlow cannot share it:
    its kernels want memory that begins at a multiple of 64 bytes.
    """
    flags = array.flags
    if array.ctypes.data % 64 or not (flags.c_contiguous and flags.writeable):
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
