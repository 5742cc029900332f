"""`export_tflite`: converts, runs what came out, compares, writes, and reports."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import shutil
import tempfile
import warnings
from typing import Any

from dpf_tf.export import encodings, flatbuffer, machine, runtime
from dpf_tf.export.candidates import Trial
from dpf_tf.export.conversion import WEIGHTS
from dpf_tf.export.errors import ExportError
from dpf_tf.export.parity import TOLERANCES, Reference
from dpf_tf.export.plain import layers_of, plain_model
from dpf_tf.export.report import ExportReport
from dpf_tf.export.samples import Inputs

# More samples are not read: calibration is settled by then, a comparison long before.
CALIBRATION_SAMPLES = 500
COMPARED_SAMPLES = 64


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
    model's. If anything fails, no file is left under `path`, an older one included.

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
            numbers, and integers below the smallest vocabulary of an embedding.
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
            not run, gives NaN or differs by more than `tolerance`.

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
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"The folder of `path` does not exist: {path.parent}")
    plain = plain_model(model)
    inputs = Inputs(plain)
    calibration = None
    if representative_dataset is not None:
        calibration = inputs.read(
            representative_dataset, "representative_dataset", CALIBRATION_SAMPLES
        )
    elif weights == "int8_full" and not _is_quantized(plain):
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
            reference = Reference(plain, inputs, compared)
            tried = Trial(
                reference,
                runtime.Runtime(folder, compared),
                weights,
                TOLERANCES[weights] if tolerance is None else tolerance,
            )
            for kind in ("dense", "sparse"):
                file = pathlib.Path(folder, f"{kind}.tflite")
                known = _is_quantized(plain)  # Then the converter must not calibrate.
                tried.add(kind, file, plain, None if known else calibration)
            taken = tried.choose(encoding)
            report = _report(tried, taken, weights)
            _replace(path, tried.candidates[taken].file)
    except ExportError:
        path.unlink(missing_ok=True)
        raise
    report |= {"path": str(path), "model": plain.name}
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
    if tolerance is not None and not tolerance >= 0:  # NaN fails here too.
        raise ValueError(f"`tolerance` must be 0 or more. Received: {tolerance!r}")
    if representative_dataset is not None and weights != "int8_full":
        raise ValueError(
            "`representative_dataset` is for weights='int8_full', whose activations "
            f"have 8 bits; give the inputs to compare on as `samples`. Received: "
            f"weights={weights!r}"
        )


def _is_quantized(model: Any) -> bool:
    """Tells whether a model knows its activations' ranges: see `quantization_aware`."""
    return any(type(layer).__name__ == "QuantizeLayer" for layer in layers_of(model))


def _report(tried: Trial, taken: str, weights: str) -> ExportReport:
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
    return ExportReport(
        path="",
        model="",
        weights=weights,
        encoding=taken,
        files=files,
        bound_bytes=bound,
        ratios=ratios,
        tensors=[w.describe() for w in contents.weights],
        operators=dict(contents.operators),
        parity={"max_relative_error": candidate.errors, "tolerance": tried.tolerance},
        latency=tried.latency(),
        machine=here,
        versions={
            name: importlib.metadata.version(name)
            for name in ("tensorflow", "ai-edge-litert")
        },
        notes=_notes(contents, here, weights),
    )


def _notes(
    contents: flatbuffer.Contents, here: dict[str, Any], weights: str
) -> list[str]:
    users = {name for w in contents.sparse for name in w.operators}
    notes = []
    floats = [w.name for w in contents.kernels if w.type == "FLOAT32"]
    if weights == "int8_full" and floats:
        notes.append(f"These kernels stay in float32: {', '.join(floats)}.")
    if "CONV_2D" in users and machine.hides_sparse_convolutions(here):
        notes.append(
            "x86 with AVX never takes XNNPACK's path for sparse convolutions, so the "
            "sparse file cannot be faster here. On ARM it can, if "
            "`dpf_tf.check_xnnpack_sparse(model)` finds no fault."
        )
    if any(
        "FULLY_CONNECTED" in w.operators and w.encoding == "sparse"
        for w in contents.sparse
    ):
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
