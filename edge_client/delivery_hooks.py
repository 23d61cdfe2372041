"""The app's side of a delivery: what it shows by which channel. Its code may raise or hang; here it costs no more than
a little time.

A hook runs in a thread of its own, outside every lock of ours. A channel whose hook hangs is not used again until that
hook returns, so that there are never more threads than channels.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from edge_client.decide.receptive_hours import CHANNELS
from shared_models.errors import ConfigError

READY_TIMEOUT_S = 1.0
HOOK_TIMEOUT_S = 5.0
Carried = Literal["marked", "shown", "failed", "hung"]
"""`marked`: kept as delivered, and the app not called yet; whoever is killed there has delivered it for all that
follows.
"""

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Delivered:
    """One message, as the app shows it."""

    id: str
    """What `outcome` takes."""
    follow_up: str
    """Id of the plan."""
    topic: str
    place: str
    channel: str
    title: str
    """A few words, for a notification's first line."""
    text: str
    why: str
    """Why it comes, in words to be shown to the user."""
    language: str
    at_s: float
    carried: Carried = "marked"

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


Hook = Callable[[Delivered], object]


class Hooks:
    """What the app has registered. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hooks: dict[str, tuple[Hook, Callable[[], bool] | None]] = {}
        self._listeners: list[Hook] = []
        self._busy: dict[str, threading.Thread] = {}

    def register(self, channel: str, hook: Hook, ready: Callable[[], bool] | None) -> None:
        """Replaces an earlier hook of the channel. Raises ConfigError."""
        if channel not in CHANNELS or not callable(hook) or not (ready is None or callable(ready)):
            raise ConfigError(f"expected a channel ({', '.join(CHANNELS)}) and functions, got {str(channel)[:40]!r}")
        with self._lock:
            self._hooks[channel] = hook, ready

    def unregister(self, channel: str) -> bool:
        with self._lock:
            return self._hooks.pop(channel, None) is not None

    def listen(self, listener: Hook) -> Callable[[], None]:
        """Tell `listener` after every delivery; returns what ends that. Raises ConfigError."""
        if not callable(listener):
            raise ConfigError("expected a function that takes a delivery")
        with self._lock:
            self._listeners.append(listener)
        return lambda: self._forget(listener)

    def ready(self) -> list[str]:
        """Channels that can show something now. What `ready` raises, or leaves unsaid for a second, is a no."""
        with self._lock:
            asked = dict(self._hooks)
        return [channel for channel, (_, ready) in asked.items() if self._is_ready(channel, ready)]

    def carry(self, message: Delivered) -> Carried:
        """Call the hook of the message's channel, at most HOOK_TIMEOUT_S."""
        with self._lock:
            hook, _ = self._hooks.get(message.channel, (None, None))
        if hook is None:
            # Unregistered between the choice and now.
            return "failed"
        return self._bounded(message.channel, lambda: hook(message), HOOK_TIMEOUT_S)[0]

    def tell(self, message: Delivered) -> None:
        """Call the listeners, one after the other, together at most HOOK_TIMEOUT_S."""
        with self._lock:
            listeners = list(self._listeners)
        if listeners:
            self._bounded("listeners", lambda: _call_all(listeners, message), HOOK_TIMEOUT_S)

    def ask(self, call: Callable[[], _Result]) -> tuple[bool, _Result | None]:
        """(True, what `call` says), or (False, None) if it raises or hangs."""
        state, answer = self._bounded("facts", call, HOOK_TIMEOUT_S)
        return state == "shown", answer

    def _forget(self, listener: Hook) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def _is_ready(self, channel: str, ready: Callable[[], bool] | None) -> bool:
        if self._is_busy(channel):
            return False
        if ready is None:
            return True
        state, answer = self._bounded(channel, ready, READY_TIMEOUT_S)
        return state == "shown" and answer is True

    def _is_busy(self, name: str) -> bool:
        with self._lock:
            thread = self._busy.get(name)
            return thread is not None and thread.is_alive()

    def _bounded(self, name: str, call: Callable[[], _Result], timeout_s: float) -> tuple[Carried, _Result | None]:
        done: list[_Result] = []

        def run() -> None:
            try:
                done.append(call())
            # The app's code, in a thread of its own: nothing of it may end ours.
            except BaseException as error:  # noqa: BLE001
                _log.warning("delivery by %s: the app's function failed: %s", name, type(error).__name__)

        thread = threading.Thread(target=run, name=f"tacit-delivery-{name}", daemon=True)
        with self._lock:
            before = self._busy.get(name)
        if before is not None:
            before.join(timeout_s)
        with self._lock:
            known = self._busy.get(name)
            if known is not None and known.is_alive():
                _log.warning("delivery by %s: the app's function is still at the one before", name)
                return "failed", None
            self._busy[name] = thread
            try:
                thread.start()
            except RuntimeError as error:
                del self._busy[name]
                _log.warning("delivery by %s: no thread: %s", name, error)
                return "failed", None
        thread.join(timeout_s)
        if thread.is_alive():
            _log.warning("delivery by %s: the app's function has not returned within %g s", name, timeout_s)
            return "hung", None
        return ("shown", done[0]) if done else ("failed", None)


def _call_all(listeners: Iterable[Hook], message: Delivered) -> None:
    for listener in listeners:
        try:
            listener(message)
        except Exception as error:  # noqa: BLE001 - one listener's failure is not the others'
            _log.warning("a listener of deliveries failed: %s", type(error).__name__)
