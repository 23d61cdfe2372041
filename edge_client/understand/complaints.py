"""Complaints: "Lisbon is too hot", "the second one is not warm enough", "I have been to Rome". What is no wish in them.

Pure. What a complaint excludes is for whoever knows what was suggested (decide/refusals.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_client.understand.slots import Slot
from shared_models.languages import Language
from shared_models.languages.tokens import Token

_THAN = frozenset({"than", "als", "que"})
_IN = frozenset({"in", "en"})
_BREATH = 5
_REACH = 2
"""So many words after "is too" say of what it is too much."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """What of a text is no wish, although it names places and interests."""

    said: bool = False
    """Whether something is called too much or too little, or known already."""
    places: tuple[Slot, ...] = ()
    """That are named and not wanted: the last one before the complaint, where one has been, what "cheaper than" compares with."""
    measures: tuple[Slot, ...] = ()
    """Interests that say of what it is too much ("too hot") or too little ("not warm enough")."""


def read_complaint(tokens: Sequence[Token], slots: Sequence[Slot], words: Language) -> Complaint:
    """The complaint in a text; an empty one if there is none."""
    found = words.phrases("complaints").anywhere(tokens)
    visited = words.phrases("visited").anywhere(tokens)
    places = sorted((slot for slot in slots if slot.name == "place"), key=lambda slot: slot.start)
    compares = any(words.phrases(name).anywhere(tokens) for name in ("cheaper", "pricier"))
    spoilt = [slot for slot in places if compares and _follows_than(slot, tokens)]
    measures: list[Slot] = []
    for index, match in found:
        after = tokens[index + match.tokens : index + match.tokens + _REACH]
        starts = {token.start for token in after}
        measures += [slot for slot in slots if slot.name == "interest" and slot.start in starts]
    if found:
        at = tokens[found[0][0]]
        spoilt += [slot for slot in places if slot.end <= at.start][-1:] or [
            slot for slot in places if _in_it(at, slot, tokens)
        ]
    for index, match in visited:
        ends = tokens[index + match.tokens - 1].end
        spoilt += [slot for slot in places if slot.start >= ends and slot not in spoilt][:1]
    return Complaint(bool(found or visited), tuple(spoilt), tuple(measures))


def _in_it(at: Token, slot: Slot, tokens: Sequence[Token]) -> bool:
    """ "It is too hot in Seville": said of a place that comes after it in the same breath."""
    between = [token for token in tokens if at.start <= token.start < slot.start]
    return len(between) <= _BREATH and all(token.is_word for token in between) and between[-1].folded in _IN


def _follows_than(slot: Slot, tokens: Sequence[Token]) -> bool:
    before = [token.folded for token in tokens if token.is_word and token.start < slot.start]
    return bool(before) and before[-1] in _THAN
