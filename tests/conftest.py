"""What all tests share: fixtures, Hypothesis profiles, a quiet TensorFlow."""

import os

# Before the first import of TensorFlow, here or in a test.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if _WORKER:
    for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_variable, "1")

import gc
import importlib
import pathlib

import hypothesis
import pytest

if _WORKER:
    # The workers share the cores: one thread each, rather than all cores in each.
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request):
    """Keras 3, then tf_keras: the module, with a fresh session and seed."""
    module = importlib.import_module(request.param)
    importlib.import_module("tf_keras")
    gc.freeze()  # What lives by now stays: the collections below pass it over.
    module.backend.clear_session()
    module.utils.set_random_seed(0)
    yield module
    module.mixed_precision.set_global_policy("float32")
    module.backend.clear_session()
    gc.collect()


@pytest.fixture
def tfds_data_dir():
    """The folder of prepared TFDS data sets; without one, the test is skipped."""
    path = os.environ.get("TFDS_DATA_DIR")
    if not path:
        pytest.skip("TFDS_DATA_DIR is not set: no prepared data sets")
    if not pathlib.Path(path).is_dir():
        pytest.skip(f"TFDS_DATA_DIR={path!r} is not a folder")
    return path
