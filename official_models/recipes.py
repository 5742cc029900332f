"""How each network is trained: a `Recipe` holds every number of a training.

    recipe = recipes.get("cifar10_resnet20")
    shorter = recipe.changed(epochs=30)

Every field can be overridden by a flag of its name (`official_models.train`). Points in
time are shares of the training, so that they move along when `epochs` changes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from official_models import models, structures
from official_models.errors import InputError


def _field(help: str, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


CHOICES = {
    "model": models.names(),
    "decay": ("step", "cosine"),
    "dtype_policy": ("float32", "mixed_bfloat16", "mixed_float16"),
    "allocation": ("global", "global_normalized", "uniform", "erk"),
    "structure": structures.names(),
}


def _are_milestones(shares: tuple[float, ...]) -> bool:
    inside = all(0 < share < 1 for share in shares)
    return bool(shares) and inside and sorted(set(shares)) == list(shares)


_OPTIONAL = ("mask_period", "allocation", "structure")  # `None`: as the method has it.
_AT_LEAST_1 = (lambda value: value >= 1, "at least 1")
_POSITIVE = (lambda value: 0 < value < math.inf, "above 0, and finite")
_NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, "at least 0, and finite")
_BELOW_1 = (lambda value: 0 <= value < 1, "in [0, 1)")
_RANGES = {
    "epochs": _AT_LEAST_1,
    "batch_size": _AT_LEAST_1,
    "mask_period": _AT_LEAST_1,
    "learning_rate": _POSITIVE,
    "decay_factor": _POSITIVE,
    "finetune_learning_rate": _POSITIVE,
    "warmup_epochs": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "finetune_epochs": _NOT_NEGATIVE,
    "recalibrate_steps": _NOT_NEGATIVE,
    "momentum": _BELOW_1,
    "label_smoothing": _BELOW_1,
    "sparsity": _BELOW_1,
    "settle": _BELOW_1,
    "ramp_end": (lambda value: 0 < value <= 1, "a share of the training, in (0, 1]"),
    "milestones": (_are_milestones, "ascending shares of the training, in (0, 1)"),
}
# Fields without effect unless another has some value.
_WITH_STEPS = (lambda recipe: recipe.decay == "step", "decay='step'")
_NEEDS = {
    "milestones": _WITH_STEPS,
    "decay_factor": _WITH_STEPS,
    "finetune_learning_rate": (
        lambda recipe: recipe.finetune_epochs > 0,
        "finetune_epochs above 0",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """All numbers of one training; each field says what it is.

    Raises:
        InputError: if a value lies outside its range or names nothing that is known.
    """

    source: str = _field("Where these numbers come from.")
    model: str = _field("Name of the network, as in official_models.models.")
    data: str = _field("Name of the data set: cifar10, fashion_mnist or imagenet2012.")
    epochs: int = _field("Epochs of the training.")
    batch_size: int = _field("Examples in a step, over all replicas.", 128)
    learning_rate: float = _field("Highest learning rate.")
    linear_scaling: bool = _field(
        "Whether another batch size changes the learning rate in proportion.", False
    )
    decay: str = _field("How the learning rate falls: step or cosine.", "step")
    milestones: tuple[float, ...] = _field(
        "When a step decay comes, as shares of the training.", (0.5, 0.75)
    )
    decay_factor: float = _field("What a step decay multiplies by.", 0.1)
    warmup_epochs: float = _field("Epochs of a linear warm-up.", 0.0)
    momentum: float = _field("Momentum of SGD.", 0.9)
    nesterov: bool = _field("Whether the momentum is Nesterov's.", True)
    weight_decay: float = _field(
        "Weight decay of the dense kernels, as in PyTorch (an L2 penalty of half of "
        "it); batch norm and biases have none.",
        1e-4,
    )
    label_smoothing: float = _field("Share of the labels that is spread evenly.", 0.0)
    dtype_policy: str = _field(
        "Keras's dtype policy: float32, mixed_bfloat16 or mixed_float16.", "float32"
    )
    sparsity: float = _field("Final sparsity of the pruned kernels.", 0.9)
    ramp_end: float = _field(
        "When the ramp reaches the final sparsity, as a share of the training.", 0.75
    )
    mask_period: int | None = _field(
        "Steps between two mask updates. Default: the method's own, 16 for DPF.", None
    )
    allocation: str | None = _field(
        "How the sparsity is shared: global, global_normalized, uniform or erk. "
        "Default: uniform for filters, else the method's own, global for DPF.",
        None,
    )
    structure: str | None = _field(
        "What is pruned as one. Default: the method's own, single weights for DPF.",
        None,
    )
    settle: float = _field(
        "Share of the training, at its end, in which masks stand still; 0 is the paper "
        "to the letter.",
        0.05,
    )
    recalibrate_steps: int = _field(
        "Training batches on which batch norm's statistics are estimated anew before a "
        "model is kept and measured; 0 leaves them as they are.",
        0,
    )
    finetune_epochs: int = _field("Epochs with frozen masks after the training.", 0)
    finetune_learning_rate: float = _field(
        "Highest learning rate of the fine-tuning, a cosine.", 0.002
    )

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            fits = getattr(self, name) in (
                known if name not in _OPTIONAL else (*known, None)
            )
            self._require(name, fits, " | ".join(known))
        for name, (in_range, expected) in _RANGES.items():
            value = getattr(self, name)
            left = value is None and name in _OPTIONAL
            self._require(name, left or in_range(value), expected)

    def _require(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise InputError(
                f"`{name}` must be {expected}. Received: {getattr(self, name)!r}"
            )

    def changed(self, **changes: Any) -> Recipe:
        """Returns the recipe with other values.

        Where `linear_scaling` is set, another batch size changes the learning rate in
        proportion (Goyal et al., section 2.1), unless a learning rate is given too.

        Raises:
            InputError: if a value lies outside its range, or would have no effect.
        """
        changed = dataclasses.replace(self, **changes)
        for name in _NEEDS.keys() & changes.keys():
            has_effect, needed = _NEEDS[name]
            if not has_effect(changed):
                raise InputError(
                    f"`{name}` has no effect without {needed}. Received: "
                    f"{changes[name]!r}"
                )
        if changed.linear_scaling and "learning_rate" not in changes:
            rate = self.learning_rate * changed.batch_size / self.batch_size
            changed = dataclasses.replace(changed, learning_rate=rate)
        return changed


_RESNET = Recipe(
    source="Lin et al., ICLR 2020; their reimplementations agree on it",
    model="resnet20",
    data="cifar10",
    epochs=300,
    learning_rate=0.2,
)
_WIDE_RESNET = Recipe(
    source="Zagoruyko, Komodakis, BMVC 2016, section 3; the ramp ends as in DPF",
    model="wide_resnet28_2",
    data="cifar10",
    epochs=200,
    learning_rate=0.1,
    milestones=(0.3, 0.6, 0.8),
    decay_factor=0.2,
    weight_decay=5e-4,
    ramp_end=0.6,
)
_OURS = Recipe(
    source="ours: DPF's recipe for it is not known",
    model="densenet40_12",
    data="cifar10",
    epochs=300,
    learning_rate=0.1,
)
_IMAGENET = Recipe(
    source="Goyal et al., arXiv 1706.02677, less its zero gammas; the ramp as in DPF",
    model="resnet50",
    data="imagenet2012",
    epochs=90,
    batch_size=1024,
    learning_rate=0.4,
    linear_scaling=True,
    milestones=(1 / 3, 2 / 3, 8 / 9),
    warmup_epochs=5,
    nesterov=False,
    ramp_end=2 / 3,
    sparsity=0.8,
    finetune_learning_rate=0.004,
)
_MOBILENET = _IMAGENET.changed(
    source="ours, for phones",
    model="mobilenet_v1",
    epochs=100,
    decay="cosine",
    weight_decay=4e-5,
    label_smoothing=0.1,
    nesterov=True,
    ramp_end=0.75,
)
_SHORT = Recipe(
    source="ours, for two cores without an accelerator",
    model="resnet8",
    data="cifar10",
    epochs=10,
    learning_rate=0.2,
    decay="cosine",
    dtype_policy="mixed_bfloat16",
)


RECIPES: dict[str, Recipe] = {
    "cifar10_resnet20": _RESNET,
    "cifar10_resnet32": _RESNET.changed(model="resnet32"),
    "cifar10_resnet56": _RESNET.changed(model="resnet56"),
    "cifar10_resnet110": _RESNET.changed(model="resnet110"),
    "cifar10_resnet56_bottleneck": _RESNET.changed(model="resnet56_bottleneck"),
    "cifar10_resnet110_bottleneck": _RESNET.changed(model="resnet110_bottleneck"),
    "cifar10_wide_resnet28_2": _WIDE_RESNET,
    "cifar10_wide_resnet28_4": _WIDE_RESNET.changed(model="wide_resnet28_4"),
    "cifar10_wide_resnet28_8": _WIDE_RESNET.changed(model="wide_resnet28_8"),
    "cifar10_densenet40_12": _OURS,
    "cifar10_vgg16_d": _OURS.changed(model="vgg16_d", weight_decay=5e-4),
    "imagenet_resnet50": _IMAGENET,
    "imagenet_mobilenet_v1": _MOBILENET,
    "imagenet_mobilenet_v2": _MOBILENET.changed(model="mobilenet_v2"),
    "cifar10_resnet8_short": _SHORT,
    "cifar10_resnet20_short": _SHORT.changed(model="resnet20", epochs=30),
    "fashion_mnist_resnet8_short": _SHORT.changed(data="fashion_mnist"),
    "fashion_mnist_convnet_short": _SHORT.changed(
        data="fashion_mnist", model="convnet", learning_rate=0.1
    ),
    "fashion_mnist_lenet_short": _SHORT.changed(
        data="fashion_mnist",
        model="lenet_300_100",
        learning_rate=0.05,
        dtype_policy="float32",
    ),
}


def get(name: str) -> Recipe:
    """Returns the recipe of a name.

    Raises:
        InputError: if there is none; the message lists the known ones.
    """
    if name not in RECIPES:
        known = "\n  ".join(RECIPES)
        raise InputError(f"There is no recipe {name!r}. Known recipes:\n  {known}")
    return RECIPES[name]


def table() -> str:
    """Returns a line for each recipe: what is trained, on what, for how long."""
    rows = [
        f"{name:30} {r.model:21} {r.data:13} {r.epochs:4} epochs  "
        f"batch {r.batch_size:5}  {r.decay:6}  {r.dtype_policy:14}  {r.source}"
        for name, r in RECIPES.items()
    ]
    return "\n".join(rows)
