"""The stored events with what is remembered of them in memory: rows, ids seen, windows.

All of that can be made anew from the store at any time, and is whenever the two do not agree: after opening, after a withdrawal
of consent, and after a transaction around a call that was undone. Not thread-safe: Capture holds the store's lock.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from edge_client.know.events import Draft, Event, expiry
from edge_client.know.store import Records, Store
from edge_client.know.windows import Windows
from shared_models.profile import ProfileSchema
from shared_models.purposes import PERSONALISATION, PURPOSES


class Consents(Protocol):
    """What capture needs to know of the user's consents."""

    def is_granted(self, purpose: str) -> bool: ...


class ObservedProfile(Protocol):
    """What capture needs of the profile."""

    def observe(
        self, name: str, value: Any, *, source: str, at_s: float, confidence: float = 1.0, provenance: str = ""
    ) -> bool: ...


class Row(NamedTuple):
    """What is remembered of a stored event beside the windows."""

    id: str
    name: str
    at_s: float
    expires_s: float
    folded: bool
    """True if the windows hold it."""


class Lasting(NamedTuple):
    """A stored event, and how long it may be used."""

    event: Event
    purpose: str
    expires_s: float
    """Unix time."""


class HeldEvents:
    """One table of events for each purpose, so that a withdrawal takes exactly what was kept for it."""

    def __init__(self, store: Store, schema: ProfileSchema, consent: Consents, clock: Callable[[], float]) -> None:
        self._store = store
        self._schema = schema
        self._consent = consent
        self._clock = clock
        self.purposes = list(dict.fromkeys([*PURPOSES, *(event.purpose for event in schema.events.values())]))
        self._rows: dict[str, dict[str, Row]] | None = None
        """Purpose -> key -> row; None until the stored events were read."""
        self._folded: frozenset[str] = frozenset()
        """Purposes whose events are in the windows: those that are granted."""
        self.generation = 0
        """Grows whenever memory is made anew."""
        self.erasures = 0
        """Grows whenever events were erased."""
        self.seen: set[str] = set()
        """Ids of all stored events: bounded by them, and as durable."""
        self.windows = Windows(schema.funnels)
        self.oldest_s = math.inf
        """When the oldest stored event happened."""

    def table(self, purpose: str) -> Records:
        # Asked for each time: destroying a purpose's key gives its tables a new one.
        name = "events" if purpose == PERSONALISATION.name else f"events-{purpose}"
        return self._store.table(name, purpose=purpose)

    def rows(self) -> Mapping[str, Mapping[str, Row]]:
        """Purpose -> key -> row of what is stored now. `seen` and `windows` are in step with it afterwards."""
        rows = self._rows
        if rows is not None:
            agree = all(len(self.table(purpose)) == len(rows[purpose]) for purpose in self.purposes)
            if agree and self._granted(rows) == self._folded:
                return rows
        return self._read()

    def __len__(self) -> int:
        """How many are stored."""
        rows = self.rows() if self._rows is None else self._rows
        return sum(map(len, rows.values()))

    def lasting(
        self, now_s: float, since_s: float | None = None, names: Collection[str] | None = None
    ) -> list[Lasting]:
        """Stored events that have not outlived their retention, oldest first; of one moment in the order of arrival."""
        # The store's keys are numbers that grow.
        wanted = sorted(
            (row.at_s, len(key), key, purpose, row.expires_s)
            for purpose, rows in self.rows().items()
            for key, row in rows.items()
            if row.expires_s > now_s
            and (since_s is None or row.at_s >= since_s)
            and (names is None or row.name in names)
        )
        found = ((key, purpose, expires_s, self.table(purpose).get(key)) for _, _, key, purpose, expires_s in wanted)
        return [
            Lasting(Event.from_record(key, record), purpose, expires_s)
            for key, purpose, expires_s, record in found
            if record is not None
        ]

    def usable(self, event: Event, now_s: float) -> Lasting | None:
        """`event` if it is still stored, has not outlived its retention, and its purpose is granted now."""
        kind = self._schema.events.get(event.name)
        row = None if kind is None else self.rows().get(kind.purpose, {}).get(event.key)
        if kind is None or row is None or row.expires_s <= now_s or not self._consent.is_granted(kind.purpose):
            return None
        return Lasting(event, kind.purpose, row.expires_s)

    def standing(self, names: Iterable[str]) -> tuple[int, int, frozenset[str]]:
        """Another one whenever events may have been erased, and whenever a consent to a purpose of the events `names` changes."""
        self.rows()
        purposes = {kind.purpose for name in names if (kind := self._schema.events.get(name)) is not None}
        return self.generation, self.erasures, frozenset(filter(self._consent.is_granted, purposes))

    def note(self, draft: Draft, key: str) -> Event:
        """Remember an event that was stored under `key`."""
        event = Event.from_record(key, draft.record())
        if self._rows is not None:
            purpose = draft.kind.purpose
            self._rows[purpose][key] = Row(draft.id, event.name, event.at_s, draft.expires_s, True)
            self._folded |= {purpose}
            self.seen.add(draft.id)
            self.oldest_s = min(self.oldest_s, draft.at_s)
            self.windows.add(event, draft.received_s)
        return event

    def erase(self, keys: Sequence[tuple[str, str]], now_s: float) -> None:
        """Erase stored events, by purpose and key, in one transaction. Raises StoreWriteError."""
        if not keys:
            return
        self.erasures += 1
        with self._store.transaction():
            for purpose, key in keys:
                self.table(purpose).delete(key)
        rows = self._rows if self._rows is not None else {}
        for purpose, key in keys:
            row = rows.get(purpose, {}).pop(key, None)
            if row is None or (row.folded and not self.windows.let_go(row.name, row.at_s, now_s)):
                self.forget()
                return
            self.seen.discard(row.id)
        self.oldest_s = self._oldest(rows)

    def clear(self, purposes: Iterable[str]) -> int:
        """Erase all of some purposes; returns how many."""
        gone = sum(self.table(purpose).clear() for purpose in purposes)
        self.forget()
        return gone

    def forget(self) -> None:
        """Memory is made anew when it is next needed."""
        self._rows = None

    def _granted(self, rows: Mapping[str, Mapping[str, Row]]) -> frozenset[str]:
        return frozenset(purpose for purpose in rows if rows[purpose] and self._consent.is_granted(purpose))

    def _oldest(self, rows: Mapping[str, Mapping[str, Row]]) -> float:
        return min((row.at_s for table in rows.values() for row in table.values()), default=math.inf)

    def _read(self) -> Mapping[str, Mapping[str, Row]]:
        now_s = float(self._clock())
        rows: dict[str, dict[str, Row]] = {purpose: {} for purpose in self.purposes}
        self.seen, self.windows = set(), Windows(self._schema.funnels)
        granted = {purpose: self._consent.is_granted(purpose) for purpose in self.purposes}
        for purpose, key, record in self._stored():
            kind = self._schema.events.get(record["name"])
            # What an app's new schema does not name any more, or keeps for another purpose, is to go at once.
            named = kind is not None and kind.purpose == purpose
            expires_s = expiry(kind, record["at_s"], record["properties"]) if kind is not None and named else -math.inf
            folded = expires_s > now_s and granted[purpose]
            rows[purpose][key] = Row(record["id"], record["name"], record["at_s"], expires_s, folded)
            self.seen.add(record["id"])
            if folded:
                self.windows.add(Event.from_record(key, record), now_s)
        self.oldest_s = self._oldest(rows)
        self._folded = self._granted(rows)
        self.generation += 1
        self._rows = rows
        return rows

    def _stored(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Purpose, key and record of all stored events in the order of their arrival; one at a time, because they may be many."""

        def of(purpose: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
            table = self.table(purpose)
            for key in list(table.keys()):
                record = table.get(key)
                if record is not None:
                    yield purpose, key, record

        return heapq.merge(*map(of, self.purposes), key=lambda stored: float(stored[2]["received_s"]))
