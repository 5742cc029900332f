"""Under tf.distribute a training equals that of one replica, and costs no collective.

Every strategy has a process of its own, which runs tests/distributed_training.py; the
tests look at what it reports.
"""

import functools

import pytest

import dpf_tf
from tests.helpers import cluster, result_of, run_python, start_python
from tests.test_methods import FORMS

TRAINING = (
    "import runpy; runpy.run_module('tests.distributed_training', None, '__main__')"
)


@functools.cache
def mirrored(keras):
    """Two replicas on two logical CPUs."""
    return run_python(TRAINING, "mirrored", keras)


@functools.cache
def multi_worker(keras):
    """Two workers, processes on this machine."""
    configs = cluster(2)
    processes = [
        start_python(TRAINING, "multi_worker", keras, TF_CONFIG=config)
        for config in configs
    ]
    try:
        return [result_of(process) for process in processes]
    finally:
        for process in processes:  # One that waits for the other has to be told.
            process.kill()


@functools.cache
def schemes(keras):
    """Every scheme on two replicas."""
    return run_python(TRAINING, "schemes", keras)


both = pytest.mark.parametrize("keras", ["keras", "tf_keras"])


@both
def test_mirrored_training_equals_that_of_one_replica(keras):
    assert mirrored(keras)["difference"] < 1e-5


@both
def test_masks_of_all_replicas_are_equal_and_as_sparse_as_asked(keras):
    report = mirrored(keras)
    assert report["masks_like_single"] == [True, True]
    pruned = round(0.8 * report["weights"])
    assert report["pruned"] == [pruned, pruned]


@both
@pytest.mark.parametrize("method", [*dpf_tf.methods.METHODS, "levers", *FORMS])
def test_every_scheme_on_two_replicas_equals_one(keras, method):
    report = schemes(keras)[method]
    assert report["difference"] < 1e-5
    assert report["masks_like_single"] == [True, True]
    if dpf_tf.methods.METHODS.get(method) is dpf_tf.methods.SFP:
        assert len(set(report["pruned"])) == 1  # Of filters the share is exact.
        assert report["pruned"][0] > 0.7 * report["weights"]
    else:
        assert report["pruned"] == [round(0.8 * report["weights"])] * 2


@both
def test_a_pass_for_gradients_leaves_each_replica_its_statistics(keras):
    report = schemes(keras)["pass"]
    assert report["flips"] > 0
    assert report["replicas_differ"]
    assert report["statistics_kept"]


@both
def test_a_subclassed_model_gets_its_masks_under_a_strategy(keras):
    [[pruned, weights]] = mirrored(keras)["subclassed"]
    assert pruned == round(0.8 * weights)


@both
def test_mirrored_step_needs_no_collective_more_than_the_dense_one(keras):
    dense, pruned = mirrored(keras)["collectives"]
    assert dense == pruned
    assert sum(dense.values()) > 0


def test_several_steps_per_execution_work_under_mirrored_tf_keras():
    report = mirrored("tf_keras")
    assert report["executions_error"] is None
    assert report["executions_difference"] < 1e-5


def test_several_steps_per_execution_are_refused_under_mirrored_keras_3():
    message = mirrored("keras")["executions_error"]
    assert message.startswith("ValueError: Keras 3 fails with steps_per_execution > 1")
    assert "tf_keras" in message


@both
def test_jit_is_refused_under_mirrored_on_cpus(keras):
    message = mirrored(keras)["jit_error"]
    assert message.startswith("ValueError: Keras fails to compile a training step")
    assert "jit_compile=False" in message


@both
@pytest.mark.parametrize("where", ["pruned_outside_error", "built_outside_error"])
def test_layers_and_masks_in_different_scopes_are_refused_when_wrapped(keras, where):
    message = mirrored(keras)[where]
    assert message.startswith("ValueError: Layer 'conv' was built in another scope")
    assert "with strategy.scope()" in message


@pytest.mark.slow
@both
def test_training_of_two_workers_equals_that_of_one_replica(keras):
    for report in multi_worker(keras):
        assert report["workers"] == 2
        assert report["difference"] < 1e-5


@pytest.mark.slow
@both
def test_two_workers_have_the_same_weights_and_masks_bit_for_bit(keras):
    digests = {report["digest"] for report in multi_worker(keras)}
    assert len(digests) == 1


@pytest.mark.slow
def test_fit_of_keras_3_under_several_workers_is_warned_of_when_wrapped():
    for report in multi_worker("keras"):
        [message] = report["warnings"]
        assert "`fit` of Keras 3 fails under MultiWorkerMirrored" in message
        assert "tf_keras" in message
        # If this fails, Keras can do it by now and the warning is out of date.
        assert report["fit_error"]


@pytest.mark.slow
def test_fit_of_tf_keras_under_several_workers_works_without_warning():
    for report in multi_worker("tf_keras"):
        assert report["fit_error"] is None
        assert report["warnings"] == []
