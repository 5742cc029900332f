"""official_models' trainings under tf.distribute equal those of one replica.

Every strategy has a process of its own, which runs tests/official_training.py.
"""

import contextlib
import csv
import functools
import json
import os
import signal
import time

import numpy as np
import pytest

from tests import official_training as small
from tests.helpers import PATIENCE, cluster, result_of, run_python, start_python

TRAINING = "import runpy; runpy.run_module('tests.official_training', None, '__main__')"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs a strategy in processes of its own; returns their reports and a folder."""
    data_dir = tmp_path_factory.mktemp("tfds")
    small.prepare_data(data_dir)

    @functools.cache
    def trained(strategy, keras):
        path = tmp_path_factory.mktemp(strategy)
        arguments = [TRAINING, strategy, keras, data_dir, path, "{}"]
        if strategy != "multi_worker_mirrored":
            return [run_python(*arguments)], path
        configs = cluster(2)
        workers = [start_python(*arguments, TF_CONFIG=config) for config in configs]
        try:
            return [result_of(worker) for worker in workers], path
        finally:
            for worker in workers:
                worker.kill()

    trained.data_dir = data_dir
    return trained


several = pytest.mark.parametrize(
    ("strategy", "keras"),
    [
        ("mirrored", "keras"),
        ("mirrored", "tf_keras"),
        ("multi_worker_mirrored", "tf_keras"),
    ],
)


@several
def test_weights_equal_those_of_one_replica_at_the_same_global_batch(
    trained, strategy, keras
):
    _, single = trained("one_device", keras)
    reports, path = trained(strategy, keras)
    assert {report["replicas"] for report in reports} == {2}
    expected, found = small.state(single / "dpf"), small.state(path / "dpf")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if value.dtype == bool:
            np.testing.assert_array_equal(found[name], value)
        else:
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
    # Momentum is among them, and large against that.
    assert max(np.abs(x).max() for x in expected.values() if x.ndim == 4) > 0.1


@several
def test_logs_are_those_of_one_replica(trained, strategy, keras):
    logs = []
    for name in "one_device", strategy:
        with (trained(name, keras)[1] / "dpf" / "log.csv").open(newline="") as file:
            logs.append(list(csv.DictReader(file)))
    for expected, found in zip(*logs, strict=True):
        for name in ("loss", "top1", "top5", "val_loss", "val_top1", "sparsity"):
            assert float(found[name]) == pytest.approx(float(expected[name]), abs=1e-3)


@several
def test_masks_of_all_replicas_are_bit_equal_and_as_sparse_as_asked(
    trained, strategy, keras
):
    reports, _ = trained(strategy, keras)
    masks = [mask for report in reports for mask in report["masks"]]
    assert len(masks) == 2
    assert len(set(masks)) == 1
    for report in reports:
        for pruned, weights in zip(report["pruned"], report["weights"], strict=True):
            assert pruned == round(0.9 * weights)


@several
def test_no_collective_operation_is_added_to_the_dense_model_s(
    trained, strategy, keras
):
    for report in trained(strategy, keras)[0]:
        dense, pruned = report["collectives"]
        assert dense == pruned
        assert sum(dense.values()) > 0


@several
def test_one_worker_leaves_files_for_all(trained, strategy, keras):
    _, path = trained(strategy, keras)
    names = {file.name for file in (path / "dpf").iterdir()}
    assert {"sparse.keras", "summary.json", "log.csv", "masks.csv"} <= names
    assert not any(name.startswith("worker") for name in names)


@contextlib.contextmanager
def workers(*places, asked):
    """Two workers, each with what is asked of it; they do not outlive the test."""
    arguments = [TRAINING, "multi_worker_mirrored", "tf_keras", *places]
    started = [
        start_python(*arguments, json.dumps(changes), TF_CONFIG=config)
        for config, changes in zip(cluster(2), asked, strict=True)
    ]
    try:
        yield started
    finally:
        for worker in started:
            worker.kill()
            worker.communicate()


@pytest.mark.slow
def test_after_a_worker_is_killed_the_others_end_and_a_restart_resumes(
    trained, tmp_path
):
    asked = [{"epochs": 3, "steps_per_epoch": 60}] * 2
    places = trained.data_dir, tmp_path
    saved = tmp_path / "dpf" / "checkpoints" / "training" / "checkpoint"
    with workers(*places, asked=asked) as (chief, other):
        deadline = time.monotonic() + PATIENCE
        while not saved.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.5)  # The second of three epochs has begun.
        assert saved.exists() and chief.poll() is other.poll() is None
        os.kill(other.pid, signal.SIGKILL)
        _, errors = chief.communicate(timeout=PATIENCE)  # It does not hang.
        assert chief.returncode > 0
        assert "Error" in errors
    assert not (tmp_path / "dpf" / "summary.json").exists()
    with workers(*places, asked=asked) as restarted:
        reports = [result_of(worker) for worker in restarted]
    log = (tmp_path / "dpf" / "log.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in log] == ["0", "1", "2"]
    assert reports[0]["masks"] == reports[1]["masks"]
    assert reports[0]["pruned"] == [round(0.9 * reports[0]["weights"][0])]


@pytest.mark.slow
def test_workers_that_do_not_agree_all_end_and_say_so(trained, tmp_path):
    asked = [{"sparsity": 0.9}, {"sparsity": 0.8}]
    with workers(trained.data_dir, tmp_path, asked=asked) as started:
        for worker in started:
            _, errors = worker.communicate(timeout=PATIENCE)
            assert worker.returncode > 0
            assert "InputError: The workers do not agree" in errors
