"""What the guard against filter bubbles does to simulated travellers, and what it costs them; called by benchmarks/travelers.py.

Lists of three, ranked by the adviser with a learning bandit's taste: with the guard (calibrated re-ranking, exposure share by
country) and without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.harness import Row
from benchmarks.traveler_policies import RankedByAdviser, action_features
from edge_client.decide.diversity import DiversityLimits, Exposure, divergence, shares
from edge_client.decide.travel import TravelAdviser
from shared_models.bandit_prior import BanditPrior
from shared_models.travel.catalogue import Array
from shared_models.travel.simulator import Traveller, World

SESSIONS = 80
SIZE = 3
NO_GUARD = DiversityLimits(strength=0.0, most_loss=0.0)


@dataclass(frozen=True)
class Shown:
    """What one traveller was shown."""

    countries: float
    """Effective number of countries (exp of the entropy)."""
    largest: float
    """Share of the country that was shown most."""
    one_sided: float
    """Mean divergence of a list's features from those of all places, in nats."""
    accepted: float
    """Mean true probability with which what was shown would be accepted."""


def shown_to(
    world: World, prior: BanditPrior, rates: Array, seed: int, limits: DiversityLimits, guarded: bool
) -> Shown:
    """80 sessions of one traveller."""
    catalogue, adviser = world.catalogue, TravelAdviser(world.catalogue, diversity=limits)
    traveller, exposure = Traveller(world, seed, sessions=SESSIONS), Exposure(limits)
    policy = RankedByAdviser(adviser, traveller.declared, seed, prior, rates)
    everything = shares(catalogue.features)
    countries: list[str] = []
    apart, accepted = [], []
    for _ in range(SESSIONS):
        policy.begin(traveller.situation())
        rows = action_features(policy, rates, rules=True)
        taste = np.clip(rows @ policy.bandit.mean, 0.0, 1.0)
        forbidden = [place.id for place, left in zip(catalogue.destinations, policy.left, strict=True) if not left]
        advice = adviser.suggest(
            policy.trip, size=SIZE, taste=taste, forbidden=forbidden, exposure=exposure if guarded else None
        )
        listed = [catalogue.rows[suggestion.place.id] for suggestion in advice.suggestions]
        shown = [suggestion.place.country for suggestion in advice.suggestions]
        exposure.record(shown)
        countries += shown
        apart.append(divergence(everything, shares(catalogue.features[listed])))
        accepted.append(float(traveller.probabilities()[listed].mean()))
        for row in listed:
            yes = traveller.answer(row)
            policy.bandit.learn(rows[row], float(yes))
            policy.yes[row] += yes
            policy.no[row] += not yes
            policy.recent[row] += yes
        traveller.next_session()
    parts = np.unique(countries, return_counts=True)[1] / len(countries)
    return Shown(
        float(np.exp(-np.sum(parts * np.log(parts)))),
        float(parts.max()),
        float(np.mean(apart)),
        float(np.mean(accepted)),
    )


def variety(world: World, prior: BanditPrior, rates: Array, travellers: int) -> list[Row]:
    """Rows: with the guard, without it."""
    guard = [shown_to(world, prior, rates, seed, DiversityLimits(), True) for seed in range(travellers)]
    without = [shown_to(world, prior, rates, seed, NO_GUARD, False) for seed in range(travellers)]
    rows = []
    for name, metric, unit in (
        ("countries", "countries shown, effective number", ""),
        ("largest", "share of the country shown most", ""),
        ("one_sided", "divergence of a list from all there is", "nats"),
        ("accepted", "true probability that what is shown pleases", ""),
    ):
        ours, theirs = (np.array([getattr(one, name) for one in some]) for some in (guard, without))
        gap = ours - theirs
        half = 1.96 * float(gap.std(ddof=1)) / np.sqrt(len(gap)) if len(gap) > 1 else float("nan")
        said = f"{metric} (difference {gap.mean():+.3f} ± {half:.3f})"
        rows.append(
            Row("filter-bubble guard", said, unit, float(ours.mean()), "without it", float(theirs.mean()), travellers)
        )
    return rows
