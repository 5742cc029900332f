"""A model's files, dense and sparse: converted, run and compared.

    trial = Trial(reference, runtime, "float32", tolerance=1e-5)
    trial.add("dense", file, model, calibration)

Then `trial.candidates["dense"].refused` is `None`, or why the file is not to be used.
"""

from __future__ import annotations

import gzip
import pathlib
import statistics
from typing import Any

from dpf_tf.export import encodings, flatbuffer
from dpf_tf.export.conversion import convert
from dpf_tf.export.errors import ExportError
from dpf_tf.export.parity import Reference
from dpf_tf.export.runtime import Runtime, median_ratio
from dpf_tf.export.samples import Sample

_VARIABLES = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}
_RUNTIMES = {"by default": False, "without delegates": True}


class Candidate:
    """One way of storing a model.

    Args:
        file: where it lies.

    Attributes:
        contents: what it holds, once it is converted.
        refused: why it is not to be used; `None` if it may be.
        errors: the largest relative difference from the model, by runtime.
        memory: bytes that loading and one run take; `None` where it is not told.
    """

    def __init__(self, file: pathlib.Path) -> None:
        self.file = file
        self.contents: flatbuffer.Contents | None = None
        self.refused: str | None = None
        self.errors: dict[str, float] = {}
        self.memory: int | None = None

    def describe(self) -> dict[str, Any]:
        """Returns its sizes, or why it is not to be used."""
        if self.refused is not None:
            return {"refused": self.refused}
        data = self.file.read_bytes()
        return {
            "bytes": len(data),
            "gzip_bytes": len(gzip.compress(data, 9, mtime=0)),
            "memory_bytes": self.memory,
        }


class Trial:
    """Makes candidates, and finds out which of them can be trusted.

    Args:
        reference: what the outputs must be.
        runtime: runs the files.
        weights: how weights are stored; see `export_tflite`.
        tolerance: the largest relative difference that is accepted.

    Attributes:
        candidates: by encoding, `"dense"` and `"sparse"`.
        tolerance: as given.
    """

    def __init__(
        self, reference: Reference, runtime: Runtime, weights: str, tolerance: float
    ) -> None:
        self.candidates: dict[str, Candidate] = {}
        self._reference = reference
        self._runtime = runtime
        self._weights = weights
        self.tolerance = tolerance

    def add(
        self,
        kind: str,
        file: pathlib.Path,
        model: Any,
        calibration: list[Sample] | None,
    ) -> None:
        """Converts the model in one encoding, and tries what came out."""
        candidate = self.candidates[kind] = Candidate(file)
        try:
            data = convert(model, self._weights, kind == "sparse", calibration)
            file.write_bytes(data)
            candidate.contents = flatbuffer.read(data)
            self._try(candidate, kind, model)
        except ExportError as error:
            candidate.refused = str(error)

    def _try(self, candidate: Candidate, kind: str, model: Any) -> None:
        assert candidate.contents is not None
        variables = _VARIABLES & set(candidate.contents.operators)
        if variables:
            raise ExportError(
                f"the file keeps variables ({', '.join(sorted(variables))}) that "
                "nothing sets"
            )
        if candidate.contents.state:
            raise ExportError(
                "the file would carry state from one call to the next "
                f"({candidate.contents.state[0]}). Build recurrent layers with "
                "`unroll=True`"
            )
        if kind == "sparse":
            known = encodings.fault(self._weights, candidate.contents, model)
            if known:
                raise ExportError(known)
        for name, without_delegates in _RUNTIMES.items():
            try:
                outputs, memory = self._runtime.run(candidate.file, without_delegates)
                difference = self._reference.difference(outputs)
            except ExportError as error:
                raise ExportError(f"run {name}: {error}") from error
            if difference > self.tolerance:
                raise ExportError(
                    f"run {name}: the outputs differ from the model's by "
                    f"{difference:.2e} of their scale, more than the tolerance "
                    f"{self.tolerance:.0e}"
                )
            candidate.errors[name] = difference
            if not without_delegates:
                candidate.memory = memory

    def choose(self, encoding: str) -> str:
        """Returns the encoding that is taken.

        Raises:
            ExportError: if there is none that can be trusted.
        """
        dense, sparse = self.candidates["dense"], self.candidates["sparse"]
        if encoding == "auto":
            encoding = "dense"
            if sparse.refused is None and encodings.prefers_sparse(
                self._weights,
                sparse.file.stat().st_size,
                dense.file.stat().st_size if dense.refused is None else None,
            ):
                encoding = "sparse"
        refused = self.candidates[encoding].refused
        if refused is not None:
            raise ExportError(
                f"No file was written (weights='{self._weights}', "
                f"encoding='{encoding}'): {refused}."
            )
        return encoding

    def latency(self) -> dict[str, Any]:
        """Returns how long a sample takes with each file, taken in turn."""
        good = {k: x.file for k, x in self.candidates.items() if x.refused is None}
        first, *_ = good
        columns = [*good, f"{first} again"]
        times = self._runtime.time([*good.values(), good[first]])
        ms = {
            column: statistics.median(seconds) * 1e3
            for column, seconds in zip(columns, times, strict=True)
        }
        result: dict[str, Any] = {"threads": 1, "rounds": len(times[0]), "ms": ms}
        if len(good) == 2:
            result["dense_to_sparse"] = median_ratio(times[0], times[1])
            result["dense_to_dense_again"] = median_ratio(times[0], times[2])
        return result
