r"""The pruning schemes side by side: every cell is a training of official_models.

    python -m benchmarks.compare --data=fashion_mnist --budget=short
    python -m benchmarks.compare --data=cifar10 --budget=short --arms=dpf,dpf_p64

A cell is an arm (a method, with options or without) at a sparsity with a seed; which
there are is in `benchmarks.budgets`. Its result is one JSON file; a cell that has one
is not run again, and one that was broken off goes on where it was, so that the same
command can be given until all are there. All cells of a comparison have the same
recipe, epochs, settled part and recalibration of batch norm; one-shot pruning's
fine-tuning is counted in. A lottery ticket is trained for as many epochs again as it
took to find its mask. `benchmarks.compare_table` prints and draws what came of it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags

from benchmarks import record
from benchmarks.budgets import ARMS, BUDGETS, Budget
from benchmarks.comparison import RESULTS
from official_models import recipes

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "data", None, ["cifar10", "fashion_mnist"], "The data.", required=True
)
flags.DEFINE_string("budget", "short", "What is compared, for how long; see BUDGETS.")
flags.DEFINE_list("arms", None, "Which arms. Default: those of the budget.")
flags.DEFINE_list("sparsities", None, "Which. Default: those of the budget.")
flags.DEFINE_list("seeds", None, "Which. Default: those of the budget.")
flags.DEFINE_string(
    "data_dir", os.environ.get("TFDS_DATA_DIR"), "Where TFDS's data is."
)
flags.DEFINE_string("runs", "runs/compare", "Where trainings are kept until they end.")
flags.DEFINE_string("results", str(RESULTS), "Where the results are, and come to.")
flags.DEFINE_integer("jobs", 1, "Trainings at a time.", lower_bound=1)
flags.DEFINE_integer("threads", 0, "Threads of a training; 0 is all.", lower_bound=0)


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
        share = "" if self.arm == "dense" else f"_{100 * self.sparsity:g}"
        return f"{self.arm}{share}_seed{self.seed}"

    @property
    def result(self) -> pathlib.Path:
        """The file of the result."""
        folder = pathlib.Path(FLAGS.results) / f"{self.data}_{self.budget}"
        return folder / f"{self.name}.json"

    @property
    def folder(self) -> pathlib.Path:
        """Where it is trained."""
        return pathlib.Path(FLAGS.runs) / f"{self.data}_{self.budget}" / self.name

    @property
    def ticket(self) -> Cell | None:
        """The training whose final masks this one takes, if it does."""
        of = ARMS[self.arm].masks_of
        return dataclasses.replace(self, arm=of) if of else None

    def command(self) -> list[str]:
        """Returns the command of the training, without its places."""
        budget = budget_of(self.data, self.budget)
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


def budget_of(data: str, budget: str) -> Budget:
    """Returns what a comparison's cells have in common."""
    if (data, budget) not in BUDGETS:
        known = ", ".join(f"--data={d} --budget={b}" for d, b in BUDGETS)
        raise app.UsageError(f"There is no {budget!r} for {data}. Known: {known}")
    return BUDGETS[data, budget]


def cells() -> list[Cell]:
    """Returns the cells that were asked for: first seed 0 of all, then the next."""
    budget = budget_of(FLAGS.data, FLAGS.budget)
    if unknown := set(FLAGS.arms or []) - ARMS.keys():
        raise app.UsageError(
            f"Unknown arms: {', '.join(sorted(unknown))}. Known: {', '.join(ARMS)}"
        )
    sparsities = [float(s) for s in FLAGS.sparsities or budget.sparsities]
    found = [
        Cell(
            FLAGS.data,
            FLAGS.budget,
            arm,
            0.0 if arm == "dense" else sparsity,
            int(seed),
        )
        for seed in FLAGS.seeds or budget.seeds
        for sparsity in sparsities
        for arm in FLAGS.arms or budget.arms
    ]
    return list(dict.fromkeys(found))  # Dense training has no sparsity.


def is_done(cell: Cell) -> bool:
    """Tells whether a cell has its result.

    Raises:
        UsageError: if what is there was made by other flags.
    """
    if not cell.result.exists():
        return False
    found = json.loads(cell.result.read_text(encoding="utf-8"))
    if not found["command"].startswith(shlex.join(cell.command())):
        raise app.UsageError(
            f"{cell.result} was made by other flags: {found['command']}. Move it away, "
            "or give another --results."
        )
    given = {flag.removeprefix("--").partition("=")[0] for flag in cell.command()}
    recipe = dataclasses.asdict(recipes.get(budget_of(cell.data, cell.budget).recipe))
    for name, value in json.loads(json.dumps(recipe)).items():
        if name not in given and found["recipe"].get(name, value) != value:
            raise app.UsageError(
                f"{cell.result} was made by another recipe: {name} was "
                f"{found['recipe'][name]!r} and is {value!r}. Move it away, or give "
                "another --results."
            )
    return True


def run(cell: Cell) -> None:
    """Trains a cell, or goes on with it, and writes its result."""
    command = train(cell)
    summary = json.loads((cell.folder / "summary.json").read_text(encoding="utf-8"))
    found = result(cell, summary, command)
    record.write(cell.result, found)
    print(f"{cell.name}: {found['accuracy']:.4f}", flush=True)
    for part in cell.folder.iterdir():  # The masks are kept, for lottery tickets.
        if part.is_dir() and part.name != "masks":
            shutil.rmtree(part)


def find_masks(cell: Cell) -> None:
    """Trains a cell, if its masks are not there any more."""
    if not (cell.folder / "masks" / "final.npz").exists():
        train(cell)


def train(cell: Cell) -> str:
    """Runs a training to its end, and returns its command."""
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
    with cell.folder.with_suffix(".log").open("a", encoding="utf-8") as output:
        subprocess.run(
            [sys.executable, *command[1:], *places],
            env=os.environ | threads,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
        )
    text = shlex.join([*command, "--model_dir=..."])
    return text.replace(f"{FLAGS.runs}/", "")


def result(cell: Cell, summary: dict[str, Any], command: str) -> dict[str, Any]:
    """Returns what a cell's file says."""
    last, recipe = summary["last"], summary["recipe"]
    return {
        "command": command,
        "method": summary["options"]["method"],
        "arm": cell.arm,
        "method_options": list(summary["options"]["method_options"]),
        "sparsity": cell.sparsity,
        "seed": cell.seed,
        "accuracy": last["top1"],
        "overall_sparsity": last["sparsity"],
        "epochs": recipe["epochs"],
        "model": recipe["model"],
        "data": cell.data,
        "budget": cell.budget,
        "recipe": recipe,
        "last": last,
    }


def in_parallel(work: Callable[[Cell], None], found: list[Cell]) -> None:
    """Does the work on some cells, as many at a time as was asked for."""
    with concurrent.futures.ThreadPoolExecutor(FLAGS.jobs) as pool:
        futures = [pool.submit(work, cell) for cell in found]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:  # Ctrl-C too: what has not begun is not begun.
            pool.shutdown(cancel_futures=True)
            raise


def main(_: list[str]) -> None:
    asked = cells()
    missing = [cell for cell in asked if not is_done(cell)]
    print(f"{len(missing)} of {len(asked)} cells are missing.", flush=True)
    in_parallel(run, [cell for cell in missing if not cell.ticket])
    tickets = [cell for cell in missing if cell.ticket]
    in_parallel(find_masks, list({cell.ticket for cell in tickets}))
    in_parallel(run, tickets)


if __name__ == "__main__":
    app.run(main)
