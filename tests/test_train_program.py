"""The programs: `official_models.train` and `official_models.evaluate`."""

import csv
import dataclasses
import json
import os
import signal
import time

import pytest
from absl import flags
from absl.testing import flagsaver

from official_models import common_flags, evaluate, recipes, strategies, train
from official_models.errors import InputError
from tests import official_training as small
from tests.helpers import PATIENCE, cluster, start_python

PROGRAM = "import runpy; runpy.run_module('official_models.{}', None, '__main__', True)"


@pytest.fixture
def given():
    """Parses flags for one test."""
    with flagsaver.flagsaver():

        def given(*arguments):
            flags.FLAGS(["program", *arguments])

        yield given


def test_every_field_of_a_recipe_can_be_overridden_by_a_flag(given):
    changes = {
        "model": "resnet20",
        "data": "fashion_mnist",
        "epochs": 7,
        "batch_size": 64,
        "learning_rate": 0.05,
        "linear_scaling": True,
        "decay": "step",
        "milestones": (0.25, 0.5),
        "decay_factor": 0.5,
        "warmup_epochs": 2.0,
        "momentum": 0.8,
        "nesterov": False,
        "weight_decay": 3e-4,
        "label_smoothing": 0.1,
        "dtype_policy": "mixed_float16",
        "sparsity": 0.95,
        "ramp_end": 0.6,
        "mask_period": 8,
        "allocation": "erk",
        "structure": "filters",
        "settle": 0.0,
        "recalibrate_steps": 20,
        "finetune_epochs": 3,
        "finetune_learning_rate": 0.01,
    }
    plain = recipes.get("cifar10_resnet8_short")
    assert changes.keys() == dataclasses.asdict(plain).keys() - {"source"}
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in changes.items()
    }
    arguments = [f"--{name}={value}" for name, value in texts.items()]
    given("--recipe=cifar10_resnet8_short", *arguments)
    found = dataclasses.asdict(train.asked_recipe())
    assert found == changes | {"source": plain.source}
    assert all(changes[name] != getattr(plain, name) for name in changes)


def test_without_flags_the_recipe_is_as_it_stands(given):
    given("--recipe=imagenet_resnet50")
    assert train.asked_recipe() == recipes.get("imagenet_resnet50")


def test_recipes_are_listed(given, capsys):
    given("--list_recipes")
    train.main()
    assert capsys.readouterr().out == recipes.table() + "\n"


@pytest.mark.parametrize("missing", ["recipe", "model_dir"])
def test_a_flag_that_cannot_be_left_out_is_named(given, missing):
    both = {"recipe": "cifar10_resnet20", "model_dir": "unused"}
    given(*(f"--{name}={value}" for name, value in both.items() if name != missing))
    with pytest.raises(InputError, match=f"--{missing} is missing"):
        train.main()


def test_milestones_that_are_no_numbers_are_refused(given):
    given("--recipe=cifar10_resnet20", "--milestones=half")
    with pytest.raises(InputError, match=r"--milestones.*Received: half"):
        train.asked_recipe()


@pytest.mark.parametrize(
    ("flag", "needed"),
    [
        ("milestones=0.5", "decay='step'"),
        ("decay_factor=0.5", "decay='step'"),
        ("finetune_learning_rate=0.1", "finetune_epochs above 0"),
    ],
)
def test_a_flag_without_effect_is_refused(given, flag, needed):
    given("--recipe=cifar10_resnet8_short", f"--{flag}")
    with pytest.raises(InputError, match=f"no effect without {needed}. Received: "):
        train.asked_recipe()


@pytest.mark.parametrize("method", ["one_shot", "snip", "sfp"])
def test_a_method_without_a_ramp_has_no_end_of_it(given, method):
    given(
        *("--recipe=cifar10_resnet20", "--model_dir=unused", "--ramp_end=0.3"),
        f"--method={method}",
    )
    with pytest.raises(InputError, match=r"no --ramp_end. Received: 0.3"):
        train.main()


def test_missing_data_is_an_error_at_once_that_tells_how_to_prepare_it(given, tmp_path):
    given(
        "--recipe=imagenet_resnet50",
        f"--model_dir={tmp_path / 'run'}",
        f"--data_dir={tmp_path}",
    )
    started = time.monotonic()
    with pytest.raises(InputError, match="download_and_prepare"):
        train.main()
    assert time.monotonic() - started < 20
    assert not (tmp_path / "run").exists()


def test_several_workers_need_tf_keras_and_the_flag_is_named(monkeypatch, given):
    class Workers:
        num_replicas_in_sync = 2

    monkeypatch.setattr(
        strategies.tf.distribute, "MultiWorkerMirroredStrategy", Workers
    )
    keras, tf_keras = (pytest.importorskip(name) for name in ("keras", "tf_keras"))
    with pytest.raises(InputError, match="--keras=tf_keras"):
        strategies.refuse_what_keras_cannot(Workers(), keras, 1, False)
    strategies.refuse_what_keras_cannot(Workers(), tf_keras, 1, False)


def test_several_steps_on_several_replicas_need_tf_keras():
    class Replicas:
        num_replicas_in_sync = 2

    keras, tf_keras = (pytest.importorskip(name) for name in ("keras", "tf_keras"))
    with pytest.raises(InputError, match=r"--steps_per_execution=1.*--keras=tf_keras"):
        strategies.refuse_what_keras_cannot(Replicas(), keras, 4, False)
    strategies.refuse_what_keras_cannot(Replicas(), tf_keras, 4, False)


@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_jit_on_several_cpus_is_refused(name):
    class Replicas:
        num_replicas_in_sync = 2

    with pytest.raises(InputError, match="--nojit_compile"):
        module = pytest.importorskip(name)
        strategies.refuse_what_keras_cannot(Replicas(), module, 1, True)


def test_several_workers_without_a_cluster_are_told_how_to_name_it(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(InputError, match=r"TF_CONFIG.*--cluster=slurm"):
        strategies.make("multi_worker_mirrored")


def test_slurm_outside_of_slurm_is_told_of(monkeypatch):
    with pytest.raises(InputError, match=r"srun.*--cluster=tf_config"):
        strategies.make("multi_worker_mirrored", cluster="slurm")


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("gpus", [None, "0", "0,1"])
def test_slurm_s_tasks_are_the_workers(monkeypatch, task, gpus):
    """Without GPUs, with one that Slurm has given to the task, and two to share."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if gpus:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    for name, value in {
        "STEP_NODELIST": "localhost",
        "STEP_NUM_TASKS": 2,
        "STEP_TASKS_PER_NODE": 2,
        "PROCID": task,
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    resolver = strategies.resolver("slurm")
    workers = ["localhost:8888", "localhost:8889"]
    assert resolver.cluster_spec().as_dict() == {"worker": workers}
    assert (resolver.task_type, resolver.task_id) == ("worker", task)
    expected = {None: None, "0": "0", "0,1": str(task)}[gpus]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


@pytest.mark.parametrize("cluster_of_two", ["tf_config", "slurm"])
def test_one_of_several_workers_cannot_train_by_itself(monkeypatch, cluster_of_two):
    """Each would write to the same folder."""
    if cluster_of_two == "tf_config":
        monkeypatch.setenv("TF_CONFIG", cluster(2)[1])
    with pytest.raises(InputError, match="=multi_worker_mirrored"):
        strategies.make("one_device", cluster=cluster_of_two)


def test_keras_3_is_refused_before_workers_wait_for_each_other(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", cluster(2)[1])
    with pytest.raises(InputError, match="--keras=tf_keras"):
        strategies.make("multi_worker_mirrored", keras="keras")


def test_an_unreachable_tpu_is_told_of():
    with pytest.raises(InputError, match=r"--tpu='local'.*TensorFlow says: .+"):
        strategies.make("tpu", tpu="local")


def test_evaluate_refuses_a_folder_without_a_finished_training(given, tmp_path):
    given(f"--model_dir={tmp_path}")
    with pytest.raises(InputError, match="no summary.json"):
        evaluate.main()


def test_arguments_that_are_no_flags_are_refused(monkeypatch):
    monkeypatch.setattr(common_flags.app, "run", lambda main: main(["train", "extra"]))
    with pytest.raises(SystemExit, match="Error: .*no flags.*extra"):
        common_flags.run(train.main)


def test_a_killed_program_goes_on_ends_and_is_evaluated(tmp_path):
    """SIGKILL in mid-epoch, the same command again, and once more."""
    small.prepare_data(tmp_path / "tfds")
    folders = [f"--data_dir={tmp_path / 'tfds'}", f"--model_dir={tmp_path / 'run'}"]
    command = [
        PROGRAM.format("train"),
        "--recipe=cifar10_resnet8_short",
        "--epochs=3",
        "--batch_size=32",
        "--steps_per_epoch=40",
        *folders,
    ]
    saved = tmp_path / "run" / "checkpoints" / "training" / "checkpoint"
    killed = start_python(*command)
    try:
        deadline = time.monotonic() + PATIENCE
        while not saved.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        assert saved.exists() and killed.poll() is None
        killed.send_signal(signal.SIGKILL)
    finally:
        killed.kill()
        killed.communicate()

    def output(*command):
        program = start_python(*command)
        found, errors = program.communicate(timeout=PATIENCE)
        assert program.returncode == 0, errors[-4000:]
        return found

    resumed = output(*command)
    assert "Going on after epoch" in resumed
    assert "top-1 accuracy" in resumed and "MACs, sparse" in resumed
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["command"].startswith("python ")
    again = output(*command)
    assert "is finished" in again
    assert (
        again.splitlines()[1:] == resumed.splitlines()[-len(again.splitlines()) + 1 :]
    )
    evaluated = output(PROGRAM.format("evaluate"), *folders)
    assert f"{summary['last']['top1']:.4f}" in evaluated
    best = output(PROGRAM.format("evaluate"), "--which=best", *folders)
    assert f"best, epoch {summary['best']['epoch']}" in best
