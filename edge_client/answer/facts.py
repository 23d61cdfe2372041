"""What an answer may say: the data of one decision, as a closed list of numbers, prices, places, days and names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TypeAlias

from edge_client.understand.amounts import Budget, Party
from edge_client.understand.days import DateRange
from edge_client.understand.places import Gazetteer, Place, no_places
from edge_client.understand.state import DialogueState, Offer, Question
from shared_models.errors import InputError
from shared_models.languages.tokens import fold
from shared_models.pressure import SUPPORTED_BY

Value: TypeAlias = str | int | float | date
PUBLIC_REASONS = (
    "said",
    "interest",
    "budget",
    "season",
    "rain",
    "weather",
    "event",
    "holiday",
    "cheapest",
    "mood",
)
"""Kinds of reasons that tell nothing about the user beyond this conversation. Every other kind is personal."""
_PRICE_VALUES = ("price", "limit", "former_price")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is suggested: a kind (a sentence `reason.<kind>` of each language) and the data that it names."""

    kind: str
    values: Mapping[str, Value] = field(default_factory=dict)
    text: str = ""
    """In words already, in the language of the answer; then no sentence of the language is needed."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One thing that the decision offers. Raises InputError for a name or a price that cannot be said."""

    id: str
    name: str
    price: float | None = None
    currency: str = "EUR"
    per: str = ""
    """`night`, `person`, `day`, `total` or nothing."""
    reasons: tuple[Reason, ...] = ()
    place: Place | None = None

    @property
    def offer(self) -> Offer:
        """As the dialogue remembers it."""
        return Offer(self.id, self.name, self.price, self.currency, self.per)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or len(self.name) > 120:
            raise InputError(
                f"suggestion {str(self.id)[:40]!r}: its name is {str(self.name)[:40]!r}, expected 1 to 120 characters"
            )
        bad = isinstance(self.price, bool) or (
            self.price is not None
            and (not isinstance(self.price, int | float) or not math.isfinite(self.price) or self.price < 0)
        )
        if bad:
            raise InputError(f"suggestion {self.id!r}: its price is {self.price!r}, expected a number from 0")
        if self.per not in ("", "night", "person", "day", "total"):
            raise InputError(
                f"suggestion {self.id!r}: its price is per {self.per!r}, expected night, person, day or total"
            )


@dataclass(frozen=True)
class Facts:
    """The closed list. Whatever an answer says beyond it is unsupported."""

    numbers: frozenset[float] = frozenset()
    prices: frozenset[tuple[float, str | None]] = frozenset()
    places: frozenset[str] = frozenset()
    """Folded names."""
    dates: tuple[DateRange, ...] = ()
    names: tuple[str, ...] = ()
    """Names of suggestions, events and the like, which may hold anything."""
    prices_of: Mapping[str, frozenset[float]] = field(default_factory=dict)
    """Folded name of a suggestion -> the amounts that may stand in a sentence about it alone."""
    units: frozenset[tuple[float, str]] = frozenset()
    """(amount, `night`, `person` …): what a price may be said to be for."""
    superlatives: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """`cheapest` and others -> folded names of the suggestions that it is true of."""
    supporting: Mapping[str, frozenset[float | date]] = field(default_factory=dict)
    """Kind of pressure (shared_models.pressure) -> the facts that make it true: how many are left, until when."""


def facts_of(
    state: DialogueState,
    suggestions: Iterable[Suggestion] = (),
    *,
    question: Question | None = None,
    today: date | None = None,
    values: Mapping[str, Value] | None = None,
    gazetteer: Gazetteer | None = None,
) -> Facts:
    """All that the state of the conversation and the suggestions license. `values`: further data that the answer may name.

    `gazetteer` names the country that a place lies in, which may be said with it.
    """
    shown = tuple(suggestions)
    collected = _Collected(gazetteer or no_places())
    for slot in state.slots.values():
        collected.slot(slot.value)
        collected.places.update(fold(name) for place in slot.choices for name in _names(place))
    for place in (*state.refused_places, *(question.places if question else ())):
        collected.place(place)
    for name in (*(question.choices if question else ()), *((state.chosen.name,) if state.chosen else ())):
        collected.names.append(name)
    for limit in (state.price_below, state.price_above):
        if limit is not None:
            collected.price(limit, None)
    if state.dates is not None:
        collected.slot(state.dates)
    if state.chosen is not None and state.chosen.price is not None:
        collected.price(state.chosen.price, state.chosen.currency, state.chosen.per)
    if today is not None:
        collected.dates.append(DateRange(today, today))
    for name, value in (values or {}).items():
        collected.value(name, value, None)
    for suggestion in shown:
        collected.suggestion(suggestion)
    return collected.facts(_superlatives(shown))


class _Collected:
    def __init__(self, gazetteer: Gazetteer) -> None:
        self._gazetteer = gazetteer
        self.numbers: set[float] = set()
        self.prices: set[tuple[float, str | None]] = set()
        self.places: set[str] = set()
        self.dates: list[DateRange] = []
        self.names: list[str] = []
        self.prices_of: dict[str, frozenset[float]] = {}
        self.units: set[tuple[float, str]] = set()
        self.supporting: dict[str, frozenset[float | date]] = {}

    def slot(self, value: object) -> None:
        if isinstance(value, Place):
            self.place(value)
        elif isinstance(value, DateRange):
            self.dates.append(value)
            self.numbers.add(float(value.days))
        elif isinstance(value, Budget):
            for amount in (value.low, value.high):
                if amount is not None:
                    self.price(amount, value.currency, value.per)
        elif isinstance(value, Party):
            self.numbers.update(map(float, (value.adults, value.children, value.size)))
        elif isinstance(value, int | float):
            self.numbers.add(float(value))

    def price(self, amount: float, currency: str | None, per: str = "") -> None:
        self.prices.add((float(amount), currency))
        self.units.add((float(amount), per))

    def place(self, place: Place) -> None:
        self.places.update(map(fold, _names(place)))
        # A country may be named with its city.
        country = self._gazetteer.country_of(place)
        self.places.update(map(fold, _names(country) if country else ()))

    def value(self, name: str, value: Value, currency: str | None) -> None:
        if isinstance(value, bool):
            raise InputError(f"reason value {name}: expected text, a number or a date")
        for kind, names in SUPPORTED_BY.items():
            if name in names and not isinstance(value, str):
                self.supporting[kind] = self.supporting.get(kind, frozenset()) | {value}
        if isinstance(value, date):
            self.dates.append(DateRange(value, value))
        elif isinstance(value, int | float):
            if name in _PRICE_VALUES:
                self.price(value, currency)
            else:
                self.numbers.add(float(value))
        else:
            self.names.append(str(value))

    def suggestion(self, suggestion: Suggestion) -> None:
        self.names.append(suggestion.name)
        amounts = set()
        if suggestion.price is not None:
            self.price(suggestion.price, suggestion.currency, suggestion.per)
            amounts.add(float(suggestion.price))
        if suggestion.place is not None:
            self.place(suggestion.place)
        for reason in suggestion.reasons:
            for name, value in reason.values.items():
                self.value(name, value, suggestion.currency)
                if name in _PRICE_VALUES and isinstance(value, int | float):
                    amounts.add(float(value))
        self.prices_of[fold(suggestion.name)] = frozenset(amounts)

    def facts(self, superlatives: Mapping[str, frozenset[str]]) -> Facts:
        return Facts(
            frozenset(self.numbers),
            frozenset(self.prices),
            frozenset(self.places),
            tuple(dict.fromkeys(self.dates)),
            tuple(dict.fromkeys(self.names)),
            self.prices_of,
            frozenset(self.units),
            superlatives,
            self.supporting,
        )


def _names(place: Place) -> tuple[str, ...]:
    return (*place.names, *place.others)


def _superlatives(shown: tuple[Suggestion, ...]) -> Mapping[str, frozenset[str]]:
    """Of what is shown, the cheapest and the dearest: only if all have a price of one kind, and there are several."""
    kinds = {(suggestion.currency, suggestion.per) for suggestion in shown}
    prices = [suggestion.price for suggestion in shown if suggestion.price is not None]
    if len(shown) < 2 or len(prices) < len(shown) or len(kinds) > 1 or min(prices) == max(prices):
        return {}
    return {
        "cheapest": frozenset(fold(one.name) for one in shown if one.price == min(prices)),
        "most_expensive": frozenset(fold(one.name) for one in shown if one.price == max(prices)),
    }
