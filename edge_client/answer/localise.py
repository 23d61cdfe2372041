"""Money, days, parties and lists in the words of a language. No library: three languages and one calendar need none."""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

import shared_models.languages
from edge_client.answer.facts import Reason, Suggestion
from edge_client.understand.amounts import Budget, Party
from edge_client.understand.days import DateRange
from edge_client.understand.places import Place
from edge_client.understand.slots import Slot
from edge_client.understand.state import DialogueState
from shared_models.errors import DomainError, InputError
from shared_models.languages import load_language

_SIGNS = {"EUR": "€", "USD": "$", "GBP": "£"}


class Locale:
    """How one language says things. Raises InputError for an unknown language, DomainError for a damaged file."""

    def __init__(self, code: str) -> None:
        self.code = code
        self._language = load_language(code)
        self._replies = replies(code)

    def text(self, name: str) -> str:
        """A single sentence or pattern of the replies file."""
        try:
            return str(self._replies[name])
        except KeyError as error:
            raise DomainError(f"replies.{self.code}.yaml: {name} is missing") from error

    def number(self, value: float) -> str:
        """1234.5 as "1,234.50" or "1.234,50"; whole numbers without a fraction."""
        plain = f"{value:,.0f}" if float(value) == int(value) else f"{value:,.2f}"
        return plain if self.code == "en" else plain.translate(str.maketrans(",.", ".,"))

    def money(self, amount: float, currency: str | None, per: str = "") -> str:
        symbol = _SIGNS.get(currency or "", currency or "")
        if not symbol:
            price = self.number(amount)
        elif self.code == "en" and currency not in _SIGNS:
            price = f"{self.number(amount)} {symbol}"
        else:
            price = put(self._language.text("money"), amount=self.number(amount), symbol=symbol)
        return put(self.text(f"per.{per}"), price=price) if per else price

    def day(self, day: date) -> str:
        return put(self._language.text("date"), day=str(day.day), month=self.month(day.month), year=str(day.year))

    def days(self, dates: DateRange) -> str:
        if dates.days == 1:
            return self.day(dates.start)
        if dates.start.day == 1 and dates.end == month_end(dates.start):
            return put(
                self._language.text("month_year"), month=self.month(dates.start.month), year=str(dates.start.year)
            )
        return put(self._language.text("date_range"), start=self.day(dates.start), end=self.day(dates.end))

    def month(self, number: int) -> str:
        name = self._language.names("months")[number - 1]
        return name if self.code == "es" else name.capitalize()

    def budget(self, budget: Budget) -> str:
        low = None if budget.low is None else self.money(budget.low, budget.currency, budget.per)
        high = None if budget.high is None else self.money(budget.high, budget.currency, budget.per)
        if budget.around and high:
            return put(self.text("around"), price=high)
        if low and high:
            return f"{put(self.text('at_least'), price=low)} {put(self.text('up_to'), price=high)}"
        return put(self.text("up_to"), price=high) if high else put(self.text("at_least"), price=low or "")

    def party(self, party: Party) -> str:
        parts = [
            self.count(name, number)
            for name, number in (("adults", party.adults), ("children", party.children))
            if number
        ]
        return self.joined(parts)

    def count(self, name: str, number: int) -> str:
        return put(self.text(f"{name}.{'one' if number == 1 else 'many'}"), count=self.number(number))

    def interest(self, tag: str) -> str:
        names = self._replies["interests"]
        return str(names.get(tag, tag.replace("_", " ")))

    def joined(self, parts: Sequence[str], *, word: str = "and") -> str:
        """a, b and c."""
        if len(parts) < 2:
            return "".join(parts)
        return f"{', '.join(parts[:-1])} {self._language.text(word)} {parts[-1]}"

    def slot(self, slot: Slot) -> str:
        """A slot as it is repeated to the user, so that a wrong reading is seen."""
        value = slot.value
        if isinstance(value, Place):
            name = value.name(self.code)
            return put(self.text("from"), place=name) if slot.name == "origin" else name
        if isinstance(value, DateRange):
            return self.days(value)
        if isinstance(value, Budget):
            return self.budget(value)
        if isinstance(value, Party):
            return self.party(value)
        if slot.name == "duration" and isinstance(value, int):
            return self.count("days", value)
        return self.interest(str(value))

    def summary(self, state: DialogueState, names: Sequence[str]) -> str:
        """What is wanted, of these slots, in words; with dates instead of a start and a length."""
        parts = []
        for name in names:
            if name == "interest":
                parts += [self.interest(tag) for tag in state.interests]
            elif name == "dates" and state.dates is not None:
                parts.append(self.days(state.dates))
            elif name in state.slots:
                parts.append(self.slot(state.slots[name]))  # type: ignore[index]
        return ", ".join(dict.fromkeys(parts))

    def offer(self, suggestion: Suggestion) -> str:
        if suggestion.price is None:
            return put(self.text("offer.unpriced"), name=suggestion.name)
        price = self.money(suggestion.price, suggestion.currency, suggestion.per)
        return put(self.text("offer"), name=suggestion.name, price=price)

    def reason(self, reason: Reason, currency: str = "EUR") -> str:
        """One reason in words. Raises InputError if a value that its sentence names is missing."""
        if reason.text:
            return reason.text
        pattern = self.text(f"reason.{reason.kind}")
        values = {}
        for name, value in reason.values.items():
            if name in ("price", "limit") and isinstance(value, int | float):
                values[name] = self.money(value, currency)
            elif name == "month" and isinstance(value, date):
                values[name] = self.month(value.month)
            elif isinstance(value, date):
                values[name] = self.day(value)
            elif name == "interest":
                values[name] = self.interest(str(value))
            else:
                values[name] = self.number(value) if isinstance(value, int | float) else str(value)
        made = put(pattern, **values)
        if missing := next((name for name in ("price", "limit", "month", "high", "days", "date", "event", "name", "interest")
                            if "{" + name + "}" in pattern and name not in values), None):  # fmt: skip
            raise InputError(f"reason {reason.kind}: its sentence names {missing}, which it does not have")
        return made


@lru_cache(maxsize=3)
def replies(code: str) -> MappingProxyType[str, Any]:
    """The sentences of a language. Raises InputError for an unknown one."""
    load_language(code)
    path = Path(shared_models.languages.__file__).parent / f"replies.{code}.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return MappingProxyType(yaml.load(path.read_text(encoding="utf-8"), loader))


@lru_cache(maxsize=3)
def locale(code: str) -> Locale:
    """The locale of a language, made once."""
    return Locale(code)


def month_end(day: date) -> date:
    """The last day of a day's month."""
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])


def put(pattern: str, /, **values: str) -> str:
    """A pattern with its {names} replaced; a name without a value stays as it is."""
    # Not str.format: values are data, and must not be read as patterns.
    pieces: list[str] = []
    for piece in pattern.split("{"):
        name, closed, rest = piece.partition("}")
        pieces.append(values[name] + rest if closed and name in values else ("{" if pieces else "") + piece)
    return "".join(pieces)
