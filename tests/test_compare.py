"""The comparison of schemes: its cells, and how they are summed up."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import app
from matplotlib.axes import Axes

from benchmarks import (
    accuracy_figure,
    children,
    choices,
    comparison,
    comparison_table,
    figures,
    period_figure,
)
from benchmarks.budgets import ARMS, BUDGETS, SCHEMES
from official_models import methods, recipes
from tests import official_training as small
from tests.helpers import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROCESSES = pathlib.Path("/proc")
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


def test_a_table_has_the_arms_of_its_budget_and_the_seeds_that_are_wanted(tmp_path):
    folder = tmp_path / "cifar10_short"
    folder.mkdir()
    for arm, seed in [("dpf", 0), ("dpf", 1), ("dpf_decay", 0)]:
        versions = dict.fromkeys(("tensorflow", "keras", "tf_keras"), "1.0")
        made = {
            "model": "resnet8",
            "epochs": 10,
            "date": "2026-01-01",
            "machine": {"cores": 2, "cpu": "Intel"},
            "versions": versions,
        }
        text = json.dumps({**record(arm, 0.9, seed, 0.5), **made})
        (folder / f"{arm}_90_seed{seed}.json").write_text(text)

    def found(**chosen):
        choice = comparison.Choice("cifar10", "short", **chosen)
        records = comparison.records(choice, tmp_path)
        return [(each["arm"], each["seed"]) for each in records]

    assert found() == [("dpf", 0), ("dpf", 1)]
    assert found(arms=("dpf", "dpf_decay"), seeds=(0,)) == [
        ("dpf", 0),
        ("dpf_decay", 0),
    ]
    of_all, of_one = (
        comparison_table.lines(
            comparison.Choice("cifar10", "short", arms=("dpf",), seeds=seeds), tmp_path
        )
        for seeds in ((), (0,))
    )
    assert "mean and standard deviation of the seeds" in of_all[0]
    assert "| dpf | 50.00 ± 0.00 (2 seeds) |" in of_all
    assert "of one seed" in of_one[0] and "| dpf | 50.00 |" in of_one
    whole = "--data=cifar10 --budget=short --arms=gmp --sparsities=0.9"
    with pytest.raises(app.UsageError, match=rf"no such result[\s\S]*{whole}"):
        found(arms=("gmp",), sparsities=(0.9,))
    with pytest.raises(app.UsageError, match=f"--sparsities=0.9 --results={tmp_path}"):
        found(arms=("gmp",), sparsities=(0.9,))
    with pytest.raises(app.UsageError, match="no 'brief' for cifar10. Known"):
        comparison.Choice("cifar10", "brief")
    copied = folder / "dpf_90_seed0_old.json"
    shutil.copy(folder / "dpf_90_seed0.json", copied)
    with pytest.raises(app.UsageError, match="old.json is a result of dpf_90_seed0, "):
        found()
    copied.unlink()
    (folder / "broken.json").write_text("{")
    with pytest.raises(app.UsageError, match="broken.json is no result"):
        found()


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


COMPARE = (sys.executable, "-m", "benchmarks.compare", "--data=cifar10")
PLACES = {"data_dir": "tfds", "runs": "runs", "results": "results"}


def started(*arguments, folder):
    """A comparison that has ended, well or not; all its files are in the folder."""
    return subprocess.run(
        [
            *COMPARE,
            *(f"--{flag}={folder / name}" for flag, name in PLACES.items()),
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def run(*arguments, folder):
    done = started(*arguments, folder=folder)
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
        cell = found["arm"], found["sparsity"], found["seed"]
        assert path.stem == comparison.name(*cell)
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


@pytest.mark.parametrize("budget", BUDGETS)
def test_committed_cells_would_be_made_by_the_same_flags_now(budget, tmp_path):
    made = [
        json.loads(path.read_text())
        for path in (comparison.RESULTS / "_".join(budget)).glob("*.json")
    ]
    if not made:
        pytest.skip("none is committed")
    chosen = {
        f"--{flag}s": ",".join(sorted({str(each[flag]) for each in made}))
        for flag in ("arm", "seed")
    }
    shares = sorted({str(each["sparsity"]) for each in made if each["sparsity"]})
    done = started(  # Without data: nothing is trained.
        *(f"--data={budget[0]}", f"--budget={budget[1]}"),
        *(f"--sparsities={','.join(shares)}", f"--results={comparison.RESULTS}"),
        *(f"{flag}={values}" for flag, values in chosen.items()),
        folder=tmp_path,
    )
    found = re.search(r"(\d+) of (\d+) cells are missing", done.stdout)
    assert found, done.stdout + done.stderr
    assert int(found[2]) - int(found[1]) == len(made)


def refused(*arguments, folder):
    """What a comparison says that ends with an error."""
    done = started("--budget=short", *arguments, folder=folder)
    assert done.returncode != 0
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--sparsities=95", "shares of what is pruned, .* Received: 95.0"),
        ("--seeds=0.5", "--seeds must be numbers .* Received: '0.5'"),
        ("--seeds=-1", "--seeds are whole numbers from 0 on. Received: -1"),
        ("--arms=dfp", "Unknown arms: 'dfp'. Known: dense"),
        ("--arms=", "--arms must be names with commas between them. Received: ''"),
        ("filters", "Not a flag: filters. Flags look like --budget=short"),
        ("--arms=dense", r"cifar10 is not prepared: .*\n.*python -c"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_training(
    argument, message, tmp_path
):
    assert re.search(message, refused(argument, folder=tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_cell_made_with_other_options_of_its_method_is_refused(tmp_path):
    [path] = (comparison.RESULTS / "cifar10_filters").glob("dpf_filters_50_seed0.json")
    made = json.loads(path.read_text())
    assert made["method_options"]["bounded"] is True
    other = tmp_path / "results" / "cifar10_filters" / path.name
    other.parent.mkdir(parents=True)
    cell = ("--budget=filters", "--arms=dpf_filters", "--sparsities=0.5", "--seeds=0")
    for key, name, before, now in (
        ("method_options", "bounded", False, True),
        ("method_defaults", "allocation", "uniform", "global"),
    ):
        changed = {**made.get(key, {}), name: before}
        other.write_text(json.dumps({**made, key: changed}))
        printed = refused(*cell, folder=tmp_path)
        pattern = rf"'{name}': {before!r}.*now it would be.*'{name}': {now!r}"
        assert re.search(pattern, printed)
    shutil.copy(path, other)
    assert "0 of 1 cells are missing" in started(*cell, folder=tmp_path).stdout


def test_results_that_cannot_be_read_or_written_are_named_before_a_training(tmp_path):
    small.prepare_data(tmp_path / "tfds")
    (tmp_path / "results").write_text("No folder.")
    printed = refused("--arms=dense", "--seeds=0", folder=tmp_path)
    assert f"{tmp_path / 'results'} is no folder to write into" in printed
    (tmp_path / "results").unlink()
    broken = tmp_path / "results" / "cifar10_short" / "dense_seed0.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    printed = refused("--arms=dense", "--seeds=0", folder=tmp_path)
    assert f"{broken} is no result of a training" in printed
    assert not list(tmp_path.rglob("*.log"))


def test_a_failed_training_is_named_with_its_last_words(tmp_path):
    small.prepare_data(tmp_path / "tfds")
    run = tmp_path / "runs" / "cifar10_short" / "dense_seed0"
    run.mkdir(parents=True)
    for name in "config", "summary":  # Of a training that is not this one.
        (run / f"{name}.json").write_text("{}")
    cell = ("--arms=dense", "--seeds=0")
    assert "has not begun. Move it" in refused(*cell, folder=tmp_path)
    note = run.parent / "dense_seed0.begun.json"
    note.write_text('{"method_defaults": {"allocation": "global"}}')
    assert "Move it away" in refused(*cell, folder=tmp_path)
    note.write_text('{"method_defaults": {}, "commit": "0123"}')
    printed = refused(*cell, folder=tmp_path)
    assert "dense_seed0 was begun at 0123, and goes on at" in printed
    assert "The training of dense_seed0 failed" in printed
    assert str(run.parent / "dense_seed0.log") in printed
    assert "holds a training of other settings" in printed


def test_few_and_many_epochs_stand_side_by_side(tmp_path):
    cells = [  # Epochs, arm, sparsity, seed, accuracy.
        (10, "dense", 0.0, 0, 0.81),
        (10, "dpf", 0.9, 0, 0.76),
        (10, "dpf", 0.9, 1, 0.74),
        (10, "set", 0.9, 0, 0.71),  # Not among those of many epochs.
        (30, "dense", 0.0, 0, 0.85),
        (30, "dpf", 0.9, 0, 0.82),
        (30, "gmp", 0.9, 0, 0.83),  # Not among those of few.
    ]
    whole = comparison.RESULTS / "cifar10_short" / "dpf_90_seed0.json"
    for epochs, arm, sparsity, seed, accuracy in cells:
        found = json.loads(whole.read_text()) | record(arm, sparsity, seed, accuracy)
        folder = tmp_path / f"cifar10_{'short' if epochs == 10 else 'long'}"
        folder.mkdir(exist_ok=True)
        path = folder / f"{comparison.name(arm, sparsity, seed)}.json"
        path.write_text(json.dumps(found | {"epochs": epochs}))
    lines = comparison_table.by_epochs(
        comparison.Choice("cifar10", "short"),
        comparison.Choice("cifar10", "long"),
        tmp_path,
    )
    assert [line for line in lines if line.startswith("|")] == [
        "|  | dense, 10 epochs | dense, 30 epochs | 90%, 10 epochs | 90%, 30 epochs |",
        "|---|---|---|---|---|",
        "| dense | 81.00 (1 seed) | 85.00 (1 seed) |  |  |",
        "| gmp |  |  |  | 83.00 (1 seed) |",
        "| dpf |  |  | 75.00 ± 1.41 (2 seeds) | 82.00 (1 seed) |",
    ]
    assert "10 epochs: `python -m benchmarks.compare --data=cifar10" in lines[-3]
    assert "--budget=long`, 3 of 33 trainings" in lines[-1]


def test_every_arm_of_a_figure_has_a_line_of_its_own(tmp_path, monkeypatch):
    drawn = {}
    errorbar = Axes.errorbar

    def noted(axes, *arguments, **options):
        drawn[options["label"]] = options["linestyle"], options["color"]
        return errorbar(axes, *arguments, **options)

    monkeypatch.setattr(Axes, "errorbar", noted)
    about = {"model": "m", "data": "d", "epochs": 1}
    cells = [about | record(arm, 0.9 * (arm != "dense"), 0, 0.5) for arm in ARMS]
    path = tmp_path / "figure.png"
    accuracy_figure.draw(comparison.Choice("cifar10", "short"), cells, path)
    assert drawn.keys() == ARMS.keys() - {"dense"}
    assert len(set(drawn.values())) == len(drawn)
    assert path.stat().st_size > 0


def shows(path, scores):
    """Whether a figure was drawn of these scores."""
    drawn = accuracy_figure.description(scores).encode("latin-1")
    return b"Description\0" + drawn in path.read_bytes()


@pytest.mark.parametrize("name", figures.FIGURES)
def test_the_committed_figures_show_the_committed_results(name):
    choice, _ = figures.FIGURES[name]
    scores = comparison.scores(comparison.records(choice))
    path = ROOT / "docs" / f"{name}.png"
    assert shows(path, scores), "python -m benchmarks.figures draws it anew"


@pytest.mark.parametrize(
    ("choice", "against"),
    [
        (comparison.Choice("fashion_mnist", "lenet"), "sparsity"),
        (choices.LOTTERY, "sparsity"),
        (choices.PERIODS, "period"),
    ],
)
def test_one_command_prints_the_tables_and_draws_the_figure(choice, against, tmp_path):
    command = [sys.executable, "-m", "benchmarks.compare_table", *str(choice).split()]
    command += [f"--against={against}", f"--figure={tmp_path / 'figure.png'}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert "\n".join(comparison_table.lines(choice)) in done.stdout
    tickets = comparison_table.tickets(choice)
    assert bool(tickets) == (choice == choices.LOTTERY)
    assert "\n".join(tickets) in done.stdout
    scores = comparison.scores(comparison.records(choice))
    assert shows(tmp_path / "figure.png", scores)


def test_a_figure_against_the_period_shows_one_sparsity(tmp_path):
    some = comparison.Choice("cifar10", "short", arms=("dpf", "straight_through"))
    with pytest.raises(app.UsageError, match=r"at one sparsity.*these: 0.9, 0.95"):
        period_figure.draw(some, comparison.records(some), tmp_path / "figure.png")
    none = comparison.Choice("cifar10", "short", arms=("gmp",))
    with pytest.raises(app.UsageError, match=r"--arms=straight_through,dpf_p4.*none"):
        period_figure.draw(none, comparison.records(none), tmp_path / "figure.png")


def test_tickets_of_several_sparsities_have_a_line_each(tmp_path):
    choice = comparison.Choice("cifar10", "short", ("ticket_new",), (0.9, 0.95))
    folder = tmp_path / "cifar10_short"
    folder.mkdir()
    for sparsity, accuracy in ((0.9, 0.5), (0.95, 0.25)):
        found = record("ticket_new", sparsity, 0, accuracy)
        found |= {"masks_from": "dpf", "masks_from_accuracy": 0.75}
        path = folder / f"{comparison.name('ticket_new', sparsity, 0)}.json"
        path.write_text(json.dumps(found))
    *_, first, second = comparison_table.tickets(choice, tmp_path)
    assert [cell.strip() for cell in first.split("|")[1:-1]] == [
        "ticket_new, 90%", "50.00 (1 seed)", "75.00 (1 seed)", "-25.00 (1 seed)"
    ]  # fmt: skip
    assert second.startswith("| ticket_new, 95% | 25.00")


@pytest.mark.parametrize(
    ("figure", "message"),
    [("a.txt", "must end in .png"), ("file/a.png", "The figure cannot be written")],
)
def test_a_figure_that_cannot_be_written_is_told_so(figure, message, tmp_path):
    (tmp_path / "file").write_text("No folder.")
    choice = comparison.Choice("fashion_mnist", "lenet")
    command = [sys.executable, "-m", "benchmarks.compare_table", *str(choice).split()]
    done = subprocess.run(
        [*command, f"--figure={tmp_path / figure}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode and message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not PROCESSES.exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("broken_off", [signal.SIGINT, signal.SIGTERM])
def test_trainings_end_with_the_comparison_that_started_them(broken_off, tmp_path):
    small.prepare_data(tmp_path / "tfds")
    command = [*COMPARE, "--budget=short", "--arms=dense,dpf_p4", "--jobs=2"]
    command += [f"--{flag}={tmp_path / name}" for flag, name in PLACES.items()]
    program = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + PATIENCE
    while len(running := trainings(tmp_path)) < 2 and time.monotonic() < deadline:
        assert program.poll() is None, program.stdout.read()
        time.sleep(0.1)
    program.send_signal(broken_off)
    printed, _ = program.communicate(timeout=PATIENCE)
    assert len(running) == 2 and program.returncode != 0
    assert printed.endswith("Broken off. The same command goes on where it was.\n")
    assert not trainings(tmp_path)
    with pytest.raises(KeyboardInterrupt):  # None begins after the end.
        ended = children.Children()
        ended.end()
        ended.run(["true"], {}, tmp_path / "log")


def trainings(folder):
    """The processes that train below a folder."""
    found = []
    for path in PROCESSES.glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # It has just ended.
            command = path.read_text(errors="replace").split("\0")
            if "official_models.train" in command and f"{folder}/" in "".join(command):
                found.append(path)
    return found


@pytest.mark.slow
def test_a_cell_is_trained_once_and_a_ticket_has_its_masks(tmp_path):
    small.prepare_data(tmp_path / "tfds")
    arguments = ["--sparsities=0.9", "--seeds=0"]
    printed = run("--arms=dense,dpf_p4", *arguments, folder=tmp_path)
    assert "2 of 2 cells are missing" in printed
    paths = sorted((tmp_path / "results" / "cifar10_short").iterdir())
    assert [p.name for p in paths] == ["dense_seed0.json", "dpf_p4_90_seed0.json"]
    dense, sparse = (json.loads(path.read_text()) for path in paths)
    assert dense.keys() >= KEYS
    assert dense["overall_sparsity"] == 0 < 0.85 < sparse["overall_sparsity"]
    assert str(tmp_path) not in sparse["command"]
    paths[0].unlink()  # The training is there, and tells when it was made.
    printed = run("--arms=dense", *arguments, folder=tmp_path)
    assert "dense_seed0 was trained before, in" in printed
    assert json.loads(paths[0].read_text()) == dense
    printed = run("--arms=dense,ticket_new", *arguments, folder=tmp_path)
    assert "1 of 2 cells are missing" in printed
    ticket = json.loads((paths[0].parent / "ticket_new_90_seed0.json").read_text())
    assert ticket["masks_from"] == "dpf_90_seed0"
    summary = tmp_path / "runs" / "cifar10_short" / "dpf_90_seed0" / "summary.json"
    source = json.loads(summary.read_text())["last"]["top1"]
    assert ticket["masks_from_accuracy"] == source
    runs = tmp_path / "runs" / "cifar10_short"
    found, given = (
        np.load(runs / f"{name}_90_seed0" / "masks" / "final.npz")
        for name in ("ticket_new", "dpf")
    )
    assert found.files == given.files
    for path in given.files:
        np.testing.assert_array_equal(found[path], given[path])


@pytest.mark.parametrize("program", ["compare", "compare_table"])
def test_help_tells_of_the_flags_that_choose_trainings(program):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{program}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    for flag in ("data", "budget", "arms", "sparsities", "seeds", "results"):
        assert f"--{flag}:" in done.stdout or f"--[no]{flag}:" in done.stdout
