"""What is kept of a finished training, and what is drawn of it, by the programs."""

import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from matplotlib import image

from official_models import training
from tests import official_training as small
from tests.helpers import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[1]


def program(name, *arguments):
    subprocess.run(
        [sys.executable, "-m", name, *map(str, arguments)],
        cwd=ROOT,
        check=True,
        timeout=PATIENCE,
    )


def collected(folder, name):
    path = folder.with_name(name)
    program("benchmarks.training_run", f"--run={folder}", f"--out={path}")
    return path, json.loads(path.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a training whose masks were recorded."""
    path = tmp_path_factory.mktemp("results")
    small.prepare_data(path / "tfds")
    recorded = {"record_masks": True}
    options = small.options(path / "tfds", path / "run", "tf_keras", **recorded)
    training.run(small.recipe(epochs=3), options, tf.distribute.get_strategy())
    return path / "run"


def test_the_results_of_a_training_are_its_logs_and_the_analysis_that_was_asked_for(
    folder,
):
    path, plain = collected(folder, "plain.json")
    assert str(folder) not in json.dumps(plain["summary"])
    for name, key in (("log", "epochs"), ("masks", "mask_updates")):
        with (folder / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for column, values in plain[key].items():
            np.testing.assert_allclose(values, [float(r[column]) for r in rows], 1e-6)
    assert plain["analysis"] is None

    program("official_models.analyze", f"--model_dir={folder}")
    analyzed, found = collected(folder, "analyzed.json")
    analysis = found["analysis"]
    assert analysis["step"] == plain["mask_updates"]["step"]
    assert analysis["iou"][-1] == 1 and min(analysis["iou"]) < 0.5
    kept = plain["summary"]["last"]["pruned"]["kept"]
    assert sum(kernel["kept"] for kernel in analysis["kernels"]) == kept

    heights = []
    for results in (path, analyzed):
        figure = results.with_suffix(".png")
        program("benchmarks.training_curves", f"--figure={figure}", results)
        heights.append(image.imread(figure).shape[0])
    assert heights[0] < heights[1]  # The likeness to the final masks has its panel.
