"""A declared generator of travellers: who likes which place when, and what they answer. For demo, tests and benchmarks;
never a claim about people.

What a traveller feels about place d in month m is a utility in logits,

    u = level + Σ_f taste_f · z_df + climate · comfort(high_dm) + price · (1 − price_dm / budget) − distance · km_d / 10,000
        + quality_d + own_d − satiation_d,

and they accept a suggestion with probability 1 / (1 + e^-u), never one above their hard limit or in a country that they
avoid. z are features in standard deviations over the catalogue; taste is one of a few archetypes plus noise; quality is
what everybody sees in a place and no feature tells, own what one traveller does; satiation is for places where they were
lately. A tenth of them declare nothing true about their wishes. The policies under test see none of this: only what
`declared` says, and answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Literal

import numpy as np

from shared_models.errors import ConfigError
from shared_models.travel.catalogue import Array, Catalogue

Drift = Literal["none", "jump", "walk"]
START = date(2026, 1, 5)
ARCHETYPES: Mapping[str, Mapping[str, float]] = {
    "sun": {"beach": 1.2, "family": 0.3, "culture": -0.4, "winter_sports": -0.3},
    "city": {"culture": 1.1, "food": 0.6, "nightlife": 0.3, "quiet": -0.4},
    "party": {"nightlife": 1.2, "beach": 0.5, "quiet": -0.7, "family": -0.3},
    "outdoors": {"nature": 1.2, "quiet": 0.5, "winter_sports": 0.4, "nightlife": -0.5},
    "family": {"family": 1.2, "beach": 0.6, "nightlife": -0.7},
    "gourmet": {"food": 1.2, "culture": 0.4, "quiet": 0.2},
}
_HOMES = (
    (52.5, 13.4), (51.5, -0.1), (40.4, -3.7), (48.9, 2.4), (41.9, 12.5), (59.3, 18.1),
    (40.7, -74.0), (37.8, -122.4), (19.4, -99.1), (-23.6, -46.6), (-33.9, 151.2), (35.7, 139.7),
)  # fmt: skip


@dataclass(frozen=True)
class Habits:
    """Parameters of the generator, in logits unless said otherwise."""

    level: float = -2.4
    """Of a place that is average in all: one in twelve accepts it."""
    taste_noise: float = 0.35
    """Standard deviation around the archetype, for each feature."""
    climate: float = 1.0
    climate_sd_c: float = 5.0
    """How much the daily high that people like varies around 25 °C; those of winter sports like it at 0."""
    price: float = 1.2
    distance: float = 0.8
    quality: float = 0.5
    own: float = 0.5
    budget_log_sd: float = 0.35
    """Of the budget around 110 euros a day."""
    hard_limit: float = 1.4
    """Times the budget: nothing above it is accepted."""
    avoided_countries: int = 2
    satiation: float = 2.0
    satiation_half_life: float = 12.0
    """In sessions."""
    days_between: float = 9.0
    """Sessions are so far apart: 200 are about five years, with their seasons."""
    lead_days: int = 40
    """A trip begins so long after its session."""
    false_wishes: float = 0.1
    """Of travellers, those whose declared wishes are drawn by chance."""
    reason: float = 0.5
    """How often a refusal comes with its reason, where there is one."""

    def __post_init__(self) -> None:
        values = [getattr(self, name) for name in self.__dataclass_fields__]
        if not all(isinstance(value, int | float) and np.isfinite(value) for value in values):
            raise ConfigError("habits of travellers: expected finite numbers")


@dataclass(frozen=True)
class Declared:
    """What a traveller has told the assistant, once, at the start."""

    wishes: Mapping[str, float]
    """Feature -> importance; the two that matter most, told with noise."""
    budget: float
    hard_limit: float
    """Euros per person and day."""
    avoided: tuple[str, ...]
    """Countries."""
    home: tuple[float, float]


@dataclass(frozen=True)
class Situation:
    """One session: when the trip would be."""

    session: int
    first: date
    last: date


@dataclass(frozen=True)
class Disturbance:
    """What goes wrong with a traveller's answers or tastes."""

    drift: Drift = "none"
    """jump: another archetype halfway; walk: a random walk as large, over all sessions."""
    noise: float = 0.0
    """Part of the answers that are turned round."""
    hostile_sessions: int = 0
    """So many first sessions answer the opposite, always: somebody else has the device, or means ill."""


@dataclass(frozen=True, eq=False)
class World:
    """What travellers share."""

    catalogue: Catalogue
    habits: Habits
    quality: Array
    """[n]"""
    standardised: Array = field(init=False)
    """[n, features]: in standard deviations over the catalogue."""

    def __post_init__(self) -> None:
        features = self.catalogue.features
        spread = np.maximum(features.std(axis=0), 1e-9)
        object.__setattr__(self, "standardised", (features - features.mean(axis=0)) / spread)

    @classmethod
    def drawn(cls, catalogue: Catalogue, seed: int, habits: Habits | None = None) -> World:
        habits = habits or Habits()
        random = np.random.default_rng([seed, 11])
        return cls(catalogue, habits, random.normal(0.0, habits.quality, len(catalogue)))


class Traveller:
    """One simulated traveller. Sessions go forward only."""

    def __init__(self, world: World, seed: int, disturbance: Disturbance | None = None, sessions: int = 200) -> None:
        """`sessions`: over how many a drift stretches."""
        self._world, self._disturbance, self._sessions = world, disturbance or Disturbance(), sessions
        catalogue, habits = world.catalogue, world.habits
        self._random = random = np.random.default_rng([seed, 23])
        self.archetype = str(random.choice(list(ARCHETYPES)))
        self._taste = self._drawn_taste(self.archetype)
        self._own = random.normal(0.0, habits.own, len(catalogue))
        self._warm_c = self._liked_high()
        budget = float(110.0 * np.exp(random.normal(0.0, habits.budget_log_sd)))
        countries = sorted({place.country for place in catalogue.destinations})
        avoided = tuple(map(str, random.choice(countries, habits.avoided_countries, replace=False)))
        home = _HOMES[int(random.integers(len(_HOMES)))]
        self.declared = Declared(self._told_wishes(), budget, habits.hard_limit * budget, avoided, home)
        self._km = catalogue.distances_km(*home)
        self._barred = np.array([place.country in avoided for place in catalogue.destinations])
        self._satiation = np.zeros(len(catalogue))
        self.trips = 0
        """How many suggestions were really taken."""
        self._session = 0
        self._drift_from = int(random.integers(len(ARCHETYPES)))
        self._walk = random.normal(0.0, 0.9 / np.sqrt(sessions), (sessions, len(catalogue.feature_names)))

    def situation(self) -> Situation:
        """The present session."""
        first = START + timedelta(
            days=round(self._session * self._world.habits.days_between) + self._world.habits.lead_days
        )
        return Situation(self._session, first, first + timedelta(days=5))

    def probabilities(self) -> Array:
        """[n]: with which each place would be accepted now. The truth: for regret, never for a policy."""
        world, month = self._world, self.situation().first.month - 1
        catalogue, habits = world.catalogue, world.habits
        prices = catalogue.prices[:, month]
        utility = (
            habits.level
            + world.standardised @ self._taste
            + habits.climate * self._comfort(month)
            + habits.price * np.clip(1.0 - prices / self.declared.budget, -2.0, 0.6)
            - habits.distance * self._km / 10_000.0
            + world.quality
            + self._own
            - self._satiation
        )
        accepted = 1.0 / (1.0 + np.exp(-utility))
        return np.where(self._barred | (prices > self.declared.hard_limit), 0.0, accepted)

    def allowed(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """[n]: what the traveller's hard limits leave in this session's month."""
        month = self.situation().first.month - 1
        return ~self._barred & (self._world.catalogue.prices[:, month] <= self.declared.hard_limit)

    def answer(self, row: int) -> bool:
        """What the traveller says about a suggested place; a yes is a trip, and they have had enough of it for a while."""
        yes = bool(self._random.random() < self.probabilities()[row])
        if yes:
            self.trips += 1
            self._satiation[row] += self._world.habits.satiation
        if self._session < self._disturbance.hostile_sessions:
            return not yes
        return yes != bool(self._random.random() < self._disturbance.noise)

    def reason(self, row: int) -> str:
        """Why not: `expensive`, `hot`, `cold`, `far`, or "" where none of these weighs enough or nothing is said."""
        month = self.situation().first.month - 1
        if self._session < self._disturbance.hostile_sessions or self._random.random() >= self._world.habits.reason:
            return ""
        catalogue, habits = self._world.catalogue, self._world.habits
        high = catalogue.highs[row, month]
        against = {
            "expensive": habits.price * (catalogue.prices[row, month] / self.declared.budget - 1.0),
            "hot" if high > self._warm_c else "cold": -habits.climate * float(self._comfort(month)[row]),
            "far": habits.distance * (float(self._km[row]) / 10_000.0 - 0.5),
        }
        strongest = max(against, key=lambda name: against[name])
        return strongest if against[strongest] > 0.4 else ""

    def next_session(self) -> None:
        """Time passes: satiation fades and tastes may drift."""
        self._satiation *= 0.5 ** (1.0 / self._world.habits.satiation_half_life)
        if self._disturbance.drift == "walk":
            self._taste = self._taste + self._walk[self._session % self._sessions]
        self._session += 1
        if self._disturbance.drift == "jump" and self._session == self._sessions // 2:
            others = [name for name in ARCHETYPES if name != self.archetype]
            self.archetype = others[self._drift_from % len(others)]
            self._taste = self._drawn_taste(self.archetype)
            self._warm_c = self._liked_high()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _drawn_taste(self, archetype: str) -> Array:
        names, noise = self._world.catalogue.feature_names, self._world.habits.taste_noise
        base = np.array([ARCHETYPES[archetype].get(name, 0.0) for name in names])
        return base + self._random.normal(0.0, noise, len(names))

    def _liked_high(self) -> float:
        names = self._world.catalogue.feature_names
        skis = "winter_sports" in names and self._taste[names.index("winter_sports")] > 0.6
        return float(self._random.normal(0.0 if skis else 25.0, self._world.habits.climate_sd_c))

    def _comfort(self, month: int) -> Array:
        away = np.abs(self._world.catalogue.highs[:, month] - self._warm_c)
        wet = self._world.catalogue.rain_days[:, month] / 30.0
        return np.clip(1.0 - np.maximum(0.0, away - 3.0) / 8.0, -1.5, 1.0) - wet

    def _told_wishes(self) -> Mapping[str, float]:
        names = self._world.catalogue.feature_names
        seen = self._taste + self._random.normal(0.0, 0.2, len(names))
        if self._random.random() < self._world.habits.false_wishes:
            seen = self._random.permutation(seen)
        best = np.argsort(-seen)[:2]
        return {names[index]: round(float(np.clip(seen[index], 0.2, 1.0)), 2) for index in best}
