"""What speaks against a consent without ending it: restriction, objection to profiling, Global Privacy Control."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from edge_client.know.consent import Consent
from edge_client.know.store import Store
from shared_models.errors import ConfigError, StoreWriteError
from shared_models.purposes import PURPOSES

KEY = bytes(range(32))
PERSONAL = "personalisation"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(tmp_path / "home", key=KEY) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def consent(store: Store, clock: Clock) -> Consent:
    return Consent(store, clock)


# -- restriction -------------------------------------------------------------------------------------------------------


def test_a_restriction_keeps_the_data_stops_the_use_and_restores_both_when_lifted(tmp_path: Path, clock: Clock) -> None:
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        since_s = consent.grant(PERSONAL).at_s
        store.table("things", purpose=PERSONAL).put("a", {"x": 1})
        consent.restrict(PERSONAL)
        consent.restrict(PERSONAL)
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        assert consent.state(PERSONAL) == "restricted"
        assert consent.granted_since(PERSONAL) is None
        assert consent.given_since(PERSONAL) == since_s
        consent.grant(PERSONAL)
        assert not consent.is_granted(PERSONAL)
        since_s = consent.given_since(PERSONAL) or 0.0
        consent.lift(PERSONAL)
        consent.lift(PERSONAL)
        assert consent.granted_since(PERSONAL) == since_s
        assert store.table("things", purpose=PERSONAL).get("a") == {"x": 1}


def test_lifting_a_restriction_grants_nothing(consent: Consent) -> None:
    consent.restrict(PERSONAL)
    consent.lift(PERSONAL)
    assert consent.state(PERSONAL) == "unasked"
    consent.grant(PERSONAL)
    consent.restrict(PERSONAL)
    consent.withdraw(PERSONAL)
    consent.lift(PERSONAL)
    assert consent.state(PERSONAL) == "off"


# -- objection and signal ----------------------------------------------------------------------------------------------


def test_an_objection_stops_every_profiling_purpose_and_its_end_restores_only_what_was_not_withdrawn(
    tmp_path: Path, clock: Clock
) -> None:
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        for name in PURPOSES:
            consent.grant(name)
        consent.object_to_profiling()
        assert consent.objects_to_profiling
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        assert [name for name in PURPOSES if consent.is_granted(name)] == []
        assert consent.state(PERSONAL) == "objected"
        consent.withdraw(PERSONAL)
        consent.withdraw_objection()
        assert not consent.objects_to_profiling
        assert {name for name in PURPOSES if consent.is_granted(name)} == set(PURPOSES) - {PERSONAL}


def test_the_signal_is_durable_written_once_and_ended_only_by_itself(tmp_path: Path, clock: Clock) -> None:
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        consent.grant(PERSONAL)
        consent.signal_gpc(True)
        commits = store.describe()["commits"]
        for _ in range(20):
            consent.signal_gpc(True)
        assert store.describe()["commits"] == commits
    with Store(tmp_path, key=KEY) as store:
        consent = Consent(store, clock)
        assert consent.objects_to_profiling
        consent.withdraw_objection()
        assert not consent.is_granted(PERSONAL)
        consent.signal_gpc(False)
        assert consent.is_granted(PERSONAL)


def test_the_signal_does_not_end_an_objection(consent: Consent) -> None:
    consent.grant(PERSONAL)
    consent.object_to_profiling()
    consent.signal_gpc(True)
    consent.signal_gpc(False)
    assert consent.objects_to_profiling
    with pytest.raises(ConfigError, match="True or False"):
        consent.signal_gpc("1")  # type: ignore[arg-type]


def test_an_objection_that_the_disk_does_not_take_is_honoured_all_the_same(store: Store, consent: Consent) -> None:
    consent.grant(PERSONAL)
    for tell in (consent.object_to_profiling, lambda: consent.signal_gpc(True)):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(StoreWriteError):
                tell()
            assert not consent.is_granted(PERSONAL)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        tell()
        assert Consent(store, Clock()).objects_to_profiling
        consent.withdraw_objection()
        consent.signal_gpc(False)
        assert consent.is_granted(PERSONAL)


def test_a_consent_given_while_objecting_waits_for_the_end_of_the_objection(consent: Consent) -> None:
    consent.object_to_profiling()
    consent.grant(PERSONAL)
    assert not consent.is_granted(PERSONAL)
    consent.withdraw_objection()
    assert consent.is_granted(PERSONAL)
