"""Small, valid contents for every optional target of a bundle."""

from __future__ import annotations

from datetime import date
from functools import lru_cache

import numpy as np

from shared_models.bandit_prior import BanditPrior
from shared_models.bundle import (
    BANDIT_PRIOR_TARGET,
    CATALOGUE_TARGET,
    FEED_TARGET,
    ITEM_SPACE_TARGET,
    ITEMS_TARGET,
    PHRASES_TARGET,
    PLACES_TARGET,
    PROFILE_TARGET,
    Wording,
    words_target,
)
from shared_models.canonical import canonical_bytes
from shared_models.context_feed import BroadcastFeed, Day
from shared_models.context_feed import Place as FeedPlace
from shared_models.languages.place_list import Place, PlaceList
from shared_models.phrases import PublicPhrases
from shared_models.preference import ItemSpace, to_onnx
from shared_models.travel.catalogue import Catalogue, Destination, Month

ITEMS = ("lisbon", "oslo", "quito")
PROFILE = b"attributes:\n  shoe_size: {kind: demographic, type: integer, retention_days: 30, source: declared}\n"


@lru_cache(maxsize=4)
def item_space(items: tuple[str, ...] = ITEMS) -> bytes:
    """An item space whose items are all in its head."""
    n = len(items)
    zeros = np.zeros((n, n), np.float32)
    return to_onnx(
        ItemSpace(
            items,
            np.log(np.full(n, 1.0 / n)).astype(np.float32),
            zeros,
            zeros,
            np.eye(n, dtype=np.float32)[:, :2],
            np.zeros((0, n), np.float32),
        )
    )


def catalogue() -> Catalogue:
    """Two destinations."""
    months = (Month(20.0, 10.0, 8.0),) * 12
    made = (("lisbon", "Lisbon", "Lissabon", "Lisboa", "PT"), ("oslo", "Oslo", "Oslo", "Oslo", "NO"))
    return Catalogue(
        ("beach",),
        tuple(
            Destination(
                id,
                {"en": english, "de": german, "es": spanish},
                country,
                40.0,
                5.0,
                "Europe/Lisbon",
                {"beach": 0.5},
                {"winter": 60.0, "spring": 60.0, "summer": 80.0, "autumn": 60.0},
                months,
            )
            for id, english, german, spanish, country in made
        ),
    )


def feed(issued_s: int) -> BroadcastFeed:
    """One place with one day, valid for 36 hours."""
    day = Day(date(2027, 1, 15), "rain", 12.0, 5.0, 4.0)
    return BroadcastFeed(issued_s, issued_s + 36 * 3600, (FeedPlace("lisbon", "Lisbon", "PT", 40.0, 5.0, (day,)),))


def places() -> PlaceList:
    """A country and a city."""
    spain = Place("es", "country", "ES", 0.0, 0.0, 46_000_000, ("Spain", "Spanien", "España"))
    return PlaceList(
        (spain, Place("1", "favourite", "ES", 37.4, -6.0, 690_000, ("Seville", "Sevilla", "Sevilla"))), ("us",)
    )


def all_parts(issued_s: float) -> dict[str, bytes | None]:
    """Every optional target by its name, for labels `greeting` and `thanks`."""
    prior = BanditPrior.wide(("warm", "near"), reward_low=0.0, reward_high=1.0)
    said = Wording({"greeting": ("Hallo.",), "unsure": ("Wie bitte?",)}, {"greeting": "grüßen"})
    return {
        ITEMS_TARGET: canonical_bytes({"format": 1, "items": list(ITEMS)}),
        ITEM_SPACE_TARGET: item_space(),
        BANDIT_PRIOR_TARGET: prior.to_bytes(),
        PHRASES_TARGET: PublicPhrases({"greeting": ("Hello",), "thanks": ("Thank you",)}).to_bytes(),
        words_target("de"): said.to_bytes(),
        PROFILE_TARGET: PROFILE,
        PLACES_TARGET: places().to_bytes(),
        FEED_TARGET: feed(int(issued_s)).to_bytes(),
        CATALOGUE_TARGET: catalogue().to_bytes(),
    }
