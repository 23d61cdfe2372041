"""Which places are suggested: constraints and rules exclude, variety narrows, the bandit chooses, the adviser explains.

    permitted, rules, not shown → candidates (best expected, in the user's proportions) → bandit, slot by slot → reasons

The bandit draws among the candidates only, and no list has two places of one country while there is another. Both masks are
fixed before anything is drawn, so that each logged propensity is exact, given the slots before. Pure but for the random numbers:
what is learned comes in from outside, what was chosen goes out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from edge_client.decide.bandit import Bandit
from edge_client.decide.diversity import Exposure
from edge_client.decide.travel import Suggestion, TravelAdviser, Visit
from edge_client.decide.travel_constraints import Constraint, Mask, countries_of, most_limiting, permitted
from edge_client.decide.travel_facts import usable
from edge_client.decide.travel_trip import Wish
from shared_models.bandit_prior import BanditPrior
from shared_models.context_feed import BroadcastFeed
from shared_models.errors import DecisionError
from shared_models.median import median
from shared_models.travel.action_features import (
    OwnHistory,
    TripContext,
    declared_prior,
    feature_names,
    features,
)
from shared_models.travel.catalogue import Array, Catalogue, Destination

SLOTS = 3
CONSIDERED = 48
"""The best by expectation that variety may choose among."""
CANDIDATES = 9
"""Among so many the bandit chooses."""
OFFERED = 0.5
"""Of a feature that was asked for in this conversation: who offers less is suggested only if hardly anybody offers so much."""
_MOVED = 0.08
"""Of the range of rewards: what the user's own answers have moved less is no reason "from what you chose before"."""


@dataclass(frozen=True)
class Surroundings:
    """Where the conversation stands, beside the trip; what may not be known keeps its default."""

    turn: int = 0
    hour: int | None = None
    weekend: bool = False
    phone: bool = False
    wet_here: bool = False
    newcomer: bool = False
    saver: bool = False


@dataclass(frozen=True, eq=False)
class Personal:
    """What is known of the user's taste; all of it None or empty without consent."""

    preference: Array | None = None
    """[n]: scores of the item space for the folded-in user vector."""
    visits: Sequence[Visit] = ()
    own: OwnHistory | None = None
    exposure: Exposure | None = None
    evident: bool = False
    """Whether there is evidence of this user's own, so that "from what you chose before" is true."""


@dataclass(frozen=True, eq=False)
class Picked:
    """One place that was chosen, and how."""

    suggestion: Suggestion
    candidates: Array
    """[m, d]: features of all among which it was chosen."""
    row: int
    """Of `candidates`."""
    propensity: float

    @property
    def place(self) -> Destination:
        return self.suggestion.place


@dataclass(frozen=True, eq=False)
class Choices:
    """The answer to a wish."""

    picked: tuple[Picked, ...]
    possible: int
    """How many places fit."""
    limiting: tuple[Constraint, int] | None = None
    """If nothing fits: the constraint without which most would."""
    candidates: Array | None = None
    """[m, d]: of what could have been chosen."""
    denied: tuple[str, ...] = ()
    """If nothing is left because of rules: ids of what would fit without them."""


class Suggester:
    """Chooses among the places of one catalogue. Holds nothing of a user; one for each active bundle."""

    def __init__(
        self, catalogue: Catalogue, *, prior: BanditPrior | None = None, feed: BroadcastFeed | None = None
    ) -> None:
        """`prior`: the published one. One over other features than this version's is passed over for the declared one."""
        self.catalogue = catalogue
        self.adviser = TravelAdviser(catalogue)
        self.feed = feed
        self.usual_price = median(catalogue.prices.ravel())
        """Euros per person and day, over all places and months."""
        names = feature_names(catalogue.feature_names)
        fits = prior is not None and prior.features == names
        self.prior = prior if prior is not None and fits else declared_prior(catalogue.feature_names)

    def choose(
        self,
        wish: Wish,
        bandit: Bandit,
        *,
        around: Surroundings,
        personal: Personal,
        forbidden: Collection[str] = (),
        now_s: float,
        slots: int = SLOTS,
    ) -> Choices:
        """Up to `slots` places, the best first. `forbidden`: ids that rules deny. Raises DecisionError."""
        fits = permitted(self.catalogue, wish.trip, wish.constraints)
        allowed = wish.allowed.copy()
        for id in forbidden:
            if (row := self.catalogue.rows.get(id)) is not None:
                allowed[row] = False
        left = fits & allowed
        if not left.any():
            limiting = most_limiting(self.catalogue, wish.trip, wish.constraints, allowed)
            denied = tuple(self.catalogue.destinations[row].id for row in np.flatnonzero(fits & wish.allowed))
            return Choices((), 0, limiting, denied=denied)
        feed, possible = usable(self.feed, now_s), int(left.sum())
        left &= self._asked_for(wish, left)
        weighed = self.adviser.weigh(wish.trip, feed, personal.visits)
        rows = self.features(wish, around, personal, feed, weighed.scores)
        expected = bandit.expected(rows)
        taste = np.clip(expected, 0.0, 1.0) if personal.evident else None
        if int(left.sum()) > CONSIDERED:
            # The proportions are those of the best: what is far behind them is not weighed at all.
            floor = np.partition(expected[left], -CONSIDERED)[-CONSIDERED]
            left &= expected >= floor
        pool = self.adviser.candidates(
            expected, wish.trip, CANDIDATES, left, taste=taste, visits=personal.visits, exposure=personal.exposure
        )
        shown = np.array(pool)
        candidates = rows[shown]
        chosen = self._slots(bandit, candidates, countries_of(self.catalogue)[shown], slots)
        places = [self.catalogue.destinations[pool[row]].id for row, _ in chosen]
        moved = None if taste is None else np.where(np.abs(expected - rows @ bandit.prior.mean) >= _MOVED, taste, 0.5)
        said = self.adviser.explain(places, wish.trip, taste=moved, visits=personal.visits, weighed=weighed)
        picked = tuple(
            Picked(suggestion, candidates, row, propensity)
            for suggestion, (row, propensity) in zip(said, chosen, strict=True)
        )
        return Choices(picked, possible, None, candidates)

    def features(
        self, wish: Wish, around: Surroundings, personal: Personal, feed: BroadcastFeed | None, declared: Array
    ) -> Array:
        """[n, d]: what the bandit sees. `feed` has not expired; `declared` [n]: the adviser's scores."""
        trip = wish.trip
        context = TripContext(
            trip.first,
            trip.last,
            budget=trip.budget,
            origin=trip.origin,
            children=wish.children,
            turn=around.turn,
            hour=around.hour,
            weekend=around.weekend,
            phone=around.phone,
            wet_here=around.wet_here,
            newcomer=around.newcomer,
            saver=around.saver,
        )
        return features(self.catalogue, context, feed, personal.preference, declared, personal.own)

    def _asked_for(self, wish: Wish, left: Mask) -> Mask:
        """[n]: the places that offer what was asked for now, if enough of `left` do; else all. No taste outweighs that."""
        everything: Mask = np.ones(len(self.catalogue), bool)
        asked = [name for name in wish.trip.wishes if f"wishes.{name}" not in wish.trip.lasting]
        offering = everything.copy()
        for name in asked:
            offering &= self.catalogue.column(name) >= OFFERED
        return offering if int((offering & left).sum()) >= SLOTS else everything

    @staticmethod
    def _slots(
        bandit: Bandit, candidates: Array, countries: np.typing.NDArray[np.str_], slots: int
    ) -> list[tuple[int, float]]:
        """(row of candidates, propensity) for each slot."""
        left: Mask = np.ones(len(candidates), bool)
        chosen: list[tuple[int, float]] = []
        for _ in range(min(slots, len(candidates))):
            fresh = left & ~np.isin(countries, [countries[row] for row, _ in chosen]) if chosen else left
            choice = bandit.choose(candidates, fresh if fresh.any() else left)
            left[choice.action] = False
            chosen.append((choice.action, choice.propensity))
        return chosen


def scores_of_items(catalogue: Catalogue, items: Sequence[str], scores: Array) -> Array:
    """[n] in the catalogue's order from scores of an item space's items; a place that it does not have gets the median."""
    if len(items) != len(scores):
        raise DecisionError(f"{len(scores)} scores for {len(items)} items")
    found = dict(zip(items, scores, strict=True))
    middle = median(scores) if len(scores) else 0.0
    return np.array([float(found.get(place.id, middle)) for place in catalogue.destinations])
