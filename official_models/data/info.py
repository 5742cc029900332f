"""What is known of a data set before its examples are read, and where it lies."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shlex
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from official_models.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """A prepared data set.

    Attributes:
        name: The name that TFDS gives it.
        version: The version found, such as "3.0.2".
        directory: The folder of that version.
        classes: The number of classes.
        image_shape: Height, width and channels of an image as a model gets it.
        train_examples: The number of examples to train on.
        eval_examples: The number of examples in the test or validation split.

    Examples:
        >>> from official_models import data
        >>> info = data.DataInfo(
        ...     name="cifar10",
        ...     version="3.0.2",
        ...     directory="/data/cifar10/3.0.2",
        ...     classes=10,
        ...     image_shape=(32, 32, 3),
        ...     train_examples=50_000,
        ...     eval_examples=10_000,
        ... )
        >>> data.evaluation_steps(info, global_batch=128)
        79
    """

    name: str
    version: str
    directory: str
    classes: int
    image_shape: tuple[int, int, int]
    train_examples: int
    eval_examples: int


# Name: shape of an image, split to evaluate on, and what else TFDS needs to prepare it.
_KNOWN = {
    "cifar10": ((32, 32, 3), "test", ""),
    "fashion_mnist": ((28, 28, 1), "test", ""),
    "imagenet2012": (
        (224, 224, 3),
        "validation",
        "\nbut first download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
        "from image-net.org into {data_dir}/downloads/manual",
    ),
}


def describe(name: str, data_dir: str | os.PathLike[str] | None = None) -> DataInfo:
    """Finds a prepared data set; of several versions, the highest.

    Args:
        name: "cifar10", "fashion_mnist" or "imagenet2012".
        data_dir: TFDS's folder of data sets, also on gs://. By default what the
            environment variable TFDS_DATA_DIR says, else ~/tensorflow_datasets.

    Raises:
        InputError: if the name is unknown, or the data set is not prepared, not
            completely, or not as TFRecord files. The message says how to prepare it.

    Examples:
        >>> from official_models import data
        >>> data.describe("cifar10", data_dir="/nowhere")
        Traceback (most recent call last):
            ...
        official_models.errors.InputError: cifar10 is not prepared: ...
    """
    if name not in _KNOWN:
        raise InputError(f"no data set {name!r}; there are {', '.join(_KNOWN)}")
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data_dir = os.path.expanduser(os.fspath(data_dir))
    # Looked for by hand: asked for a data set that is not there, TFDS would first try
    # the network, and where there is none that takes minutes.
    directory = _latest(os.path.join(data_dir, name))
    if directory is None:
        raise InputError(
            f"{name} is not prepared: {os.path.join(data_dir, name)} has no "
            "<version>/dataset_info.json. Name another folder (data_dir, or the "
            "environment variable TFDS_DATA_DIR), or prepare the data set:\n"
            + _how_to_prepare(name, data_dir)
        )
    builder.cache_clear()  # It may have been prepared again.
    shape, eval_split, _ = _KNOWN[name]
    fault = _fault(directory, ["train", eval_split])
    if fault:
        # TFDS would not write a finished version again.
        raise InputError(
            f"{name} is not prepared as it must be: {directory} has {fault}. Remove "
            "that folder, and prepare the data set again:\n"
            + _how_to_prepare(name, data_dir)
        )
    facts = builder(directory).info
    return DataInfo(
        name=name,
        version=str(facts.version),
        directory=directory,
        classes=facts.features["label"].num_classes,
        image_shape=shape,
        train_examples=facts.splits["train"].num_examples,
        eval_examples=facts.splits[eval_split].num_examples,
    )


@functools.cache
def builder(directory: str) -> Any:
    """Returns TFDS's reader of a prepared data set."""
    return tfds.builder_from_directory(directory)


def files(directory: str, split: str) -> list[str]:
    """Returns the paths of a split's files."""
    return [str(path) for path in builder(directory).info.splits[split].filepaths]


def eval_split(info: DataInfo) -> str:
    """Returns the name of the split to evaluate on."""
    return _KNOWN[info.name][1]


def _latest(folder: str) -> str | None:
    """Returns the folder of the highest version that TFDS has finished preparing."""
    versions = {}
    for path in tf.io.gfile.glob(os.path.join(folder, "*", "dataset_info.json")):
        directory = os.path.dirname(path)
        # Folders of another form are unfinished.
        if re.fullmatch(r"\d+\.\d+\.\d+", os.path.basename(directory)):
            version = os.path.basename(directory).split(".")
            versions[tuple(map(int, version))] = directory
    return versions[max(versions)] if versions else None


def _fault(directory: str, splits: list[str]) -> str | None:
    """Returns why the examples of these splits cannot be read, if so."""
    facts = builder(directory).info
    if facts.file_format.value != "tfrecord":
        return f"files in the format {facts.file_format.value}, not tfrecord"
    missing = [f"split {split!r}" for split in splits if split not in facts.splits]
    if not missing:
        there = set(tf.io.gfile.listdir(directory))
        names = [os.path.basename(p) for s in splits for p in files(directory, s)]
        missing = [name for name in names if name not in there]
    if not missing:
        return None
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"no {', '.join(missing[:3])}{more}"


def _how_to_prepare(name: str, data_dir: str) -> str:
    # A string of JSON is one of Python, and its quotes are not those of the shell.
    folder = json.dumps(data_dir, ensure_ascii=False)
    # Not the `tfds` program: it does not start without Apache Beam.
    code = (
        "import tensorflow_datasets as tfds; "
        f'tfds.builder("{name}", data_dir={folder}).download_and_prepare()'
    )
    return f"    python -c {shlex.quote(code)}" + _KNOWN[name][2].format(
        data_dir=data_dir
    )
