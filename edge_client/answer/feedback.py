"""What the user says about an answer: "I meant …", or that it was right. What becomes of it, with a reason in plain words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_client.answer.respond import Reply
from shared_models.errors import TextError, UnknownIntentError
from shared_models.intents import Recognition
from shared_models.purposes import PERSONAL_LEARNING, PERSONALISATION
from shared_models.text_encoder import clean_text

KEPT = "kept on this device as an example"
KEPT_AS_PHRASE = "kept on this device as a phrase of your own intent"
NO_CONSENT = f"not kept: you have not allowed “{PERSONAL_LEARNING.title.lower()}” ({PERSONAL_LEARNING.name})"
KEPT_TASTE = "kept on this device: the next suggestions take it into account"
NO_CONSENT_TASTE = (
    f"counts in this conversation only: you have not allowed “{PERSONALISATION.title.lower()}” ({PERSONALISATION.name})"
)
NOT_WAITING = "kept on this device; what came of this suggestion was known already"
NOT_A_SUGGESTION = "not kept: that was an answer, not a suggestion; correct it with feedback"
NOT_AN_INTENT = "not kept: there is no intent in it to learn"


@dataclass(frozen=True)
class FeedbackResult:
    """What became of one piece of feedback."""

    intent: str
    kept: bool
    reason: str
    """Why it was kept or not."""
    examples: int
    """How many examples are kept now."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Reaction:
    """What became of a reaction to a suggestion."""

    decision_id: str
    item: str
    """What was suggested; empty for a decision that was none."""
    verdict: str
    """`up`, `down`, `chosen` or `dismissed`."""
    kept: bool
    reason: str
    """Why it was kept or not."""
    understood: bool = True
    """False if the user gave a reason that was not understood."""
    excludes: tuple[str, ...] = ()
    """What the reason excludes from now on in this conversation, in words."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def words_of(given: str | Recognition | Reply) -> str:
    """The text that feedback is about, as it was read. Raises TextError if it is empty or no text."""
    text: object = given
    if isinstance(given, Reply):
        text = given.recognition.text
    elif isinstance(given, Recognition):
        text = given.text
    clean = clean_text(text)
    if not clean:
        raise TextError("there is nothing to learn from an empty text")
    return clean


def resolve_intent(wanted: object, known: Iterable[str], labels: Mapping[str, str]) -> str:
    """The intent that the user names, by its name or by its plain words. Raises UnknownIntentError with the nearest ones."""
    names = list(known)
    text = " ".join(str(wanted)[:200].split())
    plain = {labels[name].casefold(): name for name in names if name in labels}
    lowered = text.casefold()
    for found in (text, lowered.replace(" ", "_").replace("-", "_"), plain.get(lowered)):
        if found in names:
            return found
    spoken = {name.replace("_", " "): name for name in names} | plain
    near = difflib.get_close_matches(lowered.replace("_", " "), spoken, n=3, cutoff=0.5)
    words = set(lowered.replace("_", " ").split())
    near += [phrase for phrase in spoken if words & set(phrase.split()) - _COMMON_WORDS]
    suggestions = list(dict.fromkeys(spoken[phrase] for phrase in near))[:3]
    advice = f"did you mean {' or '.join(suggestions)}?" if suggestions else f"there are {len(names)}, see intents()"
    raise UnknownIntentError(f"there is no intent {text[:60]!r}: {advice}")


_COMMON_WORDS = frozenset(
    ("a", "about", "an", "and", "ask", "find", "for", "get", "in", "is", "it", "me", "my", "of", "or", "the", "to")
)
