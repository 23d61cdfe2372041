"""Suggestions of places: constraints always hold, reasons are the calculation and name their data, and input is checked."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.decide.diversity import Exposure
from edge_client.decide.travel import PARTS, Advice, TravelAdviser, Visit, Weights
from edge_client.decide.travel_constraints import KINDS, MOODS, Constraint, Trip, permitted
from edge_client.decide.travel_reasons import constraint_text
from shared_models.context_feed import BroadcastFeed, Day, Event, Holiday, Place
from shared_models.errors import DecisionError, DomainError
from shared_models.travel.catalogue import Catalogue, load_catalogue

CATALOGUE = load_catalogue()
ADVISER = TravelAdviser(CATALOGUE)
BERLIN = (52.52, 13.4)
MAY = Trip(date(2026, 5, 11), date(2026, 5, 16), budget=90.0, origin=BERLIN, wishes={"beach": 1.0, "food": 0.5})
ISSUED_S = 1_778_371_200


def feed(**places: tuple[float, float]) -> BroadcastFeed:
    """Daily high and rain for some places over the days of the trip; a concert in Lisbon and a holiday in Portugal."""
    return BroadcastFeed(
        ISSUED_S,
        ISSUED_S + 36 * 3600,
        tuple(
            Place(
                place.id,
                place.name(),
                place.country,
                place.latitude,
                place.longitude,
                tuple(
                    Day(date(2026, 5, 10) + timedelta(days=n), "clear", places[place.id][0], 0.0, places[place.id][1])
                    for n in range(10 if place.id in places else 0)
                ),
            )
            for place in CATALOGUE.destinations
        ),
        {"PT": (Holiday(date(2026, 5, 13), "A holiday"),)},
        (
            Event(
                "concert",
                "lisbon",
                "music",
                date(2026, 5, 12),
                date(2026, 5, 12),
                {"en": "A concert", "de": "Ein Konzert"},
            ),
        ),
        {"weather": "the weather people", "events": "a list"},
    )


def ids(advice: Advice) -> list[str]:
    return [suggestion.place.id for suggestion in advice.suggestions]


def test_wishes_decide_what_is_suggested() -> None:
    for feature in ("beach", "winter_sports", "culture", "nightlife"):
        month = 2 if feature == "winter_sports" else 6
        advice = ADVISER.suggest(Trip(date(2026, month, 1), date(2026, month, 7), wishes={feature: 1.0}))
        assert all(suggestion.place.features[feature] >= 0.8 for suggestion in advice.suggestions)


def test_the_parts_of_a_score_sum_to_it() -> None:
    advice = ADVISER.suggest(MAY, taste={"lisbon": 0.9}, visits=[Visit("porto", True)], feed=feed(), now_s=ISSUED_S)
    for suggestion in advice.suggestions:
        assert set(suggestion.parts) == set(PARTS)
        assert sum(suggestion.parts.values()) == pytest.approx(suggestion.score)


def test_every_number_of_a_reason_is_in_the_data() -> None:
    advice = ADVISER.suggest(MAY, size=10, visits=[Visit("porto", True)])
    for suggestion in advice.suggestions:
        place = suggestion.place
        for reason in (*suggestion.reasons, *suggestion.drawbacks):
            if reason.kind in ("wish", "missing_wish"):
                assert reason.data["has"] == place.features[reason.data["feature"]]
            elif reason.kind == "climate":
                assert reason.data["high"] == round(place.month(5).high_c)
                assert reason.data["rain"] == round(place.month(5).rain_days)
            elif reason.kind == "price":
                assert (reason.data["price"], reason.data["budget"]) == (place.price_in(5), 90.0)
            elif reason.kind == "distance":
                assert reason.data["km"] == pytest.approx(
                    CATALOGUE.distances_km(*BERLIN)[CATALOGUE.rows[place.id]], abs=1
                )
            else:
                assert reason.kind == "like"


def test_each_suggestion_has_a_reason_in_each_language() -> None:
    for suggestion in ADVISER.suggest(MAY).suggestions:
        assert suggestion.reasons
        texts = [[reason.text(language) for reason in suggestion.reasons] for language in ("en", "de", "es")]
        assert len({tuple(said) for said in texts}) == 3
        assert not any("{" in text or "}" in text for said in texts for text in said)
        assert suggestion.reasons[0].text("fr") == suggestion.reasons[0].text("en")


def test_the_forecast_counts_more_than_the_climate_where_it_reaches() -> None:
    sunny = ADVISER.suggest(MAY, feed=feed(algarve=(28.0, 0.0)), now_s=ISSUED_S, constraints=only("algarve"))
    stormy = ADVISER.suggest(MAY, feed=feed(algarve=(14.0, 9.0)), now_s=ISSUED_S, constraints=only("algarve"))
    assert sunny.suggestions[0].parts["weather"] > stormy.suggestions[0].parts["weather"]
    (reason,) = [reason for reason in stormy.suggestions[0].drawbacks if reason.kind == "forecast"]
    assert reason.source == "the weather people"
    assert reason.data == {"days": 6, "high": 14, "wet": 6}


def test_a_place_that_a_bandit_chose_gets_the_same_reasons() -> None:
    ranked = ADVISER.suggest(MAY, taste={"lisbon": 0.9}, feed=feed(), now_s=ISSUED_S).suggestions
    chosen = [suggestion.place.id for suggestion in reversed(ranked)]
    explained = ADVISER.explain(chosen, MAY, taste={"lisbon": 0.9}, feed=feed(), now_s=ISSUED_S)
    assert explained == tuple(reversed(ranked))
    with pytest.raises(DomainError):
        ADVISER.explain(["atlantis"], MAY)


def test_an_expired_feed_is_not_used() -> None:
    advice = ADVISER.suggest(MAY, feed=feed(algarve=(14.0, 9.0)), now_s=ISSUED_S + 1e6, constraints=only("algarve"))
    assert not [one for one in advice.suggestions[0].drawbacks if one.kind == "forecast"]


def test_events_and_holidays_are_told_in_the_users_language_with_their_source() -> None:
    (lisbon,) = ADVISER.suggest(MAY, feed=feed(), now_s=ISSUED_S, constraints=only("lisbon")).suggestions
    assert lisbon.parts["events"] > 0
    said = {reason.kind: reason for reason in lisbon.reasons}
    assert said["holiday"].text() == "13 May is a public holiday there: A holiday"
    whole = ADVISER.suggest(
        Trip(MAY.first, MAY.last), feed=feed(), now_s=ISSUED_S, constraints=only("lisbon")
    ).suggestions[0]
    event = next(reason for reason in whole.reasons if reason.kind == "event")
    assert event.text("de") == "„Ein Konzert“ findet vom 12. Mai bis 12. Mai statt"
    assert event.source == "a list"


def test_an_event_title_cannot_reach_into_the_words() -> None:
    spoiled = feed()
    title = {"en": "{km} {0.__class__} %s"}
    events = (Event("x", "lisbon", "music", MAY.first, MAY.last, title),)
    odd = BroadcastFeed(spoiled.issued_s, spoiled.valid_until_s, spoiled.places, {}, events, spoiled.sources)
    lisbon = ADVISER.suggest(
        Trip(MAY.first, MAY.last), feed=odd, now_s=ISSUED_S, constraints=only("lisbon")
    ).suggestions[0]
    assert any(title["en"] in reason.text() for reason in lisbon.reasons)


def test_taste_from_outside_moves_places_up_and_down() -> None:
    plain = ids(ADVISER.suggest(MAY, size=5))
    eighth = ids(ADVISER.suggest(MAY, size=8))[7]
    assert ids(ADVISER.suggest(MAY, taste={eighth: 1.0}, size=1)) == [eighth]
    disliked = dict.fromkeys(plain, 0.0)
    assert not set(plain[:3]) & set(ids(ADVISER.suggest(MAY, taste=disliked, size=3)))


def test_a_place_that_was_visited_is_not_first_again() -> None:
    first = ids(ADVISER.suggest(MAY, size=1))[0]
    assert ids(ADVISER.suggest(MAY, size=1, visits=[Visit(first)])) != [first]
    assert ids(ADVISER.suggest(MAY, size=1, visits=[Visit(first, liked=False)])) != [first]


def test_what_was_liked_speaks_for_its_like() -> None:
    trip = Trip(MAY.first, MAY.last)
    advice = ADVISER.suggest(trip, visits=[Visit("innsbruck", True)], size=5)
    reasons = [reason for one in advice.suggestions for reason in one.reasons if reason.kind == "like"]
    assert reasons
    assert all("Innsbruck" in reason.text(language) for reason in reasons for language in ("en", "de", "es"))


@pytest.mark.parametrize("mood", MOODS)
def test_a_mood_is_told_as_a_reason(mood: Any) -> None:
    advice = ADVISER.suggest(Trip(MAY.first, MAY.last, mood=mood))
    assert any(reason.kind == "mood" for reason in advice.suggestions[0].reasons)


def test_moods_and_features_are_nothing_sensitive() -> None:
    about = {*MOODS, *CATALOGUE.feature_names, *(name for words in MOODS.values() for name in words)}
    for word in ("health", "pregnan", "religio", "lgbt", "gay", "politic", "ethnic", "disab", "depress", "faith"):
        assert not any(word in name for name in about)


def only(*places: str) -> list[Constraint]:
    """Everything but these is excluded, country by country and place by place."""
    kept = {CATALOGUE.place(id).country for id in places}
    countries = {place.country for place in CATALOGUE.destinations} - kept
    near = [place.id for place in CATALOGUE.destinations if place.country in kept and place.id not in places]
    return [Constraint("not_country", country) for country in countries] + [Constraint("not_place", id) for id in near]


LIMITS = st.one_of(
    st.builds(Constraint, st.just("max_price"), st.floats(20, 200)),
    st.builds(Constraint, st.just("max_km"), st.floats(500, 15_000)),
    st.builds(Constraint, st.sampled_from(["min_high", "max_high"]), st.floats(-5, 35)),
    st.builds(Constraint, st.just("max_rain_days"), st.floats(0, 20)),
    st.builds(Constraint, st.just("at_least"), st.floats(0, 1), st.sampled_from(CATALOGUE.feature_names)),
    st.builds(Constraint, st.just("at_most"), st.floats(0, 1), st.sampled_from(CATALOGUE.feature_names)),
    st.builds(Constraint, st.just("not_place"), st.sampled_from(sorted(CATALOGUE.rows))),
    st.builds(Constraint, st.just("not_country"), st.sampled_from(["ES", "IT", "US", "TH"])),
)


@given(
    st.lists(LIMITS, max_size=4),
    st.dictionaries(st.sampled_from(sorted(CATALOGUE.rows)), st.floats(0, 1), max_size=20),
    st.sets(st.sampled_from(sorted(CATALOGUE.rows)), max_size=30),
    st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_nothing_that_is_excluded_is_ever_suggested(
    constraints: list[Constraint], taste: dict[str, float], forbidden: set[str], month: int
) -> None:
    trip = Trip(date(2026, month, 3), date(2026, month, 9), budget=100.0, origin=BERLIN, wishes={"beach": 1.0})
    advice = ADVISER.suggest(trip, size=8, taste=taste, constraints=constraints, forbidden=forbidden)
    allowed = permitted(CATALOGUE, trip, constraints)
    assert len(set(ids(advice))) == len(ids(advice)) == min(8, advice.possible) or advice.possible > 8
    assert all(allowed[CATALOGUE.rows[id]] and id not in forbidden for id in ids(advice))
    assert bool(advice.suggestions) == bool(advice.possible)


def test_if_nothing_fits_it_says_which_wish_stands_in_the_way() -> None:
    tight = [Constraint("max_price", 5.0), Constraint("min_high", 20.0)]
    advice = ADVISER.suggest(MAY, constraints=tight)
    assert advice.suggestions == ()
    assert advice.limiting is not None
    constraint, count = advice.limiting
    assert constraint is tight[0]
    assert count == int(permitted(CATALOGUE, MAY, tight[1:]).sum())
    assert constraint_text(constraint, CATALOGUE, "de") == "höchstens 5 € je Person und Tag"


def test_if_rules_forbid_everything_no_wish_is_blamed() -> None:
    advice = ADVISER.suggest(MAY, constraints=[Constraint("max_price", 5.0)], forbidden=set(CATALOGUE.rows))
    assert advice == Advice((), 0, None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_constraint_can_be_said_in_every_language(kind: Any) -> None:
    value: Any = {"not_place": "lisbon", "not_country": "PT"}.get(kind, 0.6)
    said = Constraint(kind, value, "beach" if kind in ("at_least", "at_most") else "")
    texts = {constraint_text(said, CATALOGUE, language) for language in ("en", "de", "es")}
    assert len(texts) >= 2
    assert not any("{" in text for text in texts)


def test_one_country_does_not_fill_every_list() -> None:
    exposure = Exposure()
    wish = Trip(MAY.first, MAY.last, wishes={"food": 1.0, "culture": 0.8})
    shown: list[str] = []
    for _ in range(20):
        countries = [one.place.country for one in ADVISER.suggest(wish, exposure=exposure).suggestions]
        exposure.record(countries)
        shown += countries
    later = shown[30:]
    assert max(later.count(country) for country in set(later)) / len(later) <= 0.45


@pytest.mark.parametrize(
    "make",
    [
        lambda: Trip(date(2026, 5, 2), date(2026, 5, 1)),
        lambda: Trip(date(2026, 1, 1), date(2028, 1, 1)),
        lambda: Trip("2026-05-01", date(2026, 5, 1)),  # type: ignore[arg-type]
        lambda: Trip(MAY.first, MAY.last, budget=float("nan")),
        lambda: Trip(MAY.first, MAY.last, budget=0.0),
        lambda: Trip(MAY.first, MAY.last, origin=(91.0, 0.0)),
        lambda: Trip(MAY.first, MAY.last, origin=(1.0,)),  # type: ignore[arg-type]
        lambda: Trip(MAY.first, MAY.last, wishes={"beach": 2.0}),
        lambda: Trip(MAY.first, MAY.last, wishes={"beach": True}),
        lambda: Trip(MAY.first, MAY.last, warm_c=float("inf")),
        lambda: Trip(MAY.first, MAY.last, mood="depressed"),  # type: ignore[arg-type]
        lambda: Constraint("max_price", float("nan")),
        lambda: Constraint("max_price", "cheap"),
        lambda: Constraint("at_least", 0.5),
        lambda: Constraint("not_place", 5),
        lambda: Constraint("DROP TABLE", 5),  # type: ignore[arg-type]
        lambda: Weights(taste=float("inf")),
        lambda: Weights(mood=-1.0),
        lambda: ADVISER.suggest(MAY, taste={"lisbon": float("nan")}),
        lambda: ADVISER.suggest(MAY, taste={"lisbon": 1.5}),
        lambda: ADVISER.suggest(MAY, taste={"lisbon": "good"}),  # type: ignore[dict-item]
        lambda: ADVISER.suggest(MAY, taste=np.zeros(3)),
        lambda: ADVISER.suggest(MAY, size=0),
        lambda: ADVISER.suggest(MAY, size=True),
        lambda: ADVISER.suggest(MAY, constraints=[Constraint("max_price", 1.0)] * 500),
        lambda: ADVISER.suggest(MAY, visits=[Visit("lisbon")] * 5000),
    ],
)
def test_bad_input_is_one_typed_error(make: Any) -> None:
    with pytest.raises(DecisionError):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ADVISER.suggest(MAY, taste={"atlantis": 0.5}),
        lambda: ADVISER.suggest(Trip(MAY.first, MAY.last, wishes={"casino": 1.0})),
        lambda: ADVISER.suggest(MAY, constraints=[Constraint("at_least", 0.5, "casino")]),
    ],
)
def test_places_and_features_that_there_are_not_are_one_typed_error(make: Any) -> None:
    with pytest.raises(DomainError):
        make()


def test_a_visit_to_a_place_that_left_the_catalogue_is_passed_over() -> None:
    assert ids(ADVISER.suggest(MAY, visits=[Visit("atlantis", True)])) == ids(ADVISER.suggest(MAY))


def test_a_domain_without_the_usual_features_still_gets_advice() -> None:
    document = CATALOGUE.document()
    document["features"] = ["beach"]
    for entry in document["destinations"]:
        entry["features"] = {"beach": entry["features"]["beach"]}
    small = TravelAdviser(Catalogue.from_document(document))
    assert len(small.suggest(Trip(MAY.first, MAY.last)).suggestions) == 3


def test_advice_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'scipy', 'httpx', 'holidays', 'fastapi', 'sklearn', 'onnx', 'opacus', 'flwr', 'sqlalchemy'}"
    code = (
        "import sys, datetime\n"
        "from edge_client.decide.travel import TravelAdviser\n"
        "from edge_client.decide.travel_constraints import Trip\n"
        "from shared_models.travel.catalogue import load_catalogue\n"
        "day = datetime.date(2026, 5, 1)\n"
        "TravelAdviser(load_catalogue()).suggest(Trip(day, day))\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
