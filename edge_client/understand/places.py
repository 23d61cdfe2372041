"""Places in a text: countries, regions and larger cities in three languages, with the domain's own places before them.

Names of several words, without accents, and with a slip of the keyboard. Which places there are, the bundle says: `places.json`
(shared_models/languages/place_list.py) and its catalogue. An unknown place is not read; it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from shared_models.languages import Language
from shared_models.languages.place_list import Place as Place
from shared_models.languages.tokens import Token, fold, folded_words

if TYPE_CHECKING:
    from shared_models.travel.catalogue import Catalogue

KNOWN_TO_ALL = 300_000
"""Population from which a city's name is read without a capital letter or a word like "to" before it."""
_RIVAL_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class PlaceMatch:
    """A name found in a text."""

    index: int
    tokens: int
    candidates: tuple[Place, ...]
    """The likeliest first; more than one if the name does not tell."""
    slips: int
    """Letters that differ: 0 for an exact name."""
    lead: str
    """`from`, `to` or nothing: the word before it."""


class Gazetteer:
    """Finds places. One instance may be used by several threads at once."""

    def __init__(self, places: Iterable[Place]) -> None:
        places = tuple(places)
        self._countries = {place.country: place for place in places if place.kind == "country"}
        exact: dict[tuple[str, ...], list[Place]] = {}
        for place in places:
            # Most cities have one name for all: two thirds of the work would be for nothing.
            english, german, spanish = place.names
            alike = english == german == spanish and not place.others
            for name in (english,) if alike else dict.fromkeys((*place.names, *place.others)):
                words = folded_words(name)
                if words:
                    exact.setdefault(words, []).append(place)
        self._exact = {
            words: tuple(found) if len(found) == 1 else tuple(sorted(set(found), key=_rank))
            for words, found in exact.items()
        }
        sizes: dict[str, set[int]] = {}
        for words in self._exact:
            sizes.setdefault(words[0], set()).add(len(words))
        self._sizes = {first: sorted(found, reverse=True) for first, found in sizes.items()}
        """First word of a name -> how many words names have that start with it, the longest first."""

    @cached_property
    def _spelled(self) -> dict[tuple[int, str], list[tuple[str, int, Place]]]:
        """What is looked through for names with a slip: made when a text has the first."""
        spelled: dict[tuple[int, str], list[tuple[str, int, Place]]] = {}
        for words, found in self._exact.items():
            if found[0].kind != "city" or found[0].population >= KNOWN_TO_ALL:
                name = " ".join(words)
                spelled.setdefault((len(words), words[0][:1]), []).append((name, _letters(name), found[0]))
        return spelled

    def named(self, name: str) -> tuple[Place, ...]:
        """All places of exactly this name, the likeliest first."""
        return self._exact.get(folded_words(name), ())

    def country_of(self, place: Place) -> Place | None:
        """The country that a place lies in; None if it is not known."""
        return self._countries.get(place.country)

    def country_name(self, code: str, language: str) -> str:
        """A country in the words of a language; the code itself if it is not known."""
        place = self._countries.get(code)
        return place.name(language) if place else code

    def find(self, tokens: Sequence[Token], language: Language) -> list[PlaceMatch]:
        """Every place in these tokens, left to right, not overlapping. Exact names go before misspelled ones."""
        found, index = [], 0
        while index < len(tokens):
            match = self._at(tokens, index, language)
            if match is not None:
                found.append(match)
            index += match.tokens if match else 1
        return found

    def _at(self, tokens: Sequence[Token], index: int, language: Language) -> PlaceMatch | None:
        if not tokens[index].is_word:
            return None
        sizes = self._sizes.get(tokens[index].folded)
        if sizes is None and tokens[index].folded in language.words:
            # A function word starts no name that it is not the first word of.
            return None
        if sizes is None and len(tokens[index].text) < 3:
            return None
        lead = _lead(tokens, index, language)
        if sizes is not None:
            left = len(tokens) - index
            for count in (size for size in sizes if size <= left):
                places = self._exact.get(tuple(token.folded for token in tokens[index : index + count]))
                if places and (count > 1 or _plausible(tokens, index, places[0], lead, language)):
                    return PlaceMatch(index, count, _rivals(places), 0, lead)
        return self._misspelled(tokens, index, lead, language)

    def _misspelled(self, tokens: Sequence[Token], index: int, lead: str, language: Language) -> PlaceMatch | None:
        short = len(tokens) <= 4
        written = tokens[index].text[0].isupper() and (short or (index > 0 and language.code != "de"))
        if not (lead or written or short) or len(tokens[index].text) < 3:
            return None
        for count in (3, 2, 1) if lead or written else (3, 2):
            words = [token.folded for token in tokens[index : index + count]]
            if len(words) < count or not all(word.isalpha() for word in words):
                continue
            text = " ".join(words)
            if len(text) < 5 or len(text) > 40 or (count == 1 and words[0] in language.vocabulary):
                continue
            if words[0] in language.words and count > 1:
                continue
            best = self._nearest(text, count, language)
            if best is not None:
                return PlaceMatch(index, count, (best[1],), best[0], lead)
        return None

    def _nearest(self, text: str, count: int, language: Language) -> tuple[int, Place] | None:
        limit = 1 if len(text) < 8 else 2
        best: tuple[int, int, Place] | None = None
        letters = _letters(text)
        for name, name_letters, place in self._spelled.get((count, text[:1]), ()):
            # Each slip changes at most two of the letters that occur: most names are ruled out by one comparison.
            if abs(len(name) - len(text)) <= limit and (letters ^ name_letters).bit_count() <= 2 * limit:
                slips = edits(text, name, limit)
                if (
                    slips <= limit
                    and _may_be_meant(text, name, place, language)
                    and (best is None or (slips, -place.population) < best[:2])
                ):
                    best = (slips, -place.population, place)
        return None if best is None else (best[0], best[2])


_OF_A_COUNTRY = ("ian", "ish", "ese")


def _may_be_meant(text: str, name: str, place: Place, language: Language) -> bool:
    """Not "islands" for the German name of Iceland, and not "Italian", "German" for the country."""
    if language.code == "en" and name not in {" ".join(folded_words(one)) for one in (place.names[0], *place.others)}:
        return False
    if place.kind in ("country", "region") and language.code == "en":
        return not (text.startswith(name) or name.startswith(text) or text.endswith(_OF_A_COUNTRY))
    return True


def _letters(text: str) -> int:
    """Which letters occur, as bits."""
    bits = 0
    for letter in text:
        bits |= 1 << (ord(letter) & 63)
    return bits


def edits(one: str, other: str, limit: int) -> int:
    """Letters inserted, left out, replaced or swapped with their neighbour (optimal string alignment); limit + 1 if more."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        older, before, row = before, row, [i]
        for j, mate in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != mate))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == mate:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return min(row[-1], limit + 1)


def _plausible(tokens: Sequence[Token], index: int, place: Place, lead: str, language: Language) -> bool:
    """Whether a single word that is also a place's name means the place."""
    token = tokens[index]
    capital = token.text[0].isupper()
    if token.folded in language.words:
        return False
    if token.folded in language.vocabulary:
        # "Nice", "Reading", "Essen": both the capital letter and the word before it are needed.
        return capital and (bool(lead) or len(tokens) == 1)
    if len(token.text) <= 3:
        return bool(lead) or (capital and token.text.isupper()) or (capital and len(tokens) <= 3)
    if place.kind != "city" or place.population >= KNOWN_TO_ALL or len(set(place.names)) > 1:
        return True
    written = capital and index > 0 and language.code != "de"
    return bool(lead) or written or len(tokens) <= 2


def _lead(tokens: Sequence[Token], index: int, language: Language) -> str:
    """`from` or `to` if such a word stands before the name, over an article or "not"."""
    position = index
    while index - 2 < position > 0 and language.phrases("place_articles").at(tokens, position - 1):
        position -= 1
    for kind, name in (("from", "place_from"), ("to", "place_to"), ("to", "negators")):
        if language.phrases(name).ending(tokens, position):
            return kind
    return ""


_ORDER = {"destination": 0, "region": 1, "favourite": 2, "city": 3, "country": 3}
"""What was put down by hand, as a place people travel to, goes before a city of the same name."""


def _rank(place: Place) -> tuple[int, int]:
    return (_ORDER[place.kind], -place.population)


def _rivals(places: tuple[Place, ...]) -> tuple[Place, ...]:
    """The likeliest place, and those of other countries that the same name could as well mean."""
    first = places[0]
    if first.kind not in ("city", "country"):
        return (first,)
    countries, kept = {first.country}, [first]
    for place in places[1:]:
        # A country or region is no rival of a city that lies in it: both are the same trip.
        if place.country not in countries and place.population >= _RIVAL_SHARE * first.population:
            countries.add(place.country)
            kept.append(place)
    return tuple(kept[:3])


def places_of(catalogue: Catalogue) -> tuple[Place, ...]:
    """The destinations of a catalogue as places; what stands in brackets, and what before them, are names of their own."""
    return tuple(
        Place(
            id=destination.id,
            kind="destination",
            country=destination.country,
            latitude=destination.latitude,
            longitude=destination.longitude,
            population=0,
            names=(destination.name("en"), destination.name("de"), destination.name("es")),
            others=tuple(dict.fromkeys(part for name in destination.names.values() for part in _parts(name))),
        )
        for destination in catalogue.destinations
    )


def _parts(name: str) -> tuple[str, ...]:
    outside, bracket, inside = name.partition("(")
    return (outside.strip(), inside.rstrip(") ")) if bracket else ()


@lru_cache(maxsize=1)
def no_places() -> Gazetteer:
    """What is known without a bundle: nothing."""
    return Gazetteer(())


def same_name(one: str, other: str) -> bool:
    """Whether two names differ in accents and capitals only."""
    return fold(one) == fold(other)
