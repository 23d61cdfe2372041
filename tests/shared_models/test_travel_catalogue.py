"""The catalogue of destinations: what ships is plausible, and what is malformed is refused with place and field."""

from __future__ import annotations

import copy
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from shared_models.errors import DomainError
from shared_models.travel.catalogue import (
    LANGUAGES,
    SEASONS,
    Catalogue,
    distance_km,
    load_catalogue,
    season,
)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture
def document(catalogue: Catalogue) -> dict[str, Any]:
    """Two places, to be spoiled."""
    whole = copy.deepcopy(catalogue.document())
    whole["destinations"] = whole["destinations"][:2]
    return whole


def test_at_least_150_destinations_ship_in_three_languages(catalogue: Catalogue) -> None:
    assert len(catalogue) >= 150
    assert all(set(place.names) == set(LANGUAGES) for place in catalogue.destinations)
    assert len({place.country for place in catalogue.destinations}) >= 60


def test_every_time_zone_exists(catalogue: Catalogue) -> None:
    for place in catalogue.destinations:
        ZoneInfo(place.zone)


def test_every_feature_has_places_that_are_strong_and_weak_in_it(catalogue: Catalogue) -> None:
    for name in catalogue.feature_names:
        assert catalogue.column(name).max() >= 0.9
        assert catalogue.column(name).min() <= 0.3
        assert catalogue.column(name).std() >= 0.1


def test_no_two_places_stand_on_each_other(catalogue: Catalogue) -> None:
    for place in catalogue.destinations:
        away = catalogue.distances_km(place.latitude, place.longitude)
        assert np.sort(away)[1] > 5.0, place.id


def test_summers_are_warmer_than_winters_away_from_the_equator(catalogue: Catalogue) -> None:
    for row, place in enumerate(catalogue.destinations):
        if abs(place.latitude) < 30:
            continue
        by_season = {
            name: np.mean([catalogue.highs[row, m - 1] for m in range(1, 13) if season(place.latitude, m) == name])
            for name in SEASONS
        }
        assert by_season["summer"] > by_season["winter"] + 3.0, place.id


def test_neighbours_have_similar_weather(catalogue: Catalogue) -> None:
    """A slip in a row of numbers shows as a month that jumps."""
    steps = np.abs(np.diff(np.column_stack([catalogue.highs, catalogue.highs[:, :1]]), axis=1))
    assert steps.max() <= 15.0


def test_seasons_are_turned_round_in_the_south() -> None:
    assert [season(52.0, month) for month in (1, 4, 7, 10, 12)] == ["winter", "spring", "summer", "autumn", "winter"]
    assert [season(-34.0, month) for month in (1, 4, 7, 10, 12)] == ["summer", "autumn", "winter", "spring", "summer"]


def test_price_follows_the_season_of_the_place(catalogue: Catalogue) -> None:
    sydney = catalogue.place("sydney")
    assert sydney.price_in(1) == sydney.price["summer"]
    assert catalogue.prices[catalogue.rows["sydney"], 6] == sydney.price["winter"]


def test_distances_agree_with_known_ones(catalogue: Catalogue) -> None:
    assert distance_km(catalogue.place("london"), catalogue.place("paris")) == pytest.approx(344, rel=0.01)
    assert distance_km(catalogue.place("london"), catalogue.place("new_york")) == pytest.approx(5570, rel=0.01)
    assert distance_km(catalogue.place("fiji"), catalogue.place("bora_bora")) < 3500  # across the date line
    assert distance_km(catalogue.place("paris"), catalogue.place("paris")) == 0.0


def test_places_are_found_by_any_name(catalogue: Catalogue) -> None:
    for text, id in {"LISSABON": "lisbon", "londres": "london", " new  york ": "new_york", "Ubud": "bali"}.items():
        found = catalogue.named(text)
        assert found is not None
        assert found.id == id
    assert catalogue.named("Atlantis") is None


def test_the_canonical_bytes_read_back_the_same(catalogue: Catalogue) -> None:
    assert Catalogue.from_bytes(catalogue.to_bytes()).document() == catalogue.document()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("id",), "Lisbon!", "id"),
        (("country",), "pt", "country"),
        (("at",), [91, 0], "at"),
        (("at",), [float("nan"), 0], "at"),
        (("at",), [0], "at"),
        (("zone",), "../etc/passwd", "zone"),
        (("name",), {"en": "x"}, "name"),
        (("name", "en"), "a\u202eb", "name.en"),
        (("name", "en"), 5, "name.en"),
        (("features", "beach"), 1.5, "features.beach"),
        (("features", "beach"), True, "features.beach"),
        (("features", "casino"), 0.5, "casino"),
        (("price", "winter"), 0, "price.winter"),
        (("price", "winter"), float("inf"), "price.winter"),
        (("climate", "rain"), [32] * 12, "climate.rain"),
        (("climate", "high"), [10] * 11, "climate.high"),
        (("climate", "high"), [-30] * 12, "above its high"),
        (("climate",), None, "climate"),
    ],
)
def test_a_malformed_place_is_refused_by_name(
    document: dict[str, Any], path: tuple[str, ...], value: Any, said: str
) -> None:
    spoiled = document["destinations"][1]
    for name in path[:-1]:
        spoiled = spoiled[name]
    spoiled[path[-1]] = value
    with pytest.raises(DomainError, match="destination 2") as refused:
        Catalogue.from_document(document)
    assert said in str(refused.value)


@pytest.mark.parametrize("document", [None, [], {}, {"format": 2, "features": ["x"], "destinations": []}, {1: 2}, "x"])
def test_what_is_no_catalogue_is_refused(document: Any) -> None:
    with pytest.raises(DomainError):
        Catalogue.from_document(document)


def test_a_place_that_stands_twice_is_refused(document: dict[str, Any]) -> None:
    document["destinations"].append(document["destinations"][0])
    with pytest.raises(DomainError, match="twice"):
        Catalogue.from_document(document)


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'{"format": NaN}', b"\xff", b"[" * 100_000])
def test_hostile_bytes_are_one_error(raw: bytes) -> None:
    with pytest.raises(DomainError):
        Catalogue.from_bytes(raw)


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.system ['true']", "\x00", "- 1"])
def test_hostile_yaml_is_one_error(tmp_path: Any, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(DomainError, match=r"x\.yaml"):
        load_catalogue(tmp_path / "x.yaml")
    with pytest.raises(DomainError):
        load_catalogue(tmp_path / "missing.yaml")


@pytest.mark.parametrize("month", [0, 13, 1.0, True, "5", None])
def test_what_is_no_month_is_refused(catalogue: Catalogue, month: Any) -> None:
    with pytest.raises(DomainError, match="month"):
        catalogue.place("lisbon").month(month)


@pytest.mark.parametrize("id", ["nowhere", "", None, 5, ["lisbon"]])
def test_an_unknown_place_is_refused(catalogue: Catalogue, id: Any) -> None:
    with pytest.raises(DomainError, match="not a destination"):
        catalogue.place(id)
