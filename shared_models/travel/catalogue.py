"""Where one can go: destinations with features, prices by season and climate by month, checked when they are read.

Authors write YAML (catalogue.yaml beside this file); a device reads the canonical JSON of the same document, which is faster.
Features are 0 (nothing) to 1 (a reason to go); prices are euros per person and day in the place's own season; climate is the
long-term monthly mean, January first. No weather of the day is here: that comes with the context feed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import yaml

from shared_models.canonical import canonical_bytes, parse_document
from shared_models.errors import DomainError, WireError
from shared_models.sensitive import check_features

Array = npt.NDArray[np.float64]
Season = Literal["winter", "spring", "summer", "autumn"]
SEASONS: tuple[Season, ...] = get_args(Season)
LANGUAGES = ("en", "de", "es")
CATALOGUE_FORMAT = 1
MAX_DESTINATIONS = 5000
MAX_FEATURES = 64
MAX_FILE_BYTES = 4 * 1024 * 1024
EARTH_KM = 6371.0
DESTINATIONS = Path(__file__).parent / "catalogue.yaml"
"""The catalogue that ships."""

_ID = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_COUNTRY = re.compile(r"[A-Z]{2}\Z")
_ZONE = re.compile(r"[A-Z][A-Za-z]+(?:/[A-Z][A-Za-z_-]+){1,2}\Z")
_FIELDS = {"id", "name", "country", "at", "zone", "features", "price", "climate"}


@dataclass(frozen=True)
class Month:
    """What a month is like in the long run."""

    high_c: float
    """Mean daily high, degrees Celsius."""
    low_c: float
    rain_days: float
    """Days with at least 1 mm."""


@dataclass(frozen=True)
class Destination:
    """One place."""

    id: str
    names: Mapping[str, str]
    """Language -> name; one for each of LANGUAGES."""
    country: str
    """ISO 3166-1, two letters."""
    latitude: float
    longitude: float
    zone: str
    """Time zone of the IANA data base."""
    features: Mapping[str, float]
    """Feature -> 0..1, for every feature of the catalogue."""
    price: Mapping[Season, float]
    """Euros per person and day."""
    climate: tuple[Month, ...]
    """Twelve months, January first."""

    def name(self, language: str = "en") -> str:
        return self.names.get(language, self.names["en"])

    def month(self, month: int) -> Month:
        """`month` from 1 to 12."""
        return self.climate[_checked_month(month) - 1]

    def price_in(self, month: int) -> float:
        """Euros per person and day in `month`, 1 to 12."""
        return self.price[season(self.latitude, month)]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All places of a domain."""

    feature_names: tuple[str, ...]
    destinations: tuple[Destination, ...]

    def __len__(self) -> int:
        return len(self.destinations)

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Id -> row of the arrays below."""
        return {place.id: row for row, place in enumerate(self.destinations)}

    @cached_property
    def features(self) -> Array:
        """[n, features], in the order of `feature_names`."""
        return _array([[place.features[name] for name in self.feature_names] for place in self.destinations])

    @cached_property
    def prices(self) -> Array:
        """[n, 12], euros per person and day by month."""
        return _array([[place.price_in(month) for month in range(1, 13)] for place in self.destinations])

    @cached_property
    def highs(self) -> Array:
        """[n, 12], degrees Celsius."""
        return _array([[month.high_c for month in place.climate] for place in self.destinations])

    @cached_property
    def rain_days(self) -> Array:
        """[n, 12]"""
        return _array([[month.rain_days for month in place.climate] for place in self.destinations])

    def place(self, id: str) -> Destination:
        """Raises DomainError for an id that is not in the catalogue."""
        row = self.rows.get(id) if isinstance(id, str) else None
        if row is None:
            raise DomainError(f"{str(id)[:80]!r} is not a destination of this catalogue")
        return self.destinations[row]

    def column(self, feature: str) -> Array:
        """[n], one feature. Raises DomainError for one that this catalogue does not have."""
        if feature not in self.feature_names:
            raise DomainError(f"{str(feature)[:80]!r} is not a feature; there are {', '.join(self.feature_names)}")
        return np.asarray(self.features[:, self.feature_names.index(feature)])

    def named(self, text: str) -> Destination | None:
        """The destination with this name in any language, case aside, also without what stands in brackets; None for none."""
        return self._by_name.get(_plain(text))

    def distances_km(self, latitude: float, longitude: float) -> Array:
        """[n], from a point to every destination."""
        return distances_km(latitude, longitude, self._coordinates[:, 0], self._coordinates[:, 1])

    @cached_property
    def _coordinates(self) -> Array:
        return _array([[place.latitude, place.longitude] for place in self.destinations])

    @cached_property
    def _by_name(self) -> dict[str, Destination]:
        found: dict[str, Destination] = {}
        # A full name wins over a part of another's; the first place wins over a later one.
        for part in (False, True):
            for place in self.destinations:
                for name in (*place.names.values(), place.id.replace("_", " ")):
                    outside, bracket, inside = name.partition("(")
                    for text in (outside, inside.rstrip(")")) if part and bracket else (name,):
                        found.setdefault(_plain(text), place)
        return found

    def document(self) -> dict[str, Any]:
        """As plain JSON, in the form that authors write."""
        return {
            "format": CATALOGUE_FORMAT,
            "features": list(self.feature_names),
            "destinations": [
                {
                    "id": place.id,
                    "name": dict(place.names),
                    "country": place.country,
                    "at": [place.latitude, place.longitude],
                    "zone": place.zone,
                    "features": dict(place.features),
                    "price": dict(place.price),
                    "climate": {
                        "high": [month.high_c for month in place.climate],
                        "low": [month.low_c for month in place.climate],
                        "rain": [month.rain_days for month in place.climate],
                    },
                }
                for place in self.destinations
            ],
        }

    def to_bytes(self) -> bytes:
        return canonical_bytes(self.document())

    @classmethod
    def from_bytes(cls, raw: bytes) -> Catalogue:
        """Read the canonical JSON. Raises DomainError."""
        try:
            return cls.from_document(parse_document(raw, limit_bytes=MAX_FILE_BYTES))
        except WireError as error:
            raise DomainError(f"catalogue: {error}") from error

    @classmethod
    def from_document(cls, document: Any, where: str = "catalogue") -> Catalogue:
        """Check and build. Raises DomainError that names place and field."""
        body = _exactly(where, document, {"format", "features", "destinations"})
        if body["format"] != CATALOGUE_FORMAT or isinstance(body["format"], bool):
            raise DomainError(f"{where}: format is {str(body['format'])[:20]!r}, this version reads {CATALOGUE_FORMAT}")
        names = _list(f"{where}: features", body["features"], 1, MAX_FEATURES)
        for name in names:
            _match(f"{where}: features", name, _ID, "lower case letters, digits, underscores")
        check_features(names, where=f"{where}: features")
        entries = _list(f"{where}: destinations", body["destinations"], 1, MAX_DESTINATIONS)
        places = tuple(_destination(where, number, entry, names) for number, entry in enumerate(entries, 1))
        ids = {place.id for place in places}
        if len(ids) != len(places) or len(set(names)) != len(names):
            raise DomainError(f"{where}: an id or a feature stands twice")
        check_features([place.id for place in places], where=f"{where}: destinations")
        return cls(tuple(names), places)


def load_catalogue(path: Path | str = DESTINATIONS) -> Catalogue:
    """Read a YAML file of destinations. Raises DomainError."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DomainError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        # The parser in C, where there is one, is ten times as fast, and as safe.
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DomainError(f"{path}: cannot be read: {str(error)[:500]}") from error
    return Catalogue.from_document(document, str(path))


def season(latitude: float, month: int) -> Season:
    """The meteorological season at `latitude` in `month` (1 to 12): the south has winter in June, July and August."""
    northern = _checked_month(month) % 12 // 3
    return SEASONS[northern if latitude >= 0 else (northern + 2) % 4]


def distance_km(one: Destination, other: Destination) -> float:
    """Along a great circle."""
    return float(distances_km(one.latitude, one.longitude, _array([other.latitude]), _array([other.longitude]))[0])


def distances_km(latitude: float, longitude: float, latitudes: Array, longitudes: Array) -> Array:
    """Great circles from one point to many, degrees in, kilometres out: the haversine formula. Raises DomainError."""
    for name, value, most in (("latitude", latitude, 90.0), ("longitude", longitude, 180.0)):
        _number(name, value, -most, most)
    here, there = math.radians(latitude), np.radians(latitudes)
    half = np.sin((there - here) / 2) ** 2 + math.cos(here) * np.cos(there) * (
        np.sin(np.radians(longitudes - longitude) / 2) ** 2
    )
    return np.asarray(2 * EARTH_KM * np.arcsin(np.sqrt(np.minimum(half, 1.0))))


def _destination(where: str, number: int, entry: Any, names: list[Any]) -> Destination:
    where = f"{where}: destination {number}"
    body = _exactly(where, entry, _FIELDS)
    id = _match(f"{where}: id", body["id"], _ID, "lower case letters, digits, underscores")
    where = f"{where} ({id})"
    said = _exactly(f"{where}: name", body["name"], set(LANGUAGES))
    for language, name in said.items():
        if not isinstance(name, str) or not name.strip() or len(name) > 100 or not name.isprintable():
            raise DomainError(f"{where}: name.{language}: expected a text of 1 to 100 printable characters")
    at = _list(f"{where}: at", body["at"], 2, 2)
    features = _exactly(f"{where}: features", body["features"], set(names))
    price = _exactly(f"{where}: price", body["price"], set(SEASONS))
    climate = _exactly(f"{where}: climate", body["climate"], {"high", "low", "rain"})
    months = {name: _list(f"{where}: climate.{name}", climate[name], 12, 12) for name in climate}
    highs, lows = (_numbers(f"{where}: climate", months[name], -70, 60) for name in ("high", "low"))
    if any(low > high for low, high in zip(lows, highs, strict=True)):
        raise DomainError(f"{where}: climate: a month's low is above its high")
    rain = _numbers(f"{where}: climate.rain", months["rain"], 0, 31)
    return Destination(
        id=id,
        names=said,
        country=_match(f"{where}: country", body["country"], _COUNTRY, "two capitals of ISO 3166-1"),
        latitude=_number(f"{where}: at", at[0], -90, 90),
        longitude=_number(f"{where}: at", at[1], -180, 180),
        zone=_match(f"{where}: zone", body["zone"], _ZONE, "a time zone such as Europe/Lisbon"),
        features={
            name: value
            if type(value := features[name]) is float and 0.0 <= value <= 1.0
            else _number(f"{where}: features.{name}", value, 0, 1)
            for name in names
        },
        price={name: _number(f"{where}: price.{name}", price[name], 1, 10_000) for name in SEASONS},
        climate=tuple(Month(*values) for values in zip(highs, lows, rain, strict=True)),
    )


def _exactly(where: str, value: Any, fields: set[str]) -> Mapping[str, Any]:
    if type(value) is dict and value.keys() == fields:
        return value
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise DomainError(f"{where}: expected a mapping, got {type(value).__name__}")
    if wrong := fields ^ set(value):
        problem = "is missing" if min(wrong) in fields else "is unknown"
        raise DomainError(f"{where}: field {min(wrong)[:80]!r} {problem}")
    return value


def _list(where: str, value: Any, least: int, most: int) -> list[Any]:
    if not isinstance(value, list) or not least <= len(value) <= most:
        expected = str(least) if least == most else f"{least} to {most}"
        raise DomainError(f"{where}: expected a list of {expected}")
    return value


def _match(where: str, value: Any, pattern: re.Pattern[str], expected: str) -> str:
    if not isinstance(value, str) or not pattern.match(value):
        raise DomainError(f"{where}: {str(value)[:80]!r}, expected {expected}")
    return value


def _number(where: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise DomainError(f"{where}: {str(value)[:80]!r} is not a number from {least:g} to {most:g}")
    return float(value)


def _numbers(where: str, values: list[Any], least: float, most: float) -> list[float]:
    return [
        value if type(value) is float and least <= value <= most else _number(where, value, least, most)
        for value in values
    ]


def _checked_month(month: object) -> int:
    if isinstance(month, bool) or not isinstance(month, int) or not 1 <= month <= 12:
        raise DomainError(f"{str(month)[:40]!r} is not a month, expected 1 to 12")
    return month


def _array(rows: list[Any]) -> Array:
    array = np.array(rows, dtype=np.float64)
    array.flags.writeable = False
    return array


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
