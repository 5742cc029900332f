"""A small data set in CIFAR-10's form, and trainings of official_models on it.

Run by tests/test_official_distribution.py, each time in a process of its own, for the
same reason as tests/distributed_training.py:

    python -m tests.official_training mirrored tf_keras DATA_DIR MODEL_DIR '{}'
"""

import hashlib
import json
import sys

import numpy as np
import tensorflow as tf

import dpf_tf
from official_models import batches, recipes, strategies, training
from official_models.options import Options
from tests.distributed_training import collectives, replicas

TRAIN, TEST, BATCH, EPOCHS = 192, 60, 32, 4  # 24 steps, 6 in an epoch.


def prepare_data(path):
    """Writes noisy images whose brightness tells their label, as TFDS would."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)

    def examples(count):
        for i, label in enumerate(rng.integers(0, 10, count)):
            image = rng.normal(60 + 15 * label, 40, (32, 32, 3)).clip(0, 255)
            yield i, {"image": image.astype("uint8"), "label": label, "id": f"{i}"}

    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version="3.0.2",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(num_classes=10),
                "id": tfds.features.Text(),
            }
        ),
        split_datasets={"train": examples(TRAIN), "test": examples(TEST)},
        data_dir=str(path),
    )


def recipe(**changes):
    """ResNet-8 in float32, with a mask update every 4 steps."""
    small = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "learning_rate": 0.05,
        "dtype_policy": "float32",
        "mask_period": 4,
        "ramp_end": 0.5,
    }
    return recipes.get("cifar10_resnet8_short").changed(**small | changes)


def options(data_dir, model_dir, keras, **changes):
    names = {"data_dir": str(data_dir), "model_dir": str(model_dir), "keras": keras}
    return Options(**names | changes)


def state(model_dir, stage="training"):
    """Dense kernels, masks, momentum: all numbers in the last checkpoint of a stage."""
    path = tf.train.latest_checkpoint(f"{model_dir}/checkpoints/{stage}")
    reader = tf.train.load_checkpoint(path)
    names = sorted(reader.get_variable_to_shape_map())
    found = {name: np.asarray(reader.get_tensor(name)) for name in names}
    return {name: x for name, x in found.items() if x.dtype.kind in "bif"}


def train(strategy, keras, data_dir, model_dir, method="dpf", **changes):
    """A training whose batch norm sees the whole batch; else it makes the difference.

    Small steps, and a decay that shows in them. In larger ones a rounding that lifts a
    unit over ReLU's kink, or a weight over the threshold, soon makes another training.
    """
    made = options(
        data_dir,
        model_dir,
        keras,
        method=method,
        synchronized_batch_norm=True,
        steps_per_epoch=changes.pop("steps_per_epoch", None),
    )
    small = {"learning_rate": 2e-4, "weight_decay": 1.0}
    job = training.Training(recipe(**small | changes), made, strategy)
    job.run()
    return job


def main(name, keras, data_dir, model_dir, **changes):
    if name == "mirrored":
        [cpu] = tf.config.list_physical_devices("CPU")
        halves = [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
        tf.config.set_logical_device_configuration(cpu, halves)
    strategy = strategies.make(name)
    job = train(strategy, keras, data_dir, f"{model_dir}/dpf", **changes)
    masks = replicas(strategy, job.model)
    report = {
        "replicas": strategy.num_replicas_in_sync,
        "masks": [hashlib.md5(mask.tobytes()).hexdigest() for mask in masks],
        "pruned": [int((~mask).sum()) for mask in masks],
        "weights": [mask.size for mask in masks],
    }
    if not changes:
        places = keras, data_dir, f"{model_dir}/dense"
        dense = train(strategy, *places, method="dense", epochs=1)
        dpf_tf.freeze_masks(job.model)  # Else a step outside `fit` would be refused.
        dataset = batches.training(
            strategy,
            job.info,
            global_batch=BATCH,
            steps_per_epoch=1,
            first_epoch=0,
            epochs=1,
            seed=0,
        )
        batch = next(iter(dataset))
        report["collectives"] = [
            collectives(strategy, each.model, batch) for each in (dense, job)
        ]
    return report


if __name__ == "__main__":
    *arguments, changes = sys.argv[1:]
    print(json.dumps(main(*arguments, **json.loads(changes))))
