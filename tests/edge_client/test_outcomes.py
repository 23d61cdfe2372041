"""Counters of how the assistant did, by group: only with consent, bounded in time, durable, gone with the withdrawal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_client.know.consent import Consent
from edge_client.know.outcomes import PERIOD_S, PERIODS, TABLE, Outcomes
from edge_client.know.profile import SECONDS_PER_DAY, Profile
from edge_client.know.store import Store
from edge_client.share.contributions.fairness_slices import compute
from shared_models.errors import InputError
from shared_models.fairness import DAYS_OF_USE, FairnessLayout
from shared_models.profile import default_schema
from shared_models.purposes import PERSONALISATION

NAME = PERSONALISATION.name


class Clock:
    def __init__(self) -> None:
        self.now_s = 100 * PERIOD_S

    def __call__(self) -> float:
        return self.now_s


class Device:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.folder = folder
        self.open()

    def open(self) -> None:
        self.store = Store(self.folder, key=bytes(32))
        self.consent = Consent(self.store, self.clock)
        self.profile = Profile(self.store, default_schema(), self.clock)
        self.outcomes = Outcomes(self.store, self.consent, self.profile, default_schema().slices, self.clock)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    made.consent.grant(NAME)
    yield made
    made.store.close()


def test_outcomes_are_counted_in_the_groups_that_the_user_is_in(device: Device) -> None:
    device.profile.observe("device_type", "phone", source="context", at_s=device.clock.now_s)
    device.profile.observe("utc_offset_h", 1, source="context", at_s=device.clock.now_s)
    assert device.outcomes.record("right", language="de")
    assert device.outcomes.record("accepted", language="de")
    row = [1, 0, 0, 1, 0]
    assert device.outcomes.counts() == {
        "language": {"german": row},
        "device": {"phone": row},
        "region": {"europe_africa": row},
        "tenure": {"new": row},
    }


def test_what_is_not_known_is_in_no_group(device: Device) -> None:
    device.outcomes.record("declined")
    assert device.outcomes.counts() == {"tenure": {"new": [0, 0, 1, 0, 0]}}


def test_a_turn_that_is_corrected_later_is_taken_back(device: Device) -> None:
    device.outcomes.record("right")
    device.outcomes.record("right", by=-1)
    device.outcomes.record("corrected")
    device.outcomes.record("right", by=-1)
    assert device.outcomes.counts()["tenure"]["new"] == [0, 1, 0, 0, 0]


def test_without_consent_nothing_is_counted_and_a_withdrawal_takes_all(device: Device) -> None:
    device.outcomes.record("right")
    device.consent.withdraw(NAME)
    assert device.outcomes.counts() == {}
    assert not device.outcomes.record("right")
    device.consent.grant(NAME)
    assert device.outcomes.counts() == {}
    assert len(device.store.table(TABLE, purpose=NAME)) == 0


def test_a_user_becomes_a_long_time_user(device: Device) -> None:
    device.outcomes.record("right")
    device.clock.now_s += 31 * SECONDS_PER_DAY
    device.outcomes.record("right")
    assert device.outcomes.counts()["tenure"] == {"new": [1, 0, 0, 0, 0], "long_time": [1, 0, 0, 0, 0]}


def test_old_periods_go_and_a_wrong_clock_leaves_nothing_for_ever(device: Device) -> None:
    device.outcomes.record("right")
    device.clock.now_s += PERIODS * PERIOD_S
    assert device.outcomes.counts() == {}
    device.outcomes.record("corrected")
    assert sum(map(sum, device.outcomes.counts()["tenure"].values())) == 1
    device.clock.now_s -= 50 * PERIOD_S
    assert device.outcomes.counts() == {}
    device.outcomes.record("right")
    assert len(device.store.table(TABLE, purpose=NAME).keys("period-")) == 1


def test_counts_outlive_the_process(device: Device) -> None:
    device.outcomes.record("right", language="es")
    device.store.close()
    device.open()
    assert device.outcomes.counts()["language"] == {"spanish": [1, 0, 0, 0, 0]}
    assert device.outcomes.document()["counts"] == device.outcomes.counts()
    assert device.outcomes.clear() == 2


@pytest.mark.parametrize(
    ("outcome", "by"), [("wrong", 1), ("", 1), (None, 1), ("right", 1.5), ("right", True), ("right", 10**9)]
)
def test_what_is_no_outcome_is_refused(device: Device, outcome: Any, by: Any) -> None:
    with pytest.raises(InputError):
        device.outcomes.record(outcome, by)


def test_the_counters_make_a_contribution(device: Device) -> None:
    for _ in range(4):
        device.outcomes.record("right", language="de")
    device.outcomes.record("corrected", language="en")
    layout = FairnessLayout(default_schema().slices)
    vector = compute(layout, device.outcomes.counts(), device.outcomes.slices)
    said = {slot: value / layout.factor for slot, value in zip(layout.slots, vector.tolist(), strict=True) if value}
    assert said["language", "german", "right"] == pytest.approx(0.8)
    assert said["language", "english", "corrected"] == pytest.approx(0.2)
    assert float(np.linalg.norm(vector)) <= 1.0
    assert DAYS_OF_USE not in device.profile.document()["attributes"]
