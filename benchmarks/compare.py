r"""The pruning schemes side by side: every cell is a training of official_models.

    python -m benchmarks.compare --data=fashion_mnist --budget=short
    python -m benchmarks.compare --data=cifar10 --budget=short --arms=dpf,dpf_p64

A cell is an arm (a method, with options or without) at a sparsity with a seed; which
there are is in `benchmarks.budgets`. Its result is one JSON file; a cell that has one
is not run again, and one that was broken off goes on where it was, so that the same
command can be given until all are there. All cells of a comparison have the same
recipe, epochs and recalibration of batch norm, and the same settled part at the end;
only `dpf_step` has another learning rate, only `dpf_settle25` another settled part.
One-shot pruning's fine-tuning is counted in. A lottery ticket is trained for as many
epochs again as it took to find its mask; where the arm ends in `_half`, both have half
of the epochs. `benchmarks.compare_table` prints and draws what came of it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from absl import app, flags

from benchmarks import comparison, comparison_flags, record
from benchmarks.budgets import ARMS, BUDGETS
from benchmarks.children import Children
from official_models import data, methods, recipes
from official_models.errors import InputError
from official_models.run_folder import RunFolder

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(comparison_flags)  # So that --help tells of them.
flags.DEFINE_string(
    "data_dir", os.environ.get("TFDS_DATA_DIR"), "Where TFDS's data is."
)
flags.DEFINE_string(
    "runs",
    None,
    "Where trainings are kept until they end. Default: runs/ and --results.",
)
flags.DEFINE_integer("jobs", 1, "Trainings at a time.", lower_bound=1)
flags.DEFINE_integer("threads", 0, "Threads of a training; 0 is all.", lower_bound=0)

TRAININGS = Children()


class TrainingError(Exception):
    """A training of the comparison failed."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of a comparison."""

    data: str
    budget: str
    arm: str
    sparsity: float
    seed: int

    @property
    def name(self) -> str:
        """What the cell's files are called."""
        return comparison.name(self.arm, self.sparsity, self.seed)

    @property
    def result(self) -> pathlib.Path:
        """The file of the result."""
        folder = comparison_flags.results() / f"{self.data}_{self.budget}"
        return folder / f"{self.name}.json"

    @property
    def folder(self) -> pathlib.Path:
        """Where it is trained."""
        return runs() / f"{self.data}_{self.budget}" / self.name

    @property
    def ticket(self) -> Cell | None:
        """The training whose final masks this one takes, if it does."""
        of = ARMS[self.arm].masks_of
        return dataclasses.replace(self, arm=of) if of else None

    @property
    def note(self) -> pathlib.Path:
        """By what the training was begun."""
        return self.folder.parent / f"{self.name}.begun.json"

    @property
    def log(self) -> pathlib.Path:
        """What the training prints."""
        return self.folder.parent / f"{self.name}.log"

    @property
    def method(self) -> Any:
        """The method, in this version of it; `None` for dense training."""
        arm = ARMS[self.arm]
        return methods.get(arm.method, arm.options, self.seed + arm.other_seed)

    @property
    def method_options(self) -> dict[str, Any]:
        """All its options."""
        return self.method.get_config() if self.method else {}

    @property
    def method_defaults(self) -> dict[str, str]:
        """What it does where no flag says otherwise."""
        if not self.method:
            return {}
        schedule = self.method.schedule(self.sparsity)
        return {"allocation": self.method.allocation, "schedule": str(schedule)}

    def command(self) -> list[str]:
        """Returns the command of the training, without its places."""
        budget = BUDGETS[self.data, self.budget]
        arm = ARMS[self.arm]
        return [
            *("python", "-m", "official_models.train"),
            f"--recipe={budget.recipe}",
            *budget.flags,
            *arm.flags,
            f"--sparsity={self.sparsity}",
            f"--seed={self.seed + arm.other_seed}",
            "--keras=tf_keras",
        ]


def runs() -> pathlib.Path:
    """Returns where trainings are kept: other results have other trainings."""
    if FLAGS.runs:
        return pathlib.Path(FLAGS.runs)
    here, results = pathlib.Path.cwd(), comparison_flags.results().resolve()
    inside = results.is_relative_to(here)
    return pathlib.Path("runs", results.relative_to(here if inside else results.anchor))


def is_done(cell: Cell) -> bool:
    """Tells whether a cell has its result.

    Raises:
        UsageError: if what is there was made by other flags, or by a method whose
            options are now others.
    """
    if not cell.result.exists():
        return False
    found = comparison.read(cell.result)
    if not found["command"].startswith(shlex.join(cell.command())):
        raise app.UsageError(
            f"{cell.result} was made by other flags: {found['command']}. Move it and "
            f"{cell.folder} away, or give another --results."
        )
    given = {flag.removeprefix("--").partition("=")[0] for flag in cell.command()}
    budget = BUDGETS[cell.data, cell.budget]
    recipe = dataclasses.asdict(recipes.get(budget.recipe))
    del recipe["source"]  # Words only.
    for name, value in json.loads(json.dumps(recipe)).items():
        if name not in given and found["recipe"].get(name, value) != value:
            raise app.UsageError(
                f"{cell.result} was made by another recipe: {name} was "
                f"{found['recipe'][name]!r} and is {value!r}. Move it and "
                f"{cell.folder} away, or give another --results."
            )
    for now, before in (
        (cell.method_options, found["method_options"]),
        # The first cells do not tell.
        (cell.method_defaults, found.get("method_defaults", cell.method_defaults)),
    ):
        if now != before:
            raise app.UsageError(
                f"{cell.result} was made by {cell.arm} with {before}; now it would be "
                f"made with {now}. Move it and {cell.folder} away, or give another "
                "--results."
            )
    return True


def run(cell: Cell) -> None:
    """Trains a cell, or goes on with it, and writes its result."""
    if RunFolder(cell.folder).summary():
        print(f"{cell.name} was trained before, in {cell.folder}; this is its result.")
    command = train(cell)
    summary = _read_json(cell.folder / "summary.json")
    found = result(cell, summary, command, _read_json(cell.note))
    record.write(cell.result, found)
    print(f"{cell.name}: {found['accuracy']:.4f}", flush=True)
    for part in cell.folder.iterdir():  # The masks are kept, for lottery tickets.
        if part.is_dir() and part.name != "masks":
            shutil.rmtree(part)


def train(cell: Cell) -> str:
    """Runs a training to its end, if it is not there, and returns its command.

    Raises:
        TrainingError: if it fails; what it printed last is in the message. Or if it was
            begun by something else.
    """
    begin(cell)
    command = cell.command()
    if cell.ticket:
        command.append(f"--masks_from={cell.ticket.folder}")
    places = [f"--model_dir={cell.folder}"]
    if FLAGS.data_dir:
        places.append(f"--data_dir={FLAGS.data_dir}")
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    threads = {}
    if FLAGS.threads:
        names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        threads = {name: str(FLAGS.threads) for name in names}
    program = [sys.executable, *command[1:], *places]
    status, printed = TRAININGS.run(program, threads, cell.log)
    if status:
        last = printed.splitlines()[-8:]
        raise TrainingError(
            "\n".join([f"The training of {cell.name} failed. {cell.log} ends:", *last])
        )
    text = shlex.join([*command, "--model_dir=..."])
    return text.replace(f"{runs()}/", "")


def begin(cell: Cell) -> None:
    """Notes by what a training is begun: its result will tell.

    A training that goes on under another commit is named, for its result has the first.

    Raises:
        TrainingError: if it was begun by a method that did something else, or not here.
    """
    defaults = {"method_defaults": cell.method_defaults}
    if not RunFolder(cell.folder).binds():
        record.write(cell.note, defaults)
        return
    if not cell.note.exists():
        raise TrainingError(
            f"{cell.folder} holds a training that this program has not begun. Move it "
            "away, or give another --runs."
        )
    begun = _read_json(cell.note)
    if begun["method_defaults"] != cell.method_defaults:
        raise TrainingError(
            f"{cell.folder} was begun by {cell.arm} with {begun['method_defaults']}; "
            f"now it would be with {cell.method_defaults}. Move it away, or give "
            "another --runs."
        )
    if begun["commit"] != (now := record.commit()):
        print(f"{cell.name} was begun at {begun['commit']}, and goes on at {now}.")


def result(
    cell: Cell, summary: dict[str, Any], command: str, begun: dict[str, Any]
) -> dict[str, Any]:
    """Returns what a cell's file says."""
    last, recipe = summary["last"], summary["recipe"]
    ticket = {}
    if cell.ticket:  # It may have been trained once more since its own result.
        found = _read_json(cell.ticket.folder / "summary.json")
        ticket["masks_from"] = cell.ticket.name
        ticket["masks_from_accuracy"] = found["last"]["top1"]
    return {
        "command": command,
        "commit": begun["commit"],
        "date": summary["date"],
        "versions": begun["versions"],
        "machine": begun["machine"],
        "method": summary["options"]["method"],
        "arm": cell.arm,
        "method_options": summary["method_options"],
        "method_defaults": cell.method_defaults,
        "sparsity": cell.sparsity,
        "seed": cell.seed,
        "accuracy": last["top1"],
        "overall_sparsity": last["sparsity"],
        "epochs": recipe["epochs"],
        "model": recipe["model"],
        "data": cell.data,
        "budget": cell.budget,
        **ticket,
        "recipe": recipe,
        "last": last,
    }


def in_parallel(work: Callable[[Cell], Any], found: list[Cell]) -> None:
    """Does the work on some cells, as many at a time as was asked for."""
    with concurrent.futures.ThreadPoolExecutor(FLAGS.jobs) as pool:
        futures = [pool.submit(work, cell) for cell in found]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException as error:  # What has not begun is not begun.
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, Exception):  # Ctrl-C.
                TRAININGS.end()
            raise


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder, if it is not there.

    Raises:
        UsageError: if it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise app.UsageError(f"{path} is no folder to write into: {error}") from error


def _read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main(arguments: list[str]) -> None:
    choice = comparison_flags.choice(arguments)
    asked = [Cell(choice.data, choice.budget, *cell) for cell in choice.cells()]
    missing = [cell for cell in asked if not is_done(cell)]
    print(f"{len(missing)} of {len(asked)} cells are missing.", flush=True)
    if missing and str(record.commit()).endswith("-dirty"):
        print("The checkout has changes beside its commit. The results will say so.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if missing:
            data.describe(choice.data, FLAGS.data_dir)  # Refuses data not prepared.
            make_folder(comparison_flags.results())
            make_folder(runs())
        in_parallel(run, [cell for cell in missing if not cell.ticket])
        tickets = [cell for cell in missing if cell.ticket]
        in_parallel(train, list({cell.ticket for cell in tickets}))
        in_parallel(run, tickets)
    except (InputError, TrainingError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Broken off. The same command goes on where it was.")


if __name__ == "__main__":
    app.run(main)
