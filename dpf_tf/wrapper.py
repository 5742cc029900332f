"""`PruneLowMagnitudeDPF`: keeps dense kernels, computes with pruned ones.

    dense kernel --(forward: where(mask, kernel, 0))--> wrapped layer --> outputs
         ^                                                    |
         +------- (backward: the gradient, unmasked) <--------+

Other schemes have another forward or backward. The wrapper owns one boolean mask
variable per kernel, and what the scheme keeps beside it. Everything else (weights,
name, dtype policy, masking of padded steps, losses) stays with the layer that it wraps.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf import (
    eligible,
    keras_api,
    layer_call,
    methods,
    prunable,
    schedules,
    structures,
)
from dpf_tf.feedback import bounded, masked, probe_of, substitute
from dpf_tf.keras_api import Kernel
from dpf_tf.settings import Settings


@dataclasses.dataclass
class _State:
    """A wrapper's Python state, in an object that Keras does not track.

    Keras would take the kernels in a tuple of the wrapper for the wrapper's own.
    """

    settings: Settings
    asked: Settings  # The same, before the length of a training was filled in.
    chosen: tuple[str, ...] | None
    frozen: bool
    # Who is in charge of the masks, while they live.
    watchers: weakref.WeakSet[Any] = dataclasses.field(default_factory=weakref.WeakSet)
    permitted: Any = None  # Who has prepared the next training step, in `fit`.
    called: bool = False  # The layer was called to make its kernels.
    made: bool = False  # The masks are.
    kernels: tuple[Kernel, ...] = ()
    asked_followers: tuple[str, ...] = ()
    followers: tuple[Kernel, ...] = ()
    kept: tuple[str, ...] = ()  # What the method keeps for each kernel.
    attributes: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    penalties: list[Any] = dataclasses.field(default_factory=list)  # Last added.
    proved: set[str] = dataclasses.field(default_factory=set)


class PruneLowMagnitudeDPF:
    """Wraps one layer so that it is trained by dynamic pruning with feedback.

    `prune_low_magnitude_dpf` makes these; call the class itself to wrap a layer inside
    a subclassed model's `__init__`. Calling it with a Keras 3 layer gives a Keras 3
    layer, with a tf_keras layer a tf_keras one, and `isinstance(layer,
    PruneLowMagnitudeDPF)` is true for both. Attributes that the wrapper does not have
    (`kernel`, `bias`, `units`, ...) are those of the wrapped layer.

    Args:
        layer: the layer to wrap, of either Keras, built or not.
        pruning_schedule: a target sparsity, a schedule of this package or of TFMOT, or
            a callable `step -> (should_prune, sparsity)`.
        allocation: how the sparsity is shared among the kernels of the model; see
            `prune_low_magnitude_dpf`.
        structure: what is pruned as one; see `prune_low_magnitude_dpf`.
        method: the pruning scheme, a name or a `dpf_tf.methods.Method`.
        kernels: paths, below the layer, of the kernels to prune, for instance
            `["pointwise_kernel"]`. `None` chooses all but depthwise kernels and
            embeddings, or these where the layer has no others.
        followers: weights of a batch norm, or a bias, that are masked where the filters
            before them are pruned, once the masks are at rest; see `dpf_tf.Filters`. By
            default the layer's own bias, if whole filters are pruned.
        frozen: the masks never change again (`freeze_masks` sets it).
        asked_schedule: of a wrapper that is loaded, the schedule that it was made with,
            before the length of a training was filled in.
        **kwargs: `name`, `dtype` and `trainable`; by default the wrapped layer's.

    Raises:
        TypeError: if `layer` is not a Keras layer or an option has the wrong type.
        ValueError: if an option's value is unknown, the layer has no such kernel, or
            Keras 3 does not run on TensorFlow.

    Example:

        >>> import keras
        >>> import numpy as np
        >>> import dpf_tf
        >>> layer = dpf_tf.PruneLowMagnitudeDPF(keras.layers.Dense(4), 0.5)
        >>> layer(np.ones((2, 3))).shape
        TensorShape([2, 4])
        >>> layer.masks["kernel"].shape, layer.units
        (TensorShape([3, 4]), 4)

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, algorithm 1.
    """

    _api: Any  # The layer's Keras; set by `wrapper_class`.

    def __new__(cls, layer: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Makes a wrapper of the layer's Keras."""
        if cls is PruneLowMagnitudeDPF:
            api = keras_api.of(layer)
            if api is None:
                raise TypeError(
                    "PruneLowMagnitudeDPF wraps a layer of Keras 3 or tf_keras. "
                    f"Received: {layer!r} (of type {type(layer).__name__})"
                )
            backend = api.module.backend.backend()
            if backend != "tensorflow":
                raise ValueError(
                    "dpf_tf prunes Keras models on TensorFlow, and Keras 3 runs on "
                    f"{backend!r} here. Set KERAS_BACKEND=tensorflow before Keras is "
                    "imported."
                )
            # Python runs __init__ by itself: the class is a subclass of this one.
            cls = wrapper_class(api)
        return super().__new__(cls, layer, *args, **kwargs)  # type: ignore[call-arg]

    def __init__(
        self,
        layer: Any,
        pruning_schedule: Any,
        *,
        allocation: Any = None,
        structure: Any = None,
        method: Any = "dpf",
        kernels: list[str] | None = None,
        followers: Sequence[str] | None = None,
        frozen: bool = False,
        asked_schedule: Any = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(layer, PruneLowMagnitudeDPF):
            raise ValueError(f"Layer '{layer.name}' is wrapped already.")
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        kwargs.setdefault("trainable", layer.trainable)
        # The wrapped layer casts its inputs itself.
        super().__init__(layer, autocast=False, **kwargs)  # type: ignore[call-arg]
        self.supports_masking = layer.supports_masking
        # A model of tf_keras asks this before it resets states.
        self.stateful = getattr(layer, "stateful", False)
        settings = Settings.checked(pruning_schedule, allocation, structure, method)
        asked = settings
        if asked_schedule is not None:
            schedule = schedules.as_schedule(asked_schedule)
            asked = dataclasses.replace(settings, schedule=schedule)
        if followers is None:
            followers = settings.structure.followers
        self._state = _State(
            settings=settings,
            asked=asked,
            chosen=None if kernels is None else tuple(kernels),
            asked_followers=tuple(followers),
            frozen=bool(frozen),
        )
        if self._has_all_kernels():
            self._make_masks()

    def build(self, input_shape: Any = None) -> None:
        """Builds the wrapped layer and makes its masks, all `True`."""
        super().build(input_shape)  # type: ignore[misc]
        if not self._state.made:
            if not (self._state.called or self._has_all_kernels()):
                inputs = self._api.module.Input(batch_shape=tuple(input_shape))
                layer_call.build(self.layer, (inputs,), {})
                self._state.called = True
            self._make_masks()
        self.built = True

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds a wrapper that is being loaded, or leaves it to its first call.

        The configuration holds the first input's shape alone.
        """
        if self._has_all_kernels():
            super().build_from_config(config)  # type: ignore[misc]

    def _has_all_kernels(self) -> bool:
        # `built` does not tell: Keras sets it for a composite without a `build` of its
        # own, whose sublayers are built by its first call.
        found = list(prunable.kernels(self.layer, frozen=True))
        if self._state.asked_followers:
            found += prunable.followers(self.layer)
        made = all(kernel.variable is not None for kernel in found)
        return bool(self.layer.built and found and made)

    def _make_masks(self) -> None:
        chosen: list[Kernel] = []
        if not (self._state.asked_followers and self._state.chosen == ()):
            chosen = eligible.kernels(self.layer, self.name, self._state.chosen)
        self._check_structure(chosen)
        for kernel in chosen:
            shape = tuple(kernel.variable.shape)
            self._add_state(kernel.path, "mask", np.ones(shape, np.bool_))
            state = self.settings.method.state(shape, prunable.filter_axes(kernel))
            if "mask" in state:
                raise ValueError(
                    f"{type(self.settings.method).__name__} calls what it keeps for a "
                    "kernel 'mask', which is the name of the mask. Call it otherwise."
                )
            for name, value in state.items():
                self._add_state(kernel.path, name, np.asarray(value, np.float32))
            self._state.kept = tuple(state)
        followers = [
            follower
            for follower in prunable.followers(self.layer)
            if follower.path in self._state.asked_followers
        ]
        for follower in followers:
            ones = np.ones(tuple(follower.variable.shape), np.bool_)
            self._add_state(follower.path, "mask", ones)
        self._state.kernels, self._state.followers = tuple(chosen), tuple(followers)
        self._state.made = True

    def _check_structure(self, kernels: list[Kernel]) -> None:
        structure = self.settings.structure
        for kernel in kernels:
            if reason := structure.refusal(kernel):
                raise ValueError(
                    f"Kernel '{self.name}/{kernel.path}' cannot be pruned by "
                    f"{structure.name}: {reason}. Leave it dense with `exclude=`."
                )

    def _add_state(self, path: str, name: str, value: np.ndarray) -> None:
        names = self._state.attributes
        attribute = f"{path.replace('/', '_')}_{name}"
        # Of another path, as `a_b/c` and `a/b_c`; or a method, as `compute_mask`.
        while attribute in names.values() or hasattr(type(self), attribute):
            attribute += "_"
        variable = self.add_weight(
            name=attribute,
            shape=value.shape,
            initializer=lambda shape, dtype=None: tf.constant(value),
            **self._api.state_options(value.dtype.name),
        )
        # An attribute, not a list item: tf.train.Checkpoint would skip a list.
        setattr(self, attribute, variable)
        names[path, name] = attribute

    def _own(self, path: str, name: str) -> Any:
        """Returns the mask of a kernel or follower, or what the method keeps for it."""
        return getattr(self, self._state.attributes[path, name])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the wrapped layer with its pruned kernels."""
        args, kwargs = layer_call.by_name(self.layer, args, kwargs)
        if not self._state.made:
            if not self._has_all_kernels():
                layer_call.build(self.layer, args, kwargs)
                self._state.called = True
            self.built = False  # Keras's loader may have said otherwise.
        return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def call(self, inputs: Any, *args: Any, training: Any = None, **kwargs: Any) -> Any:
        """Calls the wrapped layer; gradients of the pruned kernels reach the dense."""
        # tf_keras converts this with autograph, as it would the layer's own `call`: it
        # must see the layer's call, and no more than that.
        pruned = self._prune_for_call(training)
        kwargs = layer_call.taken(self.layer, kwargs)
        with pruned:
            outputs = self.layer(inputs, *args, **kwargs)
        self._check_call(pruned, outputs, training)
        return outputs

    @tf.autograph.experimental.do_not_convert
    def _prune_for_call(self, training: Any) -> Any:
        self.check_watched(training)
        prove = _mode(training) not in self._state.proved
        return self._api.substituted(self._pruned(), prove)

    @tf.autograph.experimental.do_not_convert
    def _check_call(self, pruned: Any, outputs: Any, training: Any) -> None:
        for loss in pruned.losses:
            self.add_loss(loss)
        self._add_penalties()
        self._refuse_unused(pruned.unused(outputs))
        self._state.proved.add(_mode(training))

    def _pruned(self) -> list[tuple[Kernel, tf.Tensor]]:
        kernels = [(kernel, self._prune(kernel)) for kernel in self._state.kernels]
        return kernels + [(each, self._silence(each)) for each in self._state.followers]

    def _silence(self, follower: Kernel) -> tf.Tensor:
        read = self._api.dense
        dense = read(follower.variable)
        mask = read(self._own(follower.path, "mask"))
        return substitute(dense, masked(dense, mask), lambda x: masked(x, mask))

    def _prune(self, kernel: Kernel) -> tf.Tensor:
        method, read = self.settings.method, self._api.dense
        dense = read(kernel.variable)
        mask = read(self._own(kernel.path, "mask"))
        state = {name: read(self._own(kernel.path, name)) for name in self._state.kept}

        pruned, probe = method.forward(dense, mask, state), probe_of(kernel.variable)
        if probe is not None:
            return substitute(probe, pruned, lambda upstream: upstream)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            if method.bounded:
                upstream = bounded(upstream, mask, prunable.filter_axes(kernel))
            return method.backward(upstream, dense, mask, state)

        return substitute(dense, pruned, backward)

    def _add_penalties(self) -> None:
        """Adds what the method asks for beside the layer's losses, once a step.

        A layer that is called several times in it has the losses of its first call.
        """
        state, read = self._state, self._api.dense
        if type(state.settings.method).penalty is methods.Method.penalty:
            return
        if self._api.in_construction():  # tf_keras would keep it for good.
            return
        asked = (
            state.settings.method.penalty(
                read(kernel.variable),
                read(self._own(kernel.path, "mask")),
                {name: read(self._own(kernel.path, name)) for name in state.kept},
            )
            for kernel in state.kernels
        )
        found = [loss for loss in asked if loss is not None]
        before = state.penalties
        if not found or any(x is each for x in self.losses for each in before):
            return
        state.penalties = found
        for loss in found:
            self.add_loss(loss)

    def _refuse_unused(self, unused: list[str]) -> None:
        if unused:
            raise ValueError(
                f"Layer '{self.name}' ({type(self.layer).__name__}) does not use "
                f"{unused} when it is called: pruning them would have no effect. Take "
                "them out with `exclude=`, or read the kernel inside `call` through "
                "the attribute that holds it."
            )

    @property
    def settings(self) -> Settings:
        """Schedule, allocation, structure, method; equal ones share one pool."""
        return self._state.settings

    @property
    def places(self) -> tuple[Kernel, ...]:
        """The kernels that are pruned, and where the layer keeps them."""
        return self._state.kernels

    @property
    def kernels(self) -> dict[str, Any]:
        """The dense variables: path below the layer -> float32 variable."""
        return {kernel.path: kernel.variable for kernel in self._state.kernels}

    @property
    def masks(self) -> dict[str, Any]:
        """The masks: path below the layer -> boolean variable, `False` is pruned."""
        return {
            kernel.path: self._own(kernel.path, "mask")
            for kernel in self._state.kernels
        }

    @property
    def states(self) -> dict[str, dict[str, Any]]:
        """What the method keeps beside the masks: path -> name -> float32 variable."""
        return {
            kernel.path: {
                name: self._own(kernel.path, name) for name in self._state.kept
            }
            for kernel in self._state.kernels
        }

    @property
    def own_variables(self) -> list[Any]:
        """The masks, and what the method keeps beside them."""
        kept = [v for state in self.states.values() for v in state.values()]
        return [*self.masks.values(), *kept, *self.follower_masks]

    @property
    def followers(self) -> tuple[Kernel, ...]:
        """The biases and batch norm's weights that follow the filters."""
        return self._state.followers

    @property
    def follower_masks(self) -> list[Any]:
        """The masks of the followers: `False` where they are silenced."""
        return [self._own(follower.path, "mask") for follower in self._state.followers]

    @property
    def computed(self) -> list[tuple[Any, tf.Tensor]]:
        """The masked weights, and what the layer computes with in their place."""
        return [(kernel.variable, value) for kernel, value in self._pruned()]

    @property
    def masked_kernels(self) -> dict[str, tf.Tensor]:
        """What the layer computes with: path -> tensor, zero where pruned."""
        return {kernel.path: self._prune(kernel) for kernel in self._state.kernels}

    @property
    def frozen(self) -> bool:
        """Whether the masks never change again."""
        return self._state.frozen

    def set_frozen(self, frozen: bool) -> None:
        """Makes the present masks final, or lets them move again."""
        self._state.frozen = frozen

    def has_settings(self, settings: Settings) -> bool:
        """Tells whether these are, or were when it was made, the wrapper's settings."""
        return settings in (self._state.settings, self._state.asked)

    def watch(self, updater: Any) -> None:
        """Notes that an object is in charge of the masks, as long as it lives."""
        self._state.watchers.add(updater)

    def permit(self, by: Any) -> Any:
        """Permits calls in training, or not if `by` is `None`; returns who did before.

        Args:
            by: the object that has seen to the masks.
        """
        before, self._state.permitted = self._state.permitted, by
        return before

    def check_watched(self, training: Any) -> None:
        """Refuses a call in training while nothing updates the masks."""
        state = self._state
        if state.permitted is not None or state.frozen or state.watchers:
            return
        if training is not True and not isinstance(training, int | np.bool_):
            return  # Not known here: None, or a tensor.
        if not training or self._api.in_construction():
            return
        raise RuntimeError(
            f"The pruned layer '{self.name}' is called in training, but nothing "
            "updates its masks, so that nothing would be pruned. Add "
            "`callbacks=[dpf_tf.PruningCallback()]` to `fit`; in a loop of your own, "
            "make a `dpf_tf.MaskUpdater(model)` and call its `update(step)`; to train "
            "on with the present masks, call `dpf_tf.freeze_masks(model)`."
        )

    def resolve_schedule(
        self, total_steps: int | None, epoch_steps: int | None, anew: bool = False
    ) -> None:
        """Fills in what the schedule leaves to the length of the training.

        Args:
            total_steps: optimizer steps of the training, if they are known.
            epoch_steps: those of an epoch.
            anew: whether they replace those of an earlier training, if there are any.
        """
        schedule = self.settings.schedule
        if anew:
            asked = self._state.asked.schedule
            schedule = schedules.reopened(schedule, asked, total_steps, epoch_steps)
        schedule = schedule.resolve(total_steps, epoch_steps)
        self._state.settings = dataclasses.replace(self.settings, schedule=schedule)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the wrapped layer's output shape."""
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the wrapped layer's symbolic outputs (Keras 3)."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Returns the wrapped layer's mask of padded steps."""
        return self.layer.compute_mask(inputs, mask)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal wrapper, for saving."""
        keras = self._api.module
        config = super().get_config()  # type: ignore[misc]
        config.update(
            pruning_schedule=schedules.serialize(self.settings.schedule, keras),
            allocation=self.settings.allocation,
            structure=structures.serialize(self.settings.structure, keras),
            method=methods.serialize(self.settings.method, keras),
            kernels=self._kernel_paths(),
            followers=list(self._state.asked_followers),
            frozen=self._state.frozen,
        )
        asked = self._state.asked.schedule
        if asked != self.settings.schedule:
            config["asked_schedule"] = schedules.serialize(asked, keras)
        return config

    def _kernel_paths(self) -> list[str] | None:
        if self._state.made:  # By name: what the default chooses may change.
            return [kernel.path for kernel in self._state.kernels]
        return None if self._state.chosen is None else list(self._state.chosen)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Makes a wrapper from `get_config`'s dictionary."""
        config = dict(config)
        for name in config.keys() & {"pruning_schedule", "asked_schedule"}:
            config[name] = schedules.deserialize(
                config[name], cls._api.module, custom_objects
            )
        config["structure"] = structures.deserialize(
            config["structure"], cls._api.module, custom_objects
        )
        config["method"] = methods.deserialize(
            config.get("method", "dpf"), cls._api.module, custom_objects
        )
        if config["layer"].get("registered_name"):
            # tf_keras's wrappers cannot read a layer of one's own in this format.
            config["layer"] = cls._api.module.saving.deserialize_keras_object(
                config["layer"], custom_objects=custom_objects
            )
            return cls(**config)
        return super().from_config(  # type: ignore[misc]
            config, custom_objects=custom_objects
        )

    def __setattr__(self, name: str, value: Any) -> None:
        # What is read from the wrapped layer is written there, too.
        own = "_state" not in vars(self) or name in vars(self) or name.startswith("_")
        if own or hasattr(type(self), name) or not hasattr(self.layer, name):
            super().__setattr__(name, value)
        else:
            setattr(self.layer, name, value)

    def __getattr__(self, name: str) -> Any:
        # Reached only for what the wrapper itself does not have.
        if name.startswith("_") or name == "layer":
            raise AttributeError(name)
        return getattr(self.layer, name)


def _mode(training: Any) -> str:
    """Returns the kind of a call; a layer may use other kernels in training."""
    return "symbolic" if tf.is_tensor(training) else str(bool(training))


@functools.cache
def wrapper_class(api: Any) -> type:
    """Returns the concrete wrapper class of a Keras, registered for its loading."""
    keras = api.module
    name = PruneLowMagnitudeDPF.__name__
    body = {
        "__doc__": PruneLowMagnitudeDPF.__doc__,
        "__module__": __name__,
        "_api": api,
    }
    if api is keras_api.KERAS3:
        # In mixed precision Keras would else cast what we read ourselves, and a float32
        # head inside the wrapped layer would get a rounded kernel.
        body["compute_dtype"] = property(lambda self: self.variable_dtype)
    concrete = type(name, (PruneLowMagnitudeDPF, keras.layers.Wrapper), body)
    return keras.saving.register_keras_serializable(package="dpf_tf")(concrete)


for _api in keras_api.BOTH:  # A saved model is loaded before any layer is wrapped.
    wrapper_class(_api)
