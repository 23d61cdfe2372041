"""The response: what is said for a decision, and the reasons for it in plain words. Templates come from the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_client.decide.decision import Decision
from shared_models.bundle import Staleness
from shared_models.domain import UNSURE
from shared_models.intents import OUT_OF_SCOPE, Recognition

_ASK = "Did you mean {first} or {second}?"
_DECLINE = "I do not know how to help with that."
_REFUSE = "I may not help with that here: {label}."
_ANSWER = "You would like to {label}."
_OWN = "This is your own “{label}”."
TOLD_BEFORE = "you told me before that this means “{label}”"
CHOSEN_NOW = "you chose “{label}”"
_FIRST = frozenset({"1", "first", "the first", "the first one", "former", "the former"})
_SECOND = frozenset({"2", "second", "the second", "the second one", "latter", "the latter"})
_AGE = {
    "stale": "I have not heard lately whether there is a newer version of what I know",
    "expired": "what I know is past its date; connect once to refresh it",
}


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

    def document(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


class Responder:
    """Says it with the templates of one bundle. Variants take turns, so that none is heard twice running."""

    def __init__(self, templates: Mapping[str, tuple[str, ...]], labels: Mapping[str, str]) -> None:
        self._templates = templates
        self._labels = labels
        self._turns: dict[str, int] = {}

    def label(self, intent: str) -> str:
        """The intent in plain words."""
        return self._labels.get(intent, intent.replace("_", " "))

    def respond(self, decision: Decision, staleness: Staleness, *, told: str = "") -> Reply:
        """Word one decision. `told`: the user has said what the text means, and how; {label} stands for the intent."""
        return Reply(
            text=self._text(decision),
            intent=decision.intent,
            confidence=decision.confidence,
            reasons=self._reasons(decision, staleness, told),
            out_of_scope=decision.action == "decline",
            rule_ids=tuple(dict.fromkeys(rule.id for rule in decision.rules)),
            action=decision.action,
            choices=decision.between,
            recognition=decision.recognition,
        )

    def _text(self, decision: Decision) -> str:
        if decision.reply:
            return decision.reply
        label = self.label(decision.intent)
        if decision.action == "ask":
            first, second = (self.label(intent) for intent in decision.between)
            return _fill(self._next(UNSURE, _ASK), first=first, second=second)
        if decision.action == "decline":
            return self._next(OUT_OF_SCOPE, _DECLINE)
        if decision.action == "refuse":
            return _fill(_REFUSE, label=label)
        if decision.recognition.personal:
            return _fill(_OWN, label=label)
        return self._next(decision.intent, _fill(_ANSWER, label=label))

    def _next(self, name: str, otherwise: str) -> str:
        variants = self._templates.get(name, ())
        if not variants:
            return otherwise
        turn = self._turns.get(name, 0)
        self._turns[name] = turn + 1
        return variants[turn % len(variants)]

    def _reasons(self, decision: Decision, staleness: Staleness, told: str) -> tuple[str, ...]:
        recognition, reasons = decision.recognition, []
        understood = f"I understood “{self.label(recognition.intent)}” ({_percent(recognition.confidence)})"
        if told:
            reasons.append(_fill(told, label=self.label(recognition.intent)))
        elif decision.action == "decline":
            reasons.append(f"nothing that I know fits ({_percent(recognition.confidence)})")
            if recognition.alternatives:
                reasons.append(f"the closest was “{self.label(recognition.alternatives[0].intent)}”")
        elif recognition.personal:
            reasons.append(f"{understood}, an intent of your own")
        else:
            reasons.append(understood)
        if decision.action == "ask":
            readings = {reading.intent: reading.confidence for reading in recognition.alternatives}
            readings[recognition.intent] = recognition.confidence
            other = next(intent for intent in decision.between if intent != recognition.intent)
            reasons.append(f"“{self.label(other)}” is nearly as likely ({_percent(readings[other])})")
        reasons += [rule.reason for rule in decision.rules]
        if staleness in _AGE:
            reasons.append(_AGE[staleness])
        return tuple(dict.fromkeys(reasons))


def chosen_reading(answer: str, choices: tuple[str, ...], words: Responder) -> str | None:
    """The reading that a short answer to a question names ("the second one", its plain words); None for something new."""
    plain = answer.casefold().strip(" .!?\"'“”")
    for intent, numbers in zip(choices, (_FIRST, _SECOND), strict=False):
        if plain in numbers:
            return intent
    return next((intent for intent in choices if plain in (intent, words.label(intent).casefold())), None)


def _fill(template: str, **words: str) -> str:
    # Not str.format: a template is data, and must not reach into objects.
    for name, word in words.items():
        template = template.replace("{" + name + "}", word)
    return template


def _percent(share: float) -> str:
    return f"{share:.0%}" if share < 0.995 else "over 99%"
