"""Capture over arbitrary input: an answer or a CaptureError, and nothing that the schema does not name is ever stored."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from captured import CapturingDevice, iso
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.know.capture import Captured
from edge_client.know.events import TYPES, parse_event
from shared_models.attribute_values import normalised
from shared_models.errors import CaptureError
from shared_models.profile import default_schema

SCHEMA = default_schema()
CANARY = "canary\u2603"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(CANARY),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
TIMES = st.floats(1_799_000_000, 1_801_000_000).map(iso) | st.floats(0, 4e12) | JSON
NAMED = st.dictionaries(
    st.sampled_from(sorted({*SCHEMA.attributes, *(n for e in SCHEMA.events.values() for n in e.properties)}))
    | st.text(max_size=8),
    JSON,
    max_size=5,
)
EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES)},
    optional={
        "event": st.sampled_from(sorted(SCHEMA.events)) | st.text(max_size=20),
        "messageId": st.sampled_from(["m1", "m2", "m3"]) | JSON,
        "timestamp": TIMES,
        "sentAt": TIMES,
        "properties": NAMED | JSON,
        "traits": NAMED | JSON,
        "context": st.dictionaries(st.sampled_from(["locale", "timezone", "device", "os", "location", "ip"]), JSON)
        | JSON,
        "name": JSON,
        "category": JSON,
        "userId": JSON,
        "groupId": JSON,
        "previousId": JSON,
        "extra": st.just(CANARY),
    },
)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CapturingDevice]:
    """Shared by all examples: one history of everything that was thrown at it."""
    device = CapturingDevice(tmp_path_factory.mktemp("home"))
    yield device
    device.store.close()


def named_values_only(device: CapturingDevice, at: int) -> None:
    for record in device.stored()[at:]:
        assert set(record) == {"id", "type", "name", "at_s", "received_s", "offset_h", "properties"}
        kind = SCHEMA.events[record["name"]]
        assert record["type"] in TYPES
        for name, value in record["properties"].items():
            attribute = kind.properties[name]
            assert normalised(attribute.type, attribute.unit, attribute.choices, value) == value, (name, value)
        assert 0 <= record["at_s"] <= record["received_s"]
        assert record["offset_h"] is None or -15 <= record["offset_h"] <= 15
    for name, known in device.profile.values().items():
        assert SCHEMA.check(name, known.value) == known.value


@settings(max_examples=300, deadline=None)
@given(document=EVENTS | JSON)
def test_any_document_is_captured_or_refused_and_nothing_unnamed_is_stored(
    device: CapturingDevice, document: Any
) -> None:
    before = len(device.stored())
    answer: Captured | CaptureError
    try:
        answer = device.capture.receive(document)
    except CaptureError as error:
        answer = error
    if isinstance(answer, CaptureError):
        assert answer.fields
        assert all(isinstance(problem, str) and problem for problem in answer.fields.values())
        assert len(device.stored()) == before
        return
    assert len(device.stored()) == before + answer.kept
    named_values_only(device, before)


@settings(max_examples=60, deadline=None)
@given(documents=st.lists(EVENTS | JSON, max_size=8))
def test_any_batch_has_one_answer_for_each_and_the_counters_add_up(
    device: CapturingDevice, documents: list[Any]
) -> None:
    before, stored = device.capture.quality(), len(device.stored())
    answers = device.capture.receive_batch(documents)
    assert len(answers) == len(documents)
    kept = sum(isinstance(answer, Captured) and answer.kept for answer in answers)
    assert len(device.stored()) == stored + kept
    after = device.capture.quality()
    outcomes = ("kept", "invalid", "no_consent", "not_in_schema", "duplicates", "too_old")
    assert after["received"] - before["received"] == len(documents)
    assert sum(after[name] - before[name] for name in outcomes) == len(documents)
    json.dumps(after, allow_nan=False)
    named_values_only(device, stored)


@pytest.mark.parametrize(
    "document",
    [
        {"type": "page", "properties": {"name": 10**5000}},
        {"type": "page", "context": {"device": {"type": 10**5000}, "os": {"name": [[]]}, "timezone": "\x00"}},
        {"type": "page", "userId": 10**5000, "timestamp": -(10**5000)},
        {"type": "page", "messageId": "\ud800", "properties": {"\ud800": "\udfff"}},
        {"type": "identify", "traits": {"interests": ["\ud800"], "orders": "9" * 5000}},
        {"type": "identify", "traits": {"home_city": {"city": ["x"], "latitude": 10**400, "longitude": True}}},
        {"type": "track", "event": "Product Viewed", "properties": {"price": {"amount": 1, "currency": [10**5000]}}},
        {"type": "page", "timestamp": "9999-12-31T23:59:59-23:59", "sentAt": "0001-01-01T00:00:00+23:59"},
        {"type": "page", "context": {"timezone": "../../etc/localtime"}},
        {"type": "page", "context": {"timezone": "Europe"}},
        {"type": "page", "properties": {"category": b"bytes", "name": {1, 2}}},
        {"type": "page", "name": object()},
    ],
)
def test_known_nasty_documents_are_captured_or_refused(device: CapturingDevice, document: Any) -> None:
    before = len(device.stored())
    with contextlib.suppress(CaptureError):
        device.capture.receive(document)
    named_values_only(device, before)
    numbers = device.capture.windows()
    device.capture._held.forget()
    assert device.capture.windows() == numbers
    json.dumps(device.capture.quality(), allow_nan=False).encode()


@settings(max_examples=300, deadline=None)
@given(
    raw=st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | EVENTS.map(lambda e: json.dumps(e).encode())
)
def test_any_bytes_are_a_document_or_refused(raw: bytes) -> None:
    with contextlib.suppress(CaptureError):
        assert isinstance(parse_event(raw), dict)
