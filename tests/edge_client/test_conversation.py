"""The turn of the product: a real bundle with catalogue, feed, places and item space, the real encoder, a store on disk."""

from __future__ import annotations

import asyncio
import http.server
import io
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from travel_bundle import catalogue
from travel_clients import Open, TickingClock

from edge_client import AsyncEdgeClient, EdgeClient
from edge_client.answer.claims import unsupported
from edge_client.answer.local_model import LocalModelConfig
from edge_client.chat import Chat
from edge_client.decide.elicitation import AskingLimits
from edge_client.decide.learned import TABLES
from shared_models.errors import InputError, StoreWriteError, TextError, UnknownDecisionError
from shared_models.rules.ruleset import Rule, RuleSet
from shared_models.travel.action_features import feature_names

WHERE = "Where should I go in December for under 100 € a night?"


def month_of(id: str, month: int) -> tuple[float, float]:
    """Price and daily high of a place."""
    place = catalogue().place(id)
    return place.price_in(month), place.month(month).high_c


def test_a_whole_conversation_in_english(opened: Open) -> None:
    client = opened("personalisation", "personal-learning")
    first = client.respond(WHERE)
    assert first.intent == "suggest_destination"
    assert first.language == "en"
    assert len(first.suggestions) == 3
    for card in first.suggestions:
        assert card.title in first.text
        assert card.reasons
        assert 0.0 < card.propensity <= 1.0
        assert card.price is not None
        assert card.price <= 100.0
        assert any("December" in reason or "€" in reason for reason in card.reasons)
        assert client.why(card.decision_id) == (*card.reasons, *card.drawbacks)
    cheaper = client.respond("something cheaper")
    cheapest = min(card.price or 0.0 for card in first.suggestions)
    assert cheaper.suggestions
    assert all((card.price or 0.0) < cheapest for card in cheaper.suggestions)
    cold = sorted(month_of(card.id, 12)[1] for card in cheaper.suggestions)
    warmer = client.respond("no, because it is too cold")
    shown = {card.id for reply in (first, cheaper) for card in reply.suggestions}
    assert warmer.suggestions
    for card in warmer.suggestions:
        assert card.id not in shown
        assert month_of(card.id, 12)[1] > cold[0]
        assert (card.price or 0.0) <= 100.0
    chosen = client.respond("the second one")
    second = warmer.suggestions[1]
    assert second.title in chosen.text
    assert not chosen.suggestions
    assert client.respond("why?").reasons == second.reasons
    log = client.decisions.recent()
    suggested = {entry["id"]: entry for entry in log if entry["kind"] == "suggestion"}
    assert len(suggested) == sum(len(reply.suggestions) for reply in (first, cheaper, warmer))
    assert suggested[second.decision_id]["chosen"] == second.id
    assert suggested[second.decision_id]["context"]["propensity"] == second.propensity
    assert chosen.decision_id in {entry["id"] for entry in log}


def test_german_and_spanish_turns_answer_in_their_language(opened: Open) -> None:
    client = opened()
    german = client.respond("Wohin soll ich im Mai reisen? Ich mag Strand", conversation="de")
    assert german.language == "de"
    assert german.suggestions
    assert all("Mai" in " ".join(card.reasons) or "Strand" in " ".join(card.reasons) for card in german.suggestions)
    assert german.suggestions[0].title == catalogue().place(german.suggestions[0].id).name("de")
    cheaper = client.respond("zu teuer", conversation="de")
    assert max(card.price or 0 for card in cheaper.suggestions) < min(card.price or 0 for card in german.suggestions)
    taken = client.respond("das erste", conversation="de")
    assert cheaper.suggestions[0].title in taken.text
    assert taken.language == "de"
    spanish = client.respond("¿Adónde puedo ir en marzo por menos de 90 euros al día?", conversation="es")
    assert spanish.language == "es"
    assert all((card.price or 0) <= 90 for card in spanish.suggestions)
    warm = client.respond("no, hace demasiado frío", conversation="es")
    assert warm.suggestions
    assert not {card.id for card in warm.suggestions} & {card.id for card in spanish.suggestions}
    assert warm.suggestions[1].title in client.respond("la segunda", conversation="es").text
    # What is not about suggestions is answered in the same language, too.
    assert client.respond("Ich möchte einen Flug nach Rom buchen", conversation="de").language == "de"


def test_a_down_vote_changes_what_comes_next(opened: Open) -> None:
    client = opened("personalisation")
    first = client.respond("Where should I go in July? I want to relax")
    refused = first.suggestions[0]
    before = client._talk.learned.bandit(_prior(client), _random()).mean
    result = client.react(refused.decision_id, "down", "it is too hot there")
    assert result.kept
    assert result.understood
    assert "at most" in result.excludes[0]
    assert (client._talk.learned.bandit(_prior(client), _random()).mean != before).any()
    limit = month_of(refused.id, 7)[1]
    again = client.respond("show me more")
    assert again.suggestions
    assert all(card.id != refused.id and month_of(card.id, 7)[1] < limit for card in again.suggestions)
    # In another conversation the limit does not hold, the vote does.
    other = client.respond("Where should I go in July? I want to relax", conversation="other")
    assert refused.id not in {card.id for card in other.suggestions}


def test_without_consent_it_suggests_and_keeps_nothing(opened: Open) -> None:
    client = opened()
    first = client.respond(WHERE)
    assert len(first.suggestions) == 3
    assert first.decision_id == ""
    card = first.suggestions[0]
    result = client.react(card.decision_id, "down", "too cold")
    assert not result.kept
    assert "personalisation" in result.reason
    assert client.why(card.decision_id) == (*card.reasons, *card.drawbacks)
    assert card.id not in {other.id for other in client.respond("something else").suggestions}
    exported = client.export()
    assert exported["decisions"] == []
    assert not any(exported["taste"].values())


def test_what_was_learned_survives_a_restart_and_goes_with_the_consent(opened: Open, tmp_path: Path) -> None:
    client = opened("personalisation")
    liked = client.respond("Where should I go in July?").suggestions
    client.react(liked[0].decision_id, "up")
    client.react(liked[1].decision_id, "chosen")
    mean = client._talk.learned.bandit(_prior(client), _random()).mean
    client = opened()
    learned = client._talk.learned
    assert len(learned.outcomes()) == 3
    assert learned.bandit(_prior(client), _random()).mean == pytest.approx(mean, abs=1e-4)
    assert [signal.kind for signal in learned.signals()] == ["like", "chosen"]
    exported = client.export()["taste"]
    assert [signal["item"] for signal in exported["signals"]] == [liked[0].id, liked[1].id]
    assert json.loads(json.dumps(exported))["outcomes"][0]["reward"] == 0.8
    # A reaction to a suggestion of an earlier process is still understood.
    assert client.react(liked[2].decision_id, "down").item == liked[2].id
    client.consent.withdraw("personalisation")
    assert not any(len(client.store.table(name)) for name in TABLES)
    assert not any(client.export()["taste"].values())
    client.consent.grant("personalisation")
    assert not client._talk.learned.outcomes()
    assert not client._talk.learned.signals()


def test_an_objection_to_profiling_stops_learning_but_not_suggesting(opened: Open) -> None:
    client = opened("personalisation")
    client.react(client.respond("Where should I go in July?").suggestions[0].decision_id, "down")
    client.rights.object_to_profiling()
    learned = client._talk.learned
    assert not learned.allowed
    assert not learned.outcomes()
    assert not learned.signals()
    reply = client.respond("Where should I go in July?", conversation="after")
    assert reply.suggestions
    assert reply.decision_id == ""
    assert "from what you chose before" not in " ".join(why for card in reply.suggestions for why in card.reasons)
    client.rights.withdraw_objection()
    assert len(learned.outcomes()) == 1


def test_events_of_the_app_become_signals_and_late_rewards(opened: Open, clock: TickingClock) -> None:
    client = opened("personalisation")
    offered = client.respond("Where should I go in July?").suggestions
    client.capture.receive(
        {
            "type": "track",
            "event": "booking_completed",
            "properties": {"kind": "hotel", "destination": offered[0].title},
        }
    )
    outcomes = client._talk.learned.outcomes()
    assert {outcome.item: outcome.reward for outcome in outcomes}[offered[0].id] == 1.0
    # Heard in one process, taken up in the next one.
    waiting = client.respond("Where should I go in May?", conversation="may").suggestions
    client = opened("personalisation")
    client.capture.receive(
        {"type": "track", "event": "suggestion_dismissed", "properties": {"item": waiting[0].id, "position": 1}}
    )
    client.respond("Where should I go in May?")
    assert {one.item: one.reward for one in client._talk.learned.outcomes()}[waiting[0].id] == 0.15


def test_what_was_liked_is_followed_by_what_is_like_it(opened: Open) -> None:
    client = opened("personalisation")
    snow = [place for place in catalogue().destinations if place.features["winter_sports"] >= 0.9]

    def share() -> float:
        asked = client.respond("Where should I go in January?", conversation=f"c{len(client.decisions)}").suggestions
        return sum(catalogue().place(card.id).features["winter_sports"] for card in asked)

    before = share()
    for place in snow[:6]:
        client.capture.receive(
            {
                "type": "track",
                "event": "booking_completed",
                "properties": {"kind": "hotel", "destination": place.names["en"]},
            }
        )
    assert share() > before


def test_a_question_is_asked_if_it_pays_and_its_short_answer_is_read(opened: Open) -> None:
    limits = AskingLimits(cost=0.0, horizon=50, gap_s=0.0, per_session=5, per_day=5)
    client = opened("personalisation", asking=limits)
    reply = client.respond("Where should I go in July?")
    assert reply.question
    assert reply.text.endswith(reply.question)
    why = client.respond("why do you ask?")
    assert "stays on this device" in why.text
    assert why.question == reply.question
    answered = client.respond("I love it")
    assert answered.suggestions
    assert not {card.id for card in answered.suggestions} & {card.id for card in reply.suggestions}
    outcome = next(one for one in client._talk.learned.outcomes() if not one.item)
    assert outcome.reward == 1.0
    asked = client._talk.learned.asked_topics()
    assert len(asked) == 2
    assert answered.question
    assert answered.question != reply.question
    # Something else instead of an answer is read as what it is, and the question counts as skipped.
    cost = client._talk.learned.elicitor.cost
    assert client.respond("something cheaper").suggestions
    assert client._talk.learned.elicitor.document()["skipped"] >= 0.0
    assert client._talk.learned.elicitor.cost >= cost


def test_dates_that_were_not_said_are_asked_for_once(opened: Open) -> None:
    client = opened()
    reply = client.respond("Where should I go? I like museums")
    assert reply.suggestions
    assert reply.question.endswith("?")
    assert reply.text.endswith(reply.question)
    answered = client.respond("in May")
    assert answered.suggestions
    assert not answered.question
    assert any("May" in reason for card in answered.suggestions for reason in (*card.reasons, *card.drawbacks))


def test_conversations_are_apart_bounded_and_begin_anew(opened: Open) -> None:
    client = opened()
    shown = client.respond("Where should I go in July?").suggestions
    assert client.respond("the second one", conversation="other").intent != "suggest_destination"
    client.new_conversation()
    assert shown[1].title not in client.respond("the second one").text
    for number in range(200):
        client.new_conversation(f"n{number}")
    assert len(client._talk._conversations._threads) <= 64
    for name in ("", "x" * 300, 3):
        with pytest.raises(InputError):
            client.respond("hello", conversation=name)  # type: ignore[arg-type]


def test_a_turn_that_is_read_again_leaves_no_trace(opened: Open) -> None:
    client = opened("personalisation", "personal-learning")
    reply = client.respond("Where should I go in July?", conversation="again", learn=False)
    assert reply.suggestions
    assert reply.decision_id == ""
    assert not client.decisions.recent()
    assert not client.capture.events()
    assert not client._talk.learned.exposure.document()["shown"]
    # But the conversation stands where it stood.
    assert reply.suggestions[0].title in client.respond("the first one", conversation="again").text


def test_a_correction_is_kept_as_an_example_with_consent_to_learning_only(opened: Open) -> None:
    client = opened("personalisation")
    for allowed in (False, True):
        if allowed:
            client.consent.grant("personal-learning")
        client.respond("I need something in Rome from 3 to 10 May, a flight", conversation=f"c{allowed}")
        client.respond("no, I meant a hotel", conversation=f"c{allowed}")
        kept = client.inspect()["examples"]
        assert [example["intent"] for example in kept] == (["book_hotel"] if allowed else [])


def test_what_rules_deny_is_refused_in_every_language(opened: Open) -> None:
    client = opened()
    denied = RuleSet((Rule("no-ideas", "deny", ("suggest_destination",), "not in this app", reply="Not here."),))
    client._bundle = replace(client._active(), rules=denied)
    for number, text in enumerate(("Where should I go in July?", "Wohin soll ich im Juli reisen?")):
        reply = client.respond(text, conversation=f"c{number}")
        assert (reply.action, reply.text, reply.suggestions) == ("refuse", "Not here.", ())
        assert reply.rule_ids == ("no-ideas",)


def test_the_profile_chooses_language_and_home_only_with_consent(opened: Open) -> None:
    client = opened("personalisation")
    client.profile.correct("language", "de")
    client.profile.correct("home_city", "Berlin")
    reply = client.respond("Where should I go in July?")
    assert reply.language == "de"
    assert any("km" in text for card in reply.suggestions for text in (*card.reasons, *card.drawbacks))
    client.consent.restrict("personalisation")
    client.new_conversation()
    restricted = client.respond("Where should I go in July?")
    assert restricted.language == "en"
    assert not any("km away" in text for card in restricted.suggestions for text in (*card.reasons, *card.drawbacks))


def test_a_choice_plans_follow_ups_with_consent_only(opened: Open) -> None:
    client = opened()
    client.respond("Where should I go in July?")
    client.respond("the first one")
    assert not client.delivery.pending()
    client.consent.grant("personalisation")
    place = client.respond("Where should I go in July?", conversation="b").suggestions[0].id
    client.respond("the first one", conversation="b")
    assert {plan.topic for plan in client.delivery.pending() if plan.place == place} == {
        "weather_before_trip",
        "how_was_it",
    }


@pytest.mark.parametrize("how", ["down", "dismissed", "refusal", "not there"])
def test_what_the_user_does_not_want_is_not_come_back_to(opened: Open, how: str) -> None:
    client = opened("personalisation")
    first = client.respond("Where should I go in July?").suggestions[0]
    assert [(plan.place, plan.topic) for plan in client.delivery.pending()] == [(first.id, "still_thinking")]
    if how == "refusal":
        client.respond(f"no, {first.title} is too expensive")
    elif how == "not there":
        client.respond(f"not {first.title}")
    else:
        client.react(first.decision_id, how)
    assert not client.delivery.pending()


def test_a_trip_that_was_chosen_is_come_back_to_until_it_is_disliked(opened: Open) -> None:
    client = opened("personalisation")
    first = client.respond("Where should I go in July?").suggestions[0]
    client.react(first.decision_id, "chosen")
    client.new_conversation()
    again = client.respond("Where should I go in July?")
    client.respond("something cheaper")
    assert {plan.topic for plan in client.delivery.pending() if plan.place == first.id} >= {"how_was_it"}
    assert again.suggestions
    client.react(first.decision_id, "down")
    assert not [plan for plan in client.delivery.pending() if plan.place == first.id]


def test_reactions_that_make_no_sense_are_one_clear_error(opened: Open) -> None:
    client = opened("personalisation")
    card = client.respond("Where should I go in July?").suggestions[0]
    with pytest.raises(InputError, match="up"):
        client.react(card.decision_id, "maybe")
    with pytest.raises(TextError):
        client.react(card.decision_id, "down", "x" * 10_000)
    for unknown in ("nothing", "", None):
        with pytest.raises(UnknownDecisionError):
            client.react(unknown, "up")  # type: ignore[arg-type]
        with pytest.raises(UnknownDecisionError):
            client.why(unknown)  # type: ignore[arg-type]
    # A reply's own decision is explained, but no suggestion.
    reply = client.respond("hello")
    assert client.why(reply.decision_id) == reply.reasons
    assert not client.react(reply.decision_id, "up").item


def test_nothing_is_said_that_the_data_do_not_hold(opened: Open) -> None:
    client = opened("personalisation")
    gazetteer = client._held.gazetteer(client._active())
    said: list[str] = []
    speaking = client._talk._conversations._speaking
    say = speaking.say

    def checked(*args: Any, **options: Any) -> Any:
        spoken = say(*args, **options)
        said.append(spoken.text)
        assert not unsupported(spoken.text, spoken.facts, spoken.language, args[1], gazetteer=gazetteer), spoken.text
        return spoken

    speaking.say = checked  # type: ignore[method-assign]
    for text in (
        WHERE,
        "why?",
        "from Berlin",
        "with 2 kids",
        "somewhere with a beach",
        "not Spain",
        "the second one",
        "why?",
    ):
        client.respond(text)
    assert len(said) >= 7


def test_two_threads_may_talk_at_once(opened: Open) -> None:
    client = opened("personalisation")
    problems: list[BaseException] = []

    def talk(name: str) -> None:
        try:
            for text in ("Where should I go in July?", "something cheaper", "the first one"):
                client.respond(text, conversation=name)
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=talk, args=(f"t{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def _prior(client: EdgeClient) -> Any:
    return client._talk._suggestions.suggester(client._active()).prior  # type: ignore[union-attr]


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_full_disk_keeps_nobody_from_an_answer(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = opened("personalisation")
    client.respond("Where should I go in July?")
    kept = len(client.decisions)

    def full(changes: object) -> None:
        raise StoreWriteError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(client.store._storage.sealed, "commit", full)
        reply = client.respond("something cheaper")
        assert reply.suggestions
        assert reply.decision_id == ""
        assert client.respond("the second one").text
        with pytest.raises(StoreWriteError):
            client.react(reply.suggestions[0].decision_id, "up")
    assert len(client.decisions) == kept
    assert client.respond("Where should I go in May?", conversation="later").decision_id


def test_a_local_model_rewords_and_its_prompt_holds_what_was_allowed(opened: Open) -> None:
    prompts: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompts.append(json.dumps(body))
            draft = json.loads(body["messages"][1]["content"])["draft"]
            answer = {"choices": [{"message": {"content": draft.replace("Noted:", "All right:")}}]}
            raw = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        model = LocalModelConfig(url=f"http://127.0.0.1:{server.server_port}/v1", model="tiny")
        client = opened("personalisation", local_model=model)
        client.profile.correct("home_city", "Berlin")
        reply = client.respond(WHERE)
        assert reply.text.startswith(("All right: December 2026", "I have: December 2026"))
        assert all(card.title in reply.text for card in reply.suggestions)
        assert prompts
        assert not any(secret in prompt for prompt in prompts for secret in ("Berlin", "Where should I go", "learned"))
    finally:
        server.shutdown()
        server.server_close()


def test_the_terminal_shows_suggestions_and_takes_thumbs(opened: Open) -> None:
    client = opened("personalisation")
    lines = [WHERE, "/why 1", "/down 1 it is too cold", "the second one", "/up 2", "/up 9", "/new", "/why"]
    shown = io.StringIO()
    Chat(client, io.StringIO("\n".join([*lines, "/quit", ""])), shown).run()
    text = shown.getvalue()
    assert all(f"\n{number}. " in text for number in (1, 2, 3))
    assert "EUR a day" in text
    assert "the next suggestions take it into account" in text
    assert "from now on: usually at least" in text
    assert "there is no such suggestion" in text
    assert "a new conversation" in text
    assert [signal.kind for signal in client._talk.learned.signals()] == ["dislike", "chosen", "like"]


def test_the_asynchronous_twin_talks_too(opened: Open) -> None:
    async def talk() -> None:
        client = AsyncEdgeClient(opened("personalisation"))
        reply = await client.respond("Where should I go in July?", conversation="a")
        reaction = await client.react(reply.suggestions[0].decision_id, "down", "too hot")
        assert reaction.kept
        assert await client.why(reply.suggestions[1].decision_id)
        await client.new_conversation("a")

    asyncio.run(talk())


def test_the_policy_knows_a_users_segment(opened: Open) -> None:
    names = feature_names(catalogue().feature_names)

    def segment(client: EdgeClient) -> dict[str, bool]:
        client.new_conversation("main")
        waiting = client._talk.learned.waiting(client.respond(WHERE).suggestions[0].decision_id)
        assert waiting is not None
        return {
            name: bool(waiting.candidates[:, names.index(column)].any())
            for name, column in (("newcomer", "newcomer_preference"), ("saver", "saver_price"))
        }

    client = opened("personalisation")
    first = client.respond(WHERE).suggestions
    client.react(first[0].decision_id, "up")
    assert segment(client) == {"newcomer": True, "saver": False}
    client.profile.correct("trip_budget", 20.0)
    for card in first[1:]:
        client.react(card.decision_id, "up")
    assert segment(client) == {"newcomer": False, "saver": True}


@pytest.mark.parametrize(
    ("first", "more", "slots"),
    [
        ("Where should I go in July?", "what about Italy?", "place"),
        ("Where should I go in July?", "something with good food", "interests"),
        ("Where should I go in July?", "more museums", "interests"),
        ("Wohin im Juli?", "und in Italien?", "place"),
        ("¿Adónde voy en julio?", "¿y en Italia?", "place"),
    ],
)
def test_a_wish_alone_refines_what_is_talked_about(opened: Open, first: str, more: str, slots: str) -> None:
    client = opened("personalisation")
    client.respond(first)
    reply = client.respond(more)
    assert reply.intent == "suggest_destination"
    assert reply.suggestions
    assert reply.slots[slots]


def test_where_somebody_has_been_is_not_where_they_want_to_go(opened: Open) -> None:
    client = opened("personalisation")
    client.respond("suggest a city trip in May")
    reply = client.respond("I've already been to Rome")
    assert reply.suggestions
    assert "rome" not in [card.id for card in reply.suggestions]


@pytest.mark.parametrize(("text", "language"), [("danke", "de"), ("gracias", "es")])
def test_thanks_are_welcome_in_every_language(opened: Open, text: str, language: str) -> None:
    client = opened("personalisation")
    client.respond({"de": "Wohin im Juli?", "es": "Quiero ir a la playa en julio"}[language])
    reply = client.respond(text)
    assert (reply.intent, reply.language) == ("thanks", language)


def test_a_learned_taste_does_not_outweigh_what_is_asked_for_now(opened: Open) -> None:
    client = opened("personalisation")
    for _ in range(6):
        client.new_conversation()
        for card in client.respond("I want to go to the beach in August").suggestions:
            client.react(card.decision_id, "chosen")
    client.new_conversation()
    skiing = client.respond("I want to go skiing in February").suggestions
    assert len(skiing) == 3
    assert min(catalogue().place(card.id).features["winter_sports"] for card in skiing) >= 0.5
