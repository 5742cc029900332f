"""Uses the installed wheel as a stranger would: run by `make wheel-test`, not pytest.

It fails if the package comes from the checkout, or if a pruned and stripped model has
not exactly the sparsity that was asked for.
"""

import importlib.metadata
import pathlib
import tempfile

import keras
import numpy as np

import dpf_tf
from official_models import models, recipes

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
STEPS = 20


def check_installation():
    """The wheel alone is imported, with its type marker and no stray package."""
    package = pathlib.Path(dpf_tf.__file__).resolve().parent
    assert not package.is_relative_to(CHECKOUT), f"{package} is in the checkout"
    assert (package / "py.typed").is_file(), "py.typed is missing from the wheel"
    distribution = importlib.metadata.distribution("dpf_tf")
    assert distribution.version == dpf_tf.__version__
    folders = {file.parts[0] for file in distribution.files}
    strays = {
        name
        for name in folders
        if name not in ("dpf_tf", "official_models") and not name.endswith(".dist-info")
    }
    assert not strays, f"the wheel installs {sorted(strays)} too"


def check_pruning():
    """Twenty steps at half the weights end with half of them exactly zero."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="relu"),
            keras.layers.Dense(2),
        ]
    )
    pruned = dpf_tf.prune_low_magnitude_dpf(model, 0.5)
    pruned.compile("sgd", "mse")
    data = np.random.default_rng(0)
    pruned.fit(
        data.normal(size=(STEPS * 4, 8, 8, 1)),
        data.normal(size=(STEPS * 4, 2)),
        batch_size=4,
        verbose=0,
        callbacks=[dpf_tf.PruningCallback()],
    )
    sparse = dpf_tf.strip_pruning(pruned)

    # The layer that makes the output stays dense.
    kernels = [
        np.asarray(layer.kernel) for layer in (sparse.layers[0], sparse.layers[2])
    ]
    weights = np.concatenate([kernel.ravel() for kernel in kernels])
    zeros = int(np.sum(weights == 0))
    assert zeros == weights.size // 2, f"{zeros} of {weights.size} weights are zero"
    assert np.all(np.asarray(sparse.layers[-1].kernel) != 0)
    return sparse


def check_export(sparse):
    """A file is run by a program that lies beside the package's modules."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        report = dpf_tf.export_tflite(sparse, path)
        assert path.stat().st_size == report["files"][report["encoding"]]["bytes"]


def check_official_models():
    """The networks come with the wheel, and can be built and counted."""
    model = models.build("resnet8", keras, classes=10)
    assert dpf_tf.count_macs(model).dense > 12_000_000
    assert "cifar10_resnet20" in recipes.table()


if __name__ == "__main__":
    check_installation()
    check_export(check_pruning())
    check_official_models()
    print(f"wheel OK: dpf_tf {dpf_tf.__version__} from {dpf_tf.__file__}")
