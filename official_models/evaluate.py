"""Measures a model that a training has left, on the whole test set.

python -m official_models.evaluate --model_dir=... [--which=best]
"""

from __future__ import annotations

import importlib
import pathlib

from absl import flags

from official_models import common_flags, data, summaries
from official_models.errors import InputError
from official_models.run_folder import RunFolder

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common_flags)  # So that --help tells of them.

flags.DEFINE_enum("which", "last", ["last", "best"], "Which model of the training.")


def main() -> None:
    """Loads the plain Keras model, measures it and prints the table."""
    path = pathlib.Path(common_flags.required("model_dir"))
    summary = RunFolder(path).summary()
    if summary is None:
        raise InputError(
            f"{str(path)!r} holds no finished training: it has no summary.json. Give "
            "the --model_dir of official_models.train, after it has ended."
        )
    if FLAGS.which not in summary:
        raise InputError(
            "This training has no best model: no epoch ended at its final sparsity. "
            "Give --which=last."
        )
    keras = importlib.import_module(summary["options"]["keras"])
    info = data.describe(
        summary["recipe"]["data"], FLAGS.data_dir or summary["options"]["data_dir"]
    )
    noted = summary[FLAGS.which]
    model = keras.models.load_model(path / noted["file"])
    found = summaries.measured(keras, model, info)
    print(summaries.table({FLAGS.which: noted | found}))
    if abs(found["top1"] - noted["top1"]) > 1e-3:
        print(f"The training noted a top-1 accuracy of {noted['top1']:.4f}.")


if __name__ == "__main__":
    common_flags.run(main)
