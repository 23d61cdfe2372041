"""Where a conversation stands: what is wanted, what was refused, what was offered. A value; each turn makes a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any, Literal

from edge_client.understand.amounts import Budget, Party
from edge_client.understand.days import DateRange
from edge_client.understand.places import Place
from edge_client.understand.slots import Slot, SlotName

Act = Literal[
    "topic", "refine", "correct", "negate", "cheaper", "pricier", "more", "choose", "accept", "refuse", "why", "undo", "reset",
    "answer", "remark", "unclear",
]  # fmt: skip
"""topic: a new one, or another; answer: to our question; the others say what the user did."""
MOST_UNDONE = 10
MOST_TOPICS = 5


@dataclass(frozen=True, slots=True)
class Offer:
    """One suggestion on the table, as it was shown."""

    id: str
    name: str
    price: float | None = None
    currency: str = "EUR"
    per: str = ""
    """`night`, `person`, `day`, `total` or nothing."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the assistant needs to know before it acts."""

    about: SlotName | Literal["intent"]
    kind: Literal["missing", "which", "confirm", "past", "rephrase"]
    choices: tuple[str, ...] = ()
    """For `which`: what there is to choose from, in words; for `confirm`, the one reading."""
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Correction:
    """The user said that something was understood wrongly. Kept by the caller only with consent to learning."""

    text: str
    """The earlier text that was misunderstood."""
    meant: str
    """The intent that it meant."""
    understood: str


@dataclass(frozen=True)
class DialogueState:
    """Everything that later turns can refer to."""

    intent: str = ""
    slots: Mapping[SlotName, Slot] = field(default_factory=lambda: MappingProxyType({}))
    """What is wanted, one slot per name; interests are apart."""
    interests: tuple[str, ...] = ()
    refused_interests: tuple[str, ...] = ()
    refused_places: tuple[Place, ...] = ()
    refused_offers: tuple[str, ...] = ()
    """Ids that are not to be shown again in this topic."""
    price_below: float | None = None
    """After "something cheaper": the cheapest price that was shown."""
    price_above: float | None = None
    open: frozenset[SlotName] = frozenset()
    """Slots that the user leaves open: "anywhere", "any time"."""
    offers: tuple[Offer, ...] = ()
    chosen: Offer | None = None
    asked: Question | None = None
    last_text: str = ""
    language: str = ""
    """That of the last text that showed one."""
    topics: tuple[DialogueState, ...] = ()
    """Topics left for another one, the latest last."""
    before: DialogueState | None = field(default=None, repr=False)
    """The state before the last change, for "undo that"."""

    def value(self, name: SlotName) -> Any:
        """The value of a wanted slot, or None."""
        slot = self.slots.get(name)
        return None if slot is None else slot.value

    @property
    def place(self) -> Place | None:
        found = self.value("place")
        return found if isinstance(found, Place) else None

    @property
    def budget(self) -> Budget | None:
        found = self.value("budget")
        return found if isinstance(found, Budget) else None

    @property
    def party(self) -> Party | None:
        found = self.value("party")
        return found if isinstance(found, Party) else None

    @property
    def dates(self) -> DateRange | None:
        """The dates of the stay; a single day with a length is read as its start."""
        found, days = self.value("dates"), self.value("duration")
        if not isinstance(found, DateRange):
            return None
        if found.days == 1 and isinstance(days, int) and days > 1:
            end = found.start + timedelta(days)
            return DateRange(found.start, end)
        return found

    def with_slots(self, *slots: Slot) -> DialogueState:
        """With these wanted slots put in, each in place of an earlier one of its name."""
        merged = {**self.slots, **{slot.name: slot for slot in slots}}
        names = {slot.name for slot in slots}
        wanted = {slot.value for slot in slots if slot.name == "place"}
        return replace(
            self,
            slots=MappingProxyType(merged),
            open=self.open - names,
            refused_places=tuple(place for place in self.refused_places if place not in wanted),
        )

    def without(self, *names: SlotName) -> DialogueState:
        """With these slots forgotten."""
        kept = {name: slot for name, slot in self.slots.items() if name not in names}
        return replace(self, slots=MappingProxyType(kept))

    def offering(self, *offers: Offer) -> DialogueState:
        """With these suggestions on the table: what the caller showed after the turn."""
        return replace(self, offers=tuple(offers))

    def past(self, today: date) -> bool:
        """Whether the wanted dates are over."""
        dates = self.dates
        return dates is not None and dates.end < today


@dataclass(frozen=True)
class DialogueNeeds:
    """What each intent of a domain needs before it can be acted on."""

    needs: Mapping[str, tuple[SlotName, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """Intents that open no topic."""
    suggests: tuple[str, ...] = ()
    """Intents that are answered with suggestions out of the catalogue."""


@dataclass(frozen=True)
class Turn:
    """What one text did to a conversation."""

    state: DialogueState
    act: Act
    language: str
    changed: tuple[str, ...] = ()
    """Names of the slots that changed."""
    question: Question | None = None
    """What to ask before acting; None if the intent can be acted on."""
    correction: Correction | None = None
    dropped: tuple[str, ...] = ()
    """What the user took back or refused, as it was written."""
    remark: str = ""
    """Of a remark, such as "thanks": the intent that it is."""


def differences(one: DialogueState, other: DialogueState) -> tuple[str, ...]:
    """Names of the slots that differ."""
    names = sorted({*one.slots, *other.slots})
    return tuple(name for name in names if one.slots.get(name) != other.slots.get(name))
