"""Which channels stay to carry the constants of others: as few as will do.

A tensor's constant channels are multiples of one of them, the carrier, borders
included. It should be no small one: what the others add is divided by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Of the largest constant. A carrier's kernel is multiplied by up to its inverse.
SMALLEST_SHARE = 0.05


def fewest(needs: Sequence[Mapping[int, float]]) -> list[int]:
    """Chooses units so that each need has one of its own among them (greedily).

    Args:
        needs: for each place that needs a carrier, the units that can be it, and the
            share that each one's constant is of the largest there.

    Returns:
        The units. First comes the one that serves most places; among several, the one
        with the largest shares.

    Example:

        >>> from dpf_tf.carriers import fewest
        >>> fewest([{0: 1.0, 1: 0.4}, {1: 0.3, 2: 1.0}, {3: 1.0}])
        [1, 3]
    """
    chosen: list[int] = []
    left = list(needs)
    while left:
        served: dict[int, tuple[int, float]] = {}
        for shares in left:
            for unit, share in shares.items():
                count, total = served.get(unit, (0, 0.0))
                served[unit] = count + 1, total + share
        carrier = max(served, key=lambda unit: (*served[unit], -unit))
        chosen.append(carrier)
        left = [shares for shares in left if carrier not in shares]
    return chosen
