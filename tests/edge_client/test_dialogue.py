"""Turns one by one: what the recogniser says, what is asked, what is remembered, and what an earlier text turns out to mean."""

from __future__ import annotations

from datetime import date

import pytest
from real_places import slot_reader

from edge_client.understand.dialogue import Dialogue, travel_needs
from edge_client.understand.state import MOST_UNDONE, Correction, DialogueNeeds, DialogueState, Offer, Turn
from shared_models.errors import InputError
from shared_models.intents import OUT_OF_SCOPE, Recognition

TODAY = date(2026, 11, 24)
OFFERS = (Offer("a", "Casa Azul", 120.0), Offer("b", "Hotel Bella", 90.0), Offer("c", "Sea View", 150.0))


def recognized(text: str, intent: str, confidence: float, *, personal: bool = False) -> Recognition:
    return Recognition(text, intent, confidence, (), intent == OUT_OF_SCOPE, 1, personal)


def after(*texts: str, dialogue: Dialogue | None = None) -> Turn:
    dialogue, state = dialogue or Dialogue(slot_reader()), DialogueState()
    for text in texts:
        turn = dialogue.step(state, text, TODAY)
        state = turn.state
    return turn


def test_a_sure_recognition_goes_before_words() -> None:
    text = "I need somewhere to sleep in Rome"
    turn = Dialogue(slot_reader()).step(DialogueState(), text, TODAY, recognition=recognized(text, "book_hotel", 0.9))
    assert (turn.act, turn.state.intent) == ("topic", "book_hotel")


@pytest.mark.parametrize("intent", ["book_train", OUT_OF_SCOPE])
def test_an_unsure_or_outside_recognition_leaves_the_word_to_words(intent: str) -> None:
    text = "a hotel in Rome"
    turn = Dialogue(slot_reader()).step(DialogueState(), text, TODAY, recognition=recognized(text, intent, 0.3))
    assert turn.state.intent == "book_hotel"


def test_an_english_encoder_is_not_asked_about_german() -> None:
    text = "Ich suche ein Hotel in Rom"
    turn = Dialogue(slot_reader()).step(DialogueState(), text, TODAY, recognition=recognized(text, "thanks", 0.9))
    assert turn.state.intent == "book_hotel"


def test_an_intent_of_the_users_own_counts_in_any_language() -> None:
    text = "Gieß bitte die Blumen"
    turn = Dialogue(slot_reader()).step(
        DialogueState(), text, TODAY, recognition=recognized(text, "water_plants", 0.9, personal=True)
    )
    assert turn.state.intent == "water_plants"


def test_what_an_intent_needs_is_asked_in_order_and_only_once_known() -> None:
    dialogue = Dialogue(slot_reader(), needs=DialogueNeeds({"book_hotel": ("place", "dates", "party")}))
    state, asked = DialogueState(), []
    for text in ("a hotel please", "Rome", "tomorrow", "2"):
        turn = dialogue.step(state, text, TODAY)
        state = turn.state
        asked.append(turn.question.about if turn.question else None)
    assert asked == ["place", "dates", "party", None]
    assert state.party is not None
    assert state.party.adults == 2


def test_dates_that_are_over_are_asked_again() -> None:
    turn = after("a hotel in Rome on 2026-05-03")
    assert turn.question is not None
    assert (turn.question.about, turn.question.kind) == ("dates", "past")


def test_a_correction_of_an_intent_is_handed_to_the_caller() -> None:
    kept: list[Correction] = []
    after(
        "something in Rome, a flight",
        "no, I meant a hotel",
        dialogue=Dialogue(slot_reader(), on_correction=kept.append),
    )
    assert kept == [Correction("something in Rome, a flight", "book_hotel", "book_flight")]


def test_a_correction_of_a_date_is_no_training_example() -> None:
    kept: list[Correction] = []
    turn = after("a hotel in Rome in April", "no, in May", dialogue=Dialogue(slot_reader(), on_correction=kept.append))
    assert turn.act == "correct"
    assert kept == []


def test_the_last_said_counts_within_one_text() -> None:
    dates = after("a hotel in Rome in April, no, in May").state.dates
    assert dates is not None
    assert dates.start == date(2027, 5, 1)


def test_cheaper_is_below_the_cheapest_that_was_shown_and_shows_none_of_them_again() -> None:
    state = after("a hotel in Rome tomorrow").state.offering(*OFFERS)
    cheaper = Dialogue(slot_reader()).step(state, "something cheaper", TODAY).state
    assert cheaper.price_below == 90.0
    assert cheaper.refused_offers == ("a", "b", "c")
    assert cheaper.offers == ()


def test_a_new_budget_lifts_cheaper() -> None:
    state = after("a hotel in Rome tomorrow").state.offering(*OFFERS)
    state = Dialogue(slot_reader()).step(state, "something cheaper", TODAY).state
    assert Dialogue(slot_reader()).step(state, "under 200 euros is fine", TODAY).state.price_below is None


@pytest.mark.parametrize(
    ("text", "name"),
    [("the second one", "Hotel Bella"), ("2", "Hotel Bella"), ("option 3", "Sea View"), ("the last one please", "Sea View"),
     ("casa azul", "Casa Azul"), ("das zweite", "Hotel Bella"), ("el tercero", "Sea View"), ("I'll take the first", "Casa Azul")],
)  # fmt: skip
def test_an_offer_is_chosen_by_place_or_name(text: str, name: str) -> None:
    language = {"das zweite": "de", "el tercero": "es"}.get(text, "en")
    state = after("a hotel in Rome tomorrow").state.offering(*OFFERS)
    turn = Dialogue(slot_reader()).step(
        state if language == "en" else DialogueState(offers=OFFERS), text, TODAY, language=language
    )
    assert turn.act == "choose"
    assert turn.state.chosen is not None
    assert turn.state.chosen.name == name


@pytest.mark.parametrize("text", ["the fifth one", "the first of May", "on 2 May", "for two"])
def test_what_is_no_choice_chooses_nothing(text: str) -> None:
    state = after("a hotel in Rome tomorrow").state.offering(*OFFERS)
    assert Dialogue(slot_reader()).step(state, text, TODAY).state.chosen is None


def test_undo_goes_back_as_far_as_it_is_kept() -> None:
    dialogue, state = Dialogue(slot_reader()), DialogueState()
    for text in ("a hotel in Rome", *(f"on {day} May" for day in range(1, 21))):
        state = dialogue.step(state, text, TODAY).state
    steps = 0
    while state.before is not None:
        state = dialogue.step(state, "undo that", TODAY).state
        steps += 1
    assert steps <= MOST_UNDONE
    assert state.place is not None


def test_needs_of_travel_name_its_intents() -> None:
    from shared_models.domain import TRAVEL, load_domain

    assert set(travel_needs().needs) | set(travel_needs().remarks) <= set(load_domain(TRAVEL).labels)


def test_a_state_that_is_none_is_a_typed_error() -> None:
    with pytest.raises(InputError):
        Dialogue(slot_reader()).step(None, "hello", TODAY)  # type: ignore[arg-type]
