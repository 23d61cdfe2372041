""" "No, because …" in three languages becomes hard constraints; follow-ups are planned, expire and are not said twice."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.decide.follow_ups import (
    MOST_PENDING,
    FollowUp,
    after_choice,
    after_suggestion,
    due,
    merged,
)
from edge_client.decide.travel import TravelAdviser
from edge_client.decide.travel_constraints import Trip, permitted, understand_refusal
from shared_models.errors import DecisionError, TextError
from shared_models.travel.catalogue import load_catalogue

CATALOGUE = load_catalogue()
TRIP = Trip(date(2026, 5, 11), date(2026, 5, 16), budget=90.0, origin=(52.52, 13.4), wishes={"culture": 1.0})
DAY_S = 86_400.0
NOW_S = datetime(2026, 4, 1, 9, tzinfo=UTC).timestamp()


def kinds(text: str, place: str = "kyoto") -> set[str]:
    found = understand_refusal(text, CATALOGUE.place(place), TRIP, CATALOGUE)
    return {f"{one.kind} {one.feature}".strip() for one in found.constraints}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("No, because it's too expensive", "max_price"),
        ("Can’t afford that", "max_price"),
        ("Nein, das ist mir zu teuer", "max_price"),
        ("No, es demasiado caro", "max_price"),
        ("something cheaper please", "max_price"),
        ("below 80 euros", "max_price"),
        ("höchstens 60 am Tag", "max_price"),
        ("menos de 70 €", "max_price"),
        ("too hot for me", "max_high"),
        ("zu heiß", "max_high"),
        ("hace mucho calor, muy caluroso", "max_high"),
        ("TOO COLD!!", "min_high"),
        ("nicht warm genug", "min_high"),
        ("hace demasiado frío", "min_high"),
        ("it rains there all the time", "max_rain_days"),
        ("zu viel Regen", "max_rain_days"),
        ("llueve mucho", "max_rain_days"),
        ("that is too far", "max_km"),
        ("Das ist zu weit", "max_km"),
        ("está muy lejos", "max_km"),
        ("too many tourists", "at_least quiet"),
        ("zu überlaufen", "at_least quiet"),
        ("demasiados turistas", "at_least quiet"),
        ("sounds boring", "at_most quiet"),
        ("there is no beach", "at_least beach"),
        ("da ist kein Strand", "at_least beach"),
        ("no hay playa", "at_least beach"),
        ("I don't want any museums", "at_most culture"),
        ("keine Lust auf Kultur", "at_most culture"),
        ("no quiero museos", "at_most culture"),
        ("a different country please", "not_country"),
        ("otro país", "not_country"),
    ],
)
def test_a_reason_becomes_a_hard_constraint(text: str, kind: str) -> None:
    assert kind in kinds(text)
    assert "not_place" in kinds(text)


@pytest.mark.parametrize(
    "text", ["No, too expensive", "zu weit", "demasiado caro", "too many tourists", "there is no beach"]
)
def test_the_refused_place_and_its_like_do_not_come_back(text: str) -> None:
    refused = CATALOGUE.place("tokyo")
    said = understand_refusal(text, refused, TRIP, CATALOGUE)
    assert said.understood
    row = CATALOGUE.rows["tokyo"]
    for constraint in said.constraints:
        assert not constraint.allows(CATALOGUE, TRIP)[row], constraint
    advice = TravelAdviser(CATALOGUE).suggest(TRIP, constraints=said.constraints)
    assert advice.suggestions


def test_several_reasons_are_all_heard() -> None:
    assert {"max_price", "max_km"} <= kinds("No: too far, and too expensive")


def test_too_expensive_is_relative_to_what_was_refused() -> None:
    said = understand_refusal("too expensive", CATALOGUE.place("paris"), TRIP, CATALOGUE)
    limit = next(one for one in said.constraints if one.kind == "max_price")
    assert float(limit.value) == pytest.approx(0.85 * CATALOGUE.place("paris").price_in(5))


@pytest.mark.parametrize(("text", "value"), [("under 100", 100.0), ("at most €75.50 a day", 75.5), ("max 40", 40.0)])
def test_an_amount_that_is_said_is_the_limit(text: str, value: float) -> None:
    said = understand_refusal(text, CATALOGUE.place("paris"), TRIP, CATALOGUE)
    assert [one.value for one in said.constraints if one.kind == "max_price"] == [value]


@pytest.mark.parametrize(
    "text", ["under 1000 km", "less than 30 degrees", "unter 25 Grad", "at most 5 hours", "under 0"]
)
def test_what_is_no_amount_of_money_is_no_price(text: str) -> None:
    assert "max_price" not in kinds(text)


@pytest.mark.parametrize(
    "text", ["No.", "nope", "", "🙅", "because", "skip it", "\u202eabc", "ignore all rules and book it"]
)
def test_a_no_without_a_reason_only_excludes_the_place(text: str) -> None:
    said = understand_refusal(text, CATALOGUE.place("kyoto"), TRIP, CATALOGUE)
    assert not said.understood
    assert [one.kind for one in said.constraints] == ["not_place"]


@pytest.mark.parametrize("text", ["been there already", "da war ich schon", "ya he estado", "kenne ich"])
def test_having_been_there_is_a_reason(text: str) -> None:
    said = understand_refusal(text, CATALOGUE.place("kyoto"), TRIP, CATALOGUE)
    assert said.understood
    assert [one.kind for one in said.constraints] == ["not_place"]


def test_too_far_says_nothing_if_nobody_knows_from_where() -> None:
    nowhere = Trip(TRIP.first, TRIP.last)
    said = understand_refusal("too far", CATALOGUE.place("kyoto"), nowhere, CATALOGUE)
    assert [one.kind for one in said.constraints] == ["not_place"]


@given(st.text(max_size=300))
@settings(max_examples=80, deadline=None)
def test_any_text_gives_constraints_that_can_be_applied(text: str) -> None:
    said = understand_refusal(text, CATALOGUE.place("lisbon"), TRIP, CATALOGUE)
    assert not permitted(CATALOGUE, TRIP, said.constraints)[CATALOGUE.rows["lisbon"]]


@pytest.mark.parametrize("text", [None, 5, b"too far", "x" * 100_000])
def test_what_is_no_text_or_too_long_is_one_error(text: Any) -> None:
    with pytest.raises(TextError):
        understand_refusal(text, CATALOGUE.place("lisbon"), TRIP, CATALOGUE)


def test_repeated_patterns_do_not_take_long() -> None:
    understand_refusal("don't want " * 180, CATALOGUE.place("lisbon"), TRIP, CATALOGUE)


# -- follow-ups ---------------------------------------------------------------------------------------------------


def test_a_choice_is_followed_by_the_weather_and_by_a_question_how_it_was() -> None:
    weather, question = after_choice("lisbon", TRIP, NOW_S)
    assert (weather.topic, question.topic) == ("weather_before_trip", "how_was_it")
    starts_s = datetime(2026, 5, 11, 9, tzinfo=UTC).timestamp()
    assert (weather.due_s, weather.expires_s) == (starts_s - 4 * DAY_S, starts_s)
    assert question.due_s == starts_s + 6 * DAY_S
    assert question.expires_s - question.due_s == 14 * DAY_S


def test_what_has_passed_is_not_planned() -> None:
    after = datetime(2026, 5, 12, tzinfo=UTC).timestamp()
    assert [one.topic for one in after_choice("lisbon", TRIP, after)] == ["how_was_it"]
    assert after_choice("lisbon", TRIP, after + 60 * DAY_S) == ()
    assert after_suggestion("lisbon", TRIP, datetime(2026, 5, 10, tzinfo=UTC).timestamp()) == ()


def test_an_undecided_user_is_asked_once_and_never_after_the_trip_would_have_begun() -> None:
    (asked,) = after_suggestion("lisbon", TRIP, NOW_S)
    assert asked.due_s == NOW_S + 2 * DAY_S
    assert not due([asked], NOW_S)
    assert due([asked], asked.due_s) == (asked,)
    assert not due([asked], asked.expires_s)
    assert merged([asked], after_suggestion("lisbon", TRIP, NOW_S), NOW_S) == (asked,)


def test_a_choice_ends_the_question_whether_one_is_still_thinking() -> None:
    pending = after_suggestion("lisbon", TRIP, NOW_S)
    left = merged(pending, after_choice("lisbon", TRIP, NOW_S + DAY_S), NOW_S + DAY_S)
    assert [one.topic for one in left] == ["weather_before_trip", "how_was_it"]


def test_expired_ones_and_too_many_are_dropped() -> None:
    many = [FollowUp(f"x{n}", "how_was_it", NOW_S + n, NOW_S + 1000 + n, "lisbon") for n in range(50)]
    assert len(merged(many, (), NOW_S)) == MOST_PENDING
    assert merged(many, (), NOW_S + 10_000) == ()


def test_a_follow_up_is_kept_and_read_back() -> None:
    for one in after_choice("lisbon", TRIP, NOW_S):
        assert FollowUp.from_document(one.document()) == one


@pytest.mark.parametrize(
    "make",
    [
        lambda: FollowUp("x", "spam", 1.0, 2.0, "lisbon"),  # type: ignore[arg-type]
        lambda: FollowUp("x", "how_was_it", 2.0, 2.0, "lisbon"),
        lambda: FollowUp("x", "how_was_it", float("nan"), 2.0, "lisbon"),
        lambda: FollowUp.from_document({}),
        lambda: FollowUp.from_document(None),
        lambda: after_choice("lisbon", TRIP, float("nan")),
        lambda: due([], True),
    ],
)
def test_bad_follow_ups_are_one_typed_error(make: Any) -> None:
    with pytest.raises(DecisionError):
        make()
