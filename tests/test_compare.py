"""The comparison of schemes: its cells, and how they are summed up."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver
from matplotlib.axes import Axes

from benchmarks import compare, compare_table, comparison
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
        methods.get(arm.method, arm.options)
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
        kernels = found["last"].get("kernels", [])
        if all("filters" in kernel for kernel in kernels):  # Of each, or of all.
            shares = [1 - k["filters_kept"] / k["filters"] for k in kernels]
            uniform = found["recipe"]["allocation"] != "global"
            assert not uniform or shares == pytest.approx(
                [found["sparsity"]] * len(shares), abs=0.5 / 16
            )
        else:
            assert pruned == pytest.approx(found["sparsity"], abs=1e-3), path


@pytest.fixture
def given(tmp_path):
    """Flags of a comparison of one cell, in an empty folder."""
    compare.FLAGS.unparse_flags()
    compare.FLAGS(
        [
            *("compare", "--data=fashion_mnist", "--arms=rigl", "--sparsities=0.9"),
            *("--seeds=1", f"--results={tmp_path}", f"--runs={tmp_path / 'runs'}"),
            f"--data_dir={tmp_path}",
        ]
    )
    yield compare.FLAGS
    compare.FLAGS.unparse_flags()


def test_a_cell_made_with_other_options_of_its_method_is_refused(given, tmp_path):
    [cell] = compare.cells()
    assert not compare.is_done(cell)
    assert cell.method_options == {"share": 0.3, "seed": 1}
    made = {
        "command": shlex.join(cell.command()),
        "recipe": {},
        "method_options": cell.method_options,
    }
    cell.result.parent.mkdir()
    cell.result.write_text(json.dumps(made))
    assert compare.is_done(cell)
    cell.result.write_text(json.dumps(made | {"method_options": {"share": 0.3}}))
    with pytest.raises(app.UsageError, match="now it would be made with .*'seed': 1"):
        compare.is_done(cell)


def test_what_a_comparison_cannot_train_is_refused_before_it_trains(given, tmp_path):
    with pytest.raises(SystemExit, match="fashion_mnist is not prepared"):
        compare.main([])
    for flag, value, message in (
        ("sparsities", "95", "shares of what is pruned, .* Received: 95.0"),
        ("sparsities", "x", "must be numbers .* Received: x"),
        ("seeds", "0.5", "must be numbers .* Received: 0.5"),
        ("arms", "dfp", "Unknown arms: dfp. Known: dense"),
        ("budget", "shrot", "There is no 'shrot' for fashion_mnist. Known"),
    ):
        setting = flagsaver.flagsaver((flag, value))
        with setting, pytest.raises(app.UsageError, match=message):
            compare.cells()
    assert not (tmp_path / "runs").exists()


def test_a_failed_training_tells_what_it_said_last(given, tmp_path):
    [cell] = compare.cells()
    with pytest.raises(compare.TrainingError, match="not prepared") as raised:
        compare.train(cell)
    assert str(tmp_path / "runs" / "fashion_mnist_short") in str(raised.value)


def test_every_arm_of_a_figure_has_a_line_of_its_own(tmp_path, monkeypatch):
    drawn = []
    errorbar = Axes.errorbar

    def noted(axes, *arguments, **options):
        drawn.append((options["label"], (options["linestyle"], options["color"])))
        return errorbar(axes, *arguments, **options)

    monkeypatch.setattr(Axes, "errorbar", noted)
    cells = [record(arm, 0.9, 0, 0.5) for arm in ARMS if arm != "dense"]
    about = {"model": "m", "data": "d", "epochs": 1}
    path = tmp_path / "figure.png"
    compare_table.draw(comparison.scores(cells), about, "sparsity", path)
    assert {arm for arm, _ in drawn} == ARMS.keys() - {"dense"}
    assert len({style for _, style in drawn}) == len(drawn)
    assert path.stat().st_size > 0


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
