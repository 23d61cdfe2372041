"""Capture: events in, and of each only what the schema names and the user allows. Durable on return.

    consent -> size -> what kind -> consent to its purpose -> one error per field -> duplicates -> store -> windows -> triggers

Without consent an event is not looked at beyond its type and name. What is remembered of stored events stands in held_events.py.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from edge_client.know.events import (
    DUPLICATE,
    KEPT,
    NO_CONSENT,
    NOT_IN_SCHEMA,
    OLDEST_S,
    TOO_OLD,
    Captured,
    Draft,
    Event,
    check_size,
    event_type_of,
    read_event,
)
from edge_client.know.held_events import Consents, HeldEvents, Lasting, ObservedProfile
from edge_client.know.quality import Quality
from edge_client.know.store import Records, Store
from edge_client.know.triggers import MOST_WAITING, Firing, Hook, Trigger, Triggers
from shared_models.errors import CaptureBusyError, CaptureError, ConfigError, StoreWriteError
from shared_models.profile import ProfileSchema
from shared_models.purposes import PERSONALISATION

MOST_DROPPED_NAMES = 50
"""Names of dropped fields in one answer."""
SECONDS_BETWEEN_EXPIRIES = 3600.0
REPEAT_CONTEXT_S = 3600.0
"""The same context of one event after the other goes to the profile this often."""

__all__ = ["Capture", "CaptureLimits", "Captured", "Event", "Firing", "Trigger"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptureLimits:
    """Bounds of one capture. Raises ConfigError."""

    most_events: int = 50_000
    """Events kept; when there are a tenth more, the oldest go before their time."""
    most_in_flight: int = 1000
    """Events being captured at one time, by all threads together."""
    most_in_batch: int = 500

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
                raise ConfigError(f"{name} is {value!r}, expected a whole number from 1 to 1000000")


class Capture:
    """The events of one store. Thread-safe. Opening is cheap: stored events are read when they are first needed."""

    def __init__(
        self,
        store: Store,
        schema: ProfileSchema,
        consent: Consents,
        profile: ObservedProfile,
        clock: Callable[[], float],
        limits: CaptureLimits | None = None,
    ) -> None:
        self._store = store
        self._schema = schema
        self._consent = consent
        self._profile = profile
        self._clock = clock
        self._limits = limits or CaptureLimits()
        self._quality = Quality()
        self._triggers = Triggers(schema, self._quality)
        self._admission = threading.Lock()
        self._in_flight = 0
        self._held = HeldEvents(store, schema, consent, clock)
        self._surroundings: dict[str, tuple[Any, float]] = {}
        """Contextual attribute -> what the profile was last told, and of when; as old as generation `_surroundings_of`."""
        self._surroundings_of = 0
        self._next_expiry_s = -math.inf
        self._waiting: list[tuple[Hook, Firing]] = []
        """Hooks to be called when the caller lets the store go; touched by who holds the store only."""

    # -- events in ------------------------------------------------------------------------------------------------

    def receive(self, document: Mapping[str, Any]) -> Captured:
        """Take in one event, in the form of the Segment spec; `type` may also be chat, feedback or context.

        Raises CaptureError (with one message for each field that is wrong), CaptureBusyError (nothing was done: send it again
        later), StoreWriteError (nothing was kept). Hooks run before this returns, unless the caller holds the store.
        """
        with self._admitted(1):
            (answer,), fired = self._take([document])
        self._fire(fired)
        if isinstance(answer, CaptureError):
            raise answer
        return answer

    def receive_batch(self, documents: Sequence[Mapping[str, Any]]) -> list[Captured | CaptureError]:
        """Take in several events by one durable write; what is wrong with one does not keep the others out.

        Raises CaptureError (no list, or too long), CaptureBusyError, StoreWriteError; then nothing of it was kept.
        """
        if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Sequence):
            raise CaptureError({"batch": "expected a list of events"})
        if len(documents) > self._limits.most_in_batch:
            raise CaptureError({"batch": f"{len(documents)} events, at most {self._limits.most_in_batch} are accepted"})
        with self._admitted(len(documents)):
            answers, fired = self._take(documents)
        self._fire(fired)
        return answers

    # -- what is known --------------------------------------------------------------------------------------------

    def events(self, since_s: float | None = None, name: str | None = None) -> list[Event]:
        """Kept events that have not outlived their retention, oldest first; `name` as in the schema."""
        names = None if name is None else (name,)
        with self._store.lock:
            return [one.event for one in self._held.lasting(float(self._clock()), since_s, names)]

    def usable(self, names: Collection[str]) -> list[Lasting]:
        """Those of `events` with these names whose purpose is granted now; what is derived from events is made of these."""
        allowed = cache(self._consent.is_granted)
        with self._store.lock:
            return [one for one in self._held.lasting(float(self._clock()), names=names) if allowed(one.purpose)]

    def still_usable(self, event: Event) -> Lasting | None:
        """`event`, if it is one of `usable` now."""
        with self._store.lock:
            return self._held.usable(event, float(self._clock()))

    def standing(self, names: Collection[str]) -> Hashable:
        """What `usable(names)` gave holds, but for expiry and new events, as long as this stays the same."""
        with self._store.lock:
            return self._held.standing(names)

    def windows(self) -> dict[str, Any]:
        """The features of the sliding and session windows now, as plain JSON: see Windows.document."""
        around = self._is_held()
        with self._store.lock:
            now_s = float(self._clock())
            if not around:
                self._make_room(now_s)
            self._held.rows()
            return self._held.windows.document(now_s)

    def quality(self) -> dict[str, Any]:
        """Counters and the latency histogram, as plain JSON without personal data: see Quality. `stored` is how many events."""
        with self._store.lock:
            self._quality.restore(self._counters())
            stored = sum(map(len, self._held.rows().values()))
        return {**self._quality.document(), "stored": stored}

    def on(self, trigger: Trigger | str, hook: Hook) -> Callable[[], None]:
        """Call `hook` with a Firing whenever `trigger` fires; a text stands for every event of that name, "*" for every event.

        A hook runs after its event is durable and never while the store is held; if it fails, the event stays. Returns what takes
        the hook away. Raises ConfigError.
        """
        return self._triggers.on(trigger, hook)

    # -- what goes ------------------------------------------------------------------------------------------------

    def expire(self, now_s: float) -> int:
        """Erase events that have outlived their retention or that the schema no longer names; returns how many.

        Capturing and looking at the windows do it by themselves once an hour. Not for a transaction that may be undone. Raises
        StoreWriteError.
        """
        if isinstance(now_s, bool) or not isinstance(now_s, int | float) or not math.isfinite(now_s):
            raise ConfigError("now_s: expected Unix time in seconds")
        with self._store.lock:
            gone = [
                (purpose, key)
                for purpose, rows in self._held.rows().items()
                for key, row in rows.items()
                if row.expires_s <= now_s
            ]
            self._held.erase(gone, now_s)
        return len(gone)

    def clear(self, purpose: str | None = None) -> int:
        """Erase all events, or those kept for one purpose; returns how many. For a withdrawal, inside its transaction."""
        with self._store.transaction():
            purposes = [name for name in self._held.purposes if purpose in (None, name)]
            gone = self._held.clear(purposes)
            if PERSONALISATION.name in purposes:
                self._counters().clear()
                self._quality.clear()
        return gone

    # -- inside ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _admitted(self, number: int) -> Iterator[None]:
        started = time.perf_counter()
        with self._admission:
            # A caller who holds the store is what the others wait for.
            if self._in_flight and not self._is_held() and self._in_flight + number > self._limits.most_in_flight:
                self._quality.count("busy", number)
                raise CaptureBusyError(f"{self._in_flight} events are being captured; send this again a little later")
            self._in_flight += number
        try:
            yield
        finally:
            with self._admission:
                self._in_flight -= number
            self._quality.time(1000.0 * (time.perf_counter() - started))

    def _take(
        self, documents: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Captured | CaptureError], list[tuple[Hook, Firing]]]:
        received_s = float(self._clock())
        read: list[Draft | Captured | CaptureError] = []
        allowed = cache(self._consent.is_granted)
        for document in documents:
            self._quality.count("received")
            try:
                read.append(self._read(document, received_s, allowed))
            except CaptureError as error:
                self._quality.count("invalid")
                self._quality.count_names("invalid_fields", error.fields)
                read.append(error)
        if not any(isinstance(item, Draft) for item in read):
            return [item for item in read if not isinstance(item, Draft)], []
        around = self._is_held()
        with self._store.lock:
            answers, kept = self._keep(read)
            fired = self._note(kept, received_s)
            if not around:
                # Not inside a caller's transaction, which may be undone.
                self._make_room(received_s)
        return answers, fired

    def _read(self, document: Mapping[str, Any], received_s: float, allowed: Callable[[str], bool]) -> Draft | Captured:
        check_size(document)
        kind, event_type = event_type_of(document, self._schema)
        given = document.get("messageId")
        message_id = given if isinstance(given, str) else ""
        if event_type is None:
            self._quality.count("not_in_schema")
            return Captured(False, NOT_IN_SCHEMA, message_id)
        # Before anything else of it is looked at; looked at again where it is kept.
        if not allowed(event_type.purpose):
            self._quality.count("no_consent")
            return Captured(False, NO_CONSENT, message_id)
        draft = read_event(document, kind, event_type, self._schema, received_s)
        self._quality.count_names("dropped", draft.kept.dropped)
        self._quality.count_names("missing", (f"{event_type.name}.{name}" for name in draft.kept.missing))
        if draft.at_s < received_s - OLDEST_S or draft.expires_s <= received_s:
            self._quality.count("too_old")
            return Captured(False, TOO_OLD, draft.message_id, draft.kept.dropped[:MOST_DROPPED_NAMES])
        if draft.skewed:
            self._quality.count("skewed")
        return draft

    def _keep(
        self, read: Sequence[Draft | Captured | CaptureError]
    ) -> tuple[list[Captured | CaptureError], list[tuple[Draft, str]]]:
        """Store the drafts by one durable write; returns the answers, and what was stored with its keys."""
        answers: list[Captured | CaptureError] = []
        kept: list[tuple[Draft, str]] = []
        counts = {"kept": 0, "duplicates": 0, "no_consent": 0, "too_old": 0}
        self._held.rows()
        if self._surroundings_of != self._held.generation:
            self._surroundings, self._surroundings_of = {}, self._held.generation
        self._quality.restore(self._counters())
        with self._store.transaction():
            # The store is held: no consent changes from here on.
            allowed = cache(self._consent.is_granted)
            fresh: set[str] = set()
            surroundings = dict(self._surroundings)
            for item in read:
                if not isinstance(item, Draft):
                    answers.append(item)
                    continue
                dropped = item.kept.dropped[:MOST_DROPPED_NAMES]
                if item.id in self._held.seen or item.id in fresh:
                    counts["duplicates"] += 1
                    answers.append(Captured(False, DUPLICATE, item.message_id, dropped))
                    continue
                if not allowed(item.kind.purpose):
                    counts["no_consent"] += 1
                    answers.append(Captured(False, NO_CONSENT, item.message_id))
                    continue
                if len(self._held.seen) >= self._limits.most_events and item.at_s < self._held.oldest_s:
                    # It would be the first to go, or was: an event that was there once does not come back.
                    counts["too_old"] += 1
                    answers.append(Captured(False, TOO_OLD, item.message_id, dropped))
                    continue
                fresh.add(item.id)
                kept.append((item, self._held.table(item.kind.purpose).append(item.record())))
                counts["kept"] += 1
                self._tell_profile(item, surroundings, allowed)
                answers.append(Captured(True, KEPT, item.message_id, dropped))
            self._quality.keep(self._counters(), len(kept))
        self._surroundings = surroundings
        for counter, number in counts.items():
            self._quality.count(counter, number)
        return answers, kept

    def _tell_profile(
        self, draft: Draft, surroundings: dict[str, tuple[Any, float]], allowed: Callable[[str], bool]
    ) -> None:
        provenance = f"event:{draft.kind.name}"
        for name, value in draft.attributes.items():
            attribute = self._schema.attributes[name]
            if allowed(attribute.purpose):
                # An app that infers does not do so by identify: what it says there is what it has seen.
                source = "observed" if attribute.source == "inferred" else attribute.source
                self._profile.observe(name, value, source=source, at_s=draft.at_s, provenance=provenance)
        for name, value in draft.surroundings.items():
            before, at_s = surroundings.get(name, (None, -math.inf))
            if before == value and draft.at_s < at_s + REPEAT_CONTEXT_S:
                continue
            if allowed(self._schema.attributes[name].purpose):
                self._profile.observe(name, value, source="context", at_s=draft.at_s, provenance=provenance)
                surroundings[name] = (value, draft.at_s)

    def _note(self, kept: Sequence[tuple[Draft, str]], now_s: float) -> list[tuple[Hook, Firing]]:
        """Take what is durable into memory; returns which hooks are to be called."""
        fired: list[tuple[Hook, Firing]] = []
        for draft, key in kept:
            newest_s = self._held.windows.newest_s
            if newest_s is not None and draft.at_s < newest_s:
                self._quality.count("late")
            before_s = self._held.windows.last(draft.kind.name)
            event = self._held.note(draft, key)
            fired += self._triggers.match(event, before_s, self._held.windows, now_s)
        return fired

    def _fire(self, fired: list[tuple[Hook, Firing]]) -> None:
        if not fired:
            return
        if not self._is_held():
            self._triggers.run(fired)
            return
        # The caller holds the store, perhaps in a transaction that is undone later: hooks wait until it lets go.
        room = MOST_WAITING - len(self._waiting)
        self._quality.count("hook_failures", max(0, len(fired) - room))
        first = not self._waiting
        self._waiting += fired[:room]
        if first:
            threading.Thread(target=self._fire_later, name="tacit-triggers", daemon=True).start()

    def _is_held(self) -> bool:
        """True if this thread holds the store."""
        return bool(self._store.lock._is_owned())  # type: ignore[attr-defined]

    def _fire_later(self) -> None:
        with self._store.lock:
            waiting, self._waiting = self._waiting, []
            if self._store.closed:
                return
            rows = self._held.rows()
            purposes = {name: event.purpose for name, event in self._schema.events.items()}
            stored = [item for item in waiting if item[1].event.key in rows[purposes[item[1].event.name]]]
        self._triggers.run(stored)

    def _make_room(self, now_s: float) -> None:
        """Hourly expiry, and the bound on the number of events. The event is kept already: a full disk must not raise here."""
        try:
            if now_s >= self._next_expiry_s or now_s < self._next_expiry_s - SECONDS_BETWEEN_EXPIRIES:
                self._next_expiry_s = now_s + SECONDS_BETWEEN_EXPIRIES
                self.expire(now_s)
            # A tenth at a time, so that making the windows anew costs each event a constant.
            surplus = len(self._held) - self._limits.most_events
            if surplus > self._limits.most_events // 10:
                rows = self._held.rows()
                oldest = sorted(
                    (row.at_s, purpose, key) for purpose, table in rows.items() for key, row in table.items()
                )
                self._held.erase([(purpose, key) for _, purpose, key in oldest[:surplus]], now_s)
                self._quality.count("trimmed", surplus)
        except StoreWriteError as error:
            _log.warning("old events could not be erased: %s", type(error).__name__)

    def _counters(self) -> Records:
        return self._store.table("capture-quality", purpose=PERSONALISATION.name)
