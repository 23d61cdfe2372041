"""What the aggregator serves to everyone: the published bundle, its anchor, health, and metrics. Read-only, the same for all.

No request is told apart from another: client addresses are removed from the ASGI scope before anything can log them (run uvicorn
with a log level of debug or above: its trace level prints peers itself). Nothing outside the bundle folder can be named.
Publishing happens elsewhere, by files: this process holds no key.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from shared_models.bundle import METADATA_FOLDER, TRUST_FILE, is_target_name
from shared_models.errors import BundleUnavailableError

METADATA_CACHE = "no-cache"
TARGETS_CACHE = "public, max-age=31536000, immutable"
_METADATA_NAME = re.compile(r"metadata/(?:timestamp|[0-9]{1,9}\.[a-z][a-z-]{0,40})\.json\Z")
_TARGET_NAME = re.compile(r"targets/(?:[a-z]{1,20}/)?([0-9a-f]{64})\.[A-Za-z0-9][A-Za-z0-9._-]{0,120}\Z")
_READ = ("GET", "HEAD")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def create_app(bundle_dir: Path, *, title: str = "Tacit bundles") -> FastAPI:
    """The service for one bundle folder, to be run by any ASGI server. Raises BundleUnavailableError if nothing is there.

    GET/HEAD /bundle/metadata/…, /bundle/targets/…, /bundle/trust.json, /trust.json, /healthz, /metrics; errors are problem
    documents (RFC 9457). The interactive pages of FastAPI load from a CDN and are off.
    """
    folder = Path(bundle_dir).absolute()
    if not (folder / METADATA_FOLDER / "timestamp.json").is_file():
        raise BundleUnavailableError(f"{folder}: no published bundle here; `tacit-fleet build` makes one")
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.counts = counts = _Counts()
    app.add_middleware(_Anonymous, counts=counts)
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(Exception, _failure)

    @app.api_route("/bundle/{name:path}", methods=list(_READ))
    def bundle_file(name: str, request: Request) -> Response:
        if name == TRUST_FILE or _METADATA_NAME.match(name):
            return _small_file(folder, name, request)
        if (match := _TARGET_NAME.match(name)) and is_target_name(name):
            return _target(folder, name, match[1], request)
        raise HTTPException(404, "there is no such file in this bundle")

    @app.api_route("/trust.json", methods=list(_READ))
    def trust(request: Request) -> Response:
        return _small_file(folder, TRUST_FILE, request)

    @app.api_route("/healthz", methods=list(_READ))
    def healthz() -> Response:
        until_s = _fresh_until_s(folder)
        if until_s is None or time.time() >= until_s:
            raise HTTPException(
                503, "timestamp.json is missing or expired: refresh the timestamp, else devices report stale"
            )
        return JSONResponse({"status": "ok", "fresh_for_s": int(until_s - time.time())}, headers=_headers("no-store"))

    @app.api_route("/metrics", methods=list(_READ))
    def metrics() -> Response:
        text = counts.exposition(_fresh_until_s(folder))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4", headers=_headers("no-store"))

    return app


class _Counts:
    """Totals only: no address, no user agent, no time of a single request."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.sent_bytes: Counter[str] = Counter()

    def exposition(self, fresh_until_s: float | None) -> str:
        """Prometheus text format 0.0.4."""
        lines = ["# HELP tacit_http_requests_total Requests answered.", "# TYPE tacit_http_requests_total counter"]
        lines += [
            f'tacit_http_requests_total{{resource="{name}",status="{status}"}} {number}'
            for (name, status), number in sorted(self.requests.items())
        ]
        lines += [
            "# HELP tacit_http_sent_bytes_total Bytes of bodies sent.",
            "# TYPE tacit_http_sent_bytes_total counter",
        ]
        lines += [
            f'tacit_http_sent_bytes_total{{resource="{name}"}} {number}'
            for name, number in sorted(self.sent_bytes.items())
        ]
        lines += [
            "# HELP tacit_bundle_fresh_until_seconds Unix time at which the published timestamp expires; 0 if unreadable.",
            "# TYPE tacit_bundle_fresh_until_seconds gauge",
            f"tacit_bundle_fresh_until_seconds {0 if fresh_until_s is None else int(fresh_until_s)}",
        ]
        return "\n".join(lines) + "\n"


class _Anonymous:
    """ASGI middleware, outermost: forgets who asks, and counts what was answered."""

    def __init__(self, app: Any, counts: _Counts) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The server's access log reads this very mapping when the answer goes out.
        scope["client"] = None
        resource = _resource(scope["path"])

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._counts.requests[resource, message["status"]] += 1
            elif message["type"] == "http.response.body":
                self._counts.sent_bytes[resource] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:
            self._counts.requests[resource, 500] += 1
            raise


def _resource(path: str) -> str:
    """A label out of a fixed few, whatever is asked for."""
    head = "/".join(path.split("/")[:3])
    names = {"/bundle/metadata": "metadata", "/bundle/targets": "targets", "/bundle/trust.json": "trust"}
    whole = {"/trust.json": "trust", "/healthz": "healthz", "/metrics": "metrics"}
    return names.get(head) or whole.get(path, "other")


def _small_file(folder: Path, name: str, request: Request) -> Response:
    raw = _plain_file(folder, name).read_bytes()
    tag = f'"{hashlib.sha256(raw).hexdigest()}"'
    if _has(request, tag):
        return Response(status_code=304, headers=_headers(METADATA_CACHE, tag))
    return Response(raw, media_type="application/json", headers=_headers(METADATA_CACHE, tag))


def _target(folder: Path, name: str, digest: str, request: Request) -> Response:
    path, tag = _plain_file(folder, name), f'"{digest}"'
    if _has(request, tag):
        return Response(status_code=304, headers=_headers(TARGETS_CACHE, tag))
    return FileResponse(path, media_type="application/octet-stream", headers=_headers(TARGETS_CACHE, tag))


def _plain_file(folder: Path, name: str) -> Path:
    """A regular file of the bundle, reached through no symbolic link; 404 otherwise."""
    path = folder
    for part in name.split("/"):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise HTTPException(404, "there is no such file in this bundle") from error
        if stat.S_ISLNK(mode):
            raise HTTPException(404, "there is no such file in this bundle")
    if not stat.S_ISREG(mode):
        raise HTTPException(404, "there is no such file in this bundle")
    return path


def _fresh_until_s(folder: Path) -> float | None:
    try:
        document = json.loads((folder / METADATA_FOLDER / "timestamp.json").read_bytes())
        return datetime.fromisoformat(document["signed"]["expires"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has(request: Request, tag: str) -> bool:
    offered = request.headers.get("if-none-match", "")
    return offered.strip() == "*" or tag in (item.strip().removeprefix("W/") for item in offered.split(","))


def _headers(cache: str, tag: str | None = None) -> dict[str, str]:
    headers = {"Cache-Control": cache, "X-Content-Type-Options": "nosniff"}
    return headers if tag is None else {**headers, "ETag": tag}


async def _problem(request: Request, error: Exception) -> Response:
    """RFC 9457."""
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": error.status_code, "detail": error.detail},
        status_code=error.status_code,
        headers={**_headers("no-store"), **(error.headers or {})},
        media_type="application/problem+json",
    )


async def _failure(request: Request, error: Exception) -> Response:
    return await _problem(request, HTTPException(500, "the service failed; its log says why"))
