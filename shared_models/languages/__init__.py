"""The languages that the assistant reads and speaks: the words and phrases of each, from the YAML beside this file.

Nothing here knows what a slot or a turn is; edge_client.understand and edge_client.answer give the words their meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from shared_models.errors import DomainError, InputError
from shared_models.languages.tokens import Token, folded_words, tokenize

LANGUAGES = ("en", "de", "es")
_READ_BY = (
    "months", "weekdays", "day_words", "next", "this", "units", "parts", "seasons", "feasts", "currencies", "at_most",
    "at_least", "about", "budget_words", "per", "adults", "children", "party_for", "alone", "pair", "interests", "place_from",
    "place_to", "negators", "correction", "cheaper", "pricier", "more", "accept", "ordinals", "ordinal_tail", "intent_cues",
    "complaints", "refining", "visited",
)  # fmt: skip
_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Match:
    """A phrase found at a token."""

    value: str
    """What it stands for; in a plain list, the phrase itself."""
    tokens: int
    """How many tokens it takes."""


class Phrases:
    """Phrases of one or more words, each standing for a value; the longest is found first."""

    def __init__(self, entries: Iterable[tuple[str, str]]) -> None:
        rows: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for phrase, value in entries:
            words = folded_words(phrase)
            if words:
                rows.setdefault(words[0], []).append((words, value))
        for found in rows.values():
            found.sort(key=lambda row: -len(row[0]))
        self._rows = rows
        self._last_words = frozenset(words[-1] for found in rows.values() for words, _ in found)

    @property
    def first_words(self) -> frozenset[str]:
        return frozenset(self._rows)

    def at(self, tokens: Sequence[Token], index: int) -> Match | None:
        """The longest phrase that starts at this token."""
        if not 0 <= index < len(tokens):
            return None
        rows = self._rows.get(tokens[index].folded)
        if rows is None:
            return None
        for words, value in rows:
            size = len(words)
            if size > 1:
                if index + size > len(tokens):
                    continue
                at = 1
                while at < size and tokens[index + at].folded == words[at]:
                    at += 1
                if at < size:
                    continue
            return Match(value, size)
        return None

    def ending(self, tokens: Sequence[Token], index: int, *, longest: int = 4) -> Match | None:
        """The longest phrase whose last word is the token before `index`."""
        if not 0 < index <= len(tokens) or tokens[index - 1].folded not in self._last_words:
            return None
        for length in range(min(longest, index), 0, -1):
            found = self.at(tokens, index - length)
            if found is not None and found.tokens == length:
                return found
        return None

    def anywhere(self, tokens: Sequence[Token]) -> list[tuple[int, Match]]:
        """Every phrase with the token it starts at, left to right, not overlapping."""
        found, index = [], 0
        while index < len(tokens):
            match = self.at(tokens, index) if tokens[index].folded in self._rows else None
            if match is not None:
                found.append((index, match))
            index += match.tokens if match else 1
        return found


class Language:
    """One language: its phrases by name. Raises DomainError for a name that its file does not hold."""

    def __init__(self, code: str, body: Mapping[str, Any]) -> None:
        self.code = code
        self._body = body
        self._phrases: dict[str, Phrases] = {}
        self._first: dict[tuple[str, ...], frozenset[str]] = {}
        self.numbers: Mapping[str, int] = MappingProxyType(
            {folded_words(str(word))[0]: int(value) for word, value in body["numbers"].items()}
        )
        self.words = frozenset(word for phrase in body["function_words"] for word in folded_words(phrase))
        self.not_places = frozenset(word for phrase in body["not_places"] for word in folded_words(phrase))

    def phrases(self, name: str) -> Phrases:
        """The phrases of one list (value: the phrase) or table (value: its key; of a list of lists, the number from 1)."""
        made = self._phrases.get(name)
        if made is None:
            made = self._phrases[name] = Phrases(_entries(self._entry(name)))
        return made

    def first_words(self, names: tuple[str, ...]) -> frozenset[str]:
        """The words that a phrase of these lists starts with."""
        made = self._first.get(names)
        if made is None:
            made = self._first[names] = frozenset(word for name in names for word in self.phrases(name).first_words)
        return made

    def entries(self, name: str) -> list[tuple[str, str]]:
        """(phrase, what it stands for) of one list or table, as written."""
        return _entries(self._entry(name))

    def text(self, name: str) -> str:
        """A single setting, such as the decimal sign."""
        return str(self._entry(name))

    def names(self, name: str) -> tuple[str, ...]:
        """The first, written-out name of each row of a list of lists: months, weekdays."""
        return tuple(str(row[0]) for row in self._entry(name))

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Every folded word of the lists by which texts are read, and the function words."""
        listed = frozenset(
            word for name in _READ_BY for phrase, _ in _entries(self._entry(name)) for word in folded_words(phrase)
        )
        return self.words | self.not_places | frozenset(self.numbers) | listed

    def _entry(self, name: str) -> Any:
        try:
            return self._body[name]
        except KeyError as error:
            raise DomainError(f"{self.code}.yaml: {name} is missing") from error


def _entries(entry: Any) -> list[tuple[str, str]]:
    if isinstance(entry, Mapping):
        pairs: list[tuple[str, str]] = []
        for key, value in entry.items():
            # {value: [phrases]} or {phrase: value}
            pairs += [(phrase, str(key)) for phrase in value] if isinstance(value, list) else [(str(key), str(value))]
        return pairs
    if entry and isinstance(entry[0], list):
        return [(phrase, str(number)) for number, row in enumerate(entry, 1) for phrase in row]
    return [(phrase, phrase) for phrase in entry]


@lru_cache(maxsize=len(LANGUAGES))
def load_language(code: str) -> Language:
    """`en`, `de` or `es`. Raises InputError for another one."""
    if code not in LANGUAGES:
        raise InputError(f"language {str(code)[:20]!r} is not known; expected one of {', '.join(LANGUAGES)}")
    path = _FOLDER / f"{code}.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    body = yaml.load(path.read_text(encoding="utf-8"), loader)
    if stray := next((name for name, entry in body.items() if not _all_words(entry)), None):
        raise DomainError(f"{path.name}: {stray}: a word is read as true, false or nothing; put it in quotes")
    return Language(code, body)


def _all_words(entry: Any) -> bool:
    if isinstance(entry, Mapping):
        return all(not isinstance(key, bool) and key is not None and _all_words(value) for key, value in entry.items())
    if isinstance(entry, list):
        return all(map(_all_words, entry))
    return isinstance(entry, str | int) and not isinstance(entry, bool)


def language_of(text: str, default: str = "en") -> str:
    """The language of a text by the words that it shares with each; `default` when they do not tell (a tie, or none)."""
    load_language(default)
    tokens = [token.folded for token in tokenize(text[:400])]
    # One shared word is no change of language: another one must lead by more.
    counts = {code: _shared(tokens, load_language(code)) + 2 * (code == default) for code in LANGUAGES}
    best = max(counts.values())
    leaders = [code for code in LANGUAGES if counts[code] == best]
    return leaders[0] if best and len(leaders) == 1 else default


def _shared(tokens: Sequence[str], language: Language) -> int:
    # A word such as "nicht" tells more than "hotel" or a name.
    return sum(2 * (token in language.words) + (token in language.vocabulary) for token in tokens)
