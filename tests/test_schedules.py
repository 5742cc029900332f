"""Schedules: the ramp, the steps at which masks are due, and what is refused."""

import itertools
import subprocess
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given

import dpf_tf
from dpf_tf.schedules import as_schedule
from tests.helpers import PATIENCE

sparsities = st.floats(0, 1, exclude_max=True)
steps = st.integers(0, 10_000)


@st.composite
def ramps(draw):
    begin, length = draw(steps), draw(steps)
    low, high = sorted([draw(sparsities), draw(sparsities)])
    return dpf_tf.PolynomialDecay(
        initial_sparsity=low,
        final_sparsity=high,
        begin_step=begin,
        end_step=begin + length,
        power=draw(st.floats(0.5, 5)),
        frequency=draw(st.integers(1, 100)),
    )


@given(ramps(), st.lists(steps, min_size=2))
def test_the_ramp_never_falls_and_stays_between_its_ends(ramp, at):
    values = [ramp(step)[1] for step in sorted(at)]
    assert values == sorted(values)
    assert all(ramp.initial_sparsity <= s <= ramp.final_sparsity for s in values)


@given(ramps())
def test_the_ramp_meets_both_ends_exactly(ramp):
    assert ramp(ramp.end_step)[1] == ramp.final_sparsity
    if ramp.begin_step < ramp.end_step:
        assert ramp(ramp.begin_step)[1] == ramp.initial_sparsity


@given(ramps(), steps)
def test_due_steps_are_one_frequency_apart(ramp, step):
    due = [t for t in range(step, step + 3 * ramp.frequency) if ramp(t)[0]]
    assert all(b - a == ramp.frequency for a, b in itertools.pairwise(due))
    assert all(t >= ramp.begin_step for t in due)
    if step >= ramp.begin_step:
        assert len(due) == 3


@given(ramps(), steps)
def test_last_update_is_the_last_due_step(ramp, step):
    due = [t for t in range(max(0, step - ramp.frequency), step + 1) if ramp(t)[0]]
    last = ramp.last_update(step)
    assert last == (due[-1] if due else None) or (not due and last is None)


def test_the_cubic_ramp_has_the_values_of_the_paper_s_formula():
    ramp = dpf_tf.PolynomialDecay(final_sparsity=0.8, begin_step=100, end_step=500)
    for step in range(100, 501, 16):
        exact = 0.8 - 0.8 * (1 - (step - 100) / 400) ** 3
        assert ramp(step)[1] == pytest.approx(exact, rel=1e-15)


def test_masks_are_due_after_the_ramp_until_they_freeze():
    ramp = dpf_tf.PolynomialDecay(final_sparsity=0.8, end_step=32, freeze_step=64)
    assert [t for t in range(200) if ramp(t)[0]] == [0, 16, 32, 48, 64]
    constant = dpf_tf.ConstantSparsity(0.8, begin_step=8, end_step=40)
    assert [t for t in range(200) if constant(t)[0]] == [8, 24, 40]
    assert dpf_tf.ConstantSparsity(0.8)(16_000_000) == (True, 0.8)


def test_float_arithmetic_is_exact_to_the_weight_at_25_million():
    ramp = dpf_tf.PolynomialDecay(final_sparsity=0.9, end_step=3)
    # In float32, 0.8666667 * 25,502,912 is off by one.
    assert round(ramp(2)[1] * 25_502_912) == round(0.9 * (1 - 1 / 27) * 25_502_912)


def test_a_relative_ramp_is_resolved_once_and_says_so_before():
    ramp = as_schedule(0.9)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        ramp(0)
    resolved = ramp.resolve(1000)
    assert resolved.end_step == 750
    assert resolved.resolve(10) == resolved


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: dpf_tf.PolynomialDecay(0.9), TypeError, "positional"),
        (lambda: dpf_tf.PolynomialDecay(final_sparsity=1.0), ValueError, r"\[0, 1\)"),
        (lambda: dpf_tf.PolynomialDecay(final_sparsity=90), ValueError, "0.9"),
        (lambda: dpf_tf.PolynomialDecay(final_sparsity="0.9"), TypeError, "number"),
        (lambda: dpf_tf.PolynomialDecay(final_sparsity=True), TypeError, "number"),
        (
            lambda: dpf_tf.PolynomialDecay(final_sparsity=0.9, end_step=-1),
            ValueError,
            "end_step=-1",
        ),
        (
            lambda: dpf_tf.PolynomialDecay(
                final_sparsity=0.9, begin_step=10, end_step=5
            ),
            ValueError,
            "end_step.*at least 10",
        ),
        (
            lambda: dpf_tf.PolynomialDecay(
                final_sparsity=0.9, end_step=50, freeze_step=20
            ),
            ValueError,
            "freeze_step.*at least 50",
        ),
        (
            lambda: dpf_tf.PolynomialDecay(final_sparsity=0.9, frequency=0),
            ValueError,
            "frequency",
        ),
        (
            lambda: dpf_tf.PolynomialDecay(final_sparsity=0.9, begin_step=1.5),
            TypeError,
            "whole number",
        ),
        (
            lambda: dpf_tf.PolynomialDecay(final_sparsity=0.9, power=0),
            ValueError,
            "power",
        ),
        (
            lambda: dpf_tf.PolynomialDecay(final_sparsity=0.9, freqency=16),
            TypeError,
            "freqency",
        ),
        (lambda: dpf_tf.ConstantSparsity(-0.1), ValueError, r"\[0, 1\)"),
        (lambda: dpf_tf.ConstantSparsity(float("nan")), ValueError, r"\[0, 1\)"),
        (lambda: dpf_tf.ConstantSparsity(0.5, 10, 5), ValueError, "end_step"),
        (lambda: as_schedule("0.9"), TypeError, "'0.9'"),
        (lambda: as_schedule(1.5), ValueError, "1.5"),
        (lambda: as_schedule(None), TypeError, "None"),
        (lambda: as_schedule(dpf_tf.ConstantSparsity), TypeError, "ConstantSparsity"),
    ],
)
def test_wrong_arguments_are_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_constant_sparsity_may_begin_after_the_first_epoch():
    asked = dpf_tf.ConstantSparsity(0.5, begin_step="epoch", end_step=9, frequency=3)
    with pytest.raises(ValueError, match="length of an epoch has not been"):
        asked(0)
    schedule = asked.resolve(None, 4)
    assert [step for step in range(12) if schedule(step)[0]] == [4, 7]
    assert [schedule(step)[1] for step in (3, 4)] == [0.0, 0.5]
    assert [schedule.last_update(step) for step in (3, 4, 6, 7)] == [None, 4, 4, 7]
    with pytest.raises(ValueError, match="end_step.* at least 10"):
        asked.resolve(None, 10)


def test_somebody_else_s_schedule_is_used_as_it_is():
    schedule = as_schedule(lambda step: (step % 5 == 0, 0.5))
    assert [t for t in range(11) if schedule(t)[0]] == [0, 5, 10]
    assert schedule(3) == (False, 0.5)
    with pytest.raises(TypeError, match="should_prune, sparsity"):
        as_schedule(lambda step: 0.5)(0)


def test_tfmot_schedules_become_ours_with_the_same_values():
    script = """
import numpy as np
import tensorflow_model_optimization as tfmot
from dpf_tf.schedules import as_schedule
for theirs in (
    tfmot.sparsity.keras.PolynomialDecay(0.1, 0.9, 20, 420, power=2, frequency=50),
    tfmot.sparsity.keras.ConstantSparsity(0.7, 10, 90, frequency=20),
    tfmot.sparsity.keras.ConstantSparsity(0.7, 10),
):
    ours = as_schedule(theirs)
    assert type(ours).__module__.startswith("dpf_tf.schedules."), type(ours)
    for step in range(0, 500, 5):
        due, sparsity = theirs(np.int64(step))
        assert ours(step)[0] == bool(due), (theirs, step)
        if due:
            assert abs(ours(step)[1] - float(sparsity)) < 1e-6, (theirs, step)
class Mine(tfmot.sparsity.keras.PruningSchedule):
    def __call__(self, step):
        return step % 7 == 0, 0.25
    def get_config(self):
        return {}
assert as_schedule(Mine())(14) == (True, 0.25)
"""
    # In a process of its own: TFMOT's import changes the environment.
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE)
