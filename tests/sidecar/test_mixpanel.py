"""Mixpanel's /track and /engage: the official Python client with its addresses changed, and the other forms by hand."""

from __future__ import annotations

import base64
import json
import time

import pytest
from mixpanel import Consumer, Mixpanel, MixpanelException
from sidecar_calls import InProcess

from edge_client.client import EdgeClient
from edge_client.sidecar.mixpanel import identify_event, read_items, track_event
from shared_models.errors import CaptureError, WireError


def official(address: str, token: str) -> Mixpanel:
    return Mixpanel(token, consumer=Consumer(f"{address}/track", f"{address}/engage", retry_limit=0))


def test_the_official_client_tracks_and_sets(address: str, consenting: EdgeClient, token: str) -> None:
    client = official(address, token)
    client.track("user-1", "Product Viewed", {"product_id": "p-7", "price": 3, "currency": "EUR", "secret": "x"})
    client.people_set("user-1", {"plan": "gold", "ssn": "078-05-1120"}, meta={"$ip": "203.0.113.7"})
    client.people_set_once("user-1", {"loyalty_tier": "silver"})
    assert [event.type for event in consenting.capture.events()] == ["track", "identify", "identify"]
    assert consenting.profile.get("plan").value == "gold"  # type: ignore[union-attr]
    kept = repr(consenting.export())
    for planted in ("078-05-1120", "203.0.113.7", "user-1", token):
        assert planted not in kept


def test_what_cannot_be_done_is_told(address: str, consenting: EdgeClient, token: str) -> None:
    client = official(address, token)
    with pytest.raises(MixpanelException, match="not supported"):
        client.people_increment("user-1", {"orders": 1})
    with pytest.raises(MixpanelException, match="not supported"):
        client.people_delete("user-1")
    with pytest.raises(MixpanelException, match="no token"):
        official(address, "tacit_wrong").track("user-1", "Product Viewed")
    assert consenting.capture.events() == []


def test_each_form_of_the_body_is_read(call: InProcess, consenting: EdgeClient, token: str) -> None:
    event = {"event": "Product Viewed", "properties": {"token": token, "time": int(time.time()), "product_id": "p-7"}}
    text = json.dumps(event)
    forms = [
        {"json": [event]},
        {"json": event},
        {"data": {"data": text}},
        {"data": {"data": base64.b64encode(text.encode()).decode()}},
        {"data": {"data": base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")}},
    ]
    for form in forms:
        answer = call("POST", "/track?ip=1", token=None, **form)
        assert (answer.status_code, answer.text) == (200, "1")
    assert len(consenting.capture.events()) == len(forms)
    verbose = call("POST", "/track?verbose=1", token=None, json=[event])
    assert verbose.json() == {"status": 1, "error": None}
    again = {**event, "properties": {**event["properties"], "$insert_id": "once"}}  # type: ignore[dict-item]
    for _ in range(2):
        call("POST", "/track", token=None, json=[again])
    assert len(consenting.capture.events()) == len(forms) + 2


NO_EVENTS: list[dict[str, object]] = [
    {"json": []},
    {"json": ["x"]},
    {"json": 7},
    {"data": {"data": "%%%"}},
    {"data": {}},
    {"content": b"data=a&data=b", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
    {"json": [{"event": "x", "properties": {"time": 1e300}}]},
    {"json": [{"event": {}, "properties": []}]},
]


def test_what_is_no_event_is_a_4xx(call: InProcess) -> None:
    for form in NO_EVENTS:
        for path in ("/track", "/engage"):
            assert call("POST", path, **form).status_code == 400, form  # type: ignore[arg-type]
            answer = call("POST", f"{path}?verbose=1", **form)  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()["status"]) == (400, 0)


def test_translations() -> None:
    event = track_event(
        {
            "event": "Bought",
            "properties": {"token": "t", "time": 1_700_000_000_123, "distinct_id": "$device:d", "$city": "Rome"},
        }
    )
    assert event["timestamp"].startswith("2023-11-14T22:13:20.123")
    assert event["anonymousId"] == "d"
    assert event["properties"] == {"city": "Rome"}
    merged = identify_event({"$distinct_id": "u", "$set": {"plan": "new"}, "$set_once": {"plan": "old", "x": 1}})
    assert merged["traits"] == {"plan": "new", "x": 1}
    for wrong in ({"$set": 7}, {"$unset": ["x"]}, {}):
        with pytest.raises(CaptureError):
            identify_event(wrong)
    with pytest.raises(WireError):
        read_items("application/json", json.dumps([{}] * 2001).encode())
