"""Text as words with their places in it, folded for comparison: lower case, without accents."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|(?:[^\W\d_][\u0300-\u036f]*)+|[^\w\s]|_")


@dataclass(frozen=True, slots=True)
class Token:
    """One word, number or sign of a text."""

    text: str
    folded: str
    start: int
    """Offset of its first character in the text."""
    end: int

    @property
    def is_number(self) -> bool:
        return self.text[0].isdecimal()

    @property
    def is_word(self) -> bool:
        return self.text[0].isalpha()


@lru_cache(maxsize=8192)
def fold(text: str) -> str:
    """Lower case without accents: "Übermorgen" and "ubermorgen" compare equal."""
    if text.isascii():
        return text.lower()
    spread = unicodedata.normalize("NFKD", text.replace("\N{DEGREE SIGN}", "º"))
    return "".join(sign for sign in spread if not unicodedata.combining(sign)).casefold()


def tokenize(text: str) -> list[Token]:
    """All words, numbers and signs, in order. White space and what cannot be shown is skipped."""
    return [
        Token(found.group(), fold(found.group().replace("’", "'")), found.start(), found.end())
        for found in _TOKEN.finditer(text)
    ]


def folded_words(phrase: str) -> tuple[str, ...]:
    """A phrase as the folded words by which it is found."""
    if phrase.replace(" ", "").isalpha():
        return tuple(phrase.lower().split()) if phrase.isascii() else tuple(map(fold, phrase.split()))
    return tuple(token.folded for token in tokenize(phrase))
