"""What `benchmarks.compare` can train: the arms, and for how long."""

from __future__ import annotations

import dataclasses

import dpf_tf


@dataclasses.dataclass(frozen=True)
class Arm:
    """What is compared: a method, with options or without.

    Attributes:
        flags: of official_models.train.
        masks_of: the arm whose final masks it takes, for good.
        other_seed: added to the seed, where its weights are to be others than those of
            the training that found the masks.
    """

    flags: tuple[str, ...]
    masks_of: str | None = None
    other_seed: int = 0

    @property
    def method(self) -> str:
        """Name of the method."""
        return self._given["method"]

    @property
    def options(self) -> tuple[str, ...]:
        """Options of the method, as text."""
        return tuple(filter(None, self._given.get("method_options", "").split(",")))

    @property
    def _given(self) -> dict[str, str]:
        pairs = (flag.removeprefix("--").split("=", 1) for flag in self.flags)
        return {name: value for name, value in pairs}


@dataclasses.dataclass(frozen=True)
class Budget:
    """What is the same in all cells of a comparison.

    Attributes:
        recipe: of official_models.
        flags: what is changed of it.
        sparsities: at which is compared.
        arms: what is compared, if `--arms` does not say otherwise.
        seeds: with which.
        sparsity: what is meant by it.
    """

    recipe: str
    flags: tuple[str, ...]
    sparsities: tuple[float, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    sparsity: str = "sparsity of the pruned kernels"


def _options(method: str, *options: str) -> Arm:
    return Arm((f"--method={method}", f"--method_options={','.join(options)}"))


SCHEMES = (
    "dense",
    *(k for k, x in dpf_tf.methods.METHODS.items() if x.structure == "unstructured"),
)
# Their papers' first masks, as sparse everywhere, leave narrow layers filters without a
# weight: through batch norm and ReLU no gradient comes to these, and they stay dead.
FIRST_MASKS = {
    name: Arm((f"--method={name}", "--allocation=erk"))
    for name in ("dsr", "sparse_momentum")
}
# GMP as its authors have it: each kernel is ranked by itself.
ALLOCATIONS = {"gmp_uniform": Arm(("--method=gmp", "--allocation=uniform"))}
# One lever on the feedback at a time, then together. Unbounded DPF is the paper's.
LEVERS = {
    "dpf_step": Arm(("--method=dpf", "--decay=step")),
    "dpf_settle25": Arm(("--method=dpf", "--settle=0.25")),
    "dpf_unbounded": _options("dpf", "bounded=false"),
    "dpf_gradient50": _options("dpf", "pruned_gradient=0.5"),
    "dpf_gradient20": _options("dpf", "pruned_gradient=0.2"),
    "dpf_decay": _options("dpf", "pruned_decay=0.0002"),
    "dpf_decay10": _options("dpf", "pruned_decay=0.002"),
    "dpf_gradient50_decay10": _options(
        "dpf", "pruned_gradient=0.5", "pruned_decay=0.002"
    ),
    "dpf_p1_decay10": Arm(
        ("--method=dpf", "--method_options=pruned_decay=0.002", "--mask_period=1")
    ),
    "st3_unbounded": _options("st3", "bounded=false"),
    "st3_p1": Arm(("--method=st3", "--mask_period=1")),
    "st3_kernel": _options("st3", "rescale=kernel"),
    "st3_none": _options("st3", "rescale=none"),
    "st3_sigma": _options("st3", "sigma=true"),
    "st3_kernel_p1": Arm(
        ("--method=st3", "--method_options=rescale=kernel", "--mask_period=1")
    ),
    "st3_kernel_gradient50": _options("st3", "rescale=kernel", "pruned_gradient=0.5"),
    "st3_kernel_decay10": _options("st3", "rescale=kernel", "pruned_decay=0.002"),
    "st3_none_p1": Arm(
        ("--method=st3", "--method_options=rescale=none", "--mask_period=1")
    ),
    "st3_none_gradient50": _options("st3", "rescale=none", "pruned_gradient=0.5"),
    "st3_none_decay10": _options("st3", "rescale=none", "pruned_decay=0.002"),
}
# How often masks are made.
BY_PERIOD = {
    1: "straight_through",
    4: "dpf_p4",
    16: "dpf",
    64: "dpf_p64",
    256: "dpf_p256",
}
PERIODS = {
    name: Arm(("--method=dpf", f"--mask_period={period}"))
    for period, name in BY_PERIOD.items()
    if name not in SCHEMES
}
# DPF's final masks, trained again from the first weights and from new ones: for as many
# epochs once more, and with the search for them in the epochs of one training.
_HALF = ("--method=dpf", "--epochs=5")
TICKETS = {
    "ticket_initial": Arm(("--method=dpf",), masks_of="dpf"),
    "ticket_new": Arm(("--method=dpf",), masks_of="dpf", other_seed=1000),
    "dpf_half": Arm(_HALF),
    "ticket_initial_half": Arm(_HALF, masks_of="dpf_half"),
    "ticket_new_half": Arm(_HALF, masks_of="dpf_half", other_seed=1000),
}
# Whole filters: DPF layer by layer, with less feedback too, and its rivals.
_UNIFORM = ("--structure=filters", "--allocation=uniform")
FILTERS = {
    "dpf_filters": Arm(("--method=dpf", *_UNIFORM)),
    "dpf_filters_gradient10": Arm(
        ("--method=dpf", *_UNIFORM, "--method_options=pruned_gradient=0.1")
    ),
    "gmp_filters": Arm(("--method=gmp", *_UNIFORM)),
    "sfp": Arm(("--method=sfp",)),
    "one_shot_l2": Arm(("--method=one_shot", *_UNIFORM)),
    "one_shot_l1": Arm(
        ("--method=one_shot", "--structure=filters_l1", "--allocation=uniform")
    ),
}
ARMS = {
    **{scheme: Arm((f"--method={scheme}",)) for scheme in SCHEMES},
    **FIRST_MASKS,
    **ALLOCATIONS,
    **LEVERS,
    **PERIODS,
    **TICKETS,
    **FILTERS,
}

# The best levers of ResNet-8's first seed, by a soft threshold and by a hard one.
_FINALISTS = ("st3_none", "dpf_p1_decay10")
# All schemes, the other forms of ST-3 and of GMP.
_SHORT = (*SCHEMES, "st3_kernel", "st3_sigma", "gmp_uniform", *_FINALISTS)
_COMMON = ("--settle=0.05", "--recalibrate_steps=50")
BUDGETS = {
    ("fashion_mnist", "short"): Budget(
        "fashion_mnist_convnet_short",
        (*_COMMON, "--dtype_policy=float32"),
        (0.8, 0.9, 0.95, 0.98),
        _SHORT,
    ),
    # Without batch norm: is it that which makes up for the scale of soft thresholds?
    ("fashion_mnist", "lenet"): Budget(
        "fashion_mnist_lenet_short",
        ("--settle=0.05",),
        (0.9, 0.95, 0.98),
        ("dense", "dpf", "gmp", "straight_through", "st3", "st3_kernel", "st3_none"),
    ),
    # With the one that was best at 95 %, on that seed alone.
    ("cifar10", "short"): Budget(
        "cifar10_resnet8_short",
        _COMMON,
        (0.9, 0.95),
        (*_SHORT, "st3_none_decay10"),
    ),
    ("cifar10", "filters"): Budget(
        "cifar10_resnet8_short",
        _COMMON,
        (0.3, 0.5, 0.7),
        ("dense", *FILTERS),
        sparsity="share of the filters that is pruned (tied ones count as one)",
    ),
    # Three times the epochs.
    ("cifar10", "long"): Budget(
        "cifar10_resnet8_short",
        (*_COMMON, "--epochs=30"),
        (0.9, 0.95),
        ("dense", "dpf", "gmp", "st3", *_FINALISTS),
    ),
}
