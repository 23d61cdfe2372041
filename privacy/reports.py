"""The privacy report: computed from a ledger file alone, so that a third party can recompute every figure.

Nothing here reads a configuration. A ledger that is damaged, altered, incomplete in the middle, signed by another key or not
in keeping with its own policy gets no report, only a LedgerError that says where.
"""

from __future__ import annotations

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
            if round_id not in started or round_id in ended:
                raise LedgerError(f"ledger entry {entry.index}: ends round {round_id!r}, which is not open")
            ended[round_id] = _end_of(entry, *started[round_id])
    verify_signatures(parsed, signers)
    ledger.rounds = [
        ended.get(round_id) or Round(plan, policy, time_s, "open", None, plan.noise_variance)
        for round_id, (plan, policy, time_s) in started.items()
    ]
    return ledger


def build_report(lines: Sequence[bytes], officer_key: bytes | None = None) -> dict[str, Any]:
    """The whole report as a JSON value; `render_html` makes the page of it."""
    ledger = verify_ledger(lines, officer_key)
    policy = ledger.policy
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
        "purposes": [
            _purpose_report(name, [item for item in ledger.rounds if item.plan.purpose == name], policy)
            for name in sorted({*policy.purposes, *(item.plan.purpose for item in ledger.rounds)})
        ],
        "total": _spent(ledger.rounds, policy, sum(item.participations for item in policy.purposes.values())),
        "rounds": [_round_report(item) for item in ledger.rounds],
        "statements": _statements(ledger),
    }


def _purpose_report(name: str, rounds: list[Round], policy: Policy) -> dict[str, Any]:
    limits = policy.purposes.get(name)
    participations = limits.participations if limits else len(rounds)
    spent = _spent(rounds, policy, participations)
    per_round = rounds[-1].rho if rounds else None
    left = max(0.0, limits.rho - spent["rho"]) if limits else 0.0
    by_rho = int(left / per_round + 1e-9) if per_round else None
    by_count = max(0, participations - len(rounds))
    return {
        "purpose": name,
        **spent,
        "rho_limit": limits.rho if limits else 0.0,
        "epsilon_limit": epsilon_from_rho(limits.rho, policy.delta) if limits else 0.0,
        "participations_limit": participations,
        "rounds_left": None if by_rho is None else min(by_rho, by_count),
        "local_noise": _local_noise(rounds),
    }


def _spent(rounds: Sequence[Round], policy: Policy, participations: int) -> dict[str, Any]:
    """Cost to a device that took part in as many rounds as the policy lets it, the most expensive ones first."""
    charged = sorted(rounds, key=lambda item: item.rho, reverse=True)[:participations]
    rho = largest_rho((item.rho for item in rounds), participations)
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
        "epsilon_pld_continuous_surrogate_plan_fixed": pld_epsilon(multipliers, policy.delta) if multipliers else 0.0,
        "least_survivors": min(survivors, default=None),
        "least_noise_multiplier": min(multipliers, default=None),
    }


def _local_noise(rounds: Sequence[Round]) -> dict[str, Any]:
    """The policy's second line, example-level; never to be read beside the user-level ε."""
    multipliers = sorted({item.plan.local.noise_multiplier for item in rounds if item.plan.local})
    if not multipliers or multipliers[-1] == 0.0:
        return {"noise_multiplier": 0.0, "text": "no local noise"}
    least = multipliers[0]
    return {
        "noise_multiplier": least,
        "rounds": len(rounds),
        "unit": "one example (weaker than one user), by Opacus",
        "generator": "torch (not cryptographic)",
        "text": f"local noise multiplier {least}: example-level, generator not cryptographic, not part of the headline",
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
    if policy.halted:
        result.append(f"Contributions are halted by the privacy officer: {policy.reason or 'no reason given'}.")
    return result


def _policy_of(entry: Entry, officer_key: bytes, earlier: Sequence[Policy]) -> Policy:
    try:
        policy = parse_policy(Envelope.from_document(entry.body["policy"]), officer_key)
    except (KeyError, TypeError, WireError, PolicyError) as error:
        raise LedgerError(f"ledger entry {entry.index}: its policy cannot be used: {error!r}") from error
    if earlier and policy.sequence <= earlier[-1].sequence:
        raise LedgerError(f"ledger entry {entry.index}: policy {policy.sequence} is not newer than the one before")
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
    checks = (
        (entry.body.get("plan_hash") == plan.hash, "plan hash"),
        (entry.body.get("round_id") == plan.round_id, "round id"),
        (entry.body.get("rho") == plan.rho, "rho"),
        (plan.policy_hash == policy.hash, "policy hash"),
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
    if entry.kind == "abort":
        reason = str(entry.body.get("reason", ""))[:500]
        return Round(plan, policy, reserved_s, "aborted", survivors, plan.noise_variance, reason)
    variance, root = entry.body.get("noise_variance"), entry.body.get("contributions_root")
    if not isinstance(survivors, int) or not plan.min_survivors <= survivors <= plan.cohort:
        raise LedgerError(f"{where}: {survivors!r} survivors, planned {plan.min_survivors} to {plan.cohort}")
    if not isinstance(variance, int) or variance < plan.noise_variance:
        raise LedgerError(f"{where}: noise variance {variance!r}, planned {plan.noise_variance}")
    if not isinstance(root, str) or len(root) != 64:
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
