"""The list of places of a bundle (`places.json`): what it holds, its bytes and its checks.

Made at build time (places_source.py); a device reads it and finds places in a text with it (edge_client.understand.places).

    {"format": 1, "attribution": [WHO SAYS SO, …],
     "places": [[KIND, ID, COUNTRY, LATITUDE, LONGITUDE, POPULATION, [NAME] or [ENGLISH, GERMAN, SPANISH, OTHER, …]], …]}
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from shared_models.bundle import MAX_TARGET_BYTES, PLACES_TARGET
from shared_models.canonical import parse_document
from shared_models.errors import WireError
from shared_models.languages import LANGUAGES

PLACES_FORMAT = 1
MAX_PLACES = 50_000
MAX_NAMES = 40
MAX_NAME_CHARS = 100
MAX_ATTRIBUTION_CHARS = 500
KINDS = ("country", "region", "city", "favourite")
_ID = re.compile(r"[a-z0-9_]{1,64}\Z")
_COUNTRY = re.compile(r"(?:[A-Z]{2})?\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """A country, a region, a city, or a destination of the domain."""

    id: str
    kind: str
    """`country`, `region`, `city`, `favourite` (a city that people travel to) or `destination` (of the domain)."""
    country: str
    """ISO 3166 code, or empty for what lies in several."""
    latitude: float
    longitude: float
    population: int
    names: tuple[str, str, str]
    """English, German, Spanish."""
    others: tuple[str, ...] = ()

    def name(self, language: str) -> str:
        return self.names[LANGUAGES.index(language)]


@dataclass(frozen=True, eq=False)
class PlaceList:
    """All places of a bundle."""

    places: tuple[Place, ...]
    attribution: tuple[str, ...] = ()
    """Whose data it holds and under which licence; shown to the user."""

    def to_bytes(self) -> bytes:
        """One line of compact JSON. Raises WireError for what a device would refuse."""
        document = {
            "format": PLACES_FORMAT,
            "attribution": list(self.attribution),
            "places": [
                [place.kind, place.id, place.country, place.latitude, place.longitude, place.population, _names(place)]
                for place in self.places
            ],
        }
        raw = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        PlaceList.from_bytes(raw)
        return raw

    @classmethod
    def from_checked_bytes(cls, raw: bytes) -> PlaceList:
        """Read bytes that `from_bytes` took when they arrived, in half of its time. Raises WireError for another layout."""
        try:
            document = json.loads(raw)
            places = tuple(
                Place(id, kind, country, latitude, longitude, population, *_split(names))
                for kind, id, country, latitude, longitude, population, names in document["places"]
            )
            return cls(places, tuple(document["attribution"]))
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise WireError(f"not a list of places: {str(error)[:200]}") from error

    @classmethod
    def from_bytes(cls, raw: bytes) -> PlaceList:
        """Parse and check. Raises WireError that names the row."""
        document = parse_document(raw, limit_bytes=MAX_TARGET_BYTES[PLACES_TARGET])
        if set(document) != {"format", "attribution", "places"}:
            raise WireError("places: expected the fields format, attribution and places")
        if document["format"] != PLACES_FORMAT or isinstance(document["format"], bool):
            raise WireError(f"places: format is {str(document['format'])[:20]!r}, this version reads {PLACES_FORMAT}")
        said, rows = document["attribution"], document["places"]
        if (
            not isinstance(said, list)
            or len(said) > 20
            or not all(_is_text(one, MAX_ATTRIBUTION_CHARS) for one in said)
        ):
            raise WireError("places: attribution: expected a list of short texts")
        if not isinstance(rows, list) or len(rows) > MAX_PLACES:
            raise WireError(f"places: expected a list of at most {MAX_PLACES}")
        places = tuple(_place(number, row) for number, row in enumerate(rows, 1))
        if len({(place.kind, place.id) for place in places}) != len(places):
            raise WireError("places: one stands twice")
        return cls(places, tuple(said))


def _names(place: Place) -> list[str]:
    alike = len(set(place.names)) == 1 and not place.others
    return [place.names[0]] if alike else [*place.names, *place.others]


def _place(number: int, row: Any) -> Place:
    if not isinstance(row, list) or len(row) != 7:
        raise WireError(f"places: row {number}: expected seven values")
    kind, id, country, latitude, longitude, population, names = row
    if kind not in KINDS:
        raise WireError(f"places: row {number}: kind is {str(kind)[:40]!r}, expected one of {', '.join(KINDS)}")
    if not isinstance(id, str) or not _ID.match(id) or not isinstance(country, str) or not _COUNTRY.match(country):
        raise WireError(f"places: row {number}: {str(id)[:40]!r} or {str(country)[:40]!r} is not an id or a country")
    _check_number(number, latitude, 90.0)
    _check_number(number, longitude, 180.0)
    if type(population) is not int or not 0 <= population <= 10_000_000_000:
        raise WireError(f"places: row {number}: population is {str(population)[:40]!r}")
    return Place(id, kind, country, float(latitude), float(longitude), population, *_checked_names(number, names))


def _checked_names(number: int, names: Any) -> tuple[tuple[str, str, str], tuple[str, ...]]:
    if not isinstance(names, list) or len(names) > MAX_NAMES or len(names) in (0, 2):
        raise WireError(
            f"places: row {number}: expected one name, or one for each of {', '.join(LANGUAGES)} and others"
        )
    if not all(_is_text(name, MAX_NAME_CHARS) for name in names):
        raise WireError(f"places: row {number}: names are printable texts of 1 to {MAX_NAME_CHARS} characters")
    return _split(names)


def _split(names: list[str]) -> tuple[tuple[str, str, str], tuple[str, ...]]:
    if len(names) == 1:
        return (names[0], names[0], names[0]), ()
    return (names[0], names[1], names[2]), tuple(names[3:])


def _check_number(number: int, value: Any, most: float) -> None:
    if type(value) not in (int, float) or not -most <= value <= most:
        raise WireError(f"places: row {number}: {str(value)[:40]!r} is not a number from {-most:g} to {most:g}")


def _is_text(value: Any, most: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most and value.isprintable() and not value.isspace()
