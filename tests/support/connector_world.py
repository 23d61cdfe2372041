"""What the tests of connectors share: a device with all that a connector needs, and a real HTTP server that does as told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edge_client.know.capture import Capture
from edge_client.know.connectors import Intake
from edge_client.know.consent import Consent
from edge_client.know.profile import Profile
from edge_client.know.store import Store
from shared_models.profile import ProfileSchema, default_schema

KEY = bytes(32)
NOW_S = 1_795_532_400.0
"""2026-11-24T15:00:00Z, a Tuesday."""

EXTENSION = b"""
purpose: personalisation
attributes:
  titles_7d: {kind: contextual, type: list, sensitivity: personal, retention_days: 7, source: connector}
"""
TWO_PURPOSES = b"""
purpose: personal-learning
attributes:
  tone: {kind: behavioural, type: category, retention_days: 30, source: connector}
"""


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


class Device:
    """A device whose user allows personalisation, unless the test takes that back."""

    def __init__(self, folder: Path, schema: ProfileSchema | None = None, *, consent: bool = True) -> None:
        self.clock = Clock()
        self.schema = schema or default_schema()
        self.store = Store(folder, key=KEY)
        self.consent = Consent(self.store, self.clock)
        self.profile = Profile(self.store, self.schema, self.clock)
        self.capture = Capture(self.store, self.schema, self.consent, self.profile, self.clock)
        self.intake = Intake(self.store, self.schema, self.consent, self.profile, self.capture, self.clock)
        if consent and not self.consent.is_granted("personalisation"):
            self.consent.grant("personalisation")

    def values(self) -> dict[str, Any]:
        return {name: found.value for name, found in self.profile.values().items()}

    def kept(self) -> str:
        """All that is in the store about the user, as one text."""
        tables = ("profile", "profile-personal-learning", "events", "connectors")
        return "".join(str(self.store.table(name).items()) for name in tables)


@dataclass(frozen=True)
class Asked:
    """One request, as the server saw it."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass
class Said:
    """What the server is to answer."""

    status: int = 200
    body: bytes = b"[]"
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    before: Callable[[], None] = lambda: None
    """Called before the first byte."""
    drip: tuple[float, threading.Event] | None = None
    """Seconds between single bytes, until the event."""
    declared_bytes: int | None = None
    """Content-Length, if another than the body's."""


class Server:
    """A real HTTP server on loopback. `answer` decides; every request is noted."""

    def __init__(self, answer: Callable[[Asked], Said]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                asked = Asked(parts.path, query, {name.lower(): value for name, value in self.headers.items()})
                server.asked.append(asked)
                said = server.answer(asked)
                said.before()
                try:
                    self.send_response(said.status)
                    for name, value in said.headers.items():
                        self.send_header(name, value)
                    length = len(said.body) if said.declared_bytes is None else said.declared_bytes
                    self.send_header("Content-Length", str(length))
                    self.end_headers()
                    if said.drip is None:
                        self.wfile.write(said.body)
                    else:
                        pause_s, over = said.drip
                        for byte in said.body:
                            self.wfile.write(bytes([byte]))
                            self.wfile.flush()
                            if over.wait(pause_s):
                                break
                except OSError:
                    # The client has gone away: that is what some tests are about.
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                return None

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self.url = f"http://127.0.0.1:{self._http.server_port}/api"

    def wrap(self, context: Any) -> None:
        """Speak TLS from now on."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = self.url.replace("http://127.0.0.1", "https://localhost")

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()
