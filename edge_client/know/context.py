"""Where, when and on what the user is: context providers as plug-ins. Nothing here uses the network.

Weather, traffic and what is on come from a feed that is the same for everybody and arrives with the bundle; which of its places
is the user's is found out here, on the device, so that nobody learns it. An app adds a provider of its own by passing any object
with a `name` and a `provide`.

    sources = ContextSources([DeviceContext("phone"), TimeContext(), PlaceContext(app.city), FeedContext(feed, app.city)], schema)
    capture.receive(sources.event(clock()))
"""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from shared_models.attribute_values import normalised, unix_seconds
from shared_models.errors import CaptureError, ConfigError, WireError
from shared_models.profile import ProfileSchema

FEED_FORMAT = "tacit-context-feed-1"
MOST_PLACES = 20_000
MOST_PROVIDERS = 32
NEAREST_KM = 60.0
"""A place of the feed further away than this says nothing about the weather here."""

_SYSTEMS = {
    "Linux": "linux",
    "Darwin": "macos",
    "Windows": "windows",
    "Android": "android",
    "iOS": "ios",
    "iPadOS": "ios",
}
_WHERE = ("latitude", "longitude")
_KEPT = ("weather", "temperature", "traffic", "local_events")
"""What a feed may say about a place; the names of the schema's attributes."""

_log = logging.getLogger(__name__)


class ContextProvider(Protocol):
    """One source of context."""

    name: str

    def provide(self, now_s: float) -> Mapping[str, Any]:
        """Attribute -> value at `now_s` (Unix seconds); {} if nothing is known. What it raises costs its own values only."""
        ...


@dataclass(frozen=True)
class DeviceContext:
    """What kind of device this is; a program cannot see by itself whether it runs on a phone or a tablet."""

    device_type: str = "desktop"
    name: str = "device"

    def provide(self, now_s: float) -> Mapping[str, Any]:
        return {"device_type": self.device_type, "os": _SYSTEMS.get(platform.system(), "other")}


@dataclass(frozen=True)
class TimeContext:
    """Hour, part of the day and weekend where the user is."""

    utc_offset_s: Callable[[float], float] | None = None
    """Local time minus UTC at a Unix time; None asks the operating system."""
    name: str = "time"

    def provide(self, now_s: float) -> Mapping[str, Any]:
        offset_s = self.utc_offset_s(now_s) if self.utc_offset_s is not None else time.localtime(now_s).tm_gmtoff
        local = datetime.fromtimestamp(now_s, UTC) + timedelta(seconds=offset_s)
        return {
            "local_hour": local.hour,
            "part_of_day": ("night", "morning", "afternoon", "evening")[local.hour // 6],
            "weekend": local.weekday() >= 5,
            "utc_offset_h": round(offset_s / 3600),
        }


@dataclass(frozen=True)
class PlaceContext:
    """Where the user is, as the app knows it: a town, or coordinates, which the schema makes coarse before they are kept."""

    place: Callable[[], Any]
    name: str = "place"

    def provide(self, now_s: float) -> Mapping[str, Any]:
        found = self.place()
        return {} if found is None else {"place": found}


@dataclass(frozen=True)
class ContextFeed:
    """A broadcast feed: the same bytes for everybody. Which signature it needs is the bundle's matter."""

    issued_s: float
    valid_until_s: float
    places: Mapping[str, Mapping[str, Any]]
    """Place, in lower case -> weather, temperature (degC), traffic, local_events, latitude, longitude; all of them optional."""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ContextFeed:
        """From plain JSON: {"format": …, "issued": …, "valid_until": …, "places": {NAME: {…}}}. Raises WireError."""
        if not isinstance(document, Mapping) or document.get("format") != FEED_FORMAT:
            raise WireError(f"expected a context feed in the format {FEED_FORMAT!r}")
        try:
            issued_s, until_s = unix_seconds(document.get("issued")), unix_seconds(document.get("valid_until"))
        except ValueError as error:
            raise WireError(f"context feed: issued and valid_until: {error}") from None
        if until_s <= issued_s:
            raise WireError("context feed: valid_until is not after issued")
        places = document.get("places")
        if not isinstance(places, Mapping) or len(places) > MOST_PLACES:
            raise WireError(f"context feed: places: expected an object of at most {MOST_PLACES} places")
        read = {}
        for name, known in places.items():
            try:
                key = _key(normalised("place", "", (), name))
            except ValueError as error:
                raise WireError(f"context feed: {str(name)[:60]!r} is not the name of a place: {error}") from None
            if not isinstance(known, Mapping):
                raise WireError(f"context feed: {str(name)[:60]!r}: expected an object")
            read[key] = {field: known[field] for field in (*_KEPT, *_WHERE) if field in known}
            for field, most in zip(_WHERE, (90, 180), strict=True):
                number = read[key].get(field, 0.0)
                if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= most:
                    raise WireError(f"context feed: {str(name)[:60]!r}: {field} is not a number from -{most} to {most}")
        return cls(issued_s, until_s, read)

    def at(self, place: str) -> Mapping[str, Any]:
        """What the feed says about `place` (a place as the schema keeps it); {} if it says nothing.

        Found by name, by the part before a comma, or, for coordinates, as the nearest within NEAREST_KM.
        """
        for name in (_key(place), _key(place.partition(",")[0])):
            if name in self.places:
                return self.places[name]
        latitude, comma, longitude = place.partition(",")
        try:
            here = (float(latitude), float(longitude)) if comma else None
        except ValueError:
            here = None
        if here is None:
            return {}
        located = [known for known in self.places.values() if all(field in known for field in _WHERE)]
        nearest = min(located, key=lambda known: _km(here, (known["latitude"], known["longitude"])), default=None)
        if nearest is None or _km(here, (nearest["latitude"], nearest["longitude"])) > NEAREST_KM:
            return {}
        return nearest


@dataclass(frozen=True)
class FeedContext:
    """What the feed says about the place where the user is; nothing from a feed that is not valid now."""

    feed: Callable[[], ContextFeed | None]
    """The feed that arrived last."""
    place: Callable[[], Any]
    name: str = "feed"

    def provide(self, now_s: float) -> Mapping[str, Any]:
        feed, place = self.feed(), self.place()
        if feed is None or place is None or not feed.issued_s <= now_s < feed.valid_until_s:
            return {}
        known = feed.at(normalised("place", "", (), place))
        return {field: known[field] for field in _KEPT if field in known}


class ContextSources:
    """The providers of one app. A later one wins over an earlier one."""

    def __init__(self, providers: Sequence[ContextProvider], schema: ProfileSchema) -> None:
        """Raises ConfigError."""
        names = [provider.name for provider in providers]
        if (
            len(providers) > MOST_PROVIDERS
            or len(set(names)) != len(names)
            or not all(isinstance(name, str) and name for name in names)
        ):
            raise ConfigError(f"expected at most {MOST_PROVIDERS} context providers, each with a name of its own")
        self._providers = list(providers)
        self._schema = schema
        self.failures: dict[str, int] = dict.fromkeys(names, 0)
        """Provider -> how often it failed or said what the schema does not allow."""

    def gather(self, now_s: float) -> dict[str, Any]:
        """What all providers know now: contextual attributes of the schema, normalised. A provider that fails is counted."""
        found: dict[str, Any] = {}
        for provider in self._providers:
            try:
                for name, value in dict(provider.provide(now_s)).items():
                    attribute = self._schema.attribute(name)
                    if attribute is not None and attribute.source == "context" and value is not None:
                        found[name] = self._schema.check(name, value)
            except CaptureError as error:
                self.failures[provider.name] += 1
                _log.warning("context provider %r: not usable: %s", provider.name, ", ".join(error.fields))
            except Exception as error:  # noqa: BLE001 - the app's code; what others know is worth having all the same
                self.failures[provider.name] += 1
                _log.warning("context provider %r failed: %s", provider.name, type(error).__name__)
        return found

    def event(self, now_s: float) -> dict[str, Any]:
        """The same as an event that Capture takes."""
        return {"type": "context", "timestamp": now_s, "properties": self.gather(now_s)}


def _key(name: str) -> str:
    return " ".join(name.casefold().split())


def _km(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Distance on a sphere of 6371 km: the haversine formula, latitude and longitude in degrees."""
    (lat1, lon1), (lat2, lon2) = (tuple(map(math.radians, point)) for point in (one, other))
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6371.0 * math.asin(min(1.0, math.sqrt(half)))
