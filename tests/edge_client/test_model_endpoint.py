"""Where a language model may be, and how long it is waited for: TLS to this machine, and answers that drip."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from listening_model import listening

from edge_client.answer import endpoint as endpoint_module
from edge_client.answer.local_model import LocalModelConfig, endpoint, is_loopback
from shared_models.errors import ConfigError, LocalModelError


def test_localhost_over_tls_is_this_machine_whatever_name_service_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        asked.append(address[0])
        raise OSError("not reached in a test")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(endpoint_module.socket, "create_connection", connect)
    where = endpoint(LocalModelConfig(url="https://localhost:8443/v1", model="m"))
    assert where.loopback
    with pytest.raises(LocalModelError):
        endpoint_module.post_json(where, "/chat/completions", {}, 1.0, time.monotonic)
    assert "localhost" not in asked, "the name was given to name service"


def test_an_endpoint_that_drips_headers_is_given_up_in_time() -> None:
    with dripping(b"HTTP/1.1 200 OK\r\nX-A: ") as port:
        assert given_up_after(f"http://127.0.0.1:{port}/v1") < 2.0


@pytest.mark.parametrize("host", ["[::1%25eth0]", "[fe80::1%eth0]", "127.0.0.1%00", "localhost%2eexample", "[::1%lo]"])
def test_a_host_with_a_percent_sign_is_refused(host: str) -> None:
    for scheme in ("http", "https"):
        with pytest.raises(ConfigError):
            LocalModelConfig(url=f"{scheme}://{host}/v1", model="m", allow_remote=True)
    assert not is_loopback("::1%lo")


@pytest.mark.parametrize(
    "begin", [b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_a_body_or_a_silence_is_given_up_in_time(begin: bytes) -> None:
    with dripping(begin) as port:
        assert given_up_after(f"http://127.0.0.1:{port}/v1") < 2.0


def test_a_handshake_that_does_not_come_is_given_up_in_time() -> None:
    with dripping(b"\x16\x03\x03\x40\x00") as port:
        assert given_up_after(f"https://127.0.0.1:{port}/v1") < 2.0


def test_a_name_service_that_is_silent_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def hang(*_: Any, **__: Any) -> socket.socket:
        let_go.wait(10)
        raise OSError("late")

    monkeypatch.setattr(endpoint_module.socket, "create_connection", hang)
    try:
        assert given_up_after("https://llm.elsewhere.example/v1") < 2.0
    finally:
        let_go.set()


def test_https_on_this_machine_is_encrypted_and_its_name_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "localhost.pem"
    certificate.write_bytes(self_signed("localhost"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    prompts: list[str] = []
    with listening(prompts, context) as url:
        body = {"messages": [{}, {"content": "hello"}]}
        where = endpoint(LocalModelConfig(url=url.replace("127.0.0.1", "localhost"), model="m"))
        with pytest.raises(LocalModelError):
            endpoint_module.post_json(where, "/chat/completions", body, 2.0, time.monotonic)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert endpoint_module.post_json(where, "/chat/completions", body, 2.0, time.monotonic) == {}
        other = endpoint(LocalModelConfig(url=url, model="m"))
        with pytest.raises(LocalModelError):
            endpoint_module.post_json(other, "/chat/completions", body, 2.0, time.monotonic)
    assert prompts == ["hello"]


def self_signed(name: str) -> bytes:
    """Key and certificate as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now - datetime.timedelta(1))
    builder = builder.not_valid_after(now + datetime.timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    return pem + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


@contextmanager
def dripping(begin: bytes) -> Iterator[int]:
    """Port of a server that says `begin`, and then a byte now and then."""
    server, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        conversation, _ = server.accept()
        with conversation:
            try:
                conversation.sendall(begin)
                while not over.wait(0.1):
                    conversation.sendall(b"a")
            except OSError:
                return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        over.set()
        thread.join(5)
        server.close()


def given_up_after(url: str) -> float:
    config = LocalModelConfig(url=url, model="m", allow_remote=True)
    began = time.monotonic()
    with pytest.raises(LocalModelError):
        endpoint_module.post_json(endpoint(config), "/chat/completions", {}, 0.4, time.monotonic)
    return time.monotonic() - began
