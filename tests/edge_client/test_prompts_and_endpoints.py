"""What a language model is told of the user, on this machine and elsewhere, and what the user is told of it."""

from __future__ import annotations

import socket
from datetime import date
from typing import Any

import pytest
from listening_model import listening
from travel_clients import Open

from edge_client.answer import endpoint as endpoint_module
from edge_client.answer.local_model import LocalModelConfig, LocalSpeaker, build_prompt
from edge_client.answer.offers import PUBLIC_KINDS, spoken_offer
from edge_client.answer.wording import Wording
from edge_client.decide.travel import Suggestion, TravelAdviser
from edge_client.decide.travel_reasons import LASTING, Reason
from edge_client.decide.travel_trip import Known, wish_of
from edge_client.sidecar.stream import Hub
from edge_client.sidecar.turns import Turns
from edge_client.understand.amounts import Budget
from edge_client.understand.state import DialogueState, Slot, Turn
from shared_models.languages.place_list import Place
from shared_models.purposes import PURPOSES
from shared_models.travel.catalogue import LANGUAGES, load_catalogue

WHERE = "Where should I go in December?"


def test_why_tells_a_model_nothing_of_the_profile_without_reasons_allowed(opened: Open) -> None:
    prompts: list[str] = []
    with listening(prompts) as url:
        client = opened("personalisation", local_model=LocalModelConfig(url=url, model="tiny"))
        client.profile.correct("home_city", "Berlin")
        client.profile.correct("trip_budget", 137.0)
        client.profile.correct("likes", ["nature", "quiet"])
        client.respond(WHERE)
        client.respond("why?")
    said = prompts[-1]
    leaks = [word for word in ("137", "budget", " km ", "home", "you asked for", "you like") if word in said]
    assert not leaks, said


def test_a_lasting_interest_is_not_said_to_have_been_asked_for(opened: Open) -> None:
    client = opened("personalisation")
    client.profile.correct("likes", ["nature", "quiet"])
    reply = client.respond(WHERE)
    reasons = [reason for card in reply.suggestions for reason in card.reasons]
    assert not [reason for reason in reasons if reason.startswith("you asked for")], reasons


def test_rereading_a_history_asks_the_model_nothing(opened: Open) -> None:
    prompts: list[str] = []
    with listening(prompts) as url:
        client = opened(local_model=LocalModelConfig(url=url, model="tiny"), model_may_see=("words",))
        for _ in range(5):
            client.respond(WHERE, conversation="again", learn=False)
    assert len(prompts) == 0, f"{len(prompts)} prompts for turns whose answers nobody reads"


@pytest.mark.parametrize(("name", "value", "leak"), [("trip_budget", 60.0, "budget"), ("home_city", "Berlin", " km ")])
def test_why_tells_a_model_neither_the_kept_budget_nor_how_far_home_is(
    opened: Open, name: str, value: object, leak: str
) -> None:
    prompts: list[str] = []
    with listening(prompts) as url:
        client = opened("personalisation", local_model=LocalModelConfig(url=url, model="tiny"))
        client.profile.correct(name, value)
        for number in range(12):
            client.respond(WHERE, conversation=f"c{number}")
            client.respond("why?", conversation=f"c{number}")
    assert not [prompt for prompt in prompts if leak in prompt], next(prompt for prompt in prompts if leak in prompt)


def test_a_history_that_is_read_again_is_not_reworded_and_an_answer_that_is_shown_is(opened: Open) -> None:
    prompts: list[str] = []
    with listening(prompts) as url:
        client = opened(local_model=LocalModelConfig(url=url, model="tiny"), model_may_see=("words",))
        turns = Turns(client, Hub())
        turns.restart("old", [WHERE, "something cheaper", "why?"])
        assert prompts == []
        turns.take("something warmer", "old", learns=False)
        assert len(prompts) == 1
        client.respond("why?", conversation="old", shown=False)
        assert len(prompts) == 1


def test_what_is_known_is_worded_as_known_and_what_was_said_as_said() -> None:
    catalogue, today = load_catalogue(), date(2026, 10, 1)
    berlin = berlin_place()
    known = Known(origin=berlin, budget=70.0, likes=("nature",), children=True)
    kept = wish_of(DialogueState(), today, catalogue, known).trip
    assert kept.lasting == {"budget", "origin", "wishes.nature", "wishes.family"}
    slots = {
        "budget": Slot("budget", Budget(None, 70.0, "EUR", "day"), 0, 0, ""),
        "origin": Slot("origin", berlin, 0, 0, ""),
    }
    state = DialogueState(slots=slots, interests=("nature", "family"))
    said = wish_of(state, today, catalogue, known).trip
    assert said.lasting == frozenset()
    adviser, ids = TravelAdviser(catalogue), list(catalogue.rows)
    for trip, ours, others in (
        (kept, set(LASTING.values()), set(LASTING)),
        (said, set(LASTING), set(LASTING.values())),
    ):
        told = [why for one in adviser.explain(ids, trip) for why in (*one.reasons, *one.drawbacks)]
        kinds = {why.kind for why in told}
        assert ours <= kinds
        assert not others & kinds
        assert all(why.text(language) for why in told for language in LANGUAGES)
    words = {why.text() for one in adviser.explain(ids, kept) for why in (*one.reasons, *one.drawbacks)}
    assert any(text.startswith("you like nature") for text in words)
    assert any("your usual budget is €70" in text for text in words)


def berlin_place() -> Place:
    return Place("berlin", "city", "DE", 52.5, 13.4, 3_700_000, ("Berlin", "Berlin", "Berlín"))


def test_a_kind_of_reason_that_nobody_thought_of_is_personal() -> None:
    catalogue = load_catalogue()
    place = catalogue.destinations[0]
    for kind in ("taste", "like", "visited", *LASTING.values()):
        assert kind not in PUBLIC_KINDS
        data = {
            "likely": 0.9,
            "has": 0.8,
            "feature": "nature",
            "price": 50.0,
            "budget": 60.0,
            "km": 7,
            "place": {"en": "X"},
        }
        one = Suggestion(place, 1.0, {}, (Reason(kind, data, "you", 1.0),), ())
        offer = spoken_offer(one, 5, "en", date(2026, 5, 1))
        state = DialogueState(intent="plan_trip").offering(offer.offer)
        spoken = Wording().say(Turn(state, "why", "en"), date(2026, 5, 1), [offer])
        assert offer.reasons[0].text in spoken.text
        assert offer.reasons[0].text not in str(build_prompt(spoken))
        # Nor is a model made to say that there is no other reason.
        assert spoken.public_text == ""
        speaker = LocalSpeaker(LocalModelConfig(url="http://127.0.0.1:9/v1", model="m"))
        assert speaker.reword(spoken, date(2026, 5, 1)) is spoken
        assert "may see" in speaker.last_refusal


def test_without_the_users_consent_nothing_is_sent_to_a_model_on_another_machine(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        called.append(address[0])
        raise OSError("not reached in a test")

    monkeypatch.setattr(endpoint_module.socket, "create_connection", connect)
    model = LocalModelConfig(url="https://llm.elsewhere.example/v1", model="big", allow_remote=True)
    client = opened(local_model=model, model_may_see=("words", "reasons"))
    for text in (WHERE, "something cheaper", "why?"):
        assert client.respond(text).text
    assert called == []
    assert client.export()["language_model"] == {
        "description": model.description(),
        "stays_here": False,
        "may_see": ["words", "reasons"],
        "in_use": False,
    }
    for other in PURPOSES:
        if other != "remote-language-model":
            client.consent.grant(other)
    assert client.respond(WHERE).text
    assert called == []
    client.consent.grant("remote-language-model")
    assert client.respond(WHERE).text
    assert called == ["llm.elsewhere.example"]
    assert client.export()["language_model"]["in_use"]
    client.rights.object_to_profiling()
    client.respond(WHERE)
    client.rights.withdraw_objection()
    client.consent.withdraw("remote-language-model")
    client.respond(WHERE)
    assert len(called) == 1


def test_only_who_has_a_model_on_another_machine_is_asked_about_one(opened: Open) -> None:
    from edge_client.sidecar.centre_view import consents_page

    def switches(model: LocalModelConfig | None) -> set[str]:
        client = opened(local_model=model)
        try:
            return {switch["name"] for switch in consents_page(client)["switches"]}
        finally:
            client.close()

    without = switches(None)
    assert without == set(PURPOSES) - {"remote-language-model"}
    assert switches(LocalModelConfig(url="http://127.0.0.1:9/v1", model="tiny")) == without
    elsewhere = LocalModelConfig(url="https://llm.elsewhere.example/v1", model="big", allow_remote=True)
    assert switches(elsewhere) == set(PURPOSES)


def test_the_privacy_centre_says_where_the_model_is_and_what_it_may_see(opened: Open) -> None:
    from sidecar_calls import InProcess

    from edge_client.sidecar.app import Sidecar
    from edge_client.sidecar.centre_view import consents_page, language_model, left_page
    from edge_client.sidecar.tokens import Apps

    model = LocalModelConfig(url="https://llm.elsewhere.example/v1", model="big", allow_remote=True)
    client = opened(local_model=model, model_may_see=("words",))
    shown = language_model(client)
    assert shown is not None
    assert shown["told"] == "what you write"
    assert consents_page(client)["language_model"] == left_page(client, lambda _: False)["language_model"] == shown
    apps = Apps(client.store.folder)
    sidecar = Sidecar(client, apps)
    try:
        token = apps.register("shop", ["http://localhost:7700"], ("capture", "decide", "rights"))
        pages = centre_pages(InProcess(sidecar, token))
    finally:
        sidecar.close()
    for text in pages.values():
        assert "ANOTHER MACHINE (llm.elsewhere.example:443)" in text
        assert "it may be told: what you write." in text
        assert "It is not in use now." in text
    assert "Your words, your profile and what you do never leave." not in pages["left"]
    assert "What may leave, in rounds that you have allowed" in pages["left"]


def centre_pages(call: Any) -> dict[str, str]:
    from sidecar_calls import Visitor

    visitor = Visitor(call)
    return {page: visitor.see(page) for page in ("left", "consents")}
