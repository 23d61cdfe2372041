""" "No, because it is too cold": what a text refuses of what is on the table, as constraints for the rest of the conversation.

Pure. Words and numbers are travel_constraints.understand_refusal's; here stands whether a text is a refusal at all, and of what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_client.decide.travel_constraints import MAX_REFUSAL_CHARS, Constraint, Trip, understand_refusal
from edge_client.understand.state import Offer
from shared_models.languages import load_language
from shared_models.languages.tokens import Token, fold, tokenize
from shared_models.travel.catalogue import Catalogue

MOST_WORDS = 30
_OF_A_FEATURE = ("at_least", "at_most")


@dataclass(frozen=True)
class Refused:
    """What was refused, and why."""

    items: tuple[str, ...]
    """Ids of the offers that it is about: the named one, or all."""
    constraints: tuple[Constraint, ...]
    """What it excludes beyond those. If several were meant, each limit is the middle one of theirs: "too cold" is not said of the
    warmest."""
    mild: tuple[Constraint, ...]
    """The same with the mildest limits, for when the others exclude everything."""
    named: bool
    """Whether the user said which one."""


def read_refusal(
    text: str, offers: Sequence[Offer], trip: Trip, catalogue: Catalogue, language: str, *, wanted: bool = False
) -> Refused | None:
    """The refusal in `text`; None if it is none, or gives no reason. `wanted`: the text also says what is wanted instead, so that
    a feature that it names is no complaint."""
    known = [offer for offer in offers if offer.id in catalogue.rows]
    tokens = tokenize(text) if len(text) <= MAX_REFUSAL_CHARS else []
    if not tokens or not known or len(tokens) > MOST_WORDS:
        return None
    meant = _meant(tokens, known, language)
    said_no = _says_no(tokens, language)
    constraints: list[Constraint] = []
    understood = False
    for offer in meant or known:
        refusal = understand_refusal(text, catalogue.place(offer.id), trip, catalogue)
        for one in refusal.constraints:
            if one.kind == "not_place" or (one.kind in _OF_A_FEATURE and (wanted or not said_no) and not _too(one)):
                continue
            understood = True
            constraints.append(one)
        understood = understood or (refusal.understood and len(refusal.constraints) == 1)
    if not understood or (wanted and not said_no):
        return None
    items = tuple(offer.id for offer in meant or known)
    return Refused(items, _limits(constraints, 0.5), _limits(constraints, 0.0), bool(meant))


def _too(one: Constraint) -> bool:
    """ "Too crowded" and "too quiet" are complaints without a "no" before them."""
    return one.feature == "quiet"


def _limits(constraints: Sequence[Constraint], part: float) -> tuple[Constraint, ...]:
    """One for each kind and feature, by strictness: `part` 0 the mildest, 1 the strictest."""
    alike: dict[tuple[str, str, object], list[Constraint]] = {}
    for one in constraints:
        alike.setdefault((one.kind, one.feature, one.value if isinstance(one.value, str) else ""), []).append(one)
    found = []
    for (kind, _, _), same in alike.items():
        falls = kind.startswith("max") or kind == "at_most"
        same.sort(key=lambda one: 0.0 if isinstance(one.value, str) else -one.value if falls else one.value)
        found.append(same[round(part * (len(same) - 1))])
    return tuple(found)


def _meant(tokens: Sequence[Token], offers: Sequence[Offer], language: str) -> list[Offer]:
    """The offers that are named, or pointed at by their number."""
    words = load_language(language)
    folded = [token.folded for token in tokens]
    named = [offer for offer in offers if _mentions(folded, offer.name)]
    if named:
        return named
    for index, match in words.phrases("ordinals").anywhere(tokens):
        rest = tokens[index + match.tokens :]
        number = int(match.value)
        # "the second one", "the second is too far": a noun after it would be something else.
        tail = not rest or not rest[0].is_word or words.phrases("ordinal_tail").at(rest, 0) is not None
        alone = tail or rest[0].folded in words.words
        if alone and (number == -1 or 1 <= number <= len(offers)):
            return [offers[number - 1 if number > 0 else -1]]
    return []


def _mentions(folded: Sequence[str], name: str) -> bool:
    sought = [token.folded for token in tokenize(name) if token.is_word]
    size = len(sought)
    words = [word for word in folded if fold(word)]
    return bool(size) and any(words[start : start + size] == sought for start in range(len(words) - size + 1))


def _says_no(tokens: Sequence[Token], language: str) -> bool:
    words = load_language(language)
    start = 0
    while start < len(tokens) and not tokens[start].is_word:
        start += 1
    return any(words.phrases(name).at(tokens, start) is not None for name in ("refuse", "negators"))
