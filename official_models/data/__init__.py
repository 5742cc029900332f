"""Data of the official models: batches that depend on nothing but seed and step.

    info = data.describe("cifar10", data_dir=None)
    train = data.training(
        info, global_batch=128, steps_per_epoch=390, first_epoch=0, epochs=300, seed=0
    )
    test = data.evaluation(info, global_batch=128)

The data sets are read as TFDS has prepared them; nothing is ever downloaded here.
"""

from official_models.data.info import DataInfo, describe
from official_models.data.pipelines import evaluation, evaluation_steps, training

__all__ = [
    "DataInfo",
    "describe",
    "training",
    "evaluation",
    "evaluation_steps",
]
