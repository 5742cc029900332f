"""What is left of each layer when a model's zero filters go; nothing is built here.

A unit of channels goes if all its filters are zero, and every place of the graph where
its channels are holds a constant. What the constants add to the next layer goes into
its bias, or into the mean of the batch norm behind it. Where a padding surrounds the
constant, the border gets less of it: then one of the channels stays, the *carrier*,
and its kernel takes over what all of them add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dpf_tf import keras_api
from dpf_tf.carriers import SMALLEST_SHARE, fewest
from dpf_tf.channels import Channels, trace_channels
from dpf_tf.constants import (
    UNIFORM,
    Constants,
    constants_of,
    filters_last,
    sees_padding,
    zero_filters,
)
from dpf_tf.kinds import DEPTHWISE, FILTERS, is_linear, is_sliced
from dpf_tf.trace import Node, operation


class Stuck(NamedTuple):
    """Zero filters that have to stay.

    Attributes:
        path: path of their layer.
        filters: how many they are.
        reason: why they stay.
    """

    path: str
    filters: int
    reason: str


class Plan:
    """The shrunken model's layers, before it is made.

    Args:
        model: a functional or sequential model of either Keras, built, pruned or not.
        values: by `id(variable)`, values to be taken instead of those of the variables:
            masked kernels, for instance.

    Attributes:
        channels: the units of the model's channels.
        gone: of each unit, whether it is taken away.
        inputs: by the id of a layer with variables for each channel, the channels of
            its input that are left: sorted indices.
        outputs: the same of its output.
        stuck: the zero filters that have to stay, carriers excepted.
        has_zero_filters: whether there is a zero filter at all.
    """

    def __init__(
        self, model: Any, values: Mapping[int, np.ndarray] | None = None
    ) -> None:
        self.channels: Channels = trace_channels(model)
        self._values = values or {}
        self._nodes = self.channels.nodes
        self._places = self.channels.places
        self._constants = constants_of(self._nodes, self._read)
        self._calls: dict[int, list[Node]] = {}
        for node in self._nodes:
            if node.layer is not None:
                self._calls.setdefault(id(node.layer), []).append(node)
        self._with_filters = [
            calls[0]
            for calls in self._calls.values()
            if operation(calls[0].layer) in FILTERS
        ]
        self._zero = {
            id(node.layer): zero_filters(node.layer, self._read)
            for node in self._with_filters
        }
        self.has_zero_filters = any(zero.any() for zero in self._zero.values())
        self._reasons = dict(self.channels.kept)
        self.gone = self._dead()
        self._same_at_every_call()
        stays_by_design = self.gone.copy()
        self._choose_carriers()
        self._leave_one_filter()
        stays_by_design &= ~self.gone
        self.stuck = self._stuck(stays_by_design)
        self.inputs: dict[int, np.ndarray] = {}
        self.outputs: dict[int, np.ndarray] = {}
        for key, (node, *_) in self._calls.items():
            if is_sliced(node):
                self.inputs[key] = self._left(node.inputs[0])
                self.outputs[key] = self._left(node)
        self._added: dict[int, np.ndarray] = {}  # To a bias, ...
        self._mean_added: dict[int, np.ndarray] = {}  # ... or to a batch norm's input.
        for node in self._with_filters:
            self._absorb(node)

    def changes(self, node: Node) -> bool:
        """Tells whether a node's layer becomes another one."""
        loses = any(self.gone[self._places[x]].any() for x in (node, *node.inputs))
        return loses or id(node.layer) in self._mean_added

    def config(self, layer: Any) -> dict[str, Any]:
        """Returns those entries of a layer's config that become others."""
        key, name = id(layer), operation(layer)
        if name in FILTERS:
            size = {"units" if name == "Dense" else "filters": len(self.outputs[key])}
            return {**size, "use_bias": layer.use_bias or key in self._added}
        if name == "Reshape" and layer.target_shape[-1] != -1:
            left = len(self._left(self._calls[key][0]))
            return {"target_shape": (*layer.target_shape[:-1], left)}
        return {}

    def weights(self, layer: Any) -> dict[str, np.ndarray]:
        """Returns what a layer's variables become, by the attribute that holds them.

        Empty for layers that have no variables for each channel.
        """
        key, name = id(layer), operation(layer)
        if key not in self.outputs:
            return {}
        inputs, outputs = self.inputs[key], self.outputs[key]
        if name in FILTERS:
            kernel = self._carried(self._calls[key][0])[..., inputs, :][..., outputs]
            found = {"kernel": filters_last(layer, kernel)}
            if layer.use_bias or key in self._added:
                bias = self._read(layer.bias) if layer.use_bias else 0
                found["bias"] = np.asarray(bias + self._added.get(key, 0))[outputs]
            return found
        if name in DEPTHWISE:
            of_keras3 = keras_api.of(layer) is keras_api.KERAS3
            attribute = "kernel" if of_keras3 else "depthwise_kernel"
            found = {attribute: self._read(getattr(layer, attribute))[..., inputs, :]}
            if layer.use_bias:
                found["bias"] = self._read(layer.bias)[outputs]
            return found
        if name == "PReLU":
            return {"alpha": self._read(layer.alpha)[..., outputs]}
        found = {}
        for attribute in ("gamma", "beta", "moving_mean", "moving_variance"):
            variable = getattr(layer, attribute, None)
            if variable is not None:
                found[attribute] = self._read(variable)[outputs]
        if key in self._mean_added:
            moved = found["moving_mean"] - self._mean_added[key][outputs]
            found["moving_mean"] = moved
        return found

    def _read(self, variable: Any) -> np.ndarray:
        value = self._values.get(id(variable))
        value = np.asarray(variable.numpy() if value is None else value)
        return value.astype(np.float64) if value.ndim == 1 else value

    def _left(self, node: Node) -> np.ndarray:
        return np.flatnonzero(~self.gone[self._places[node]])

    # --- Which units go -------------------------------------------------------------

    def _dead(self) -> np.ndarray:
        """Tells the units of zero filters that are constant wherever they are."""
        places = self._places.values()
        count = 1 + max(int(x.max(initial=-1)) for x in places)
        dead, alive = np.zeros(count, bool), np.zeros(count, bool)
        for node in self._with_filters:
            units = self.channels.units[id(node.layer)]
            zero = self._zero[id(node.layer)]
            dead[units[zero]] = True
            alive[units[~zero]] = True
        dead &= ~alive
        dead[list(self.channels.kept)] = False
        for node in self._nodes:
            varying = np.isnan(self._constants[node].values)
            self._spare(
                dead, self._places[node][varying], f"not constant behind {node}"
            )
        return dead

    def _spare(self, dead: np.ndarray, units: np.ndarray, reason: str) -> None:
        for unit in np.unique(units[dead[units]]).tolist():
            self._reasons[unit] = reason
            dead[unit] = False

    def _same_at_every_call(self) -> None:
        """Keeps units that a shared layer finds with several constants."""
        for node in self._with_filters:
            different = ~self._shared_constants(node)
            units = self._places[node.inputs[0]][different]
            self._spare(self.gone, units, f"other constants at each call of {node}")

    def _shared_constants(self, node: Node) -> np.ndarray:
        """Tells which of a layer's input channels are constant, alike in all calls."""
        first = self._entering(node)
        same = ~np.isnan(first.values)
        for call in self._calls[id(node.layer)][1:]:
            other = self._entering(call)
            same &= other.values == first.values
            same &= other.profiles == first.profiles
        return same

    def _entering(self, node: Node) -> Constants:
        return self._constants[node.inputs[0]]

    def _groups(self, node: Node) -> list[tuple[int, np.ndarray]]:
        """Returns, by profile, the channels that go and whose constant a layer uses."""
        given = self._entering(node)
        lost = self.gone[self._places[node.inputs[0]]] & (given.values != 0)
        if not lost.any():
            return []
        kernel = filters_last(node.layer, self._read(node.layer.kernel))
        lost[lost] = kernel[..., lost, :].any((*range(kernel.ndim - 2), -1))
        return [
            (number, np.flatnonzero(lost & (given.profiles == number)))
            for number in np.unique(given.profiles[lost]).tolist()
        ]

    def _choose_carriers(self) -> None:
        """Lets a few units stay, so that each group that needs one has a carrier."""
        needs: list[dict[int, float]] = []  # Of each group: unit -> its share.
        for node in self._with_filters:
            given, places = self._entering(node), self._places[node.inputs[0]]
            for number, lost in self._groups(node):
                if number == UNIFORM and not sees_padding(node.layer):
                    continue
                fits = self._shared_constants(node) & (given.profiles == number)
                size = np.abs(given.values) / np.abs(given.values[lost]).max()
                shares: dict[int, float] = {}
                for i in np.flatnonzero(fits & (size > SMALLEST_SHARE)).tolist():
                    unit = int(places[i])
                    shares[unit] = max(size[i], shares.get(unit, 0))
                if self.gone[list(shares)].all():  # Otherwise one is there anyway.
                    needs.append(shares)
        self.gone[fewest(needs)] = False

    def _leave_one_filter(self) -> None:
        for units in self.channels.units.values():
            if self.gone[units].all():
                self.gone[units[0]] = False

    def _stuck(self, stays_by_design: np.ndarray) -> list[Stuck]:
        found: dict[tuple[str, str], int] = {}
        for node in self._with_filters:
            units = self.channels.units[id(node.layer)]
            units = units[self._zero[id(node.layer)]]
            units = units[~(self.gone | stays_by_design)[units]]
            for unit in units.tolist():
                tied = "tied to filters that are not zero"
                key = node.path, self._reasons.get(unit, tied)
                found[key] = found.get(key, 0) + 1
        return [Stuck(path, n, reason) for (path, reason), n in found.items()]

    # --- What the constants add -----------------------------------------------------

    def _absorb(self, node: Node) -> None:
        """Notes what a layer's lost inputs added to its outputs at every position."""
        layer, given = node.layer, self._entering(node)
        if sees_padding(layer):
            return
        for number, lost in self._groups(node):
            if number != UNIFORM:
                continue
            kernel = filters_last(layer, self._read(layer.kernel))[..., lost, :]
            kernel = kernel.sum(tuple(range(kernel.ndim - 2)), np.float64)
            norm = None if layer.use_bias else self._batch_norm_behind(node)
            target = self._added if norm is None else self._mean_added
            target[id(layer if norm is None else norm)] = given.values[lost] @ kernel

    def _batch_norm_behind(self, node: Node) -> Any:
        """Returns the batch norm that alone takes a layer's output, if there is one."""
        consumers = [x for x in self._nodes if node in x.inputs]
        if node.is_output or len(consumers) != 1:
            return None
        norm = consumers[0].layer
        if operation(norm) != "BatchNormalization" or id(norm) not in self.outputs:
            return None
        once = all(len(self._calls[id(x)]) == 1 for x in (node.layer, norm))
        return norm if is_linear(node.layer) and once else None

    def _carried(self, node: Node) -> np.ndarray:
        """Returns a layer's kernel, filters last, that its carriers have taken over."""
        layer, given = node.layer, self._entering(node)
        kernel = filters_last(layer, self._read(layer.kernel))
        left = ~self.gone[self._places[node.inputs[0]]] & self._shared_constants(node)
        for number, lost in self._groups(node):
            if number == UNIFORM and not sees_padding(layer):
                continue
            fits = np.flatnonzero(left & (given.profiles == number))
            carrier = fits[np.argmax(np.abs(given.values[fits]))]
            ratios = given.values[lost] / given.values[carrier]
            kernel = kernel.astype(np.float64)
            kernel[..., carrier, :] += np.einsum(
                "...io,i->...o", kernel[..., lost, :], ratios
            )
        return kernel


def plan(model: Any, values: Mapping[int, np.ndarray] | None = None) -> Plan:
    """Returns what would be left of a model's layers; see `Plan`."""
    return Plan(model, values)


def shapes(plan: Plan) -> dict[int, dict[str, tuple[int, ...]]]:
    """Returns what the variables' shapes become of layers with variables for channels.

    Returns:
        By `id(layer)`, without its pruning wrapper: attribute -> shape.
    """
    layers = {id(x.layer): x.layer for x in plan.channels.nodes}
    return {
        key: {name: array.shape for name, array in plan.weights(layers[key]).items()}
        for key in plan.outputs
    }
