"""`SFP`: soft filter pruning, whose pruned filters start anew from zero."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from dpf_tf.methods.method import Method
from dpf_tf.schedules import ConstantSparsity


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFP(Method):
    """Soft filter pruning: once an epoch the smallest filters are set to zero.

    The first epoch is dense; after it, and after each that follows, every layer's
    filters of smallest L2 norm are pruned, the same share in all layers, without a
    ramp. They are *set* to zero and go on training: the gradient is not masked, so
    that a filter can come back, but its value before is lost. That is the difference to
    DPF. Momentum stays as it is. (The authors' program prunes before the first epoch,
    too: `ConstantSparsity(0.3, frequency="epoch")`.)

    Here, as in all schemes, the layers compute with the pruned kernels. The authors
    compute with what the pruned filters have become, up to the next pruning, so that
    their network is sparse only right after one. So the gradient of pruned filters has
    to be bounded here, as in `DPF`. They rank each layer's filters by themselves, and
    leave the projections of shortcuts dense; here filters that are tied are ranked, and
    go, as one (`dpf_tf.Filters`), those of projections with them.

    Example:

        >>> import dpf_tf
        >>> dpf_tf.methods.SFP().schedule(0.3)  # doctest: +NORMALIZE_WHITESPACE
        ConstantSparsity(target_sparsity=0.3, begin_step='epoch', end_step=-1,
                         frequency='epoch')

    References:
        He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural
        Networks", IJCAI 2018, algorithm 1.
    """

    allocation: ClassVar[str] = "uniform"
    structure: ClassVar[str] = "filters"
    only_for: ClassVar[str | None] = "filters"
    restarts: ClassVar[frozenset[str]] = frozenset({"pruned_weights"})
    bounded: ClassVar[bool] = True

    def schedule(self, target: float) -> Any:
        """Returns one sparsity from the first epoch's end on, and updates once each."""
        return ConstantSparsity(target, begin_step="epoch", frequency="epoch")
