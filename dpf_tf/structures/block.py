"""`Block`: rectangles of weights, kept or pruned as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from dpf_tf import prunable
from dpf_tf.arguments import convert, whole
from dpf_tf.keras_api import Kernel
from dpf_tf.structures.structure import Structure
from dpf_tf.structures.units import Arrays, Units


@dataclasses.dataclass(frozen=True)
class Block(Structure):
    """Blocks of `outputs` times `inputs` weights, kept or pruned as one.

    `Block(1, 4)` is four inputs that lie side by side, of one output: TFLite computes
    fast with these in dense layers of float32 (in `int8_full` its blocks are 1x16). By
    default dense layers are pruned so, and nothing else: in convolutions TFLite skips
    no blocks. Ask for other kernels with `layers=`; their blocks run along the input
    channels.

    A block's score is the L2 norm of its weights, divided by the square root of their
    number. The number of blocks that stay is exact: `n - round(sparsity * n)` of a pool
    of `n`. Where a side is no multiple of the block's, the rest of it makes smaller
    blocks; each counts as one, so that the share of zero *weights* can differ a little
    from the target (`sparsity_report` tells it). TFLite runs such a layer dense: its
    converter gets the rest wrong, which `export_tflite` sees.

    Args:
        outputs: outputs of a block.
        inputs: inputs of a block.

    Raises:
        TypeError: if one is no whole number.
        ValueError: if one is below 1, or both are 1.

    Example:

        >>> import dpf_tf
        >>> import keras
        >>> layer = keras.layers.Dense(8, use_bias=False)
        >>> layer.build((None, 16))
        >>> pruned = dpf_tf.prune_low_magnitude_dpf(
        ...     layer, dpf_tf.ConstantSparsity(0.75), structure=dpf_tf.Block(1, 4)
        ... )
        >>> dpf_tf.MaskUpdater(pruned).update(0).sparsity
        0.75
        >>> mask = dpf_tf.get_masks(pruned)["dense/kernel"]  # (inputs, outputs)
        >>> bool((mask.reshape(4, 4, 8).all(1) == mask.reshape(4, 4, 8).any(1)).all())
        True

    References:
        Gray, Radford, Kingma, "GPU Kernels for Block-Sparse Weights", 2017.
    """

    name: ClassVar[str] = "blocks"
    allocations: ClassVar[tuple[str, ...]] = ("global", "global_normalized", "uniform")
    takes_unseen: ClassVar[bool] = False

    outputs: int
    inputs: int

    def __post_init__(self) -> None:
        convert(self, "outputs", whole, least=1)
        convert(self, "inputs", whole, least=1)
        if self.outputs * self.inputs == 1:
            raise ValueError(
                "A block of 1x1 is a single weight: use structure='unstructured'."
            )

    def refusal(self, kernel: Kernel) -> str | None:
        """Refuses kernels in which no input lies beside another."""
        return no_inputs(kernel)

    def default_reason(self, kernel: Kernel) -> str | None:
        """Leaves all but dense layers as they are."""
        if prunable.class_of(kernel.owner) == "Dense":
            return None
        return self.refusal(kernel) or "blocks are faster in dense layers alone"

    def units(
        self, paths: Sequence[str], kernels: Sequence[Kernel], ties: Any
    ) -> Units:
        """Returns the blocks."""
        return _Blocks(paths, kernels, (self.outputs, self.inputs))


class _Blocks(Units):
    def __init__(
        self, paths: Sequence[str], kernels: Sequence[Kernel], sides: tuple[int, int]
    ) -> None:
        super().__init__(paths, kernels)
        self._kernels = self.shapes
        self._cuts = [
            {
                axis: np.arange(0, shape[axis], side)
                for axis, side in zip(_axes(kernel), sides, strict=True)
                if side > 1
            }
            for kernel, shape in zip(kernels, self.shapes, strict=True)
        ]
        self.shapes = [
            tuple(len(cut[i]) if i in cut else n for i, n in enumerate(shape))
            for shape, cut in zip(self.shapes, self._cuts, strict=True)
        ]
        ones = [np.ones(shape) for shape in self._kernels]
        self._sizes = self._sums(ones)

    def scores(self, weights: Sequence[Any]) -> Arrays:
        squares = [np.square(np.asarray(x), dtype=np.float64) for x in weights]
        return [
            np.sqrt(total / size).astype(np.float32)
            for total, size in zip(self._sums(squares), self._sizes, strict=True)
        ]

    def masks(self, chosen: Arrays, before: Arrays) -> Arrays:
        masks = []
        for mask, cut, shape in zip(chosen, self._cuts, self._kernels, strict=True):
            for axis, starts in cut.items():
                mask = np.repeat(mask, np.diff(starts, append=shape[axis]), axis)
            masks.append(mask)
        return masks

    def kept(self, masks: Arrays) -> int:
        counts = self._sums([mask.astype(np.float32) for mask in masks])
        return sum(int(np.count_nonzero(count)) for count in counts)

    def _sums(self, arrays: Arrays) -> Arrays:
        sums = []
        for array, cut in zip(arrays, self._cuts, strict=True):
            for axis, starts in cut.items():
                array = np.add.reduceat(array, starts, axis)
            sums.append(array)
        return sums


def _axes(kernel: Kernel) -> tuple[int, int]:
    """Returns the axes of a kernel's outputs and of its inputs."""
    axis = prunable.input_axis(kernel)
    assert axis is not None
    return prunable.filter_axes(kernel)[-1], axis


def no_inputs(kernel: Kernel) -> str | None:
    """Returns that a kernel has no axis of inputs, if it has none."""
    if prunable.input_axis(kernel) is None:
        return f"{kernel.kind} without input channels"
    if not prunable.filter_axes(kernel):
        return f"{kernel.kind} without output channels"
    return None
