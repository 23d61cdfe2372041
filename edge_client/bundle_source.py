"""Where a bundle comes from: a folder on this device, or an http(s) server. Bytes only; what they are worth bundle_check.py says.

A request says nothing about who asks: no cookies, no identifiers, the same few headers from every device. A server that hangs,
drips or never ends costs a bounded time and a bounded number of bytes.
"""

from __future__ import annotations

import queue
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from shared_models.bundle import MAX_TRUST_BYTES, TRUST_FILE, is_target_name
from shared_models.errors import BundleTamperedError, BundleUnavailableError, ConfigError

CHUNK_BYTES = 64 * 1024
LEAST_BYTES_PER_S = 4096
"""A server that is slower than this on average, after a grace of two timeouts, counts as not answering."""


class Source(Protocol):
    """A read-only tree of files named by relative paths with `/`."""

    vouched: bool
    """True if whoever put it there answers for it (a folder of the app): it may bring its own anchor, and may be out of date."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file. Raises FileNotFoundError if there is none, BundleUnavailableError if it cannot be had."""
        ...


def open_source(address: str | Path, timeout_s: float) -> Source:
    """A folder, a file: URL, or an http(s) URL with or without a slash at its end. Raises ConfigError."""
    text = str(address)
    if "\0" in text or not text.strip():
        raise ConfigError("the bundle's address is empty or not a text")
    parts = urlsplit(text) if isinstance(address, str) and "://" in text else None
    if parts is None:
        return FolderSource(Path(address))
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        from urllib.request import url2pathname

        return FolderSource(Path(url2pathname(unquote(parts.path))))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{text[:200]!r} is not a folder and not an http(s) address of a bundle")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            "the bundle's address must not carry a user name, a query or a fragment: it is the same for everyone"
        )
    return HttpSource(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/", timeout_s)


def read_whole(source: Source, name: str, limit_bytes: int) -> bytes:
    """Read one small file. Raises FileNotFoundError, BundleUnavailableError, BundleTamperedError beyond `limit_bytes`."""
    parts, size_bytes = [], 0
    for chunk in source.chunks(name):
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise BundleTamperedError(f"{name}: more than {limit_bytes} bytes came; the source is not a sound bundle")
        parts.append(chunk)
    return b"".join(parts)


class FolderSource:
    """A bundle in a folder of this device. Symbolic links in it are refused."""

    vouched = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def chunks(self, name: str) -> Iterator[bytes]:
        if not self.folder.is_dir():
            raise BundleUnavailableError(f"{self.folder}: no such bundle folder; `tacit-fleet build` makes one")
        path = self.folder
        try:
            for part in _safe(name).split("/"):
                path = path / part
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    raise BundleTamperedError(f"{path}: a symbolic link; a bundle holds plain files only")
            if not stat.S_ISREG(mode):
                raise FileNotFoundError(name)
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(name) from error
        except OSError as error:
            raise BundleUnavailableError(f"{path}: cannot be read: {error}") from error


class HttpSource:
    """A bundle on a server. `timeout_s` bounds each silence; LEAST_BYTES_PER_S bounds the whole."""

    vouched = False

    def __init__(self, base_url: str, timeout_s: float) -> None:
        self.base_url = base_url
        self.timeout_s = timeout_s

    def chunks(self, name: str) -> Iterator[bytes]:
        # The transfer runs in a thread of its own: name look-up, handshake and headers have no deadline that a call could set.
        transfer = _Transfer(f"{self.base_url}{_safe(name)}", self.timeout_s)
        started, size_bytes = time.monotonic(), 0
        try:
            while True:
                left_s = started + 2 * self.timeout_s + size_bytes / LEAST_BYTES_PER_S - time.monotonic()
                try:
                    item = transfer.items.get(timeout=max(0.0, left_s))
                except queue.Empty:
                    raise BundleUnavailableError(f"{self.base_url}: the server does not answer in time") from None
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                size_bytes += len(item)
                yield item
        finally:
            transfer.abandoned.set()


class _Transfer:
    """One GET in a daemon thread; `items` receives chunks, then None or the error."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.items: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=8)
        self.abandoned = threading.Event()
        self._url = url
        self._timeout_s = timeout_s
        threading.Thread(target=self._run, name="tacit-bundle-fetch", daemon=True).start()

    def _run(self) -> None:
        import http.client

        try:
            with _get(self._url, self._timeout_s) as response:
                expected = response.headers.get("Content-Length", "")
                size_bytes = 0
                while not self.abandoned.is_set() and (chunk := response.read1(CHUNK_BYTES)):
                    size_bytes += len(chunk)
                    self._put(chunk)
            if expected.isdecimal() and size_bytes < int(expected):
                raise BundleUnavailableError(f"{self._url}: the connection broke after {size_bytes} bytes")
            self._put(None)
        except (FileNotFoundError, BundleUnavailableError) as error:
            self._put(error)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._put(BundleUnavailableError(f"{self._url}: cannot be fetched: {error}"))

    def _put(self, item: bytes | Exception | None) -> None:
        while not self.abandoned.is_set():
            try:
                self.items.put(item, timeout=0.2)
                return
            except queue.Full:
                continue


def _get(url: str, timeout_s: float) -> Any:
    import urllib.error
    import urllib.request

    class SameSecurity(urllib.request.HTTPRedirectHandler):
        """Follows a CDN, but never from https to http."""

        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            scheme = urlsplit(newurl).scheme
            if scheme != "https" and not (scheme == "http" and urlsplit(req.full_url).scheme == "http"):
                fp.close()
                raise BundleUnavailableError(f"{url}: the server redirects to {scheme}, which is refused")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = urllib.request.build_opener(SameSecurity)
    opener.addheaders = [("User-Agent", "tacit"), ("Accept", "*/*")]
    try:
        return opener.open(url, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        # 403 is how some object stores say that there is no such file.
        if error.code in (403, 404, 410):
            raise FileNotFoundError(url) from error
        raise BundleUnavailableError(f"{url}: the server answered {error.code}") from error


def _safe(name: str) -> str:
    """Names come from signed metadata, and still nothing may lead out of the bundle."""
    if not is_target_name(name):
        raise BundleTamperedError(f"{name[:120]!r} is not a name of a file in a bundle")
    return name


def read_trust(source: Source) -> bytes | None:
    """The anchor that lies in a bundle; None if there is none."""
    try:
        return read_whole(source, TRUST_FILE, MAX_TRUST_BYTES)
    except FileNotFoundError:
        return None
