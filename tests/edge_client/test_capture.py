"""Capture: what is kept of an event, when, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from captured import START_S, CapturingDevice, iso, page, track

from edge_client.know.capture import Captured
from edge_client.know.events import MAX_CHARS, MAX_RAW_BYTES, parse_event
from shared_models.errors import CaptureError
from shared_models.purposes import PERSONALISATION

DAY_S = 86_400.0


@pytest.fixture
def device(tmp_path: Path) -> CapturingDevice:
    return CapturingDevice(tmp_path / "home")


# -- minimisation and consent ---------------------------------------------------------------------------------------------


def test_only_what_the_schema_names_is_kept_and_the_rest_is_counted_by_name(device: CapturingDevice) -> None:
    event = {
        **track("Product Viewed", productId="p-1", price=9.5, currency="eur", email="canary@example.org"),
        "context": {"ip": "203.0.113.9", "userAgent": "canary/1.0", "page": {"url": "https://canary.example"}},
    }
    answer = device.capture.receive(event)
    assert answer.kept
    assert answer.dropped == ("email", "context.ip", "context.userAgent", "context.page")
    (record,) = device.stored()
    assert record["properties"] == {"product_id": "p-1", "price": 9.5, "currency": "EUR"}
    assert set(record) == {"id", "type", "name", "at_s", "received_s", "offset_h", "properties"}
    everything = json.dumps([record, device.profile.document(), device.capture.quality()])
    for secret in ("canary", "203.0.113.9", "u-1"):
        assert secret not in everything
    assert device.capture.quality()["dropped"] == {name: 1 for name in answer.dropped}
    assert device.capture.quality()["missing"] == {"product_viewed.category": 1, "product_viewed.position": 1}


def test_nothing_is_kept_without_consent(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path, granted=False)
    commits = device.store.describe()["commits"]
    assert device.capture.receive(track("Product Viewed", message_id="m")) == Captured(False, "no_consent", "m")
    assert device.capture.receive_batch([page("Home")] * 2) == [Captured(False, "no_consent", "")] * 2
    assert device.stored() == []
    assert device.store.describe()["commits"] == commits
    assert device.capture.quality()["no_consent"] == 3
    assert device.capture.quality()["missing"] == {}, "an event was looked at without consent"


def test_an_event_that_the_schema_does_not_name_is_not_kept(device: CapturingDevice) -> None:
    assert device.capture.receive(track("Shoe Size Told", size=42, message_id="m")).reason == "not_in_schema"
    assert device.capture.receive(track("identify", message_id="m2")).reason == "not_in_schema"
    assert device.stored() == []
    assert device.capture.quality()["not_in_schema"] == 2


def test_withdrawn_consent_takes_events_and_windows_and_a_new_one_starts_from_nothing(device: CapturingDevice) -> None:
    device.capture.receive(track("Product Viewed", message_id="m"))
    assert device.capture.windows()["counts"]["product_viewed"]["1h"] == 1
    device.consent.when_withdrawn(PERSONALISATION.name, lambda: device.capture.clear() and None)
    device.consent.withdraw(PERSONALISATION.name)
    assert device.capture.events() == []
    assert device.capture.windows()["counts"] == {}
    assert device.capture.quality()["kept"] == 0
    device.consent.grant(PERSONALISATION.name)
    assert device.capture.receive(track("Product Viewed", message_id="m")).kept
    assert device.capture.windows()["counts"]["product_viewed"]["1h"] == 1


def test_destroying_the_purpose_behind_its_back_is_noticed(device: CapturingDevice) -> None:
    device.capture.receive(track("Product Viewed", message_id="m"))
    device.store.destroy_purpose(PERSONALISATION.name)
    assert device.capture.events() == []
    assert device.capture.windows()["counts"] == {}
    assert device.capture.receive(track("Product Viewed", message_id="m")).kept


def test_an_objection_keeps_what_is_there_and_stops_its_use(device: CapturingDevice) -> None:
    device.capture.receive(track("Product Viewed"))
    device.consent.signal_gpc(True)
    assert device.capture.receive(track("Product Viewed")).reason == "no_consent"
    assert device.capture.windows()["counts"] == {}
    assert len(device.capture.events()) == 1, "what is kept can be seen by the user all the same"
    device.consent.signal_gpc(False)
    assert device.capture.windows()["counts"]["product_viewed"]["1h"] == 1


# -- the types of the Segment spec ----------------------------------------------------------------------------------------


def test_identify_tells_the_profile_and_is_not_stored_twice(device: CapturingDevice) -> None:
    answer = device.capture.receive(
        {"type": "identify", "userId": "u", "traits": {"homeCity": "Lisbon", "plan": "pro", "email": "x@y.z"}}
    )
    assert answer.dropped == ("email",)
    values = device.profile.values()
    assert (values["home_city"].value, values["home_city"].source) == ("Lisbon", "declared")
    assert (values["plan"].value, values["plan"].source) == ("pro", "connector")
    assert values["plan"].provenance == "event:identify"
    assert device.stored()[0]["properties"] == {}


def test_the_largest_value_that_the_schema_takes_fits_into_the_profile(device: CapturingDevice) -> None:
    interests = [f"{number:02d}" + "\U0001f600" * 8 for number in range(100)]
    assert device.capture.receive({"type": "identify", "traits": {"interests": interests}}).kept
    assert device.profile.values()["interests"].value == interests


def test_context_tells_the_surroundings_only(device: CapturingDevice) -> None:
    device.capture.receive(
        {"type": "context", "properties": {"weather": "Rain", "temperature": "50 °F", "diet": ["x"]}}
    )
    values = device.profile.values()
    assert values["weather"].value == "rain"
    assert values["temperature"].value == pytest.approx(10.0)
    assert "diet" not in values


def test_the_context_of_a_library_is_read_coarsely(device: CapturingDevice) -> None:
    context = {
        "locale": "pt_BR",
        "timezone": "Asia/Kolkata",
        "device": {"type": "ios", "id": "canary", "advertisingId": "canary"},
        "os": {"name": "iPhone OS", "version": "19.1"},
        "location": {"city": "Porto", "country": "Portugal", "latitude": 41.14961, "longitude": -8.61099},
    }
    device.capture.receive({**page("Home"), "context": context})
    values = {name: value.value for name, value in device.profile.values().items()}
    assert values == {
        "locale": "pt-BR",
        "utc_offset_h": 6,
        "device_type": "phone",
        "os": "ios",
        "place": "Porto, Portugal",
    }
    assert device.stored()[0]["offset_h"] == 6
    assert "canary" not in json.dumps(device.stored())


def test_a_context_that_cannot_be_read_costs_nothing_but_itself(device: CapturingDevice) -> None:
    context = {
        "locale": "???",
        "timezone": "Mars/Olympus",
        "device": "phone",
        "os": {"name": ["x"]},
        "location": "1 Main St",
    }
    answer = device.capture.receive({**page("Home"), "context": context})
    assert answer.kept
    assert set(answer.dropped) == {f"context.{name}" for name in context}
    assert device.profile.values() == {}


def test_the_same_context_again_is_not_written_again(device: CapturingDevice) -> None:
    context = {"locale": "de-CH"}
    device.capture.receive({**page("Home"), "context": context})
    told_s = device.profile.values()["locale"].at_s
    device.now_s += 60
    device.capture.receive({**page("Home"), "context": context})
    assert device.profile.values()["locale"].at_s == told_s
    device.now_s += 3600
    device.capture.receive({**page("Home"), "context": context})
    assert device.profile.values()["locale"].at_s == device.now_s


@pytest.mark.parametrize(
    ("document", "name", "properties"),
    [
        ({"type": "screen", "name": "Search", "properties": {"path": "/x"}}, "screen", {"name": "Search"}),
        ({"type": "page", "category": "Docs"}, "page", {"category": "Docs"}),
        ({"type": "group", "groupId": "g-1", "traits": {"plan": "team", "name": "ACME"}}, "group", {"plan": "team"}),
        ({"type": "alias", "previousId": "old", "userId": "new"}, "alias", {}),
        (
            {"type": "chat", "properties": {"intent": "book_hotel", "text": "my secret"}},
            "chat",
            {"intent": "book_hotel"},
        ),
        (
            {"type": "feedback", "properties": {"verdict": "Accepted", "comment": "secret"}},
            "feedback",
            {"verdict": "accepted"},
        ),
    ],
)
def test_each_type_keeps_what_the_schema_names(
    device: CapturingDevice, document: dict[str, Any], name: str, properties: dict[str, Any]
) -> None:
    assert device.capture.receive(document).kept
    (event,) = device.capture.events()
    assert (event.type, event.name, dict(event.properties)) == (document["type"], name, properties)


# -- errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ({}, {"type"}),
        ({"type": ["track"]}, {"type"}),
        ({"type": "track"}, {"event"}),
        ({"type": "track", "event": "  "}, {"event"}),
        ({"type": "group"}, {"groupId"}),
        ({"type": "alias", "previousId": ""}, {"previousId"}),
        ({"type": "page", "properties": [1]}, {"properties"}),
        ({"type": "identify", "traits": "x", "context": 5}, {"traits", "context"}),
        ({"type": "page", "messageId": 5, "userId": True, "timestamp": "soon"}, {"messageId", "userId", "timestamp"}),
        ({"type": "page", "messageId": "x" * 201}, {"messageId"}),
        ({"type": "identify", "traits": {"currency": "$", "orders": 1.5}}, {"traits.currency", "traits.orders"}),
        (track("product viewed", price=1, position="first"), {"properties.price", "properties.position"}),
        ({"type": "page", "timestamp": iso(START_S + 2 * DAY_S)}, {"timestamp"}),
        ({"type": "page", "timestamp": iso(START_S), "sentAt": iso(START_S - 3600)}, {"timestamp"}),
        ({"type": "page", "x" * 201: 1}, {"event"}),
        ({"type": "page", 5: 1}, {"event"}),
        ("page", {"event"}),
        (None, {"event"}),
    ],
)
def test_what_is_wrong_is_told_field_by_field_and_nothing_is_kept(
    device: CapturingDevice, document: Any, fields: set[str]
) -> None:
    with pytest.raises(CaptureError) as caught:
        device.capture.receive(document)
    assert set(caught.value.fields) == fields
    assert all(caught.value.fields.values())
    assert device.stored() == []
    assert device.capture.quality()["invalid"] == 1
    assert device.capture.quality()["invalid_fields"] == dict.fromkeys(fields, 1)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "properties",
    [
        nested(10_000),
        {"text": "x" * (1 << 20)},
        {f"k{n}": n for n in range(5000)},
        {"list": [[0] * 100] * 100},
        {"text": ["x" * 1000] * (MAX_CHARS // 1000 + 1)},
    ],
    ids=["10k-deep", "1 MB", "5000 names", "10000 values", "many texts"],
)
def test_an_event_beyond_the_bounds_is_one_error(device: CapturingDevice, properties: Any) -> None:
    with pytest.raises(CaptureError) as caught:
        device.capture.receive({"type": "page", "properties": properties})
    assert list(caught.value.fields) == ["event"]


def test_a_value_that_contains_itself_is_one_error(device: CapturingDevice) -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(CaptureError, match="deep"):
        device.capture.receive({"type": "page", "properties": loop})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"type": "page", "type": "track"}', "repeated keys"),
        (b'{"properties": {"a": NaN}}', "NaN"),
        (b'{"a": 1' + b" " * MAX_RAW_BYTES + b"}", "bytes"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "deep"),
        (b'{"a":' * 30 + b"1" + b"}" * 30, "deep"),
        (b"[1]", "JSON object"),
        (b"\xff", "JSON object"),
        (b'{"a": ' + b"1" * 5000 + b"}", "JSON object"),
        (b"", "JSON object"),
    ],
)
def test_raw_bytes_that_are_no_event_are_one_error_that_does_not_quote_them(raw: bytes, words: str) -> None:
    with pytest.raises(CaptureError, match=words) as caught:
        parse_event(raw)
    assert caught.value.__cause__ is None


def test_raw_bytes_are_parsed() -> None:
    assert parse_event(b'{"type": "page", "name": "H\\u00f4me"}') == {"type": "page", "name": "Hôme"}
