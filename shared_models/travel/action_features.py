"""What the bandit sees of each place in one situation: context × action features of the travel domain, and the prior that is
declared for them.

Devices choose by them, and the population's prior is learned over the same names. Every column is public arithmetic over the
catalogue, the feed and values that the caller brings; nothing is kept. Columns of context alone would not change which place is
best, so context stands in products with what a place offers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from shared_models.bandit_prior import BanditPrior
from shared_models.context_feed import BroadcastFeed
from shared_models.errors import DecisionError
from shared_models.median import median
from shared_models.travel.catalogue import Array, Catalogue
from shared_models.travel.outlooks import outlooks

REWARD_LOW, REWARD_HIGH = 0.0, 1.0
"""0: refused; 1: chosen. What else a user does lies between."""
PLAIN = ("one", "warm", "warm_squared", "rain", "price", "distance", "events", "preference", "declared")
OWN = ("liked", "refused", "lately")
"""What this user did with the place before."""
CROSSED = (
    "short_trip_distance", "children_family", "children_nightlife", "later_price", "later_preference",
    "evening_nightlife", "weekend_distance", "phone_preference", "wet_here_warm", "newcomer_preference", "saver_price",
)  # fmt: skip
_SHORT_DAYS = 4
_SCALE = 0.3
"""Of every column, each from -1 to 1: a usual row then has a norm of 0.5 to 0.8, and few must be cut to 1."""
INTERCEPT_VALUE = _SCALE
"""Of the column `one` in every row that is not cut: what carries a user's level (aggregator.releases.bandit_prior)."""
_DECLARED_MEAN = {"one": 0.25, "declared": 0.45, "preference": 0.4, "liked": 0.1, "refused": -0.35, "lately": -0.25}
"""Expected reward per unit of a column, before anybody was asked: authored, not measured."""


@dataclass(frozen=True)
class TripContext:
    """One situation: the trip that is wanted, and where the conversation stands."""

    first: date
    last: date
    budget: float | None = None
    """Euros per person and day."""
    origin: tuple[float, float] | None = None
    """Latitude and longitude."""
    children: bool = False
    turn: int = 0
    """How often something was suggested before in this conversation."""
    hour: int | None = None
    """0 to 23, of the user's own day; None: not known, or may not be used."""
    weekend: bool = False
    """Whether it is a weekend for the user now."""
    phone: bool = False
    wet_here: bool = False
    """Whether it rains or snows where the user is."""
    newcomer: bool = False
    """Segment: of whom hardly anything is known, so that a taste says less."""
    saver: bool = False
    """Segment: whose usual budget is below the usual price."""


@dataclass(frozen=True, eq=False)
class OwnHistory:
    """What this user did with the places, as [n] arrays from 0 to 1; None: nothing."""

    liked: Array | None = None
    refused: Array | None = None
    lately: Array | None = None
    """How freshly it was shown."""


def feature_names(catalogue_features: Sequence[str]) -> tuple[str, ...]:
    """Names of the d columns for a catalogue with these features, in order: what a `MomentLayout` and a prior name."""
    return (*PLAIN, *OWN, *CROSSED, *(f"place_{name}" for name in catalogue_features))


def features(
    catalogue: Catalogue,
    context: TripContext,
    feed: BroadcastFeed | None = None,
    preference: Array | None = None,
    declared: Array | None = None,
    own: OwnHistory | None = None,
) -> Array:
    """[n, d] in the catalogue's order, every row of L2 norm at most 1.

    `preference` [n]: how a taste scores the places, any scale (it is ranked here); `declared` [n]: the adviser's score without
    taste. `feed` must be one that has not expired. Raises DecisionError for arrays that do not fit.
    """
    count, own = len(catalogue), own or OwnHistory()
    column = context.first.month - 1
    high, wet = catalogue.highs[:, column], catalogue.rain_days[:, column] / 30.0
    events = np.zeros(count)
    if feed is not None:
        known = outlooks(catalogue, feed)
        stay = known.stay(context.first, context.last)
        if stay is not None:
            high = np.where(stay.reaches, stay.high_c, high)
            wet = np.where(stay.reaches, stay.wet_days / np.maximum(stay.days, 1), wet)
        events = np.minimum(1.0, 0.5 * known.events(context.first, context.last))
    warm = np.clip(high / 20.0 - 1.0, -1.0, 1.0)
    prices = catalogue.prices[:, column]
    budget = median(prices) if context.budget is None else context.budget
    price = np.clip(1.0 - prices / max(budget, 1.0), -1.0, 0.6)
    distance = np.zeros(count)
    if context.origin is not None:
        distance = np.minimum(1.0, catalogue.distances_km(*context.origin) / 10_000.0)
    taste = _ranked(_given("preference", preference, count))
    wanted = np.clip(_given("declared", declared, count) / 2.0, -1.0, 1.0)
    family, nightlife = _offered(catalogue, "family"), _offered(catalogue, "nightlife")
    later = min(context.turn, 4) / 4.0
    nothing = np.zeros(count)
    columns = [
        np.ones(count), warm, warm * warm, np.clip(2.0 * wet - 1.0, -1.0, 1.0), price, distance, events, taste, wanted,
        *(np.clip(_given(name, getattr(own, name), count), 0.0, 1.0) for name in OWN),
        distance if (context.last - context.first).days < _SHORT_DAYS else nothing,
        family if context.children else nothing,
        nightlife if context.children else nothing,
        later * price,
        later * taste,
        nightlife if context.hour is not None and not 6 <= context.hour < 18 else nothing,
        distance if context.weekend else nothing,
        taste if context.phone else nothing,
        warm if context.wet_here else nothing,
        taste if context.newcomer else nothing,
        price if context.saver else nothing,
    ]  # fmt: skip
    rows = _SCALE * np.column_stack([*columns, 2.0 * catalogue.features - 1.0])
    rows /= np.maximum(np.sqrt(np.einsum("nd,nd->n", rows, rows)), 1.0)[:, None]
    return rows


def with_feature(row: Array, names: Sequence[str], feature: str) -> Array:
    """`row` [d] as it would be for a place with all of one feature of the catalogue, of norm at most 1."""
    changed = row.copy()
    changed[list(names).index(f"place_{feature}")] = _SCALE
    return np.asarray(changed / max(float(np.linalg.norm(changed)), 1.0))


def declared_prior(catalogue_features: Sequence[str]) -> BanditPrior:
    """What a device chooses by before anything was published: the adviser's score and the preference count, what was refused or
    shown lately counts against; all weights are open to be learned."""
    names = feature_names(catalogue_features)
    mean = np.array([_DECLARED_MEAN.get(name, 0.0) / _SCALE for name in names])
    # Of the offset little is unknown; a place's own features may matter by a fifth of the range of rewards.
    spread = np.array([0.4 if name == "one" else 0.2 for name in names]) / (2.0 * _SCALE)
    return BanditPrior(names, mean, np.diag(spread**2), 0.12, REWARD_LOW, REWARD_HIGH)


def _offered(catalogue: Catalogue, feature: str) -> Array:
    """[n], -1 to 1; zeros for a catalogue without the feature."""
    if feature not in catalogue.feature_names:
        return np.zeros(len(catalogue))
    return np.asarray(2.0 * catalogue.column(feature) - 1.0)


def _ranked(scores: Array) -> Array:
    """[n], -1 (least) to 1: the rank, because scores of a taste have no scale of their own; zeros if all are alike."""
    if len(scores) < 2 or float(np.ptp(scores)) == 0.0:
        return np.zeros(len(scores))
    order = np.empty(len(scores))
    order[np.argsort(scores, kind="stable")] = np.arange(len(scores))
    return 2.0 * order / (len(scores) - 1.0) - 1.0


def _given(name: str, values: object, count: int) -> Array:
    if values is None:
        return np.zeros(count)
    if not isinstance(values, np.ndarray) or values.shape != (count,) or values.dtype.kind not in "fiu":
        raise DecisionError(f"{name}: expected a number for each of {count} places")
    if not np.isfinite(values).all():
        raise DecisionError(f"{name}: holds NaN or infinite values")
    return np.asarray(values, dtype=np.float64)
