"""What the assistant comes back to by itself after a suggestion: planned when it is made, each with a last moment.

A follow-up is a plan, not a message: whether, when and by which channel it is said is the delivery policy's. Each one
names the fact that it is about, so that it can be dropped when the fact has changed, and one that has expired is never
said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from edge_client.decide.travel_constraints import Trip
from shared_models.errors import DecisionError

Topic = Literal["still_thinking", "weather_before_trip", "how_was_it"]
TOPICS: tuple[Topic, ...] = get_args(Topic)
DAY_S = 86_400.0
MOST_PENDING = 20
THINKING_S = 2 * DAY_S
WEATHER_DAYS_BEFORE = 4
"""The forecast is good by then."""
ASK_DAYS_AFTER = 1
ASK_FOR_DAYS = 14


@dataclass(frozen=True)
class FollowUp:
    """One thing to come back to."""

    id: str
    """The same for the same plan: planning twice adds nothing."""
    topic: Topic
    due_s: float
    """Unix time from which on it makes sense."""
    expires_s: float
    """From then on it is not said any more."""
    place: str
    """Id of the destination."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What it is about: days as 2026-12-24."""

    def __post_init__(self) -> None:
        if not isinstance(self.topic, str) or self.topic not in TOPICS or not isinstance(self.place, str):
            raise DecisionError(f"a follow-up is about a place and one of {', '.join(TOPICS)}")
        if not all(_is_time(value) for value in (self.due_s, self.expires_s)) or not self.due_s < self.expires_s:
            raise DecisionError("a follow-up is due at a Unix time and expires later")

    def document(self) -> dict[str, Any]:
        """For the encrypted store."""
        return {**self.__dict__, "facts": dict(self.facts)}

    @classmethod
    def from_document(cls, document: Any) -> FollowUp:
        """Raises DecisionError."""
        if not isinstance(document, Mapping) or set(document) != set(cls.__dataclass_fields__):
            raise DecisionError("not a follow-up: expected the fields " + ", ".join(cls.__dataclass_fields__))
        if not isinstance(document["facts"], Mapping) or not isinstance(document["id"], str):
            raise DecisionError("not a follow-up: id is a text, facts are an object")
        return cls(**{**document, "facts": dict(document["facts"])})


def after_suggestion(place: str, trip: Trip, now_s: float) -> tuple[FollowUp, ...]:
    """For a user who looked and did not decide: once, in two days, and not after the trip would have begun."""
    starts_s = _day_s(trip, 0)
    due_s = _time(now_s) + THINKING_S
    if due_s >= starts_s:
        return ()
    return (_follow_up("still_thinking", due_s, min(due_s + 5 * DAY_S, starts_s), place, trip),)


def after_choice(place: str, trip: Trip, now_s: float) -> tuple[FollowUp, ...]:
    """For a user who decided: the weather shortly before, and how it was. What is past already is left out."""
    before_s, starts_s = _day_s(trip, -WEATHER_DAYS_BEFORE), _day_s(trip, 0)
    back_s = _day_s(trip, trip.days - 1 + ASK_DAYS_AFTER)
    planned = (
        _follow_up("weather_before_trip", before_s, starts_s, place, trip),
        _follow_up("how_was_it", back_s, back_s + ASK_FOR_DAYS * DAY_S, place, trip),
    )
    return tuple(one for one in planned if one.expires_s > _time(now_s))


def merged(pending: Sequence[FollowUp], new: Sequence[FollowUp], now_s: float) -> tuple[FollowUp, ...]:
    """`pending` and `new` without repetitions and without what has expired, by due time; the latest beyond MOST_PENDING
    are dropped.

    A choice makes the question whether the user is still thinking about that trip void.
    """
    moment = _time(now_s)
    decided = {(one.place, one.facts.get("first")) for one in new if one.topic != "still_thinking"}
    kept = {one.id: one for one in (*pending, *new) if one.expires_s > moment}
    left = [
        one
        for one in kept.values()
        if one.topic != "still_thinking" or (one.place, one.facts.get("first")) not in decided
    ]
    return tuple(sorted(left, key=lambda one: (one.due_s, one.id))[:MOST_PENDING])


def due(pending: Sequence[FollowUp], now_s: float) -> tuple[FollowUp, ...]:
    """What may be said now."""
    moment = _time(now_s)
    return tuple(one for one in pending if one.due_s <= moment < one.expires_s)


def _follow_up(topic: Topic, due_s: float, expires_s: float, place: str, trip: Trip) -> FollowUp:
    facts = {"first": trip.first.isoformat(), "last": trip.last.isoformat()}
    return FollowUp(f"{topic}:{place}:{facts['first']}", topic, due_s, expires_s, place, facts)


def _day_s(trip: Trip, days: int) -> float:
    """Nine in the morning UTC of the trip's first day plus `days`."""
    start = datetime(trip.first.year, trip.first.month, trip.first.day, 9, tzinfo=UTC)
    return (start + timedelta(days=days)).timestamp()


def _time(value: float) -> float:
    if not _is_time(value):
        raise DecisionError(f"now is {str(value)[:40]!r}, expected Unix seconds")
    return float(value)


def _is_time(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value) and 0 <= value < 1e11
