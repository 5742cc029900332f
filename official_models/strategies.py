"""The strategies of tf.distribute that a training can run under.

Make the strategy before anything else runs in TensorFlow, and one in a process.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from official_models.errors import InputError

NAMES = ("one_device", "mirrored", "multi_worker_mirrored", "tpu")
CLUSTERS = ("tf_config", "slurm")

_KERAS_3_ALONE = (
    "Keras 3 itself fails in `fit` under MultiWorkerMirroredStrategy. Give "
    "--keras=tf_keras, which can."
)


def make(
    name: str, *, keras: str = "tf_keras", cluster: str = "tf_config", tpu: str = ""
) -> Any:
    """Returns a strategy by name.

    Args:
        name: `"one_device"`; `"mirrored"`, all GPUs of this machine (without any, its
            logical CPUs); `"multi_worker_mirrored"`, all machines of a cluster;
            `"tpu"`.
        keras: the Keras that is to be trained with, `"keras"` or `"tf_keras"`: what it
            cannot do is refused before workers wait for each other.
        cluster: who knows the machines of a cluster: `"tf_config"`, the environment
            variable TF_CONFIG, or `"slurm"`.
        tpu: name or address of a TPU; `"local"` on a TPU VM.

    Raises:
        InputError: if the cluster or the TPU cannot be found, or if several workers
            were started that would not know of each other.
    """
    if name == "multi_worker_mirrored" and keras == "keras":
        raise InputError(_KERAS_3_ALONE)
    if name != "multi_worker_mirrored" and (cluster == "slurm" or _workers() > 1):
        raise InputError(
            f"This is one of several workers, each of which would train by itself with "
            f"--distribution_strategy={name}, in the same folder. Give "
            "--distribution_strategy=multi_worker_mirrored; for a training of one "
            "worker, unset TF_CONFIG and leave out --cluster."
        )
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = tf.config.list_logical_devices(kind)
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multi_worker_mirrored":
        return tf.distribute.MultiWorkerMirroredStrategy(resolver(cluster))
    if name == "tpu":
        return _tpu(tpu)
    raise InputError(
        f"There is no strategy {name!r}. Known strategies: {', '.join(NAMES)}"
    )


def _workers() -> int:
    """Returns how many tasks TF_CONFIG tells of."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    return sum(map(len, resolver.cluster_spec().as_dict().values()))


def _slurm() -> Any:
    # The resolver divides the GPUs of a machine among its tasks. It fails where there
    # are none, or where Slurm has divided them: then each task takes what it sees.
    given = {"gpus_per_node": 1024, "gpus_per_task": 1, "auto_set_gpu": False}
    failed = None
    for options in ({}, given):
        try:
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(**options)
            resolver.cluster_spec()
            return resolver
        except Exception as error:  # In many ways, outside of a Slurm step.
            failed = error
    raise InputError(
        "Slurm's cluster cannot be resolved. Start the training by `srun`, one task "
        "for each worker; without Slurm use --cluster=tf_config. TensorFlow says: "
        f"{failed!r}"
    ) from failed


def resolver(cluster: str) -> Any:
    """Returns who knows the workers, `"tf_config"` or `"slurm"`.

    Raises:
        InputError: if it knows of none.
    """
    if cluster == "slurm":
        return _slurm()
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if not resolver.cluster_spec().jobs:
        raise InputError(
            "--distribution_strategy=multi_worker_mirrored needs to know the workers. "
            'Set TF_CONFIG in each of them, for example to \'{"cluster": '
            '{"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", '
            '"index": 0}}\', or give --cluster=slurm.'
        )
    return resolver


def _tpu(tpu: str) -> Any:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"No TPU can be reached by --tpu={tpu!r}. On a TPU VM use --tpu=local, "
            f"with TensorFlow's build for TPUs. TensorFlow says: {reason}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def is_multi_worker(strategy: Any) -> bool:
    """Whether the strategy is that of several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def worker(strategy: Any) -> int:
    """Returns the number of this process among the workers; 0 writes the files."""
    if not is_multi_worker(strategy):
        return 0
    resolver = strategy.cluster_resolver
    chiefs = resolver.cluster_spec().as_dict().get("chief", [])
    if resolver.task_type == "chief":
        return 0
    return resolver.task_id + len(chiefs)


def agree(strategy: Any, numbers: list[int]) -> bool:
    """Whether all workers have passed the same numbers here; each waits for the others.

    Args:
        strategy: the strategy of the training.
        numbers: from 0 to 2**63 - 1.
    """
    if not is_multi_worker(strategy):
        return True
    row = tf.constant([numbers], tf.int64)
    rows = strategy.gather(strategy.run(lambda: row), axis=0).numpy()
    return bool((rows == rows[0]).all())


def refuse_what_keras_cannot(
    strategy: Any, keras: Any, steps_per_execution: int, jit_compile: bool
) -> None:
    """Raises where Keras itself fails, and names the flag that mends it.

    Raises:
        InputError: if the Keras of this training does not carry the strategy or the
            options.
    """
    replicas = strategy.num_replicas_in_sync
    keras_3 = keras.__name__ == "keras"
    if keras_3 and is_multi_worker(strategy):
        raise InputError(_KERAS_3_ALONE)
    if keras_3 and replicas > 1 and steps_per_execution > 1:
        raise InputError(
            f"Keras 3 itself fails with several steps in an execution on {replicas} "
            "replicas. Give --steps_per_execution=1, or --keras=tf_keras, which can."
        )
    gpus = tf.config.list_physical_devices("GPU")
    if jit_compile and replicas > 1 and not gpus and not _is_tpu(strategy):
        raise InputError(
            "Keras itself fails to compile a step with XLA on several CPU replicas. "
            "Give --nojit_compile."
        )


def _is_tpu(strategy: Any) -> bool:
    return isinstance(strategy, tf.distribute.TPUStrategy)
