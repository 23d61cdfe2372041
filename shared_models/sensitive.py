"""What is never inferred about a user, and the one check by which names of features, attributes and items are refused for it.

The list is sensitive.yaml beside this file (GDPR articles 9 and 10, and what advertising platforms add); a profile schema may add
words of its own. The check reads a name as a person does: capitals, separators, accents, look-alike letters, digits for letters,
plurals and compounds in English, German and Spanish make no difference. It refuses too much rather than too little.

What this cannot see: a feature with a harmless name that stands for a sensitive thing (docs/ethics.md says what is done there).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from shared_models.errors import SensitiveError
from shared_models.lookalikes import latin, without_digits

LIST_FILE = Path(__file__).parent / "sensitive.yaml"
MAX_WORDS = 500
MAX_NAME_CHARS = 1000
_CHUNK = 500
# Words that hold a stem by chance; they are taken out before stems are looked for.
_INNOCENT = re.compile(r"islamabad|\bsocialis(?:ing|ed|e|ation)\b|pilgrim fathers")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_RUN = re.compile(r"[A-Z]{3,}")
_SINGLE = re.compile(r"(?<![a-z0-9@$])(?:[a-z0-9@$][^a-z0-9@$\n]+){2,}[a-z0-9@$](?![a-z0-9@$])")
"""A word that is spelled out, letter by letter."""
_BORDERS = re.compile(r"[^a-z0-9@$!|€\n]+")
_PARTS = re.compile(r"[a-z]+|[0-9]+")


@dataclass(frozen=True)
class Category:
    """One thing that is never inferred."""

    name: str
    title: str
    """Plain words."""
    basis: str
    """Which rule asks for it."""
    stems: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As plain JSON, in the form that `read_categories` reads."""
        lists = {"stems": list(self.stems), "words": list(self.words), "alone": list(self.alone)}
        return {"title": self.title, "basis": self.basis, **lists}


class SensitiveList:
    """The categories, ready for looking up. Immutable and shared between threads."""

    def __init__(self, categories: Iterable[Category], neutral: frozenset[str] = frozenset()) -> None:
        """`neutral`: words that leave the meaning of an ambiguous word beside them as it is."""
        self._neutral = neutral
        self.categories: Mapping[str, Category] = MappingProxyType({one.name: one for one in categories})
        self._stems: dict[str, str] = {}
        self._words: dict[str, str] = {}
        self._prefixes: dict[str, str] = {}
        self._phrases: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        self._alone: dict[str, str] = {}
        for name, one in self.categories.items():
            self._stems.update((_joined(stem), name) for stem in one.stems)
            for word in one.words:
                parts = _PARTS.findall(word)
                if len(parts) > 1:
                    self._phrases.setdefault(parts[0], []).append((tuple(parts[1:]), name))
                elif word.endswith("*"):
                    self._prefixes[parts[0]] = name
                else:
                    self._words.update((form, name) for form in _plurals(parts[0]))
            for word in one.alone:
                parts = _PARTS.findall(word)
                self._alone.update((form, name) for form in (_plurals(parts[0]) if len(parts) == 1 else ()))
                if len(parts) > 1:
                    self._phrases.setdefault(parts[0], []).append((tuple(parts[1:]), name))
        self._any_word = frozenset((*self._words, *self._phrases, *self._alone))
        self._any_prefix = tuple(self._prefixes)
        self._stem = re.compile("|".join(sorted(map(re.escape, self._stems), key=len, reverse=True)) or r"(?!)")

    def category(self, name: str) -> str:
        """The category that `name` speaks of; "" for none. Not text at all, or longer than any name, is none."""
        if not isinstance(name, str) or not name or len(name) > MAX_NAME_CHARS:
            return ""
        return _looked_up(self, name)

    def found_in(self, names: Sequence[str]) -> tuple[str, str] | None:
        """The first (name, category) among `names`; None if all may be used."""
        for start in range(0, len(names), _CHUNK):
            some = names[start : start + _CHUNK]
            if len(some) < 20 or self._suspicious(some):
                for name in some:
                    if found := self.category(name):
                        return name, found
        return None

    def with_more(self, added: Iterable[Category]) -> SensitiveList:
        """This list with further words and categories; nothing of it goes."""
        merged = dict(self.categories)
        for one in added:
            before = merged.get(one.name)
            merged[one.name] = (
                one
                if before is None
                else Category(
                    one.name,
                    before.title,
                    before.basis,
                    tuple(dict.fromkeys((*before.stems, *one.stems))),
                    tuple(dict.fromkeys((*before.words, *one.words))),
                    tuple(dict.fromkeys((*before.alone, *one.alone))),
                )
            )
        return SensitiveList(merged.values(), self._neutral)

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: one.document() for name, one in self.categories.items()}

    def _read(self, name: str) -> str:
        plain = latin(name)
        runs = " ".join(_RUN.findall(plain)).lower()
        spaced = _spelled_out(_CAMEL.sub(" ", plain).lower())
        # Read with and without capitals as borders: in "rel1Gion" they are none.
        whole = _BORDERS.sub("", plain.lower())
        readings = dict.fromkeys((spaced, _spelled_out(plain.lower()), whole, runs))
        for reading in (*readings, *(other for text in readings for other in without_digits(text))):
            for spelled in (reading, _without_umlauts(reading)) if "e" in reading else (reading,):
                if found := self._reading(spelled):
                    return found
        return ""

    def _suspicious(self, names: Sequence[str]) -> bool:
        """Whether one of them may speak of something; never false where one does. For catalogues of thousands of items."""
        plain = "\n".join(latin(name) for name in names if isinstance(name, str) and len(name) <= MAX_NAME_CHARS)
        spaced = _CAMEL.sub(" ", plain)
        for text in dict.fromkeys((spaced.lower(), plain.lower(), _BORDERS.sub("", plain.lower()))):
            for reading in (text, *without_digits(text)):
                for spelled in dict.fromkeys((reading, _without_umlauts(reading))):
                    letters = re.sub(r"[^a-z\n]+", "", spelled)
                    parts = set(_PARTS.findall(spelled))
                    if (
                        not parts.isdisjoint(self._any_word)
                        or _SINGLE.search(spelled)
                        or any(part.startswith(self._any_prefix) for part in parts)
                        or any(stem in letters for stem in self._stems)
                    ):
                        return True
        return False

    def _reading(self, text: str) -> str:
        text = _INNOCENT.sub(" ", text.replace("_", " "))
        found = self._stem.search(_joined(text))
        if found is not None:
            return self._stems[found.group()]
        parts = _PARTS.findall(text)
        for place, part in enumerate(parts):
            if part in self._words:
                return self._words[part]
            for length in range(4, len(part) + 1):
                if part[:length] in self._prefixes:
                    return self._prefixes[part[:length]]
            for rest, name in self._phrases.get(part, ()):
                said = tuple(parts[place + 1 : place + 1 + len(rest)])
                if said[:-1] == rest[:-1] and said and said[-1] in _plurals(rest[-1]):
                    return name
        left = [part for part in parts if part not in self._neutral and not part.isdigit()]
        return self._alone.get(left[0], "") if len(left) == 1 else ""


@lru_cache(maxsize=16_384)
def _looked_up(known: SensitiveList, name: str) -> str:
    return known._read(name)


@lru_cache(maxsize=1)
def sensitive_list() -> SensitiveList:
    """The list that ships."""
    body = yaml.load(LIST_FILE.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    neutral = frozenset(body.pop("neutral").split())
    return SensitiveList(read_categories(body, LIST_FILE.name), neutral)


def read_categories(document: Any, where: str) -> tuple[Category, ...]:
    """Categories as sensitive.yaml and `never_inferred` of a schema have them. Raises SensitiveError.

    NAME: {title, basis, stems, words, alone}, the last three as words parted by commas or as lists.
    """
    if not isinstance(document, Mapping) or len(document) > 100:
        raise SensitiveError(f"{where}: expected a mapping of at most 100 categories")
    found = []
    for name, body in document.items():
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
            raise SensitiveError(f"{where}: {str(name)[:60]!r} is not a name of a category")
        if not isinstance(body, Mapping) or set(body) - {"title", "basis", "stems", "words", "alone"}:
            raise SensitiveError(f"{where}.{name}: expected title, basis, stems, words and alone")
        texts = {
            key: body.get(key, name.replace("_", " ") if key == "title" else "the app's own")
            for key in ("title", "basis")
        }
        if not all(isinstance(text, str) and 0 < len(text) <= 200 for text in texts.values()):
            raise SensitiveError(f"{where}.{name}: title and basis are short texts")
        lists = {key: _terms(f"{where}.{name}.{key}", body.get(key, ())) for key in ("stems", "words", "alone")}
        if short := next((stem for stem in lists["stems"] if len(_joined(stem)) < 5), None):
            raise SensitiveError(
                f"{where}.{name}.stems: {short!r} is shorter than 5 letters: it belongs among the words"
            )
        found.append(Category(name, texts["title"], texts["basis"], **lists))
    return tuple(found)


def check_features(
    names: Iterable[str],
    *,
    where: str = "features",
    special: Iterable[str] = (),
    error: type[Exception] = SensitiveError,
    known: SensitiveList | None = None,
) -> None:
    """Raise `error` if any of `names` speaks of what is never inferred, or is one of the `special` attributes of a schema.

    The one check for all that is learned from, ranked or conditioned on: layouts of features, catalogues, item spaces, rules.
    `diet=vegan`, `user.diet` and `diet:vegan` name the attribute `diet`.
    """
    listed = known or sensitive_list()
    barred = {_key(name) for name in special}
    given = [name for name in names if isinstance(name, str)]
    if not barred and listed.found_in(given) is None:
        return
    for name in given:
        found = listed.category(name)
        if not found and barred & {_key(part) for part in (name, *re.split(r"[=:.]", name))}:
            found = "declared for its own purpose only"
        if found:
            title = listed.categories[found].title if found in listed.categories else found
            raise error(f"{where}: {str(name)[:60]!r} may not be used: {title} is never inferred and never a feature")


def _terms(where: str, value: Any) -> tuple[str, ...]:
    terms = [part for part in value.split(",")] if isinstance(value, str) else value
    if (
        not isinstance(terms, list | tuple)
        or len(terms) > MAX_WORDS
        or not all(isinstance(term, str) for term in terms)
    ):
        raise SensitiveError(f"{where}: expected at most {MAX_WORDS} words")
    folded = [" ".join(latin(term).lower().split()) for term in terms]
    if bad := next((term for term in folded if term and not re.fullmatch(r"[a-z0-9 ]{2,60}\*?", term)), None):
        raise SensitiveError(f"{where}: {bad[:40]!r} is not made of letters")
    return tuple(term for term in folded if term)


def _joined(text: str) -> str:
    return re.sub(r"[^a-z]+", "", text)


def _spelled_out(text: str) -> str:
    return _SINGLE.sub(lambda run: re.sub(r"[^a-z0-9@$]+", "", run.group()), text)


def _without_umlauts(text: str) -> str:
    return text.replace("ae", "a").replace("oe", "o").replace("ue", "u")


@lru_cache(maxsize=4096)
def _plurals(word: str) -> tuple[str, ...]:
    ends = ("", "s", "es", "e", "n", "en", "er", "in", "innen") if len(word) > 3 else ("", "s")
    other = (f"{word[:-1]}ies",) if word.endswith("y") else ()
    return (*(word + end for end in ends), *other)


def _key(name: str) -> str:
    return _joined(latin(name).lower())
