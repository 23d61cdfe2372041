"""Real-time triggers: declared conditions on an event and on the windows, and the hooks that fire when they hold.

A condition names one feature:

    event.name, event.type, event.properties.NAME      the event that has just been kept
    count.NAME.WINDOW      events called NAME in WINDOW (1h, 24h, 7d, 30d)
    since_last.NAME        seconds since the event called NAME before this one
    session.events, session.views, session.duration_s  the session that is on
    dwell.PAGE             seconds on a page or screen in the last 30 days
    funnel.NAME.step, funnel.NAME.completed

A feature that is not there, or of another type than the value it is compared with, makes a condition false, never an error.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_client.know.events import Event
from edge_client.know.quality import Quality
from edge_client.know.windows import SLIDING, Windows
from shared_models.errors import ConfigError
from shared_models.profile import ProfileSchema, canonical_name

OPERATORS = ("==", "!=", ">", ">=", "<", "<=", "in")
MOST_CONDITIONS = 16
MOST_HOOKS = 200
MOST_NESTED = 4
"""A hook may capture an event that fires a hook, this deep."""

MOST_LATE_S = 900.0
"""An event that arrives later than this after it happened fires nothing: nobody is there any more, or it was imported."""
MOST_WAITING = 1000
"""Firings that wait for a caller who holds the store; further ones are not called, and counted."""

_SESSION = ("active", "events", "views", "duration_s")
_EVENT = ("name", "type")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Condition:
    """One comparison. Raises ConfigError for a feature, operator or value that cannot be."""

    feature: str
    operator: str
    value: Any
    """A text, a finite number or a truth value; for `in` a list of them."""

    def __post_init__(self) -> None:
        parts = tuple(self.feature.split(".")) if isinstance(self.feature, str) else ()
        match parts:
            case ("event", name) if name in _EVENT:
                pass
            case ("event", "properties", name) if name:
                pass
            case ("count", name, window) if name and window in SLIDING:
                pass
            case ("session", name) if name in _SESSION:
                pass
            case ("since_last", name) if name:
                pass
            case ("dwell", *page) if page:
                pass
            case ("funnel", name, part) if name and part in ("step", "completed"):
                pass
            case _:
                raise ConfigError(f"{str(self.feature)[:80]!r} is not a feature that a trigger can name")
        if self.operator not in OPERATORS:
            raise ConfigError(f"{str(self.operator)[:20]!r} is not one of {' '.join(OPERATORS)}")
        several = isinstance(self.value, list | tuple)
        values = list(self.value) if several else [self.value]
        if several != (self.operator == "in") or len(values) > MOST_HOOKS or not all(map(_is_scalar, values)):
            raise ConfigError(
                f"{self.feature} {self.operator}: expected a text, a finite number or a truth value, and a list of them for `in`"
            )

    def holds(self, found: Any) -> bool:
        """True if the feature's value `found` satisfies this; None never does."""
        if found is None:
            return False
        if self.operator == "in":
            return any(_alike(found, value) and found == value for value in self.value)
        if self.operator == "!=":
            return not (_alike(found, self.value) and found == self.value)
        if not _alike(found, self.value):
            return False
        if self.operator == "==":
            return bool(found == self.value)
        if isinstance(found, bool):
            return False
        return bool(
            {">": found > self.value, ">=": found >= self.value, "<": found < self.value, "<=": found <= self.value}[
                self.operator
            ]
        )


@dataclass(frozen=True)
class Trigger:
    """All conditions together, looked at with each event that is kept. Raises ConfigError."""

    name: str
    conditions: tuple[Condition, ...] = ()
    events: tuple[str, ...] = ()
    """Names of the events with which it is looked at; () is every event."""
    cooldown_s: float = 0.0
    """It does not fire again for so long."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= 100:
            raise ConfigError("a trigger needs a name of at most 100 characters")
        if len(self.conditions) > MOST_CONDITIONS or not all(isinstance(c, Condition) for c in self.conditions):
            raise ConfigError(f"trigger {self.name!r}: expected at most {MOST_CONDITIONS} conditions")
        if not isinstance(self.events, tuple) or not all(isinstance(name, str) for name in self.events):
            raise ConfigError(f"trigger {self.name!r}: events: expected names of events")
        cooldown = self.cooldown_s
        if isinstance(cooldown, bool) or not isinstance(cooldown, int | float) or not 0 <= cooldown < math.inf:
            raise ConfigError(f"trigger {self.name!r}: cooldown_s: expected seconds from 0")

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Trigger:
        """From plain JSON: {"name": …, "events": […], "conditions": [[FEATURE, OPERATOR, VALUE], …], "cooldown_s": …}."""
        if not isinstance(document, Mapping) or set(document) - {"name", "events", "conditions", "cooldown_s"}:
            raise ConfigError("expected a trigger with name, events, conditions and cooldown_s")
        conditions, events = document.get("conditions", []), document.get("events", [])
        if not isinstance(conditions, list | tuple) or not isinstance(events, list | tuple):
            raise ConfigError("events and conditions of a trigger are lists")
        if not all(isinstance(row, list | tuple) and len(row) == 3 for row in conditions):
            raise ConfigError("a condition is a list of feature, operator and value")
        return cls(
            document.get("name", ""),
            tuple(Condition(*row) for row in conditions),
            tuple(events),
            document.get("cooldown_s", 0.0),
        )


@dataclass(frozen=True)
class Firing:
    """A trigger has fired."""

    trigger: str
    event: Event
    values: Mapping[str, Any]
    """Feature -> the value that satisfied the condition."""

    def document(self) -> dict[str, Any]:
        """As plain JSON, for a stream or a log of decisions."""
        return {"trigger": self.trigger, "event": self.event.document(), "values": dict(self.values)}


Hook = Callable[[Firing], object]


@dataclass
class _Entry:
    trigger: Trigger
    hook: Hook
    quiet_until_s: float = -math.inf


class Triggers:
    """The hooks of one capture. Thread-safe, and free of the store: `match` and `run` are called by Capture."""

    def __init__(self, schema: ProfileSchema, quality: Quality) -> None:
        self._schema = schema
        self._quality = quality
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._running = threading.local()

    def on(self, trigger: Trigger | str, hook: Hook) -> Callable[[], None]:
        """Call `hook` whenever `trigger` fires; a text stands for every event of that name, "*" for every event.

        Returns what takes the hook away again. Raises ConfigError, among others for an event or funnel that the schema does
        not name.
        """
        if isinstance(trigger, str):
            trigger = Trigger(trigger) if trigger == "*" else Trigger(trigger, events=(canonical_name(trigger),))
        if not isinstance(trigger, Trigger) or not callable(hook):
            raise ConfigError("expected a Trigger (or the name of an event) and a function")
        named = list(trigger.events)
        for condition in trigger.conditions:
            kind, _, rest = condition.feature.partition(".")
            if kind in ("count", "since_last"):
                named.append(rest.partition(".")[0])
            if kind == "funnel" and rest.partition(".")[0] not in self._schema.funnels:
                raise ConfigError(f"trigger {trigger.name!r}: the schema names no funnel {rest.partition('.')[0]!r}")
        if unknown := [name for name in named if name not in self._schema.events]:
            raise ConfigError(f"trigger {trigger.name!r}: the schema names no event {unknown[0]!r}")
        entry = _Entry(trigger, hook)
        with self._lock:
            if len(self._entries) >= MOST_HOOKS:
                raise ConfigError(f"at most {MOST_HOOKS} hooks; take one away first")
            self._entries.append(entry)

        def off() -> None:
            with self._lock:
                if entry in self._entries:
                    self._entries.remove(entry)

        return off

    def match(self, event: Event, before_s: float | None, windows: Windows, now_s: float) -> list[tuple[Hook, Firing]]:
        """What fires with `event`, which `windows` has taken in. `before_s`: when the last event of its name before it was."""
        fired: list[tuple[Hook, Firing]] = []
        if now_s - event.at_s > MOST_LATE_S:
            return fired
        with self._lock:
            entries = list(self._entries)
        for entry in entries:
            trigger = entry.trigger
            if (trigger.events and event.name not in trigger.events) or now_s < entry.quiet_until_s:
                continue
            values: dict[str, Any] = {}
            for condition in trigger.conditions:
                values[condition.feature] = _feature(condition.feature, event, before_s, windows, now_s)
                if not condition.holds(values[condition.feature]):
                    break
            else:
                entry.quiet_until_s = now_s + trigger.cooldown_s if trigger.cooldown_s else -math.inf
                fired.append((entry.hook, Firing(trigger.name, event, values)))
        return fired

    def run(self, fired: Sequence[tuple[Hook, Firing]]) -> None:
        """Call the hooks, one after the other. One that fails is counted and told, and stops nothing."""
        depth = getattr(self._running, "depth", 0)
        for hook, firing in fired:
            self._quality.count("firings")
            if depth >= MOST_NESTED:
                self._quality.count("hook_failures")
                _log.warning(
                    "a hook of trigger %r was not called: hooks fire hooks more than %d deep", firing.trigger, depth
                )
                continue
            self._running.depth = depth + 1
            try:
                hook(firing)
            except Exception as error:  # noqa: BLE001 - the app's code; the event is kept whatever happens in it
                self._quality.count("hook_failures")
                _log.warning("a hook of trigger %r failed: %s", firing.trigger, type(error).__name__)
            finally:
                self._running.depth = depth


def _feature(feature: str, event: Event, before_s: float | None, windows: Windows, now_s: float) -> Any:
    kind, _, rest = feature.partition(".")
    if kind == "event":
        if rest.startswith("properties."):
            return event.properties.get(rest.removeprefix("properties."))
        return event.name if rest == "name" else event.type
    if kind == "count":
        name, window = rest.split(".")
        return windows.count(name, window, now_s)
    if kind == "since_last":
        if rest != event.name:
            return windows.recency(rest, now_s)
        return None if before_s is None else max(0.0, now_s - before_s)
    if kind == "session":
        return windows.session(now_s)[rest]
    if kind == "dwell":
        return windows.dwell(now_s).get(rest, 0.0)
    name, part = rest.split(".")
    return windows.funnel(name, now_s)[part]


def _is_scalar(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int)


def _alike(one: Any, other: Any) -> bool:
    """True for two texts, two numbers or two truth values."""
    if isinstance(one, bool) or isinstance(other, bool):
        return isinstance(one, bool) and isinstance(other, bool)
    if isinstance(one, int | float):
        return isinstance(other, int | float)
    return isinstance(one, str) and isinstance(other, str)
