"""What stands before every route: host, origin, size, CORS and headers; and the app's token behind it.

A page of the web that the user visits can reach loopback too, and a name that it controls can be made to point there (DNS
rebinding). So: only loopback names in Host; any Origin that no app registered is refused, whatever the method; no cookie means
anything outside the privacy centre; a token is needed for all but /healthz, preflights and the centre's own door.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders

from edge_client.sidecar.bodies import MAX_BODY_BYTES
from edge_client.sidecar.metrics import Metrics
from edge_client.sidecar.problems import problem_of
from edge_client.sidecar.tokens import App, Apps
from shared_models.errors import AccessError, LimitError, SidecarError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

CENTRE = "/centre/"
CHAT = "/chat"
"""The door of the chat page, which lies below CENTRE like all pages."""
_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?\Z", re.IGNORECASE)
_SAFE_SITES = ("", "none", "same-origin")
MAX_HEADER_BYTES = 16 * 1024
CORS_METHODS = "GET, POST, PUT, DELETE"
CORS_HEADERS = "authorization, content-type, content-encoding, sec-gpc, tacit-conversation, " + ", ".join(
    f"x-stainless-{name}"
    for name in ("arch", "lang", "os", "package-version", "retry-count", "runtime", "runtime-version", "timeout")
)
"""The last are what OpenAI's client for browsers sends with every request."""
PREFLIGHT_AGE_S = 600
REQUESTS_PER_S = 200.0
BURST = 400.0
FAILED_TOKENS_PER_S = 5.0
FAILED_TOKENS_BURST = 20.0


class Rate:
    """Token buckets by name: `per_s` on average, `burst` at once. Thread-safe; `clock` is monotonic, seconds."""

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._lock = threading.Lock()
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str, amount: float = 1.0) -> float:
        """0 if `amount` may be used now, else the seconds until it may (nothing is taken then)."""
        now_s = self._clock()
        with self._lock:
            level, since_s = self._levels.get(name, (self._burst, now_s))
            level = min(self._burst, level + max(0.0, now_s - since_s) * self._per_s)
            wait_s = max(0.0, min(amount, self._burst) - level) / self._per_s
            self._levels[name] = (level if wait_s else level - amount, now_s)
            return wait_s


class Guard:
    """ASGI middleware, outermost. It answers itself what must not go further, as problem documents."""

    def __init__(self, app: AsgiApp, *, apps: Apps, metrics: Metrics) -> None:
        self._app, self._apps, self._metrics = app, apps, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There are no WebSockets here: uvicorn turns this into 403.
            await send({"type": "websocket.close", "code": 1008})
            return
        # Nobody's address is kept, and no log may have it.
        scope["client"] = None
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        state = _Answer(self._metrics, scope)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._dress(MutableHeaders(scope=message), origin, scope["path"])
                state.started(message["status"])
            await send(message)

        try:
            self._check(scope, headers, origin)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight(headers, sending)
                return
            await self._app(scope, self._measured(receive, headers), sending)
        except SidecarError as error:
            if state.answered:
                raise
            await problem_of(error, path=scope["path"])(scope, receive, sending)
        finally:
            state.finished()

    def _check(self, scope: Scope, headers: Headers, origin: str | None) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            raise self._refuse("size", LimitError(f"the headers have more than {MAX_HEADER_BYTES} bytes", 431))
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not _HOST.match(hosts[0]):
            raise self._refuse(
                "host", AccessError("this service answers to localhost, 127.0.0.1 and [::1] only (see Host)", 421)
            )
        if len(headers.getlist("origin")) > 1:
            raise self._refuse("origin", AccessError("more than one Origin", 403))
        if _is_page(scope["path"]):
            self._check_centre(scope, headers, origin, hosts[0])
        elif origin is not None and origin not in self._apps.origins():
            raise self._refuse(
                "origin",
                AccessError("pages of this origin may not call: `tacit-device serve --app NAME --origin …`", 403),
            )
        elif origin is None and headers.get("sec-fetch-site", "") not in _SAFE_SITES:
            # A page that sends no Origin (an image, a form's GET): nothing here is meant for it.
            raise self._refuse("origin", AccessError("a page of another site may not call", 403))

    def _check_centre(self, scope: Scope, headers: Headers, origin: str | None, host: str) -> None:
        own = f"http://{host}"
        if scope["method"] in ("GET", "HEAD"):
            # A link from elsewhere may open the door; the session's cookie (SameSite=Strict) does not come along.
            navigates = headers.get("sec-fetch-mode", "navigate") == "navigate"
            if origin not in (None, own) or not (navigates or headers.get("sec-fetch-site") == "same-origin"):
                raise self._refuse(
                    "origin", AccessError("the privacy centre and the chat are opened as pages, by their user", 403)
                )
        elif origin != own or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise self._refuse("origin", AccessError("forms of the privacy centre come from its own pages only", 403))

    def _measured(self, receive: Receive, headers: Headers) -> Receive:
        declared = headers.get("content-length", "0")
        if not declared.isascii() or not declared.isdigit() or int(declared[:20]) > MAX_BODY_BYTES:
            raise self._refuse("size", _too_large())
        arrived = 0

        async def measured() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > MAX_BODY_BYTES:
                raise self._refuse("size", _too_large())
            return message

        return measured

    def _refuse(self, why: str, error: SidecarError) -> SidecarError:
        self._metrics.refused(why)
        return error

    def _dress(self, headers: MutableHeaders, origin: str | None, path: str) -> None:
        headers["X-Content-Type-Options"] = "nosniff"
        # With "no-referrer" a browser would send `Origin: null` with the centre's own forms.
        headers["Referrer-Policy"] = "same-origin" if _is_page(path) else "no-referrer"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers.setdefault("Cache-Control", "no-store")
        headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        headers.add_vary_header("Origin")
        if origin is not None and not _is_page(path) and origin in self._apps.origins():
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "Retry-After"


class _Answer:
    """Counts one answer under its route's template."""

    def __init__(self, metrics: Metrics, scope: Scope) -> None:
        self._metrics, self._scope, self._status = metrics, scope, 0

    @property
    def answered(self) -> bool:
        return self._status != 0

    def started(self, status: int) -> None:
        self._status = status

    def finished(self) -> None:
        template = getattr(self._scope.get("route"), "path", "other")
        self._metrics.answered(template, self._status or 499)


class Gatekeeper:
    """Dependencies that find the calling app by its token and hold it to its scopes and its rate."""

    def __init__(
        self,
        apps: Apps,
        metrics: Metrics,
        *,
        per_s: float = REQUESTS_PER_S,
        burst: float = BURST,
        opted_out: Callable[[], None] = lambda: None,
    ) -> None:
        """`opted_out` is called for each request with `Sec-GPC: 1`, before it is answered; it may block."""
        self._apps, self._metrics, self._opted_out = apps, metrics, opted_out
        self._rate = Rate(per_s, burst)
        self._failures = Rate(FAILED_TOKENS_PER_S, FAILED_TOKENS_BURST)

    def admitted(self, scope: str) -> Callable[[Request], Awaitable[None]]:
        """A dependency: passes if the token of the calling app holds `scope`. Raises AccessError, LimitError."""

        async def admit(request: Request) -> None:
            self.admit(request, scope, bearer_or_basic(request))
            if opts_out(request.headers):
                await run_in_threadpool(self._opted_out)

        return admit

    def admit(self, request: Request, scope: str, token: str | None) -> App:
        """The same for a token that was found elsewhere (Mixpanel's clients send it inside the body)."""
        app = self._apps.find(token) if token else None
        if app is None:
            self._metrics.refused("token")
            if token and (wait_s := self._failures.take("")):
                raise LimitError("too many wrong tokens", 429, wait_s)
            raise AccessError(
                "no token of an app: send `Authorization: Bearer TOKEN`, or the token as the user of Basic", 401
            )
        if scope not in app.scopes:
            raise AccessError(f"the token of this app does not hold the scope {scope!r}", 403)
        origin = request.headers.get("origin")
        if origin is not None and origin not in app.origins:
            self._metrics.refused("origin")
            raise AccessError("pages of this origin may not use this app's token", 403)
        if wait_s := self._rate.take(app.name):
            self._metrics.refused("rate")
            raise LimitError("too many requests of this app", 429, wait_s)
        request.state.app = app
        return app

    def charge(self, request: Request, amount: int) -> None:
        """Count the further messages of an admitted request's batch: ten of them as one request. Raises LimitError."""
        if amount > 1 and (wait_s := self._rate.take(request.state.app.name, (amount - 1) / 10)):
            self._metrics.refused("rate")
            raise LimitError("too many events of this app", 429, wait_s)


def bearer_or_basic(request: Request) -> str | None:
    """The token of an Authorization header: Bearer (RFC 6750), or the user of Basic (RFC 7617), as Segment has it."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return given.strip() or None
    if kind.lower() == "basic":
        try:
            return base64.b64decode(given.strip(), validate=True).decode("utf-8").partition(":")[0] or None
        except (binascii.Error, ValueError):
            return None
    return None


def opts_out(headers: Iterable[tuple[str, str]] | Headers) -> bool:
    """Global Privacy Control: `Sec-GPC: 1`."""
    return Headers(dict(headers)).get("sec-gpc", "").strip() == "1"


def _is_page(path: str) -> bool:
    """Whether it is for people in a browser, and not for apps."""
    return path == CHAT or path.startswith(CENTRE)


def _too_large() -> LimitError:
    return LimitError(f"a body has at most {MAX_BODY_BYTES} bytes", 413)


async def _preflight(headers: Headers, send: Send) -> None:
    allowed = [
        (b"access-control-allow-methods", CORS_METHODS.encode()),
        (b"access-control-allow-headers", CORS_HEADERS.encode()),
        (b"access-control-max-age", str(PREFLIGHT_AGE_S).encode()),
    ]
    if headers.get("access-control-request-private-network") == "true":
        allowed.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": allowed})
    await send({"type": "http.response.body", "body": b""})
