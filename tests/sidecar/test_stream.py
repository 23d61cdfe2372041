"""The stream: decisions and triggers as they happen, to whoever listens; bounded, ended, and nothing for strangers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import httpx
import pytest
from sidecar_calls import InProcess

from edge_client.client import EdgeClient
from edge_client.know.triggers import Trigger
from edge_client.sidecar import stream
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.serving import loopback_socket, served
from edge_client.sidecar.stream import Hub
from edge_client.sidecar.tokens import Apps
from shared_models.errors import LimitError

THREE_VIEWS = Trigger.from_document(
    {
        "name": "keen",
        "events": ["product_viewed"],
        "conditions": [["count.product_viewed.1h", ">=", 3]],
        "cooldown_s": 60,
    }
)


@pytest.fixture
def sidecar(device: EdgeClient, apps: Apps) -> Iterator[Sidecar]:
    made = Sidecar(device, apps, triggers=[THREE_VIEWS])
    yield made
    made.close()


def read_events(lines: Iterator[str], number: int) -> list[tuple[str, dict[str, object], int]]:
    found: list[tuple[str, dict[str, object], int]] = []
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line == "" and "data" in fields:
            found.append((fields["event"], json.loads(fields["data"]), int(fields["id"])))
            fields = {}
            if len(found) == number:
                break
        elif name:
            fields[name] = value
    return found


def test_triggers_and_decisions_are_heard_as_they_happen(
    address: str, sidecar: Sidecar, consenting: EdgeClient, token: str
) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    view = {"type": "track", "event": "Product Viewed", "properties": {"product_id": "p"}}
    with httpx.Client(base_url=address, headers=headers, timeout=20) as caller:
        with caller.stream("GET", "/v1/stream") as listening:
            assert listening.headers["content-type"].startswith("text/event-stream")
            lines = listening.iter_lines()
            assert next(lines).startswith("retry")
            with httpx.Client(base_url=address, headers=headers) as sender:
                for _ in range(4):
                    assert sender.post("/v1/events", json=view).json()["kept"]
                sender.post(
                    "/v1/decisions", json={"kind": "offer", "chosen": "discount", "reasons": ["you looked thrice"]}
                )
            (first, fired, _), (second, decided, number) = read_events(lines, 2)
        assert (first, fired["trigger"]) == ("trigger", "keen")
        assert (second, decided["chosen"]) == ("decision", "discount")
        with caller.stream("GET", "/v1/stream", headers={"Last-Event-ID": str(number - 1)}) as again:
            assert read_events(again.iter_lines(), 1)[0][1] == decided


def test_a_stream_needs_a_token_and_a_scope(call: InProcess, apps: Apps) -> None:
    assert call("GET", "/v1/stream", token=None).status_code == 401
    assert call("GET", "/v1/stream", token=apps.register("tag", scopes=["capture"])).status_code == 403


def test_open_streams_do_not_hold_a_server_that_ends(device: EdgeClient, apps: Apps, token: str) -> None:
    heard = threading.Event()
    ended = threading.Event()
    sidecar = Sidecar(device, apps)

    def listen(address: str) -> None:
        with httpx.stream(
            "GET", f"{address}/v1/stream", headers={"Authorization": f"Bearer {token}"}, timeout=30
        ) as answer:
            for _ in answer.iter_lines():
                heard.set()
        ended.set()

    with served(sidecar, loopback_socket("127.0.0.1", 0)) as address:
        threading.Thread(target=listen, args=(address,), daemon=True).start()
        assert heard.wait(10)
        assert sidecar.hub.listeners == 1
    assert ended.wait(10)


def test_a_slow_listener_loses_the_oldest_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_WAITING", 3)
    hub = Hub()

    async def life() -> list[str]:
        texts = hub.listen()
        heard = [await anext(texts)]
        for number in range(5):
            hub.publish("decision", {"number": number})
        heard += [await anext(texts) for _ in range(4)]
        await texts.aclose()  # type: ignore[attr-defined]
        return heard

    heard = asyncio.run(life())
    assert "2 events were lost" in heard[1]
    assert [json.loads(text.split("data: ")[1])["number"] for text in heard[2:]] == [2, 3, 4]
    assert hub.listeners == 0


def test_what_is_for_one_app_is_heard_by_no_other() -> None:
    hub = Hub()

    async def life() -> dict[str, list[str]]:
        before = {app: hub.listen(app=app) for app in ("diary", "shop")}
        for texts in before.values():
            await anext(texts)
        hub.publish("decision", {"chosen": "lisbon"}, to="diary")
        hub.publish("trigger", {"trigger": "keen"})
        after = {app: hub.listen(0, app=app) for app in ("diary", "shop")}
        for texts in after.values():
            await anext(texts)
        heard: dict[str, list[str]] = {"diary": [], "shop": []}
        for streams in (before, after):
            for app, texts in streams.items():
                heard[app] += [await anext(texts) for _ in range(2 if app == "diary" else 1)]
                await texts.aclose()  # type: ignore[attr-defined]
        return heard

    heard = asyncio.run(life())
    assert ["lisbon" in text for text in heard["diary"]] == [True, False, True, False]
    assert not any("lisbon" in text for text in heard["shop"])
    assert all("keen" in text for text in heard["shop"])


def test_listeners_are_bounded_and_a_quiet_line_is_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_LISTENERS", 1)
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)

    async def life() -> None:
        hub = Hub()
        texts = hub.listen()
        await anext(texts)
        with pytest.raises(LimitError):
            hub.listen()
        assert "still here" in await anext(texts)
        hub.close()
        assert [text async for text in texts if "still" not in text] == []

    asyncio.run(life())


def test_what_was_said_is_forgotten_with_the_consent(call: InProcess, consenting: EdgeClient, sidecar: Sidecar) -> None:
    call("POST", "/v1/decisions", json={"kind": "offer", "chosen": "canary", "reasons": ["because"]})
    assert any("canary" in sent.data for sent in sidecar.hub._recent)
    call("PUT", "/v1/consents/personalisation", json={"granted": False})
    assert not sidecar.hub._recent
