"""What several test files share: values of variables, and fresh processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

import dpf_tf

# Where this process has found dpf_tf, so that a fresh one tests the same.
_PATHS = [str(pathlib.Path(dpf_tf.__file__).parents[1])]
_PATHS.append(str(pathlib.Path(__file__).resolve().parents[1]))

PATIENCE = 1200
"""Seconds after which a process counts as hung. Many times what any takes: on a busy
machine even a quick one may take minutes."""


def values(variables):
    """Returns a copy of what variables of either Keras hold."""
    return [np.array(variable.numpy()) for variable in variables]


def state_variables(model):
    """Returns every variable of a model and of its optimizer."""
    optimizer = model.optimizer.variables  # A method in tf_keras.
    return [*model.variables, *(optimizer() if callable(optimizer) else optimizer)]


def pruned_layers(model):
    """Returns the wrappers among a model's layers."""
    return [x for x in model.layers if isinstance(x, dpf_tf.PruneLowMagnitudeDPF)]


def assert_bits_equal(actual, expected):
    """Holds two lists of arrays to be equal bit for bit (0.0 is not -0.0)."""
    assert len(actual) == len(expected)
    for left, right in zip(actual, expected, strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert left.tobytes() == right.tobytes(), np.abs(left - right).max()


def cluster(count):
    """Returns TF_CONFIG of each of so many workers on this machine."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    workers = ["{}:{}".format(*each.getsockname()) for each in sockets]
    for each in sockets:
        each.close()
    return [
        json.dumps(
            {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}}
        )
        for i in range(count)
    ]


def start_python(code, *arguments, **environment):
    """Starts Python code in a fresh process, its standard output piped."""
    # Another test of this process may have imported TFMOT, which sets it.
    inherited = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    inherited |= {"PYTHONPATH": os.pathsep.join(_PATHS), "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process, timeout=PATIENCE):
    """Waits for a process and returns the JSON of its last line, if it printed any."""
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-4000:]
    return json.loads(output.splitlines()[-1]) if output.strip() else None


def run_python(code, *arguments, **environment):
    """Runs Python code in a fresh process; see `result_of`."""
    return result_of(start_python(code, *arguments, **environment))
