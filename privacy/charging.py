"""Which rounds one device can have answered at most, given the policy's separation: the dearest such choice is charged.

A device answers at any moment between a plan's issue and its deadline, so that two rounds exclude each other only if even the
latest answer to the later one comes too soon after the earliest answer to the earlier one. Reserve times alone would charge
too little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared_models.errors import ConfigError

CLOCK_SLACK_S = 300
"""A device answers a plan that its own clock says was issued this much in the future (privacy.gate)."""


@dataclass(frozen=True)
class Charge:
    """A round as far as charging goes. Times in Unix seconds."""

    rho: float
    earliest_s: int
    """First moment at which a device can answer."""
    latest_s: int
    """Last one."""


def dearest(charges: Sequence[Charge], participations: int, separation_s: int) -> list[int]:
    """Indices of the rounds with the largest Σρ, at most `participations`, each at least `separation_s` after the one before.

    Dynamic programming over rounds, by deadline, and counts, O(participations · n²): neighbours in that order must be able to
    keep the separation, whichever is answered first. That holds for all pairs of what a device can have answered, so it never
    charges too little; where three rounds fit in pairs but not together, it charges too much. Raises ConfigError.
    """
    if participations < 0 or separation_s < 0:
        raise ConfigError(f"participations {participations} and separation {separation_s} s must not be negative")
    if any(item.earliest_s > item.latest_s for item in charges):
        raise ConfigError("a round's deadline lies before its issue")
    order = sorted(range(len(charges)), key=lambda index: (charges[index].latest_s, charges[index].earliest_s))
    if separation_s == 0:
        order.sort(key=lambda index: charges[index].rho, reverse=True)
        return order[:participations]
    follows = [
        [before for before in range(here) if _separable(charges[order[before]], charges[order[here]], separation_s)]
        for here in range(len(order))
    ]
    costs = [charges[index].rho for index in order]
    # best[here]: most that can be charged with `here` as the last round and the count so far; with each count, who was before.
    best, came_from, ends = list(costs), [], [max(range(len(order)), key=costs.__getitem__)] if order else []
    totals = [max(costs)] if order else []
    for _ in range(1, min(participations, len(order))):
        step: list[int | None] = [max(follows[here], key=best.__getitem__, default=None) for here in range(len(order))]
        best = [float("-inf") if before is None else best[before] + costs[here] for here, before in enumerate(step)]
        came_from.append(step)
        ends.append(max(range(len(order)), key=best.__getitem__))
        totals.append(best[ends[-1]])
    if not totals or participations == 0:
        return []
    count = max(range(len(totals)), key=totals.__getitem__)
    here, chosen = ends[count], []
    for step in reversed(came_from[:count]):
        chosen.append(order[here])
        before = step[here]
        assert before is not None  # a total that is finite has a whole chain
        here = before
    return [order[here], *reversed(chosen)]


MOST_CHOICES = 200_000


def within_limit(costs: Sequence[float], gains: Sequence[float], participations: int, limit: float) -> list[int] | None:
    """Indices with the largest Σ gain, at most `participations`, whose Σ cost a device with the budget `limit` can have paid.

    `costs` are ρ as devices reserve it, `gains` ρ as it was released. Exact but for separation, which is not looked at: never
    too little. None if there are too many different costs to try all choices.
    """
    groups: dict[float, list[int]] = {}
    for index in sorted(range(len(costs)), key=gains.__getitem__, reverse=True):
        groups.setdefault(costs[index], []).append(index)
    if math.prod(1 + min(participations, len(group)) for group in groups.values()) > MOST_CHOICES:
        return None
    ordered = sorted(groups.items(), reverse=True)
    best: tuple[float, list[int]] = (0.0, [])

    def choose(number: int, left: int, spent: float, gained: float, chosen: list[int]) -> None:
        nonlocal best
        if gained > best[0]:
            best = gained, chosen
        if number == len(ordered):
            return
        cost, group = ordered[number]
        for count in range(min(left, len(group)), -1, -1):
            if spent + count * cost <= limit * (1.0 + 1e-9):
                more = math.fsum(gains[index] for index in group[:count])
                choose(number + 1, left - count, spent + count * cost, gained + more, [*chosen, *group[:count]])

    choose(0, participations, 0.0, 0.0, [])
    return best[1]


def _separable(one: Charge, other: Charge, separation_s: int) -> bool:
    # In either order: a round whose answers may come long can be answered before one that ends sooner, or after it.
    return max(other.latest_s - one.earliest_s, one.latest_s - other.earliest_s) >= separation_s
