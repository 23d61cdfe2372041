"""The decision and the wording: pure functions, without a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.answer.feedback import resolve_intent
from edge_client.answer.respond import Responder
from edge_client.decide.decision import AskLimits, decide
from shared_models.errors import UnknownIntentError
from shared_models.intents import OUT_OF_SCOPE, Alternative, Recognition
from shared_models.rules.ruleset import Rule, RuleSet

LABELS = {"book_flight": "book a flight", "book_hotel": "book a hotel", "cancel": "cancel a booking"}


def recognized(intent: str, confidence: float, **others: float) -> Recognition:
    alternatives = tuple(Alternative(name, value) for name, value in others.items())
    return Recognition("text", intent, confidence, alternatives, intent == OUT_OF_SCOPE, 3)


def rule(name: str, kind: str, *intents: str, boost: float = 0.0, reply: str = "") -> Rule:
    return Rule(name, kind, intents, f"reason of {name}", boost, reply)


def test_without_rules_the_likeliest_is_answered() -> None:
    decision = decide(recognized("book_flight", 0.9, book_hotel=0.05), RuleSet())
    assert (decision.action, decision.intent, decision.rules) == ("answer", "book_flight", ())


def test_two_close_readings_are_asked_about() -> None:
    decision = decide(recognized("book_flight", 0.45, book_hotel=0.4), RuleSet())
    assert decision.action == "ask"
    assert decision.between == ("book_flight", "book_hotel")
    sure = decide(recognized("book_flight", 0.45, book_hotel=0.4), RuleSet(), AskLimits(sure=0.4))
    assert sure.action == "answer"


def test_a_denied_intent_is_never_acted_on_and_its_rule_is_named() -> None:
    rules = RuleSet(
        (rule("no-hotels", "deny", "book_hotel", reply="Not here."), rule("r", "reply", "book_hotel", reply="Yes!"))
    )
    decision = decide(recognized("book_hotel", 0.9, book_flight=0.05), rules)
    assert (decision.action, decision.reply) == ("refuse", "Not here.")
    assert [item.id for item in decision.rules] == ["no-hotels"]


def test_a_denied_reading_is_not_offered_as_a_choice() -> None:
    rules = RuleSet((rule("no-hotels", "deny", "book_hotel"),))
    assert decide(recognized("book_flight", 0.45, book_hotel=0.44), rules).action == "answer"
    decision = decide(recognized("book_flight", 0.35, book_hotel=0.34, cancel=0.3), rules)
    assert decision.between == ("book_flight", "cancel")


def test_where_any_allow_stands_all_others_are_denied() -> None:
    rules = RuleSet((rule("a", "allow", "book_flight"), rule("b", "allow", "cancel")))
    assert decide(recognized("book_flight", 0.9), rules).action == "answer"
    assert decide(recognized("cancel", 0.9), rules).action == "answer"
    refused = decide(recognized("book_hotel", 0.9), rules)
    assert refused.action == "refuse"
    assert [item.id for item in refused.rules] == ["a"]


def test_deny_wins_over_allow() -> None:
    rules = RuleSet((rule("a", "allow", "book_flight"), rule("d", "deny", "book_flight")))
    assert decide(recognized("book_flight", 0.9), rules).action == "refuse"


def test_boosts_change_the_choice_and_are_reported_only_where_they_count() -> None:
    rules = RuleSet((rule("up", "boost", "cancel", boost=0.3), rule("other", "boost", "book_hotel", boost=0.1)))
    decision = decide(recognized("book_flight", 0.5, cancel=0.4), rules)
    assert (decision.intent, decision.confidence) == ("cancel", pytest.approx(0.7))
    assert [item.id for item in decision.rules] == ["up"]
    assert decide(recognized("book_flight", 0.9), rules).rules == ()


def test_a_boost_down_makes_it_ask() -> None:
    rules = RuleSet((rule("careful", "boost", "cancel", boost=-0.3),))
    decision = decide(recognized("cancel", 0.7, book_flight=0.3), rules)
    assert (decision.action, decision.between) == ("ask", ("cancel", "book_flight"))


def test_out_of_scope_is_declined_and_may_have_its_own_reply() -> None:
    assert decide(recognized(OUT_OF_SCOPE, 0.9, cancel=0.4), RuleSet()).action == "decline"
    rules = RuleSet((rule("r", "reply", OUT_OF_SCOPE, reply="Ask the desk."),))
    assert decide(recognized(OUT_OF_SCOPE, 0.9), rules).reply == "Ask the desk."


def test_the_users_own_intents_are_not_the_rules_business() -> None:
    own = Recognition("text", "water_plants", 0.8, (), False, 3, personal=True)
    decision = decide(own, RuleSet((rule("a", "allow", "cancel"), rule("d", "deny", "water_plants"))))
    assert (decision.action, decision.intent) == ("answer", "water_plants")


names = st.sampled_from(["book_flight", "book_hotel", "cancel", OUT_OF_SCOPE])
a_rule = st.builds(
    lambda number, kind, intents, boost: Rule(
        f"r{number}",
        kind,
        tuple(intents),
        "because",
        boost if kind == "boost" else 0.0,
        "said" if kind == "reply" else "",
    ),
    st.integers(0, 10**6),
    st.sampled_from(["deny", "allow", "boost", "reply"]),
    st.lists(names, min_size=1, max_size=3),
    st.floats(-1, 1).filter(bool),
)


@given(
    confidences=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    top=names,
    rules=st.lists(a_rule, max_size=8).map(lambda items: RuleSet(tuple(items))),
)
def test_every_recognition_gets_a_lawful_decision_with_words_and_reasons(
    confidences: list[float], top: str, rules: RuleSet
) -> None:
    others = dict(zip(("book_flight", "book_hotel", "cancel"), confidences, strict=False))
    others.pop(top, None)
    decision = decide(recognized(top, confidences[3], **others), rules)
    denied = {intent for item in rules.rules if item.kind == "deny" for intent in item.intents}
    allowed = [set(item.intents) for item in rules.rules if item.kind == "allow"]
    if decision.action in ("answer", "ask"):
        for intent in (decision.intent, *decision.between):
            assert intent not in denied
            assert not allowed or any(intent in intents for intents in allowed)
    assert 0.0 <= decision.confidence <= 1.0
    assert (decision.action == "decline") == (top == OUT_OF_SCOPE)
    reply = Responder({}, LABELS).respond(decision, "fresh")
    assert reply.text
    assert reply.reasons


def test_variants_take_turns_and_none_is_heard_twice_running() -> None:
    responder = Responder({"cancel": ("one", "two", "three")}, LABELS)
    decision = decide(recognized("cancel", 0.9), RuleSet())
    assert [responder.respond(decision, "fresh").text for _ in range(4)] == ["one", "two", "three", "one"]


def test_a_question_names_both_readings_in_plain_words() -> None:
    responder = Responder({"unsure": ("{first} or {second}?",)}, LABELS)
    reply = responder.respond(decide(recognized("cancel", 0.4, book_hotel=0.35), RuleSet()), "fresh")
    assert reply.text == "cancel a booking or book a hotel?"
    assert reply.choices == ("cancel", "book_hotel")
    assert "“book a hotel” is nearly as likely (35%)" in reply.reasons


def test_templates_cannot_reach_into_objects() -> None:
    responder = Responder({"unsure": ("{first.__class__} {0} {second}",)}, LABELS)
    reply = responder.respond(decide(recognized("cancel", 0.4, book_hotel=0.35), RuleSet()), "fresh")
    assert reply.text == "{first.__class__} {0} book a hotel"


def test_reasons_name_rules_and_age() -> None:
    rules = RuleSet((rule("r", "reply", "cancel", reply="Sure."),))
    reply = Responder({}, LABELS).respond(decide(recognized("cancel", 0.9), rules), "expired")
    assert reply.text == "Sure."
    assert reply.rule_ids == ("r",)
    assert reply.reasons[0] == "I understood “cancel a booking” (90%)"
    assert "reason of r" in reply.reasons
    assert "past its date" in reply.reasons[-1]


@pytest.mark.parametrize("wanted", ["book_hotel", "Book Hotel", "book-hotel", "book a hotel", " BOOK A  HOTEL "])
def test_intents_can_be_named_in_plain_words(wanted: str) -> None:
    assert resolve_intent(wanted, LABELS, LABELS) == "book_hotel"


def test_an_unknown_intent_names_the_nearest() -> None:
    with pytest.raises(UnknownIntentError, match=r"did you mean .*book_hotel"):
        resolve_intent("bok_hotel", LABELS, LABELS)
    with pytest.raises(UnknownIntentError, match="cancel"):
        resolve_intent("booking cancel please", LABELS, LABELS)
    for strange in ("", "zzzz", None, 7, "x" * 10_000, "\x00"):
        with pytest.raises(UnknownIntentError):
            resolve_intent(strange, LABELS, LABELS)
