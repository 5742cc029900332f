"""What is told of a training's masks, against masks made by hand."""

import itertools
import json

import numpy as np
import pytest

from official_models import analyze, mask_analysis
from official_models.errors import InputError
from official_models.mask_history import MaskHistory


def random_walk(updates=6, seed=3):
    """Masks of two kernels, at growing sparsity."""
    rng = np.random.default_rng(seed)
    shapes = {"a/kernel": (6, 5), "b/kernel": (3, 3, 2, 4)}
    return [
        (
            16 * i,
            {path: rng.random(s) > 0.7 * i / updates for path, s in shapes.items()},
        )
        for i in range(updates)
    ]


def flat(masks):
    return np.concatenate([mask.ravel() for mask in masks.values()])


def test_every_figure_is_that_of_a_count_by_hand():
    walk = random_walk()
    final = walk[-1][1]
    found = mask_analysis.analyze(iter(walk), final)
    end, before, once = flat(final), np.ones(102, bool), np.zeros(102, bool)
    for (step, masks), update in zip(walk, found.updates, strict=True):
        now = flat(masks)
        both = sum(1 for a, b in zip(now, end, strict=True) if a and b)
        either = sum(1 for a, b in zip(now, end, strict=True) if a or b)
        assert update.step == step
        assert update.sparsity == pytest.approx(1 - now.mean())
        assert update.flips == pytest.approx((now != before).mean())
        assert update.iou == pytest.approx(both / either)
        before, once = now, once | ~now
    assert found.updates[-1].iou == 1
    assert 0 < found.came_back < 1
    assert found.came_back == pytest.approx((end & once).sum() / end.sum())
    a = final["a/kernel"]
    assert (found.kernels[0].path, found.kernels[0].weights) == ("a/kernel", 30)
    assert found.kernels[0].sparsity == pytest.approx(1 - a.mean())
    assert found.kernels[0].came_back == (once[:30] & a.ravel()).sum()


def test_masks_that_only_shrink_have_nothing_that_came_back():
    rng = np.random.default_rng(0)
    scores = rng.random((7, 7))
    walk = [(i, {"w": scores > i / 10}) for i in range(8)]
    found = mask_analysis.analyze(walk, walk[-1][1])
    assert found.came_back == 0
    assert all(a.iou <= b.iou for a, b in itertools.pairwise(found.updates))


def test_masks_are_read_as_they_were_written_in_the_order_of_steps(tmp_path):
    history = MaskHistory(tmp_path / "masks")
    walk = random_walk()
    for step, masks in reversed(walk):
        history.write(step, masks)
    history.write_final(walk[-1][1])
    for (step, masks), (found_step, found) in zip(walk, history.updates(), strict=True):
        assert step == found_step
        assert found.keys() == masks.keys()
        for path, mask in masks.items():
            np.testing.assert_array_equal(found[path], mask)
    history.forget_after(16 * 4)
    assert history.steps() == [16 * i for i in range(4)]
    np.testing.assert_array_equal(flat(history.final()), flat(walk[-1][1]))


def test_a_training_without_masks_tells_what_to_give(tmp_path):
    with pytest.raises(InputError, match="no masks of a finished training"):
        MaskHistory(tmp_path / "masks").final()


def test_the_figure_and_the_table_are_made(tmp_path):
    walk = random_walk()
    analysis = mask_analysis.analyze(walk, walk[-1][1])
    analyze.draw(analysis, tmp_path / "analysis.png")
    assert (tmp_path / "analysis.png").stat().st_size > 10_000
    lines = analyze.table(analysis).splitlines()
    assert [line.split()[0] for line in lines] == [
        "kernel",
        "a/kernel",
        "b/kernel",
        "all",
    ]
    assert lines[-1].endswith(f"{analysis.came_back:.2%}")
    assert len({len(line) for line in lines}) == 1
    json.dumps(analyze.content(analysis))
