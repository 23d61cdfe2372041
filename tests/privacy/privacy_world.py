"""An officer, an aggregator, a device in memory, and a ledger writer: real keys, real envelopes, a clock that tests move."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import nacl.signing
import numpy as np
import yaml

from privacy.gate import Gate, SealedContribution
from privacy.ledger import Entry, next_entry, sign_entry
from privacy.policy import Policy, parse_policy, sign_policy
from privacy.policy_text import PolicyDraft, draft_policy
from shared_models.canonical import Envelope, seal_envelope
from shared_models.wire import PLAN_KIND, RoundPlan, noise_variance_for

NOW_S = 1_800_000_000
OFFICER = nacl.signing.SigningKey(bytes([1]) * 32)
AGGREGATOR = nacl.signing.SigningKey(bytes([2]) * 32)
STRANGER = nacl.signing.SigningKey(bytes([3]) * 32)
OFFICER_PUBLIC = bytes(OFFICER.verify_key)
PURPOSE, CONTRIBUTION = "intent-model", "intent_head"
MODEL_HASH, ENCODER_HASH = "a" * 64, "b" * 64
DIMENSION = 12
DAY_S = 86_400


def policy_document(**draft: Any) -> dict[str, Any]:
    """A good policy as a YAML value, to be changed by tests."""
    return copy.deepcopy(_drafted(tuple(sorted(draft.items()))))


@functools.lru_cache
def _drafted(draft: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    wish = {
        "fleet": "test",
        "aggregator_key": bytes(AGGREGATOR.verify_key),
        "epsilon": 4.0,
        "participations": 5,
        "population": 10_000,
        "min_survivors": 3,
        **dict(draft),
    }
    text = draft_policy(PolicyDraft(**wish), now=datetime.fromtimestamp(NOW_S, UTC))
    document: dict[str, Any] = yaml.safe_load(text)
    document["issued"], document["expires"] = document["issued"].isoformat(), document["expires"].isoformat()
    return document


def contribution_of(document: dict[str, Any]) -> dict[str, Any]:
    """The limits of the one contribution inside a policy's document."""
    return document["purposes"][PURPOSE]["contributions"][CONTRIBUTION]


def signed_policy(document: Mapping[str, Any], key: nacl.signing.SigningKey = OFFICER) -> Envelope:
    return sign_policy(yaml.safe_dump(dict(document), sort_keys=False), key)


def parsed(document: Mapping[str, Any]) -> Policy:
    return parse_policy(signed_policy(document), OFFICER_PUBLIC)


def make_plan(policy: Policy, round_id: int = 1, **changes: Any) -> RoundPlan:
    limits = policy.purposes[PURPOSE].contributions[CONTRIBUTION]
    whole: dict[str, Any] = {
        "task": policy.fleet,
        "round_id": round_id,
        "purpose": PURPOSE,
        "contribution": CONTRIBUTION,
        "contribution_version": limits.version,
        "dimension": DIMENSION,
        "clip_norm": limits.clip_norm,
        "noise_variance": noise_variance_for(limits.noise_multiplier),
        "cohort": 10,
        "min_survivors": limits.min_survivors,
        "mode": "trusted-aggregator",
        "issued_s": NOW_S,
        "deadline_s": NOW_S + 600,
        "model_hash": MODEL_HASH,
        "encoder_hash": ENCODER_HASH,
        "policy_hash": policy.hash,
        "policy_sequence": policy.sequence,
        "local": limits.local,
    }
    return RoundPlan(**{**whole, **changes})


def signed_plan(plan: RoundPlan, key: nacl.signing.SigningKey = AGGREGATOR) -> Envelope:
    return seal_envelope(PLAN_KIND, plan.to_bytes(), key)


class DictMemory:
    """A `GateMemory` whose transactions are all or nothing, and which tells what was written in which order."""

    damaged = False

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.committed: list[str] = []

    def get(self, key: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.items.get(key))

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        self.items[key] = copy.deepcopy(dict(value))
        self.committed.append(key)

    def entries(self, prefix: str) -> list[dict[str, Any]]:
        return [copy.deepcopy(value) for key, value in self.items.items() if key.startswith(prefix)]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        before, written = copy.deepcopy(self.items), len(self.committed)
        try:
            yield
        except BaseException:
            self.items = before
            del self.committed[written:]
            raise


class World:
    """One device at one moment."""

    def __init__(self, document: dict[str, Any] | None = None) -> None:
        self.now_s = float(NOW_S)
        self.document = document or policy_document()
        self.memory = DictMemory()
        self.consents: dict[str, float] = {PURPOSE: NOW_S - 100.0}
        self.updates = 0
        self.gate = self.new_gate()
        self.policy = self.gate.adopt_policy(signed_policy(self.document))

    def granted_since(self, purpose: str) -> float | None:
        return self.consents.get(purpose)

    given_since = granted_since

    def new_gate(self) -> Gate:
        """As after a restart of the app."""
        return Gate(officer_key=OFFICER_PUBLIC, consent=self, memory=self.memory, clock=lambda: self.now_s)

    def adopt(self, **changes: Any) -> Policy:
        """A policy with the next number and some fields changed takes force."""
        self.document = {**self.document, "sequence": self.document["sequence"] + 1, **changes}
        self.policy = self.gate.adopt_policy(signed_policy(self.document))
        return self.policy

    def plan(self, round_id: int = 1, **changes: Any) -> RoundPlan:
        times = {"issued_s": int(self.now_s), "deadline_s": int(self.now_s) + 600}
        return make_plan(self.policy, round_id, **{**times, **changes})

    def update(self, plan: RoundPlan) -> np.ndarray:
        self.updates += 1
        return np.linspace(-1.0, 1.0, plan.dimension)

    def seal(self, plan: RoundPlan | Envelope, update: Any = None) -> SealedContribution:
        envelope = plan if isinstance(plan, Envelope) else signed_plan(plan)
        return self.gate.seal(envelope, update or self.update, model_hash=MODEL_HASH, encoder_hash=ENCODER_HASH)


@dataclass
class LedgerWriter:
    """Writes the ledger of an aggregator that may lie: every entry is well linked and well signed, whatever its body."""

    key: nacl.signing.SigningKey = AGGREGATOR
    entries: list[Entry] = field(default_factory=list)
    time_s: int = NOW_S

    def add(self, kind: str, body: dict[str, Any]) -> Entry:
        self.entries.append(next_entry(self.entries[-1] if self.entries else None, self.time_s, kind, body))
        self.time_s += 60
        return self.entries[-1]

    def genesis(self, document: Mapping[str, Any]) -> Policy:
        envelope = signed_policy(document)
        self.add("genesis", {"fleet": "test", "officer_key": OFFICER_PUBLIC.hex(), "policy": envelope.document()})
        return parse_policy(envelope, OFFICER_PUBLIC)

    def policy(self, document: Mapping[str, Any]) -> Policy:
        envelope = signed_policy(document)
        self.add("policy", {"policy": envelope.document()})
        return parse_policy(envelope, OFFICER_PUBLIC)

    def reserve(self, plan: RoundPlan, /, **changes: Any) -> None:
        body = {"round_id": plan.round_id, "plan": plan.document(), "plan_hash": plan.hash, "rho": plan.rho}
        self.add("reserve", {**body, **changes})

    def release(self, plan: RoundPlan, /, survivors: Any = 7, **changes: Any) -> None:
        body = {
            "round_id": plan.round_id,
            "plan_hash": plan.hash,
            "survivors": survivors,
            "noise_variance": plan.noise_variance,
            "sum_sha256": "c" * 64,
            "contributions_root": "d" * 64,
            "model_hash": "e" * 64,
        }
        self.add("release", {**body, **changes})

    def abort(self, plan: RoundPlan, /, **changes: Any) -> None:
        body = {"round_id": plan.round_id, "plan_hash": plan.hash, "reason": "too few", "survivors": 1}
        self.add("abort", {**body, **changes})

    def lines(self) -> list[bytes]:
        return [sign_entry(entry, self.key) for entry in self.entries]

    def relinked(self) -> list[bytes]:
        """The lines after somebody changed `entries` and linked and signed them anew."""
        last: Entry | None = None
        fresh = []
        for entry in self.entries:
            last = replace(entry, index=len(fresh), previous=last.hash if last else entry.previous)
            fresh.append(last)
        return [sign_entry(entry, self.key) for entry in fresh]


def good_ledger(rounds: int = 3, document: Mapping[str, Any] | None = None) -> LedgerWriter:
    """Genesis, `rounds` released rounds, one aborted and one that is still open."""
    writer = LedgerWriter()
    policy = writer.genesis(document or policy_document())
    for round_id in range(1, rounds + 1):
        plan = make_plan(policy, round_id, issued_s=writer.time_s, deadline_s=writer.time_s + 600)
        writer.reserve(plan)
        writer.release(plan, survivors=6 + round_id % 4)
    aborted, left_open = make_plan(policy, rounds + 1), make_plan(policy, rounds + 2)
    writer.reserve(aborted)
    writer.abort(aborted)
    writer.reserve(left_open)
    return writer
