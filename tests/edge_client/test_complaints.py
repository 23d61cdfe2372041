"""Complaints about what was suggested: they refuse it, exclude what they complain of, and never choose it or wish for it."""

from __future__ import annotations

import pytest
from travel_bundle import catalogue
from travel_clients import Open

from edge_client import EdgeClient

JULY = "Where should I go in July?"


def complained(client: EdgeClient, text: str) -> tuple[str, list[str], str]:
    """(the second place that was suggested, what is suggested after `text` with {} for its name, the answer's words)"""
    second = client.respond(JULY).suggestions[1]
    reply = client.respond(text.format(second.title))
    return second.id, [card.id for card in reply.suggestions], reply.text


@pytest.mark.parametrize(
    "text",
    [
        "no, {} is too expensive", "{} is too expensive", "the second one is too expensive", "{}, but that is too expensive",
        "{} ist zu teuer", "das zweite ist mir zu teuer", "{} es demasiado caro", "la segunda es demasiado cara",
        "something cheaper than {}", "etwas billigeres als {}", "algo más barato que {}",
    ],
)  # fmt: skip
def test_what_is_too_expensive_is_refused_for_something_cheaper(opened: Open, text: str) -> None:
    second, after, _ = complained(opened("personalisation"), text)
    assert after
    assert second not in after
    assert all(catalogue().place(id).price_in(7) < catalogue().place(second).price_in(7) for id in after)


@pytest.mark.parametrize(
    "text",
    ["{} is too hot", "no, {} is too hot", "the second one is too hot", "{} ist zu heiß", "hace demasiado calor en {}"],
)
def test_what_is_too_hot_is_refused_for_something_cooler(opened: Open, text: str) -> None:
    second, after, _ = complained(opened("personalisation"), text)
    assert after
    assert second not in after
    assert all(catalogue().place(id).month(7).high_c < catalogue().place(second).month(7).high_c for id in after)


@pytest.mark.parametrize("text", ["{} isn't warm enough", "it's not warm enough", "{} ist nicht warm genug"])
def test_not_warm_enough_asks_for_warmth(opened: Open, text: str) -> None:
    client = opened("personalisation")
    cool = client.respond("Where should I go in July? Somewhere cool").suggestions or client.respond(JULY).suggestions
    named = cool[0]
    after = client.respond(text.format(named.title)).suggestions
    assert named.id not in [card.id for card in after]
    assert all(
        catalogue().place(card.id).month(7).high_c > catalogue().place(named.id).month(7).high_c for card in after
    )


@pytest.mark.parametrize("text", ["{} is too crowded", "{} ist mir zu voll", "{} is too far", "I don't like {}"])
def test_what_is_complained_of_is_gone_and_others_come(opened: Open, text: str) -> None:
    second, after, _ = complained(opened("personalisation"), text)
    assert after
    assert second not in after


@pytest.mark.parametrize("text", ["the second is too far", "das zweite ist mir zu weit", "that's too far"])
def test_a_complaint_that_nothing_can_be_made_of_asks_what_should_be_different(opened: Open, text: str) -> None:
    _, after, said = complained(opened("personalisation"), text)
    assert after == []
    assert "?" in said or "anders" in said


@pytest.mark.parametrize("text", ["{} please", "I like {} too", "the second one", "{}, bitte", "{}, por favor"])
def test_praise_and_choices_are_no_complaints(opened: Open, text: str) -> None:
    client = opened("personalisation")
    second, _, _ = complained(client, text)
    chosen = client._talk._conversations.thread("main").state.chosen
    assert chosen is not None
    assert chosen.id == second


def test_another_topic_is_no_complaint(opened: Open) -> None:
    client = opened("personalisation")
    client.respond(JULY)
    assert client.respond("my luggage is not there").intent == "lost_baggage"
