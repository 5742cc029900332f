"""The chain of operators that XNNPACK may run sparse: its members and their flaws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dpf_tf.export import rules
from dpf_tf.export.operators import Operator
from dpf_tf.export.rules import Misfit

_CONVOLUTIONS = ("conv", "depthwise")
_CONSUMER = (
    "Let nothing but the chain use what is inside it; take other outputs from behind "
    "the pooling."
)
_POOLING = "End in GlobalAveragePooling2D."
_HEAD = (
    "At the end, set keepdims=False in the pooling, or put Flatten right behind it, "
    "and Dense in place of 1x1 convolutions; inside, put a 1x1 convolution there."
)


class Chain:
    """What lies between the first convolution and the last global average pooling.

    Attributes:
        members: the operators in order, those included that do not fit.
    """

    def __init__(self, operators: list[Operator]) -> None:
        behind_pooling: set[Operator] = set()
        convolved: set[Operator] = set()
        first: set[Operator] = set()
        for x in operators:
            if x.kind == "pool" or behind_pooling.intersection(x.inputs):
                behind_pooling.add(x)
            if convolved.intersection(x.inputs):
                convolved.add(x)
            elif x.kind in _CONVOLUTIONS:
                convolved.add(x)
                first.add(x)
        self._to_pooling: set[Operator] = set()
        for x in reversed(operators):
            if x.kind == "pool" or self._to_pooling.intersection(x.consumers):
                self._to_pooling.add(x)
        # Convolutions that lead to no pooling are members, but for a classifier's.
        classifier = behind_pooling - self._to_pooling
        ends = {"pool", *_CONVOLUTIONS}
        waiting = [x for x in operators if x.kind in ends and x not in classifier]
        self._misfits: dict[Operator, Misfit | None] = {}
        while waiting:
            x = waiting.pop()
            if x.kind != "input" and x not in self._misfits:
                self._misfits[x] = rules.misfit(x, x in first)
                if x not in first and not rules.is_stem(x):
                    waiting += x.inputs
        self.members = [x for x in operators if x in self._misfits]
        # From the first convolution up to where something is amiss.
        self._sound: set[Operator] = set()
        for x in self.members:
            begun = rules.is_stem(x) or self._sound.issuperset(x.inputs)
            if begun and self._misfits[x] is None:
                self._sound.add(x)

    def findings(self) -> list[dict[str, Any]]:
        """Returns path, level, rule, reason and mend of all that is amiss."""
        # XNNPACK changes the layout of the sound part, though it breaks off, if there
        # is any pooling behind an operator that fits.
        acts = any(
            x.kind == "pool" and self._misfits.get(x.inputs[0], x) is None
            for x in self.members
        )
        return [
            {"path": x.path, "level": "error" if sound and acts else "unfit"}
            | flaw._asdict()
            for x, flaw, sound in self._flaws()
        ]

    def _flaws(self) -> Iterator[tuple[Operator, Misfit, bool]]:
        """Yields operator, what is amiss, and whether the chain is sound up to it."""
        for x in self.members:
            misfit = self._misfits[x]
            reached = not self._sound.isdisjoint(x.inputs)
            if misfit is not None:
                if not any(y.path == x.path and self._misfits[y] for y in x.inputs):
                    yield x, misfit, reached  # Once for a layer and its activation.
            elif any(y.kind == "input" for y in x.inputs) and not rules.is_stem(x):
                reason = "It works on the model's input: no convolution comes before."
                yield x, Misfit("stem", reason, rules.STEM), reached
            elif x.kind == "pool":
                yield from self._flaws_behind(x)
            else:
                yield from self._leaks(x)

    def _leaks(self, x: Operator) -> Iterator[tuple[Operator, Misfit, bool]]:
        users = [f"'{y.path}'" for y in x.consumers if y not in self._misfits]
        if x.is_output:
            users.append("an output of the model")
        if users and x in self._to_pooling:
            reason = f"Its output is used outside the chain, too: {', '.join(users)}."
            yield x, Misfit("consumer", reason, _CONSUMER), x in self._sound
        elif users:
            reason = "Its output goes on without global average pooling."
            yield x, Misfit("pooling", reason, _POOLING), x in self._sound

    def _flaws_behind(self, pool: Operator) -> Iterator[tuple[Operator, Misfit, bool]]:
        if len(pool.shape) != 4:
            return
        sound = pool in self._sound
        if pool.is_output:
            reason = "With keepdims=True, its output is the model's."
            yield pool, Misfit("head", reason, _HEAD), sound
        for x in pool.consumers:
            flattens = x.kind == "reshape" and len(x.shape) < 4
            excites = x in self._to_pooling and rules.is_pointwise(x)
            if not (flattens or excites):
                reason = (
                    f"{x.name} behind the pooling works on the image of one pixel that "
                    "keepdims=True leaves. Sparse kernels may not load there once the "
                    "rest fits."
                )
                yield x, Misfit("head", reason, _HEAD), sound
