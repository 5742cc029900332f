"""`export_tflite`: converts, runs what came out, compares, writes, and reports."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import shutil
import tempfile
import warnings
from typing import Any

from dpf_tf import prunable
from dpf_tf.export import encodings, machine, runtime
from dpf_tf.export.candidates import Trial
from dpf_tf.export.conversion import WEIGHTS
from dpf_tf.export.parity import TOLERANCES, Reference
from dpf_tf.export.plain import is_half, plain_model
from dpf_tf.export.report import ExportReport
from dpf_tf.export.samples import Inputs

# More samples are not read: calibration is settled by then, a comparison long before.
CALIBRATION_SAMPLES = 500
COMPARED_SAMPLES = 64
# How far a model in half precision may lie from its copy in float32.
HALF_PRECISION = 0.1


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    encoding: str = "auto",
    weights: str = "float32",
    representative_dataset: Any = None,
    *,
    samples: Any = None,
    tolerance: float | None = None,
) -> ExportReport:
    """Writes a model as a TFLite file that was run and compared before it is there.

    The file is loaded and run by the runtime of phones (ai-edge-litert), with its
    default delegate and without delegates, and its outputs are compared with the
    model's. If anything fails after the arguments were checked, no file is left under
    `path`, an older one included.

    Args:
        model: a pruned model, which is stripped, or a plain one; with known inputs.
            Layers of mixed precision are converted as float32.
        path: where the file goes, by custom `*.tflite`.
        encoding: how kernels with zeros are stored. `"dense"`; `"sparse"`, without the
            zeros, or an error if that is known to be broken; `"auto"`, the smaller one
            that works, dense for 8 bits.
        weights: `"float32"`; `"float16"`; `"int8"`, with activations in float32
            (dynamic range); `"int8_full"`, with activations in 8 bits inside the model
            and float32 at its inputs and outputs.
        representative_dataset: for `"int8_full"`, inputs like those in use, some
            hundred of them (the first 500 are read): an array, a list or dict of arrays
            for several inputs, a `tf.data.Dataset` of batches with labels or without,
            or a function that returns a generator of batches. Not needed by a model of
            `quantization_aware`.
        samples: the inputs of the comparison, in the same forms (the first 64 are
            read). By default the representative ones, or some that are made: normal
            numbers, 8-bit integers from 0 to 255, other integers below the smallest
            vocabulary of an embedding, or 0 and 1 if there is none.
        tolerance: the largest difference that is accepted, relative to the largest
            absolute output. By default 1e-5 for float32, 1e-3 for float16, 2e-2 for
            int8, 5e-2 for int8_full. Outputs of whole numbers may differ in that share.

    Returns:
        A dict of plain values that prints as a text, and is written as JSON by
        `report.save(path)`:

        - `path`, `model`, `weights`, `encoding` (the one that was taken);
        - `files`: for `"dense"` and `"sparse"` the bytes, those after gzip, and those
          of memory that loading and one run take; or why there is no such file;
        - `bound_bytes`: the information bound: the bits of the weights that are not
          zero, and of the choice which ones they are;
        - `ratios`: of the file to the bound (as it is, and after gzip) and to the dense
          file;
        - `tensors`: `name`, `shape`, `type`, `weights`, `zeros`, `encoding`, `bytes`;
        - `operators`: how often each occurs;
        - `parity`: `max_relative_error` by runtime, `tolerance`, `samples`, `source`;
        - `latency`: `ms` of each encoding on this machine with one thread, the median
          of `rounds`, taken in turn; `dense_to_sparse`, beside `dense_to_dense_again`;
        - `machine`, `versions`, `notes`.

    Raises:
        TypeError, ValueError: if an argument is not as described.
        ImportError: without ai-edge-litert (`pip install 'dpf_tf[export]'`).
        ExportError: if the model cannot be converted, or its file does not load, does
            not run, gives NaN, keeps state between calls, differs by more than
            `tolerance`, or is known to be wrong on ARM.

    Example:

        >>> import keras
        >>> import dpf_tf
        >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256),
        ...                           keras.layers.Dense(10)])
        >>> pruned = dpf_tf.prune_low_magnitude_dpf(
        ...     model, dpf_tf.ConstantSparsity(0.9))
        >>> _ = dpf_tf.MaskUpdater(pruned).update(0)
        >>> report = dpf_tf.export_tflite(pruned, "model.tflite")
        >>> report["encoding"], report["ratios"]["file_to_dense"] < 0.4
        ('sparse', True)
    """
    _check(encoding, weights, representative_dataset, tolerance)
    runtime.require()
    path = _checked(path)
    plain = plain_model(model)
    quantized = _is_quantized(plain)
    if quantized and weights != "int8_full":
        raise ValueError(
            "A model of `quantization_aware` has learnt to compute in 8 bits: export "
            f"it with weights='int8_full'. Received: weights={weights!r}"
        )
    inputs = Inputs(plain)
    calibration = None
    if representative_dataset is not None:
        calibration = inputs.read(
            representative_dataset, "representative_dataset", CALIBRATION_SAMPLES
        )
    elif weights == "int8_full" and not quantized:
        raise ValueError(
            "weights='int8_full' needs to know how large the activations are: give "
            "`representative_dataset`, some hundred inputs like those in use."
        )
    if samples is not None:
        compared = inputs.read(samples, "samples", COMPARED_SAMPLES)
        source = "given"
    elif calibration is not None:
        compared, source = calibration[:COMPARED_SAMPLES], "representative"
    else:
        compared, source = inputs.make(), "made"

    try:
        with tempfile.TemporaryDirectory() as folder:
            reference = Reference(inputs, compared)
            if plain is not model:
                half = any(is_half(layer) for layer in prunable.all_layers(model))
                allowed = HALF_PRECISION if half else TOLERANCES["float32"]
                reference.check(Inputs(model), allowed)
            tried = Trial(
                reference,
                runtime.Runtime(folder, compared),
                weights,
                TOLERANCES[weights] if tolerance is None else tolerance,
            )
            if quantized:  # It knows: the converter must not calibrate.
                calibration = None
            for kind in ("dense", "sparse"):
                file = pathlib.Path(folder, f"{kind}.tflite")
                tried.add(kind, file, plain, calibration)
            taken = tried.choose(encoding)
            report = ExportReport(
                path=str(path), model=plain.name, **_facts(tried, taken, weights)
            )
            _replace(path, tried.candidates[taken].file)
    except BaseException:  # Ctrl-C, too: what lies there has always been checked.
        path.unlink(missing_ok=True)
        raise
    report["parity"] |= {"samples": len(compared), "source": source}
    if reference.is_constant:
        constant = (
            "the model gives the same outputs for all samples, so that comparing them "
            "proves little: give `samples=`, or train the model first"
        )
        warnings.warn(f"'{plain.name}': {constant}.", stacklevel=2)
        report["notes"].append(constant)
    return report


def _check(
    encoding: Any, weights: Any, representative_dataset: Any, tolerance: Any
) -> None:
    for name, value, known in (
        ("encoding", encoding, encodings.ENCODINGS),
        ("weights", weights, WEIGHTS),
    ):
        if value not in known:
            raise ValueError(
                f"`{name}` must be one of {', '.join(map(repr, known))}. "
                f"Received: {value!r}"
            )
    if tolerance is not None and not (
        isinstance(tolerance, int | float) and 0 <= tolerance <= 1
    ):
        raise ValueError(
            "`tolerance` must be a share of the largest output, from 0 to 1. "
            f"Received: {tolerance!r}"
        )
    if representative_dataset is not None and weights != "int8_full":
        raise ValueError(
            "`representative_dataset` is for weights='int8_full', whose activations "
            f"have 8 bits; give the inputs to compare on as `samples`. Received: "
            f"weights={weights!r}"
        )


def _checked(path: Any) -> pathlib.Path:
    """Returns where the file goes; an error if it cannot, or would destroy another."""
    path = pathlib.Path(path)
    if not path.name or path.is_dir():
        raise ValueError(f"`path` must be that of a file. Received: '{path}'")
    if not path.parent.is_dir():
        raise ValueError(f"The folder of `path` does not exist: {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"The folder of `path` cannot be written to: {path.parent}")
    if path.exists():
        with path.open("rb") as file:
            if file.read(8)[4:] not in (b"TFL3", b""):
                raise ValueError(
                    "`path` is that of a file that is not TFLite's, and would be lost: "
                    f"{path}"
                )
    return path


def _is_quantized(model: Any) -> bool:
    """Tells whether a model knows its activations' ranges: see `quantization_aware`."""
    return any(
        type(layer).__name__ == "QuantizeLayer" for layer in prunable.all_layers(model)
    )


def _facts(tried: Trial, taken: str, weights: str) -> dict[str, Any]:
    """Returns what a report says of the files."""
    files = {kind: x.describe() for kind, x in tried.candidates.items()}
    candidate = tried.candidates[taken]
    contents, sizes = candidate.contents, files[taken]
    assert contents is not None
    bound = contents.bound_bytes
    ratios = {
        "file_to_bound": sizes["bytes"] / bound,
        "gzip_to_bound": sizes["gzip_bytes"] / bound,
    }
    if "bytes" in files["dense"]:
        ratios["file_to_dense"] = sizes["bytes"] / files["dense"]["bytes"]
    here = machine.describe()
    return {
        "weights": weights,
        "encoding": taken,
        "files": files,
        "bound_bytes": bound,
        "ratios": ratios,
        "tensors": [w.describe() for w in contents.weights],
        "operators": dict(contents.operators),
        "parity": {
            "max_relative_error": candidate.errors,
            "tolerance": tried.tolerance,
        },
        "latency": tried.latency(),
        "machine": here,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("tensorflow", "ai-edge-litert")
        },
        "notes": _notes(tried, taken, here, weights),
    }


def _notes(tried: Trial, taken: str, here: dict[str, Any], weights: str) -> list[str]:
    contents, sparse = tried.candidates[taken].contents, tried.candidates["sparse"]
    assert contents is not None
    zeros = sparse.contents.sparse if sparse.contents and not sparse.refused else []
    users = {name for w in zeros for name in w.operators}
    notes = []
    floats = [w.name for w in contents.kernels if w.type == "FLOAT32"]
    if weights in encodings.INT8 and floats:
        notes.append(f"These kernels stay in float32: {', '.join(floats)}.")
    if "CONV_2D" in users and machine.hides_sparse_convolutions(here):
        notes.append(
            "x86 with AVX never takes XNNPACK's path for sparse convolutions, so the "
            "sparse file cannot be faster here. On ARM it can, if "
            "`dpf_tf.check_xnnpack_sparse(model)` finds no fault."
        )
    if any("FULLY_CONNECTED" in w.operators and w.encoding == "sparse" for w in zeros):
        notes.append("Single zeros make no dense layer faster; blocks do.")
    return notes


def _replace(path: pathlib.Path, file: pathlib.Path) -> None:
    """Puts a file under its name, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.copyfile(file, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
