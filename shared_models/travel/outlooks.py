"""What a context feed says about all places of a catalogue at once: forecasts and events as arrays, made once for each issue.

A turn must not walk through a thousand places' days; `BroadcastFeed.outlook` says the same of one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shared_models.context_feed import BroadcastFeed
from shared_models.travel.catalogue import Array, Catalogue

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stay:
    """The forecast of one stay at every place."""

    reaches: npt.NDArray[np.bool_]
    """[n]: whether it covers at least half of the days."""
    days: Counts
    """[n]: how many days it covers."""
    high_c: Array
    """[n]: mean of the daily highs; 0 where nothing is forecast."""
    wet_days: Counts
    """[n]"""


class Outlooks:
    """One issue of the feed over one catalogue."""

    def __init__(self, catalogue: Catalogue, feed: BroadcastFeed) -> None:
        self._count = len(catalogue)
        rows = catalogue.rows
        days = [
            (rows[place.id], day.day.toordinal(), day.high_c, day.wet)
            for place in feed.places
            if place.id in rows
            for day in place.days
        ]
        self._first = min((ordinal for _, ordinal, _, _ in days), default=0)
        last = max((ordinal for _, ordinal, _, _ in days), default=-1)
        shape = (self._count, max(0, last - self._first + 1))
        self._known, self._high, self._wet = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape, np.int64)
        for row, ordinal, high_c, wet in days:
            column = ordinal - self._first
            self._known[row, column], self._high[row, column], self._wet[row, column] = 1, high_c, wet
        events = [(rows[e.place], e.first.toordinal(), e.last.toordinal()) for e in feed.events if e.place in rows]
        self._events: Counts = np.array(events, np.int64).reshape(-1, 3)

    def stay(self, first: date, last: date) -> Stay | None:
        """The forecast from `first` to `last`; None if it reaches no place."""
        start = max(0, first.toordinal() - self._first)
        end = min(self._known.shape[1], last.toordinal() - self._first + 1)
        if end <= start:
            return None
        days = self._known[:, start:end].sum(axis=1)
        reaches = (days > 0) & (2 * days >= (last - first).days + 1)
        if not reaches.any():
            return None
        high = self._high[:, start:end].sum(axis=1) / np.maximum(days, 1)
        return Stay(reaches, days, high, self._wet[:, start:end].sum(axis=1))

    def events(self, first: date, last: date) -> Counts:
        """[n]: how many events are on at each place in these days."""
        found = np.zeros(self._count, np.int64)
        if len(self._events):
            on = (self._events[:, 1] <= last.toordinal()) & (self._events[:, 2] >= first.toordinal())
            np.add.at(found, self._events[on, 0], 1)
        return found


@lru_cache(maxsize=2)
def outlooks(catalogue: Catalogue, feed: BroadcastFeed) -> Outlooks:
    """The arrays of one issue, made once."""
    return Outlooks(catalogue, feed)
