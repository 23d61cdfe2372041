"""Money and people in a text: "under 500 euros a night", "zwischen 800 und 1.000 €", "2 adults and 3 kids", "zu zweit"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_client.understand.numbers import CURRENCY_SIGNS, Number, may_be_number, number_at
from shared_models.languages import Language
from shared_models.languages.tokens import Token, folded_words

MOST_TRAVELLERS = 100


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount of money somebody is willing to spend."""

    low: float | None
    high: float | None
    currency: str | None
    """ISO 4217 code, or None if no currency was named."""
    per: str = ""
    """`night`, `person`, `day`, `total`, or nothing if it was not said."""
    around: bool = False
    """True for "about 500": both bounds are that amount."""


@dataclass(frozen=True, slots=True)
class Party:
    """Who travels."""

    adults: int
    children: int = 0

    @property
    def size(self) -> int:
        return self.adults + self.children


@dataclass(frozen=True, slots=True)
class BudgetMatch:
    index: int
    tokens: int
    value: Budget


@dataclass(frozen=True, slots=True)
class PartyMatch:
    index: int
    tokens: int
    value: Party


@dataclass(frozen=True, slots=True)
class Money:
    """One amount with its currency, if it has one."""

    amount: float
    currency: str | None
    tokens: int


def money_at(tokens: Sequence[Token], index: int, language: Language) -> Money | None:
    """€500, 500 €, 500 euros, five hundred dollars, or a bare number."""
    signs = language.phrases("currencies")
    before = signs.at(tokens, index)
    if before is not None and tokens[index].text in CURRENCY_SIGNS:
        number = number_at(tokens, index + before.tokens, language)
        return None if number is None else Money(number.value, before.value, before.tokens + number.tokens)
    number = number_at(tokens, index, language)
    if number is None:
        return None
    after = signs.at(tokens, index + number.tokens)
    # "500 de presupuesto" has no currency; "un millón de euros" has one.
    gap = 1 if after is None and number.value >= 1e6 else 0
    after = after or (signs.at(tokens, index + number.tokens + 1) if gap else None)
    if after is None:
        return Money(number.value, None, number.tokens)
    return Money(number.value, after.value, number.tokens + gap + after.tokens)


def read_budgets(tokens: Sequence[Token], language: Language) -> list[BudgetMatch]:
    """Amounts with a currency, and bare ones after words such as "budget", left to right."""
    found, index = [], 0
    while index < len(tokens):
        match = _budget_at(tokens, index, language) if _may_open(tokens[index], language, _BUDGET_OPENS) else None
        if match is not None:
            found.append(_with_unit(match, tokens, language))
        index += found[-1].tokens if match else 1
    return found


_BUDGET_OPENS = ("at_most", "at_least", "about", "range_open", "currencies", "number_phrases", "articles")
_PARTY_OPENS = ("collective", "pair", "alone", "party_for", "number_phrases", "articles")


def _may_open(token: Token, language: Language, names: tuple[str, ...]) -> bool:
    """Whether a number, or a phrase of these lists, can start here: most words are ruled out by one look."""
    return token.is_number or token.folded in language.first_words(names) or may_be_number(token, language)


def _budget_at(tokens: Sequence[Token], index: int, language: Language) -> BudgetMatch | None:
    bound, start = "", index
    for name in ("at_most", "at_least", "about", "range_open"):
        opening = language.phrases(name).at(tokens, index)
        if opening is not None:
            bound, start = name, index + opening.tokens
            break
    # "at most about 500", "höchstens so um die 500"
    softer = language.phrases("about").at(tokens, start) if bound in ("at_most", "at_least") else None
    start += softer.tokens if softer else 0
    money = money_at(tokens, start, language)
    if money is None or money.amount <= 0 or _counts_something(tokens, start + money.tokens, language):
        return None
    stop = start + money.tokens
    named = _after_budget_word(tokens, index, language) or language.phrases("budget_words").at(tokens, stop) is not None
    joint = language.phrases("range_to").at(tokens, stop)
    if joint is not None:
        upper = money_at(tokens, stop + joint.tokens, language)
        currency = (upper.currency or money.currency) if upper else None
        if upper is not None and upper.amount >= money.amount and (currency or named):
            size = stop + joint.tokens + upper.tokens - index
            return BudgetMatch(index, size, Budget(money.amount, upper.amount, currency))
    if money.currency is None and not (named and bound != "range_open") and not _bare_limit(money, bound):
        return None
    if bound == "at_least":
        budget = Budget(money.amount, None, money.currency)
    elif bound == "about":
        budget = Budget(money.amount, money.amount, money.currency, around=True)
    else:
        budget = Budget(None, money.amount, money.currency)
    return BudgetMatch(index, stop - index, budget)


def _bare_limit(money: Money, bound: str) -> bool:
    """ "under 500": a limit without a currency is money if nobody counts that many of anything."""
    return bound == "at_most" and money.amount >= 50


def _after_budget_word(tokens: Sequence[Token], index: int, language: Language) -> bool:
    position = index
    while position > 0 and tokens[position - 1].text == ":":
        position -= 1
    return language.phrases("budget_words").ending(tokens, position) is not None


def _counts_something(tokens: Sequence[Token], index: int, language: Language) -> bool:
    """Whether the number before counts people, days or kilometres."""
    names = ("adults", "children", "units", "months", "weekdays")
    if any(language.phrases(name).at(tokens, index) for name in names):
        return True
    return index < len(tokens) and tokens[index].folded in (
        "km",
        "kilometers",
        "kilometres",
        "degrees",
        "grad",
        "grados",
        "%",
    )


def _with_unit(match: BudgetMatch, tokens: Sequence[Token], language: Language) -> BudgetMatch:
    unit = language.phrases("per").at(tokens, match.index + match.tokens)
    if unit is None:
        return match
    return BudgetMatch(match.index, match.tokens + unit.tokens, replace(match.value, per=unit.value))


def read_parties(tokens: Sequence[Token], language: Language) -> list[PartyMatch]:
    """Who travels; "with my wife and two kids" is one party of four."""
    parts: list[PartyMatch] = []
    index = 0
    while index < len(tokens):
        match = _party_at(tokens, index, language) if _may_open(tokens[index], language, _PARTY_OPENS) else None
        if match is not None:
            if parts and _continues(tokens, parts[-1].index + parts[-1].tokens, index, language, parts[-1], match):
                whole = Party(
                    parts[-1].value.adults + match.value.adults, parts[-1].value.children + match.value.children
                )
                first = parts[-1].index
                parts[-1] = PartyMatch(first, index + match.tokens - first, whole)
            else:
                parts.append(match)
        index += match.tokens if match else 1
    return [_with_speaker(part) for part in parts if 1 <= part.value.size <= MOST_TRAVELLERS]


def _with_speaker(part: PartyMatch) -> PartyMatch:
    """ "with our three kids": children do not travel alone, so one adult is with them; the dialogue says how it counted."""
    if part.value.adults:
        return part
    return PartyMatch(part.index, part.tokens, Party(1, part.value.children))


def _continues(
    tokens: Sequence[Token], start: int, index: int, language: Language, one: PartyMatch, other: PartyMatch
) -> bool:
    """Whether only "and", "with" and the like stand between two parts, and both do not count the same people."""
    if one.value.children and other.value.children:
        return False
    between = [token.folded for token in tokens[start:index]]
    return len(between) <= 3 and all(word in _LINKS for word in between)


_LINKS = frozenset(
    folded_words("and with our my the plus , & und mit unseren unserem meinen den y con nuestros nuestras mis e")
)


def _party_at(tokens: Sequence[Token], index: int, language: Language) -> PartyMatch | None:
    for name in ("collective", "pair", "alone"):
        found = language.phrases(name).at(tokens, index)
        if found is not None:
            adults = int(found.value) if name == "collective" else 2 if name == "pair" else 1
            return PartyMatch(index, found.tokens, Party(adults))
    opening = language.phrases("party_for").at(tokens, index)
    if opening is not None:
        number = _whole(number_at(tokens, index + opening.tokens, language))
        if number is not None:
            stop = index + opening.tokens + number.tokens
            counted = _counted(tokens, index + opening.tokens, language)
            if counted is not None:
                return PartyMatch(index, opening.tokens + counted.tokens, counted.value)
            if _may_end_a_party(tokens, stop, language):
                return PartyMatch(index, opening.tokens + number.tokens, Party(int(number.value)))
    return _counted(tokens, index, language)


def _counted(tokens: Sequence[Token], index: int, language: Language) -> PartyMatch | None:
    """ "2 adults", "three kids", "a baby"."""
    number = _whole(number_at(tokens, index, language, articles=True))
    if number is None:
        return None
    position = index + number.tokens
    children = language.phrases("children").at(tokens, position)
    if children is not None:
        return PartyMatch(index, number.tokens + children.tokens, Party(0, int(number.value)))
    adults = language.phrases("adults").at(tokens, position)
    if adults is None or (number.value == 1 and not tokens[index].is_number and adults.value in ("gente", "of us")):
        return None
    return PartyMatch(index, number.tokens + adults.tokens, Party(int(number.value)))


_NO_PEOPLE = frozenset(folded_words("% / : st nd rd th star stars sterne estrellas hours stunden horas o am pm uhr"))


def _may_end_a_party(tokens: Sequence[Token], index: int, language: Language) -> bool:
    """ "for two" is a party, "for two weeks" and "for 500 euros" are not."""
    if index >= len(tokens):
        return True
    blocking = ("units", "currencies", "months", "interests", "range_to")
    follower = tokens[index]
    if follower.folded in _NO_PEOPLE:
        return False
    if follower.text == "." and index + 1 < len(tokens) and language.phrases("months").at(tokens, index + 1):
        return False
    joined = language.phrases("range_to").at(tokens, index)
    if joined is not None and follower.folded in _LINKS:
        return (
            number_at(tokens, index + joined.tokens, language) is None
            or _counted(tokens, index + joined.tokens, language) is not None
        )
    return not any(language.phrases(name).at(tokens, index) for name in blocking)


def _whole(number: Number | None) -> Number | None:
    if number is None or number.value != int(number.value) or not 1 <= number.value <= MOST_TRAVELLERS:
        return None
    return number
