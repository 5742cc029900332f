"""Tells how the masks of a finished training moved, and draws it.

    python -m official_models.train --record_masks --model_dir=run ...
    python -m official_models.analyze --model_dir=run

Writes `analysis.json` and `analysis.png` into the folder of the training.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from absl import flags

from official_models import common_flags, mask_analysis
from official_models.errors import InputError
from official_models.mask_analysis import Analysis
from official_models.run_folder import RunFolder

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common_flags)  # So that --help tells of them.


def main() -> None:
    """Analyzes, prints, writes and draws."""
    path = pathlib.Path(common_flags.required("model_dir"))
    history = RunFolder(path).history
    final = history.final()
    if not history.steps():
        raise InputError(
            f"{str(path)!r} has the last masks of its training only. Train with "
            "--record_masks to keep those of all updates."
        )
    analysis = mask_analysis.analyze(history.updates(), final)
    print(table(analysis))
    text = json.dumps(content(analysis), indent=2) + "\n"
    (path / "analysis.json").write_text(text, encoding="utf-8")
    draw(analysis, path / "analysis.png")


def content(analysis: Analysis) -> dict[str, Any]:
    """Returns what `analysis.json` says."""
    return {"came_back": analysis.came_back, **dataclasses.asdict(analysis)}


def table(analysis: Analysis) -> str:
    """Returns a line for each kernel, and one for all."""
    width = max(len(kernel.path) for kernel in analysis.kernels)
    lines = [f"{'kernel':{width}}     weights        kept  sparsity  of the kept, back"]
    lines += [
        f"{k.path:{width}}  {k.weights:10,}  {k.kept:10,}  {k.sparsity:8.4f}  "
        f"{k.came_back / max(1, k.kept):17.2%}"
        for k in analysis.kernels
    ]
    weights, kept = (
        sum(getattr(k, name) for k in analysis.kernels) for name in ("weights", "kept")
    )
    lines.append(
        f"{'all':{width}}  {weights:10,}  {kept:10,}  {1 - kept / weights:8.4f}  "
        f"{analysis.came_back:17.2%}"
    )
    return "\n".join(lines)


def draw(analysis: Analysis, path: pathlib.Path) -> None:
    """Draws flips, the likeness to the final mask, and the sparsity of each kernel."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "The figure needs matplotlib: pip install 'dpf_tf[demo]'. analysis.json "
            "is written."
        ) from error
    figure = Figure(figsize=(7.2, 8), layout="constrained")
    flips, iou, kernels = figure.subplots(3)
    steps = [update.step for update in analysis.updates]
    flips.plot(steps, [update.flips for update in analysis.updates], linewidth=1)
    flips.set_yscale("log")
    flips.set_ylabel("share of the masks\nthat an update flips")
    iou.plot(steps, [update.iou for update in analysis.updates], label="IoU")
    iou.plot(steps, [u.sparsity for u in analysis.updates], "--", label="sparsity")
    iou.set_ylabel("likeness to the final mask")
    iou.set_xlabel("step")
    iou.legend()
    flips.sharex(iou)
    places = range(len(analysis.kernels))
    kernels.bar(places, [kernel.sparsity for kernel in analysis.kernels], color="0.75")
    back = [kernel.came_back / max(1, kernel.kept) for kernel in analysis.kernels]
    kernels.plot(places, back, "o", label="share of its kept weights that came back")
    kernels.set_xticks(
        places, [k.path for k in analysis.kernels], rotation=90, fontsize="x-small"
    )
    kernels.set_ylabel("final sparsity (bars)")
    kernels.set_ylim(0, 1)
    kernels.legend(fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    common_flags.run(main)
