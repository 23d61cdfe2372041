"""What the assistant says by itself, through a served sidecar: on the stream, in the API, in the privacy centre."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from deliveries import HOUR_S, MONDAY_EVENING_S, follow_up, shipped
from sidecar_calls import InProcess, Visitor

from edge_client import EdgeConfig
from edge_client.bundles import BundleStore
from edge_client.cli import main
from edge_client.client import EdgeClient
from edge_client.decide.follow_up_facts import facts_from
from edge_client.decide.follow_ups import DAY_S
from edge_client.know.store import Store
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.deliveries import StreamedDeliveries
from edge_client.sidecar.tokens import Apps
from shared_models.errors import ConfigError

ATTACK = '"><script>alert(1)</script>'
UNKNOWN = "0123456789abcdef"


@dataclass
class Clock:
    now_s: float = MONDAY_EVENING_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def device(tmp_path: Path, clock: Clock) -> Iterator[EdgeClient]:
    """A device that may say something, about the places that ship, and whose clock a test sets."""
    home = tmp_path / "home"
    with EdgeClient(Store(home, key=bytes(range(32))), BundleStore(home / "bundle"), EdgeConfig(clock=clock)) as client:
        client.consent.grant("personalisation")
        client.delivery.facts_from(facts_from(lambda: (shipped(), None)))
        yield client


@contextmanager
def streamed(device: EdgeClient, sidecar: Sidecar) -> Iterator[StreamedDeliveries]:
    """With the user there: else the policy would wait for a conversation."""
    situation = {"zone": "UTC", "in_use": True}
    with StreamedDeliveries(device.delivery, sidecar.hub, every_s=0.02, context=lambda: situation) as running:
        yield running


@contextmanager
def listening(address: str, token: str, timeout_s: float = 5.0) -> Iterator[Iterator[tuple[str, dict[str, object]]]]:
    """Events of the stream, from the moment on at which it stands."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.stream("GET", f"{address}/v1/stream", headers=headers, timeout=timeout_s) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("retry")
        yield _events(lines)


def _events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, object]]]:
    kind = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


# -- on the stream -----------------------------------------------------------------------------------------------------


def test_what_is_due_is_said_once_and_only_while_somebody_listens_and_the_outcome_is_kept(
    address: str, sidecar: Sidecar, device: EdgeClient, token: str, clock: Clock
) -> None:
    plan = follow_up(due_s=MONDAY_EVENING_S + HOUR_S / 2)
    device.delivery.plan([plan])
    headers = {"Authorization": f"Bearer {token}"}
    with streamed(device, sidecar), httpx.Client(base_url=address, headers=headers) as app:
        seen = app.get("/v1/deliveries").json()
        assert [one["id"] for one in seen["pending"]] == [plan.id]
        assert seen["quality"]["planned"] == 1
        clock.now_s += HOUR_S
        threading.Event().wait(0.1)
        assert len(device.delivery.pending()) == 1, "nobody listened"
        with listening(address, token) as events:
            kind, said = next(events)
            assert kind == "delivery"
            assert (said["follow_up"], said["place"]) == (plan.id, plan.place)
            assert said["channel"] in ("card", "chat")
            assert shipped().place(plan.place).name("en") in str(said["text"])
            assert said["why"]
            # Days later, with many ticks in between: the next event is another's.
            clock.now_s += 2 * DAY_S
            threading.Event().wait(0.1)
            sidecar.hub.publish("decision", {"the": "next"})
            assert next(events) == ("decision", {"the": "next"})
        path = f"/v1/deliveries/{said['id']}/outcome"
        assert app.post(path, json={"outcome": "opened"}).json() == {
            "id": said["id"],
            "outcome": "opened",
            "recorded": True,
        }
        assert app.post(path, json={"outcome": "opened"}).json()["recorded"] is False
        assert app.post(path, json={"outcome": "acted"}).json()["recorded"] is True
        after = app.get("/v1/deliveries").json()
        assert after["pending"] == []
        assert (after["quality"]["shown"], after["quality"]["acted"]) == (1, 1)


def test_stopping_silences_it_until_it_is_restored(
    address: str, sidecar: Sidecar, device: EdgeClient, token: str, visitor: Visitor
) -> None:
    with streamed(device, sidecar), listening(address, token) as events:
        assert visitor.send("do/stop", what="all", to="off").status_code == 303
        assert device.delivery.plan([follow_up()]) == ()
        visitor.send("do/stop", what="all", to="on")
        for channel in ("channel/card", "channel/chat"):
            visitor.send("do/stop", what=channel, to="off")
        assert device.delivery.plan([follow_up()]) != ()
        threading.Event().wait(0.15)
        assert len(device.delivery.pending()) == 1
        visitor.send("do/stop", what="channel/card", to="on")
        _, said = next(events)
        assert said["channel"] == "card"


def test_with_its_end_nothing_is_registered_and_nothing_ticks(
    address: str, sidecar: Sidecar, device: EdgeClient, token: str
) -> None:
    with listening(address, token):
        with streamed(device, sidecar):
            pass
        device.delivery.plan([follow_up()])
        assert device.delivery.tick(context={"zone": "UTC"}) == ()
        assert not device.delivery.unregister("card")
        assert not device.delivery.unregister("chat")
        assert "tacit-delivery-ticks" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConfigError):
        StreamedDeliveries(device.delivery, sidecar.hub, every_s=float("nan"))


def test_the_command_ticks_while_it_serves_and_ends_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACIT_PASSPHRASE", "four words make one")
    path, seen, before = tmp_path / "s", set[str](), signal.getsignal(signal.SIGTERM)

    def look() -> None:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as app:
            while not path.exists():
                threading.Event().wait(0.02)
            # It answers, so the server has signals in hand.
            assert app.get("/healthz").status_code == 200
        seen.update(thread.name for thread in threading.enumerate())
        os.kill(os.getpid(), signal.SIGTERM)

    looking = threading.Thread(target=look)
    try:
        looking.start()
        assert main(["serve", "--home", str(tmp_path / "home"), "--socket", str(path)]) == 0
    finally:
        looking.join()
        signal.signal(signal.SIGTERM, before)
    assert "tacit-delivery-ticks" in seen
    assert "tacit-delivery-ticks" not in {thread.name for thread in threading.enumerate()}


# -- the routes --------------------------------------------------------------------------------------------------------


def test_odd_ids_and_outcomes_are_typed_errors(call: InProcess) -> None:
    opened = {"outcome": "opened"}
    for delivery_id, body, status, kind in (
        (UNKNOWN, opened, 404, "sidecar"),
        ("nonsense", opened, 422, "input"),
        ("%00", opened, 422, "input"),
        (f"{UNKNOWN}%0A", opened, 422, "input"),
        (UNKNOWN.upper(), opened, 422, "input"),
        (UNKNOWN, {"outcome": "liked"}, 422, "capture"),
        (UNKNOWN, {"outcome": "lost"}, 422, "capture"),
        (UNKNOWN, {"outcome": ["opened"]}, 422, "capture"),
        (UNKNOWN, {**opened, "more": 1}, 422, "capture"),
        (UNKNOWN, {}, 422, "capture"),
        (UNKNOWN, [], 400, "wire"),
    ):
        answer = call("POST", f"/v1/deliveries/{delivery_id}/outcome", json=body)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == f"urn:tacit:problem:{kind}"


def test_the_routes_need_their_scopes_and_stand_in_the_document(call: InProcess, apps: Apps) -> None:
    tag, reader = apps.register("tag", scopes=["capture"]), apps.register("reader", scopes=["decide"])
    path = f"/v1/deliveries/{UNKNOWN}/outcome"
    assert call("GET", "/v1/deliveries", token=None).status_code == 401
    assert call("GET", "/v1/deliveries", token=tag).status_code == 403
    assert call("POST", path, token=reader, json={"outcome": "opened"}).status_code == 403
    assert call("POST", path, token=tag, json={"outcome": "opened"}).status_code == 404
    document = call("GET", "/openapi.json").json()["paths"]
    assert set(document["/v1/deliveries"]) == {"get"}
    posted = document["/v1/deliveries/{delivery_id}/outcome"]["post"]
    schema = posted["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["outcome"]["enum"] == ["opened", "acted", "dismissed", "ignored", "disabled"]


def test_disabled_stops_the_channel_and_a_withdrawal_leaves_nothing_to_see(
    call: InProcess, device: EdgeClient, visitor: Visitor
) -> None:
    device.delivery.plan([follow_up()])
    device.delivery.register("card", print)
    (said,) = device.delivery.tick(context={"zone": "UTC"})
    assert call("POST", f"/v1/deliveries/{said.id}/outcome", json={"outcome": "disabled"}).status_code == 200
    assert device.delivery.document()["stopped"] == ["channel/card"]
    assert "you switched it off" in visitor.see("unasked")
    call("PUT", "/v1/consents/personalisation", json={"granted": False})
    answer = call("GET", "/v1/deliveries").json()
    assert (answer["pending"], set(answer["quality"].values())) == ([], {0})
    assert call("POST", f"/v1/deliveries/{said.id}/outcome", json={"outcome": "opened"}).status_code == 404
    assert device.delivery.document()["stopped"] == ["channel/card"], "a refusal outlives the consent"
    shown = visitor.see("unasked")
    assert "It says nothing by itself." in shown
    assert "you switched it off" not in shown


# -- the privacy centre ------------------------------------------------------------------------------------------------


def test_the_centre_says_it_in_plain_words_and_nothing_is_markup(visitor: Visitor, device: EdgeClient) -> None:
    assert "Nothing is kept." in visitor.see("unasked")
    device.delivery.plan([follow_up(1), follow_up(2, "how_was_it")], asked_for=True)
    device.delivery.register("card", print)
    (said, *_) = device.delivery.tick(context={"zone": "UTC"})
    device.delivery.outcome(said.id, "dismissed")
    text = visitor.see("unasked")
    assert said.title in text
    assert said.text in text.replace("&#39;", "'")
    assert "you waved it away" in text
    assert "As a card in an app" in text
    assert "2026-12-03 to 2026-12-08" in text
    assert "it waits longer with" in text
    assert "22:00-08:00" in text
    for name in ("still_thinking", "how_was_it", "{'", "None"):
        assert name not in re.sub(r"<input[^>]*>", "", text)
    device.delivery.plan([follow_up(place=ATTACK, facts={"first": ATTACK})])
    text = visitor.see("unasked")
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_buttons_of_the_centre_stop_and_restore(visitor: Visitor, device: EdgeClient) -> None:
    assert "Stopped" not in visitor.see("unasked")
    for what in ("how_was_it", "channel/chat", "all"):
        assert visitor.send("do/stop", what=what, to="off").headers["location"].endswith("/unasked?done=stop")
    assert set(device.delivery.document()["stopped"]) == {"all", "channel/chat", "how_was_it"}
    assert "Stopped with everything" in visitor.see("unasked")
    visitor.send("do/stop", what="channel/chat", to="on")
    assert set(device.delivery.document()["stopped"]) == {"all", "how_was_it"}
    visitor.send("do/stop", what="all", to="on")
    assert device.delivery.document()["stopped"] == []
    refused = visitor.send("do/stop", what=ATTACK, to="off")
    assert refused.status_code == 422
    assert "<script>" not in refused.text
    assert visitor.send("do/stop", csrf="x", what="all", to="off").status_code == 403
    assert device.delivery.document()["stopped"] == []


def test_quiet_hours_are_typed_taken_away_and_given_back(visitor: Visitor, device: EdgeClient) -> None:
    visitor.send("do/quiet", how="typed", hours=" 21:30-07:00; 13:00-14:00 ")
    assert device.delivery.document()["quiet_hours"] == ["21:30-07:00", "13:00-14:00"]
    assert 'value="21:30-07:00, 13:00-14:00"' in visitor.see("unasked")
    for typed in ("", "late", "25:00-07:00", "10:00-10:00", ATTACK, "1:00-2:00, " * 200):
        refused = visitor.send("do/quiet", how="typed", hours=typed)
        assert refused.status_code == 422, typed
        assert "<script>" not in refused.text
    assert visitor.send("do/quiet", csrf="x", how="none").status_code == 403
    assert device.delivery.document()["quiet_hours"] == ["21:30-07:00", "13:00-14:00"]
    visitor.send("do/quiet", how="none", hours="")
    assert device.delivery.document()["quiet_hours"] == []
    assert "any time will do" in visitor.see("unasked")
    visitor.send("do/quiet", how="night", hours="")
    assert not device.delivery.document()["quiet_hours_by_user"]
