"""official_models' trainings: what they write is true, and nothing is lost."""

import csv
import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import dpf_tf
from official_models import callbacks, methods, summaries, training
from official_models.errors import InputError
from official_models.run_folder import RunFolder
from tests import official_training as small
from tests.helpers import assert_bits_equal, values

ONE_DEVICE = tf.distribute.get_strategy()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    small.prepare_data(path)
    return path


@pytest.fixture
def run(keras, data_dir, tmp_path):
    """Runs a training, by default always in the same folder."""

    def run(model_dir=tmp_path / "run", options=None, **changes):
        made = small.options(data_dir, model_dir, keras.__name__, **options or {})
        return training.run(small.recipe(**changes), made, ONE_DEVICE)

    return run


@pytest.fixture(scope="session")
def _whole(data_dir, tmp_path_factory):
    @functools.cache
    def whole(name):
        path = tmp_path_factory.mktemp(name) / "whole"
        made = small.options(data_dir, path, name)
        recipe = small.recipe(finetune_epochs=1)
        return path, training.run(recipe, made, ONE_DEVICE)

    return whole


@pytest.fixture
def whole(keras, _whole):
    """Folder and summary of a training with fine-tuning, made once for each Keras."""
    return _whole(keras.__name__)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def kernels(model):
    return [w for w in model.get_weights() if w.ndim > 1]


def test_the_summary_tells_the_truth_about_the_files(whole, keras, data_dir):
    path, summary = whole
    assert json.loads((path / "summary.json").read_text()) == json.loads(
        json.dumps(summary)
    )
    info = training.data.describe("cifar10", str(data_dir))
    batches = list(training.data.evaluation(info, global_batch=60))
    [(images, labels, _)] = [[x.numpy() for x in batch] for batch in batches]
    for name, file in ("last", "sparse.keras"), ("best", "best_sparse.keras"):
        result = summary[name]
        model = keras.models.load_model(path / file)
        assert "PruneLowMagnitudeDPF" not in {type(x).__name__ for x in model.layers}
        order = np.argsort(-model.predict(images, verbose=0), axis=-1)
        hits = order == labels.argmax(axis=-1)[:, np.newaxis]
        assert result["top1"] == pytest.approx(hits[:, :1].sum() / 60)
        assert result["top5"] == pytest.approx(hits[:, :5].sum() / 60)
        zeros = sum(int((kernel == 0).sum()) for kernel in kernels(model))
        pruned = result["pruned"]
        assert pruned["weights"] - pruned["kept"] == zeros
        assert zeros == round(0.9 * pruned["weights"])
        assert result["weights"] == 78_042  # ResNet-8, as its builder counts.
        assert result["kept"] == 78_042 - zeros
        assert result["macs_sparse"] < 0.5 * result["macs_dense"]


def test_logs_have_a_row_for_each_epoch_and_each_mask_update(whole):
    path, _ = whole
    epochs, updates = rows(path / "log.csv"), rows(path / "masks.csv")
    assert [int(row["epoch"]) for row in epochs] == [0, 1, 2, 3, 4]
    assert {"top1", "val_top1", "val_top5", "learning_rate", "seconds"} <= set(
        epochs[0]
    )
    assert float(epochs[-1]["sparsity"]) == pytest.approx(0.9, abs=1e-5)
    # Half of 24 steps is the ramp's end; the first update finds nothing to prune.
    assert [int(row["step"]) for row in updates][:3] == [4, 8, 12]
    found = [float(row["sparsity"]) for row in updates]
    assert found == sorted(found)
    assert all(int(row["flips"]) > 0 for row in updates)
    events = list((path / "tensorboard").rglob("events.out.tfevents.*"))
    tags = {
        value.tag
        for file in events
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert {"epoch_sparsity", "epoch_mask_flips", "epoch_top1"} <= tags


def test_the_best_model_is_one_of_the_epochs_at_final_sparsity(whole):
    path, summary = whole
    log = rows(path / "log.csv")
    final = [row for row in log if float(row["sparsity"]) > 0.8999]
    assert 0 < len(final) < len(log)
    best = max(final, key=lambda row: float(row["val_top1"]))
    assert summary["best"]["epoch"] == int(best["epoch"]) + 1
    assert summary["best"]["top1"] == pytest.approx(float(best["val_top1"]))


class Interrupted(Exception):
    pass


def interrupt(monkeypatch, at):
    """Breaks the training off after so many steps, in the middle of an epoch."""
    counted = {"steps": 0}

    def count(self, batch, logs=None):
        counted["steps"] += 1
        if counted["steps"] == at:
            raise Interrupted

    monkeypatch.setattr(callbacks.Progress, "on_train_batch_end", count, raising=False)


def test_no_epoch_below_the_final_sparsity_is_the_best(run, tmp_path):
    """The masks stand still before the ramp has ended."""
    with pytest.warns(UserWarning, match="reaches sparsity 0.8"):
        summary = run(settle=0.4, ramp_end=0.75)
    assert summary["last"]["pruned"]["sparsity"] < 0.89
    assert "best" not in summary


def test_epochs_are_sparse_from_the_last_update_on_that_misses_no_weight(
    keras, data_dir, tmp_path
):
    """The ramp ends at step 2925, where masks stand still; the last update is 2912."""
    recipe = small.recipe(epochs=10, ramp_end=0.75, settle=0.25, mask_period=16)
    made = small.options(data_dir, tmp_path, keras.__name__, steps_per_epoch=390)
    job = training.Training(recipe, made, ONE_DEVICE)
    prepared = methods.prepare(job.method, job.build(), recipe, 390, lambda step: None)
    job.model = prepared.model
    assert methods.schedule(job.method, recipe, 390)(2912) == (True, pytest.approx(0.9))
    assert methods.schedule(job.method, recipe, 390)(2912)[1] < 0.9
    assert job.sparse_from() == 2912 // 390


def test_the_best_model_of_a_lost_epoch_keeps_its_own_name(run, tmp_path, monkeypatch):
    """Interrupted between the best model and the state; the epoch again is worse."""
    with monkeypatch.context() as patch:
        saved = callbacks.SaveState.on_epoch_end

        def interrupted(self, epoch, logs=None):
            if epoch == 3:
                raise Interrupted
            saved(self, epoch, logs)

        patch.setattr(callbacks.SaveState, "on_epoch_end", interrupted)
        patch.setattr(callbacks.KeepBest, "on_epoch_end", better_and_better)
        with pytest.raises(Interrupted):
            run()
    monkeypatch.setattr(callbacks.KeepBest, "on_epoch_end", lambda *a, **k: None)
    assert run()["best"]["epoch"] == 4


def better_and_better(self, epoch, logs=None):
    self._state.offer(epoch, float(epoch))


@pytest.mark.parametrize("at", [9, 28])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    run, whole, tmp_path, monkeypatch, at
):
    whole, _ = whole
    with monkeypatch.context() as patch:
        interrupt(patch, at)
        with pytest.raises(Interrupted):
            run(finetune_epochs=1)
    summary = run(finetune_epochs=1)
    for stage in "training", "finetuning":
        expected = small.state(whole, stage)
        resumed = small.state(tmp_path / "run", stage)
        assert expected.keys() == resumed.keys()
        for name, value in expected.items():
            if value.dtype == bool:
                assert_bits_equal([resumed[name]], [value])
            else:
                np.testing.assert_allclose(resumed[name], value, atol=1e-4)
    for file in "log.csv", "masks.csv":
        expected, resumed = rows(whole / file), rows(tmp_path / "run" / file)
        kept = ["epoch", "step", "sparsity", "flips", "learning_rate", "val_top1"]
        assert [[row.get(k) for k in kept] for row in resumed] == [
            [row.get(k) for k in kept] for row in expected
        ]
    assert summary["last"]["pruned"]["sparsity"] == pytest.approx(0.9, abs=1e-5)


def test_fine_tuning_keeps_the_masks_and_trains_the_kept_weights(whole):
    path, _ = whole
    before, after = small.state(path), small.state(path, "finetuning")
    masks = [name for name, value in before.items() if value.dtype == bool]
    assert len(masks) == 9  # Seven convolutions and two shortcuts; the head is dense.
    assert_bits_equal([after[name] for name in masks], [before[n] for n in masks])
    moved = [
        name
        for name, value in before.items()
        if value.ndim == 4
        and value.dtype != bool
        and "/_variables/" not in name  # The optimizer's.
        and not np.array_equal(value, after[name])
    ]
    assert len(moved) == 9
    log = rows(path / "log.csv")
    assert log[-1]["mask_flips"] == "0"


def times(path):
    """When each file was last written, but for the lock."""
    return {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.name != "lock"}


def test_a_finished_training_is_not_trained_again(run, whole, capsys):
    path, summary = whole
    files = times(path)
    again = run(path, finetune_epochs=1)
    assert again == json.loads(json.dumps(summary))
    assert "is finished" in capsys.readouterr().out
    assert files == times(path)


def test_a_folder_of_other_settings_is_refused_and_the_difference_named(run, whole):
    path, _ = whole
    message = "other settings: finetune_epochs: 1 there, 2 asked. Give"
    with pytest.raises(InputError, match=message) as raised:
        run(path, finetune_epochs=2)
    assert "--model_dir" in str(raised.value)


def test_a_finished_folder_without_checkpoints_still_holds_its_training(
    run, whole, tmp_path
):
    path, summary = whole
    shutil.copytree(path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    noted = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(InputError, match="method: 'dpf' there, 'gmp' asked"):
        run(finetune_epochs=1, options={"method": "gmp"})
    with pytest.raises(InputError, match="'bounded': True.* there, .*'bounded': False"):
        run(finetune_epochs=1, options={"method_options": ("bounded=false",)})
    assert (tmp_path / "run" / "config.json").read_text() == noted
    assert run(finetune_epochs=1) == json.loads(json.dumps(summary))


def test_a_method_draws_its_lots_by_the_seed_of_the_training():
    assert methods.get("set", (), 3).seed == 3
    assert methods.get("set", ("seed=1",), 3).seed == 1
    assert methods.get("dpf", (), 3) == methods.get("dpf")


def test_a_training_that_has_done_no_epoch_binds_nothing(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(Interrupted):
            run(epochs=2)
    assert run(epochs=1)["recipe"]["epochs"] == 1


def test_two_processes_cannot_train_in_one_folder(run, tmp_path):
    with (
        RunFolder(tmp_path / "run").held(),
        pytest.raises(InputError, match="Another process trains in"),
    ):
        run(epochs=1)


def test_a_remote_folder_is_refused(run):
    with pytest.raises(InputError, match="gs://bucket/run"):
        run("gs://bucket/run")


def test_the_masks_of_every_update_are_those_of_an_uninterrupted_training(
    run, tmp_path, monkeypatch
):
    """RigL: its masks hang on the batch that it is given at a step, too."""
    options = {"method": "rigl", "method_options": ("share=0.4",), "record_masks": True}
    changes = {"epochs": 3, "settle": 0, "ramp_end": 1.0, "options": options}
    summary = run(tmp_path / "whole", **changes)
    assert summary["options"]["method_options"] == ("share=0.4",)
    assert summary["last"]["pruned"]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        with pytest.raises(Interrupted):
            run(tmp_path / "resumed", **changes)
    run(tmp_path / "resumed", **changes)
    whole, resumed = (
        RunFolder(tmp_path / name).history for name in ("whole", "resumed")
    )
    logged = [int(row["step"]) for row in rows(tmp_path / "whole" / "masks.csv")]
    assert logged == whole.steps() == resumed.steps() == [0, 4, 8, 12, 16]
    for (_, left), (_, right) in zip(whole.updates(), resumed.updates(), strict=True):
        assert_bits_equal(list(left.values()), list(right.values()))
    final = [mask for _, masks in whole.updates() for mask in masks.values()][-9:]
    assert_bits_equal(list(whole.final().values()), final)


def test_a_lottery_ticket_has_the_masks_of_another_training(run, whole, tmp_path):
    path, _ = whole
    summary = run(epochs=1, options={"masks_from": str(path), "seed": 0})
    masks = RunFolder(path).history.final()
    state = small.state(tmp_path / "run")
    found = [value for value in state.values() if value.dtype == bool]
    for each in (found, masks.values()):
        assert len(each) == 9
    bits = [{mask.tobytes() for mask in each} for each in (found, masks.values())]
    assert bits[0] == bits[1]
    assert summary["last"]["pruned"]["sparsity"] == pytest.approx(0.9, abs=1e-5)
    assert summary["best"]["epoch"] == 1
    assert rows(tmp_path / "run" / "log.csv")[0]["mask_flips"] == "0"


def test_a_lottery_ticket_starts_from_the_weights_of_its_seed(
    run, whole, tmp_path, monkeypatch
):
    first = []

    def begun(job, *arguments):
        first.append(values(job.model.trainable_variables))
        raise Interrupted

    monkeypatch.setattr(training.Training, "fit", begun)
    ticket = {"masks_from": str(whole[0])}
    for options in ({"seed": 0}, {"seed": 0, **ticket}, {"seed": 1, **ticket}):
        with pytest.raises(Interrupted):
            run(tmp_path / f"run{len(first)}", options=options)
    assert_bits_equal(first[1], first[0])
    assert not np.array_equal(first[2][0], first[0][0])


def test_records_of_masks_that_never_change_are_refused(run, whole):
    for options in ({"masks_from": str(whole[0])}, {"method": "dense"}):
        with pytest.raises(InputError, match="--record_masks .* Leave it out"):
            run(options={"record_masks": True, **options})


def test_masks_of_an_unfinished_training_or_another_network_are_refused(
    run, whole, tmp_path
):
    with pytest.raises(InputError, match="no masks of a finished training"):
        run(options={"masks_from": str(tmp_path / "nothing")})
    path, _ = whole
    with pytest.raises(InputError, match="masks_from needs a --method that prunes"):
        run(options={"masks_from": str(path), "method": "dense"})
    with pytest.raises(InputError, match=r"--masks_from=.*On one side only"):
        run(model="resnet20", options={"masks_from": str(path)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gmp", "method_options": ("share=1",)}, "'gmp' has no option"),
        ({"method": "dense", "method_options": ("a=1",)}, "has no options"),
        ({"method": "rigl", "method_options": ("share",)}, "NAME=VALUE.*'share'"),
        ({"method": "rigl", "method_options": ("share=2",)}, r"\[0, 1\]"),
        ({"method": "straight_through"}, "frequency=1"),
        ({"method": "snip"}, "makes one mask: it has no --mask_period"),
    ],
)
def test_options_for_which_a_method_is_not_defined_are_refused(run, options, message):
    with pytest.raises(InputError, match=message):
        run(options=options, mask_period=4)


def test_recalibration_of_a_network_without_batch_norm_is_refused_at_once(run):
    with pytest.raises(InputError, match="lenet_300_100 has no batch norm"):
        run(model="lenet_300_100", recalibrate_steps=3)
    run(model="lenet_300_100", epochs=1)  # What was refused has left nothing behind.


def test_recalibration_changes_the_statistics_of_batch_norm_alone(run, keras, tmp_path):
    run(tmp_path / "as_it_is", epochs=1)
    run(tmp_path / "anew", epochs=1, recalibrate_steps=3)
    before, after = (
        keras.models.load_model(tmp_path / name / "sparse.keras")
        for name in ("as_it_is", "anew")
    )
    assert_bits_equal(
        [w.numpy() for w in after.trainable_variables],
        [w.numpy() for w in before.trainable_variables],
    )
    for left, right in zip(
        before.non_trainable_variables, after.non_trainable_variables, strict=True
    ):
        assert np.abs(left.numpy() - right.numpy()).max() > 1e-4


def test_dense_training_is_the_control_without_masks(run, tmp_path):
    summary = run(epochs=1, options={"method": "dense"})
    assert summary["last"]["file"] == "dense.keras"
    assert summary["last"]["kept"] == summary["last"]["weights"]
    assert "pruned" not in summary["last"]
    assert not (tmp_path / "run" / "masks.csv").exists()


def test_mixed_precision_leaves_a_float32_model_and_no_trace(run, keras, tmp_path):
    run(epochs=1, dtype_policy="mixed_bfloat16")
    assert keras.mixed_precision.global_policy().name == "float32"
    model = keras.models.load_model(tmp_path / "run" / "sparse.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_decay_is_that_of_pytorch_and_leaves_batch_norm_alone(run, keras, data_dir):
    made = small.options(data_dir, "unused", keras.__name__)
    job = training.Training(small.recipe(weight_decay=2e-3), made, ONE_DEVICE)
    model = job.build()
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    expected = sum(1e-3 * np.square(v.numpy()).sum() for v in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


def test_the_classifier_stays_dense_as_in_the_paper(whole):
    _, summary = whole
    paths = [kernel["path"] for kernel in summary["last"]["kernels"]]
    assert len(paths) == 9
    assert not any("logits" in path for path in paths)


def test_a_training_of_filters_tells_what_shrinking_leaves(run, keras, tmp_path):
    summary = run(sparsity=0.5, structure="filters", allocation="uniform")
    result = summary["last"]
    plain = keras.models.load_model(tmp_path / "run" / result["file"])
    small = dpf_tf.shrink(plain)
    parameters, macs = small.count_params(), dpf_tf.count_macs(small).dense
    assert result["cost"]["shrunk"] == {"parameters": parameters, "macs": macs}
    assert macs < 0.5 * result["macs_dense"]
    (row,) = (x for x in summaries.table(summary).splitlines() if "MACs, shrunk" in x)
    assert f"{macs:,}" in row


def test_a_batch_larger_than_the_data_is_refused(run):
    with pytest.raises(InputError, match=r"more than cifar10 has, 192 examples"):
        run(batch_size=256)


def test_data_may_be_gone_through_several_times_in_an_epoch(run):
    summary = run(
        epochs=1, batch_size=128, mask_period=1, options={"steps_per_epoch": 4}
    )
    assert summary["steps_per_epoch"] == 4


def test_executions_of_several_steps_give_the_same_weights_and_logs(run, tmp_path):
    run(tmp_path / "one", mask_period=6)
    # A validation has two steps, less than an execution.
    run(tmp_path / "three", mask_period=6, options={"steps_per_execution": 3})
    one, three = (small.state(tmp_path / name) for name in ("one", "three"))
    for name, value in one.items():
        np.testing.assert_allclose(
            three[name].astype("float32"), value.astype("float32"), atol=1e-4
        )
    masks, logs = (
        [rows(tmp_path / name / file) for name in ("one", "three")]
        for file in ("masks.csv", "log.csv")
    )
    assert masks[0] == masks[1]
    for left, right in zip(*logs, strict=True):
        for name in ("top1", "val_top1", "val_loss", "val_cross_entropy"):
            assert float(left[name]) == pytest.approx(float(right[name]), abs=1e-3)


def test_the_loss_of_a_validation_is_the_mean_over_the_examples(whole):
    path, summary = whole
    log = rows(path / "log.csv")
    assert 60 % 32  # The last batch is filled up.
    decay = float(log[-1]["loss"]) - float(log[-1]["cross_entropy"])
    expected = summary["last"]["cross_entropy"] + decay
    assert float(log[-1]["val_loss"]) == pytest.approx(expected, abs=1e-3)


def test_executions_that_do_not_fit_the_epoch_are_refused(run):
    with pytest.raises(
        InputError, match="--steps_per_execution=4 does not divide the steps, 6"
    ):
        run(options={"steps_per_execution": 4})
    with pytest.raises(InputError, match="does not divide the mask period, 4"):
        run(options={"steps_per_execution": 3})


def test_the_package_is_used_by_its_public_names_only():
    """A user can do all of this too."""
    import ast
    import pathlib

    root = pathlib.Path(training.__file__).parent
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "dpf_tf" or node.attr in dpf_tf.__all__
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("dpf_tf")
