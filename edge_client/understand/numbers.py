"""Numbers in a text: digits with the signs of their language ("1,200.50", "1.200,50", "2k") and words ("two hundred and
fifty", "zweihundertfünfzig", "treinta y cinco").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from shared_models.languages import Language
from shared_models.languages.tokens import Token

CURRENCY_SIGNS = "€$£"
LARGEST = 1e9
"""What is larger is not read as a number."""
_LONGEST_DIGITS = 15
_MAGNITUDES = (100, 1000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Number:
    """A number and how many tokens it takes."""

    value: float
    tokens: int


def number_at(tokens: Sequence[Token], index: int, language: Language, *, articles: bool = False) -> Number | None:
    """The number that starts at this token, or None. `articles`: "a" counts as one, which it does in "a week"."""
    if not 0 <= index < len(tokens):
        return None
    token = tokens[index]
    if token.is_number:
        value = digits(token.text, language)
        if value is None:
            return None
        follower = tokens[index + 1] if index + 1 < len(tokens) else None
        if follower is not None and follower.start == token.end and follower.folded == "k" and value < 1e6:
            return Number(value * 1000, 2)
        if follower is not None and language.numbers.get(follower.folded, 0) in _MAGNITUDES[1:] and value < 1000:
            return Number(value * language.numbers[follower.folded], 2)
        return Number(value, 1)
    if not may_be_number(token, language) and token.folded not in language.first_words(("number_phrases", "articles")):
        return None
    phrase = language.phrases("number_phrases").at(tokens, index)
    if phrase is not None:
        return Number(float(phrase.value), phrase.tokens)
    spoken = _spoken(tokens, index, language)
    if spoken is not None and (articles or spoken.tokens > 1 or not _is_article(token, language)):
        return spoken
    return Number(1.0, 1) if articles and _is_article(token, language) else None


def may_be_number(token: Token, language: Language) -> bool:
    """Whether a word can be a number word; a German one may be a compound."""
    word = token.folded
    return word in language.numbers or (
        language.code == "de" and len(word) >= 6 and _pieces(word, language) is not None
    )


def digits(text: str, language: Language) -> float | None:
    """What a group of digits means: three digits after a sign are thousands, unless that sign can only be the decimal one."""
    if len(text) > _LONGEST_DIGITS:
        return None
    decimal = language.text("decimal")
    thousands = "," if decimal == "." else "."
    groups = re.split(r"[.,]", text)
    if len(groups) == 1:
        plain = text
    elif text.count(thousands) + text.count(decimal) == text.count(thousands) and _grouped(groups):
        plain = "".join(groups)
    elif text.count(decimal) == 1 and text.rfind(thousands) < text.find(decimal):
        whole, _, fraction = text.partition(decimal)
        pieces = whole.split(thousands)
        # "1.500" in English: no price has three decimals, so it was written the other way.
        if len(pieces) == 1 and len(fraction) == 3 and len(whole) <= 3 and whole != "0":
            plain = whole + fraction
        elif len(pieces) == 1 or _grouped(pieces):
            plain = "".join(pieces) + "." + fraction
        else:
            return None
    elif len(groups) == 2 and len(groups[1]) <= 2:
        plain = f"{groups[0]}.{groups[1]}"
    else:
        return None
    value = float(plain)
    return value if value <= LARGEST else None


def _grouped(groups: Sequence[str]) -> bool:
    return 1 <= len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:])


def _is_article(token: Token, language: Language) -> bool:
    return language.phrases("articles").at([token], 0) is not None


def _spoken(tokens: Sequence[Token], index: int, language: Language) -> Number | None:
    """Number words from here on, over "and" and hyphens, as long as they can belong to one number."""
    pieces: list[int] = []
    last, position = index, index
    joiner = language.text("number_joiner")
    while position < len(tokens) and position - index < 12:
        token = tokens[position]
        joins = bool(pieces) and token.folded in (joiner, "-") and position + 1 < len(tokens)
        if joins and _pieces(tokens[position + 1].folded, language):
            position += 1
            token = tokens[position]
        values = _pieces(token.folded, language)
        if values is None or _value([*pieces, *values]) is None:
            break
        if joins and pieces and not _may_join(pieces[-1], values[0], language):
            break
        pieces += values
        position += 1
        last = position
    value = _value(pieces) if pieces else None
    return None if value is None or value > LARGEST else Number(float(value), last - index)


def _may_join(before: int, after: int, language: Language) -> bool:
    # "two hundred and fifty", "thirty-five", "treinta y cinco"; but "two and three" are two numbers.
    return before >= 100 or (before >= 20 and after < 10 and language.code != "de")


def _pieces(word: str, language: Language) -> list[int] | None:
    """A word as number words: one, or a German compound ("zweihundertfünfundzwanzig": 2, 100, 25)."""
    known = language.numbers.get(word)
    if known is not None:
        return [known]
    if language.code != "de" or not 6 <= len(word) <= 90:
        return None
    values: list[int] = []
    rest, pending_unit = word, -1
    while rest:
        if rest.startswith("und"):
            if values and 1 <= values[-1] <= 9:
                pending_unit = values.pop()
            elif not values:
                return None
            rest = rest[3:]
            continue
        size = next((n for n in range(min(9, len(rest)), 2, -1) if rest[:n] in language.numbers), 0)
        if not size:
            return None
        value = language.numbers[rest[:size]]
        if pending_unit >= 0:
            if not 20 <= value <= 90:
                return None
            value, pending_unit = value + pending_unit, -1
        values.append(value)
        rest = rest[size:]
    return values if pending_unit < 0 else None


def _value(pieces: Sequence[int]) -> int | None:
    """[2, 100, 50] is 250; None if these words are not one number ([2, 3])."""
    total = current = 0
    room: float = 1000
    scale = LARGEST
    for piece in pieces:
        if piece == 100 and current < 10:
            if current == 0 and room < 1000:
                return None
            current, room = max(1, current) * 100, 100
        elif piece >= 1000:
            if piece >= scale:
                return None
            total, current, room, scale = total + max(1, current) * piece, 0, 1000, piece
        elif piece >= room or piece == 100:
            return None
        else:
            current += piece
            room = 100 if piece >= 100 else 10 if piece >= 20 and piece % 10 == 0 else 0
    return total + current
