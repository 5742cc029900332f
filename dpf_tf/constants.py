"""What the channels of zero filters hold: constants, carried through the graph.

A filter that is all zero gives its bias at every position, whatever the input. Batch
norm, activations, additions and pooling make other constants of it; none of them may be
forgotten when the filter is. Zero padding adds zeros around it: then the channel holds
its constant times a *profile*, an array over positions (1 inside, 0 in the padding).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from dpf_tf import keras_api
from dpf_tf.kinds import (
    DEPTHWISE,
    FILTERS,
    IDLE,
    MERGES,
    POSITIONS,
    RESHAPES,
    TRANSPOSED,
    fixed,
    is_elementwise,
    is_known,
    mixes,
)
from dpf_tf.trace import Node, operation

UNIFORM = 0  # The number of the profile that is 1 everywhere.

_MERGE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Add": lambda x: x.sum(0),
    "Average": lambda x: x.mean(0),
    "Maximum": lambda x: x.max(0),
    "Minimum": lambda x: x.min(0),
    "Multiply": lambda x: x.prod(0),
    "Subtract": lambda x: x[0] - x[1],
}


@dataclasses.dataclass(frozen=True)
class Constants:
    """The constants of a tensor's channels.

    Attributes:
        values: the constant of each channel, float64; NaN where it depends on the
            model's input.
        profiles: the number of each channel's profile, by which its constant is
            multiplied; `UNIFORM` if it is the same everywhere.
    """

    values: np.ndarray
    profiles: np.ndarray


def constants_of(
    nodes: list[Node], read: Callable[[Any], np.ndarray]
) -> dict[Node, Constants]:
    """Returns the constants that the channels of each node hold at inference.

    Args:
        nodes: a model's graph.
        read: gives the value of a variable.
    """
    propagation = _Propagation(read)
    found: dict[Node, Constants] = {}
    for node in nodes:
        inputs = [found[x] for x in node.inputs]
        found[node] = propagation.through(node, inputs)
    return found


def zero_filters(layer: Any, read: Callable[[Any], np.ndarray]) -> np.ndarray:
    """Tells of each filter of a convolution or dense layer whether it is all zero."""
    kernel = filters_last(layer, read(layer.kernel))
    return np.logical_not(kernel.any(axis=tuple(range(kernel.ndim - 1))))


def filters_last(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel with input and output channels as its last axes, or back."""
    transposed = operation(layer) in TRANSPOSED
    return np.swapaxes(kernel, -2, -1) if transposed else kernel


def sees_padding(layer: Any) -> bool:
    """Tells whether a layer with a kernel may lay it over the zeros of a padding."""
    if operation(layer) == "Dense":
        return False
    if operation(layer) in TRANSPOSED:
        return True  # A position at the border gets less of the kernel.
    return layer.padding != "valid" and math.prod(layer.kernel_size) > 1


class _Propagation:
    def __init__(self, read: Callable[[Any], np.ndarray]) -> None:
        self._read = read
        self._profiles: list[np.ndarray] = [np.ones(())]

    def through(self, node: Node, inputs: list[Constants]) -> Constants:
        """Returns the constants behind a node."""
        layer, size = node.layer, node.shape[-1] if len(node.shape) > 1 else 0
        varying = _uniform(np.full(size or 0, np.nan))
        if layer is None:
            return inputs[0] if inputs else varying
        name = operation(layer)
        if name in FILTERS:
            unknown = fixed(node) or mixes(layer.activation)
            return varying if unknown else _uniform(self._filters(layer))
        if not is_known(node) or not size:
            return varying
        if name in MERGES:
            return self._merged(name, inputs)
        if name == "Concatenate":
            joined = [dataclasses.astuple(x) for x in inputs]
            return Constants(*map(np.concatenate, zip(*joined, strict=True)))
        (given,) = inputs
        if name in IDLE:
            return given
        if name in RESHAPES:
            return self._reshaped(node, given)
        if name in POSITIONS:
            return self._moved(node, given)
        if name in DEPTHWISE:
            return _uniform(self._depthwise(layer, given))
        if name == "BatchNormalization":
            return self._each(lambda x: self._normalized(layer, x), given)
        if name == "PReLU":
            return self._each(lambda x: self._sloped(layer, x), given)
        assert is_elementwise(layer)
        return self._each(lambda x: _call(layer, x, len(node.shape)), given)

    def _filters(self, layer: Any) -> np.ndarray:
        zero = zero_filters(layer, self._read)
        bias = self._read(layer.bias) if layer.use_bias else np.zeros(len(zero))
        return np.where(zero, _call(layer.activation, bias), np.nan)

    def _depthwise(self, layer: Any, given: Constants) -> np.ndarray:
        of_keras3 = keras_api.of(layer) is keras_api.KERAS3
        kernel = self._read(layer.kernel if of_keras3 else layer.depthwise_kernel)
        positions = tuple(range(kernel.ndim - 2))
        values = given.values[:, None] * kernel.sum(positions, np.float64)
        uneven = sees_padding(layer) | (given.profiles != UNIFORM)
        values[uneven & (given.values != 0)] = np.nan
        values[~kernel.any(positions)] = 0
        bias = self._read(layer.bias) if layer.use_bias else 0
        return _call(layer.activation, values.reshape(-1) + bias)

    def _normalized(self, layer: Any, values: np.ndarray) -> np.ndarray:
        mean, variance = map(self._read, (layer.moving_mean, layer.moving_variance))
        scale = 1 / np.sqrt(variance.astype(np.float64) + layer.epsilon)
        values = (values - mean) * scale
        if layer.scale:
            values = values * self._read(layer.gamma)
        return values + self._read(layer.beta) if layer.center else values

    def _sloped(self, layer: Any, values: np.ndarray) -> np.ndarray:
        slopes = self._read(layer.alpha).reshape(-1, len(values))
        even = (slopes == slopes[0]).all(0)  # Over positions.
        below = np.where(even, slopes[0] * values, np.nan)
        return np.where(values < 0, below, values)

    def _merged(self, name: str, inputs: list[Constants]) -> Constants:
        values = _MERGE[name](np.stack([x.values for x in inputs]))
        profiles = np.max([x.profiles for x in inputs], axis=0)
        same = [(x.profiles == profiles) | (x.values == 0) for x in inputs]
        fits = np.all(same, axis=0) & self._is_mask(profiles)
        values = np.where(fits, values, np.nan)
        return _clean(values, profiles)

    def _each(
        self, function: Callable[[np.ndarray], np.ndarray], given: Constants
    ) -> Constants:
        """Applies to each element a function that may differ among channels."""
        values = function(given.values)
        at_zero = function(np.zeros(len(values)))
        uniform = given.profiles == UNIFORM
        # Where the profile is 0, the function gives what it gives for 0.
        masked = self._is_mask(given.profiles) & (at_zero == 0)
        values = np.where(uniform | masked, values, np.nan)
        return _clean(values, given.profiles)

    def _is_mask(self, profiles: np.ndarray) -> np.ndarray:
        """Tells which profiles are of 0 and 1 only."""
        masks = [np.isin(profile, (0, 1)).all() for profile in self._profiles]
        return np.array(masks)[profiles]

    def _reshaped(self, node: Node, given: Constants) -> Constants:
        size = len(given.values)
        times = node.shape[-1] // size
        values = np.tile(given.values, times)
        profiles = np.tile(given.profiles, times)
        for i in np.flatnonzero(profiles != UNIFORM):
            profile = self._profiles[profiles[i]]
            flat = profile.size == times  # Each position becomes a channel.
            values[i] = values[i] * profile.flat[i // size] if flat else np.nan
        return _uniform(values)

    def _moved(self, node: Node, given: Constants) -> Constants:
        """Pools, pads, crops or resizes."""
        layer, values = node.layer, given.values.copy()
        profiles = given.profiles.copy()
        pads = operation(layer).startswith("ZeroPadding")
        largest = "MaxPooling" in operation(layer)
        concerned = (values != 0) & ~np.isnan(values)
        if not pads:
            concerned &= profiles != UNIFORM
        kinds = {
            (p, -1 if largest and v < 0 else 1)
            for p, v in zip(profiles[concerned], values[concerned], strict=True)
        }
        for number, sign in kinds:
            which = concerned & (given.profiles == number)
            if largest:
                which &= np.sign(given.values) == sign
            moved = self._profile_behind(node, number, sign)
            if moved is None:
                values[which] = np.nan
            elif (moved == moved.flat[0]).all():
                values[which] *= moved.flat[0]
                profiles[which] = UNIFORM
            else:
                profiles[which] = self._number(moved)
        return _clean(values, profiles)

    def _profile_behind(self, node: Node, number: int, sign: int) -> np.ndarray | None:
        sizes = node.inputs[0].shape[1:-1]
        if None in sizes:
            return None
        profile = np.broadcast_to(self._profiles[number], sizes)
        tensor = tf.constant(sign * profile[None, ..., None], tf.float32)
        return sign * np.asarray(node.layer(tensor), np.float64)[0, ..., 0]

    def _number(self, profile: np.ndarray) -> int:
        for number, known in enumerate(self._profiles):
            if np.array_equal(known, profile):
                return number
        self._profiles.append(profile)
        return len(self._profiles) - 1


def _uniform(values: np.ndarray) -> Constants:
    return Constants(values, np.full(len(values), UNIFORM))


def _clean(values: np.ndarray, profiles: np.ndarray) -> Constants:
    """Zero, and what is no constant, has no profile."""
    return Constants(
        values, np.where(np.isnan(values) | (values == 0), UNIFORM, profiles)
    )


def _call(function: Any, values: np.ndarray, rank: int = 2) -> np.ndarray:
    """Applies an activation, layer or operation to the constants that there are."""
    if function is None:
        return values
    known = ~np.isnan(values)
    tensor = np.where(known, values, 0).reshape((1,) * (rank - 1) + (-1,))
    result = np.asarray(function(tf.constant(tensor, tf.float32)), np.float64)
    return np.where(known, result.reshape(-1), np.nan)
