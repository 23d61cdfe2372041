"""The decision: from what was understood, and the published rules, to what is done. A pure function; the wording is elsewhere.

Hard rules first (`deny`, `allow`), then boosts, then the choice; if two readings are too close, the user is asked. Rules speak
about the published intents; an intent that the user has defined is the user's own business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared_models.intents import OUT_OF_SCOPE, Recognition
from shared_models.rules.ruleset import Rule, RuleSet

Action = Literal["answer", "ask", "refuse", "decline"]
"""answer: act on the intent; ask: two readings are close; refuse: a rule forbids it; decline: nothing known fits."""


@dataclass(frozen=True)
class Decision:
    """What is done about one utterance."""

    action: Action
    intent: str
    """The intent it is about, or OUT_OF_SCOPE."""
    confidence: float
    """After boosts, 0..1."""
    recognition: Recognition
    rules: tuple[Rule, ...] = ()
    """Rules that took part, in the order in which they did."""
    reply: str = ""
    """What a rule says instead of the template."""
    between: tuple[str, ...] = ()
    """When asked: the two readings, the likelier first."""


@dataclass(frozen=True)
class AskLimits:
    """When to ask rather than to guess: only if the best reading is below `sure` and leads by less than `margin`."""

    sure: float = 0.6
    margin: float = 0.15


def decide(recognition: Recognition, rules: RuleSet, limits: AskLimits | None = None) -> Decision:
    """Apply `rules` to what was understood. Total: every recognition gets a decision."""
    limits = limits or AskLimits()
    if recognition.personal:
        return Decision("answer", recognition.intent, recognition.confidence, recognition)
    if recognition.out_of_scope:
        spoken, reply = _canned_reply(OUT_OF_SCOPE, rules)
        return Decision("decline", OUT_OF_SCOPE, recognition.confidence, recognition, spoken, reply)
    ranked, boosts = _boosted(recognition, rules)
    (intent, confidence), others = ranked[0], ranked[1:]
    taken_part = boosts.get(intent, ())
    if (barrier := _barrier(intent, rules)) is not None:
        return Decision("refuse", intent, confidence, recognition, (*taken_part, barrier), _denial(barrier))
    # A reading that may not be acted on is not offered either.
    second = next(((name, value) for name, value in others if _barrier(name, rules) is None), None)
    if second is not None and confidence < limits.sure and confidence - second[1] < limits.margin:
        asked_about = (*taken_part, *boosts.get(second[0], ()))
        return Decision("ask", intent, confidence, recognition, asked_about, between=(intent, second[0]))
    spoken, reply = _canned_reply(intent, rules)
    return Decision("answer", intent, confidence, recognition, (*taken_part, *spoken), reply)


def _boosted(recognition: Recognition, rules: RuleSet) -> tuple[list[tuple[str, float]], dict[str, tuple[Rule, ...]]]:
    """Readings with boosted confidence, best first, and the boosts that each one got."""
    readings = {recognition.intent: recognition.confidence}
    for alternative in recognition.alternatives:
        readings.setdefault(alternative.intent, alternative.confidence)
    boosts: dict[str, tuple[Rule, ...]] = {}
    for rule in rules.rules:
        if rule.kind == "boost":
            for intent in dict.fromkeys(rule.intents):
                if intent in readings:
                    readings[intent] += rule.boost
                    boosts[intent] = (*boosts.get(intent, ()), rule)
    clipped = {intent: min(1.0, max(0.0, value)) for intent, value in readings.items()}
    return sorted(clipped.items(), key=lambda reading: -reading[1]), boosts


def _barrier(intent: str, rules: RuleSet) -> Rule | None:
    """The first hard rule that forbids `intent`."""
    for rule in rules.rules:
        if rule.kind == "deny" and intent in rule.intents:
            return rule
    allows = [rule for rule in rules.rules if rule.kind == "allow"]
    return allows[0] if allows and not any(intent in rule.intents for rule in allows) else None


def _denial(barrier: Rule) -> str:
    return barrier.reply if barrier.kind == "deny" else ""


def _canned_reply(intent: str, rules: RuleSet) -> tuple[tuple[Rule, ...], str]:
    for rule in rules.rules:
        if rule.kind == "reply" and intent in rule.intents:
            return (rule,), rule.reply
    return (), ""
