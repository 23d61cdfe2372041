"""The real travel bundle with what the conversation needs beside the models: catalogue, feed, places, words, item space."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
from real_bundle import RealBundle

from edge_client.bundles import BundleStore
from shared_models.bundle import (
    CATALOGUE_TARGET,
    FEED_TARGET,
    ITEM_SPACE_TARGET,
    PLACES_TARGET,
    Wording,
    words_target,
)
from shared_models.context_feed import BroadcastFeed, Day
from shared_models.context_feed import Place as FeedPlace
from shared_models.domain import TRAVEL, Domain
from shared_models.languages.domain_words import load_domain_words
from shared_models.languages.place_list import Place, PlaceList
from shared_models.preference import ItemSpace, to_onnx
from shared_models.rules.ruleset import RuleSet
from shared_models.travel.catalogue import Catalogue, load_catalogue

TODAY = date(2026, 11, 24)
NOW_S = datetime(2026, 11, 24, 10, tzinfo=UTC).timestamp()


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    return load_catalogue()


@lru_cache(maxsize=1)
def item_space() -> bytes:
    """An item space whose vectors are what the places offer: liking one place makes places like it likelier."""
    places = catalogue()
    n = len(places)
    offered = (places.features - places.features.mean(axis=0)).astype(np.float32)
    nothing = np.zeros((n, 0), np.float32)
    prior = np.log(np.full(n, 1.0 / n)).astype(np.float32)
    ids = tuple(place.id for place in places.destinations)
    return to_onnx(ItemSpace(ids, prior, nothing, nothing, 3.0 * offered, nothing))


def feed(now_s: float = NOW_S) -> BroadcastFeed:
    """Five days of rain in Lisbon, and of sun everywhere else."""
    start = datetime.fromtimestamp(now_s, UTC).date()
    places = catalogue().destinations

    def days(id: str) -> tuple[Day, ...]:
        wet = id == "lisbon"
        return tuple(
            Day(start + timedelta(days=number), "rain" if wet else "clear", 20.0, 10.0, 8.0 if wet else 0.0)
            for number in range(5)
        )

    known = tuple(
        FeedPlace(place.id, place.names["en"], place.country, place.latitude, place.longitude, days(place.id))
        for place in places
    )
    return BroadcastFeed(int(now_s) - 60, int(now_s) + 36 * 3600, known, sources={"weather": "a test"})


def _places() -> bytes:
    """A few countries and cities: the whole list takes seconds to make."""
    known = (
        Place("es", "country", "ES", 40.0, -4.0, 47_000_000, ("Spain", "Spanien", "España")),
        Place("it", "country", "IT", 42.5, 12.5, 59_000_000, ("Italy", "Italien", "Italia")),
        Place("de", "country", "DE", 51.0, 10.0, 83_000_000, ("Germany", "Deutschland", "Alemania")),
        Place("1", "favourite", "DE", 52.5, 13.4, 3_600_000, ("Berlin", "Berlin", "Berlín")),
        Place("2", "favourite", "IT", 41.9, 12.5, 2_800_000, ("Rome", "Rom", "Roma")),
    )
    return PlaceList(known, ("a test",)).to_bytes()


def words(domain: Domain, language: str) -> bytes:
    found = load_domain_words(domain, TRAVEL, language)
    return Wording(found.templates, found.labels).to_bytes()


def parts(domain: Domain, *, with_space: bool = True) -> dict[str, bytes | Path | None]:
    """All optional targets that the tests use."""
    found: dict[str, bytes | Path | None] = {
        CATALOGUE_TARGET: catalogue().to_bytes(),
        FEED_TARGET: feed(time.time()).to_bytes(),
        PLACES_TARGET: _places(),
        words_target("de"): words(domain, "de"),
        words_target("es"): words(domain, "es"),
    }
    return {**found, ITEM_SPACE_TARGET: item_space()} if with_space else found


def travel_bundles(real: RealBundle, root: Path, rules: RuleSet | None = None) -> BundleStore:
    """The bundle with all of it, published and arrived."""
    folder = Path(shutil.copytree(real.folder, root / "published"))
    real.publish(1, rules, folder, parts(real.domain))
    store = BundleStore(root / "device")
    store.refresh(folder)
    return store
