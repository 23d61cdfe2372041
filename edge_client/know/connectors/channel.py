"""An authenticated, read-only channel to one host: the bearer token goes there and nowhere else.

HTTPS with the system's certificates (or the app's own), plain HTTP to loopback only. The origin (scheme, host, port) is pinned:
a redirect or a next page elsewhere is refused before anything is sent there. A server that hangs, drips or never ends costs a
bounded time and a bounded number of bytes. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from edge_client.bundle_source import CHUNK_BYTES
from shared_models.errors import ConfigError, ConnectorDataError, ConnectorRefusedError, ConnectorUnavailableError

MOST_REDIRECTS = 5
MOST_RETRY_S = 86_400.0

_TOKEN = re.compile(r"[!-~]{1,8192}\Z")

Token = str | Callable[[], str]
"""A bearer token (RFC 6750), or what gives one: an app's OAuth 2 client, which refreshes it when asked again."""


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    """200 or 304."""
    address: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)


class Channel:
    """GET from one origin. Raises ConfigError for an address that is not HTTPS (or HTTP on loopback)."""

    def __init__(self, base_url: str, token: Token, *, timeout_s: float, ca_file: Path | None = None) -> None:
        """`timeout_s` bounds each request whole, with name look-up and redirects. `ca_file` (PEM) replaces the system's roots."""
        parts = _parts(base_url)
        if parts is None or not parts.hostname or parts.scheme not in ("https", "http"):
            raise ConfigError(f"{str(base_url)[:120]!r} is not the https address of a back end")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ConfigError(
                f"the back end {parts.hostname!r} is reached over https only: the token would be readable"
            )
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ConfigError("the back end's address must not carry a user name, a query or a fragment")
        if not callable(token) and not (isinstance(token, str) and _TOKEN.match(token)):
            raise ConfigError("the token is not one line of printable ASCII, nor a function that gives one")
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 3600:
            raise ConfigError(f"timeout_s is {timeout_s!r}, expected seconds above 0")
        self.base_url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/"
        self._origin = _origin(self.base_url)
        self._token = token
        self._timeout_s = float(timeout_s)
        self._context = self._tls(ca_file)

    def address(self, path: str) -> str:
        """Of something below the base address, or of a next page as the server names it. Raises ConnectorDataError elsewhere."""
        return self.next_address(self.base_url, path.lstrip("/"))

    def next_address(self, after: str, link: str) -> str:
        """Of the next page that the page at `after` links to. Raises ConnectorDataError if it leads to another origin."""
        try:
            return self._pinned(urljoin(after, link))
        except ValueError:
            raise ConnectorDataError(f"{self._origin[1]}: leads to an address that is none") from None

    def get(self, address: str, headers: Mapping[str, str], limit_bytes: int) -> Answer:
        """Ask once; with a token that is a function, once more after 401. A body over `limit_bytes` is not read to its end.

        Raises ConnectorUnavailableError, ConnectorRefusedError (401, 403), ConnectorDataError.
        """
        token = self._fresh_token()
        answer = self._in_time(address, headers, token, limit_bytes)
        if answer.status == 401 and callable(self._token):
            again = self._fresh_token()
            if again != token:
                answer = self._in_time(address, headers, again, limit_bytes)
        return self._accepted(answer)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _accepted(self, answer: Answer) -> Answer:
        where = self._where(answer.address)
        if answer.status in (200, 304):
            return answer
        if answer.status in (401, 403):
            raise ConnectorRefusedError(f"{where}: the token was not accepted ({answer.status}); sign in again")
        if answer.status == 429 or answer.status >= 500:
            raise ConnectorUnavailableError(
                f"{where}: the server answered {answer.status}; try again later", _retry_after(answer.headers)
            )
        raise ConnectorDataError(f"{where}: the server answered {answer.status}", answer.status)

    def _in_time(self, address: str, headers: Mapping[str, str], token: str, limit_bytes: int) -> Answer:
        # In a thread of its own: name look-up, handshake and dripping headers have no deadline that a call could set.
        result: queue.Queue[Answer | BaseException] = queue.Queue(1)
        abandoned = threading.Event()

        def run() -> None:
            try:
                result.put(self._follow(address, headers, token, limit_bytes, abandoned))
            except (ConnectorDataError, ConnectorUnavailableError) as error:
                result.put(error)
            except (OSError, ValueError, HTTPException) as error:
                reason = type(error).__name__ if not isinstance(error, OSError) else str(error.strerror or error)
                result.put(ConnectorUnavailableError(f"{self._where(address)}: cannot be reached: {reason[:200]}"))

        threading.Thread(target=run, name="tacit-connector", daemon=True).start()
        try:
            got = result.get(timeout=self._timeout_s)
        except queue.Empty:
            raise ConnectorUnavailableError(
                f"{self._where(address)}: the server does not answer within {self._timeout_s:g} s"
            ) from None
        finally:
            abandoned.set()
        if isinstance(got, BaseException):
            raise got
        return got

    def _follow(
        self, address: str, headers: Mapping[str, str], token: str, limit_bytes: int, abandoned: threading.Event
    ) -> Answer:
        for _ in range(MOST_REDIRECTS + 1):
            answer = self._once(address, headers, token, limit_bytes, abandoned)
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            address = self.next_address(address, answer.headers.get("location", ""))
            if abandoned.is_set():
                break
        raise ConnectorDataError(f"{self._where(address)}: more than {MOST_REDIRECTS} redirects")

    def _once(
        self, address: str, headers: Mapping[str, str], token: str, limit_bytes: int, abandoned: threading.Event
    ) -> Answer:
        import urllib.error
        import urllib.request

        class NoRedirect(urllib.request.HTTPRedirectHandler):
            """A redirect is an answer: who follows it decides where it may lead."""

            def http_error_302(self, *_: Any) -> None:
                return None

            http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment]

        handlers: list[urllib.request.BaseHandler] = [NoRedirect()]
        if self._context is None:
            # What goes to loopback in clear must not be handed to a proxy.
            handlers.append(urllib.request.ProxyHandler({}))
        else:
            handlers.append(urllib.request.HTTPSHandler(context=self._context))
        request = urllib.request.Request(self._pinned(address), headers={"User-Agent": "tacit", **headers})
        request.add_unredirected_header("Authorization", f"Bearer {token}")
        try:
            response = urllib.request.build_opener(*handlers).open(request, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, address, _lower(error.headers), b"")
        with response:
            named = _lower(response.headers)
            if response.status != 200:
                return Answer(response.status, address, named, b"")
            if named.get("content-encoding", "identity") != "identity":
                raise ConnectorDataError(f"{self._where(address)}: the answer is compressed, which was not asked for")
            parts, size_bytes = [], 0
            while not abandoned.is_set() and (chunk := response.read1(CHUNK_BYTES)):
                size_bytes += len(chunk)
                if size_bytes > limit_bytes:
                    raise ConnectorDataError(f"{self._where(address)}: more than {limit_bytes} bytes came")
                parts.append(chunk)
            if named.get("content-length", "").isdecimal() and size_bytes < int(named["content-length"]):
                raise ConnectorUnavailableError(
                    f"{self._where(address)}: the connection broke after {size_bytes} bytes"
                )
            return Answer(200, address, named, b"".join(parts))

    def _fresh_token(self) -> str:
        token = self._token
        if callable(token):
            # Outside the thread and the deadline: it is the app's own code, and may ask the user.
            token = token()
            if not isinstance(token, str) or not _TOKEN.match(token):
                raise ConnectorRefusedError("the app's token function gave no token (one line of printable ASCII)")
        return token

    def _pinned(self, address: str) -> str:
        try:
            same = _origin(address) == self._origin
        except ValueError:
            same = False
        if not same:
            raise ConnectorDataError(f"{self._origin[1]}: leads to another host or to plain http, which is refused")
        if any(char <= " " or char >= "\x7f" for char in address):
            raise ConnectorDataError(f"{self._origin[1]}: leads to an address that is none")
        return address

    def _where(self, address: str) -> str:
        """For messages: host and path, never the query, which may say something of the user."""
        return f"{self._origin[1]}{urlsplit(address).path}"[:200]

    def _tls(self, ca_file: Path | None) -> Any:
        import ssl

        if self._origin[0] != "https":
            return None
        try:
            return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        except OSError as error:
            raise ConfigError(f"{ca_file}: not a file of certificates (PEM): {error}") from error


def _parts(address: object) -> Any:
    try:
        parts = urlsplit(address) if isinstance(address, str) else None
        return parts if parts is None or parts.port is None or parts.port else None
    except ValueError:
        return None


def _origin(address: str) -> tuple[str, str, int]:
    parts = urlsplit(address)
    if parts.username is not None:
        raise ValueError("a user name in an address")
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)


def _is_loopback(host: str) -> bool:
    if host.rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    said = headers.get("retry-after", "")
    return min(float(said), MOST_RETRY_S) if said.isdecimal() and len(said) < 10 else None
