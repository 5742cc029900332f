"""The comparisons that docs/ shows."""

from __future__ import annotations

from benchmarks.budgets import BY_PERIOD, LEVERS, TICKETS
from benchmarks.comparison import Choice

FASHION = Choice("fashion_mnist", "short")
LENET = Choice("fashion_mnist", "lenet")
CIFAR = Choice("cifar10", "short")
LONG = Choice("cifar10", "long")
FILTERS = Choice("cifar10", "filters")
LEVERS_ON_DPF = Choice(
    "cifar10", "short", ("gmp", "dpf", "straight_through", "st3", *LEVERS), seeds=(0,)
)
PERIODS = Choice("cifar10", "short", ("gmp", *BY_PERIOD.values()), sparsities=(0.9,))
LOTTERY = Choice("cifar10", "short", ("dpf", *TICKETS), sparsities=(0.9,))
