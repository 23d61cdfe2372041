"""Servers that hang, drip, never end, break off, answer nonsense or send elsewhere; and what a request says about its sender."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from published_fleet import PublishedFleet, serving

from edge_client.bundles import BundleStore
from shared_models.errors import BundleError, BundleTamperedError, BundleUnavailableError

TIMEOUT_S = 0.3


@pytest.fixture
def device(fleet: PublishedFleet) -> BundleStore:
    store = fleet.device(timeout_s=TIMEOUT_S)
    store.refresh(fleet.folder)
    return store


def gives_up(device: BundleStore, url: str, error: type[BundleError] = BundleUnavailableError) -> None:
    started = time.monotonic()
    with pytest.raises(error):
        device.refresh(url)
    assert time.monotonic() - started < 10 * TIMEOUT_S
    assert device.staleness == "fresh"


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_server_that_accepts_and_says_nothing(device: BundleStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        gives_up(device, f"http://127.0.0.1:{server.getsockname()[1]}")


def test_nobody_there(device: BundleStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    gives_up(device, f"http://127.0.0.1:{port}/")
    gives_up(device, "http://nowhere.invalid/bundle")


def raw_server(answer: Iterator[bytes], pause_s: float) -> tuple[socket.socket, threading.Event]:
    """Answers every connection with the same bytes, a pause after each."""
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    pieces = list(answer)

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65536)
                    for piece in pieces:
                        connection.sendall(piece)
                        if stop.wait(pause_s):
                            return
                except OSError:
                    continue

    threading.Thread(target=serve, daemon=True).start()
    return server, stop


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"],
    ids=["status line", "headers", "body"],
)
def test_a_server_that_drips_so_that_no_single_wait_is_long(device: BundleStore, head: bytes) -> None:
    server, stop = raw_server(iter([head] + [b"X"] * 200), pause_s=TIMEOUT_S / 3)
    try:
        gives_up(device, f"http://127.0.0.1:{server.getsockname()[1]}")
    finally:
        stop.set()
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\x01\x02",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 99999,
    ],
    ids=["nothing", "binary", "another protocol", "broken off", "endless header"],
)
def test_answers_that_are_not_http_or_break_off(device: BundleStore, answer: bytes) -> None:
    server, stop = raw_server(iter([answer]), pause_s=0)
    try:
        gives_up(device, f"http://127.0.0.1:{server.getsockname()[1]}")
    finally:
        stop.set()
        server.close()


def test_a_server_that_never_stops_sending(device: BundleStore) -> None:
    sent = [0]

    class Endless(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    sent[0] += self.wfile.write(b"x" * 65536)
            except OSError:
                return

    with serving(None, Endless) as url:
        gives_up(device, url, BundleTamperedError)
    assert sent[0] < 16 * 1024 * 1024


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500, 503])
def test_every_error_status_is_an_unavailable_bundle(device: BundleStore, status: int) -> None:
    class Failing(Quiet):
        def do_GET(self) -> None:
            self.send_error(status)

    with serving(None, Failing) as url:
        gives_up(device, url)


def test_a_page_of_a_captive_portal_is_no_bundle(device: BundleStore) -> None:
    class Portal(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>please log in</html>")

    with serving(None, Portal) as url:
        gives_up(device, url, BundleTamperedError)


def test_redirects_are_followed_within_http_but_never_to_files_and_never_for_ever(
    fleet: PublishedFleet, device: BundleStore
) -> None:
    target = [""]

    class Redirecting(Quiet):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target[0] + self.path)
            self.end_headers()

    fleet.publish(1)
    with serving(None, Redirecting) as url, serving(fleet.folder) as real:
        for target[0] in (fleet.folder.as_uri(), "ftp://127.0.0.1", url):
            gives_up(device, url)
        target[0] = real
        assert device.refresh(url) == "fresh"


def test_a_file_that_is_missing_behind_good_metadata(fleet: PublishedFleet, device: BundleStore) -> None:
    fleet.publish(1)
    for path in (fleet.folder / "targets" / "head").iterdir():
        path.unlink()
    with serving(fleet.folder) as url:
        gives_up(device, url)


def test_requests_of_two_devices_are_the_same_and_say_nothing_about_them(fleet: PublishedFleet) -> None:
    seen: list[tuple[str, list[tuple[str, str]]]] = []

    class Recording(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(fleet.folder))

        def do_GET(self) -> None:
            seen.append((self.path, sorted((name.lower(), value) for name, value in self.headers.items())))
            super().do_GET()

        def log_message(self, format: str, *args: Any) -> None: ...

    with serving(None, Recording) as url:
        runs = []
        for name in ("one", "two"):
            seen.clear()
            store = fleet.device(name)
            store.refresh(url, fleet.trust)
            store.refresh(url)
            runs.append(list(seen))
    assert runs[0] == runs[1]
    assert {name for _, headers in runs[0] for name, _ in headers} == {
        "accept-encoding",
        "user-agent",
        "accept",
        "host",
        "connection",
    }
    assert {dict(headers)["user-agent"] for _, headers in runs[0]} == {"tacit"}
    assert [path for path, _ in runs[0][-2:]] == ["/metadata/timestamp.json", "/metadata/2.root.json"]


def test_a_refresh_of_a_new_release_fetches_only_what_changed(fleet: PublishedFleet) -> None:
    paths: list[str] = []

    class Recording(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(fleet.folder))

        def log_message(self, format: str, *args: Any) -> None:
            paths.append(self.path)

    with serving(None, Recording) as url:
        store = fleet.device()
        store.refresh(url, fleet.trust)
        fleet.publish(1)
        paths.clear()
        store.refresh(url)
    targets = sorted(path.rpartition(".")[0].split("/")[2] for path in paths if path.startswith("/targets/"))
    assert len(targets) == 2, targets
    assert not any("encoder" in path or "rules" in path for path in paths)
