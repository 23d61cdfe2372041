"""The response: what is said for a decision, and the reasons for it in plain words. Templates come from the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edge_client.answer.cards import Card
from edge_client.answer.localise import replies
from edge_client.decide.decision import Decision
from shared_models.bundle import Staleness
from shared_models.domain import UNSURE
from shared_models.intents import OUT_OF_SCOPE, Recognition
from shared_models.languages import LANGUAGES, load_language
from shared_models.languages.tokens import tokenize
from shared_models.pressure import names_fact

TOLD_BEFORE = "told_before"
"""The user has said before what such a text means."""
CHOSEN_NOW = "chosen_now"
"""The user has just chosen between two readings."""
CONTINUED = "continued"
"""What the text is about follows from the conversation, or from single words of it."""
_AGES = ("stale", "expired")


@dataclass(frozen=True)
class Reply:
    """One turn of the assistant."""

    text: str
    intent: str
    """The intent that it acts on, or OUT_OF_SCOPE; when it asks or refuses, the likeliest reading, not acted on."""
    confidence: float
    """0..1, after rules."""
    reasons: tuple[str, ...]
    """Why, in plain words, to be shown to the user."""
    out_of_scope: bool
    rule_ids: tuple[str, ...]
    """Rules that took part."""
    action: str
    """`answer`, `ask`, `refuse` or `decline`."""
    choices: tuple[str, ...]
    """When it asks: the intents to choose from."""
    recognition: Recognition
    suggestions: tuple[Card, ...] = ()
    """What it offers, in the order in which it is shown."""
    question: str = ""
    """What it asks, if it does: a detail that is missing, or what the user likes. The text ends with it."""
    language: str = "en"
    """Of the text and of the suggestions."""
    decision_id: str = ""
    """Name of the decision in the log; empty if nothing was logged."""
    slots: Mapping[str, Any] = field(default_factory=dict)
    """What the conversation about this intent wants so far, as understand/slot_values.py has it."""

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


class Responder:
    """Says it with the templates of one bundle. Variants take turns, so that none is heard twice running."""

    def __init__(
        self, templates: Mapping[str, tuple[str, ...]], labels: Mapping[str, str], language: str = "en"
    ) -> None:
        """`templates` and `labels` are in `language`. Raises InputError for a language that is not known."""
        self._templates = templates
        self._sentences: Mapping[str, str] = replies(language)["decision"]
        self._language = language
        self._labels = labels
        self._turns: dict[str, int] = {}

    @property
    def language(self) -> str:
        return self._language

    @property
    def labels(self) -> Mapping[str, str]:
        """Intents in plain words."""
        return self._labels

    def label(self, intent: str) -> str:
        """The intent in plain words."""
        return self._labels.get(intent, intent.replace("_", " "))

    def restated(self, intent: str) -> str:
        """What the user would like, as a sentence."""
        return _fill(self._sentences["answer"], label=self.label(intent))

    def respond(self, decision: Decision, staleness: Staleness, *, told: str = "") -> Reply:
        """Word one decision. `told`: TOLD_BEFORE, CHOSEN_NOW or CONTINUED if what the text means is known otherwise."""
        return Reply(
            text=self._text(decision),
            intent=decision.intent,
            confidence=decision.confidence,
            reasons=self.reasons(decision, staleness, told),
            out_of_scope=decision.action == "decline",
            rule_ids=tuple(dict.fromkeys(rule.id for rule in decision.rules)),
            action=decision.action,
            choices=decision.between,
            recognition=decision.recognition,
        )

    def _text(self, decision: Decision) -> str:
        if decision.reply and not names_fact(decision.reply):
            return decision.reply
        label = self.label(decision.intent)
        if decision.action == "ask":
            first, second = (self.label(intent) for intent in decision.between)
            return _fill(self._next(UNSURE, self._sentences["ask"]), first=first, second=second)
        if decision.action == "decline":
            return self._next(OUT_OF_SCOPE, self._sentences["decline"])
        if decision.action == "refuse":
            return _fill(self._sentences["refuse"], label=label)
        if decision.recognition.personal:
            return _fill(self._sentences["own"], label=label)
        return self._next(decision.intent, _fill(self._sentences["answer"], label=label))

    def _next(self, name: str, otherwise: str) -> str:
        # A text that presses names the fact that supports it; no fact reaches these.
        variants = [text for text in self._templates.get(name, ()) if not names_fact(text)]
        if not variants:
            return otherwise
        turn = self._turns.get(name, 0)
        self._turns[name] = turn + 1
        return variants[turn % len(variants)]

    def reasons(self, decision: Decision, staleness: Staleness, told: str = "") -> tuple[str, ...]:
        """Why, in plain words: what was understood, which rules took part, how old the model is."""
        recognition, reasons = decision.recognition, []
        say = self._sentences
        sure = _percent(recognition.confidence, say["sure"])
        understood = _fill(say["understood"], label=self.label(recognition.intent), share=sure)
        if told:
            reasons.append(_fill(say[told], label=self.label(recognition.intent)))
        elif decision.action == "decline":
            reasons.append(_fill(say["nothing_fits"], share=sure))
            if recognition.alternatives:
                reasons.append(_fill(say["closest"], label=self.label(recognition.alternatives[0].intent)))
        elif recognition.personal:
            reasons.append(f"{understood}{say['own_reason']}")
        else:
            reasons.append(understood)
        if decision.action == "ask":
            readings = {reading.intent: reading.confidence for reading in recognition.alternatives}
            readings[recognition.intent] = recognition.confidence
            other = next(intent for intent in decision.between if intent != recognition.intent)
            likely = _percent(readings[other], say["sure"])
            reasons.append(_fill(say["nearly"], label=self.label(other), share=likely))
        reasons += [rule.reason for rule in decision.rules]
        if staleness in _AGES:
            reasons.append(say[staleness])
        return tuple(dict.fromkeys(reasons))


def chosen_reading(answer: str, choices: tuple[str, ...], words: Responder) -> str | None:
    """The reading that a short answer to a question names ("the second one", its plain words); None for something new."""
    plain = answer.casefold().strip(" .!?\"'“”")
    tokens = tokenize(plain)
    for code in dict.fromkeys((words.language, *LANGUAGES)):
        language = load_language(code)
        start = 0
        while language.phrases("place_articles").at(tokens, start):
            start += 1
        found = language.phrases("ordinals").at(tokens, start) or language.phrases("ordinals").at(tokens, 0)
        if found is not None:
            # "the second one", "das zweite Hotel": nothing of weight may follow.
            rest = tokens[start + found.tokens :]
            number = int(found.value)
            if (not rest or language.phrases("ordinal_tail").at(rest, 0)) and number <= len(choices):
                return choices[number - 1 if number > 0 else -1]
    if plain in ("1", "2") and int(plain) <= len(choices):
        return choices[int(plain) - 1]
    return next((intent for intent in choices if plain in (intent, words.label(intent).casefold())), None)


def _fill(template: str, **words: str) -> str:
    # Not str.format: a template is data, and must not reach into objects.
    for name, word in words.items():
        template = template.replace("{" + name + "}", word)
    return template


def _percent(share: float, over: str) -> str:
    return f"{share:.0%}" if share < 0.995 else over
