"""From what a conversation wants to a trip: dates, budget, wishes and hard limits, in the units of the catalogue.

Declared readings: "100 a night" and "100 a day" are euros per person and day, the unit of the catalogue; an amount in all is
divided by days and travellers; without dates, a week in four weeks' time. Another currency is no limit: there are no rates.
Pure: the state of a conversation and values of the profile in, a trip out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np

from edge_client.decide.travel_constraints import MAX_TRIP_DAYS, Constraint, Mask, Mood, Trip, countries_of
from edge_client.understand.days import DateRange
from edge_client.understand.places import Place
from edge_client.understand.state import DialogueState
from shared_models.travel.catalogue import Catalogue

AHEAD_DAYS = 28
USUAL_DAYS = 7
REGION_KM = 900.0
NEAR_KM = 300.0
"""Of a town that is no destination: what is so near may be suggested for it."""
LITTLE = 0.4
"""Of what is not wanted a place may have at most so much."""
WARM_C = 27.0
_FEATURES_OF: Mapping[str, Mapping[str, float]] = {
    "hiking": {"nature": 1.0},
    "wellness": {"quiet": 0.5},
    "city": {"culture": 0.8, "nightlife": 0.3},
    "shopping": {"culture": 0.4, "food": 0.3},
    "adventure": {"nature": 0.5},
}
"""Interests that are no feature of the catalogue, as mixtures of features."""
_MOODS_OF: Mapping[str, Mood] = {"adventure": "adventurous", "wellness": "relaxed"}
"""What is said about how one feels like; nothing is guessed."""
_LIKES_OF: Mapping[str, str] = {"ski": "winter_sports"}
_PROFILE_WISH = 0.35
"""A lasting interest counts less than what is said now."""


@dataclass(frozen=True)
class Known:
    """What the profile may add; empty without consent."""

    origin: Place | None = None
    budget: float | None = None
    likes: tuple[str, ...] = ()
    children: bool = False


@dataclass(frozen=True, eq=False)
class Wish:
    """One trip that is wanted, with what excludes places from it."""

    trip: Trip
    constraints: tuple[Constraint, ...]
    allowed: Mask
    """[n]: places that the named region, the prices asked for and what was shown before leave."""
    children: bool
    dated: bool
    """False if the user has not said when."""


def wish_of(
    state: DialogueState, today: date, catalogue: Catalogue, known: Known, refused: Sequence[Constraint] = ()
) -> Wish:
    """The trip that `state` wants. `refused`: constraints from "no, because …"."""
    first, last, dated = _days(state, today)
    days = (last - first).days + 1
    said, hard = _budget(state, days)
    budget = known.budget if said is None else said
    wishes, warm_c, lasting = _wishes(state, catalogue, known)
    party = state.party
    children = known.children if party is None else bool(party.children)
    if children and "family" in catalogue.feature_names and "family" not in wishes:
        wishes["family"] = 0.6
        if party is None:
            lasting.add("wishes.family")
    origin = state.value("origin")
    start = origin if isinstance(origin, Place) else known.origin
    if said is None and budget is not None:
        lasting.add("budget")
    if start is not None and start is not origin:
        lasting.add("origin")
    trip = Trip(
        first,
        last,
        budget=None if budget is None else min(max(budget, 1.0), 100_000.0),
        origin=None if start is None else (start.latitude, start.longitude),
        wishes=wishes,
        warm_c=warm_c,
        mood=next((_MOODS_OF[tag] for tag in state.interests if tag in _MOODS_OF), None),
        lasting=frozenset(lasting),
    )
    constraints = [*refused]
    if hard is not None:
        constraints.append(Constraint("max_price", min(hard, 1e6)))
    for tag in state.refused_interests:
        for feature in _features(tag, catalogue):
            constraints.append(Constraint("at_most", LITTLE, feature))
    return Wish(trip, tuple(constraints), _allowed(state, catalogue, trip), children, dated)


def _days(state: DialogueState, today: date) -> tuple[date, date, bool]:
    dates, length = state.dates, state.value("duration")
    days = length if isinstance(length, int) and not isinstance(length, bool) else USUAL_DAYS
    if not isinstance(dates, DateRange) or dates.end < today:
        first = today + timedelta(days=AHEAD_DAYS)
        return first, first + timedelta(days=max(1, min(days, MAX_TRIP_DAYS)) - 1), False
    first, last = max(dates.start, today), dates.end
    if dates.days == 1 and length is None:
        last = first + timedelta(days=USUAL_DAYS - 1)
    return first, min(last, first + timedelta(days=MAX_TRIP_DAYS - 1)), True


def _budget(state: DialogueState, days: int) -> tuple[float | None, float | None]:
    """(what feels right, hard limit), as far as the conversation says: euros per person and day."""
    budget, party = state.budget, state.party
    people = party.size if party is not None and party.size else 1
    if budget is None or budget.currency not in (None, "EUR") or budget.high is None:
        return None, None
    stay = state.value("duration") or (days if days <= 21 else USUAL_DAYS)
    share = {"total": stay * people, "person": stay, "night": 1, "day": 1}.get(budget.per)
    if share is None:
        # An amount without a unit: for a day if it could buy one, in all if it is much more than any day costs.
        share = 1 if budget.high <= 500.0 else stay * people
    amount = budget.high / max(share, 1)
    return amount, None if budget.around else amount


def _wishes(
    state: DialogueState, catalogue: Catalogue, known: Known
) -> tuple[dict[str, float], float | None, set[str]]:
    """(feature -> importance, the daily high, `wishes.<feature>` of those that nobody asked for now)."""
    wishes: dict[str, float] = {}
    asked: set[str] = set()
    for tag in known.likes:
        for feature, weight in _features(_LIKES_OF.get(tag, tag), catalogue).items():
            wishes[feature] = max(wishes.get(feature, 0.0), _PROFILE_WISH * weight)
    for tag in state.interests:
        for feature, weight in _features(tag, catalogue).items():
            wishes[feature] = max(wishes.get(feature, 0.0), weight)
            asked.add(feature)
    for tag in state.refused_interests:
        for feature in _features(tag, catalogue):
            wishes.pop(feature, None)
    lasting = {f"wishes.{feature}" for feature in wishes if feature not in asked}
    return wishes, WARM_C if "warm" in state.interests else None, lasting


def _features(tag: str, catalogue: Catalogue) -> Mapping[str, float]:
    if tag in catalogue.feature_names:
        return {tag: 1.0}
    return {name: weight for name, weight in _FEATURES_OF.get(tag, {}).items() if name in catalogue.feature_names}


def _allowed(state: DialogueState, catalogue: Catalogue, trip: Trip) -> Mask:
    allowed = np.ones(len(catalogue), bool)
    prices = catalogue.prices[:, trip.month - 1]
    if state.price_below is not None:
        allowed &= prices < state.price_below - 1e-9
    if state.price_above is not None:
        allowed &= prices > state.price_above + 1e-9
    for place in state.refused_places:
        allowed &= ~within(place, catalogue)
    shown = [catalogue.rows[id] for id in state.refused_offers if id in catalogue.rows]
    allowed[shown] = False
    if state.place is not None:
        allowed &= within(state.place, catalogue, near=True)
    return allowed


def within(place: Place, catalogue: Catalogue, *, near: bool = False) -> Mask:
    """[n]: the destinations that a named place means. `near`: for a town that is none of them, those around it."""
    if place.kind == "country":
        return np.asarray(countries_of(catalogue) == place.country)
    row = catalogue.rows.get(place.id) if place.kind == "destination" else _row_named(place, catalogue)
    if row is not None and place.kind != "region":
        only = np.zeros(len(catalogue), bool)
        only[row] = True
        return only
    if place.kind == "region":
        away = catalogue.distances_km(place.latitude, place.longitude) <= REGION_KM
        return np.asarray(away & (countries_of(catalogue) == place.country) if place.country else away)
    if near:
        return np.asarray(catalogue.distances_km(place.latitude, place.longitude) <= NEAR_KM)
    return np.zeros(len(catalogue), bool)


def _row_named(place: Place, catalogue: Catalogue) -> int | None:
    for name in (*place.names, *place.others):
        named = catalogue.named(name)
        if named is not None and place.country in ("", named.country):
            return catalogue.rows[named.id]
    return None


def known_of(values: Mapping[str, Any], place_named: Callable[[str], Place | None]) -> Known:
    """What the profile's values say. `place_named`: a name -> Place or None."""
    origin = None
    for name in ("home_city", "home_airport"):
        value = values.get(name)
        text = value if isinstance(value, str) else value.get("name", "") if isinstance(value, Mapping) else ""
        if text and origin is None:
            origin = place_named(str(text))
    budget = values.get("trip_budget")
    likes = [*(values.get("likes") or ()), *(values.get("interests") or ())]
    return Known(
        origin,
        float(budget) if isinstance(budget, int | float) and not isinstance(budget, bool) and budget > 0 else None,
        tuple(str(tag).casefold() for tag in likes if isinstance(tag, str))[:32],
    )
