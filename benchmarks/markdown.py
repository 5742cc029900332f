"""The parts of a table in Markdown, and of the sentence that says where it is from."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]


def load(name: str) -> dict[str, Any]:
    """Returns the committed result of a benchmark."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def made(record: dict[str, Any]) -> str:
    """Returns the sentence that says how and where a file was made."""
    command = re.sub(r" --out=\S+", "", record["command"])
    return f"`{command}`, {record['date'][:10]}, {where(record)}."


def where(record: dict[str, Any]) -> str:
    """Returns the machine and the versions that a file was made with."""
    machine, versions = record["machine"], record["versions"]
    return (
        f"{machine['cores']} cores of an {machine['cpu']}, TensorFlow "
        f"{versions['tensorflow']}, Keras {versions['keras']}, tf_keras "
        f"{versions['tf_keras']}"
    )


def row(cells: list[str]) -> str:
    """Returns a row of a table."""
    return f"| {' | '.join(cells)} |"


def head(cells: list[str]) -> list[str]:
    """Returns the first two lines of a table."""
    return [row(cells), "|---" * len(cells) + "|"]
