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
    """Returns the machines and the versions that some files were made with.

    Machines with processors of the same name are told apart by their memory.
    """
    hosts = collections.Counter(
        (f"{machine['cores']} cores of an {machine['cpu']}", machine.get("memory"))
        for machine in (record["machine"] for record in records)
    )
    counts: dict[str, list[str]] = {}
    for (processor, _), count in hosts.most_common():
        counts.setdefault(processor, []).append(str(count))
    machines = [
        f"{processor} ({', on another machine '.join(each)})"
        if len(hosts) > 1
        else processor
        for processor, each in counts.items()
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
