"""Bodies that are large, deep, ambiguous or broken: always one clear 4xx, never a 5xx, and nothing of it is kept."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sidecar_calls import InProcess

from edge_client.client import EdgeClient
from edge_client.sidecar.bodies import MAX_BODY_BYTES, parse_form, parse_json
from shared_models.errors import WireError

PATHS = ("/v1/events", "/v1/events/batch", "/v1/track", "/v1/batch", "/v1/identify", "/track", "/engage", "/v1/chat")

HOSTILE = {
    "one megabyte": json.dumps({"type": "page", "name": "x" * 1_000_000}).encode(),
    "ten thousand deep, arrays": b"[" * 10_000 + b"]" * 10_000,
    "ten thousand deep, objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep inside an event": b'{"type":"page","properties":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
    "a key twice": b'{"type":"page","type":"track","event":"x"}',
    "a key twice inside": b'{"type":"page","properties":{"name":"a","name":"b"}}',
    "not a number": b'{"type":"page","properties":{"x":NaN}}',
    "infinite by exponent": b'{"type":"page","properties":{"x":1e999}}',
    "a number of 5000 digits": b'{"type":"page","properties":{"x":' + b"9" * 5000 + b"}}",
    "a number of 30 digits": b'{"type":"page","properties":{"x":' + b"9" * 30 + b"}}",
    "half a character": b'{"type":"page","name":"\\ud800"}',
    "half a character as a key": b'{"type":"page","properties":{"\\udfff":1}}',
    "not utf-8": b'{"type":"\xff\xfe"}',
    "utf-16": '{"type":"page"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "cut off": b'{"type":"page","name":"Ho',
    "two values": b'{"type":"page"}{"type":"page"}',
    "breaking out": b'1,"other":{"type":"page"}',
    "empty": b"",
    "null": b"null",
    "a text": b'"page"',
    "a number": b"7",
    "an empty array": b"[]",
    "zero bytes": b"\x00" * 100,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_a_4xx_with_a_problem_document(call: InProcess, name: str) -> None:
    for path in PATHS:
        answer = call("POST", path, content=HOSTILE[name], headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, (path, answer.text)
        assert len(answer.content) < 10_000
        problem = answer.json()
        if not path.startswith(("/track", "/engage")):
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["status"] == answer.status_code
            assert problem["detail"]


def test_nothing_of_a_hostile_body_is_kept(call: InProcess, consenting: EdgeClient) -> None:
    for body in HOSTILE.values():
        call("POST", "/v1/events", content=body, headers={"Content-Type": "application/json"})
    assert consenting.capture.events() == []


def test_json_is_read_whatever_the_clients_call_it_and_nothing_else_is(call: InProcess) -> None:
    body = b'{"type":"page","name":"Home"}'
    for kind in ("application/json", "application/json; charset=utf-8", "text/plain;charset=UTF-8"):
        assert call("POST", "/v1/events", content=body, headers={"Content-Type": kind}).status_code == 200
    for kind in ("application/xml", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "\xff"):
        answer = call("POST", "/v1/events", content=body, headers={b"Content-Type": kind.encode("latin-1")})
        assert answer.status_code == 415


def test_gzip_is_unpacked_within_the_limit(call: InProcess) -> None:
    def sent(body: bytes, encoding: str = "gzip") -> int:
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        return call("POST", "/v1/events", content=body, headers=headers).status_code

    assert sent(gzip.compress(b'{"type":"page","name":"Home"}')) == 200
    assert sent(gzip.compress(b" " * (MAX_BODY_BYTES + 1))) == 413
    bomb = zlib.compressobj(9, wbits=31)
    assert sent(b"".join([*(bomb.compress(bytes(1 << 20)) for _ in range(40)), bomb.flush()])) == 413
    assert sent(b"no gzip at all") == 400
    assert sent(gzip.compress(b"{}")[:-3]) == 400
    assert sent(gzip.compress(b"{}") + b"more") == 400
    assert sent(b"{}", "br") == 415


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_what_json_can_say_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_a_typed_error(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except WireError:
        return
    assert json.loads(raw) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_form_or_a_typed_error(raw: bytes) -> None:
    try:
        form = parse_form(raw)
    except WireError:
        return
    assert all(isinstance(item, str) for pair in form.items() for item in pair)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=JSON, path=st.sampled_from(PATHS))
def test_any_json_at_any_door_is_an_answer(call: InProcess, document: object, path: str) -> None:
    assert call("POST", path, json=document).status_code not in (500, 501, 502, 504)


def test_a_body_that_never_comes_ends_in_time(address: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    from urllib.parse import urlsplit

    from edge_client.sidecar import bodies

    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.3)
    where = urlsplit(address)
    with socket.create_connection((where.hostname, where.port), timeout=10) as line:
        line.sendall(
            f"POST /v1/events HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
        )
        assert b" 408 " in line.recv(4096).split(b"\r\n")[0]
