"""Building the broadcast feed (shared_models/context_feed.py) from sources that can be exchanged. Only this side asks them.

    feed, notes = build_feed(load_catalogue(), FeedSources(OpenMeteo(client), PublicHolidays(), EventFile(path)), time.time())

The sources that come with the software are in context_sources.py. Every source is asked about every place of the catalogue,
never about one user's. A source that fails costs its own part: what the feed before said about days to come is kept, and a note
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from shared_models.context_feed import MAX_HOLIDAYS, BroadcastFeed, Day, Event, Holiday, Place
from shared_models.errors import ContextFeedError, WireError
from shared_models.travel.catalogue import Catalogue, Destination

FEED_LIFETIME_S = 36 * 3600
AHEAD_DAYS = 400
"""Holidays and events so far ahead are told: people plan a year."""


class WeatherSource(Protocol):
    name: str
    """Who says so; shown to users."""

    def forecast(self, places: Sequence[Destination], first: date) -> Mapping[str, tuple[Day, ...]]:
        """Id of a place -> its days from `first` on. Raises ContextFeedError."""
        ...


class HolidaySource(Protocol):
    name: str

    def holidays(self, countries: Sequence[str], first: date, last: date) -> Mapping[str, tuple[Holiday, ...]]:
        """Country -> its public holidays in these days. Raises ContextFeedError."""
        ...


class EventSource(Protocol):
    name: str

    def events(self, first: date, last: date) -> Sequence[Event]:
        """What is on in these days, anywhere. Raises ContextFeedError."""
        ...


class FeedSources(NamedTuple):
    """Who is asked; None for nobody."""

    weather: WeatherSource | None = None
    holidays: HolidaySource | None = None
    events: EventSource | None = None


class BuiltFeed(NamedTuple):
    feed: BroadcastFeed
    notes: tuple[str, ...]
    """What is missing and why, for the operator."""


def build_feed(
    catalogue: Catalogue, sources: FeedSources, now_s: float, previous: BroadcastFeed | None = None
) -> BuiltFeed:
    """One issue of the feed. Never fails for a source; raises WireError if what they say together is too large."""
    today = datetime.fromtimestamp(now_s, UTC).date()
    # The day on the other side of the date line may be yesterday.
    earliest, last = today - timedelta(days=1), today + timedelta(days=AHEAD_DAYS)
    notes: list[str] = []
    said_by: dict[str, str] = {}
    parts: dict[str, Any] = {"weather": {}, "holidays": {}, "events": []}
    if previous is not None:
        parts["weather"] = {place.id: tuple(day for day in place.days if day.day >= today) for place in previous.places}
        parts["holidays"] = dict(previous.holidays)
        parts["events"] = [event for event in previous.events if event.last >= earliest]
    countries = sorted({place.country for place in catalogue.destinations})
    weather, holidays, events = sources
    questions: dict[str, Callable[[], Any]] = {}
    if weather is not None:
        questions["weather"] = lambda: dict(weather.forecast(catalogue.destinations, today))
    if holidays is not None:
        questions["holidays"] = lambda: dict(holidays.holidays(countries, earliest, last))
    if events is not None:
        questions["events"] = lambda: list(events.events(earliest, last))
    for part in parts:
        source = getattr(sources, part)
        if source is None:
            parts[part] = type(parts[part])()
            continue
        try:
            answer = questions[part]()
            # Alone first: what a device would refuse must not cost the other parts.
            _issue(catalogue, now_s, {**_NOTHING, part: answer}, {part: source.name})
        except Exception as error:  # noqa: BLE001 - a source is somebody else's; the others are worth having all the same
            known = isinstance(error, ContextFeedError | WireError)
            notes.append(f"{part}: {source.name} failed: {str(error)[:300] if known else type(error).__name__}")
            if previous is not None and part in previous.sources:
                said_by[part] = previous.sources[part]
        else:
            parts[part], said_by[part] = answer, source.name
    stray = [event for event in parts["events"] if event.place not in catalogue.rows]
    if stray:
        notes.append(f"events: {len(stray)} at places that are not in the catalogue, such as {stray[0].place[:64]!r}")
    silent = [place.id for place in catalogue.destinations if not parts["weather"].get(place.id)]
    if weather is not None and silent:
        notes.append(f"weather: nothing for {len(silent)} places, such as {silent[0]!r}")
    return BuiltFeed(_issue(catalogue, now_s, parts, said_by), tuple(notes))


_NOTHING: Mapping[str, Any] = {"weather": {}, "holidays": {}, "events": []}


def _issue(catalogue: Catalogue, now_s: float, parts: Mapping[str, Any], said_by: Mapping[str, str]) -> BroadcastFeed:
    """The feed as a device will read it. Raises WireError for what a device would refuse."""
    feed = BroadcastFeed(
        issued_s=int(now_s),
        valid_until_s=int(now_s) + FEED_LIFETIME_S,
        places=tuple(
            Place(
                place.id,
                place.name(),
                place.country,
                place.latitude,
                place.longitude,
                tuple(parts["weather"].get(place.id, ())),
            )
            for place in catalogue.destinations
        ),
        holidays={country: tuple(known)[:MAX_HOLIDAYS] for country, known in parts["holidays"].items() if known},
        events=tuple(event for event in parts["events"] if event.place in catalogue.rows),
        sources=said_by,
    )
    return BroadcastFeed.from_bytes(feed.to_bytes())
