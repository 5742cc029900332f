"""The comparison of schemes: its cells, and how they are summed up."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import comparison
from benchmarks.budgets import ARMS, BUDGETS, SCHEMES
from official_models import methods, recipes
from tests import official_training as small

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEYS = {
    *("method", "sparsity", "seed", "accuracy", "epochs", "model", "data"),
    *("overall_sparsity", "command", "versions", "date"),
}


def record(arm, sparsity, seed, accuracy):
    return {"arm": arm, "sparsity": sparsity, "seed": seed, "accuracy": accuracy}


def test_scores_are_means_and_deviations_over_the_seeds_best_arm_first():
    rng = np.random.default_rng(0)
    accuracies = {
        (arm, s): rng.normal(mean, 0.01, 3)
        for arm, mean in {"a": 0.7, "b": 0.8}.items()
        for s in (0.9, 0.95)
    }
    records = [
        record(arm, s, i, x)
        for (arm, s), each in accuracies.items()
        for i, x in enumerate(each)
    ]
    records.append(record("dense", 0.0, 0, 0.9))
    found = comparison.scores(records)
    assert list(found) == ["dense", "b", "a"]
    for (arm, s), each in accuracies.items():
        assert found[arm][s].mean == pytest.approx(100 * np.mean(each))
        assert found[arm][s].deviation == pytest.approx(100 * np.std(each, ddof=1))
    assert str(found["dense"][0.0]) == "90.00 (1 seed)"
    assert str(comparison.score([70.0, 71.0])) == "70.50 ± 0.71 (2 seeds)"


def test_every_scheme_is_compared_and_every_arm_is_a_method_of_the_program():
    for budget in BUDGETS.values():
        recipes.get(budget.recipe)
        assert set(budget.arms) <= ARMS.keys()
    for (_, name), budget in BUDGETS.items():
        assert name != "short" or set(SCHEMES) <= set(budget.arms)
    assert set(methods.METHODS) <= ARMS.keys()
    for arm in ARMS.values():
        given = dict(flag.removeprefix("--").split("=", 1) for flag in arm.flags)
        options = tuple(filter(None, given.get("method_options", "").split(",")))
        methods.get(given["method"], options)
        assert arm.masks_of is None or arm.masks_of in ARMS


def run(*arguments, folder):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", "--data=cifar10", *arguments],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    logs = [path.read_text()[-3000:] for path in folder.rglob("*.log")]
    assert done.returncode == 0, [done.stderr[-3000:], *logs]
    return done.stdout


def test_committed_cells_have_what_is_said_of_them():
    paths = list(comparison.RESULTS.glob("*/*.json"))
    assert paths
    for path in paths:
        found = json.loads(path.read_text())
        assert found.keys() >= KEYS, path
        assert path.parent.name == f"{found['data']}_{found['budget']}"
        share = f"_{round(100 * found['sparsity'])}" if found["sparsity"] else ""
        assert path.stem == f"{found['arm']}{share}_seed{found['seed']}"
        assert 0.1 < found["accuracy"] < 1
        pruned = found["last"].get("pruned", {"sparsity": 0.0})["sparsity"]
        assert pruned == pytest.approx(found["sparsity"], abs=1e-3), path


@pytest.mark.slow
def test_a_cell_is_trained_once_and_a_ticket_has_its_masks(tmp_path):
    small.prepare_data(tmp_path / "tfds")
    arguments = [
        "--sparsities=0.9",
        "--seeds=0",
        f"--data_dir={tmp_path / 'tfds'}",
        f"--runs={tmp_path / 'runs'}",
        f"--results={tmp_path / 'results'}",
    ]
    printed = run("--arms=dense,dpf_p1", *arguments, folder=tmp_path)
    assert "2 of 2 cells are missing" in printed
    paths = sorted((tmp_path / "results" / "cifar10_short").iterdir())
    assert [p.name for p in paths] == ["dense_seed0.json", "dpf_p1_90_seed0.json"]
    dense, sparse = (json.loads(path.read_text()) for path in paths)
    assert dense.keys() >= KEYS
    assert dense["overall_sparsity"] == 0 < 0.85 < sparse["overall_sparsity"]
    assert str(tmp_path) not in sparse["command"]
    printed = run("--arms=dense,ticket_new", *arguments, folder=tmp_path)
    assert "1 of 2 cells are missing" in printed
    runs = tmp_path / "runs" / "cifar10_short"
    found, given = (
        np.load(runs / f"{name}_90_seed0" / "masks" / "final.npz")
        for name in ("ticket_new", "dpf")
    )
    assert found.files == given.files
    for path in given.files:
        np.testing.assert_array_equal(found[path], given[path])
