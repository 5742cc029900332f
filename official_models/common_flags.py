"""The flags that all programs here share."""

from __future__ import annotations

import sys
from collections.abc import Callable

from absl import app, flags, logging

from official_models.errors import InputError

flags.DEFINE_string(
    "model_dir", None, "Folder of the training: its settings, logs, states and models."
)
flags.DEFINE_string(
    "data_dir", None, "Where TFDS keeps its data. Default: TFDS's own default."
)


def run(main: Callable[[], None]) -> None:
    """Runs a program that takes flags only, and prints what the user can mend."""

    def checked(arguments: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # TensorFlow has asked for more.
        try:
            if len(arguments) > 1:
                raise InputError(f"These arguments are no flags: {arguments[1:]}")
            main()
        except InputError as error:
            sys.exit(f"Error: {error}")

    app.run(checked)


def required(name: str) -> str:
    """Returns the value of a flag that cannot be left out.

    Raises:
        InputError: if it was.
    """
    value = flags.FLAGS[name].value
    if not value:
        raise InputError(f"--{name} is missing. {flags.FLAGS[name].help}")
    return value
