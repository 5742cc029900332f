"""`Structure`: what is pruned as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from dpf_tf.config import Configured
from dpf_tf.keras_api import Kernel
from dpf_tf.structures.units import Units


@dataclasses.dataclass(frozen=True)
class Structure(Configured):
    """Single weights: what the other structures derive from.

    Attributes:
        name: what messages call it.
        allocation: how the sparsity is shared where the user does not say; `None`
            leaves it to the method.
        allocations: the names of the allocations that are defined for it.
        patterns: whether sparsities by pattern are.
        takes_unseen: whether a layer that makes its kernels when it is first called is
            pruned by default.
    """

    name: ClassVar[str] = "single weights"
    allocation: ClassVar[str | None] = None
    allocations: ClassVar[tuple[str, ...]] = (
        "global",
        "global_normalized",
        "uniform",
        "erk",
    )
    patterns: ClassVar[bool] = True
    takes_unseen: ClassVar[bool] = True

    def check(self, method: Any, schedule: Any, allocation: Any) -> None:
        """Raises ValueError if these are not defined for the structure."""
        if method.only_for not in (None, self.name):
            raise ValueError(
                f"{type(method).__name__} is defined for {method.only_for}, not for "
                f"{self.name}. Use another method, such as 'dpf' or 'gmp', or leave "
                "`structure` out."
            )
        named = isinstance(allocation, str)
        if not (allocation in self.allocations if named else self.patterns):
            raise ValueError(
                f"allocation={allocation!r} is not defined for {self.name}. "
                f"Use one of {', '.join(map(repr, self.allocations))}."
            )

    def refusal(self, kernel: Kernel) -> str | None:
        """Returns why a kernel has no such units; `None` if it has."""
        return None

    def default_reason(self, kernel: Kernel) -> str | None:
        """Returns why a kernel stays dense by default; `None` if it is pruned."""
        return self.refusal(kernel)

    def units(
        self, paths: Sequence[str], kernels: Sequence[Kernel], ties: Any
    ) -> Units:
        """Returns the units of kernels that share their settings.

        Args:
            paths: the kernels' paths through the model.
            kernels: the kernels.
            ties: returns how the model's filters hang together.
        """
        return Units(paths, kernels)

    @property
    def followers(self) -> tuple[str, ...]:
        """What of a layer is masked, too, where all of a filter's weights are."""
        return ()
