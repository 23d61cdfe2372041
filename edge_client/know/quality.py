"""How good the captured events are: counters on this device. They hold names of fields, never a value; they leave it only as a
contribution through privacy/gate.py.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

from edge_client.know.store import Records

COUNTERS = (
    "received",
    "kept",
    "invalid",
    "no_consent",
    "not_in_schema",
    "duplicates",
    "late",
    "too_old",
    "skewed",
    "trimmed",
    "busy",
    "firings",
    "hook_failures",
)
"""`late`: kept, but older than another event that was there before. `trimmed`: gone before its time for want of room."""

BOUNDS_MS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0)
"""Upper bounds of the latency histogram; the last bucket has none."""

EVENTS_BETWEEN = 200
"""The counters are stored with each so many-th event: a crash loses at most so many counts."""

MOST_NAMES = 200
OTHER = "(other)"
_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$. -]{0,80}\Z")


class Quality:
    """Counters of one device. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._names: dict[str, dict[str, int]] = {"dropped": {}, "missing": {}, "invalid_fields": {}}
        self._latency = [0] * (len(BOUNDS_MS) + 1)
        self._latency_sum_ms = 0.0
        self._unstored = 0
        self._restored = False

    def count(self, counter: str, by: int = 1) -> None:
        with self._lock:
            self._counts[counter] += by

    def count_names(self, what: str, names: Iterable[str]) -> None:
        """`what` is `dropped`, `missing` or `invalid_fields`.

        Digits become #, and what does not look like a name is counted together: an app may use ids or addresses for names.
        """
        with self._lock:
            table = self._names[what]
            for name in names:
                label = re.sub(r"[0-9]+", "#", name) if _NAME.match(name) else OTHER
                if label not in table and len(table) >= MOST_NAMES:
                    label = OTHER
                table[label] = table.get(label, 0) + 1

    def time(self, latency_ms: float) -> None:
        """One event, or one batch, from the call to durable."""
        with self._lock:
            self._latency[bisect_left(BOUNDS_MS, latency_ms)] += 1
            self._latency_sum_ms += latency_ms

    def document(self) -> dict[str, Any]:
        """As plain JSON; `latency_ms.counts` has one number for each bound and one for all above."""
        with self._lock:
            return {
                **self._counts,
                **{what: dict(table) for what, table in self._names.items()},
                "latency_ms": {
                    "bounds": list(BOUNDS_MS),
                    "counts": list(self._latency),
                    "sum": round(self._latency_sum_ms, 3),
                },
            }

    def keep(self, table: Records, events: int) -> None:
        """Store the counters in `table` with each EVENTS_BETWEEN-th of the events that are being kept. Raises StoreWriteError."""
        if events and self._unstored + events >= EVENTS_BETWEEN:
            table.put("counters", self.document())
        self._unstored = (self._unstored + events) % EVENTS_BETWEEN

    def restore(self, table: Records) -> None:
        """Add what an earlier run stored in `table`; once."""
        if self._restored:
            return
        self._restored = True
        document: Mapping[str, Any] = table.get("counters") or {}
        with self._lock:
            for counter in COUNTERS:
                self._counts[counter] += int(document.get(counter, 0))
            for what, names in self._names.items():
                for name, number in document.get(what, {}).items():
                    names[name] = names.get(name, 0) + int(number)
            latency = document.get("latency_ms", {})
            if latency.get("bounds") == list(BOUNDS_MS):
                self._latency = [a + int(b) for a, b in zip(self._latency, latency["counts"], strict=True)]
                self._latency_sum_ms += float(latency["sum"])

    def clear(self) -> None:
        with self._lock:
            self._counts = dict.fromkeys(COUNTERS, 0)
            self._names = {what: {} for what in self._names}
            self._latency, self._latency_sum_ms = [0] * len(self._latency), 0.0
