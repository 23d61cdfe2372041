"""The broadcast feed: weather, public holidays and events of every place, as one document that is the same for everybody.

It is published like any other part of a bundle. A device takes all of it and looks up its own places itself, so that no request
says where a user is or wants to go. The aggregator builds it (aggregator/context_feed.py); here are the values, bytes and checks.

    {"format": "tacit-context-feed-1", "issued": …, "valid_until": …,      Unix seconds
     "places":   {NAME: {"id", "country", "latitude", "longitude", "weather", "temperature", "local_events", "days": [DAY, …]}},
     "holidays": {COUNTRY: {"2026-12-25": NAME}},
     "events":   [{"id", "place", "kind", "first", "last", "title": {LANGUAGE: TEXT}}],
     "sources":  {"weather": WHO SAYS SO, …}}

`weather`, `temperature` and `local_events` repeat what the first day says, for readers that want to know today alone.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple, get_args

from shared_models.bundle import Staleness
from shared_models.canonical import canonical_bytes, parse_document
from shared_models.errors import WireError

FEED_FORMAT = "tacit-context-feed-1"
Sky = Literal["clear", "cloudy", "fog", "rain", "snow", "storm", "unknown"]
SKIES: tuple[Sky, ...] = get_args(Sky)
MAX_FEED_BYTES = 4 * 1024 * 1024
MAX_PLACES = 5000
MAX_DAYS = 16
MAX_EVENTS = 20_000
MAX_HOLIDAYS = 200
"""For one country."""
MAX_TEXT_CHARS = 200
LATEST_S = 4_102_444_800
"""2100-01-01."""
WET_MM = 1.0
"""A day with at least so much rain is a wet one (as in the climate tables)."""

_ID = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_COUNTRY = re.compile(r"[A-Z]{2}\Z")
_LANGUAGE = re.compile(r"[a-z]{2}\Z")


@dataclass(frozen=True)
class Day:
    """The forecast of one day at one place."""

    day: date
    sky: Sky
    high_c: float
    low_c: float
    rain_mm: float

    @property
    def wet(self) -> bool:
        return self.rain_mm >= WET_MM


@dataclass(frozen=True)
class Place:
    """What the feed says about one place."""

    id: str
    name: str
    country: str
    latitude: float
    longitude: float
    days: tuple[Day, ...] = ()
    """One after the other, at most MAX_DAYS; none if no forecast came."""


@dataclass(frozen=True)
class Event:
    """Something that is on."""

    id: str
    place: str
    """Id of a place."""
    kind: str
    """One word: music, film, sport, food, market …"""
    first: date
    last: date
    title: Mapping[str, str]
    """Language -> title."""

    @classmethod
    def from_document(cls, entry: Any) -> Event:
        """Check and build. Raises WireError."""
        body = _exactly("events", entry, {"id", "place", "kind", "first", "last", "title"})
        id, title = _match("events: id", body["id"], _ID), body["title"]
        where = f"event {id}"
        if not isinstance(title, Mapping) or not 1 <= len(title) <= 20:
            raise WireError(f"context feed: {where}: title: expected texts by language")
        first, last = _date(where, body["first"]), _date(where, body["last"])
        if last < first or (last - first).days > 366:
            raise WireError(f"context feed: {where}: ends before it begins, or lasts more than a year")
        return cls(
            id=id,
            place=_match(f"{where}: place", body["place"], _ID),
            kind=_match(f"{where}: kind", body["kind"], _ID),
            first=first,
            last=last,
            title={
                _match(f"{where}: title", language, _LANGUAGE): _text(where, said) for language, said in title.items()
            },
        )

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        days = {"first": self.first.isoformat(), "last": self.last.isoformat()}
        return {"id": self.id, "place": self.place, "kind": self.kind, **days, "title": dict(self.title)}


class Holiday(NamedTuple):
    """A public holiday."""

    day: date
    name: str


class Outlook(NamedTuple):
    """The forecast for a stay, as far as it reaches."""

    days: int
    """So many days of the stay are forecast."""
    high_c: float
    """Mean of the daily highs."""
    wet_days: int


@dataclass(frozen=True, eq=False)
class BroadcastFeed:
    """One issue of the feed, checked."""

    issued_s: int
    """Unix seconds."""
    valid_until_s: int
    places: tuple[Place, ...]
    holidays: Mapping[str, tuple[Holiday, ...]] = field(default_factory=dict)
    """Country -> its public holidays in order."""
    events: tuple[Event, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    """`weather`, `holidays`, `events` -> who says so; shown to the user."""

    def __post_init__(self) -> None:
        for name, value in (("issued", self.issued_s), ("valid_until", self.valid_until_s)):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LATEST_S:
                raise WireError(f"context feed: {name} is {str(value)[:40]!r}, expected Unix seconds")
        if self.valid_until_s <= self.issued_s:
            raise WireError("context feed: valid_until is not after issued")
        if len(self.places) > MAX_PLACES or len(self.events) > MAX_EVENTS:
            raise WireError(f"context feed: at most {MAX_PLACES} places and {MAX_EVENTS} events are accepted")
        if len({place.id for place in self.places}) != len(self.places):
            raise WireError("context feed: a place stands twice")
        if len({" ".join(place.name.casefold().split()) for place in self.places}) != len(self.places):
            raise WireError("context feed: two places have the same name")
        known = {place.id for place in self.places}
        for event in self.events:
            if event.place not in known:
                raise WireError(f"context feed: event {event.id[:64]!r} is at a place that is not in the feed")

    def staleness(self, now_s: float) -> Staleness:
        """`fresh` while it is valid, `stale` for as long again, then `expired`; a feed from the future is `expired`."""
        lifetime_s = self.valid_until_s - self.issued_s
        if not math.isfinite(now_s) or not self.issued_s <= now_s < self.valid_until_s + lifetime_s:
            return "expired"
        return "fresh" if now_s < self.valid_until_s else "stale"

    def outlook(self, place: str, first: date, last: date) -> Outlook | None:
        """The forecast for a stay from `first` to `last`; None unless it reaches at least half of the days."""
        known = self._by_id.get(place)
        found = [] if known is None else [day for day in known.days if first <= day.day <= last]
        if not found or 2 * len(found) < (last - first).days + 1:
            return None
        return Outlook(len(found), sum(day.high_c for day in found) / len(found), sum(day.wet for day in found))

    def events_at(self, place: str, first: date, last: date) -> tuple[Event, ...]:
        """What is on at `place` in these days, the earliest first."""
        found = [event for event in self._events_by_place.get(place, ()) if event.first <= last and event.last >= first]
        return tuple(sorted(found, key=lambda event: (event.first, event.id)))

    def holidays_in(self, country: str, first: date, last: date) -> tuple[Holiday, ...]:
        """Public holidays of `country` in these days."""
        return tuple(holiday for holiday in self.holidays.get(country, ()) if first <= holiday.day <= last)

    @cached_property
    def last_day(self) -> date | None:
        """How far the forecasts reach; None without any."""
        return max((place.days[-1].day for place in self.places if place.days), default=None)

    @cached_property
    def _by_id(self) -> dict[str, Place]:
        return {place.id: place for place in self.places}

    @cached_property
    def _events_by_place(self) -> dict[str, list[Event]]:
        found: dict[str, list[Event]] = {}
        for event in self.events:
            found.setdefault(event.place, []).append(event)
        return found

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "format": FEED_FORMAT,
            "issued": self.issued_s,
            "valid_until": self.valid_until_s,
            "places": {place.name: self._place_document(place) for place in self.places},
            "holidays": {
                country: {holiday.day.isoformat(): holiday.name for holiday in known}
                for country, known in self.holidays.items()
            },
            "events": [event.document() for event in self.events],
            "sources": dict(self.sources),
        }

    def _place_document(self, place: Place) -> dict[str, Any]:
        said: dict[str, Any] = {
            "id": place.id,
            "country": place.country,
            "latitude": place.latitude,
            "longitude": place.longitude,
            "days": [
                {
                    "day": day.day.isoformat(),
                    "weather": day.sky,
                    "high": day.high_c,
                    "low": day.low_c,
                    "rain_mm": day.rain_mm,
                }
                for day in place.days
            ],
        }
        if place.days:
            today = place.days[0]
            said |= {"weather": today.sky, "temperature": round((today.high_c + today.low_c) / 2, 1)}
            on = self.events_at(place.id, today.day, today.day)
            said["local_events"] = sorted({event.kind for event in on})
        return said

    def to_bytes(self) -> bytes:
        """The canonical encoding, at most MAX_FEED_BYTES. Raises WireError if it is more."""
        raw = canonical_bytes(self.document())
        if len(raw) > MAX_FEED_BYTES:
            raise WireError(f"context feed: {len(raw)} bytes, at most {MAX_FEED_BYTES} are accepted")
        return raw

    @classmethod
    def from_bytes(cls, raw: bytes) -> BroadcastFeed:
        """Read the canonical encoding and nothing else. Raises WireError."""
        feed = cls.from_document(parse_document(raw, limit_bytes=MAX_FEED_BYTES))
        if feed.to_bytes() != raw:
            raise WireError("context feed: not in the canonical encoding (RFC 8785)")
        return feed

    @classmethod
    def from_checked_bytes(cls, raw: bytes) -> BroadcastFeed:
        """Read bytes that `from_bytes` took when they arrived, in a third of its time. Raises WireError."""
        return cls.from_document(parse_document(raw, limit_bytes=MAX_FEED_BYTES))

    @classmethod
    def from_document(cls, document: Any) -> BroadcastFeed:
        """Check and build. Raises WireError that names place and field."""
        fields = {"format", "issued", "valid_until", "places", "holidays", "events", "sources"}
        body = _exactly("context feed", document, fields)
        if body["format"] != FEED_FORMAT:
            raise WireError(f"expected a context feed in the format {FEED_FORMAT!r}")
        places, holidays = body["places"], body["holidays"]
        if not isinstance(places, Mapping) or len(places) > MAX_PLACES:
            raise WireError(f"context feed: places: expected an object of at most {MAX_PLACES}")
        if not isinstance(holidays, Mapping) or len(holidays) > MAX_PLACES:
            raise WireError("context feed: holidays: expected an object of countries")
        sources = _exactly("sources", body["sources"], set(), {"weather", "holidays", "events"})
        return cls(
            issued_s=body["issued"],
            valid_until_s=body["valid_until"],
            places=tuple(_place(name, said) for name, said in places.items()),
            holidays={
                _match("holidays", country, _COUNTRY): _holidays(country, known) for country, known in holidays.items()
            },
            events=tuple(Event.from_document(entry) for entry in _list("events", body["events"], MAX_EVENTS)),
            sources={name: _text(f"sources: {name}", said) for name, said in sources.items()},
        )


def _place(name: Any, said: Any) -> Place:
    where = f"place {_text('a place', name)!r}"
    repeated = {"weather", "temperature", "local_events"}
    body = _exactly(where, said, {"id", "country", "latitude", "longitude", "days"}, repeated)
    forecasts = f"{where}: days"
    days = tuple(_day(forecasts, entry) for entry in _list(forecasts, body["days"], MAX_DAYS))
    if any(later.day - earlier.day != timedelta(days=1) for earlier, later in itertools.pairwise(days)):
        raise WireError(f"context feed: {where}: days do not follow one another")
    return Place(
        id=_match(where, body["id"], _ID),
        name=name,
        country=_match(where, body["country"], _COUNTRY),
        latitude=_number(f"{where}: latitude", body["latitude"], -90, 90),
        longitude=_number(f"{where}: longitude", body["longitude"], -180, 180),
        days=days,
    )


def _day(where: str, entry: Any) -> Day:
    body = _exactly(where, entry, _DAY_FIELDS)
    if body["weather"] not in SKIES:
        raise WireError(f"context feed: {where}: weather is {str(body['weather'])[:40]!r}, not of {', '.join(SKIES)}")
    high, low = _number(where, body["high"], -95, 65), _number(where, body["low"], -95, 65)
    if low > high:
        raise WireError(f"context feed: {where}: a day's low is above its high")
    return Day(_date(where, body["day"]), body["weather"], high, low, _number(where, body["rain_mm"], 0, 2000))


_DAY_FIELDS = {"day", "weather", "high", "low", "rain_mm"}


def _holidays(country: str, known: Any) -> tuple[Holiday, ...]:
    if not isinstance(known, Mapping) or len(known) > MAX_HOLIDAYS:
        raise WireError(f"context feed: holidays of {country}: expected an object of at most {MAX_HOLIDAYS} days")
    return tuple(
        sorted(Holiday(_date(country, day), _text(f"holidays of {country}", name)) for day, name in known.items())
    )


def _exactly(
    where: str, value: Any, needed: set[str], optional: frozenset[str] | set[str] = frozenset()
) -> Mapping[str, Any]:
    if type(value) is dict and value.keys() == needed:
        # Ten thousand days of forecasts are as they should be: then there is no wrong field to look for.
        return value
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise WireError(f"context feed: {where}: expected an object, got {type(value).__name__}")
    if missing := needed - set(value):
        raise WireError(f"context feed: {where}: field {min(missing)!r} is missing")
    if unknown := set(value) - needed - optional:
        raise WireError(f"context feed: {where}: unknown field {min(unknown)[:80]!r}")
    return value


def _list(where: str, value: Any, most: int) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise WireError(f"context feed: {where}: expected a list of at most {most}")
    return value


def _match(where: str, value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.match(value):
        raise WireError(f"context feed: {where}: {str(value)[:80]!r} does not have the form {pattern.pattern[:-2]}")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT_CHARS or not value.isprintable():
        raise WireError(f"context feed: {where}: expected a printable text of 1 to {MAX_TEXT_CHARS} characters")
    return value


def _number(where: str, value: Any, least: float, most: float) -> float:
    if type(value) is float and least <= value <= most:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise WireError(f"context feed: {where}: {str(value)[:40]!r} is not a number from {least:g} to {most:g}")
    return float(value)


def _date(where: str, value: Any) -> date:
    try:
        if not isinstance(value, str) or len(value) != 10:
            raise ValueError
        return _day_of(value)
    except ValueError:
        raise WireError(f"context feed: {where}: {str(value)[:40]!r} is not a day such as 2026-12-24") from None


@lru_cache(maxsize=1024)
def _day_of(text: str) -> date:
    # All places of a feed have the same days.
    return date.fromisoformat(text)
