import json
import os
import pathlib
import subprocess
import sys

import pytest

import dpf_tf
from tests.helpers import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[1]

# What a process prints about itself after its imports. Random numbers stand for the
# random state: a draw between seeding and here would change them.
SEED = "import keras; keras.utils.set_random_seed(7)\n"
SNAPSHOT = """
import json, logging, os, random, sys, warnings
modules = sorted(sys.modules)
environment = dict(os.environ)
filters = [repr(entry) for entry in warnings.filters]
finders = [type(finder).__name__ for finder in sys.meta_path]
import keras, numpy, tensorflow as tf
state = {
    "environment": environment,
    "warning filters": filters,
    "module finders": finders,
    "tf.keras": [tf.keras.__name__, tf.keras.__version__],
    "policy": keras.config.dtype_policy().name,
    "float type": keras.config.floatx(),
    "image format": keras.config.image_data_format(),
    "eager functions": tf.config.functions_run_eagerly(),
    "jit": str(tf.config.optimizer.get_jit()),
    "threads": [
        tf.config.threading.get_intra_op_parallelism_threads(),
        tf.config.threading.get_inter_op_parallelism_threads(),
    ],
    "traceback filtering": keras.config.is_traceback_filtering_enabled(),
    "interactive logging": keras.config.is_interactive_logging_enabled(),
    "logging": [
        [logger.level, len(logger.handlers), logger.propagate]
        for logger in map(logging.getLogger, (None, "absl", "tensorflow", "keras"))
    ],
}
draws = {
    "python": random.random(),
    "numpy": numpy.random.rand(),
    "tensorflow": float(tf.random.uniform([])),
    "keras": float(keras.random.uniform([])),
}
print(json.dumps({"modules": modules, "state": state, "draws": draws}))
"""


def snapshot(imports):
    environment = {
        name: value
        for name, value in os.environ.items()
        # Another test of this process may have imported TFMOT, which sets the first.
        if name not in ("TF_USE_LEGACY_KERAS", "PYTHONWARNINGS", "PYTEST_CURRENT_TEST")
    }
    environment["PYTHONPATH"] = str(ROOT)
    process = subprocess.run(
        [sys.executable, "-c", imports + SNAPSHOT],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def without():
    """A process that never imports dpf_tf."""
    return snapshot("import tensorflow, keras\n" + SEED)


@pytest.fixture(scope="module")
def after():
    """A process that imports dpf_tf after TensorFlow and Keras, between two draws."""
    return snapshot("import tensorflow, keras\n" + SEED + "import dpf_tf\n")


@pytest.fixture(scope="module")
def first():
    """A process that imports dpf_tf before anything else."""
    return snapshot("import dpf_tf, tensorflow, keras\n")


@pytest.mark.parametrize(
    "package",
    [
        "tensorflow_model_optimization",
        "tensorflow_datasets",
        "matplotlib",
        "sklearn",
        "ai_edge_litert",
    ],
)
@pytest.mark.parametrize("order", ["after", "first"])
def test_import_loads_no_optional_package(package, order, without, request):
    # Keras itself imports some of them where it finds them.
    loaded = set(request.getfixturevalue(order)["modules"]) - set(without["modules"])
    assert package not in loaded


@pytest.mark.parametrize("order", ["after", "first"])
def test_import_changes_no_setting_of_the_process(order, without, request):
    state = request.getfixturevalue(order)["state"]
    for setting, value in without["state"].items():
        assert state[setting] == value, setting


def test_import_draws_no_random_number(without, after):
    assert after["draws"] == without["draws"]


def test_public_names_exist_once():
    assert len(set(dpf_tf.__all__)) == len(dpf_tf.__all__)
    missing = [name for name in dpf_tf.__all__ if not hasattr(dpf_tf, name)]
    assert not missing


def test_fixed_public_names_are_there():
    names = {
        "ConstantSparsity",
        "MaskUpdater",
        "PolynomialDecay",
        "PrunableLayer",
        "PruneLowMagnitudeDPF",
        "PruningCallback",
        "check_xnnpack_sparse",
        "export_tflite",
        "freeze_masks",
        "get_masks",
        "pointwise",
        "prune_low_magnitude_dpf",
        "recalibrate_batch_norm",
        "sparsity_report",
        "strip_pruning",
    }
    assert not names - set(dpf_tf.__all__)


def test_version_is_public():
    assert dpf_tf.__version__.count(".") == 2
