"""What is true now of the thing that a follow-up is about: looked up again when it is said, and nothing else may be
said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from edge_client.decide.follow_ups import FollowUp
from shared_models.errors import DomainError

if TYPE_CHECKING:
    from shared_models.context_feed import BroadcastFeed
    from shared_models.travel.catalogue import Catalogue

LONGEST_TRIP_DAYS = 366


@dataclass(frozen=True)
class FollowUpFacts:
    """The closed list for one message."""

    name: str
    """Of the place, in the user's language."""
    first: date
    last: date
    high_c: float | None = None
    """Mean of the daily highs that are forecast for the stay; None without a forecast that is valid now."""


FactsSource = Callable[[FollowUp, str, float], FollowUpFacts | None]
"""Follow-up, language, Unix time -> what is true now; None if what it is about is no longer so: then it is dropped."""


def facts_from(places: Callable[[], tuple[Catalogue | None, BroadcastFeed | None]]) -> FactsSource:
    """Facts of the travel domain: the place must still be in the catalogue, the forecast comes from the feed in force.

    What is returned raises DomainError while there is no catalogue.
    """

    def facts(follow_up: FollowUp, language: str, now_s: float) -> FollowUpFacts | None:
        catalogue, issue = places()
        stay = days_of(follow_up)
        if catalogue is None:
            # It says nothing about the plan: it is said when there is one again.
            raise DomainError("there is no catalogue of places to speak of")
        row = catalogue.rows.get(follow_up.place)
        if row is None or stay is None:
            return None
        outlook = None
        if issue is not None and issue.staleness(now_s) == "fresh":
            outlook = issue.outlook(follow_up.place, *stay)
        high_c = None if outlook is None else float(round(outlook.high_c))
        return FollowUpFacts(catalogue.destinations[row].name(language), *stay, high_c)

    return facts


def days_of(follow_up: FollowUp) -> tuple[date, date] | None:
    """First and last day of the trip that it is about; None if it names none that can be."""
    try:
        first, last = date.fromisoformat(follow_up.facts["first"]), date.fromisoformat(follow_up.facts["last"])
    except (KeyError, TypeError, ValueError):
        return None
    return (first, last) if 0 <= (last - first).days < LONGEST_TRIP_DAYS else None
