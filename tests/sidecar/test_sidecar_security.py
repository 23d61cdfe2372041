"""Who gets in, and who does not: hosts, origins, tokens, scopes, rates, sizes, and what the browser is told."""

from __future__ import annotations

import base64
import json
import socket
import stat
import threading
from pathlib import Path

import pytest
from sidecar_calls import ORIGIN, InProcess

from edge_client.client import EdgeClient
from edge_client.sidecar.app import Sidecar
from edge_client.sidecar.security import Rate
from edge_client.sidecar.serving import address_of, loopback_socket, unix_socket
from edge_client.sidecar.tokens import Apps, clean_origin
from shared_models.errors import ConfigError

EVENT = {"type": "page", "name": "Home"}


# -- hosts and origins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8765", "localhost:1", "LOCALHOST", "[::1]:8765"])
def test_loopback_names_are_answered(call: InProcess, host: str) -> None:
    assert call("GET", "/healthz", token=None, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "0.0.0.0:8765",
        "192.168.0.7:8765",
        "127.0.0.1:99999999",
        "",
        "localhost:8765, evil.example",
    ],
)
def test_a_name_that_was_rebound_to_loopback_is_refused(call: InProcess, host: str) -> None:
    for method, path in (
        ("GET", "/healthz"),
        ("POST", "/v1/events"),
        ("GET", "/centre/open?code=x"),
        ("OPTIONS", "/v1/chat"),
    ):
        answer = call(method, path, headers={"Host": host}, json=EVENT if method == "POST" else None)
        assert answer.status_code == 421
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_page_of_an_unknown_origin_is_refused_with_a_valid_token(call: InProcess) -> None:
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:8765",
        f"{ORIGIN}.evil.example",
        "http://shop.example",
    ):
        answer = call("POST", "/v1/events", headers={"Origin": origin}, json=EVENT)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        preflight = call(
            "OPTIONS", "/v1/events", token=None, headers={"Origin": origin, "Access-Control-Request-Method": "POST"}
        )
        assert preflight.status_code == 403
        assert "access-control-allow-origin" not in preflight.headers


def test_a_configured_origin_may_call_and_only_with_its_own_apps_token(call: InProcess, apps: Apps) -> None:
    other = apps.register("other", ["https://other.example"])
    preflight = call(
        "OPTIONS",
        "/v1/events",
        token=None,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
            "Access-Control-Request-Private-Network": "true",
        },
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert preflight.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in preflight.headers
    answer = call("POST", "/v1/events", headers={"Origin": ORIGIN}, json=EVENT)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "Origin" in answer.headers["vary"]
    crossed = call("POST", "/v1/events", token=other, headers={"Origin": ORIGIN}, json=EVENT)
    assert crossed.status_code == 403
    # The page may read why.
    assert crossed.headers["access-control-allow-origin"] == ORIGIN


def test_a_page_that_sends_no_origin_is_refused_too(call: InProcess) -> None:
    for site in ("cross-site", "same-site", "nonsense"):
        assert call("GET", "/healthz", token=None, headers={"Sec-Fetch-Site": site}).status_code == 403


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_only_a_token_opens_anything(call: InProcess, sidecar: Sidecar) -> None:
    paths = [
        (method.upper(), path.replace("{name}", "plan").replace("{purpose}", "personalisation"))
        for path, operations in sidecar.api.openapi()["paths"].items()
        for method in operations
        if path != "/healthz"
    ]
    assert len(paths) > 25
    for method, path in [*paths, ("GET", "/openapi.json")]:
        for wrong in (None, "tacit_" + "A" * 43):
            answer = call(method, path, token=wrong, json={"text": "x"} if method in ("POST", "PUT") else None)
            assert answer.status_code in (401, 429), (method, path)
        assert call(method, path, token=None, json=[]).status_code in (400, 401), (method, path)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer  ", "Basic !!!", "Basic " + base64.b64encode(b"\xff:").decode(), "Digest x"]
)
def test_a_malformed_authorization_is_no_token(call: InProcess, header: str) -> None:
    answer = call("GET", "/v1/profile", token=None, headers={"Authorization": header})
    assert answer.status_code == 401
    assert "Basic" in answer.headers["www-authenticate"]


def test_guessing_tokens_is_slowed_down_and_does_not_slow_the_app(call: InProcess) -> None:
    statuses = [call("GET", "/v1/intents", token="tacit_wrong").status_code for _ in range(40)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert call("GET", "/v1/consents").status_code == 200


def test_a_token_does_what_its_scopes_say(call: InProcess, apps: Apps) -> None:
    capture_only = apps.register("web-tag", scopes=["capture"])
    assert call("POST", "/v1/events", token=capture_only, json=EVENT).status_code == 200
    for method, path in (
        ("GET", "/v1/features"),
        ("GET", "/v1/profile"),
        ("GET", "/v1/export"),
        ("POST", "/v1/centre"),
    ):
        assert call(method, path, token=capture_only).status_code == 403
    usual = apps.register("usual")
    assert call("GET", "/v1/features", token=usual).status_code == 200
    assert call("PUT", "/v1/consents/personalisation", token=usual, json={"granted": True}).status_code == 403


def test_the_file_of_tokens_is_private_and_holds_none(device: EdgeClient, apps: Apps, token: str) -> None:
    path = device.store.folder / "sidecar" / "apps.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token not in path.read_text()
    assert apps.find(token).name == "shop"  # type: ignore[union-attr]
    path.chmod(0o644)
    path.touch()
    with pytest.raises(ConfigError, match="other users"):
        Apps(device.store.folder).all()


def test_a_running_sidecar_sees_new_and_removed_apps(call: InProcess, device: EdgeClient, token: str) -> None:
    elsewhere = Apps(device.store.folder)
    later = elsewhere.register("later")
    assert call("GET", "/v1/features", token=later).status_code == 200
    again = elsewhere.register("later")
    assert call("GET", "/v1/features", token=later).status_code == 401
    assert elsewhere.remove("later")
    assert call("GET", "/v1/features", token=again).status_code == 401
    assert call("GET", "/v1/features", token=token).status_code == 200


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"apps": [{"name": 1}]}', b'{"apps": [], "apps": []}', b"\xff"])
def test_a_damaged_file_of_tokens_is_one_clear_error(tmp_path: Path, raw: bytes) -> None:
    Apps(tmp_path).register("x")
    (tmp_path / "sidecar" / "apps.json").write_bytes(raw)
    with pytest.raises(ConfigError, match="register"):
        Apps(tmp_path)


@pytest.mark.parametrize("name", ["", "Upper", "a b", "x" * 41, "../up", "a\n"])
def test_odd_names_of_apps_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        Apps(tmp_path).register(name)


def test_origins_are_kept_as_browsers_send_them() -> None:
    assert clean_origin("HTTPS://Shop.Example:443/") == "https://shop.example"
    assert clean_origin("http://localhost:3000") == "http://localhost:3000"
    assert clean_origin("capacitor://localhost") == "capacitor://localhost"
    for wrong in ("*", "https://*.example", "shop.example", "https://a@b", "https://a/path", "https://a:x", "null", ""):
        with pytest.raises(ConfigError):
            clean_origin(wrong)


# -- rates and sizes ---------------------------------------------------------------------------------------------------


def test_a_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    now = [0.0]
    rate = Rate(2.0, 3.0, lambda: now[0])
    assert [rate.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rate.take("b") == 0.0
    now[0] = 0.5
    assert rate.take("a") == 0.0
    now[0] = -100.0
    assert rate.take("a") > 0.0


def test_each_app_has_its_own_rate(device: EdgeClient, apps: Apps) -> None:
    one, two = apps.register("one"), apps.register("two")
    limited = InProcess(Sidecar(device, apps, requests_per_s=0.5, burst=3.0), one)
    answers = [limited("GET", "/v1/features") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert limited("GET", "/v1/features", token=two).status_code == 200
    # A batch counts by its size.
    heavy = InProcess(Sidecar(device, apps, requests_per_s=0.5, burst=20.0), one)
    batch = {"batch": [{"type": "page", "name": "x", "userId": "u"}] * 150}
    assert [heavy("POST", "/v1/batch", json=batch).status_code for _ in range(2)] == [200, 429]


def test_a_body_beyond_the_limit_is_refused_declared_or_not(call: InProcess) -> None:
    large = json.dumps({"type": "page", "name": "x" * 1_000_000}).encode()

    async def in_pieces():  # type: ignore[no-untyped-def]
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    for content in (large, in_pieces()):
        answer = call("POST", "/v1/events", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413


def test_endless_headers_are_refused(call: InProcess) -> None:
    assert call("GET", "/healthz", token=None, headers={"X-Long": "x" * 20_000}).status_code == 431


# -- sockets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.com", ""])
def test_it_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        loopback_socket(host, 0)


def test_a_port_that_is_taken_is_one_clear_error() -> None:
    first = loopback_socket("localhost", 0)
    try:
        with pytest.raises(ConfigError, match="cannot be used"):
            loopback_socket("127.0.0.1", first.getsockname()[1])
        assert address_of(first).startswith("http://127.0.0.1:")
    finally:
        first.close()


def test_a_unix_socket_is_this_users_alone_and_replaces_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = unix_socket(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert address_of(first) == f"unix:{path}"
    first.close()
    unix_socket(path).close()
    path.unlink()
    path.write_text("mine")
    with pytest.raises(ConfigError, match="no socket"):
        unix_socket(path)
    assert path.read_text() == "mine"


def test_nobody_is_called_from_the_sidecar(address: str, consenting: EdgeClient, token: str) -> None:
    """Every connection that this process makes while it serves is the test's own."""
    import httpx

    made: list[object] = []
    real = socket.socket.connect
    mine = threading.get_ident()

    class Watched(socket.socket):
        def connect(self, where: object) -> None:
            if threading.get_ident() != mine:
                made.append(where)
            real(self, where)  # type: ignore[arg-type]

    before, socket.socket = socket.socket, Watched  # type: ignore[misc]
    try:
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}) as caller:
            for path, body in (("/v1/identify", {"userId": "u", "traits": {"plan": "gold"}}), ("/v1/events", EVENT)):
                assert caller.post(path, json=body).status_code == 200
            for path in ("/v1/export", "/v1/features", "/metrics", "/healthz"):
                assert caller.get(path).status_code == 200
    finally:
        socket.socket = before  # type: ignore[misc]
    assert made == []


def test_no_file_of_the_package_can_open_a_connection() -> None:
    import ast

    import edge_client.sidecar

    networks = {
        "http.client",
        "urllib.request",
        "urllib3",
        "httpx",
        "requests",
        "aiohttp",
        "smtplib",
        "ftplib",
        "asyncio.streams",
    }
    for path in Path(edge_client.sidecar.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not networks.intersection(names), f"{path.name} imports {names}"
            called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            assert called not in ("connect", "connect_ex", "create_connection", "open_connection"), path.name
