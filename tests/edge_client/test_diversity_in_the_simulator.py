"""What the guard against a filter bubble does to simulated travellers whose choices feed back into what they see, and what it
costs them. The same comparison with a learning bandit, over more travellers: benchmarks/travelers.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from edge_client.decide.diversity import DiversityLimits, Exposure, divergence, shares
from edge_client.decide.travel import TravelAdviser
from edge_client.decide.travel_constraints import Trip
from shared_models.travel.catalogue import load_catalogue
from shared_models.travel.simulator import Traveller, World

SESSIONS, SIZE = 40, 3
NO_GUARD = DiversityLimits(strength=0.0, most_loss=0.0)


@dataclass(frozen=True)
class Shown:
    countries: float
    """Effective number (exp of the entropy)."""
    largest: float
    """Share of the country shown most."""
    one_sided: float
    """Mean divergence of a list from all there is, in nats."""
    pleasing: float
    """Mean true probability of being accepted."""


def bubble(world: World, seed: int, limits: DiversityLimits, guarded: bool) -> Shown:
    """One traveller; taste is what was accepted so far, by what the places offer: the loop that makes a bubble."""
    catalogue = world.catalogue
    adviser, traveller, exposure = TravelAdviser(catalogue, diversity=limits), Traveller(world, seed), Exposure(limits)
    names = catalogue.feature_names
    design = np.concatenate([np.ones((len(catalogue), 1)), catalogue.features], axis=1)
    gram, moment = 2.0 * np.eye(len(names) + 1), np.zeros(len(names) + 1)
    moment[0] = 0.6
    countries: list[str] = []
    apart, pleasing = [], []
    for _ in range(SESSIONS):
        now, said = traveller.situation(), traveller.declared
        trip = Trip(now.first, now.last, said.budget, said.home, dict(said.wishes))
        taste = np.clip(design @ np.linalg.solve(gram, moment), 0.0, 1.0)
        advice = adviser.suggest(trip, size=SIZE, taste=taste, exposure=exposure if guarded else None)
        listed = [catalogue.rows[one.place.id] for one in advice.suggestions]
        shown = [one.place.country for one in advice.suggestions]
        exposure.record(shown)
        countries += shown
        apart.append(divergence(shares(catalogue.features), shares(catalogue.features[listed])))
        pleasing.append(float(traveller.probabilities()[listed].mean()))
        for row in listed:
            gram += np.outer(design[row], design[row])
            moment += design[row] * traveller.answer(row)
        traveller.next_session()
    parts = np.unique(countries, return_counts=True)[1] / len(countries)
    entropy = float(-np.sum(parts * np.log(parts)))
    return Shown(float(np.exp(entropy)), float(parts.max()), float(np.mean(apart)), float(np.mean(pleasing)))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Shown, Shown]]:
    """(with the guard, without it) of the same travellers."""
    world = World.drawn(load_catalogue(), 0)
    return [(bubble(world, seed, DiversityLimits(), True), bubble(world, seed, NO_GUARD, False)) for seed in range(8)]


@pytest.mark.deep
def test_the_guard_makes_lists_less_one_sided_and_opens_the_narrowest_bubbles(pairs: list[tuple[Shown, Shown]]) -> None:
    """Every list is nearer to all there is; more countries come mostly where there were few: that is all it does."""
    assert all(guard.one_sided < without.one_sided for guard, without in pairs)
    narrow = sorted(pairs, key=lambda pair: pair[1].countries)[:4]
    assert np.mean([guard.countries / without.countries for guard, without in narrow]) > 1.3
    assert np.mean([guard.largest for guard, _ in narrow]) < 0.85 * np.mean([without.largest for _, without in narrow])
    assert np.mean([guard.countries for guard, _ in pairs]) > np.mean([without.countries for _, without in pairs])


@pytest.mark.deep
def test_what_the_guard_costs_is_bounded(pairs: list[tuple[Shown, Shown]]) -> None:
    """It need not be free: what docs/ethics.md says of the price fails here if it grows."""
    ours, theirs = (float(np.mean([pair[side].pleasing for pair in pairs])) for side in (0, 1))
    assert ours > 0.95 * theirs
