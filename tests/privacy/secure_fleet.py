"""Six real gates of a fleet in mode `distributed`, and the server's real session with them: a test stops it before any stage."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import nacl.signing
import numpy as np
import pytest
from privacy_world import (
    DIMENSION,
    ENCODER_HASH,
    MODEL_HASH,
    NOW_S,
    OFFICER_PUBLIC,
    World,
    make_plan,
    policy_document,
    signed_plan,
)

from privacy.clipping import IntArray
from privacy.enrolment import issue_certificate
from privacy.gate import Gate, SealedContribution, SealedMessage
from privacy.mechanisms import NoisySum
from privacy.secure_sum.messages import ADVERTISE, AGREE, CONTRIBUTE, DRAW, SHARE, STAGES, UNMASK
from privacy.secure_sum.server import ServerSession
from privacy.secure_sum.sizing import graph_size
from shared_models.wire import MODE_DISTRIBUTED, SCALE, RoundPlan

AUTHORITY = nacl.signing.SigningKey(bytes([5]) * 32)
MEMBERS, LEAST, GAMMA, HEALTH = 6, 4, 0.1, 3
LEARNED = DIMENSION - HEALTH


def no_noise(variance: int, size: int) -> IntArray:
    return np.zeros(size, np.int64)


class Member(World):
    """A device of a fleet in mode `distributed`, with an integer vector that the grid holds exactly."""

    def __init__(self, number: int, document: dict[str, Any]) -> None:
        self.noise: Callable[[int, int], IntArray] = no_noise
        super().__init__(document)
        self.vector = np.random.default_rng(number).integers(-1000, 1000, LEARNED)
        self.certify()

    def new_gate(self) -> Gate:
        return Gate(
            officer_key=OFFICER_PUBLIC,
            consent=self,
            memory=self.memory,
            clock=lambda: self.now_s,
            noise=lambda variance, size: self.noise(variance, size),
        )

    def certify(self, fleet: str = "test", days: float = 90, authority: nacl.signing.SigningKey = AUTHORITY) -> None:
        until_s = int(NOW_S + days * 86_400)
        self.gate.install_certificate(
            issue_certificate(authority, fleet, self.gate.identity_key(), NOW_S - 1000, until_s)
        )

    def plan(self, round_id: int = 1, **changes: Any) -> RoundPlan:
        """For the whole fleet; figures of the graph that are not given follow from the others."""
        cohort, least = changes.get("cohort", MEMBERS), changes.get("min_survivors", LEAST)
        colluders = changes.get("colluders", math.ceil(GAMMA * cohort))
        size = graph_size(cohort, colluders, least)
        figures = {"cohort": cohort, "colluders": colluders, "degree": size.degree, "threshold": size.threshold}
        rest = {"mode": MODE_DISTRIBUTED, "health_dimension": HEALTH}
        times = {"issued_s": int(self.now_s), "deadline_s": int(self.now_s) + 600}
        return make_plan(self.policy, round_id, **{**figures, **rest, **times, **changes})

    def update(self, plan: RoundPlan) -> np.ndarray:
        self.updates += 1
        return self.vector / SCALE

    def contribute(self, plan: RoundPlan, request: bytes, update: Any = None, **hashes: str) -> SealedContribution:
        hashes = {"model_hash": MODEL_HASH, "encoder_hash": ENCODER_HASH, **hashes}
        return self.gate.seal(signed_plan(plan), update or self.update, request=request, **hashes)

    def answer(self, plan: RoundPlan, stage: str, body: bytes) -> SealedMessage:
        return self.gate.answer_stage(plan.task, plan.round_id, stage, body)


class Fleet:
    """Six devices and the server's real session; a test stops it before any stage."""

    def __init__(self, **draft: Any) -> None:
        wish = {
            "enrolment_key": bytes(AUTHORITY.verify_key),
            "colluding_share": GAMMA,
            "min_survivors": LEAST,
            "health_dimension": HEALTH,
            **draft,
        }
        self.members = [Member(number, policy_document(**wish)) for number in range(MEMBERS)]
        self.first = self.members[0]

    def exact(self, members: list[int] | None = None) -> np.ndarray:
        """Sum of the vectors [dimension], with zeros where every device is silent."""
        chosen = range(MEMBERS) if members is None else members
        return np.concatenate([sum(self.members[item].vector for item in chosen), np.zeros(HEALTH, np.int64)])

    def until(self, stage: str, plan: RoundPlan, drops: dict[str, set[int]] | None = None) -> ServerSession:
        """The server's session in `stage`, which nobody has answered yet. `drops`: stage → who is gone from there on."""
        server = ServerSession(plan, bytes(AUTHORITY.verify_key), lambda: self.first.now_s)
        gone: set[int] = set()
        for name in STAGES[: STAGES.index(stage)]:
            gone |= (drops or {}).get(name, set())
            self.lead(server, plan, name, [item for item in range(MEMBERS) if item not in gone])
        return server

    def lead(self, server: ServerSession, plan: RoundPlan, stage: str, members: list[int]) -> None:
        for place in members:
            member = self.members[place]
            if stage == ADVERTISE:
                assert server.add_advert(member.gate.advertise(signed_plan(plan)).body) == place
            elif stage == DRAW:
                server.add_draw(place, member.answer(plan, DRAW, server.draw_request(place)).body)
            elif stage == SHARE:
                server.add_shares(place, member.answer(plan, SHARE, server.share_request(place)).body)
            elif stage == CONTRIBUTE:
                sealed = member.contribute(plan, server.contribute_request(place))
                server.add_contribution(place, sealed.values, sealed.proof)
            elif stage == AGREE:
                server.add_signature(place, member.answer(plan, AGREE, server.agree_request()).body)
            else:
                server.add_unmasking(place, member.answer(plan, UNMASK, server.unmask_request(place)).body)
        closing = {
            ADVERTISE: server.close_roster,
            DRAW: server.open_sharing,
            SHARE: server.open_contributing,
            CONTRIBUTE: server.open_agreement,
            AGREE: server.open_unmasking,
        }
        closing.get(stage, lambda: None)()

    def finish(self, server: ServerSession, plan: RoundPlan, drops: dict[str, set[int]] | None = None) -> NoisySum:
        gone: set[int] = set()
        for stage in STAGES[STAGES.index(server._stage) :]:
            gone |= (drops or {}).get(stage, set())
            self.lead(server, plan, stage, [item for item in range(MEMBERS) if item not in gone])
        return server.release()

    def run(self, plan: RoundPlan, drops: dict[str, set[int]] | None = None) -> NoisySum:
        return self.finish(self.until(ADVERTISE, plan), plan, drops)


def untouched(member: Member, step: Callable[[], object], kind: type[Exception], match: str | None = None) -> None:
    """`kind` is raised, nothing is computed, nothing is spent or kept."""
    before, updates = copy.deepcopy(member.memory.items), member.updates
    with pytest.raises(kind, match=match):
        step()
    assert member.memory.items == before
    assert member.updates == updates
