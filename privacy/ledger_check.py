"""Does a ledger hold: chain, signatures, and every round in keeping with the policy that was in force when it was reserved.

What cannot be accounted is refused, with the number of the entry that is wrong. Reports are built on this, in `reports`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privacy.keys import fingerprint
from privacy.ledger import Entry, read_entries, verify_chain, verify_signatures
from privacy.policy import Policy, parse_policy
from privacy.secure_sum.sizing import graph_size
from shared_models.canonical import Envelope, canonical_bytes
from shared_models.errors import ConfigError, LedgerError, PolicyError, WireError
from shared_models.layouts import layout_model
from shared_models.wire import MODE_DISTRIBUTED, SCALE, RoundPlan, model_hash, noise_variance_for

KINDS = ("genesis", "policy", "begin", "reserve", "release", "abort", "artifact", "publish")
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
    health: dict[str, float] | None = None
    """What the coordinates that hold nothing but noise say: `z` and `ratio` (observed over expected standard deviation)."""

    @property
    def rho(self) -> float:
        return SCALE * SCALE / (2.0 * self.noise_variance)

    @property
    def noise_multiplier(self) -> float:
        return float(self.noise_variance**0.5) / SCALE


@dataclass(frozen=True)
class Artifact:
    """Something that was computed from released sums: post-processing, which costs nothing."""

    study: str
    rounds: tuple[int, ...]
    name: str
    sha256: str


@dataclass
class VerifiedLedger:
    """A ledger whose chain, signatures and arithmetic hold."""

    entries: list[Entry]
    officer_key: bytes
    policies: list[Policy] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)

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
        elif entry.kind == "artifact":
            ledger.artifacts += _artifacts_of(entry, ended, {used for item in ledger.artifacts for used in item.rounds})
    verify_signatures(parsed, signers)
    ledger.rounds = [
        ended.get(round_id) or Round(plan, policy, time_s, "open", None, plan.noise_variance)
        for round_id, (plan, policy, time_s) in started.items()
    ]
    return ledger


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
        (plan.health_dimension == limits.health_dimension, "coordinates that stay zero"),
        (plan.mode != MODE_DISTRIBUTED or _graph_holds(plan, policy), "graph of share-holders"),
        ("layout" not in entry.body or _layout_holds(plan, entry.body["layout"]), "layout"),
    )
    for holds, what in checks:
        if not holds:
            raise LedgerError(f"{where}: {what} does not agree with the plan or with the policy in force")
    return plan


def _graph_holds(plan: RoundPlan, policy: Policy) -> bool:
    try:
        size = graph_size(plan.cohort, plan.colluders, plan.min_survivors)
    except PolicyError:
        return False
    enough = plan.colluders >= math.ceil(policy.colluding_share * plan.cohort)
    return enough and (plan.degree, plan.threshold) == (size.degree, size.threshold)


def _layout_holds(plan: RoundPlan, layout: Any) -> bool:
    """Whether this is the layout that devices were sent: what the sum means is then as public as the sum."""
    if not isinstance(layout, dict):
        return False
    try:
        carried = layout_model(plan.contribution, plan.contribution_version, layout)
    except (ConfigError, WireError):
        return False
    return plan.model_hash == model_hash(*carried)


def _artifacts_of(entry: Entry, ended: Mapping[int, Round], used: set[int]) -> list[Artifact]:
    """What was made of rounds that are released, each of which makes artefacts once."""
    where = f"ledger entry {entry.index}"
    study, rounds, named = (entry.body.get(name) for name in ("study", "rounds", "artifacts"))
    if not isinstance(study, str) or not isinstance(rounds, list) or not isinstance(named, dict) or not rounds:
        raise LedgerError(f"{where}: does not say what was made of which rounds")
    for round_id in rounds:
        if type(round_id) is not int or round_id not in ended or ended[round_id].outcome != "released":
            raise LedgerError(f"{where}: made of round {str(round_id)[:40]}, which was not released")
        if round_id in used or rounds.count(round_id) > 1:
            raise LedgerError(f"{where}: round {round_id} made something before")
    for name, digest in named.items():
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise LedgerError(f"{where}: the hash of {str(name)[:60]!r} is none")
    return [Artifact(study, tuple(rounds), name, digest) for name, digest in named.items()]


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
        if stage := str(entry.body.get("stage", ""))[:40]:
            reason = f"stage {stage}: {reason}"
        return Round(plan, policy, reserved_s, "aborted", survivors, plan.noise_variance, reason)
    variance, root = entry.body.get("noise_variance"), entry.body.get("contributions_root")
    planned = plan.noise_variance
    if survivors is None or not counted or survivors < plan.min_survivors:
        raise LedgerError(f"{where}: {str(survivors)[:40]!r} survivors, planned {plan.min_survivors} to {plan.cohort}")
    if plan.mode == MODE_DISTRIBUTED:
        # Every survivor added its share; the share of those that are assumed to collude does not count.
        planned = (survivors - plan.colluders) * plan.share_variance
        roster = entry.body.get("roster")
        if type(roster) is not int or not survivors <= roster <= plan.cohort:
            raise LedgerError(f"{where}: a roster of {str(roster)[:40]!r} for {survivors} survivors of {plan.cohort}")
    # Exactly this: nobody adds more, so a larger figure could only make epsilon look smaller.
    if type(variance) is not int or variance != planned:
        raise LedgerError(f"{where}: noise variance {str(variance)[:40]!r}, planned {planned}")
    if not isinstance(root, str) or not re.fullmatch("[0-9a-f]{64}", root):
        raise LedgerError(f"{where}: no Merkle root over the contributions")
    health = _health_of(where, entry.body.get("health"), plan)
    return Round(plan, policy, reserved_s, "released", survivors, variance, "", root, health)


def _health_of(where: str, health: Any, plan: RoundPlan) -> dict[str, float] | None:
    if not plan.health_dimension:
        return None
    if not isinstance(health, dict) or set(health) != {"z", "ratio"}:
        raise LedgerError(f"{where}: nothing is said of the noise in the coordinates that are there for testing it")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in health.values()):
        raise LedgerError(f"{where}: the figures of the noise are not numbers")
    return {name: float(value) for name, value in health.items()}


def _hex_field(entry: Entry, name: str) -> bytes:
    try:
        raw = bytes.fromhex(entry.body[name])
    except (KeyError, TypeError, ValueError):
        raw = b""
    if len(raw) != 32:
        raise LedgerError(f"ledger entry {entry.index}: {name} is not a key")
    return raw
