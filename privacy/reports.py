"""The privacy report: computed from a ledger file alone, so that a third party can recompute every figure.

Nothing here reads a configuration. A ledger that is damaged, altered, incomplete in the middle, signed by another key or not
in keeping with its own policy gets no report, only a LedgerError that says where.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from privacy.accounting import cross_check, epsilon_from_rho, largest_rho, pld_epsilon
from privacy.charging import CLOCK_SLACK_S, Charge, dearest, within_limit
from privacy.guarantees import NoisyRelease, epsilon_under_collusion, protocol_failure
from privacy.keys import fingerprint
from privacy.ledger_check import Round, VerifiedLedger, read_ledger, verify_ledger
from privacy.noise_health import ALARM_Z
from privacy.policy import Policy
from shared_models.wire import MODE_DISTRIBUTED

REPORT_FORMAT = 1


def spent_epsilon(lines: Sequence[bytes], officer_key: bytes | None = None) -> float:
    """The headline ε over all purposes so far, from a verified ledger: that of the report's `total`, for a live display."""
    ledger = verify_ledger(lines, officer_key)
    charged = [item for name in _purposes(ledger) for item in _Purpose(name, ledger).charged]
    return epsilon_from_rho(largest_rho((item.rho for item in charged), len(charged)), ledger.policy.delta)


def build_report(lines: Sequence[bytes], officer_key: bytes | None = None) -> dict[str, Any]:
    """The whole report as a JSON value; `render_html` makes the page of it."""
    ledger = verify_ledger(lines, officer_key)
    policy = ledger.policy
    by_purpose = {name: _Purpose(name, ledger) for name in _purposes(ledger)}
    total = [item for purpose in by_purpose.values() for item in purpose.charged]
    ever = [item for purpose in by_purpose.values() for item in purpose.charged_ever]
    return {
        "format": REPORT_FORMAT,
        "fleet": policy.fleet,
        "ledger": {
            "entries": len(ledger.entries),
            "head": ledger.head,
            "from": _iso(ledger.entries[0].time_s),
            "to": _iso(ledger.entries[-1].time_s),
            "officer_key": ledger.officer_key.hex(),
            "officer_fingerprint": fingerprint(ledger.officer_key),
            "aggregator_fingerprint": fingerprint(policy.aggregator_key),
        },
        "policy": {
            "sequence": policy.sequence,
            "expires": _iso(policy.expires_s),
            "halted": policy.halted,
            "delta": policy.delta,
            "population": policy.population,
            "colluding_share": policy.colluding_share,
            "period_days": policy.period_days,
            "rho_total": policy.rho_total,
            "epsilon_total": policy.epsilon_total,
        },
        "purposes": [purpose.report() for purpose in by_purpose.values()],
        "total": _spent(ledger.rounds, total, ever, policy),
        "rounds": [_round_report(item) for item in ledger.rounds],
        "artifacts": [
            {"name": x.name, "study": x.study, "rounds": list(x.rounds), "sha256": x.sha256} for x in ledger.artifacts
        ],
        "statements": _statements(ledger),
    }


def _purposes(ledger: VerifiedLedger) -> list[str]:
    return sorted({*ledger.policy.purposes, *(item.plan.purpose for item in ledger.rounds)})


class _Purpose:
    """The rounds of one purpose, and which of them one device can have been charged for at most."""

    def __init__(self, name: str, ledger: VerifiedLedger) -> None:
        self.name = name
        self.rounds = [item for item in ledger.rounds if item.plan.purpose == name]
        self._policy = ledger.policy
        self._end_s = ledger.entries[-1].time_s
        # A policy that allows less from now on takes nothing back: the most that any policy of this ledger allowed counts.
        limits = [policy.purposes[name] for policy in ledger.policies if name in policy.purposes]
        self._participations = max(item.participations for item in limits)
        self._separation_s = min(item.separation_s for item in limits)
        self._rho = max(item.rho for item in limits)
        starts = [item.reserved_s for item in self.rounds] or [0]
        period_s = min(policy.period_s for policy in ledger.policies)
        self._periods = 1 + (max(starts) - min(starts)) // period_s

    @property
    def charged(self) -> list[Round]:
        """The most expensive ones that one device may answer in one period, as many and as close together as is allowed."""
        return self._dearest(self._participations, self._rho)

    @property
    def charged_ever(self) -> list[Round]:
        """The same over all periods of the ledger."""
        return self._dearest(self._participations * self._periods, self._rho * self._periods)

    def report(self) -> dict[str, Any]:
        limits = self._policy.purposes.get(self.name)
        spent = _spent(self.rounds, self.charged, self.charged_ever, self._policy)
        recent = [item for item in self.rounds if item.reserved_s > self._end_s - self._policy.period_s]
        left: dict[str, int] = {}
        if limits and self.rounds:
            rho_left = limits.rho - largest_rho((item.rho for item in recent), len(recent))
            for name, allowed in limits.contributions.items():
                earlier = [item.rho for item in self.rounds if item.plan.contribution == name]
                one = earlier[-1] if earlier else 1.0 / (2.0 * allowed.noise_multiplier**2)
                left[name] = max(0, min(int(rho_left / one + 1e-9), limits.participations - len(recent)))
        return {
            "purpose": self.name,
            **spent,
            "rho_limit": limits.rho if limits else 0.0,
            "epsilon_limit": epsilon_from_rho(limits.rho, self._policy.delta) if limits else 0.0,
            "participations_limit": limits.participations if limits else 0,
            "rounds_left": max(left.values(), default=None),
            "contributions": {
                name: {
                    "rounds": sum(item.plan.contribution == name for item in self.rounds),
                    "rho": math.fsum(item.rho for item in self.charged if item.plan.contribution == name),
                    "rounds_left": left.get(name),
                }
                for name in sorted(
                    {*(limits.contributions if limits else ()), *(x.plan.contribution for x in self.rounds)}
                )
            },
            "local_noise": _local_noise(self.rounds),
        }

    def _dearest(self, most: int, limit: float) -> list[Round]:
        charges = [Charge(item.rho, item.plan.issued_s - CLOCK_SLACK_S, item.plan.deadline_s) for item in self.rounds]
        chosen = dearest(charges, most, self._separation_s)
        if math.fsum(self.rounds[index].plan.rho for index in chosen) > limit * (1.0 + 1e-9):
            # Rounds of different cost: a device that paid for the dearest of all had nothing left for the next.
            affordable = within_limit([x.plan.rho for x in self.rounds], [x.rho for x in self.rounds], most, limit)
            chosen = chosen if affordable is None else affordable
        return [self.rounds[index] for index in chosen]


def _spent(rounds: Sequence[Round], charged: list[Round], ever: list[Round], policy: Policy) -> dict[str, Any]:
    """Cost to a device that took part in as many rounds as it was allowed to, the most expensive ones first."""
    rho = largest_rho((item.rho for item in charged), len(charged))
    rho_ever = largest_rho((item.rho for item in ever), len(ever))
    multipliers = [item.noise_multiplier for item in charged]
    epsilon = epsilon_from_rho(rho, policy.delta)
    cross_check(multipliers, policy.delta, epsilon)
    survivors = [item.survivors for item in rounds if item.outcome == "released" and item.survivors is not None]
    return {
        "rounds_released": len(survivors),
        "rounds_charged": len(rounds),
        "participations": len(charged),
        "rho": rho,
        "epsilon": epsilon,
        "delta": policy.delta,
        "epsilon_whole_ledger": epsilon_from_rho(rho_ever, policy.delta),
        "participations_whole_ledger": len(ever),
        "epsilon_pld_continuous_surrogate_plan_fixed": pld_epsilon(multipliers, policy.delta) if multipliers else 0.0,
        "least_survivors": min(survivors, default=None),
        "least_noise_multiplier": min(multipliers, default=None),
        "modes": sorted({item.plan.mode for item in charged}),
        "delta_protocol": policy.delta + protocol_failure(sum(_is_distributed(item) for item in charged)),
        "epsilon_if_more_collude": _under_collusion(charged, policy),
    }


def _is_distributed(item: Round) -> bool:
    return item.plan.mode == MODE_DISTRIBUTED


def _under_collusion(charged: Sequence[Round], policy: Policy) -> dict[str, float] | None:
    """ε at γ, 50%, 90% and all but one colluding; None unless every round that is charged was a secure sum."""
    if not charged or not all(_is_distributed(item) for item in charged):
        return None
    return epsilon_under_collusion(
        [
            NoisyRelease(
                item.plan.min_survivors if item.survivors is None else max(item.survivors, item.plan.min_survivors),
                item.plan.cohort,
                item.plan.colluders,
                item.plan.share_variance,
            )
            for item in charged
        ],
        policy.delta,
    )


def _local_noise(rounds: Sequence[Round]) -> dict[str, Any]:
    """The policy's second line, example-level; never to be read beside the user-level ε."""
    multipliers = [item.plan.local.noise_multiplier for item in rounds if item.plan.local]
    noisy = [multiplier for multiplier in multipliers if multiplier > 0.0]
    if not noisy:
        return {"noise_multiplier": 0.0, "text": "no local noise"}
    return {
        "noise_multiplier": min(noisy),
        "rounds": len(noisy),
        "unit": "one example (weaker than one user), by Opacus",
        "generator": "torch (not cryptographic)",
        "text": f"local noise multiplier {min(noisy)} in {len(noisy)} of {len(multipliers)} rounds: example-level, "
        "generator torch (not cryptographic), not part of the headline",
    }


def _round_report(item: Round) -> dict[str, Any]:
    return {
        "round_id": item.plan.round_id,
        "time": _iso(item.reserved_s),
        "purpose": item.plan.purpose,
        "contribution": item.plan.contribution,
        "mode": item.plan.mode,
        "outcome": item.outcome,
        "invited": item.plan.cohort,
        "survivors": item.survivors,
        "min_survivors": item.plan.min_survivors,
        "noise_multiplier": item.noise_multiplier,
        "rho": item.rho,
        "reason": item.reason,
        "health": item.health,
    }


def _statements(ledger: VerifiedLedger) -> list[str]:
    policy = ledger.policy
    modes = sorted({item.plan.mode for item in ledger.rounds})
    result = [
        "Unit of privacy: one enrolment (one user on one device). Neighbouring: zero-out; who took part is public.",
        "Headline: zCDP composed over the participations that the policy allows, converted to (epsilon, delta); "
        "no amplification by sampling is claimed.",
        "Every round that was reserved counts as spent, also one that was aborted or interrupted.",
        "The ledger proves integrity and arithmetic. It does not prove that noise was added.",
    ]
    if "trusted-aggregator" in modes:
        result.append(
            "Mode trusted-aggregator: the aggregator receives each device's clipped vector and adds the noise itself. "
            "The figures hold for whoever sees the releases, not against the aggregator."
        )
    if len({item.plan.purpose for item in ledger.rounds}) > 1:
        result.append(
            "Several purposes: each has a consent, a limit of rho and a count of participations of its own, and a device that "
            "allowed one is in no round of another. The total is that of a device that allowed them all: rho adds up."
        )
    if MODE_DISTRIBUTED in modes:
        result.append(
            "Mode distributed: secure sums; the aggregator never receives a single device's vector. Epsilon assumes that at "
            f"most {policy.colluding_share:.0%} of a cohort collude with it; what is left of the noise if more do stands beside "
            "it; beyond that share the masks themselves may fall, and then only the last of these figures holds for whoever "
            "runs the aggregator. The bound is computational, and the protocol's failure probability is added to delta."
        )
        unhealthy = [item for item in ledger.rounds if item.health and item.health["z"] < -ALARM_Z]
        for item in unhealthy:
            result.append(
                f"ALARM: the release of round {item.plan.round_id} holds less noise than planned (observed standard deviation "
                f"{item.health['ratio']:.3f} of it, z {item.health['z']:.1f})."  # type: ignore[index]
            )
    if all(not item.plan.local or item.plan.local.noise_multiplier == 0.0 for item in ledger.rounds):
        result.append(
            "No local noise: training on devices clips each example's gradient and adds no noise; there is no second line."
        )
    for name in _purposes(ledger):
        ever, charged = _Purpose(name, ledger).charged_ever, _Purpose(name, ledger).charged
        if len(ever) > len(charged):
            result.append(
                f"The ledger covers several periods of {policy.period_days} days. The headline of {name} is for one period; a "
                f"device that took part as often as it might in all of them is charged {len(ever)} rounds: epsilon "
                f"{epsilon_from_rho(largest_rho((item.rho for item in ever), len(ever)), policy.delta):.3f}."
            )
    if policy.halted:
        result.append(f"Contributions are halted by the privacy officer: {policy.reason or 'no reason given'}.")
    return result


def _iso(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["Round", "VerifiedLedger", "build_report", "read_ledger", "spent_epsilon", "verify_ledger"]
