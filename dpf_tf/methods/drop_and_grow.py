"""`DropAndGrow`: one sparsity throughout, of which a share is moved about."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from dpf_tf.arguments import convert, number, whole
from dpf_tf.feedback import masked
from dpf_tf.methods.method import Method, State, require_own_scores
from dpf_tf.methods.round import Arrays, Round, select
from dpf_tf.schedules import OneShot, PolynomialDecay


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropAndGrow(Method):
    """What SET, RigL, DSR and sparse momentum have in common.

    The masks begin at random, at the final sparsity. Every update drops some of the
    kept weights, by magnitude, and grows as many: those that were pruned before start
    from zero, and those that it has just dropped, if they are among them, stay. Of
    equal scores the lower index is kept, or grown. A share of a kernel that is less
    than one weight is none.

    A scheme of this kind says by which scores it grows (`growth`); what else differs,
    it overrides.

    Args:
        share: share of the kept weights that would be dropped at step 0, from which it
            falls as a cosine; the update at step 0 makes the masks, and drops nothing.
        seed: of the random choices.

    Attributes:
        period: steps between two updates, or `"epoch"`, where the user gives a bare
            sparsity.

    Raises:
        TypeError: if an option is no number.
        ValueError: if it is out of range; by `dpf_tf.prune`, if the schedule is a ramp
            or begins late, or the allocation is `"global_normalized"`.

    Example:

        The largest of the pruned weights come back, as they were when they went:

        >>> import dataclasses
        >>> import dpf_tf
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Return(dpf_tf.methods.DropAndGrow):
        ...     restarts = frozenset()
        ...     def growth(self, round):
        ...         return round.kernels
        >>> Return(share=0.1)
        Return(share=0.1, seed=0)

    References:
        Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020,
        section 3, puts these schemes side by side.
    """

    allocation: ClassVar[str] = "erk"
    only_for: ClassVar[str | None] = "single weights"
    restarts: ClassVar[frozenset[str]] = frozenset({"weights", "momenta"})
    moves: ClassVar[bool] = True
    period: ClassVar[int | str] = 100

    share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        convert(self, "share", number, most=1.0)
        convert(self, "seed", whole)

    def schedule(self, target: float) -> Any:
        """Returns one sparsity, and updates in the scheme's period."""
        return PolynomialDecay(
            final_sparsity=target, initial_sparsity=target, frequency=self.period
        )

    def check(self, schedule: Any, allocation: Any) -> None:
        """Refuses a sparsity that changes, or comes late, and scaled magnitudes."""
        final = schedule.final_sparsity
        changes = getattr(schedule, "initial_sparsity", final) != final
        changes = changes or getattr(schedule, "begin_step", 0) != 0
        if final is None or changes or isinstance(schedule, OneShot):
            raise ValueError(
                f"{type(self).__name__} trains at one sparsity from beginning to end. "
                f"Received: {schedule}. Give a number, a PolynomialDecay with "
                "`initial_sparsity` equal to `final_sparsity`, or a ConstantSparsity, "
                "with which, without `end_step`, the share that is dropped stays the "
                "same; either from step 0 on."
            )
        require_own_scores(self, allocation)

    def backward(
        self, upstream: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, state: State
    ) -> tf.Tensor:
        """Returns the gradient of the kept weights alone."""
        return masked(upstream, mask)

    def masks(self, round: Round) -> list[np.ndarray]:
        """Returns masks with as many weights as before."""
        if sum(int(m.sum()) for m in round.masks) != sum(p.keep for p in round.pools):
            return self.begun(round)
        if not round.step:  # Masks that were given, of the right number.
            return round.masks
        dropped = self.dropped(round)
        if not any(dropped):
            return round.masks
        left = [int(m.sum()) - n for m, n in zip(round.masks, dropped, strict=True)]
        kept = select(round.among_kept(round.kernels), left, round.paths)
        grown = select(
            round.among_pruned(self.growth(round), kept),
            self.grown(round, kept, dropped),
            round.paths,
        )
        return [a | b for a, b in zip(kept, grown, strict=True)]

    def begun(self, round: Round) -> list[np.ndarray]:
        """Returns masks of the right number: the first ones, at random.

        Of masks that there are (a layer was made late, or they were given) the largest
        weights stay, and what is missing is grown at random.
        """
        count = range(len(round.paths))
        lots = [1 + round.random(i, self.seed) for i in count]
        first = round.largest(lots)
        if round.is_first:
            return first
        begun = []
        for lot, new, old, w in zip(
            lots, first, round.masks, round.kernels, strict=True
        ):
            # Kept weights come before all others, but a new kernel's are all alike.
            score = lot if old.all() else np.where(old, 2 + np.abs(w), lot / 2)
            begun += select([score.astype(np.float32)], [int(new.sum())])
        return begun

    def dropped(self, round: Round) -> list[int]:
        """Returns how many weights each kernel drops: a share that decays."""
        share = self.share * cosine(round)
        # At least one stays.
        return [min(int(share * m.sum()), max(0, m.sum() - 1)) for m in round.masks]

    def growth(self, round: Round) -> Arrays:
        """Returns the scores by which weights are grown."""
        raise NotImplementedError

    def grown(self, round: Round, kept: Arrays, dropped: list[int]) -> list[int]:
        """Returns how many weights each kernel grows: as many as it has dropped."""
        return dropped


def cosine(round: Round) -> float:
    """Falls from 1 at the beginning to 0 at the schedule's `end_step`.

    With a schedule that has none, a ConstantSparsity for instance, it stays 1.
    """
    begin = getattr(round.schedule, "begin_step", 0)
    end = getattr(round.schedule, "end_step", None)
    if end in (None, -1):
        return 1.0
    progress = min(1.0, (round.step - begin) / max(1, end - begin))
    return (1 + math.cos(math.pi * progress)) / 2


def apportion(total: int, weights: np.ndarray, room: np.ndarray) -> list[int]:
    """Shares a number among kernels in proportion to weights, within their room.

    What a kernel has no room for goes to the others in the same proportion; whole
    numbers by the largest remainders.

    Args:
        total: the number; at most the sum of the room.
        weights: not negative, one for each kernel.
        room: how many each can take.

    Returns:
        Whole numbers that sum to `total`.

    Raises:
        ValueError: if a weight is not finite.

    Example:

        >>> import numpy as np
        >>> apportion(10, np.array([8.0, 1.0, 1.0]), np.array([4, 9, 9]))
        [4, 3, 3]
    """
    if not np.isfinite(weights).all():
        raise ValueError(
            f"Weights are shared by numbers that are not finite: {weights.tolist()}. "
            "Look at the optimizer's momenta, or lower the learning rate."
        )
    weights = np.where(room > 0, np.maximum(weights, 1e-30), 0.0)
    shares, open_ = np.zeros(len(room)), room > 0
    left = float(total)
    while left > 0 and open_.any():
        more = np.where(open_, left * weights / weights[open_].sum(), 0)
        full = open_ & (shares + more >= room)
        if not full.any():
            shares = shares + more
            break
        left -= float((room - shares)[full].sum())
        shares[full] = room[full]
        open_ &= ~full
    counts = np.floor(shares + 1e-9).astype(int)
    for i in np.argsort(counts - shares, kind="stable"):
        if counts.sum() >= total:
            break
        counts[i] += counts[i] < room[i]
    return [int(count) for count in counts]
