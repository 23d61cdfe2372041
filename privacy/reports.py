"""The privacy report: computed from a ledger file alone, so that a third party can recompute every figure.

Nothing here reads a configuration. A ledger that is damaged, altered, incomplete in the middle, signed by another key or not
in keeping with its own policy gets no report, only a LedgerError that says where.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.accounting import cross_check, epsilon_from_rho, largest_rho, pld_epsilon
from privacy.keys import fingerprint
from privacy.ledger import Entry, read_entries, verify_chain, verify_signatures
from privacy.policy import Policy, parse_policy
from shared_models.canonical import Envelope, canonical_bytes
from shared_models.errors import LedgerError, PolicyError, WireError
from shared_models.wire import SCALE, RoundPlan, noise_variance_for

REPORT_FORMAT = 1
KINDS = ("genesis", "policy", "begin", "reserve", "release", "abort", "publish")
"""What a ledger of an aggregator may hold. An entry of another kind could be a release that nobody accounts: it is refused."""


@dataclass(frozen=True)
class Round:
    """One round as the ledger tells it, checked against the policy that was in force."""

    plan: RoundPlan
    policy: Policy
    reserved_s: int
    outcome: str
    """`released`, `aborted` or `open` (reserved, and nothing more is known: counts as spent)."""
    survivors: int | None
    noise_variance: int
    """That of the release itself where there was one; else of the plan."""
    reason: str = ""
    contributions_root: str = ""

    @property
    def rho(self) -> float:
        return SCALE * SCALE / (2.0 * self.noise_variance)

    @property
    def noise_multiplier(self) -> float:
        return float(self.noise_variance**0.5) / SCALE


@dataclass
class VerifiedLedger:
    """A ledger whose chain, signatures and arithmetic hold."""

    entries: list[Entry]
    officer_key: bytes
    policies: list[Policy] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)

    @property
    def policy(self) -> Policy:
        return self.policies[-1]

    @property
    def head(self) -> str:
        return self.entries[-1].hash


def read_ledger(path: Path) -> list[bytes]:
    """Lines of a ledger file. Raises LedgerError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error}") from error
    if not raw.endswith(b"\n"):
        raise LedgerError(f"{path}: the last line is cut off, or the file is empty")
    return raw[:-1].split(b"\n")


def verify_ledger(lines: Sequence[bytes], officer_key: bytes | None = None) -> VerifiedLedger:
    """Check everything that the ledger says about itself. Raises LedgerError.

    `officer_key` is the one that the reader trusts; without it the ledger's own claim is taken, to be compared by fingerprint.
    """
    parsed = list(read_entries(lines))
    entries = [entry for _, entry in parsed]
    verify_chain(entries)
    if not entries or entries[0].kind != "genesis":
        raise LedgerError("the ledger does not start with a genesis entry")
    claimed = _hex_field(entries[0], "officer_key")
    if officer_key is not None and claimed != officer_key:
        raise LedgerError(
            f"the ledger names the officer's key {fingerprint(claimed)}, the trusted one is {fingerprint(officer_key)}"
        )
    ledger = VerifiedLedger(entries, claimed)
    signers: list[bytes] = []
    started: dict[int, tuple[RoundPlan, Policy, int]] = {}
    ended: dict[int, Round] = {}
    for entry in entries:
        if entry.kind not in KINDS or (entry.kind == "genesis" and entry.index > 0):
            raise LedgerError(
                f"ledger entry {entry.index}: {entry.kind[:40]!r} is not expected here and cannot be accounted"
            )
        if entry.kind in ("genesis", "policy"):
            ledger.policies.append(_policy_of(entry, claimed, ledger.policies))
        # A change of the aggregator's key takes effect with the entry that brings the policy.
        signers.append(ledger.policy.aggregator_key)
        if entry.kind == "reserve":
            plan = _plan_of(entry, ledger.policy)
            if plan.round_id in started or (started and plan.round_id <= max(started)):
                raise LedgerError(f"ledger entry {entry.index}: round id {plan.round_id} was used before")
            started[plan.round_id] = (plan, ledger.policy, entry.time_s)
        elif entry.kind in ("release", "abort"):
            round_id = entry.body.get("round_id")
            if type(round_id) is not int or round_id not in started or round_id in ended:
                raise LedgerError(f"ledger entry {entry.index}: ends round {round_id!r}, which is not open")
            ended[round_id] = _end_of(entry, *started[round_id])
    verify_signatures(parsed, signers)
    ledger.rounds = [
        ended.get(round_id) or Round(plan, policy, time_s, "open", None, plan.noise_variance)
        for round_id, (plan, policy, time_s) in started.items()
    ]
    return ledger


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
        starts = [item.reserved_s for item in self.rounds] or [0]
        period_s = min(policy.period_s for policy in ledger.policies)
        self._periods = 1 + (max(starts) - min(starts)) // period_s

    @property
    def charged(self) -> list[Round]:
        """The most expensive ones, as many as one device may answer in one period."""
        return self._dearest(self._participations)

    @property
    def charged_ever(self) -> list[Round]:
        """The same over all periods of the ledger."""
        return self._dearest(self._participations * self._periods)

    def report(self) -> dict[str, Any]:
        limits = self._policy.purposes.get(self.name)
        spent = _spent(self.rounds, self.charged, self.charged_ever, self._policy)
        recent = [item for item in self.rounds if item.reserved_s > self._end_s - self._policy.period_s]
        left = None
        if limits and self.rounds:
            by_rho = (limits.rho - largest_rho((item.rho for item in recent), len(recent))) / self.rounds[-1].rho
            left = max(0, min(int(by_rho + 1e-9), limits.participations - len(recent)))
        return {
            "purpose": self.name,
            **spent,
            "rho_limit": limits.rho if limits else 0.0,
            "epsilon_limit": epsilon_from_rho(limits.rho, self._policy.delta) if limits else 0.0,
            "participations_limit": limits.participations if limits else 0,
            "rounds_left": left,
            "local_noise": _local_noise(self.rounds),
        }

    def _dearest(self, most: int) -> list[Round]:
        return sorted(self.rounds, key=lambda item: item.rho, reverse=True)[:most]


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
    }


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
    if all(not item.plan.local or item.plan.local.noise_multiplier == 0.0 for item in ledger.rounds):
        result.append("No local noise: devices clip each example's gradient and add no noise of their own.")
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


def _policy_of(entry: Entry, officer_key: bytes, earlier: Sequence[Policy]) -> Policy:
    try:
        policy = parse_policy(Envelope.from_document(entry.body["policy"]), officer_key)
    except (KeyError, TypeError, ValueError, WireError, PolicyError) as error:
        raise LedgerError(f"ledger entry {entry.index}: its policy cannot be used: {error!r}") from error
    if earlier and policy.sequence <= earlier[-1].sequence:
        raise LedgerError(f"ledger entry {entry.index}: policy {policy.sequence} is not newer than the one before")
    if earlier and policy.fleet != earlier[-1].fleet:
        raise LedgerError(f"ledger entry {entry.index}: a policy for another fleet")
    return policy


def _plan_of(entry: Entry, policy: Policy) -> RoundPlan:
    where = f"ledger entry {entry.index}"
    try:
        document = dict(entry.body["plan"])
        plan = RoundPlan.from_bytes(canonical_bytes(document))
    except (KeyError, TypeError, ValueError, WireError) as error:
        raise LedgerError(f"{where}: its plan cannot be read: {error!r}") from error
    purpose = policy.purposes.get(plan.purpose)
    limits = purpose.contributions.get(plan.contribution) if purpose else None
    if limits is None or plan.mode not in policy.modes:
        raise LedgerError(f"{where}: the policy in force does not allow {plan.contribution!r} in mode {plan.mode!r}")
    if policy.halted or not policy.issued_s - 300 <= plan.issued_s < policy.expires_s:
        raise LedgerError(
            f"{where}: the policy in force was halted, expired or not valid yet; every device refuses that"
        )
    checks = (
        (entry.body.get("plan_hash") == plan.hash, "plan hash"),
        (entry.body.get("round_id") == plan.round_id, "round id"),
        (entry.body.get("rho") == plan.rho, "rho"),
        (plan.policy_hash == policy.hash, "policy hash"),
        (plan.policy_sequence == policy.sequence, "policy number"),
        (plan.task == policy.fleet, "task"),
        (plan.contribution_version == limits.version, "version of the contribution"),
        (plan.dimension <= limits.max_dimension, "dimension"),
        (plan.clip_norm <= limits.clip_norm, "clip norm"),
        (plan.noise_variance >= noise_variance_for(limits.noise_multiplier), "noise"),
        (plan.min_survivors >= limits.min_survivors, "n_min"),
        (plan.local == limits.local, "local training"),
    )
    for holds, what in checks:
        if not holds:
            raise LedgerError(f"{where}: {what} does not agree with the plan or with the policy in force")
    return plan


def _end_of(entry: Entry, plan: RoundPlan, policy: Policy, reserved_s: int) -> Round:
    where = f"ledger entry {entry.index}"
    if entry.body.get("plan_hash") != plan.hash:
        raise LedgerError(f"{where}: ends another plan than the one that was reserved")
    survivors = entry.body.get("survivors")
    counted = type(survivors) is int and 0 <= survivors <= plan.cohort
    if entry.kind == "abort":
        if not counted and survivors is not None:
            raise LedgerError(f"{where}: {str(survivors)[:40]!r} survivors of {plan.cohort}")
        reason = str(entry.body.get("reason", ""))[:500]
        return Round(plan, policy, reserved_s, "aborted", survivors, plan.noise_variance, reason)
    variance, root = entry.body.get("noise_variance"), entry.body.get("contributions_root")
    if survivors is None or not counted or survivors < plan.min_survivors:
        raise LedgerError(f"{where}: {str(survivors)[:40]!r} survivors, planned {plan.min_survivors} to {plan.cohort}")
    # Exactly the plan's: nobody adds more in this mode, so a larger figure could only make epsilon look smaller.
    if type(variance) is not int or variance != plan.noise_variance:
        raise LedgerError(f"{where}: noise variance {str(variance)[:40]!r}, planned {plan.noise_variance}")
    if not isinstance(root, str) or not re.fullmatch("[0-9a-f]{64}", root):
        raise LedgerError(f"{where}: no Merkle root over the contributions")
    return Round(plan, policy, reserved_s, "released", survivors, variance, "", root)


def _hex_field(entry: Entry, name: str) -> bytes:
    try:
        raw = bytes.fromhex(entry.body[name])
    except (KeyError, TypeError, ValueError):
        raw = b""
    if len(raw) != 32:
        raise LedgerError(f"ledger entry {entry.index}: {name} is not a key")
    return raw


def _iso(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
