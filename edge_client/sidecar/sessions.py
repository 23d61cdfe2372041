"""Who sits before the privacy centre and the chat page: one-time links, sessions, and the tokens that its forms carry (CSRF).

A cookie of a host is sent to every port of it, so another program's page on this machine could be sent ours. Therefore each
session lives under a random path, which its cookie names: without the path no browser sends the cookie, and without the cookie
the path opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared_models.errors import AccessError

COOKIE = "tacit-centre"
LINK_LIFE_S = 600.0
IDLE_LIFE_S = 1800.0
WHOLE_LIFE_S = 8 * 3600.0
MAX_LINKS = 8
MAX_SESSIONS = 8
MOST_TURNS = 50


@dataclass
class Session:
    """One open privacy centre, with the chat page."""

    place: str
    """The random part of its path."""
    cookie_sha256: str
    csrf: str
    opened_s: float
    seen_s: float
    turns: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_TURNS), repr=False)
    """What was said on the chat page, for when it is loaded again."""
    reactions: dict[str, str] = field(default_factory=dict, repr=False)
    """By decision."""
    generation: int = field(default=0, repr=False)
    """Another one whenever words were forgotten."""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def keep(
        self, generation: int, *, turn: dict[str, Any] | None = None, reaction: tuple[str, str] | None = None
    ) -> None:
        """Keep a turn, or a reaction to a decision, unless words were forgotten since `generation`."""
        with self.lock:
            if generation == self.generation:
                self.turns.extend(() if turn is None else (turn,))
                self.reactions.update(() if reaction is None else (reaction,))

    def forget_words(self) -> None:
        """What was said is gone, and what is under way is not kept."""
        with self.lock:
            self.generation += 1
            self.turns.clear()
            self.reactions.clear()


class Sessions:
    """In memory only: a restart of the sidecar ends them all. Thread-safe; `clock` is monotonic, seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._links: dict[str, float] = {}
        self._sessions: dict[str, Session] = {}

    def new_link(self) -> str:
        """The code of a link that works once, within ten minutes."""
        code = secrets.token_urlsafe(32)
        with self._lock:
            self._links[_hash(code)] = self._clock() + LINK_LIFE_S
            while len(self._links) > MAX_LINKS:
                self._links.pop(next(iter(self._links)))
        return code

    def open(self, code: str) -> tuple[Session, str]:
        """Use a link up; returns the session and its cookie's value. Raises AccessError."""
        with self._lock:
            until_s = self._links.pop(_hash(code), None)
            now_s = self._clock()
            if until_s is None or now_s > until_s:
                raise AccessError("this link was used already, or is too old; ask for another one", 403)
            cookie = secrets.token_urlsafe(32)
            session = Session(secrets.token_urlsafe(18), _hash(cookie), secrets.token_urlsafe(32), now_s, now_s)
            for place in [place for place, other in self._sessions.items() if _over(other, now_s)]:
                del self._sessions[place]
            self._sessions[session.place] = session
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.pop(next(iter(self._sessions)))
            return session, cookie

    def find(self, place: str, cookie: str | None) -> Session:
        """The session of a request. Raises AccessError."""
        with self._lock:
            session, now_s = self._sessions.get(place), self._clock()
            if session is not None and _over(session, now_s):
                del self._sessions[place]
                session = None
            if session is None or not hmac.compare_digest(session.cookie_sha256, _hash(cookie or "")):
                raise AccessError("the privacy centre is closed here; open it with a new link", 403)
            session.seen_s = now_s
            return session

    def check_form(self, session: Session, given: str | None) -> None:
        """Raises AccessError unless the form carries the session's token."""
        if not hmac.compare_digest(session.csrf.encode(), (given or "").encode("utf-8", "replace")):
            raise AccessError("this form is not from an open page of the privacy centre", 403)

    def close(self, session: Session) -> None:
        with self._lock:
            self._sessions.pop(session.place, None)

    def forget_words(self) -> None:
        """What was said on the chat pages is gone; the sessions stay."""
        with self._lock:
            for session in self._sessions.values():
                session.forget_words()

    def close_all(self) -> None:
        with self._lock:
            self._sessions.clear()
            self._links.clear()


def _over(session: Session, now_s: float) -> bool:
    return now_s - session.seen_s > IDLE_LIFE_S or now_s - session.opened_s > WHOLE_LIFE_S


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
