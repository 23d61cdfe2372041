"""The policies that benchmarks/travelers.py compares. All see what a device sees: declared wishes, answers, reasons;
never the truth.

random, popularity, rules only (the travel adviser without taste), ML only (the bandit alone, without rules or declared
wishes), and rules + ML: the same bandit, whose actions are what rules and constraints leave, with the adviser's score
among its features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_client.decide.bandit import Bandit, Exploration
from edge_client.decide.travel import TravelAdviser, Visit
from edge_client.decide.travel_constraints import Constraint, Mask, Trip, permitted, understand_refusal
from shared_models.bandit_prior import BanditPrior
from shared_models.travel.catalogue import Array, Catalogue
from shared_models.travel.simulator import Declared, Situation

REASONS: Mapping[str, str] = {
    "expensive": "No, that is too expensive",
    "hot": "Nein, dort ist es mir zu heiß",
    "cold": "No, hace demasiado frío... too cold for me",
    "far": "no, because it is too far",
}
DAY_S = 86_400.0
RECENT = 12.0
"""Sessions after which half of "was there lately" has faded."""
STALE = 0.3
"""What is left of an answer after 20 sessions: until then a place is not suggested again by those that do not learn."""


class Policy:
    """Base: knows the traveller's words and what was tried."""

    name = "random"
    uses_rules = False

    def __init__(self, adviser: TravelAdviser, declared: Declared, seed: int) -> None:
        self.adviser, self.catalogue, self.declared = adviser, adviser.catalogue, declared
        self.random = np.random.default_rng([seed, 5])
        count = len(self.catalogue)
        self.yes, self.no, self.recent = np.zeros(count), np.zeros(count), np.zeros(count)
        self.refused = np.zeros(count)
        """As `recent`, of what was refused: no policy without learning comes back to that at once."""
        self.constraints: list[Constraint] = []
        self.now: Situation | None = None
        self.hard = [Constraint("max_price", declared.hard_limit)]
        self.hard += [Constraint("not_country", country) for country in declared.avoided]

    def begin(self, situation: Situation) -> None:
        """A session begins."""
        self.now, self.constraints = situation, []
        self.tried = np.zeros(len(self.catalogue), dtype=bool)
        self.recent *= 0.5 ** (1.0 / RECENT)
        self.refused *= 0.5 ** (1.0 / RECENT)

    def choose(self) -> int:
        return int(self.random.choice(np.flatnonzero(~self.tried)))

    def learn(self, row: int, yes: bool, reason: str) -> None:
        """What was answered; a reason as the traveller would type it."""
        self.tried[row] = True
        (self.yes if yes else self.no)[row] += 1
        self.recent[row] += yes
        self.refused[row] += not yes
        if reason and self.uses_rules:
            place = self.catalogue.destinations[row]
            self.constraints += understand_refusal(REASONS[reason], place, self.trip, self.catalogue).constraints

    def remembered(self) -> Policy:
        """A copy of what features are made of, as it is now."""
        view = Policy(self.adviser, self.declared, 0)
        view.now, view.yes, view.no, view.recent = self.now, self.yes.copy(), self.no.copy(), self.recent.copy()
        return view

    @property
    def trip(self) -> Trip:
        assert self.now is not None
        said = self.declared
        return Trip(self.now.first, self.now.last, said.budget, said.home, dict(said.wishes))

    @property
    def left(self) -> Mask:
        """[n]: what hard limits, this session's reasons and this session's refusals leave; without the reasons if nothing
        is."""
        allowed = permitted(self.catalogue, self.trip, self.hard) & ~self.tried
        with_reasons = allowed & permitted(self.catalogue, self.trip, self.constraints)
        return with_reasons if with_reasons.any() else allowed


class Popularity(Policy):
    """What the population accepts most in this season of the year."""

    name = "popularity"

    def __init__(self, adviser: TravelAdviser, declared: Declared, seed: int, rates: Array) -> None:
        """`rates` [n, 4]: smoothed share of acceptance by quarter of the year."""
        super().__init__(adviser, declared, seed)
        self._rates = rates

    def choose(self) -> int:
        lately = (self.recent > STALE) | (self.refused > STALE)
        return int(np.where(self.tried | lately, -1.0, self._rates[:, quarter(self.trip)]).argmax())


class RulesOnly(Policy):
    """The travel adviser as it ships, with what the traveller declared and where they have been."""

    name = "rules only"
    uses_rules = True

    def choose(self) -> int:
        visits = [Visit(self.catalogue.destinations[row].id) for row in np.flatnonzero(self.recent > STALE)]
        scores = self.adviser.declared_scores(self.trip, visits=visits) - 10.0 * (self.refused > STALE)
        return int(np.where(self.left, scores, -np.inf).argmax())


class Learned(Policy):
    """The bandit over all places."""

    name = "ML only"

    def __init__(self, adviser: TravelAdviser, declared: Declared, seed: int, prior: BanditPrior, rates: Array) -> None:
        super().__init__(adviser, declared, seed)
        self._rates = rates
        # Tastes change over years; an old answer is worth half after so many days.
        self.bandit = Bandit(prior, EXPLORATION, random=self.random, half_life_s=900.0 * DAY_S)
        self._rows: Array | None = None

    def begin(self, situation: Situation) -> None:
        if self.now is not None:
            self.bandit.forget((situation.first - self.now.first).days * DAY_S)
        super().begin(situation)

    def choose(self) -> int:
        self._rows = action_features(self, self._rates, self.uses_rules)
        return self.bandit.choose(self._rows, self.left if self.uses_rules else ~self.tried).action

    def learn(self, row: int, yes: bool, reason: str) -> None:
        assert self._rows is not None
        self.bandit.learn(self._rows[row], float(yes))
        super().learn(row, yes, reason)


class RulesAndLearned(Learned):
    """The bandit under rules, with the adviser's score as one of its features."""

    name = "rules + ML"
    uses_rules = True


class RankedByAdviser(RulesAndLearned):
    """The same bandit's expectation handed to the travel adviser as taste, which ranks, explains and keeps the list varied."""

    name = "rules + ML, adviser ranks"

    def choose(self) -> int:
        self._rows = action_features(self, self._rates, rules=True)
        taste = np.clip(self._rows @ self.bandit.mean, 0.0, 1.0)
        forbidden = [place.id for place, left in zip(self.catalogue.destinations, self.left, strict=True) if not left]
        advice = self.adviser.suggest(self.trip, size=1, taste=taste, forbidden=forbidden)
        return self.catalogue.rows[advice.suggestions[0].place.id]


EXPLORATION = Exploration("thompson", spread=0.15, floor=0.02)


def feature_names(catalogue: Catalogue, rules: bool) -> tuple[str, ...]:
    context = ("one", "popular", "warm", "warm2", "rain", "price", "km", "own_yes", "own_no", "lately")
    return (*catalogue.feature_names, *context, *(("declared",) if rules else ()))


def action_features(policy: Policy, rates: Array, rules: bool) -> Array:
    """[n, d]: what the bandit sees of each place in this session."""
    catalogue, trip = policy.catalogue, policy.trip
    month = trip.month - 1
    high = catalogue.highs[:, month] / 20.0 - 1.0
    columns = [
        np.ones(len(catalogue)),
        rates[:, quarter(trip)] * 2.0,
        high,
        high * high,
        catalogue.rain_days[:, month] / 15.0 - 0.5,
        np.clip(1.0 - catalogue.prices[:, month] / policy.declared.budget, -1.5, 0.6),
        catalogue.distances_km(*policy.declared.home) / 10_000.0,
        policy.yes / (policy.yes + policy.no + 2.0),
        policy.no / (policy.yes + policy.no + 2.0),
        policy.recent,
    ]
    if rules:
        columns.append(policy.adviser.declared_scores(trip) / 2.0)
    return np.column_stack([catalogue.features - 0.5, *columns])


def quarter(trip: Trip) -> int:
    return (trip.month - 1) // 3


def fitted_prior(users: list[tuple[Array, Array]], names: tuple[str, ...], steps: int = 25) -> BanditPrior:
    """θ_u ~ N(mean, covariance) and the noise by EM (Dempster, Laird, Rubin 1977) over users' (features [k, d], rewards
    [k])."""
    count = len(names)
    mean, covariance, noise = np.zeros(count), np.eye(count) * 0.1, 0.1
    moments = [(rows.T @ rows, rows.T @ rewards, rewards @ rewards, len(rewards)) for rows, rewards in users]
    for _ in range(steps):
        precision = np.linalg.inv(covariance)
        means, spreads, residual, total = [], [], 0.0, 0
        for gram, product, energy, size in moments:
            spread = np.linalg.inv(precision + gram / noise)
            theta = spread @ (precision @ mean + product / noise)
            means.append(theta)
            spreads.append(spread)
            residual += float(energy - 2 * theta @ product + theta @ gram @ theta + np.sum(gram * spread))
            total += size
        mean = np.mean(means, axis=0)
        centred = np.array(means) - mean
        covariance = centred.T @ centred / len(users) + np.mean(spreads, axis=0) + np.eye(count) * 1e-6
        noise = max(residual / total, 1e-4)
    return BanditPrior(names, mean, (covariance + covariance.T) / 2.0, float(noise), 0.0, 1.0)


def arguments(kind: type[Policy], priors: Mapping[bool, BanditPrior], rates: Array) -> dict[str, Any]:
    """What a policy of `kind` needs beside adviser, words and seed."""
    if issubclass(kind, Learned):
        return {"prior": priors[kind.uses_rules], "rates": rates}
    return {"rates": rates} if issubclass(kind, Popularity) else {}
