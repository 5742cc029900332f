"""What a TFLite file holds: its operators, and its weights with their zeros.

    contents = read(file)

Then `contents.operators["CONV_2D"]` is a number, and `contents.weights[0].zeros`.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from typing import Any

import numpy as np

# How the constants are stored that may be weights.
_TYPES = {"FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8}
# They hand a constant on, unpacked.
_UNPACK = {"DENSIFY", "DEQUANTIZE"}


@dataclasses.dataclass(frozen=True)
class Weights:
    """A constant tensor of float or 8-bit numbers.

    Attributes:
        name: as the converter calls it, after the model's layer.
        shape: as TFLite stores it.
        type: `"FLOAT32"`, `"FLOAT16"` or `"INT8"`.
        operators: what computes with it.
        size: number of weights.
        zeros: those that are zero, stored or not.
        encoding: `"dense"`, `"sparse"`, or `"sparse 1x4 blocks"` and the like.
        stored_bytes: what the numbers take, and where they stand, if that is told.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    operators: tuple[str, ...]
    size: int
    zeros: int
    encoding: str
    stored_bytes: int

    @property
    def bits(self) -> int:
        """Bits of one weight."""
        return np.dtype(_TYPES[self.type]).itemsize * 8

    @property
    def is_sparse(self) -> bool:
        """Whether only what is not zero is stored."""
        return self.encoding != "dense"

    @property
    def bound_bytes(self) -> float:
        """The fewest bytes that hold the kept weights, and which ones they are."""
        kept = self.size - self.zeros
        choices = (
            math.lgamma(self.size + 1)
            - math.lgamma(kept + 1)
            - math.lgamma(self.zeros + 1)
        ) / math.log(2)
        return (kept * self.bits + choices) / 8

    def describe(self) -> dict[str, Any]:
        """Returns plain values, as a report holds them."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "type": self.type,
            "operators": list(self.operators),
            "weights": self.size,
            "zeros": self.zeros,
            "encoding": self.encoding,
            "bytes": self.stored_bytes,
        }


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        operators: how often each occurs.
        weights: the constants of float and 8-bit numbers, each once.
        other_bytes: what the other constants take: shapes, axes, 32-bit biases.
        state: tensors that keep their values from call to call.
    """

    operators: collections.Counter[str]
    weights: list[Weights]
    other_bytes: int
    state: list[str]

    @property
    def sparse(self) -> list[Weights]:
        """The weights of which only what is not zero is stored."""
        return [weights for weights in self.weights if weights.is_sparse]

    @property
    def kernels(self) -> list[Weights]:
        """The weights that are more than a row of numbers."""
        return [weights for weights in self.weights if len(weights.shape) > 1]

    @property
    def bound_bytes(self) -> int:
        """The fewest bytes for all constants, see `Weights.bound_bytes`."""
        bound = sum(w.bound_bytes for w in self.weights) + self.other_bytes
        return max(1, math.ceil(bound))


@functools.cache
def _names(enumeration: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    members = vars(getattr(schema, enumeration)).items()
    return {value: name for name, value in members if isinstance(value, int)}


def read(file: bytes | bytearray) -> Contents:
    """Parses a file."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(file, 0)
    operators: collections.Counter[str] = collections.Counter()
    weights: list[Weights] = []
    state: list[str] = []
    other, seen = 0, set()
    for graph in model.subgraphs:
        users = _users(model, graph)
        for found in users.values():
            found.sort()
        operators.update(_operator(model, op) for op in graph.operators)
        state += [t.name.decode() for t in graph.tensors if t.isVariable]
        for index, tensor in enumerate(graph.tensors):
            data = model.buffers[tensor.buffer].data
            if data is None or tensor.buffer in seen or isinstance(data, list):
                continue  # Not a constant, or an empty one.
            seen.add(tensor.buffer)
            dtype = _TYPES.get(_names("TensorType")[tensor.type])
            if dtype is None:
                other += len(data)
            else:
                values = np.asarray(data, np.uint8).view(dtype)
                weights.append(_weights(tensor, values, users[index]))
    return Contents(operators, weights, other, state)


def _operator(model: Any, op: Any) -> str:
    code = model.operatorCodes[op.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # The older field is
    return _names("BuiltinOperator")[number]  # one byte, and full above 127.


def _users(model: Any, graph: Any) -> dict[int, list[str]]:
    """Returns, for each tensor, the operators that compute with it, unpacked or not."""
    users: dict[int, list[str]] = collections.defaultdict(list)
    for op in reversed(graph.operators):  # In the order of execution: users come first.
        name = _operator(model, op)
        for tensor in op.inputs:
            if name in _UNPACK:
                users[int(tensor)].extend(users[int(op.outputs[0])])
            else:
                users[int(tensor)].append(name)
    return users


def _weights(tensor: Any, values: np.ndarray, users: list[str]) -> Weights:
    shape = tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ()))
    size = math.prod(shape)
    kept = int(np.count_nonzero(values))
    if not tensor.sparsity and values.dtype == np.int8:
        kept = _kept_int8(tensor, values.reshape(shape))
    return Weights(
        name=_name(tensor.name.decode()),
        shape=shape,
        type=_names("TensorType")[tensor.type],
        operators=tuple(users),
        size=size,
        zeros=size - kept,
        encoding=_encoding(tensor.sparsity, len(shape)),
        stored_bytes=values.nbytes + _index_bytes(tensor.sparsity),
    )


def _name(name: str) -> str:
    """Returns the name of the product, of all that the converter has fused with it."""
    parts = name.split(";")
    products = [part for part in parts if "MatMul" in part or "conv" in part.lower()]
    return (products or parts)[-1]


def _kept_int8(tensor: Any, values: np.ndarray) -> int:
    """Counts what is not zero: zero is where the scale has its zero point."""
    quantization = tensor.quantization
    points = getattr(quantization, "zeroPoint", None)
    if points is None or not np.any(points):
        return int(np.count_nonzero(values))
    points = np.asarray(points)
    if len(points) > 1:
        axes = [1] * values.ndim
        axes[quantization.quantizedDimension] = len(points)
        points = points.reshape(axes)
    return int(np.count_nonzero(values != points))


def _encoding(sparsity: Any, rank: int) -> str:
    if not sparsity:
        return "dense"
    blocks = [1] * rank
    for axis, dimension in zip(
        _list(sparsity.blockMap), sparsity.dimMetadata[rank:], strict=True
    ):
        blocks[axis] = dimension.denseSize
    if max(blocks) == 1:
        return "sparse"
    return f"sparse {'x'.join(map(str, blocks))} blocks"


def _index_bytes(sparsity: Any) -> int:
    if not sparsity:
        return 0
    vectors = [
        vector.values
        for dimension in sparsity.dimMetadata
        for vector in (dimension.arraySegments, dimension.arrayIndices)
        if vector is not None
    ]
    return sum(np.asarray(vector).nbytes for vector in vectors)


def _list(array: Any) -> list[int]:
    return [] if array is None else [int(n) for n in array]
