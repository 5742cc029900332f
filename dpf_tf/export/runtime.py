"""The runtime of phones, in processes of its own: see `runner.py`."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from dpf_tf.export.errors import ExportError

RUNNER = pathlib.Path(__file__).with_name("runner.py")


def require() -> None:
    """Refuses to go on without the runtime."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise ImportError(
            "Every exported file is run before it is handed out, and the runtime is "
            "not installed: `pip install 'dpf_tf[export]'` (or ai-edge-litert)."
        )


class Runtime:
    """Runs files on samples.

    Args:
        folder: where files may be written, and are left.
        samples: see `runner.py`.
        python: the interpreter that has the runtime; this process's own by default.
    """

    def __init__(
        self, folder: str, samples: list[dict[str, Any]], python: str = sys.executable
    ) -> None:
        from dpf_tf.export import runner

        self._load = runner.load
        self._python = python
        self._folder = folder
        self._samples = os.path.join(folder, "samples.npz")
        runner.save(self._samples, samples)

    def run(
        self, file: pathlib.Path, without_delegates: bool
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Returns the outputs for each sample, and the bytes of memory that it took.

        Raises:
            ExportError: if the file does not load or run.
        """
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            outputs = os.path.join(folder, "outputs.npz")
            flags = ["--without-delegates"] if without_delegates else []
            told = self._start("run", str(file), self._samples, outputs, *flags)
            return self._load(outputs), told["memory_bytes"]

    def time(
        self, files: list[pathlib.Path], seconds: float = 0.5
    ) -> list[list[float]]:
        """Returns the times of each file in seconds, taken in turn."""
        told = self._start("time", self._samples, str(seconds), *map(str, files))
        return told["seconds"]

    def _start(self, *arguments: str) -> dict[str, Any]:
        # -P: the modules beside the program must not hide others of the same name.
        done = subprocess.run(
            [self._python, "-P", str(RUNNER), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        if done.returncode < 0:
            name = signal.Signals(-done.returncode).name
            raise ExportError(f"the runtime was killed by {name}: {_last(done.stderr)}")
        raise ExportError(_last(done.stderr))


def median_ratio(times: list[float], others: list[float]) -> float:
    """Returns the median of the ratios of times that were taken in turn."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def _last(errors: str) -> str:
    """Returns the message of an exception, out of a traceback."""
    lines = [
        line
        for line in errors.splitlines()
        if line.strip() and not line.startswith(("INFO:", "WARNING:"))
    ]
    return lines[-1][:500] if lines else "no message"
