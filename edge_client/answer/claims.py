"""Does a text say only what the data say? Every number, price, day, place, superlative, promise and hint of urgency is looked up
in the facts of the decision; what is not there is returned. It refuses too much rather than too little: the template stands by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from edge_client.answer.facts import Facts
from edge_client.understand.amounts import money_at
from edge_client.understand.dates import DateReader
from edge_client.understand.days import DateRange
from edge_client.understand.numbers import number_at
from edge_client.understand.places import Gazetteer, no_places
from shared_models.languages import Language, load_language
from shared_models.languages.tokens import Token, fold, folded_words, tokenize
from shared_models.lookalikes import latin
from shared_models.pressure import Pressure, pressures

ClaimKind = Literal["number", "price", "date", "place", "superlative", "urgency", "promise", "address", "name"]
_ADDRESS = re.compile(
    r"(?:https?:|www\.|mailto:|javascript:|data:)\S*|\S{1,64}@\S{1,64}|\b[\w-]{1,63}\.(?:com|org|net|io|de|es|eu)\b|<[^>]{0,200}>|\]\(",
    re.I,
)
_CURRENCY_SIGNS = "€$£¥₹₽฿"


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that a text says and the data do not."""

    kind: ClaimKind
    text: str
    start: int
    end: int


def unsupported(
    text: str,
    facts: Facts,
    language: str,
    today: date,
    *,
    gazetteer: Gazetteer | None = None,
    strict: bool = False,
) -> tuple[Claim, ...]:
    """Claims of `text` that `facts` do not license, in the order of the text.

    `strict`, for text that nobody has reviewed: names that are not known at all are refused, too. Raises InputError for an
    unknown language.
    """
    words = load_language(language)
    tokens = tokenize(text)
    checked = _Checked(text, tokens, facts, words, gazetteer or no_places())
    checked.names()
    checked.addresses()
    checked.dates(today)
    checked.money()
    checked.places()
    checked.phrases()
    checked.pressure()
    checked.numbers()
    if strict:
        checked.strangers()
    return tuple(sorted(checked.claims, key=lambda claim: (claim.start, claim.end)))


class _Checked:
    """One text: which tokens are accounted for, and what was found that is not licensed."""

    def __init__(self, text: str, tokens: Sequence[Token], facts: Facts, words: Language, gazetteer: Gazetteer) -> None:
        self._text = text
        self._tokens = tokens
        self._facts = facts
        self._words = words
        self._gazetteer = gazetteer
        self._done: set[int] = set()
        self._named: list[tuple[int, str]] = []
        """(token, folded name) of each suggestion that is mentioned."""
        self.claims: list[Claim] = []

    def names(self) -> None:
        """Names that the data hold may say anything: "Hotel 1900", "Best Western"."""
        folded = [token.folded for token in self._tokens]
        for name in sorted(self._facts.names, key=len, reverse=True):
            sought = list(folded_words(name))
            for start in range(len(folded) - len(sought) + 1) if sought else ():
                if folded[start : start + len(sought)] == sought and start not in self._done:
                    self._done.update(range(start, start + len(sought)))
                    if fold(name) in self._facts.prices_of:
                        self._named.append((start, fold(name)))
        self._named.sort()

    def addresses(self) -> None:
        for found in _ADDRESS.finditer(self._text):
            self._claim("address", found.start(), found.end())

    def dates(self, today: date) -> None:
        for match in DateReader(self._tokens, self._words, today).find():
            span = range(match.index, match.index + match.tokens)
            if self._done.issuperset(span):
                continue
            self._done.update(span)
            if not any(_within(match.dates, known) for known in self._facts.dates):
                self._claim_tokens("date", match.index, match.tokens)

    def money(self) -> None:
        for index in range(len(self._tokens)):
            if index in self._done:
                continue
            money = money_at(self._tokens, index, self._words)
            if money is None or money.currency is None:
                if self._tokens[index].text in _CURRENCY_SIGNS:
                    self._claim_tokens("price", index, 1)
                continue
            self._done.update(range(index, index + money.tokens))
            unit = self._words.phrases("per").at(self._tokens, index + money.tokens)
            licensed = self._licensed_price(money.amount, money.currency, index)
            if licensed and unit is not None:
                # "90 euros in total" is no price of 90 euros a night.
                licensed = any(_same(money.amount, price) and per == unit.value for price, per in self._facts.units)
            if not licensed:
                self._claim_tokens("price", index, money.tokens)

    def _licensed_price(self, amount: float, currency: str, index: int) -> bool:
        known = any(_same(amount, price) and unit in (currency, None) for price, unit in self._facts.prices)
        if not known:
            return False
        about = self._about(index)
        owned = [prices for prices in self._facts.prices_of.values() if any(_same(amount, price) for price in prices)]
        if about is None or not owned:
            return True
        # A price of another suggestion than the one that the sentence is about is a false claim with a true number.
        return any(_same(amount, price) for price in self._facts.prices_of[about])

    def _about(self, index: int) -> str | None:
        """The suggestion that a token is about: the last one named before it in its sentence, else the first one after it."""
        start, end = self._sentence(index)
        before = [name for position, name in self._named if start <= position <= index]
        after = [name for position, name in self._named if index < position < end]
        return before[-1] if before else after[0] if after else None

    def _sentence(self, index: int) -> tuple[int, int]:
        breaks = [
            position
            for position, token in enumerate(self._tokens)
            if token.text in ".!?;" and position not in self._done
        ]
        start = max((position + 1 for position in breaks if position < index), default=0)
        return start, min((position for position in breaks if position > index), default=len(self._tokens))

    def places(self) -> None:
        for match in self._gazetteer.find(self._tokens, self._words):
            span = range(match.index, match.index + match.tokens)
            if match.slips or not self._done.isdisjoint(span):
                continue
            name = fold(" ".join(self._tokens[position].text for position in span))
            self._done.update(span)
            spelled = {fold(other) for place in match.candidates for other in (*place.names, *place.others)}
            if name not in self._facts.places and spelled.isdisjoint(self._facts.places):
                self._claim_tokens("place", match.index, match.tokens)

    def phrases(self) -> None:
        kinds: tuple[tuple[str, ClaimKind], ...] = (
            ("promises", "promise"),
            ("superlatives", "superlative"),
        )
        for name, kind in kinds:
            for index, match in self._words.phrases(name).anywhere(self._tokens):
                span = range(index, index + match.tokens)
                if self._done.issuperset(span):
                    continue
                if kind == "superlative" and self._true_of_what_is_named(match.value, index):
                    continue
                self._claim_tokens(kind, index, match.tokens)

    def pressure(self) -> None:
        """Urgency, scarcity, what others do, former prices and guilt: true only with the fact of that name in the sentence."""
        same = len(latin(self._text)) == len(self._text)
        for found in pressures(self._text, (self._words.code,)):
            # What cannot be seen shifts the offsets: then the whole text is refused.
            start, end = (found.start, found.end) if same else (0, len(self._text))
            span = {index for index, token in enumerate(self._tokens) if start <= token.start and token.end <= end}
            if not (span and self._done.issuperset(span)) and not (same and self._is_supported(found)):
                self._claim("urgency", start, end)

    def _is_supported(self, found: Pressure) -> bool:
        values = {
            value.day if isinstance(value, date) else float(value)
            for value in self._facts.supporting.get(found.kind, ())
        }
        start, end = found.sentence
        said = (
            number_at(self._tokens, index, self._words)
            for index, token in enumerate(self._tokens)
            if start <= token.start and token.end <= end
        )
        return any(number is not None and number.value in values for number in said)

    def _true_of_what_is_named(self, superlative: str, index: int) -> bool:
        licensed = self._facts.superlatives.get(superlative, frozenset())
        about = self._about(index)
        return about is not None and about in licensed

    def numbers(self) -> None:
        index = 0
        while index < len(self._tokens):
            number = None if index in self._done else number_at(self._tokens, index, self._words)
            if number is None:
                if index not in self._done and self._tokens[index].is_number:
                    self._claim_tokens("number", index, 1)
                index += 1
                continue
            written = self._tokens[index].is_number
            # "one of these" counts nothing.
            if (written or number.value != 1) and not self._licensed_number(number.value):
                self._claim_tokens("number", index, number.tokens)
            index += number.tokens

    def _licensed_number(self, value: float) -> bool:
        known = self._facts.numbers | {price for price, _ in self._facts.prices}
        return any(_same(value, number) for number in known)

    def strangers(self) -> None:
        """Capitalised words inside a sentence that neither the data nor the language's own lists hold."""
        plain = self._words.phrases("plain_nouns")
        for index, token in enumerate(self._tokens):
            if index in self._done or not token.is_word or not token.text[0].isupper() or index == 0:
                continue
            opens = self._tokens[index - 1].text in '.!?:¿¡"“„»«'
            known = token.folded in self._words.vocabulary or plain.at(self._tokens, index) is not None
            if not opens and not known:
                self._claim_tokens("name", index, 1)

    def _claim_tokens(self, kind: ClaimKind, index: int, size: int) -> None:
        self._claim(kind, self._tokens[index].start, self._tokens[index + size - 1].end)

    def _claim(self, kind: ClaimKind, start: int, end: int) -> None:
        self.claims.append(Claim(kind, self._text[start:end], start, end))


def _same(one: float, other: float) -> bool:
    """Equal as they are said: to the cent, or to the whole number when it was rounded."""
    return abs(one - other) < 0.005 or (one == int(one) and abs(one - other) <= 0.5)


def _within(said: DateRange, known: DateRange) -> bool:
    """ "In May" is true of 3 to 10 May, and "5 May" of a stay from 3 to 10 May."""
    inside = known.start <= said.start and said.end <= known.end
    whole_months = said.start.day == 1 and (said.end.month, said.end.year) == (known.end.month, known.end.year)
    return inside or (whole_months and said.start <= known.start and known.end <= said.end)
