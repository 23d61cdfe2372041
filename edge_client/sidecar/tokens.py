"""Who may call the sidecar: one token per app, made by `tacit-device serve --app NAME`, kept as a hash in a private file.

HOME/sidecar/apps.json (0600) holds names, hashes, web origins and scopes; nothing of the user's. Tokens are 256 random bits, so a
plain SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import threading
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_client.platform import open_to_others, private_folder, write_atomically
from shared_models.canonical import parse_document
from shared_models.errors import ConfigError, StoreWriteError, WireError

FOLDER = "sidecar"
FILE_NAME = "apps.json"
TOKEN_PREFIX = "tacit_"
MAX_APPS = 64
MAX_ORIGINS = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}\Z")

CAPTURE = "capture"
DECIDE = "decide"
RIGHTS = "rights"
SCOPES = {
    CAPTURE: "send events and feedback",
    DECIDE: "chat, features, decisions, the stream of triggers",
    RIGHTS: "read and correct what is known, export, consents, a link to the privacy centre",
}
DEFAULT_SCOPES = (CAPTURE, DECIDE)


@dataclass(frozen=True)
class App:
    """One app that may call."""

    name: str
    token_sha256: str
    origins: tuple[str, ...]
    """Web origins from which its pages may call; none: no page may."""
    scopes: frozenset[str]

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "token_sha256": self.token_sha256,
            "origins": list(self.origins),
            "scopes": sorted(self.scopes),
        }


class Apps:
    """The registry of one home. A running sidecar sees a new app at its next request."""

    def __init__(self, home: Path) -> None:
        """Raises ConfigError if the file cannot be used."""
        self._path = home / FOLDER / FILE_NAME
        self._lock = threading.Lock()
        self._read_stamp: tuple[int, int, int] | None = None
        self._apps: dict[str, App] = {}
        self._refresh()

    def register(self, name: str, origins: Iterable[str] = (), scopes: Iterable[str] = DEFAULT_SCOPES) -> str:
        """Make the token of `name`, an app that is new or gets another token; it is shown once and cannot be read again.

        Raises ConfigError, StoreWriteError.
        """
        if not _NAME.match(name):
            raise ConfigError(f"an app is named by up to 40 of a-z 0-9 . _ -, not {name[:60]!r}")
        granted = frozenset(scopes)
        if not granted or not granted <= set(SCOPES):
            raise ConfigError(f"scopes are some of {', '.join(SCOPES)}, not {', '.join(sorted(granted))[:100]!r}")
        cleaned = tuple(dict.fromkeys(clean_origin(origin) for origin in origins))
        if len(cleaned) > MAX_ORIGINS:
            raise ConfigError(f"{len(cleaned)} origins, at most {MAX_ORIGINS} are kept for an app")
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with self._lock:
            self._refresh()
            if name not in self._apps and len(self._apps) >= MAX_APPS:
                raise ConfigError(f"there are {MAX_APPS} apps already; remove one first")
            self._apps = {**self._apps, name: App(name, _hash(token), cleaned, granted)}
            self._write()
        return token

    def remove(self, name: str) -> bool:
        """Its token is worthless from now on; True if it was there. Raises StoreWriteError."""
        with self._lock:
            self._refresh()
            if name not in self._apps:
                return False
            self._apps = {known: app for known, app in self._apps.items() if known != name}
            self._write()
            return True

    def find(self, token: str) -> App | None:
        """The app that holds `token`. The time that it takes tells nothing about any token."""
        given = _hash(token)
        found = None
        for app in self.all():
            if hmac.compare_digest(app.token_sha256, given):
                found = app
        return found

    def all(self) -> tuple[App, ...]:
        with self._lock:
            self._refresh()
            return tuple(self._apps.values())

    def origins(self) -> frozenset[str]:
        """All origins from which some app's pages may call."""
        return frozenset(origin for app in self.all() for origin in app.origins)

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._read_stamp:
                return
            if open_to_others(self._path):
                raise ConfigError(f"{self._path}: other users may read or change it; make it private (mode 0600)")
            self._apps = _parsed(self._path.read_bytes(), self._path)
            self._read_stamp = stamp
        except FileNotFoundError:
            self._apps, self._read_stamp = {}, None
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be read: {error.strerror or error}") from error

    def _write(self) -> None:
        document = {"format": 1, "apps": [app.document() for app in self._apps.values()]}
        private_folder(self._path.parent)
        try:
            write_atomically(self._path, json.dumps(document, indent=1).encode(), "sidecar")
        except OSError as error:
            self._read_stamp = None
            raise StoreWriteError(f"{self._path}: cannot be written: {error.strerror or error}") from error
        status = self._path.stat()
        self._read_stamp = (status.st_mtime_ns, status.st_size, status.st_ino)


def clean_origin(origin: str) -> str:
    """An origin as browsers send it (RFC 6454, section 6.2): scheme://host[:port]. Raises ConfigError."""
    parts = urllib.parse.urlsplit(origin.strip())
    try:
        port = parts.port
    except ValueError:
        port = -1
    whole = parts.scheme and parts.hostname and not parts.username and parts.path in ("", "/")
    if not whole or port == -1 or parts.query or parts.fragment or "*" in origin:
        raise ConfigError(
            f"{origin[:80]!r} is no origin; expected scheme://host[:port], for example https://app.example"
        )
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    standard = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{shown}" + ("" if port in (None, standard) else f":{port}")


def _parsed(raw: bytes, path: Path) -> dict[str, App]:
    try:
        document = parse_document(raw, limit_bytes=1 << 20)
        apps = {}
        for entry in document["apps"]:
            app = App(
                str(entry["name"]),
                str(entry["token_sha256"]),
                tuple(str(origin) for origin in entry["origins"]),
                frozenset(str(scope) for scope in entry["scopes"]),
            )
            if len(bytes.fromhex(app.token_sha256)) != 32:
                raise ValueError("a token's hash has 64 hexadecimal digits")
            apps[app.name] = app
        return apps
    except (WireError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a list of apps ({error}); remove it and register them again") from error


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
