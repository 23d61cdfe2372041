"""One secure sum of `item_gram` through real gates, all its stages: what preference.py holds its arithmetic against."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import nacl.signing
import numpy as np
import yaml

from aggregator.releases import item_space
from aggregator.replica import gate_integers
from aggregator.simulate import AlwaysConsenting, VolatileMemory
from edge_client.share.contributions import item_gram
from privacy.enrolment import issue_certificate
from privacy.gate import Gate
from privacy.mechanisms import NoisySum
from privacy.policy import Policy, parse_policy, sign_policy
from privacy.policy_text import PolicyDraft, draft_policy
from privacy.secure_sum.server import ServerSession
from privacy.secure_sum.sizing import graph_size
from privacy.table_sampler import sample_from_table
from shared_models.canonical import Envelope, seal_envelope
from shared_models.preference import gram_dimension
from shared_models.wire import MODE_DISTRIBUTED, PLAN_KIND, RoundPlan, model_hash, noise_variance_for

FLEET = "preference"
COLLUDING, DROP_OUT = 0.05, 0.1
NO_ENCODER = "0" * 64


@dataclass(frozen=True)
class Liked:
    """An `ItemSource` of what is known beforehand."""

    items: Sequence[str]

    def liked_items(self) -> Sequence[str]:
        return self.items


@dataclass(frozen=True)
class SecureGram:
    release: NoisySum
    exact: np.ndarray
    """What the gates' integers sum to without noise; only a benchmark can know it."""
    share_variance: int
    seconds: float


class GramRound:
    """A policy for one round of `item_gram` at ε, and the devices and server that run it."""

    def __init__(
        self, users: Sequence[Sequence[str]], head: item_space.HeadChoice, epsilon: float, delta: float
    ) -> None:
        officer, self.aggregator, self.authority = (nacl.signing.SigningKey.generate() for _ in range(3))
        self.now_s = 1_800_000_000
        self.users, self.head = users, head
        envelope = self._policy(officer, epsilon, delta)
        self.policy: Policy = parse_policy(envelope, bytes(officer.verify_key))
        self.gates = [self._gate(bytes(officer.verify_key), envelope) for _ in users]

    def run(self) -> SecureGram:
        begun_s = time.monotonic()
        plan = self._plan()
        signed = seal_envelope(PLAN_KIND, plan.to_bytes(), self.aggregator)
        server = ServerSession(plan, bytes(self.authority.verify_key), lambda: self.now_s)
        gates, places = self.gates, range(len(self.gates))
        for gate in gates:
            server.add_advert(gate.advertise(signed).body)
        server.close_roster()
        self._stage(plan, "draw", server.draw_request, server.add_draw)
        server.open_sharing()
        self._stage(plan, "share", server.share_request, server.add_shares)
        server.open_contributing()
        for place in places:
            sealed = gates[place].seal(
                signed,
                lambda accepted, place=place: self._vector(accepted, place),
                model_hash=plan.model_hash,
                encoder_hash=NO_ENCODER,
                request=server.contribute_request(place),
            )
            server.add_contribution(place, sealed.values, sealed.proof)
        server.open_agreement()
        self._stage(plan, "agree", lambda _: server.agree_request(), server.add_signature)
        server.open_unmasking()
        self._stage(plan, "unmask", server.unmask_request, server.add_unmasking)
        release = server.release()
        exact = sum(gate_integers(self._vector(plan, place), plan.clip_norm) for place in places)
        return SecureGram(release, np.asarray(exact), plan.share_variance, time.monotonic() - begun_s)

    def _stage(self, plan: RoundPlan, stage: str, request, add) -> None:  # type: ignore[no-untyped-def]
        for place, gate in enumerate(self.gates):
            add(place, gate.answer_stage(plan.task, plan.round_id, stage, request(place)).body)

    def _vector(self, plan: RoundPlan, place: int) -> np.ndarray:
        return item_gram.compute(plan, Liked(self.users[place]), self.head.items, self.head.weights)

    def _plan(self) -> RoundPlan:
        cohort, limits = len(self.users), self.policy.purposes[item_gram.PURPOSE].contributions[item_gram.NAME]
        least, colluders = cohort - int(DROP_OUT * cohort), math.ceil(COLLUDING * cohort)
        size = graph_size(cohort, colluders, least)
        return RoundPlan(
            task=FLEET,
            round_id=1,
            purpose=item_gram.PURPOSE,
            contribution=item_gram.NAME,
            contribution_version=item_gram.VERSION,
            dimension=gram_dimension(len(self.head.items)),
            clip_norm=limits.clip_norm,
            noise_variance=noise_variance_for(limits.noise_multiplier),
            cohort=cohort,
            min_survivors=least,
            colluders=colluders,
            degree=size.degree,
            threshold=size.threshold,
            mode=MODE_DISTRIBUTED,
            issued_s=self.now_s,
            deadline_s=self.now_s + 600,
            model_hash=model_hash(self.head.items, self.head.weights),
            encoder_hash=NO_ENCODER,
            policy_hash=self.policy.hash,
            policy_sequence=self.policy.sequence,
        )

    def _policy(self, officer: nacl.signing.SigningKey, epsilon: float, delta: float) -> Envelope:
        draft = PolicyDraft(
            fleet=FLEET,
            aggregator_key=bytes(self.aggregator.verify_key),
            epsilon=epsilon,
            participations=1,
            population=max(len(self.users), 2),
            min_survivors=1,
            delta=delta,
            colluding_share=COLLUDING,
            enrolment_key=bytes(self.authority.verify_key),
            health_dimension=0,
        )
        document = yaml.safe_load(draft_policy(draft, now=datetime.fromtimestamp(self.now_s, UTC)))
        (limits,) = document["purposes"].values()
        (contribution,) = limits["contributions"].values()
        limits["contributions"] = {
            item_gram.NAME: {
                **contribution,
                "version": item_gram.VERSION,
                "clip_norm": item_gram.CLIP_NORM,
                "local": None,
            }
        }
        document["purposes"] = {item_gram.PURPOSE: limits}
        document |= {name: document[name].isoformat() for name in ("issued", "expires")}
        return sign_policy(yaml.safe_dump(document, sort_keys=False), officer)

    def _gate(self, officer_key: bytes, policy: Envelope) -> Gate:
        gate = Gate(
            officer_key=officer_key,
            consent=AlwaysConsenting(),
            memory=VolatileMemory(),
            clock=lambda: self.now_s,
            noise=sample_from_table,
        )
        gate.adopt_policy(policy)
        gate.install_certificate(
            issue_certificate(self.authority, FLEET, gate.identity_key(), self.now_s - 1000, self.now_s + 100_000)
        )
        return gate
