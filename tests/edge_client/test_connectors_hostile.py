"""Back ends that redirect, refuse, lie, break and hang: the token stays, the time is bounded, and nothing half is kept."""

from __future__ import annotations

import datetime
import ipaddress
import json
import logging
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from connector_world import Asked, Device, Said, Server
from shop import CUSTOMER, TOKEN, Serve, order, orders_from, said

from edge_client.know.connectors import FieldMapping
from edge_client.know.connectors import backend as backend_module
from edge_client.know.connectors.backend import BackendConnector, Resource
from shared_models.errors import (
    ConfigError,
    ConnectorDataError,
    ConnectorRefusedError,
    ConnectorUnavailableError,
)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "store")
    with made.store:
        yield made


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as running:
        yield lambda answer: running.enter_context(Server(answer).running())


def test_a_redirect_within_the_host_is_followed(device: Device, serve: Serve) -> None:
    def answer(asked: Asked) -> Said:
        if asked.path == "/api/me/orders":
            return Said(status=307, headers={"Location": "/v2/orders"})
        return said([order(1)])

    assert orders_from(serve(answer)).pull(device.intake).events == 1


@pytest.mark.parametrize(
    "location",
    [
        "other",
        "http://localhost:1/x",
        "http://h:x/",
        "//example.org/x",
        "file:///etc/passwd",
        "http://u:p@127.0.0.1/x",
        "http://[",
        "",
    ],
)
def test_a_redirect_elsewhere_is_refused_and_the_token_stays(device: Device, serve: Serve, location: str) -> None:
    other = serve(lambda asked: said([order(1)]))
    goal = f"{other.url}/x" if location == "other" else location
    server = serve(lambda asked: Said(status=302, headers={"Location": goal}))
    with pytest.raises(ConnectorDataError):
        orders_from(server).pull(device.intake)
    assert other.asked == []
    assert device.capture.events() == []


def test_a_next_page_elsewhere_is_refused_and_the_token_stays(device: Device, serve: Serve) -> None:
    other = serve(lambda asked: said([order(2)]))
    server = serve(lambda asked: said([order(1)], Link=f'<{other.url}/me/orders>; rel="next"'))
    with pytest.raises(ConnectorDataError, match="another host"):
        orders_from(server).pull(device.intake)
    assert other.asked == []


def test_redirects_without_end_are_given_up(device: Device, serve: Serve) -> None:
    server = serve(lambda asked: Said(status=302, headers={"Location": f"{asked.path}x"}))
    with pytest.raises(ConnectorDataError, match="redirects"):
        orders_from(server).pull(device.intake)
    assert len(server.asked) == 6


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_not_accepted_is_its_own_error_without_the_token(
    device: Device, serve: Serve, status: int
) -> None:
    server = serve(lambda asked: Said(status=status))
    with pytest.raises(ConnectorRefusedError) as caught:
        orders_from(server).pull(device.intake)
    assert TOKEN not in str(caught.value)
    assert len(server.asked) == 1


def test_a_stale_token_is_renewed_once(device: Device, serve: Serve) -> None:
    tokens = iter(["old", "new", "never"])
    server = serve(
        lambda asked: said([order(1)]) if asked.headers["authorization"] == "Bearer new" else Said(status=401)
    )
    assert orders_from(server, lambda: next(tokens)).pull(device.intake).events == 1
    assert next(tokens) == "never"
    with pytest.raises(ConnectorRefusedError):
        orders_from(server, lambda: "always wrong"[:6]).pull(device.intake)


@pytest.mark.parametrize("token", ["two\nlines", "", None, "é", "a" * 9000])
def test_a_token_that_would_break_the_header_is_refused(device: Device, serve: Serve, token: Any) -> None:
    server = serve(lambda asked: said([]))
    with pytest.raises(ConfigError):
        orders_from(server, token)
    with pytest.raises(ConnectorRefusedError):
        orders_from(server, lambda: token).pull(device.intake)
    assert server.asked == []


def test_come_back_later_says_when(device: Device, serve: Serve) -> None:
    server = serve(lambda asked: Said(status=429, headers={"Retry-After": "120"}))
    with pytest.raises(ConnectorUnavailableError) as caught:
        orders_from(server).pull(device.intake)
    assert caught.value.retry_after_s == 120.0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'[{"id": 1}] , "x"',
        b'[] , "x": 1',
        b'[{"id": 1, "id": 2}]',
        b"[1, 2]",
        b"5",
        b"[" * 20_000 + b"]" * 20_000,
        b'[{"id":' + b'{"a":' * 30 + b"1" + b"}" * 31 + b"]",
    ],
    ids=lambda body: repr(body[:16]),
)
def test_an_answer_that_is_not_what_was_agreed_keeps_nothing(device: Device, serve: Serve, body: bytes) -> None:
    with pytest.raises(ConnectorDataError):
        orders_from(serve(lambda asked: said(body))).pull(device.intake)
    assert device.capture.events() == []
    assert device.intake.document() == {}


def test_other_types_and_compressed_answers_are_refused(device: Device, serve: Serve) -> None:
    answers = iter(
        [
            Said(body=b"<html>", headers={"Content-Type": "text/html"}),
            Said(body=b"[]", headers={}),
            said([], Content_Encoding="gzip"),
            Said(status=204, body=b""),
            Said(status=418),
            Said(status=304, body=b""),
        ]
    )
    server = serve(lambda asked: next(answers))
    for _ in range(6):
        with pytest.raises(ConnectorDataError):
            orders_from(server).pull(device.intake)


def test_one_wrong_record_does_not_keep_the_others_out(device: Device, serve: Serve) -> None:
    records = [order(1), {**order(2), "sum": "much", "money": "€€"}, {**order(3), "id": None}, order(4)]
    reading = orders_from(serve(lambda asked: said(records))).pull(device.intake)
    assert reading.events == 2
    assert dict(reading.invalid) == {"sum": 1, "money": 1, "id": 1}


def test_a_huge_answer_is_cut_off(device: Device, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "MAX_PAGE_BYTES", 100_000)
    server = serve(lambda asked: said(b" " * 2_000_000))
    with pytest.raises(ConnectorDataError, match="more than 100000 bytes"):
        orders_from(server).pull(device.intake)


@pytest.mark.parametrize("how", ["silent", "dripping"])
def test_a_server_that_hangs_or_drips_costs_a_bounded_time(device: Device, serve: Serve, how: str) -> None:
    over = threading.Event()
    if how == "silent":
        server = serve(lambda asked: Said(before=lambda: over.wait(20) and None))
    else:
        server = serve(lambda asked: Said(body=b" " * 10_000, drip=(0.05, over)))
    started = time.monotonic()
    try:
        with pytest.raises(ConnectorUnavailableError):
            orders_from(server, timeout_s=0.4).pull(device.intake)
        assert time.monotonic() - started < 60
    finally:
        over.set()


def test_a_connection_that_breaks_keeps_nothing(device: Device, serve: Serve) -> None:
    server = serve(lambda asked: Said(body=json.dumps([order(1)]).encode(), declared_bytes=10_000))
    with pytest.raises(ConnectorUnavailableError):
        orders_from(server, timeout_s=2.0).pull(device.intake)
    assert device.capture.events() == []


def test_nobody_listening_is_unavailable(device: Device) -> None:
    server = Server(lambda asked: said([]))
    with server.running():
        pass
    with pytest.raises(ConnectorUnavailableError):
        orders_from(server).pull(device.intake)


@pytest.mark.parametrize(
    "address",
    [
        "http://shop.example/api",
        "http://127.0.0.1.example/api",
        "ftp://shop.example",
        "https://user:pw@shop.example/",
        "https://shop.example/?a=1",
        "https:///x",
        "https://shop.example:0/",
        "https://shop.example:99999/",
        "shop.example",
        "",
        None,
        5,
    ],
)
def test_only_https_or_loopback_is_an_address(address: Any) -> None:
    with pytest.raises(ConfigError):
        BackendConnector("shop", address, TOKEN, [Resource(path="me", mapping=CUSTOMER)])


def test_options_that_cannot_be_used_are_said_at_once(device: Device) -> None:
    resource = Resource(path="me", mapping=CUSTOMER)
    for name in ("", "Shop", "a b", "x" * 60, None):
        with pytest.raises(ConfigError):
            BackendConnector(name, "https://shop.example", TOKEN, [resource])  # type: ignore[arg-type]
    for resources in ([], [resource, resource]):
        with pytest.raises(ConfigError):
            BackendConnector("shop", "https://shop.example", TOKEN, resources)
    for options in ({"timeout_s": 0}, {"max_pages": 0}, {"ca_file": Path("/nowhere.pem")}):
        with pytest.raises(ConfigError):
            BackendConnector("shop", "https://shop.example", TOKEN, [resource], **options)  # type: ignore[arg-type]
    unknown = Resource(path="me", mapping=FieldMapping(attributes={"x": "shoe_size"}))
    with pytest.raises(ConfigError, match="shoe_size"):
        BackendConnector("shop", "https://shop.example", TOKEN, [unknown]).pull(device.intake)


def test_https_is_checked_against_the_apps_own_certificate(device: Device, tmp_path: Path) -> None:
    certificate, key = own_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(lambda asked: said([order(1)]))
    server.wrap(context)
    with server.running():
        with pytest.raises(ConnectorUnavailableError):
            orders_from(server).pull(device.intake)
        assert server.asked == []
        assert orders_from(server, ca_file=certificate).pull(device.intake).events == 1
        server.answer = lambda asked: Said(
            status=301, headers={"Location": server.url.replace("https", "http") + "/me/orders"}
        )
        with pytest.raises(ConnectorDataError, match="plain http"):
            orders_from(server, ca_file=certificate).pull(device.intake)


def test_logs_and_errors_say_nothing_of_the_user(
    device: Device, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(
        lambda asked: Said(status=500) if "cursor" in asked.query else said({"i": [order(1)], "n": "private9"})
    )
    with pytest.raises(ConnectorUnavailableError) as caught:
        orders_from(server, records="i", cursor="n").pull(device.intake)
    for secret in (TOKEN, "private9", "anniversary"):
        assert secret not in str(caught.value)
        assert secret not in caplog.text


def own_certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "ca.pem", folder / "key.pem"
