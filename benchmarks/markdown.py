"""The parts of a table in Markdown, and of the sentence that says where it is from."""

from __future__ import annotations

import collections
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
    command = re.sub(r" --out[= ]\S+", "", record["command"])
    return f"`{command}`, {record['date'][:10]}, {where(record)}."


def where(*records: dict[str, Any]) -> str:
    """Returns the machines and the versions that some files were made with."""
    counts = collections.Counter(
        f"{record['machine']['cores']} cores of an {record['machine']['cpu']}"
        for record in records
    )
    machines = [
        f"{machine} ({count})" if len(counts) > 1 else machine
        for machine, count in counts.most_common()
    ]
    software = dict.fromkeys(
        f"TensorFlow {versions['tensorflow']}, Keras {versions['keras']}, tf_keras "
        f"{versions['tf_keras']}"
        for versions in (record["versions"] for record in records)
    )
    return ", ".join([" and ".join(machines), *software])


def row(cells: list[str]) -> str:
    """Returns a row of a table."""
    return f"| {' | '.join(cells)} |"


def head(cells: list[str]) -> list[str]:
    """Returns the first two lines of a table."""
    return [row(cells), "|---" * len(cells) + "|"]
