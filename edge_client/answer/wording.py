"""One turn in words: templates with variants, in the user's language and tone, filled from the decision's data and checked.

Deterministic: the same seed and turn give the same words. A variant that says more than the facts is never spoken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from edge_client.answer.claims import unsupported
from edge_client.answer.facts import PUBLIC_REASONS, Facts, Suggestion, Value, facts_of
from edge_client.answer.localise import Locale, locale, put, replies
from edge_client.understand.places import Gazetteer
from edge_client.understand.state import Turn
from shared_models.errors import InputError
from shared_models.languages import LANGUAGES

Tone = Literal["casual", "formal"]
TONES: tuple[Tone, ...] = ("casual", "formal")


@dataclass(frozen=True)
class Spoken:
    """What is said in one turn."""

    text: str
    language: str
    reasons: tuple[str, ...]
    """Why each suggestion was made, in words, in the order of the suggestions."""
    facts: Facts
    public_text: str
    """The same without reasons that tell something about the user: what a language model may see without more consent.
    Empty if all that would be said is such reasons."""
    source: Literal["template", "local_model"] = "template"
    question: str = ""
    """The sentence that asks, if one does: the last one."""

    def after(self, sentence: str) -> Spoken:
        """The same behind another sentence, which says nothing of the user."""
        return replace(self, text=f"{sentence} {self.text}", public_text=f"{sentence} {self.public_text}")


class Wording:
    """Words turns for one user. Raises InputError for an unknown language or tone."""

    def __init__(
        self,
        language: str = "",
        tone: Tone = "casual",
        seed: int = 0,
        *,
        labels: Mapping[str, str] | None = None,
        gazetteer: Gazetteer | None = None,
    ) -> None:
        """`language`: the user's choice; without one, that of the conversation. `labels`: intents in plain words."""
        if language and language not in LANGUAGES:
            raise InputError(f"language {str(language)[:20]!r} is not known; expected one of {', '.join(LANGUAGES)}")
        if tone not in TONES:
            raise InputError(f"tone {str(tone)[:20]!r} is not known; expected one of {', '.join(TONES)}")
        self._language = language
        self._tone = tone
        self._seed = seed
        self._labels = labels or {}
        self._gazetteer = gazetteer

    def say(
        self, turn: Turn, today: date, suggestions: Sequence[Suggestion] | None = None, *, number: int = 0
    ) -> Spoken:
        """The answer to a turn. `suggestions`: what the decision offers; None if it was not asked to, empty if nothing fits.

        `number` counts the turns: variants change with it. Raises InputError for suggestions whose reasons lack their data.
        """
        words = locale(self._language or turn.language)
        shown = tuple(suggestions or ())
        facts = facts_of(
            turn.state,
            shown,
            question=turn.question,
            today=today,
            values=self._dropped(turn),
            gazetteer=self._gazetteer,
        )
        reasons = tuple(words.reason(reason, one.currency) for one in shown for reason in one.reasons)
        public = tuple(
            words.reason(reason, one.currency)
            for one in shown
            for reason in one.reasons
            if reason.kind in PUBLIC_REASONS
        )
        texts = []
        # Reasons are part of what is said only where the user asks for them.
        for told in (reasons, public) if reasons != public and turn.act == "why" else (reasons,):
            speaker = _Speaker(words, self._tone, f"{self._seed}|{number}", facts, today, self._gazetteer)
            sentences = self._sentences(speaker, words, turn, suggestions, told)
            texts.append(" ".join(filter(None, sentences)) or speaker("accepted"))
        question = sentences[-1] if turn.question is not None else ""
        # "There is no other reason" is not true where there are reasons that the model may not see.
        hidden = turn.act == "why" and reasons and not public
        return Spoken(texts[0], words.code, reasons, facts, "" if hidden else texts[-1], question=question)

    def sentence(self, name: str, facts: Facts, today: date, /, **values: str) -> str:
        """One sentence of the replies that stands by itself; "" if no variant has all its values and says the facts alone.

        Raises InputError for a sentence that does not exist.
        """
        words = locale(self._language or "en")
        return _Speaker(words, self._tone, str(self._seed), facts, today, self._gazetteer)(name, **values)

    def _sentences(
        self, say: _Speaker, words: Locale, turn: Turn, suggestions: Sequence[Suggestion] | None, reasons: Sequence[str]
    ) -> list[str]:
        state, question = turn.state, turn.question
        said = [self._acknowledged(say, words, turn, suggestions is not None)]
        if turn.act == "why":
            said = [say("why", reasons=words.joined(list(reasons))) if reasons else say("why.none")]
        if question is not None:
            choices = words.joined(list(question.choices), word="or")
            name = f"ask.{question.about}" if question.kind == "missing" else f"ask.{question.kind}"
            place = state.place.name(words.code) if state.place else ""
            return [*said, say(name, choices=choices, place=place)]
        if suggestions is None or turn.act == "why":
            return said
        if not suggestions:
            price = "" if state.price_below is None else words.money(state.price_below, self._currency(turn))
            return [
                *said,
                say("offers.none_cheaper", price=price) if turn.act == "cheaper" and price else say("offers.none"),
            ]
        offers = words.joined([words.offer(one) for one in suggestions])
        limit = state.price_below
        if (
            turn.act == "cheaper"
            and limit is not None
            and all(one.price is not None and one.price < limit for one in suggestions)
        ):
            return [*said, say("offers.cheaper", offers=offers, price=words.money(limit, suggestions[0].currency))]
        return [*said, say("offers", offers=offers)]

    def _acknowledged(self, say: _Speaker, words: Locale, turn: Turn, offering: bool) -> str:
        """What was understood, repeated so that a wrong reading is seen."""
        state = turn.state
        doubtful = turn.question is not None and turn.question.kind in ("which", "confirm", "past")
        names = [name for name in turn.changed if not (doubtful and turn.question and name == turn.question.about)]
        summary = words.summary(state, names)
        if turn.act == "choose" and state.chosen is not None:
            chosen = state.chosen
            price = "" if chosen.price is None else words.money(chosen.price, chosen.currency, chosen.per)
            return (
                say("chosen.priced", name=state.chosen.name, price=price)
                if price
                else say("chosen", name=state.chosen.name)
            )
        if turn.act == "correct" and turn.correction is not None:
            summary = ", ".join(filter(None, (self._labels.get(state.intent, ""), summary)))
        if turn.act == "negate" and turn.dropped:
            dropped = words.joined(list(turn.dropped))
            wanted = words.summary(state, [name for name in turn.changed if name != "interest"] + self._fresh(turn))
            return " ".join(
                filter(None, (say("negated", dropped=dropped), say("noted", summary=wanted) if wanted else ""))
            )
        if turn.act == "topic":
            label = self._labels.get(state.intent, "")
            topic = say("topic", label=label) if label and not summary else ""
            return topic or (say("noted", summary=summary) if summary else "")
        if turn.act in ("correct", "refine", "answer") and summary:
            return say("corrected" if turn.act == "correct" else "noted", summary=summary)
        plain = {"undo": "undone", "reset": "reset", "accept": "accepted", "remark": "remark"}.get(turn.act, "")
        if turn.act == "refuse" and not offering:
            plain = "refused"
        if turn.act == "remark" and turn.question is not None:
            plain = ""
        return say(plain) if plain else ""

    @staticmethod
    def _fresh(turn: Turn) -> list[str]:
        return ["interest"] if "interest" in turn.changed and turn.state.interests else []

    @staticmethod
    def _dropped(turn: Turn) -> dict[str, Value]:
        # What was refused is repeated in the user's own words.
        return {f"dropped{number}": text for number, text in enumerate(turn.dropped)}

    @staticmethod
    def _currency(turn: Turn) -> str:
        budget = turn.state.budget
        return (budget.currency if budget else None) or "EUR"


class _Speaker:
    """Picks a variant that has all its values and says nothing that the facts do not."""

    def __init__(
        self, words: Locale, tone: Tone, seed: str, facts: Facts, today: date, gazetteer: Gazetteer | None
    ) -> None:
        self._words = words
        self._tone = tone
        self._seed = seed
        self._facts = facts
        self._today = today
        self._gazetteer = gazetteer

    def __call__(self, sentence: str, /, **values: str) -> str:
        entry = replies(self._words.code).get(sentence)
        if entry is None:
            raise InputError(f"there is no sentence {sentence!r} in {self._words.code}")
        variants: list[str] = list(entry[self._tone] if isinstance(entry, dict) else entry)
        first = int.from_bytes(hashlib.sha256(f"{self._seed}|{sentence}".encode()).digest()[:4]) % len(variants)
        for variant in (*variants[first:], *variants[:first]):
            made = put(variant, **{key: value for key, value in values.items() if value})
            if "{" in variant and any("{" + key + "}" in variant for key in _names_of(variant) if not values.get(key)):
                continue
            if not unsupported(made, self._facts, self._words.code, self._today, gazetteer=self._gazetteer):
                return made
        # Every variant names a value that is not known or not licensed: say nothing rather than something else.
        return ""


def _names_of(variant: str) -> list[str]:
    return [piece.partition("}")[0] for piece in variant.split("{")[1:]]
