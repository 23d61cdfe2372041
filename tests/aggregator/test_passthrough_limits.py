"""The pass-through between odd clients and odd servers: headers, redirects, certificates and time limits."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from hostile_server import Answer, answering

from aggregator.certificates import create_fleet_ca
from aggregator.service.passthrough import FleetPassThrough, PassThroughLimits


def test_nothing_but_named_headers_goes_on_or_comes_back(tmp_path: Path) -> None:
    certificates = create_fleet_ca(tmp_path)
    seen: list[dict[str, str]] = []

    def respond(path: str, body: bytes, headers: dict[str, str]) -> Answer:
        seen.append(headers)
        return Answer(200, b"ok", {"set-cookie": "a=b", "server-timing": "x", "x-internal": "1", "content-length": "2"})

    with answering(certificates, respond) as upstream:
        status, headers, body = call(FleetPassThrough(upstream, certificates.authority), request_scope(extra=[
            (b"x-forwarded-for", b"10.0.0.1"), (b"cookie", b"secret"), (b"connection", b"keep-alive, x-thing"),
        ]))  # fmt: skip
    assert (status, body) == (200, b"ok")
    assert {name for name, _ in headers} == {b"content-type", b"content-length", b"cache-control"}
    passed = {"host", "content-length", "content-type", "accept", "accept-encoding", "user-agent", "connection"}
    assert set(seen[0]) <= passed | {"flwr-public-key", "flwr-timestamp", "flwr-signature"}
    assert seen[0]["host"] == upstream
    assert seen[0]["connection"] == "keep-alive"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_of_the_superlink_are_not_followed_and_not_passed_on(tmp_path: Path, status: int) -> None:
    certificates = create_fleet_ca(tmp_path)
    answer = Answer(status, b"", {"location": "http://127.0.0.1:1/"})
    with answering(certificates, lambda path, body, headers: answer) as upstream:
        assert call(FleetPassThrough(upstream, certificates.authority), request_scope())[0] == 502


def test_a_superlink_with_another_certificate_is_not_talked_to(tmp_path: Path) -> None:
    ours, theirs = create_fleet_ca(tmp_path / "ours"), create_fleet_ca(tmp_path / "theirs")
    with answering(theirs, lambda path, body, headers: Answer(200, b"secret")) as upstream:
        status, _, body = call(FleetPassThrough(upstream, ours.authority), request_scope())
    assert status == 503
    assert b"secret" not in body


def test_slow_bodies_and_slow_answers_end(tmp_path: Path) -> None:
    certificates = create_fleet_ca(tmp_path)
    limits = PassThroughLimits(body_s=0.2, answer_s=0.3)

    def sleepy(path: str, body: bytes, headers: dict[str, str]) -> Answer:
        time.sleep(1.0)
        return Answer(200)

    with answering(certificates, sleepy) as upstream:
        passing = FleetPassThrough(upstream, certificates.authority, limits)
        assert call(passing, request_scope(), stall=True)[0] == 408
        assert call(passing, request_scope())[0] == 504


def request_scope(extra: list[tuple[bytes, bytes]] | None = None) -> dict[str, Any]:
    headers = [
        (b"content-type", b"application/protobuf"),
        (b"flwr-public-key", b"eA=="),
        (b"flwr-timestamp", b"x"),
        (b"flwr-signature", b"eA=="),
        *(extra or []),
    ]
    return {
        "type": "http",
        "method": "POST",
        "raw_path": b"/v1/fleet/pull-messages",
        "path": "/v1/fleet/pull-messages",
        "query_string": b"",
        "headers": headers,
    }


def call(
    application: FleetPassThrough, scope: dict[str, Any], *, stall: bool = False
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """One request straight to the ASGI application; `stall`: its body never ends."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if stall:
            await asyncio.sleep(60.0)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def once() -> None:
        await application(scope, receive, send)
        await application.close()

    asyncio.run(once())
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], sent[0]["headers"], body
