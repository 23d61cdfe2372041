"""A follow-up in words: title, text and why it comes, from the templates of the user's language and checked against its
facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from edge_client.answer.facts import Facts
from edge_client.answer.localise import locale
from edge_client.answer.wording import Tone, Wording
from edge_client.decide.follow_up_facts import FollowUpFacts
from edge_client.understand.days import DateRange


@dataclass(frozen=True)
class Said:
    """One message."""

    title: str
    text: str
    why: str
    language: str


def follow_up_words(
    topic: str, known: FollowUpFacts, language: str, today: date, *, tone: Tone = "casual", seed: int = 0
) -> Said | None:
    """The message; None if there is nothing to say: a fact that its words need is not known, or none of them says the
    facts alone.

    Raises InputError for an unknown language, tone or topic.
    """
    words, stay = locale(language), DateRange(known.first, known.last)
    facts = Facts(
        # A reader of numbers sees no sign: -3 is read as 3.
        numbers=frozenset() if known.high_c is None else frozenset({known.high_c, abs(known.high_c)}),
        names=(known.name,),
        dates=(stay,),
    )
    high = "" if known.high_c is None else words.number(known.high_c)
    speak = Wording(language, tone, seed)
    parts = [
        speak.sentence(f"follow_up.{part}{topic}", facts, today, place=known.name, days=words.days(stay), high=high)
        for part in ("title.", "", "why.")
    ]
    return Said(parts[0], parts[1], parts[2], language) if all(parts) else None
