"""Nothing is suggested without a reason, and the reasons are the numbers that the ranking used."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from edge_client.answer.offers import card, spoken_offer
from edge_client.decide.travel import MOST_DRAWBACKS, MOST_REASONS, PARTS, Suggestion, TravelAdviser, Visit
from edge_client.decide.travel_constraints import MOODS, Trip
from shared_models.travel.catalogue import LANGUAGES, Catalogue, load_catalogue

SAID_FROM = 0.04
"""A part of the score that is smaller is no reason: the tests fail if that grows."""
PART_OF = {
    "taste": "taste",
    "not_taste": "taste",
    "wish": "wishes",
    "missing_wish": "wishes",
    "mood": "mood",
    "forecast": "weather",
    "climate": "weather",
    "price": "price",
    "distance": "distance",
    "event": "events",
    "visited": "history",
    "like": "history",
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


def advised(catalogue: Catalogue, count: int) -> list[Suggestion]:
    """Suggestions in very different situations, down to one in which nothing is known."""
    adviser, random, found = TravelAdviser(catalogue), np.random.default_rng(0), []
    names = catalogue.feature_names
    for number in range(count):
        first = date(2027, 1, 1) + timedelta(days=int(random.integers(0, 360)))
        wishes = {
            str(name): float(random.uniform(0.1, 1.0)) for name in random.choice(names, random.integers(0, 3), False)
        }
        trip = Trip(
            first,
            first + timedelta(days=int(random.integers(1, 20))),
            wishes=wishes,
            budget=None if random.random() < 0.5 else float(random.uniform(40, 250)),
            origin=None if random.random() < 0.5 else (52.5, 13.4),
            mood=None if random.random() < 0.5 else str(random.choice(list(MOODS))),
        )
        taste = None if random.random() < 0.5 else random.random(len(catalogue))
        ids = [place.id for place in catalogue.destinations]
        visits = [Visit(str(random.choice(ids)), bool(random.random() < 0.5)) for _ in range(random.integers(0, 4))]
        found += adviser.suggest(trip, taste=taste, visits=visits, size=5).suggestions
        # The worst places, too: somebody else may choose them.
        found += adviser.explain([str(random.choice(ids)) for _ in range(4)], trip, taste=taste, visits=visits)
        if number % 10 == 0:
            found += adviser.explain(ids[::7], Trip(first, first + timedelta(days=3)))
    return found


def test_no_card_exists_without_a_reason_in_words(catalogue: Catalogue) -> None:
    suggestions = advised(catalogue, 60)
    assert len(suggestions) > 500
    for one in suggestions:
        for language in LANGUAGES:
            shown = card(one, 5, language, "d1", 0.5)
            assert shown.reasons, one.place.id
            assert all(reason.strip() for reason in shown.reasons)
            assert spoken_offer(one, 5, language, date(2027, 5, 1)).reasons


def test_the_reasons_are_the_parts_of_the_score(catalogue: Catalogue) -> None:
    for one in advised(catalogue, 40):
        assert set(one.parts) == set(PARTS)
        assert one.score == pytest.approx(sum(one.parts.values()), abs=1e-9)
        told: dict[str, float] = {}
        for reason in (*one.reasons, *one.drawbacks):
            if reason.amount:
                told[PART_OF[reason.kind]] = told.get(PART_OF[reason.kind], 0.0) + reason.amount
        for part, amount in told.items():
            if part != "wishes":
                assert amount == pytest.approx(one.parts[part], abs=1e-9), (one.place.id, part)
        # All are told, unless the list is full.
        full = sum(reason.amount > 0 for reason in one.reasons) == MOST_REASONS, len(one.drawbacks) == MOST_DRAWBACKS
        if not any(full):
            untold = one.score - sum(told.values())
            assert abs(untold) <= SAID_FROM * (len(PARTS) + 3), (one.place.id, one.parts, told)


def test_reasons_come_strongest_first_and_what_speaks_against_it_is_said(catalogue: Catalogue) -> None:
    against = 0
    for one in advised(catalogue, 30):
        amounts = [reason.amount for reason in one.reasons]
        assert all(amount >= 0.0 for amount in amounts)
        assert amounts == sorted(amounts, reverse=True)
        assert [reason.amount for reason in one.drawbacks] == sorted(reason.amount for reason in one.drawbacks)
        against += bool(one.drawbacks)
    assert against > 100
