"""The JSON file of a benchmark: its result, and what is needed to repeat it.

    record.write("benchmarks/results/mask_update.json", {"rounds": 15, ...})

puts the command, the date, the versions and the machine before the result.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

PACKAGES = (
    "dpf_tf",
    "tensorflow",
    "keras",
    "tf_keras",
    "numpy",
    "tensorflow-model-optimization",
    "tensorflow-datasets",
    "ai-edge-litert",
)


def write(path: str | os.PathLike[str], result: dict[str, Any]) -> None:
    """Writes a result with its header, and makes the folder if there is none."""
    header = {
        "command": command(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
    }
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")  # So that no half a file is ever there.
    partial.write_text(json.dumps(header | result, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def command() -> str:
    """Returns the command line of this process, the interpreter as `python`."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def commit() -> str | None:
    """Returns the commit of this checkout, `-dirty` if files differ; `None` if none."""
    describe = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(
            describe,
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this library and of what is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "dpf_tf" not in found:  # Run from a checkout that is not installed.
        from dpf_tf.version import __version__

        found["dpf_tf"] = __version__
    return found


def machine() -> dict[str, Any]:
    """Returns the platform, the processor, its cores and memory, and any GPU."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _proc("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory": _proc("/proc/meminfo", "MemTotal"),
        "gpus": [details.get("device_name", "unknown") for details in names],
    }


def _proc(path: str, key: str) -> str | None:
    """Returns what a file of /proc says of a key; None where there is no such file."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return next((value.strip() for name, value in pairs if name.strip() == key), None)
