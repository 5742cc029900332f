"""Recipes say what their sources say, refuse nonsense, and give the right rates."""

import dataclasses

import numpy as np
import pytest

from official_models import learning_rates, methods, recipes
from official_models.errors import InputError


def rates(keras, recipe, steps, warmup_steps=0):
    schedule = learning_rates.training(keras, recipe, steps, warmup_steps)
    return np.array([float(schedule(step)) for step in range(steps)])


def test_the_rate_of_a_cifar_resnet_falls_tenfold_at_epochs_150_and_225(keras):
    recipe = recipes.get("cifar10_resnet20")
    found = rates(keras, recipe, 300)
    expected = np.repeat([0.2, 0.02, 0.002], [150, 75, 75])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert recipe.ramp_end * recipe.epochs == 225


def test_the_rate_of_a_wide_resnet_falls_fivefold_at_epochs_60_120_and_160(keras):
    recipe = recipes.get("cifar10_wide_resnet28_2")
    expected = 0.1 * np.repeat([1, 0.2, 0.04, 0.008], [60, 60, 40, 40])
    np.testing.assert_allclose(rates(keras, recipe, 200), expected, rtol=1e-5)


def test_the_rate_on_imagenet_warms_up_and_falls_at_epochs_30_60_and_80(keras):
    recipe = recipes.get("imagenet_resnet50")
    found = rates(keras, recipe, 900, warmup_steps=50)
    expected = 0.4 * np.repeat([1, 0.1, 0.01, 0.001], [300, 300, 200, 100])
    expected[:50] *= np.arange(1, 51) / 50
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert round(recipe.ramp_end * recipe.epochs) == 60


def test_a_cosine_falls_from_the_highest_rate_to_nothing(keras):
    recipe = recipes.get("cifar10_resnet20_short")
    steps = np.arange(100)
    expected = 0.1 * (1 + np.cos(np.pi * steps / 100))
    np.testing.assert_allclose(rates(keras, recipe, 100), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10_resnet20", (300, 128, 0.2, 1e-4)),
        ("cifar10_resnet56", (300, 128, 0.2, 1e-4)),
        ("cifar10_wide_resnet28_8", (200, 128, 0.1, 5e-4)),
        ("cifar10_densenet40_12", (300, 128, 0.1, 1e-4)),
        ("cifar10_vgg16_d", (300, 128, 0.1, 5e-4)),
        ("imagenet_resnet50", (90, 1024, 0.4, 1e-4)),
    ],
)
def test_epochs_batch_rate_and_decay_are_the_published_ones(name, expected):
    recipe = recipes.get(name)
    found = recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.weight_decay
    assert found == expected
    assert recipe.momentum == 0.9
    schedule = methods.schedule(methods.get("dpf"), recipe, steps_per_epoch=390)
    assert schedule.frequency == 16
    assert schedule.end_step == round(recipe.ramp_end * recipe.epochs * 390)
    assert methods.get("dpf").allocation == "global"
    assert (recipe.mask_period, recipe.allocation) == (None, None)


def test_another_batch_on_imagenet_scales_the_rate_unless_one_is_given():
    recipe = recipes.get("imagenet_resnet50")
    assert recipe.changed(batch_size=256).learning_rate == pytest.approx(0.1)
    assert recipe.changed(batch_size=256, learning_rate=0.3).learning_rate == 0.3
    cifar = recipes.get("cifar10_resnet20")
    assert cifar.changed(batch_size=64).learning_rate == 0.2


def test_every_recipe_is_listed_with_its_source():
    lines = recipes.table().splitlines()
    assert len(lines) == len(recipes.RECIPES)
    for line, (name, recipe) in zip(lines, recipes.RECIPES.items(), strict=True):
        assert line.startswith(name)
        assert line.endswith(recipe.source)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'resnet'.*\n  cifar10_resnet20\n"):
        recipes.get("resnet")


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "resnet21"},
        {"decay": "linear"},
        {"dtype_policy": "bfloat16"},
        {"allocation": "local"},
        {"epochs": 0},
        {"batch_size": 0},
        {"mask_period": 0},
        {"learning_rate": 0.0},
        {"weight_decay": -1e-4},
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"settle": 1.0},
        {"label_smoothing": 1.0},
        {"ramp_end": 0.0},
        {"ramp_end": 1.1},
        {"milestones": (0.5, 0.25)},
        {"milestones": (150, 225)},
        {"milestones": ()},
        {"learning_rate": float("inf")},
        {"finetune_epochs": -1},
        {"learning_rate": float("nan")},
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(wrong):
    [name] = wrong
    with pytest.raises(InputError, match=f"`{name}` must be .* Received"):
        recipes.get("cifar10_resnet20").changed(**wrong)


def test_every_field_of_a_recipe_says_what_it_is():
    for field in dataclasses.fields(recipes.Recipe):
        assert field.metadata["help"].endswith(".")
