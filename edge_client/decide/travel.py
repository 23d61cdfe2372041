"""Where to go: suggestions by wishes, weather, events, budget, history and mood, under hard constraints, each with its reasons.

Constraints and rules exclude first; what is left is scored by declared parts whose sum is the score, so that the
explanation is the calculation. How much a user will like a place comes in from outside (preference, bandit) as one more
part. Pure: catalogue, feed and the user's own values in, plain values out; nothing is fetched, kept or sent, and all
places come with the bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_client.decide.diversity import DiversityLimits, Exposure, calibrated
from edge_client.decide.travel_constraints import MOODS, Constraint, Mask, Trip, most_limiting, permitted
from edge_client.decide.travel_facts import TripFacts, mix, usable
from edge_client.decide.travel_reasons import LASTING, Reason
from shared_models.context_feed import BroadcastFeed
from shared_models.errors import DecisionError
from shared_models.travel.catalogue import Catalogue, Destination

Array = npt.NDArray[np.float64]
PARTS = ("taste", "wishes", "weather", "price", "distance", "events", "history", "mood")
MAX_VISITS = 2000
MOST_REASONS = 4
MOST_DRAWBACKS = 2
_SAID_FROM = 0.04
"""A part that adds less is no reason."""


@dataclass(frozen=True)
class Weights:
    """How much each part counts; every part is from -1 to 1."""

    taste: float = 4.0
    """Above all else, because it is a calibrated probability: of a new user it hardly differs between places and so decides
    little (measured: benchmarks/travelers.py)."""
    wishes: float = 1.0
    weather: float = 0.6
    price: float = 0.5
    distance: float = 0.4
    events: float = 0.2
    history: float = 0.3
    mood: float = 0.4

    def __post_init__(self) -> None:
        for name in PARTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 100.0:
                raise DecisionError(f"weight of {name} is {str(value)[:40]!r}, expected a number from 0 to 100")


@dataclass(frozen=True)
class Visit:
    """A place where the user has been."""

    place: str
    liked: bool | None = None
    """None: not said."""


@dataclass(frozen=True)
class Suggestion:
    """One place, and why."""

    place: Destination
    score: float
    parts: Mapping[str, float]
    """Part -> what it adds to the score; they sum to it."""
    reasons: tuple[Reason, ...]
    """What speaks for it, the strongest first, and what is worth knowing."""
    drawbacks: tuple[Reason, ...]
    """What speaks against it, the strongest first."""

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "place": self.place.id,
            "score": self.score,
            "parts": dict(self.parts),
            "reasons": [reason.document() for reason in self.reasons],
            "drawbacks": [reason.document() for reason in self.drawbacks],
        }


@dataclass(frozen=True)
class Advice:
    """The answer to "where should I go?"."""

    suggestions: tuple[Suggestion, ...]
    possible: int
    """How many places fit all constraints."""
    limiting: tuple[Constraint, int] | None = None
    """If nothing fits: the constraint without which most would, and how many."""


@dataclass(frozen=True, eq=False)
class Weighed:
    """What speaks for and against every place of a catalogue on one trip, taste aside."""

    facts: TripFacts
    parts: Mapping[str, Array]
    """Part -> [n], weighted."""

    @property
    def scores(self) -> Array:
        """[n]"""
        return np.asarray(np.sum(list(self.parts.values()), axis=0))


class TravelAdviser:
    """Suggests places of one catalogue. Holds no data of a user; safe to share between threads."""

    def __init__(
        self, catalogue: Catalogue, weights: Weights | None = None, diversity: DiversityLimits | None = None
    ) -> None:
        self._catalogue = catalogue
        self._weights = weights or Weights()
        self._diversity = diversity or DiversityLimits()
        self._countries = [place.country for place in catalogue.destinations]

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    def suggest(
        self,
        trip: Trip,
        *,
        size: int = 3,
        taste: Mapping[str, float] | Array | None = None,
        visits: Sequence[Visit] = (),
        constraints: Sequence[Constraint] = (),
        forbidden: Collection[str] = (),
        feed: BroadcastFeed | None = None,
        now_s: float = 0.0,
        exposure: Exposure | None = None,
    ) -> Advice:
        """Up to `size` places, best first.

        `taste`: id -> how likely the user likes it, 0..1, or an array [n] in the catalogue's order; what is missing is 0.5.
        `forbidden`: ids that rules exclude. `feed` counts unless it has expired at `now_s`. `exposure`: what was shown
        lately, by country; it is read, not written. Raises DecisionError, or DomainError for a feature that the catalogue
        does not have.
        """
        liking = self._taste(taste)
        seen = self._visits(visits)
        allowed = self._not_forbidden(forbidden)
        left = permitted(self._catalogue, trip, constraints) & allowed
        if not left.any():
            return Advice((), 0, most_limiting(self._catalogue, trip, constraints, allowed))
        facts = TripFacts(self._catalogue, trip, usable(feed, now_s))
        parts = self._parts(trip, facts, liking if taste is not None else None, seen)
        scores = np.sum(list(parts.values()), axis=0)
        chosen = self._varied(scores, trip, size, left, liking if taste is not None else None, seen, exposure)
        suggestions = tuple(self._suggestion(row, trip, facts, liking, parts, seen) for row in chosen)
        return Advice(suggestions, int(left.sum()))

    def explain(
        self,
        places: Sequence[str],
        trip: Trip,
        *,
        taste: Mapping[str, float] | Array | None = None,
        visits: Sequence[Visit] = (),
        feed: BroadcastFeed | None = None,
        now_s: float = 0.0,
        weighed: Weighed | None = None,
    ) -> tuple[Suggestion, ...]:
        """The same reasons for places that somebody else chose (a bandit, the user), in the order given. Raises as `suggest`.

        `weighed`: what `weigh` gave for the same trip, feed and visits.
        """
        liking, seen = self._taste(taste), self._visits(visits)
        known = weighed or self.weigh(trip, usable(feed, now_s), visits)
        facts, parts = known.facts, dict(known.parts)
        if taste is not None:
            parts["taste"] = self._weights.taste * (2.0 * liking - 1.0)
        rows = [self._catalogue.rows[self._catalogue.place(id).id] for id in places]
        return tuple(self._suggestion(row, trip, facts, liking, parts, seen) for row in rows)

    def candidates(
        self,
        scores: Array,
        trip: Trip,
        size: int,
        allowed: Mask,
        *,
        taste: Array | None = None,
        visits: Sequence[Visit] = (),
        exposure: Exposure | None = None,
    ) -> tuple[int, ...]:
        """Rows of up to `size` places among which somebody else (a bandit) may choose: the best by `scores` [n] of what is
        `allowed` [n], in the proportions that the user cares about, without countries that had their share. Raises DecisionError.
        """
        liking = None if taste is None else self._taste(taste)
        return self._varied(scores, trip, size, allowed, liking, self._visits(visits), exposure)

    def _varied(
        self,
        scores: Array,
        trip: Trip,
        size: int,
        allowed: Mask,
        liking: Array | None,
        seen: Mapping[int, Visit],
        exposure: Exposure | None,
    ) -> tuple[int, ...]:
        rows = np.flatnonzero(allowed)
        if not len(rows):
            return ()
        tired = exposure.tired([self._countries[row] for row in rows]) if exposure is not None else None
        target = self._target(trip, liking, seen)
        chosen = calibrated(scores[rows], self._catalogue.features[rows], target, size, self._diversity, tired=tired)
        return tuple(int(rows[row]) for row in chosen)

    def declared_scores(self, trip: Trip, feed: BroadcastFeed | None = None, visits: Sequence[Visit] = ()) -> Array:
        """[n]: the score without taste, for a learned policy that wants it among its features."""
        return self.weigh(trip, feed, visits).scores

    def weigh(self, trip: Trip, feed: BroadcastFeed | None = None, visits: Sequence[Visit] = ()) -> Weighed:
        """All parts but taste, of every place. `feed` has not expired."""
        facts = TripFacts(self._catalogue, trip, feed)
        return Weighed(facts, self._parts(trip, facts, None, self._visits(visits)))

    # -- inside ---------------------------------------------------------------------------------------------------

    def _parts(self, trip: Trip, facts: TripFacts, liking: Array | None, seen: Mapping[int, Visit]) -> dict[str, Array]:
        """Part -> [n], weighted."""
        catalogue, weights, nothing = self._catalogue, self._weights, np.zeros(len(self._catalogue))
        parts = {
            "taste": nothing if liking is None else 2.0 * liking - 1.0,
            "wishes": mix(catalogue, trip.wishes),
            "weather": facts.comfort,
            "price": nothing if trip.budget is None else np.clip((trip.budget - facts.prices) / trip.budget, -1.0, 0.5),
            "distance": nothing
            if facts.km is None
            # A long way is worth it for a long stay.
            else -np.clip(facts.km / (3000.0 + 700.0 * trip.days), 0.0, 1.0),
            "events": np.minimum(1.0, 0.5 * facts.events),
            "history": self._history(seen),
            "mood": nothing if trip.mood is None else mix(catalogue, MOODS[trip.mood]),
        }
        return {name: getattr(weights, name) * part for name, part in parts.items()}

    def _history(self, seen: Mapping[int, Visit]) -> Array:
        part = np.zeros(len(self._catalogue))
        liked = [row for row, visit in seen.items() if visit.liked]
        if liked:
            part = 0.5 * np.clip(self._alike(liked).max(axis=1), 0.0, 1.0)
        for row, visit in seen.items():
            part[row] = -1.0 if visit.liked is False else -0.5
        return part

    def _alike(self, rows: Sequence[int]) -> Array:
        """[n, len(rows)]: correlation of what the places offer."""
        offered = self._catalogue.features - self._catalogue.features.mean(axis=0)
        offered = offered / np.maximum(np.linalg.norm(offered, axis=1, keepdims=True), 1e-9)
        return np.asarray(offered @ offered[list(rows)].T)

    def _target(self, trip: Trip, liking: Array | None, seen: Mapping[int, Visit]) -> Array:
        """[features]: the proportions that this user cares about, from wishes, liked places and learned taste."""
        features = self._catalogue.features
        target = np.array([trip.wishes.get(name, 0.0) for name in self._catalogue.feature_names], dtype=np.float64)
        for row, visit in seen.items():
            if visit.liked:
                target = target + features[row] / max(features[row].sum(), 1e-9)
        if liking is not None:
            best = np.argsort(-liking, kind="stable")[:10]
            target = target + features[best].sum(axis=0) / max(features[best].sum(), 1e-9)
        return target if target.sum() > 0.0 else features.mean(axis=0)

    def _suggestion(
        self,
        row: int,
        trip: Trip,
        facts: TripFacts,
        liking: Array,
        parts: Mapping[str, Array],
        seen: Mapping[int, Visit],
    ) -> Suggestion:
        place = self._catalogue.destinations[row]
        added = {name: float(part[row]) for name, part in parts.items()}
        found = list(self._reasons(row, place, trip, facts, liking, added, seen))
        strongest = sorted(found, key=lambda reason: -abs(reason.amount))
        known = tuple(reason for reason in found if reason.amount == 0.0)[:1]
        if not known and all(reason.amount < 0.0 for reason in found):
            # Nothing is ever suggested without a reason: what the weather is like is worth knowing in any case.
            known = (facts.weather_reason(row, 0.0),)
        return Suggestion(
            place=place,
            score=float(sum(added.values())),
            parts=added,
            reasons=(*[reason for reason in strongest if reason.amount > 0.0][:MOST_REASONS], *known),
            drawbacks=tuple(reason for reason in strongest if reason.amount < 0.0)[:MOST_DRAWBACKS],
        )

    def _reasons(
        self,
        row: int,
        place: Destination,
        trip: Trip,
        facts: TripFacts,
        liking: Array,
        added: Mapping[str, float],
        seen: Mapping[int, Visit],
    ) -> Sequence[Reason]:
        found = []
        said = {name: amount for name, amount in added.items() if abs(amount) >= _SAID_FROM}
        if "taste" in said:
            kind = "taste" if said["taste"] > 0.0 else "not_taste"
            found.append(Reason(kind, {"likely": float(liking[row])}, "model", said["taste"]))
        total = sum(trip.wishes.values())
        for feature, importance in trip.wishes.items():
            has = place.features[feature]
            amount = self._weights.wishes * importance * (2.0 * has - 1.0) / total if total else 0.0
            if abs(amount) >= _SAID_FROM:
                kind = _kind("wish" if amount > 0.0 else "missing_wish", f"wishes.{feature}", trip)
                found.append(Reason(kind, {"feature": feature, "has": has}, "catalogue", amount))
        if "mood" in said and trip.mood is not None:
            weighed, for_it = MOODS[trip.mood], said["mood"] > 0.0
            # What speaks most for it, or what is most lacking.
            feature = max(weighed, key=lambda name: weighed[name] * abs(place.features.get(name, 0.0) - (not for_it)))
            data = {"mood": trip.mood, "feature": feature, "has": place.features.get(feature, 0.0)}
            found.append(Reason("mood", data, "you", said["mood"]))
        if "weather" in said:
            found.append(facts.weather_reason(row, said["weather"]))
        if "price" in said:
            data = {"price": float(facts.prices[row]), "budget": float(trip.budget or 0.0)}
            found.append(Reason(_kind("price", "budget", trip), data, "catalogue", said["price"]))
        if "distance" in said and facts.km is not None:
            kind, data = _kind("distance", "origin", trip), {"km": round(float(facts.km[row]))}
            found.append(Reason(kind, data, "catalogue", said["distance"]))
        for event in facts.events_at(place.id)[:1]:
            data = {"title": dict(event.title), "first": event.first.isoformat(), "last": event.last.isoformat()}
            found.append(Reason("event", data, facts.source("events"), added["events"]))
        if row in seen:
            found.append(Reason("visited", {}, "you", min(added["history"], 0.0)))
        elif added["history"] > 0.0:
            liked = [other for other, visit in seen.items() if visit.liked]
            nearest = liked[int(self._alike(liked)[row].argmax())]
            data = {"place": dict(self._catalogue.destinations[nearest].names)}
            found.append(Reason("like", data, "you", added["history"]))
        for holiday in facts.holidays(place.country)[:1]:
            data = {"title": holiday[1], "day": holiday[0].isoformat()}
            found.append(Reason("holiday", data, facts.source("holidays"), 0.0))
        return found

    def _taste(self, taste: Mapping[str, float] | Array | None) -> Array:
        count = len(self._catalogue)
        if taste is None:
            return np.full(count, 0.5)
        if isinstance(taste, Mapping):
            liking = np.full(count, 0.5)
            for id, value in taste.items():
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise DecisionError(f"taste for {str(id)[:40]!r} is not a number")
                liking[self._catalogue.rows[self._catalogue.place(id).id]] = value
        elif isinstance(taste, np.ndarray) and taste.shape == (count,) and taste.dtype.kind == "f":
            liking = taste.astype(np.float64)
        else:
            raise DecisionError(f"taste: expected a number for each of {count} places")
        if not ((liking >= 0.0) & (liking <= 1.0)).all():
            raise DecisionError("taste: expected numbers from 0 to 1")
        return liking

    def _visits(self, visits: Sequence[Visit]) -> dict[int, Visit]:
        """Row -> the last that was said; places that the catalogue no longer has are passed over."""
        if len(visits) > MAX_VISITS:
            raise DecisionError(f"{len(visits)} visits, at most {MAX_VISITS} are accepted")
        return {self._catalogue.rows[visit.place]: visit for visit in visits if visit.place in self._catalogue.rows}

    def _not_forbidden(self, forbidden: Collection[str]) -> Mask:
        allowed = np.ones(len(self._catalogue), dtype=bool)
        allowed[[self._catalogue.rows[id] for id in forbidden if id in self._catalogue.rows]] = False
        return allowed


def _kind(kind: str, part: str, trip: Trip) -> str:
    """Of a reason: one of its own if `part` of the trip was not said in this conversation."""
    return LASTING[kind] if part in trip.lasting else kind
