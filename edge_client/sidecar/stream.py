"""Server-sent events (WHATWG HTML, section 9.2), as it happens: triggers and deliveries for every app that listens, decisions for
the app that they were made in.

Whoever reads too slowly loses the oldest events and is told how many. The last few can be had again with `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared_models.errors import LimitError

DECISION, TRIGGER, DELIVERY = "decision", "trigger", "delivery"
MAX_LISTENERS = 32
MAX_WAITING = 256
REMEMBERED = 64
HEARTBEAT_S = 15.0


@dataclass(frozen=True)
class Sent:
    """One event of the stream."""

    number: int
    kind: str
    data: str
    to: str | None
    """The app that it is for; None: all."""

    def text(self) -> str:
        return f"id: {self.number}\nevent: {self.kind}\ndata: {self.data}\n\n"


@dataclass(eq=False)
class _Listener:
    loop: asyncio.AbstractEventLoop
    arrived: asyncio.Event
    app: str | None
    waiting: deque[Sent] = field(default_factory=deque)
    lost: int = 0

    def hears(self, sent: Sent) -> bool:
        return sent.to is None or sent.to == self.app


class Hub:
    """Published from any thread; listened to in the server's loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[_Listener] = []
        self._recent: deque[Sent] = deque(maxlen=REMEMBERED)
        self._number = 0
        self._generation = 0
        self._closed = False
        self._also: list[Callable[[], None]] = []

    @property
    def listeners(self) -> int:
        with self._lock:
            return len(self._listeners)

    @property
    def is_heard(self) -> bool:
        """Whether what is published now reaches somebody, as far as can be known."""
        with self._lock:
            return bool(self._listeners) and not self._closed

    @property
    def generation(self) -> int:
        """Another one after each `forget`: take it before work that publishes what it found."""
        with self._lock:
            return self._generation

    def publish(self, kind: str, data: Mapping[str, Any], *, since: int | None = None, to: str | None = None) -> None:
        """Give `data` to everybody who listens, or to the app `to` alone; never waits.

        Dropped if `since`, the generation when it began, is over.
        """
        text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=str)
        with self._lock:
            if since is not None and since != self._generation:
                return
            self._number += 1
            sent = Sent(self._number, kind, text, to)
            self._recent.append(sent)
            for listener in self._listeners:
                if not listener.hears(sent):
                    continue
                if len(listener.waiting) >= MAX_WAITING:
                    listener.waiting.popleft()
                    listener.lost += 1
                listener.waiting.append(sent)
                _wake(listener)

    def also_forget(self, forget: Callable[[], None]) -> None:
        """`forget` is called whenever this hub forgets: whoever else keeps words of the user's in memory."""
        self._also.append(forget)

    def forget(self) -> None:
        """Drop what could be had again, and what is under way: called when the user erases, withdraws, objects or restricts."""
        with self._lock:
            self._generation += 1
            self._recent.clear()
            for listener in self._listeners:
                listener.waiting.clear()
        for forget in self._also:
            forget()

    def close(self) -> None:
        """End every stream; the server is about to stop."""
        with self._lock:
            self._closed = True
            for listener in self._listeners:
                _wake(listener)

    def listen(self, after: int | None = None, *, app: str | None = None) -> AsyncIterator[str]:
        """The stream of `app` as text, from event `after` on if it is still remembered; without `app` what is for all.

        Raises LimitError at once if too many listen.
        """
        listener = _Listener(asyncio.get_running_loop(), asyncio.Event(), app)
        with self._lock:
            if len(self._listeners) >= MAX_LISTENERS:
                raise LimitError(f"{MAX_LISTENERS} streams are open already", 429, 5.0)
            if after is not None:
                listener.waiting.extend(sent for sent in self._recent if sent.number > after and listener.hears(sent))
            self._listeners.append(listener)
        return self._texts(listener)

    async def _texts(self, listener: _Listener) -> AsyncIterator[str]:
        try:
            yield "retry: 2000\n: listening\n\n"
            while not self._closed:
                with self._lock:
                    waiting, listener.waiting = listener.waiting, deque()
                    lost, listener.lost = listener.lost, 0
                    listener.arrived.clear()
                if lost:
                    yield f": {lost} events were lost, you read too slowly\n\n"
                for sent in waiting:
                    yield sent.text()
                try:
                    await asyncio.wait_for(listener.arrived.wait(), HEARTBEAT_S)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            with self._lock:
                self._listeners.remove(listener)


def _wake(listener: _Listener) -> None:
    try:
        listener.loop.call_soon_threadsafe(listener.arrived.set)
    except RuntimeError:
        # Its loop has ended, and the stream with it.
        return
