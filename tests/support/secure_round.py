"""A secure sum in memory: real sessions on both sides, messages handed over as bytes, devices that stop where a test says."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import nacl.signing
import numpy as np

from privacy.enrolment import issue_certificate
from privacy.mechanisms import NoisySum
from privacy.secure_sum.device import DeviceSession
from privacy.secure_sum.messages import STAGES
from privacy.secure_sum.server import ServerSession
from privacy.secure_sum.sizing import graph_size
from shared_models.errors import SecureSumError
from shared_models.wire import MODE_DISTRIBUTED, SCALE, RoundPlan

NOW_S = 1_800_000_000
TASK = "fleet"
HASH = "ab" * 32


@functools.cache
def authority() -> nacl.signing.SigningKey:
    return nacl.signing.SigningKey(bytes(range(32)))


def plan_for(
    cohort: int, min_survivors: int, *, colluders: int = 0, dimension: int = 8, round_id: int = 1, **changes: object
) -> RoundPlan:
    size = graph_size(cohort, colluders, min_survivors)
    fields = {
        "task": TASK,
        "round_id": round_id,
        "purpose": "intent-model",
        "contribution": "intent_head",
        "contribution_version": 1,
        "dimension": dimension,
        "clip_norm": 1.0,
        "noise_variance": (4 * SCALE) ** 2,
        "cohort": cohort,
        "min_survivors": min_survivors,
        "colluders": colluders,
        "degree": size.degree,
        "threshold": size.threshold,
        "health_dimension": 0,
        "mode": MODE_DISTRIBUTED,
        "issued_s": NOW_S,
        "deadline_s": NOW_S + 600,
        "model_hash": HASH,
        "encoder_hash": HASH,
        "policy_hash": HASH,
        "policy_sequence": 1,
    }
    return RoundPlan(**{**fields, **changes})


def device(plan: RoundPlan, *, signed_by: nacl.signing.SigningKey | None = None) -> DeviceSession:
    """A device with a fresh identity, certified by the authority."""
    identity = nacl.signing.SigningKey.generate()
    certificate = issue_certificate(
        signed_by or authority(), plan.task, bytes(identity.verify_key), NOW_S - 1000, NOW_S + 100_000
    )
    return DeviceSession(plan, identity, certificate, bytes(authority().verify_key), lambda: NOW_S)


@dataclass
class SecureRound:
    """One round, stage by stage. `drops`: stage → devices that are gone before they answer it."""

    plan: RoundPlan
    vectors: Sequence[np.ndarray]
    """Integers, one row for each device; what a gate would mask."""
    drops: Mapping[str, Iterable[int]] = field(default_factory=dict)
    tamper: Callable[[str, int, bytes], bytes] = lambda stage, index, raw: raw
    """What a cheating server does to a message on its way to device `index`."""

    def __post_init__(self) -> None:
        self.devices = [device(self.plan) for _ in self.vectors]
        self.server = ServerSession(self.plan, bytes(authority().verify_key), lambda: NOW_S)
        self.refusals: dict[int, str] = {}
        self._gone: set[int] = set()
        self._place: dict[int, int] = {}

    def run(self) -> NoisySum:
        server = self.server
        for number, item in self._alive("advertise"):
            self._place[number] = server.add_advert(item.advert())
        server.close_roster()
        self._stage("draw", server.draw_request, lambda item, raw: item.draw(raw), server.add_draw)
        server.open_sharing()
        self._stage("share", server.share_request, lambda item, raw: item.share(raw), server.add_shares)
        server.open_contributing()
        for number, item in self._alive("contribute"):
            place = self._place[number]

            def answer(item: DeviceSession = item, place: int = place, number: int = number) -> None:
                item.open_contribute(self.tamper("contribute", number, server.contribute_request(place)))
                ring = (np.asarray(self.vectors[number], np.int64) & 0xFFFFFFFF).astype(np.uint32)
                server.add_contribution(place, *item.masked(ring))

            self._guard(number, answer)
        server.open_agreement()
        self._stage("agree", lambda _: server.agree_request(), lambda item, raw: item.agree(raw), server.add_signature)
        server.open_unmasking()
        self._stage("unmask", server.unmask_request, lambda item, raw: item.unmask(raw), server.add_unmasking)
        return server.release()

    def _alive(self, stage: str) -> list[tuple[int, DeviceSession]]:
        assert stage in STAGES
        self._gone |= set(self.drops.get(stage, ()))
        return [(number, item) for number, item in enumerate(self.devices) if number not in self._gone]

    def _stage(
        self,
        stage: str,
        request: Callable[[int], bytes],
        answer: Callable[[DeviceSession, bytes], bytes],
        add: Callable[[int, bytes], None],
    ) -> None:
        for number, item in self._alive(stage):
            place = self._place[number]
            self._guard(
                number,
                lambda item=item, place=place, number=number: add(
                    place, answer(item, self.tamper(stage, number, request(place)))
                ),
            )

    def _guard(self, number: int, step: Callable[[], None]) -> None:
        try:
            step()
        except SecureSumError as error:
            self.refusals[number] = str(error)
            self._gone.add(number)
