"""A device on which things are to be said: a real store, consent, profile and rooms, and a clock that a test sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from edge_client.decide.follow_up_facts import facts_from
from edge_client.decide.follow_ups import DAY_S, FollowUp
from edge_client.delivering import Delivering
from edge_client.delivery_hooks import Delivered
from edge_client.know.consent import Consent
from edge_client.know.profile import Profile
from edge_client.know.store import Store
from shared_models.context_feed import BroadcastFeed
from shared_models.profile import default_schema
from shared_models.travel.catalogue import Catalogue, load_catalogue

KEY = bytes(range(32))
MONDAY_EVENING_S = datetime(2026, 11, 2, 20, tzinfo=UTC).timestamp()
"""When most people look, as far as is known: what is worth saying at all is said now."""
HOUR_S = 3600.0
CONTEXT = {"zone": "UTC"}
PLACES = ("lisbon", "rome", "paris", "vienna", "prague", "oslo", "berlin", "madrid", "dublin", "athens")


def follow_up(number: int = 0, topic: str = "still_thinking", due_s: float = MONDAY_EVENING_S, **more: Any) -> FollowUp:
    """One plan about a place of the catalogue that ships, for four days from `due_s`."""
    place = places()[number % len(places())]
    facts = {"first": "2026-12-03", "last": "2026-12-08"}
    given = {"expires_s": due_s + 4 * DAY_S, "facts": facts, "id": f"{topic}:{place}:{number}", "place": place, **more}
    return FollowUp(topic=topic, due_s=due_s, **given)  # type: ignore[arg-type]


def places() -> list[str]:
    return [place.id for place in shipped().destinations]


def shipped() -> Catalogue:
    global _catalogue
    _catalogue = _catalogue or load_catalogue()
    return _catalogue


_catalogue: Catalogue | None = None


@dataclass
class Device:
    """One device, open."""

    home: Path
    now_s: float = MONDAY_EVENING_S
    granted: bool = True
    shown: list[Delivered] = field(default_factory=list)
    catalogue: Catalogue | None = field(default_factory=lambda: shipped())
    feed: BroadcastFeed | None = None

    def __post_init__(self) -> None:
        self.open()
        if self.granted:
            self.consent.grant("personalisation")

    def open(self) -> None:
        self.store = Store(self.home, key=KEY)
        self.consent = Consent(self.store, self.clock)
        self.profile = Profile(self.store, default_schema(), self.clock)
        self.room = Delivering(self.store, self.consent, self.profile, self.clock)
        self.room.facts_from(facts_from(lambda: (self.catalogue, self.feed)))
        self.consent.when_withdrawn("personalisation", self.room.rest)

    def reopen(self) -> None:
        self.store.close()
        self.open()

    def clock(self) -> float:
        return self.now_s

    def with_hook(self, channel: str = "notification") -> Device:
        self.room.register(channel, self.shown.append)
        return self

    def tick(self, **more: Any) -> tuple[Delivered, ...]:
        return self.room.tick(**{"context": CONTEXT, **more})

    def wait(self, hours: float) -> Device:
        self.now_s += hours * HOUR_S
        return self

    def today(self) -> date:
        return datetime.fromtimestamp(self.now_s, UTC).date()
