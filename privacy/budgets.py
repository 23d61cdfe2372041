"""The device's own budget: plain arithmetic in ρ over what was reserved, within sliding windows of the policy's period.

A reservation counts from the moment it is written, whether or not a contribution followed: a crash counts as spent.
This is the privacy filter for zCDP (adaptive ρ, fixed bound; Rogers, Roth, Ullman, Vadhan 2016; for RDP Feldman, Zrnic 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from privacy.policy import Policy
from shared_models.errors import BudgetExceededError

# Sums of equal floats may exceed their exact total by rounding; far below anything that matters for privacy.
_SLACK = 1e-9


@dataclass(frozen=True)
class Spending:
    """One reservation, as the device keeps it."""

    task: str
    round_id: int
    purpose: str
    contribution: str
    plan_hash: str
    rho: float
    time_s: float

    def document(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "round_id": self.round_id,
            "purpose": self.purpose,
            "contribution": self.contribution,
            "plan_hash": self.plan_hash,
            "rho": self.rho,
            "time_s": self.time_s,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Spending:
        return cls(**{name: document[name] for name in cls.__dataclass_fields__})


ADVERTS_PER_PARTICIPATION = 8
"""Rounds for which a device offers keys, for each participation that its policy allows in a period.

A secure sum's graph is random and fails with a small probability each time (privacy.guarantees): a server that gives rounds up
and begins new ones, which costs no ρ, could try until it does. So the tries are counted, and the report's δ carries them all.
"""


@dataclass(frozen=True)
class Advertised:
    """A round for which a device offered its keys, as the device keeps it."""

    purpose: str
    time_s: float


def check_adverts(policy: Policy, advert: Advertised, earlier: Iterable[Advertised]) -> None:
    """Raise BudgetExceededError if `advert` is one too many of its purpose within the policy's period."""
    limit = ADVERTS_PER_PARTICIPATION * policy.purposes[advert.purpose].participations
    begun = advert.time_s - policy.period_s
    count = sum(item.purpose == advert.purpose and item.time_s > begun for item in earlier)
    if count >= limit:
        raise BudgetExceededError(
            f"{advert.purpose}: keys were offered for {count} rounds of this period, most of which came to nothing; "
            f"{limit} are allowed"
        )


@dataclass(frozen=True)
class BudgetState:
    """What is spent and left for one purpose at one moment."""

    purpose: str
    rho_spent: float
    rho_limit: float
    participations: int
    participations_limit: int
    rho_spent_total: float
    rho_limit_total: float
    next_allowed_s: float
    """Earliest time of the next contribution by the policy's separation; 0 if there was none."""


def budget_state(policy: Policy, purpose: str, spendings: Iterable[Spending], now_s: float) -> BudgetState:
    """Spent and left of `purpose` at `now_s`."""
    limits = policy.purposes[purpose]
    window = [spending for spending in spendings if spending.time_s > now_s - policy.period_s]
    mine = [spending for spending in window if spending.purpose == purpose]
    latest = max((spending.time_s for spending in mine), default=None)
    return BudgetState(
        purpose=purpose,
        rho_spent=math.fsum(spending.rho for spending in mine),
        rho_limit=limits.rho,
        participations=len(mine),
        participations_limit=limits.participations,
        rho_spent_total=math.fsum(spending.rho for spending in window),
        rho_limit_total=policy.rho_total,
        next_allowed_s=0.0 if latest is None else latest + limits.separation_s,
    )


def check_budget(state: BudgetState, rho: float, now_s: float) -> None:
    """Raise BudgetExceededError, with the figures, if spending `rho` more is not allowed."""
    if state.participations + 1 > state.participations_limit:
        raise BudgetExceededError(
            f"{state.purpose}: {state.participations} of {state.participations_limit} participations of this period are used"
        )
    if now_s < state.next_allowed_s:
        raise BudgetExceededError(
            f"{state.purpose}: the next contribution is allowed in {state.next_allowed_s - now_s:.0f} s, not before"
        )
    for name, spent, limit in (
        (state.purpose, state.rho_spent, state.rho_limit),
        ("all purposes", state.rho_spent_total, state.rho_limit_total),
    ):
        if spent + rho > limit * (1.0 + _SLACK):
            raise BudgetExceededError(
                f"{name}: rho {spent:.6g} is spent, {rho:.6g} more would exceed the limit {limit:.6g}"
            )
