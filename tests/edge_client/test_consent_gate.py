"""The gate over real consents: while anything speaks against a consent, a round gets a refusal and nothing is spent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edge_client.know.consent import Consent, ConsentTerms
from edge_client.know.store import Store
from privacy.gate import Gate
from shared_models.errors import ConsentError
from shared_models.wire import RoundPlan

sys.path.insert(0, str(Path(__file__).parents[1] / "privacy"))

from privacy_world import (
    ENCODER_HASH,
    MODEL_HASH,
    NOW_S,
    OFFICER_PUBLIC,
    PURPOSE,
    make_plan,
    parsed,
    policy_document,
    signed_plan,
    signed_policy,
)


class Device:
    """A store with consents and a gate over both, under a policy of 20 participations."""

    def __init__(self, folder: Path, terms: ConsentTerms | None = None) -> None:
        self.store = Store(folder, key=bytes(range(32)))
        self.consent = Consent(self.store, self.clock, terms=terms)
        self.gate = Gate(
            officer_key=OFFICER_PUBLIC, consent=self.consent, memory=self.store.table("gate"), clock=self.clock
        )
        self.gate.adopt_policy(signed_policy(policy_document(participations=20)))
        self.updates = 0

    def clock(self) -> float:
        return float(NOW_S)

    def update(self, plan: RoundPlan) -> npt.NDArray[np.float64]:
        self.updates += 1
        return np.ones(plan.dimension)

    def contribute(self, round_id: int) -> None:
        plan = make_plan(parsed(policy_document(participations=20)), round_id)
        self.gate.seal(signed_plan(plan), self.update, model_hash=MODEL_HASH, encoder_hash=ENCODER_HASH)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    opened = Device(tmp_path / "home")
    opened.consent.grant(PURPOSE)
    yield opened
    opened.store.close()


STOPS: dict[str, tuple[Callable[[Consent], object], Callable[[Consent], object]]] = {
    "withdrawal": (lambda consent: consent.withdraw(PURPOSE), lambda consent: consent.grant(PURPOSE)),
    "restriction": (lambda consent: consent.restrict(PURPOSE), lambda consent: consent.lift(PURPOSE)),
    "objection": (Consent.object_to_profiling, Consent.withdraw_objection),
    "Sec-GPC": (lambda consent: consent.signal_gpc(True), lambda consent: consent.signal_gpc(False)),
}


@pytest.mark.parametrize("how", STOPS)
def test_the_next_round_gets_nothing_and_costs_nothing_until_the_consent_counts_again(device: Device, how: str) -> None:
    stop, go = STOPS[how]
    device.contribute(1)
    stop(device.consent)
    with pytest.raises(ConsentError):
        device.contribute(2)
    assert device.updates == 1
    assert device.gate.budget(PURPOSE).participations == 1
    go(device.consent)
    device.contribute(2)
    assert device.gate.budget(PURPOSE).participations == 2


@pytest.mark.parametrize("how", ["restriction", "objection", "Sec-GPC"])
def test_a_looser_policy_that_came_meanwhile_needs_fresh_consent_all_the_same(device: Device, how: str) -> None:
    stop, go = STOPS[how]
    stop(device.consent)
    looser = policy_document(participations=50)
    device.gate.adopt_policy(signed_policy({**looser, "sequence": looser["sequence"] + 1}))
    go(device.consent)
    plan = make_plan(parsed({**looser, "sequence": looser["sequence"] + 1}), 1)
    with pytest.raises(ConsentError, match="ask again"):
        device.gate.seal(signed_plan(plan), device.update, model_hash=MODEL_HASH, encoder_hash=ENCODER_HASH)
    device.consent.grant(PURPOSE)


def test_a_consent_to_an_older_notice_lets_nothing_out(device: Device, tmp_path: Path) -> None:
    device.store.close()
    newer = Device(tmp_path / "home", ConsentTerms(notice_version=2))
    with pytest.raises(ConsentError):
        newer.contribute(1)
    newer.consent.grant(PURPOSE)
    newer.contribute(1)
    newer.store.close()
