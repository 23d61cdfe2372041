"""The service over a real socket: what it serves, what it refuses, what it remembers of who asked (nothing)."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from published_fleet import PublishedFleet

from aggregator.service.app import create_app
from shared_models.errors import BundleUnavailableError

SERVE = """
import socket, sys, uvicorn
from pathlib import Path
from aggregator.service.app import create_app
listener = socket.socket(fileno=int(sys.argv[2]))
config = uvicorn.Config(create_app(Path(sys.argv[1])), log_level="debug", access_log=True)
uvicorn.Server(config).run(sockets=[listener])
"""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Service:
    port: int
    process: subprocess.Popen[str]
    ports_used: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/bundle"

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            self.ports_used.append(connection.sock.getsockname()[1])
            response = connection.getresponse()
            answered = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, answered, response.read())
        finally:
            connection.close()


@pytest.fixture
def service(fleet: PublishedFleet) -> Iterator[Service]:
    # The socket listens before the process is up: requests wait in its queue.
    with socket.create_server(("127.0.0.1", 0)) as listener, (fleet.root / "log").open("w") as log:
        command = [sys.executable, "-c", SERVE, str(fleet.folder), str(listener.fileno())]
        with subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, text=True, cwd=Path.cwd(), pass_fds=[listener.fileno()]
        ) as process:
            try:
                yield Service(listener.getsockname()[1], process)
            finally:
                process.terminate()


def test_a_device_is_served_and_catches_up(fleet: PublishedFleet, service: Service) -> None:
    store = fleet.device()
    for url in (service.url, service.url + "/"):
        assert store.refresh(url, trust=fleet.trust) == "fresh"
    fleet.publish(1)
    assert store.refresh(service.url) == "fresh"
    active = store.current()
    assert active is not None
    assert active.head == b"head 1"


def test_every_file_of_the_bundle_is_served_as_it_is(fleet: PublishedFleet, service: Service) -> None:
    for path in fleet.folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(fleet.folder).as_posix()
            answer = service.ask(f"/bundle/{name}")
            assert (answer.status, answer.body) == (200, path.read_bytes()), name
            head = service.ask(f"/bundle/{name}", "HEAD")
            assert (head.status, head.body) == (200, b"")
            assert head.headers["content-length"] == str(len(answer.body))
            assert answer.headers["x-content-type-options"] == "nosniff"
            immutable = "immutable" in answer.headers["cache-control"]
            assert immutable == name.startswith("targets/")
            assert immutable or answer.headers["cache-control"] == "no-cache"
            assert answer.headers["etag"] == f'"{hashlib.sha256(answer.body).hexdigest()}"'
            for tag in (answer.headers["etag"], "W/" + answer.headers["etag"], '"x", ' + answer.headers["etag"], "*"):
                again = service.ask(f"/bundle/{name}", If_None_Match=tag)
                assert (again.status, again.body) == (304, b"")
            assert service.ask(f"/bundle/{name}", If_None_Match='"x"').status == 200
    assert service.ask("/trust.json").body == fleet.trust.read_bytes()


def test_a_part_of_a_target_can_be_asked_for(fleet: PublishedFleet, service: Service) -> None:
    path = next((fleet.folder / "targets" / "encoder").iterdir())
    answer = service.ask(f"/bundle/targets/encoder/{path.name}", Range="bytes=10-19")
    assert (answer.status, answer.body) == (206, path.read_bytes()[10:20])


def test_nothing_else_can_be_named(fleet: PublishedFleet, service: Service) -> None:
    digest = "0" * 64
    (fleet.root / "secret.json").write_text("secret")
    (fleet.folder / "secret.json").write_text("secret")
    (fleet.folder / "metadata" / ".unfinished-9.root.json").write_text("secret")
    (fleet.folder / "metadata" / "9.root.json").symlink_to(fleet.root / "secret.json")
    (fleet.folder / "targets" / f"{digest}.linked.json").symlink_to(fleet.root / "secret.json")
    (fleet.folder / "targets" / "linked").symlink_to(fleet.root)
    (fleet.root / f"{digest}.secret.json").write_text("secret")
    names = [
        "",
        ".",
        "..",
        "metadata",
        "metadata/",
        "targets/",
        "targets/head",
        "secret.json",
        "metadata/.unfinished-9.root.json",
        "metadata/9.root.json",
        f"targets/{digest}.linked.json",
        f"targets/linked/{digest}.secret.json",
        "../keys/root.key",
        "metadata/../../keys/root.key",
        "metadata/../../secret.json",
        "/etc/passwd",
        "metadata/timestamp.json/",
        "metadata//timestamp.json",
        "metadata/timestamp.json\0",
        "metadata/1.root.json.bak",
        "metadata\\timestamp.json",
        "x" * 5000,
        "metadata/" + "9" * 300 + ".root.json",
        "targets/ünïcode.json",
    ]
    for name in names:
        for path in (f"/bundle/{urllib.parse.quote(name, safe='')}", f"/bundle/{urllib.parse.quote(name)}"):
            answer = service.ask(path)
            assert answer.status in (404, 307), path
            assert b"secret" not in answer.body
            assert b"tacit-ed25519" not in answer.body


def test_only_reading_is_allowed_and_errors_are_problem_documents(service: Service) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        answer = service.ask("/bundle/metadata/timestamp.json", method)
        assert answer.status == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    for path in ("/bundle/none", "/none", "/docs", "/redoc", "/openapi.json"):
        answer = service.ask(path)
        assert answer.status == 404
        assert answer.headers["content-type"] == "application/problem+json"
        problem = json.loads(answer.body)
        assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", "Not Found", 404)
        assert isinstance(problem["detail"], str)


def test_health_says_whether_devices_will_call_the_bundle_fresh(fleet: PublishedFleet, service: Service) -> None:
    # The service reads the system's clock; the fleet's lies in 2027.
    answer = service.ask("/healthz")
    assert answer.status == 200
    assert json.loads(answer.body)["status"] == "ok"
    fleet.now_s = 1_500_000_000.0
    fleet.refresh_timestamp()
    late = service.ask("/healthz")
    assert late.status == 503
    assert "refresh" in json.loads(late.body)["detail"]
    (fleet.folder / "metadata" / "timestamp.json").write_text("{")
    assert service.ask("/healthz").status == 503


def test_metrics_are_totals_of_a_fixed_few_resources(service: Service) -> None:
    service.ask("/bundle/metadata/timestamp.json")
    service.ask("/bundle/metadata/timestamp.json")
    for number in range(5):
        service.ask(f"/a-path-of-its-own/{number}?user=alice")
    answer = service.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    assert 'tacit_http_requests_total{resource="metadata",status="200"} 2' in text
    assert 'tacit_http_requests_total{resource="other",status="404"} 5' in text
    assert "alice" not in text
    assert "127.0.0.1" not in text
    assert all(line.startswith("# ") or len(line.rsplit(" ", 1)) == 2 for line in text.strip().splitlines())


def test_no_log_line_says_who_asked(fleet: PublishedFleet, service: Service) -> None:
    service.ask("/bundle/metadata/timestamp.json", X_Forwarded_For="203.0.113.9", User_Agent="alices-phone")
    service.ask("/nowhere", X_Forwarded_For="203.0.113.9")
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        service.ports_used.append(connection.getsockname()[1])
        connection.sendall(b"\x00\x01 rubbish\r\n\r\n")
        connection.recv(1000)
    service.process.terminate()
    service.process.wait(timeout=20)
    log = (fleet.root / "log").read_text()
    assert "timestamp.json" in log, "the access log is on"
    # The server's own address stands in its first lines; no other does.
    asked = "\n".join(line for line in log.splitlines() if "Uvicorn running" not in line)
    assert "127.0.0.1" not in asked
    assert "203.0.113.9" not in asked
    assert "alices-phone" not in asked
    assert not [port for port in service.ports_used if str(port) in asked]


def test_an_empty_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(BundleUnavailableError, match="tacit-fleet"):
        create_app(tmp_path)
