"""`python -m dpf_tf.export model.keras model.tflite`: the same from the shell."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import zipfile
from typing import Any

import numpy as np

from dpf_tf import keras_api
from dpf_tf.export.conversion import WEIGHTS
from dpf_tf.export.encodings import ENCODINGS
from dpf_tf.export.errors import ExportError
from dpf_tf.export.tflite import export_tflite


def main(arguments: list[str] | None = None) -> int:
    """Exports what the command line asks for, and returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.report and not pathlib.Path(options.report).parent.is_dir():
            raise ValueError(f"The folder of --report does not exist: {options.report}")
        report = export_tflite(
            load(options.model),
            options.tflite,
            options.encoding,
            options.weights,
            _arrays(options.representative),
            samples=_arrays(options.samples),
            tolerance=options.tolerance,
        )
    except (ExportError, ImportError, OSError, TypeError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(report)
    if options.report:
        report.save(options.report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dpf_tf.export",
        description="Write a Keras model as a TFLite file, after running and comparing "
        "it.",
    )
    parser.add_argument("model", help="a .keras file of Keras 3 or tf_keras")
    parser.add_argument("tflite", help="the file to write")
    parser.add_argument("--encoding", choices=ENCODINGS, default="auto")
    parser.add_argument("--weights", choices=WEIGHTS, default="float32")
    arrays = "one array (.npy), or one for each input by its name (.npz)"
    parser.add_argument(
        "--representative", metavar="FILE", help=f"inputs for int8_full: {arrays}"
    )
    parser.add_argument(
        "--samples", metavar="FILE", help=f"inputs of the comparison: {arrays}"
    )
    parser.add_argument(
        "--tolerance", type=float, help="largest difference relative to the outputs"
    )
    parser.add_argument("--report", metavar="FILE", help="write the report as JSON")
    return parser


def load(path: str) -> Any:
    """Loads a `.keras` file with the Keras that it was saved with.

    Raises:
        ValueError: if it is no such file.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no file {path!r}.")
    try:
        with zipfile.ZipFile(path) as archive:
            version = json.loads(archive.read("metadata.json"))["keras_version"]
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"{path!r} is no .keras file. Save the model as one: "
            "`model.save('model.keras')`."
        ) from error
    api = keras_api.TF_KERAS if version.startswith("2.") else keras_api.KERAS3
    return api.module.models.load_model(path, compile=False)


def _arrays(path: str | None) -> Any:
    if path is None:
        return None
    found = np.load(path)
    return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found


if __name__ == "__main__":
    sys.exit(main())
