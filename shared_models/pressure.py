"""The guard against dark patterns: texts that press, by urgency, scarcity, what others do, a former price, or guilt.

The phrases of each language stand under `pressure` in its file (languages/): `#` is a number or a number word, `¤` an amount of
money, `~` up to three words. Deterministic; the same text gives the same answer. A phrase that presses is allowed only in a
sentence that names the fact that supports it: `{left}` in a template, the number itself in a finished text. Guilt never is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from shared_models.errors import DomainError
from shared_models.languages import LANGUAGES, load_language
from shared_models.lookalikes import latin
from shared_models.rules.ruleset import RuleSet

SUPPORTED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "urgency": ("until",),
    "scarcity": ("left",),
    "social_proof": ("people",),
    "anchoring": ("former_price",),
    "guilt": (),
}
"""Kind -> names of the facts that make it true: the day on which an offer ends, how many are left, how many people did so, what
it cost before."""
FACTS: Final = frozenset(name for names in SUPPORTED_BY.values() for name in names)
_AT_ONCE = 50
_TOKEN = re.compile(r"\{[a-z_]+\}|\d+(?:[.,]\d+)*|[a-z]+(?:['’´`][a-z]+)?|[.!?;\n¿¡]|[€$£¥%]")
_MONEY = re.compile(
    r"(?:[€$£¥]|(?:eur|usd|gbp|chf) )+ *# (?!%)"
    r"|# (?:[€$£¥]|euros?|dollars?|dolares|pounds|libras|pfund|franken|eur|usd|gbp|chf)(?= )"
)
_STOPS = frozenset(".!?;\n")
_LETTERS = re.compile(r"(?<![^\W_])(?:[^\W\d_][ .\-_*]){3,}[^\W\d_](?![^\W_])")


@dataclass(frozen=True, slots=True)
class Pressure:
    """A phrase that presses."""

    kind: str
    """A key of SUPPORTED_BY."""
    words: str
    start: int
    """Offsets in `latin(text)`: those of the text itself, unless it holds what cannot be seen."""
    end: int
    sentence: tuple[int, int]
    named: frozenset[str]
    """Placeholders in the same sentence."""

    @property
    def backed(self) -> bool:
        """Whether the sentence names a fact that supports it."""
        return not self.named.isdisjoint(SUPPORTED_BY[self.kind])


def pressures(text: str, languages: Iterable[str] = LANGUAGES) -> tuple[Pressure, ...]:
    """All phrases of `text` that press, in the words of any of `languages`. Raises InputError for an unknown language."""
    plain = latin(text)
    lowered = plain.lower()
    if len(lowered) != len(plain):
        plain = lowered
    # "H U R R Y" is a word, too.
    lowered = _LETTERS.sub(lambda run: run.group().replace(" ", "").replace(".", "").ljust(len(run.group())), lowered)
    tokens = [(found.group(), found.start(), found.end()) for found in _TOKEN.finditer(lowered)]
    found: dict[tuple[int, int], Pressure] = {}
    for code in languages:
        numbers = load_language(code).numbers
        line, starts = "", {}
        for index, (token, _, _) in enumerate(tokens):
            starts[len(line)] = index
            word = token.replace("’", "'").replace("´", "'").replace("`", "'")
            if token[0] == "{" or token[0].isdigit() or token in numbers:
                word = "#"
            line += f"{'|' if token in _STOPS else word} "
        money = _MONEY.sub(lambda run: "¤".ljust(len(run.group())), line)
        for kind, pattern in _patterns(code):
            for spelled in dict.fromkeys((line, money)):
                for match in pattern.finditer(spelled):
                    first = starts.get(match.start())
                    if first is None:
                        continue
                    last = max(index for place, index in starts.items() if place < match.end())
                    span = tokens[first][1], tokens[last][2]
                    found.setdefault(span, _pressure(kind, plain, tokens, first, last))
    return tuple(found[span] for span in sorted(found))


def names_fact(text: str) -> bool:
    """Whether `text` has a place for a fact of FACTS: it may be said only where that is filled in."""
    return any(f"{{{name}}}" in text for name in FACTS)


def check_texts(texts: Iterable[tuple[str, str]], error: type[Exception] = DomainError) -> None:
    """Raise `error` for the first of (where, text) that presses without naming what supports it."""
    for finding in unsupported_pressure(texts):
        raise error(finding)


def unsupported_pressure(texts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """One line for each phrase of (where, text) that presses without naming what supports it."""
    given = list(texts)
    # One pass over all; a second one, text by text, only where there is something.
    for start in range(0, len(given), _AT_ONCE):
        some = given[start : start + _AT_ONCE]
        if not pressures("\n\n".join(text for _, text in some)):
            continue
        for where, text in some:
            for found in pressures(text):
                if not found.backed:
                    facts = " or ".join(f"{{{name}}}" for name in SUPPORTED_BY[found.kind])
                    advice = (
                        f"name the fact that supports it ({facts}) in the same sentence"
                        if facts
                        else "say it otherwise"
                    )
                    yield f"{where}: {found.words!r} presses ({found.kind.replace('_', ' ')}): {advice}"


def texts_of_wording(
    templates: Mapping[str, Iterable[str]], labels: Mapping[str, str], where: str
) -> Iterator[tuple[str, str]]:
    """(where, text) of all replies and intents in plain words, for `check_texts`."""
    for name, texts in templates.items():
        yield from ((f"{where}: {name}", text) for text in texts)
    yield from ((f"{where}: label of {name}", text) for name, text in labels.items())


def texts_of_rules(rules: RuleSet) -> Iterator[tuple[str, str]]:
    """(where, text) of all that rules say to a user."""
    for rule in rules.rules:
        yield from (
            (f"rule {rule.id}: {field}", text)
            for field, text in (("reply", rule.reply), ("reason", rule.reason))
            if text
        )


def _pressure(kind: str, text: str, tokens: list[tuple[str, int, int]], first: int, last: int) -> Pressure:
    stops = [index for index, (token, _, _) in enumerate(tokens) if token in _STOPS]
    begin = max((index + 1 for index in stops if index < first), default=0)
    end = min((index for index in stops if index > last), default=len(tokens))
    named = frozenset(token[1:-1] for token, _, _ in tokens[begin:end] if token[0] == "{")
    start, stop = tokens[first][1], tokens[last][2]
    sentence = tokens[begin][1], tokens[max(end - 1, begin)][2]
    return Pressure(kind, text[start:stop], start, stop, sentence, named)


@lru_cache(maxsize=len(LANGUAGES))
def _patterns(code: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """(kind, all its phrases as one expression over the words of a line)."""
    language = load_language(code)
    kinds: dict[str, list[str]] = {}
    for phrase, kind in language.entries("pressure"):
        words = []
        for word in latin(phrase).lower().split():
            if word == "~":
                words.append(r"(?:[^ |]+ ){0,3}")
            elif word in language.numbers:
                words.append("# ")
            else:
                words.append(f"{re.escape(word)} ")
        kinds.setdefault(kind, []).append("".join(words))
    if stray := set(kinds) - set(SUPPORTED_BY):
        raise DomainError(f"{code}.yaml: pressure: {min(stray)!r} is not a kind of pressure")
    # The longest first, so that what is reported is the whole phrase.
    return tuple(
        (kind, re.compile(r"(?:(?<= )|\A)(?:" + "|".join(sorted(parts, key=len, reverse=True)) + ")"))
        for kind, parts in kinds.items()
    )
