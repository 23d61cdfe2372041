"""What the user is doing now and did lately, in numbers: sliding windows, sessions, dwell and funnels over the kept events.

Each event is taken in at amortised constant cost, in whatever order events arrive; the same events give the same numbers in any
order, as long as no bound below is reached. Memory is bounded by the schema and by those bounds, not by history.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_client.know.events import Event
from shared_models.profile import Funnel

SLIDING: Mapping[str, tuple[int, int]] = {
    "1h": (60, 60),
    "24h": (900, 96),
    "7d": (7_200, 84),
    "30d": (43_200, 60),
}
"""Window -> width of a bucket in seconds, number of buckets. A window moves by whole buckets."""

SESSION_GAP_S = 1800.0
"""A pause longer than this begins a new session."""
MOST_REACH_S = 30 * 86_400.0
"""Nothing but recency looks back further than this."""
MOST_SESSIONS = 64
MOST_VIEWS = 200
"""Pages and screens of one session whose dwell is known; beyond that the oldest go."""
MOST_TIMES = 50
"""Times kept of each step of a funnel; beyond that the oldest go."""
MOST_PAGES = 50
"""Pages in the document, those with the longest dwell."""

_NOT_ACTIVITY = ("context",)
"""Types of events that the device makes by itself: they neither begin nor prolong a session."""


@dataclass
class _Session:
    start_s: float
    end_s: float
    events: int = 1
    views: list[tuple[float, str]] = field(default_factory=list)
    """Time and name of each page or screen, in order of time."""

    def enter(self, at_s: float, page: str | None) -> None:
        """One more event, not before the start."""
        self.end_s = max(self.end_s, at_s)
        self.events += 1
        if page is not None:
            insort(self.views, (at_s, page))
            del self.views[:-MOST_VIEWS]

    def dwell(self) -> dict[str, float]:
        """Seconds by page: from one view to the next, or to the end of the session."""
        ends = [*(at_s for at_s, _ in self.views), self.end_s][1:]
        spent: dict[str, float] = {}
        for (at_s, page), end_s in zip(self.views, ends, strict=True):
            spent[page] = spent.get(page, 0.0) + end_s - at_s
        return spent


class Windows:
    """The numbers of one user. Not thread-safe: Capture serialises."""

    def __init__(self, funnels: Mapping[str, Funnel]) -> None:
        self._funnels = dict(funnels)
        self._steps = {step for funnel in funnels.values() for step in funnel.steps}
        self._buckets: dict[str, dict[str, dict[int, int]]] = {}
        self._last: dict[str, float] = {}
        self._times: dict[str, list[float]] = {}
        self._sessions: list[_Session] = []
        self.newest_s: float | None = None
        """When the latest event happened."""

    # -- taking in ------------------------------------------------------------------------------------------------

    def add(self, event: Event, now_s: float) -> None:
        """Take in one kept event. What no window reaches from `now_s` on is not counted."""
        name, at_s = event.name, event.at_s
        self._last[name] = max(at_s, self._last.get(name, at_s))
        self.newest_s = at_s if self.newest_s is None else max(at_s, self.newest_s)
        windows = self._buckets.get(name)
        if windows is None:
            windows = self._buckets[name] = {window: {} for window in SLIDING}
        for window, (width_s, number) in SLIDING.items():
            bucket, oldest = int(at_s // width_s), int(now_s // width_s) - number + 1
            if bucket < oldest:
                continue
            buckets = windows[window]
            buckets[bucket] = buckets.get(bucket, 0) + 1
            if len(buckets) > 2 * number:
                # Half of them at least go, so that this costs a constant for each event.
                windows[window] = {index: count for index, count in buckets.items() if index >= oldest}
        if name in self._steps:
            times = self._times.setdefault(name, [])
            insort(times, at_s)
            del times[:-MOST_TIMES]
        if event.type not in _NOT_ACTIVITY:
            page = event.properties.get("name") or "" if event.type in ("page", "screen") else None
            self._enter_session(at_s, page if page is None else str(page))

    def _enter_session(self, at_s: float, page: str | None) -> None:
        latest = self._sessions[-1] if self._sessions else None
        if latest is not None and latest.start_s <= at_s <= latest.end_s + SESSION_GAP_S:
            latest.enter(at_s, page)
            return
        session = _Session(at_s, at_s, 1, [] if page is None else [(at_s, page)])
        place = bisect_right(self._sessions, at_s, key=lambda session: session.start_s)
        if place > 0 and at_s - self._sessions[place - 1].end_s <= SESSION_GAP_S:
            place -= 1
            session = _joined(self._sessions.pop(place), session)
        if place < len(self._sessions) and self._sessions[place].start_s - session.end_s <= SESSION_GAP_S:
            session = _joined(session, self._sessions.pop(place))
        self._sessions.insert(place, session)
        del self._sessions[:-MOST_SESSIONS]

    def let_go(self, name: str, at_s: float, now_s: float) -> bool:
        """Take out an event that is erased, if that can be done at constant cost; if False, all has to be made anew."""
        if at_s >= self._last.get(name, -math.inf):
            return False
        if name in self._steps and at_s > now_s - MOST_REACH_S:
            return False
        if name not in _NOT_ACTIVITY:
            recent = self._recent(now_s)
            if recent and at_s >= recent[0].start_s:
                return False
        for window, (width_s, _) in SLIDING.items():
            buckets, bucket = self._buckets[name][window], int(at_s // width_s)
            if buckets.get(bucket, 0) > 1:
                buckets[bucket] -= 1
            else:
                buckets.pop(bucket, None)
        return True

    # -- giving out -----------------------------------------------------------------------------------------------

    def count(self, name: str, window: str, now_s: float) -> int:
        """Events called `name` in `window` (a key of SLIDING) up to now."""
        width_s, number = SLIDING[window]
        last = int(now_s // width_s)
        buckets = self._buckets.get(name, {}).get(window, {})
        return sum(count for index, count in buckets.items() if last - number < index <= last)

    def recency(self, name: str, now_s: float) -> float | None:
        """Seconds since the last event called `name`; None if there was none."""
        return max(0.0, now_s - self._last[name]) if name in self._last else None

    def last(self, name: str) -> float | None:
        """When the last event called `name` happened; None if there was none."""
        return self._last.get(name)

    def session(self, now_s: float) -> dict[str, Any]:
        """The session that is on: `events`, `views`, `duration_s`, `idle_s`; all zero if none is."""
        if not self._sessions or now_s - self._sessions[-1].end_s > SESSION_GAP_S:
            return {"active": False, "events": 0, "views": 0, "duration_s": 0.0, "idle_s": 0.0}
        session = self._sessions[-1]
        return {
            "active": True,
            "events": session.events,
            "views": len(session.views),
            "duration_s": round(session.end_s - session.start_s, 3),
            "idle_s": round(max(0.0, now_s - session.end_s), 3),
        }

    def dwell(self, now_s: float) -> dict[str, float]:
        """Seconds by page or screen in the sessions of the last 30 days, longest first."""
        spent: dict[str, float] = {}
        for session in self._recent(now_s):
            for page, seconds in session.dwell().items():
                spent[page] = spent.get(page, 0.0) + seconds
        ranked = sorted(spent.items(), key=lambda item: (-item[1], item[0]))
        return {page: round(seconds, 3) for page, seconds in ranked[:MOST_PAGES]}

    def funnel(self, name: str, now_s: float) -> dict[str, Any]:
        """How far the attempt that is on has come, and how many were completed within the time of the funnel."""
        funnel = self._funnels[name]
        after_s, completed, step, last_s = now_s - funnel.within_s, 0, 0, None
        while True:
            step, reached_s = 0, after_s
            for event in funnel.steps:
                times = self._times.get(event, [])
                # The first step of a new attempt comes after the end of the one before; others may share a moment.
                find = bisect_right if step == 0 and completed else bisect_left
                place = find(times, reached_s)
                if place == len(times) or times[place] > now_s:
                    break
                step, reached_s = step + 1, times[place]
                last_s = reached_s
            if step < len(funnel.steps):
                break
            completed, after_s = completed + 1, reached_s
        idle_s = None if last_s is None else round(now_s - last_s, 3)
        return {"step": step, "of": len(funnel.steps), "completed": completed, "idle_s": idle_s}

    def document(self, now_s: float) -> dict[str, Any]:
        """All features as plain JSON."""
        recent = self._recent(now_s)
        lengths = [session.end_s - session.start_s for session in recent]
        return {
            "as_of_s": now_s,
            "counts": {
                name: {window: self.count(name, window, now_s) for window in SLIDING} for name in sorted(self._buckets)
            },
            "recency_s": {name: round(max(0.0, now_s - at_s), 3) for name, at_s in sorted(self._last.items())},
            "session": self.session(now_s),
            "sessions_30d": {
                "number": len(recent),
                "mean_duration_s": round(sum(lengths) / len(recent), 3) if recent else 0.0,
                "mean_events": round(sum(session.events for session in recent) / len(recent), 3) if recent else 0.0,
            },
            "dwell_s": self.dwell(now_s),
            "funnels": {name: self.funnel(name, now_s) for name in sorted(self._funnels)},
        }

    def _recent(self, now_s: float) -> list[_Session]:
        return [session for session in self._sessions if session.end_s > now_s - MOST_REACH_S]


def _joined(one: _Session, other: _Session) -> _Session:
    views = sorted([*one.views, *other.views])[-MOST_VIEWS:]
    return _Session(min(one.start_s, other.start_s), max(one.end_s, other.end_s), one.events + other.events, views)
