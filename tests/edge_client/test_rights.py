"""The user's rights over real rooms: see, take along, correct, restrict, object, and the trail that is left."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rooms import PERSONAL, START_S, Device

from edge_client.know.audit import MOST_ENTRIES, RIGHTS, AuditTrail, audit_entry
from edge_client.know.rights import EXPORT_SCHEMA
from edge_client.know.store import Store
from shared_models.errors import CaptureError, ConfigError, ConsentError, StoreClosedError
from shared_models.purposes import notice_sha256

KEY = bytes(range(32))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    opened = Device(tmp_path / "home")
    yield opened
    opened.store.close()


# -- access and portability --------------------------------------------------------------------------------------------


def test_an_export_holds_all_that_is_kept_in_the_layout_that_is_published(device: Device) -> None:
    device.live()
    found = json.loads(json.dumps(device.rights.export(), allow_nan=False))
    jsonschema.Draft202012Validator.check_schema(EXPORT_SCHEMA)
    jsonschema.validate(found, EXPORT_SCHEMA)
    city = found["profile"]["attributes"]["home_city"]
    assert (city["source"], city["provenance"]) == ("declared", "event:identify")
    assert list(found["inferred"]) == ["favourite_category"]
    assert found["inferred"]["favourite_category"]["confidence"] == 0.7
    assert "surfboards" in json.dumps(found["events"])
    assert found["segments"] == json.loads(json.dumps(device.capture.windows()))
    (decision,) = found["decisions"]
    assert decision["reasons"] == ["you looked at surfboards"]
    assert found["consents"][PERSONAL]["state"] == "granted"
    (receipt,) = found["consent_receipts"]
    shown = receipt["consent_record"]["events"][0]["notice_sha256"]
    assert notice_sha256(found["notices"][shown]) == shown
    assert found["examples"] == device.more["examples"]
    assert found["privacy"]["rho"] == {"intent-model": 0.25}
    assert [entry["right"] for entry in found["audit"]] == ["access"]


def test_an_export_of_a_new_device_has_the_same_layout(device: Device) -> None:
    jsonschema.validate(device.rights.export(), EXPORT_SCHEMA)


def test_access_needs_no_consent_and_ends_with_no_restriction_or_objection(device: Device) -> None:
    device.live()
    device.rights.restrict(PERSONAL)
    device.rights.object_to_profiling()
    found = device.rights.export()
    assert "home_city" in found["profile"]["attributes"]
    assert len(found["events"]) == 1
    assert found["objects_to_profiling"] is True


def test_a_device_that_cannot_write_still_shows_what_it_knows(device: Device) -> None:
    device.live()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        found = device.rights.export()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "home_city" in found["profile"]["attributes"]
    assert found["audit"] == []


@pytest.mark.parametrize("name", ["profile", "audit", "format"])
def test_what_other_rooms_add_cannot_hide_what_is_known(device: Device, name: str) -> None:
    device.more[name] = {}
    with pytest.raises(ConfigError, match=name):
        device.rights.export()


def test_numbers_that_json_does_not_have_and_odd_values_do_not_spoil_an_export(device: Device) -> None:
    device.more["odd"] = {"nan": float("nan"), "set": {2, 1}, 3: (1, float("inf"))}
    assert json.loads(json.dumps(device.rights.export(), allow_nan=False))["odd"] == {
        "nan": None,
        "set": [1, 2],
        "3": [1, None],
    }
    device.more["odd"] = {"half \ud800": "letter \udfff"}
    json.dumps(device.rights.export(), ensure_ascii=False).encode()
    device.more["odd"] = object()
    with pytest.raises(ConfigError, match="JSON"):
        device.rights.export()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(value=ANYTHING)
def test_whatever_other_rooms_add_an_export_is_json_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    device = Device(tmp_path_factory.mktemp("any"))
    try:
        device.more = {"extra": value}
        try:
            found = device.rights.export()
        except ConfigError:
            return
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        jsonschema.validate(found, EXPORT_SCHEMA)
    finally:
        device.store.close()


def test_an_endless_value_is_refused(device: Device) -> None:
    endless: list[Any] = []
    endless.append(endless)
    device.more = {"extra": endless}
    with pytest.raises(ConfigError, match="deep"):
        device.rights.export()


# -- correction --------------------------------------------------------------------------------------------------------


def test_a_correction_wins_over_what_sources_say_later(device: Device) -> None:
    device.live()
    device.rights.correct("favourite_category", "museums")
    device.now_s += 60.0
    device.profile.observe("favourite_category", "surfing", source="inferred", at_s=device.now_s)
    value = device.profile.get("favourite_category")
    assert value is not None
    assert (value.value, value.corrected) == ("museums", True)
    overruled = device.rights.export()["profile"]["attributes"]["favourite_category"]["overruled"]
    assert "surfing" in json.dumps(overruled)


def test_a_correction_is_possible_while_the_purpose_is_restricted(device: Device) -> None:
    device.live()
    device.rights.restrict(PERSONAL)
    device.rights.correct("home_city", "Porto")
    value = device.profile.get("home_city")
    assert value is not None
    assert value.value == "Porto"


def test_a_correction_without_consent_keeps_nothing(device: Device) -> None:
    with pytest.raises(ConsentError, match="grant it first"):
        device.rights.correct("home_city", "Porto")
    assert device.profile.get("home_city") is None
    assert device.rights.audit() == []


def test_a_correction_that_the_schema_does_not_allow_changes_nothing(device: Device) -> None:
    device.live()
    for name, value in (("shoe_size", 42), ("age_band", "ninety"), ("orders", "many"), ("home_city", {"a": 1})):
        with pytest.raises(CaptureError):
            device.rights.correct(name, value)
    assert device.rights.audit() == []


# -- restriction and objection -----------------------------------------------------------------------------------------


def test_nothing_is_captured_or_decided_while_a_purpose_is_restricted_and_everything_is_back_afterwards(
    device: Device,
) -> None:
    device.live()
    before = device.capture.windows()
    device.rights.restrict(PERSONAL)
    assert not device.view("kites").kept
    assert device.decisions.record("suggestion", "kite", []) is None
    assert len(device.capture.events()) == 1
    device.rights.lift(PERSONAL)
    assert device.capture.windows() == before
    assert device.view("kites").kept
    assert len(device.capture.events()) == 2


def test_nothing_is_captured_while_the_user_objects(device: Device) -> None:
    device.live()
    device.rights.object_to_profiling()
    assert not device.view("kites").kept
    device.rights.withdraw_objection()
    assert device.view("kites").kept


# -- withdrawal --------------------------------------------------------------------------------------------------------


def test_withdrawal_takes_profile_events_windows_and_decisions_at_once_and_for_good(device: Device) -> None:
    untouched = device.capture.windows()
    device.live()
    device.consent.withdraw(PERSONAL)
    for _ in range(2):
        assert device.profile.values() == {}
        assert device.profile.document()["attributes"] == {}
        assert device.capture.events() == []
        assert device.capture.windows() == untouched
        assert device.decisions.recent() == []
        found = json.dumps(device.rights.export())
        for canary in ("Lisbon", "surfing", "surfboards", "surf camp"):
            assert canary not in found
        device.store.close()
        device = Device(device.store.folder)
    device.consent.grant(PERSONAL)
    assert device.capture.windows() == untouched
    assert device.view("kites").kept
    device.store.close()


# -- the trail ---------------------------------------------------------------------------------------------------------


def test_each_exercised_right_leaves_one_entry_without_personal_data(device: Device) -> None:
    device.live()
    device.rights.export()
    device.rights.correct("diet", ["kosher"])
    device.rights.restrict(PERSONAL)
    device.rights.lift(PERSONAL)
    device.rights.object_to_profiling()
    device.rights.withdraw_objection()
    device.consent.signal_gpc(True)
    device.consent.signal_gpc(False)
    device.consent.withdraw(PERSONAL)
    trail = device.rights.audit()
    assert [entry["right"] for entry in trail] == list(RIGHTS[:-1])
    assert [bool(entry["purpose"]) for entry in trail] == [False, True, True, True, False, False, False, False, True]
    text = json.dumps(trail)
    for canary in ("diet", "kosher", "Lisbon", "surf", "home_city"):
        assert canary not in text


def test_the_trail_is_bounded_and_takes_no_free_text(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        trail = AuditTrail(store, lambda: START_S)
        with store.transaction():
            for _ in range(MOST_ENTRIES + 5):
                trail.note("access")
        assert len(trail.entries()) == MOST_ENTRIES
    with pytest.raises(ConfigError):
        audit_entry(START_S, "asked about Lisbon")
    with pytest.raises(ConfigError):
        audit_entry(START_S, "access", purpose="surfing")


def test_a_closed_device_says_so(device: Device) -> None:
    device.store.close()
    for call in (device.rights.export, device.rights.erase, device.rights.object_to_profiling, device.rights.audit):
        with pytest.raises(StoreClosedError):
            call()
