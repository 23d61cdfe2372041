"""What a text says about where, when, for how much, for whom and what for: typed slots with their places in the text.

Reading is total: any text gives slots, perhaps none; only what is no text, or too long, is an error. Nothing is guessed: a name
that means several places keeps them all, and an uncertain reading says so, so that the dialogue can ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, TypeAlias

from edge_client.understand.amounts import Budget, Party, read_budgets, read_parties
from edge_client.understand.dates import DateReader
from edge_client.understand.days import DateRange
from edge_client.understand.places import Gazetteer, Place, no_places
from shared_models.errors import TextError
from shared_models.languages import Language, language_of, load_language
from shared_models.languages.tokens import Token, tokenize
from shared_models.text_encoder import MAX_CHARS, MAX_INPUT_CHARS

SlotName = Literal["place", "origin", "dates", "duration", "budget", "party", "interest"]
SlotValue: TypeAlias = Place | DateRange | Budget | Party | int | str
"""place, origin: Place; dates: DateRange; duration: days; budget: Budget; party: Party; interest: its tag."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One thing that a text says."""

    name: SlotName
    value: SlotValue
    start: int
    """Offset of its first character in the text as given."""
    end: int
    text: str
    """The characters that it was read from."""
    confidence: float = 1.0
    """1.0 for what is written out; less for a misspelled or ambiguous name."""
    negated: bool = False
    """True for what is not wanted: "not Paris", "no beaches"."""
    choices: tuple[Place, ...] = ()
    """For a name that may mean several places: all of them, the likeliest first."""


@dataclass(frozen=True)
class Understood:
    """One text, read."""

    text: str
    language: str
    slots: tuple[Slot, ...]
    tokens: tuple[Token, ...] = field(repr=False)

    def first(self, name: SlotName) -> Slot | None:
        """The first wanted slot of this name."""
        return next((slot for slot in self.slots if slot.name == name and not slot.negated), None)


class SlotReader:
    """Reads slots with one gazetteer; without one, it knows no places. Holds no state between texts."""

    def __init__(self, gazetteer: Gazetteer | None = None) -> None:
        self.gazetteer = gazetteer or no_places()

    def read(self, text: str, today: date, *, language: str = "en", fixed_language: bool = False) -> Understood:
        """Slots of `text`, seen from `today`. `language` is the user's own, for texts that do not show theirs.

        At most the first MAX_CHARS characters are read. Raises TextError for what is no text or is too long.
        """
        if not isinstance(text, str):
            raise TextError(f"expected text, got {type(text).__name__}")
        if len(text) > MAX_INPUT_CHARS:
            raise TextError(f"the text has {len(text)} characters, at most {MAX_INPUT_CHARS} are accepted")
        read = text[:MAX_CHARS]
        words = load_language(language if fixed_language else language_of(read, language))
        tokens = tokenize(read)
        slots = sorted(self._slots(read, tokens, words, today), key=lambda slot: (slot.start, slot.end))
        return Understood(text, words.code, tuple(slots), tuple(tokens))

    def _slots(self, text: str, tokens: Sequence[Token], words: Language, today: date) -> list[Slot]:
        taken: set[int] = set()
        slots: list[Slot] = []

        def add(name: SlotName, value: SlotValue, index: int, size: int, **more: Any) -> None:
            span = range(index, index + size)
            if taken.isdisjoint(span):
                taken.update(span)
                start, end = tokens[index].start, tokens[index + size - 1].end
                negated = _negated(tokens, index, words)
                slots.append(Slot(name, value, start, end, text[start:end], negated=negated, **more))

        # An amount of money is claimed before a date can take its number, a party before a bare month day.
        for amount in read_budgets(tokens, words):
            add("budget", amount.value, amount.index, amount.tokens)
        reader = DateReader(tokens, words, today)
        for day in reader.find():
            add("dates", day.dates, day.index, day.tokens)
        for length in reader.durations():
            add("duration", length.days, length.index, length.tokens)
        for group in read_parties(tokens, words):
            add("party", group.value, group.index, group.tokens)
        for index, match in words.phrases("interests").anywhere(tokens):
            if match.value == "crowds":
                if _negated(tokens, index, words) and taken.isdisjoint(range(index, index + match.tokens)):
                    slots.append(_quiet(text, tokens, index, match.tokens))
                    taken.update(range(index, index + match.tokens))
            elif not _is_place_name(tokens, index, match.tokens, words, self.gazetteer):
                add("interest", match.value, index, match.tokens)
        found = self.gazetteer.find(tokens, words)
        for number, place in enumerate(found):
            rest = found[number + 1 :]
            name: SlotName = (
                "origin" if place.lead == "from" and _is_origin(tokens, place.index, rest, words) else "place"
            )
            confidence = 1.0 - 0.2 * place.slips - (0.3 if len(place.candidates) > 1 else 0.0)
            choices = place.candidates if len(place.candidates) > 1 else ()
            add(name, place.candidates[0], place.index, place.tokens, confidence=confidence, choices=choices)
        return slots


def _negated(tokens: Sequence[Token], index: int, words: Language) -> bool:
    """Whether "not", "nicht", "sin" … reaches this token: at most three words before it, over no comma or full stop."""
    for back in range(index, max(-1, index - 4), -1):
        if back < index and (tokens[back].text in ".;!?," or tokens[back].folded in _BREAKS):
            # "no, París" corrects; "no París" refuses. "Nicht Paris, sondern Rom" wants Rome.
            return False
        found = words.phrases("negators").ending(tokens, back)
        if found is not None:
            # "nothing less than", "no more than 500" are limits, and were claimed as such.
            return True
    return False


_BREAKS = frozenset({"but", "sondern", "sino", "pero", "aber", "rather", "lieber", "mejor"})


def _quiet(text: str, tokens: Sequence[Token], index: int, size: int) -> Slot:
    start, end = tokens[index].start, tokens[index + size - 1].end
    return Slot("interest", "quiet", start, end, text[start:end])


def _is_origin(tokens: Sequence[Token], index: int, later: Sequence[Any], words: Language) -> bool:
    """Spanish "de" leads an origin only if a goal follows ("de Madrid a Roma"), not in "playas de España"."""
    if words.code != "es" or index == 0 or tokens[index - 1].folded != "de":
        return True
    before = tokens[index - 2].folded if index >= 2 else ""
    return any(match.lead == "to" for match in later) or before in ("saliendo", "salgo", "partiendo", "salida")


def _is_place_name(tokens: Sequence[Token], index: int, size: int, words: Language, gazetteer: Gazetteer) -> bool:
    """An interest that is a place where it stands: "Bath" after "in"."""
    return size == 1 and tokens[index].text[0].isupper() and bool(gazetteer.find(tokens[index - 1 : index + 1], words))
