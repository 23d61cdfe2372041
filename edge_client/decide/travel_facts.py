"""What is known about all places of a catalogue for one trip: weather, prices, distances, events. From public data alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
import numpy.typing as npt

from edge_client.decide.travel_constraints import Trip
from edge_client.decide.travel_reasons import Reason
from shared_models.context_feed import BroadcastFeed, Event
from shared_models.travel.catalogue import Catalogue
from shared_models.travel.outlooks import outlooks

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class TripFacts:
    """What is known about all places for one trip."""

    def __init__(self, catalogue: Catalogue, trip: Trip, feed: BroadcastFeed | None) -> None:
        column = trip.month - 1
        self._trip, self._feed = trip, feed
        self.prices = catalogue.prices[:, column]
        self.km = None if trip.origin is None else catalogue.distances_km(*trip.origin)
        self._high, self._rain_days = catalogue.highs[:, column], catalogue.rain_days[:, column]
        wet = self._rain_days / 30.0
        self._stay = None
        self.events: Counts = np.zeros(len(catalogue), np.int64)
        """[n]: how many are on."""
        if feed is not None:
            known = outlooks(catalogue, feed)
            self.events = known.events(trip.first, trip.last)
            self._stay = known.stay(trip.first, trip.last)
            if self._stay is not None:
                there = self._stay.reaches
                self._high = np.where(there, self._stay.high_c, self._high)
                wet = np.where(there, self._stay.wet_days / np.maximum(self._stay.days, 1), wet)
        self.comfort = np.clip(comfort_of(trip, self._high) - wet, -1.0, 1.0)

    def weather_reason(self, row: int, amount: float) -> Reason:
        """By the forecast where it reaches, else by the climate; each says which it is."""
        stay = self._stay
        if stay is not None and stay.reaches[row]:
            high, wet = round(float(stay.high_c[row])), int(stay.wet_days[row])
            data = {"days": int(stay.days[row]), "high": high, "wet": wet}
            return Reason("forecast", data, self.source("weather"), amount)
        data = {
            "month": self._trip.month,
            "high": round(float(self._high[row])),
            "rain": round(float(self._rain_days[row])),
        }
        return Reason("climate", data, "catalogue", amount)

    def events_at(self, place: str) -> Sequence[Event]:
        return () if self._feed is None else self._feed.events_at(place, self._trip.first, self._trip.last)

    def source(self, part: str) -> str:
        return self._feed.sources.get(part, "feed") if self._feed is not None else "feed"

    def holidays(self, country: str) -> Sequence[tuple[date, str]]:
        return () if self._feed is None else self._feed.holidays_in(country, self._trip.first, self._trip.last)


def usable(feed: BroadcastFeed | None, now_s: float) -> BroadcastFeed | None:
    return feed if feed is not None and feed.staleness(now_s) != "expired" else None


def comfort_of(trip: Trip, high: Array) -> Array:
    """[n], -1..1: how near a daily high is to what suits the trip."""
    if trip.warm_c is not None:
        return np.clip(1.0 - np.maximum(0.0, np.abs(high - trip.warm_c) - 2.0) / 8.0, -1.0, 1.0)
    if trip.wishes.get("winter_sports", 0.0) >= 0.5:
        return np.clip((6.0 - high) / 6.0, -1.0, 1.0)
    suits = 28.0 if trip.wishes.get("beach", 0.0) >= 0.5 else 22.0
    return np.clip(1.0 - np.maximum(0.0, np.abs(high - suits) - 4.0) / 8.0, -1.0, 1.0)


def mix(catalogue: Catalogue, importance: Mapping[str, float]) -> Array:
    """[n], -1..1: weighted mean of features; features that the catalogue does not have raise DomainError."""
    total = sum(importance.values())
    if not total:
        return np.zeros(len(catalogue))
    columns = [weight * catalogue.column(feature) for feature, weight in importance.items()]
    return np.asarray(2.0 * np.sum(columns, axis=0) / total - 1.0)
