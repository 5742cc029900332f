"""`Filters`: whole output filters, with all that goes along with a channel."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from dpf_tf import prunable
from dpf_tf.arguments import convert, flag
from dpf_tf.keras_api import Kernel
from dpf_tf.structures.filter_units import FilterUnits
from dpf_tf.structures.structure import Structure
from dpf_tf.structures.units import Units

NORMS = ("l2", "l1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters(Structure):
    """Output filters of convolutions and units of dense layers, kept or pruned whole.

    `dpf_tf.shrink` then takes the pruned ones out of the model, which asks nothing of
    the runtime. Filters that make the same channel are one unit: those of layers whose
    outputs are added or multiplied, and the depthwise filter behind them. A unit's
    score is the L2 norm of all its weights, divided by the square root of their number,
    so that a large filter has no advantage. The number of units that stay is exact:
    `n - round(sparsity * n)` of a pool of `n`, at least one of each layer. (The share
    of zero *weights* differs from it: `sparsity_report` tells both.)

    The ties are found from the graph of a functional or sequential model. What cannot
    go stays: the channels of the model's outputs, and those that enter a layer that
    mixes or fixes them, such as layer normalization; `sparsity_report` tells why. In a
    subclassed model, and in layers that are wrapped by themselves, each filter is a
    unit of its own, which `shrink` cannot take out.

    While the masks move, only kernels are masked, as in the paper: through its bias and
    batch norm a pruned filter still gives a constant, without which no gradient would
    come back to it. Once the masks are at rest (in the part that `PruningCallback`
    settles, or after `freeze_masks`) the channel is silenced.

    If `allocation` is left out, each layer loses the same share. Ranked all together
    (`"global"`) the filters of wide layers go first, for their weights are small: that
    saves less, and may leave next to nothing of a layer.

    (Of a dict of patterns, the first that is found in any path of tied kernels counts.)

    Args:
        keep_residual: keeps the channels that pass through an addition, so that only
            the inner filters of residual blocks are pruned.
        silent: whether bias and batch norm of pruned filters are masked too, once the
            masks are at rest, so that their channels are exactly zero. Otherwise
            `shrink` keeps what their constants add to the next layers; where those pad
            their input, a channel has to stay for it.
        norm: `"l2"`, or `"l1"`: the mean magnitude in place of the root of the mean
            square.

    Raises:
        TypeError: if `keep_residual` or `silent` is no bool.
        ValueError: if `norm` is unknown.

    Example:

        >>> import dpf_tf
        >>> import keras
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3)),
        ...     keras.layers.Conv2D(16, 3, name="conv"),
        ...     keras.layers.GlobalAveragePooling2D(),
        ...     keras.layers.Dense(2, name="logits"),
        ... ])
        >>> pruned = dpf_tf.prune_low_magnitude_dpf(
        ...     model, dpf_tf.ConstantSparsity(0.5), structure=dpf_tf.Filters()
        ... )
        >>> _ = dpf_tf.MaskUpdater(pruned).update(0)
        >>> mask = dpf_tf.get_masks(pruned)["conv/kernel"]
        >>> int(mask.all((0, 1, 2)).sum()), int(mask.any((0, 1, 2)).sum())
        (8, 8)

    References:
        Lin et al., "Dynamic Model Pruning with Feedback", ICLR 2020, section 5, prune
        filters, too; how they score them is not said. `norm="l1"`: Li et al., "Pruning
        Filters for Efficient ConvNets", ICLR 2017, section 3.1.
    """

    name: ClassVar[str] = "filters"
    allocation: ClassVar[str | None] = "uniform"
    allocations: ClassVar[tuple[str, ...]] = ("global", "global_normalized", "uniform")
    takes_unseen: ClassVar[bool] = False

    keep_residual: bool = False
    silent: bool = True
    norm: str = "l2"

    def __post_init__(self) -> None:
        convert(self, "keep_residual", flag)
        convert(self, "silent", flag)
        if self.norm not in NORMS:
            raise ValueError(
                f"`norm` of Filters must be one of {', '.join(map(repr, NORMS))}. "
                f"Received: {self.norm!r}"
            )

    def refusal(self, kernel: Kernel) -> str | None:
        """Refuses kernels whose outputs are no channels of their own."""
        name = prunable.class_of(kernel.owner) or ""
        if name == "Dense" or re.fullmatch(r"(Depthwise)?Conv\dD(Transpose)?", name):
            return None
        return "has no filters that can be pruned by themselves"

    @property
    def followers(self) -> tuple[str, ...]:
        """The bias, if filters are to be silent."""
        return ("bias",) if self.silent else ()

    def units(
        self, paths: Sequence[str], kernels: Sequence[Kernel], ties: Any
    ) -> Units:
        """Returns the units, made of filters that are tied."""
        return FilterUnits(paths, kernels, ties(self.keep_residual), self.norm)
