"""A TLS server with a fleet's certificate that answers whatever a test tells it to."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aggregator.certificates import FleetCertificates


@dataclass
class Answer:
    """One HTTP answer; chunks are sent as they come, without a length."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    chunks: Iterable[bytes] | None = None


@contextmanager
def answering(
    certificates: FleetCertificates, respond: Callable[[str, bytes, dict[str, str]], Answer]
) -> Iterator[str]:
    """HOST:PORT of a server that gives `respond(path, body, headers)` to every POST."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            answer = respond(self.path, body, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(answer.status)
            headers = {"content-type": "application/protobuf", **answer.headers}
            if answer.chunks is None:
                headers.setdefault("content-length", str(len(answer.body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(answer.body)
                for chunk in answer.chunks or ():
                    self.wfile.write(chunk)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5.0)
