"""The parts of a turn, each alone: trips, refusals, features of actions, forecasts as arrays, what is learned and asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from travel_bundle import NOW_S, catalogue, feed

from edge_client.decide.asking import worth_asking
from edge_client.decide.bandit import Bandit, Exploration
from edge_client.decide.elicitation import AskingLimits, Elicitor
from edge_client.decide.event_signals import signal_of
from edge_client.decide.learned import Learned
from edge_client.decide.learned_records import Open
from edge_client.decide.preference import Signal
from edge_client.decide.question_words import answer_named, speak
from edge_client.decide.refusals import read_refusal
from edge_client.decide.suggesting import Personal, Suggester, Surroundings
from edge_client.decide.travel_constraints import Trip
from edge_client.decide.travel_trip import Known, Wish, wish_of
from edge_client.know.consent import Consent
from edge_client.know.events import Event
from edge_client.know.store import Store
from edge_client.understand.amounts import Budget, Party
from edge_client.understand.days import DateRange
from edge_client.understand.slots import Slot, SlotName, SlotValue
from edge_client.understand.state import DialogueState, Offer
from shared_models.bandit_prior import BanditPrior, BlockWeights, MomentLayout
from shared_models.errors import DecisionError
from shared_models.travel.action_features import (
    OwnHistory,
    TripContext,
    declared_prior,
    feature_names,
    features,
    with_feature,
)
from shared_models.travel.outlooks import outlooks

TODAY = date(2026, 11, 24)
MAY = DateRange(date(2027, 5, 3), date(2027, 5, 9))


def said(interests: tuple[str, ...] = (), **values: SlotValue) -> DialogueState:
    names: dict[SlotName, SlotValue] = dict(values)  # type: ignore[arg-type]
    state = DialogueState(intent="suggest_destination", interests=interests)
    return state.with_slots(*(Slot(name, value, 0, 0, "") for name, value in names.items()))


def wanted(state: DialogueState, known: Known | None = None) -> Wish:
    return wish_of(state, TODAY, catalogue(), known or Known())


# -- from a conversation to a trip -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "party", "limit"),
    [
        (Budget(None, 100.0, "EUR", "night"), None, 100.0),
        (Budget(None, 100.0, None), None, 100.0),
        (Budget(None, 1400.0, "EUR", "total"), Party(2), 100.0),
        (Budget(None, 700.0, "EUR", "person"), None, 100.0),
        (Budget(None, 1400.0, None), Party(2), 100.0),
        (Budget(None, 100.0, "EUR", "night", around=True), None, None),
        (Budget(None, 100.0, "USD", "night"), None, None),
        (Budget(50.0, None, "EUR", "night"), None, None),
    ],
)
def test_a_budget_becomes_euros_per_person_and_day(budget: Budget, party: Party | None, limit: float | None) -> None:
    state = said(dates=MAY, budget=budget) if party is None else said(dates=MAY, budget=budget, party=party)
    hard = [one.value for one in wanted(state).constraints if one.kind == "max_price"]
    assert hard == ([] if limit is None else [pytest.approx(limit)])


def test_without_dates_a_week_in_four_weeks_is_meant_and_marked_as_a_guess() -> None:
    wish = wanted(said())
    assert (wish.trip.first, wish.trip.days, wish.dated) == (TODAY + timedelta(days=28), 7, False)
    assert wanted(said(dates=MAY)).dated
    past = wanted(said(dates=DateRange(date(2026, 1, 1), date(2026, 1, 5))))
    assert not past.dated
    assert past.trip.first > TODAY


def test_what_is_not_wanted_excludes_and_what_the_profile_likes_counts_less_than_what_is_said() -> None:
    state = DialogueState(interests=("beach", "hiking"), refused_interests=("nightlife",))
    wish = wanted(state, Known(likes=("culture", "ski"), budget=80.0, children=True))
    assert wish.trip.wishes["beach"] == wish.trip.wishes["nature"] == 1.0
    assert 0.0 < wish.trip.wishes["culture"] == wish.trip.wishes["winter_sports"] < 1.0
    assert wish.trip.wishes["family"] > 0.0
    assert wish.trip.budget == 80.0
    assert [(one.kind, one.feature) for one in wish.constraints] == [("at_most", "nightlife")]
    assert wanted(DialogueState(interests=("adventure",))).trip.mood == "adventurous"


# -- refusals ----------------------------------------------------------------------------------------------------------

OFFERS = tuple(
    Offer(id, catalogue().place(id).names["en"], catalogue().place(id).price_in(12)) for id in ("oslo", "dubai", "lima")
)
WINTER = Trip(date(2026, 12, 1), date(2026, 12, 31), origin=(52.5, 13.4))


def limits(text: str, language: str = "en", *, wanted: bool = False) -> dict[str, object] | None:
    found = read_refusal(text, OFFERS, WINTER, catalogue(), language, wanted=wanted)
    return None if found is None else {one.kind: one.value for one in found.constraints}


def test_a_reason_is_the_middle_one_of_the_places_that_it_was_said_of() -> None:
    highs = sorted(catalogue().place(offer.id).month(12).high_c for offer in OFFERS)
    assert limits("no, because it is too cold") == {"min_high": pytest.approx(highs[1] + 4.0)}
    assert limits("nein, zu kalt", "de") == limits("no, hace demasiado frío", "es") == limits("too cold")
    found = read_refusal("too cold", OFFERS, WINTER, catalogue(), "en")
    assert found is not None
    assert found.mild[0].value == pytest.approx(highs[0] + 4.0)


def test_a_refusal_of_one_is_about_that_one() -> None:
    lima = catalogue().place("lima").month(12).high_c
    for text in ("Lima is too hot", "the third one is too hot"):
        found = read_refusal(text, OFFERS, WINTER, catalogue(), "en")
        assert found is not None
        assert found.named
        assert found.items == ("lima",)
        assert found.constraints[0].value == pytest.approx(lima - 4.0)


def test_a_wish_is_no_refusal() -> None:
    assert limits("somewhere with a beach", wanted=True) is None
    assert limits("I like museums") is None
    assert limits("what a nice day") is None
    assert limits("no, too many museums") is not None
    assert limits("too cold " * 40) is None
    assert read_refusal("too cold", (), WINTER, catalogue(), "en") is None


# -- features of actions -----------------------------------------------------------------------------------------------

SITUATION = TripContext(MAY.start, MAY.end, 100.0, (52.5, 13.4), True, 3, 20, True, True, True, True, True)


def test_feature_rows_fit_what_the_population_sums_up() -> None:
    places = catalogue()
    rng = np.random.default_rng(0)
    own = OwnHistory(*(rng.random(len(places)) for _ in range(3)))
    rows = features(places, SITUATION, feed(), rng.normal(size=len(places)), 9.0 * rng.normal(size=len(places)), own)
    names = feature_names(places.feature_names)
    assert rows.shape == (len(places), len(names))
    assert len(set(names)) == len(names)
    assert np.linalg.norm(rows, axis=1).max() <= 1.0 + 1e-12
    prior = declared_prior(places.feature_names)
    assert prior.features == names
    assert BanditPrior.from_bytes(prior.to_bytes()).features == names
    layout = MomentLayout.plain(names, indicators=False, reward_low=0.0, reward_high=1.0, weights=BlockWeights())
    assert layout.features == names
    assert np.linalg.norm(with_feature(rows[0], names, "beach")) <= 1.0 + 1e-12
    with pytest.raises(DecisionError, match="preference"):
        features(places, SITUATION, preference=np.full(len(places), np.nan))
    with pytest.raises(DecisionError, match="declared"):
        features(places, SITUATION, declared=np.zeros(3))


def test_context_changes_which_place_is_best_and_not_only_all_of_them() -> None:
    places = catalogue()
    taste = np.arange(float(len(places)))
    plain = features(places, TripContext(MAY.start, MAY.end), preference=taste)
    for change in ({"hour": 22}, {"newcomer": True}, {"saver": True}):
        other = features(places, TripContext(MAY.start, MAY.end, **change), preference=taste)  # type: ignore[arg-type]
        assert (np.ptp(other - plain, axis=0) > 0.1).any(), change


def test_forecasts_as_arrays_say_what_the_feed_says() -> None:
    issue, places = feed(), catalogue()
    known = outlooks(places, issue)
    for first, last in ((TODAY, TODAY + timedelta(days=3)), (TODAY + timedelta(days=3), TODAY + timedelta(days=6))):
        stay = known.stay(first, last)
        assert stay is not None
        for id in ("lisbon", "oslo"):
            row, outlook = places.rows[id], issue.outlook(id, first, last)
            assert outlook is not None
            assert stay.reaches[row]
            assert (stay.days[row], stay.high_c[row], stay.wet_days[row]) == (
                outlook.days,
                outlook.high_c,
                outlook.wet_days,
            )
    assert known.stay(TODAY + timedelta(days=30), TODAY + timedelta(days=31)) is None
    assert not known.events(TODAY, TODAY).any()


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_the_logged_propensity_is_how_often_a_place_is_chosen() -> None:
    suggester = Suggester(catalogue())
    wish = wanted(said(dates=MAY))
    # Explores often: with few tries a rare choice would say nothing.
    bandit = Bandit(suggester.prior, Exploration(floor=0.3), random=np.random.default_rng(1))
    estimates: dict[str, list[float]] = {}
    count = 400
    for _ in range(count):
        choices = suggester.choose(wish, bandit, around=Surroundings(), personal=Personal(), now_s=NOW_S, slots=1)
        one = choices.picked[0]
        estimates.setdefault(one.place.id, []).append(1.0 / one.propensity)
    # Inverse propensity weighting counts every candidate once: their number, whatever was chosen.
    assert sum(map(sum, estimates.values())) / count == pytest.approx(9.0, rel=0.3)
    assert len({one.place.country for one in choices.picked}) == len(choices.picked)


def test_what_is_denied_or_excluded_is_never_chosen() -> None:
    suggester = Suggester(catalogue())
    wish = wanted(said(dates=MAY, budget=Budget(None, 60.0, "EUR", "night")))
    bandit = Bandit(suggester.prior, random=np.random.default_rng(2))
    cheap = [place.id for place in catalogue().destinations if place.price_in(5) <= 60.0]
    denied = set(cheap[::2])
    for _ in range(60):
        choices = suggester.choose(
            wish, bandit, around=Surroundings(), personal=Personal(), forbidden=denied, now_s=NOW_S
        )
        assert all(one.place.id in set(cheap) - denied for one in choices.picked)
    nothing = suggester.choose(wish, bandit, around=Surroundings(), personal=Personal(), forbidden=cheap, now_s=NOW_S)
    assert nothing.picked == ()
    assert nothing.possible == 0


# -- what is learned ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path, key=bytes(32)) as opened:
        yield opened


def test_outcomes_move_the_policy_and_are_the_same_after_a_restart(store: Store) -> None:
    consent = Consent(store, lambda: NOW_S)
    prior = declared_prior(catalogue().feature_names)
    rows = features(catalogue(), TripContext(MAY.start, MAY.end))[:4]
    random = np.random.default_rng(0)
    learned = Learned(store, consent, lambda: NOW_S)
    learned.offer({"a": Open("lima", rows, 0, 0.9, NOW_S, "list")})
    learned.note(Signal("lima", "like", NOW_S))
    assert not learned.settle("a", "chosen")
    assert not learned.outcomes()
    assert not learned.signals()
    consent.grant("personalisation")
    learned.offer({key: Open(f"place{key}", rows, number, 0.9, NOW_S, "list") for number, key in enumerate("abc")})
    assert learned.settle("a", "chosen")
    assert not learned.settle("a", "up")
    assert [one.reward for one in learned.outcomes()] == [1.0, 0.25, 0.25]
    learned.answer(rows[3], 1.0)
    mean = learned.bandit(prior, random).mean
    assert float(rows[0] @ mean) > float(rows[0] @ prior.mean)
    again = Learned(store, consent, lambda: NOW_S)
    assert again.bandit(prior, random).mean == pytest.approx(mean, abs=1e-5)
    # A year later it counts less, and a suggestion that got no answer in two weeks is missing, not bad.
    later = Learned(store, consent, lambda: NOW_S + 365 * 86_400.0)
    faded = later.bandit(prior, random).mean
    assert np.linalg.norm(faded - prior.mean) < np.linalg.norm(mean - prior.mean)
    later.offer({"d": Open("late", rows, 0, 0.9, NOW_S, "")})
    later.offer({"e": Open("late", rows, 0, 0.9, NOW_S + 365 * 86_400.0, "")})
    assert later.waiting("d") is None
    assert not later.settle("d", "down")
    assert len(later.outcomes()) == 4
    with pytest.raises(DecisionError, match="verdict"):
        learned.settle("b", "perhaps")


def test_a_new_prior_takes_up_what_was_learned_under_the_old_one(store: Store) -> None:
    consent = Consent(store, lambda: NOW_S)
    consent.grant("personalisation")
    learned = Learned(store, consent, lambda: NOW_S)
    rows = features(catalogue(), TripContext(MAY.start, MAY.end))[:2]
    learned.offer({"a": Open("x", rows, 0, 1.0, NOW_S, "")})
    learned.settle("a", "chosen")
    names = feature_names(catalogue().feature_names)
    published = BanditPrior.wide(names, reward_low=0.0, reward_high=1.0)
    assert (learned.bandit(published, np.random.default_rng(0)).mean != published.mean).any()
    other = BanditPrior.wide(("a", "b"), reward_low=0.0, reward_high=1.0)
    assert (learned.bandit(other, np.random.default_rng(0)).mean == other.mean).all()


def test_records_that_make_no_sense_are_passed_over(store: Store) -> None:
    consent = Consent(store, lambda: NOW_S)
    consent.grant("personalisation")
    for name in ("taste-signals", "suggestion-outcomes", "suggestions-open"):
        table = store.table(name, purpose="personalisation")
        table.append({"item": "x", "kind": "nothing", "d": 3, "candidates": "%%%", "chosen": "a"})
        table.append({})
    store.table("suggestion-state", purpose="personalisation").put("elicitor", {"asked_s": ["x"]})
    learned = Learned(store, consent, lambda: NOW_S)
    assert not learned.signals()
    assert not learned.outcomes()
    assert learned.waiting("1") is None
    assert learned.elicitor.cost > 0.0


@pytest.mark.parametrize(
    ("name", "properties", "kind", "value"),
    [
        ("destination_viewed", {"destination": "Lisbon", "dwell_s": 30.0}, "look", None),
        ("booking_completed", {"destination": "lisbon"}, "chosen", None),
        ("booking_cancelled", {"destination": "Lissabon"}, "dismiss", None),
        ("suggestion_skipped", {"item": "lisbon"}, "skip", None),
        ("feedback", {"subject": "lisbon", "verdict": "rejected"}, "dislike", None),
        ("feedback", {"subject": "lisbon", "rating": 5}, "rating", 1.0),
        ("feedback", {"subject": "lisbon", "rating": 900}, None, None),
        ("booking_completed", {"destination": "Nowhere"}, None, None),
        ("booking_completed", {"destination": 3}, None, None),
        ("order_completed", {"item": "lisbon"}, None, None),
    ],
)
def test_events_are_signals_if_they_name_a_place(
    name: str, properties: dict[str, object], kind: str | None, value: float | None
) -> None:
    from edge_client.suggestions import item_named

    event = Event("1", "track", name, NOW_S, NOW_S, None, properties)
    found = signal_of(event, lambda text: item_named(catalogue(), text))
    assert (None if found is None else found.kind) == kind
    assert found is None or (found.item == "lisbon" and found.value == value)


# -- asking ------------------------------------------------------------------------------------------------------------


def test_a_question_is_asked_only_while_its_answer_pays() -> None:
    places = catalogue()
    prior = declared_prior(places.feature_names)
    bandit = Bandit(prior, random=np.random.default_rng(0))
    rows = features(places, TripContext(MAY.start, MAY.end))[:9]

    def asked(**limits: float) -> bool:
        return worth_asking(places, bandit, rows, Elicitor(AskingLimits(**limits)), NOW_S) is not None  # type: ignore[arg-type]

    assert asked(cost=0.0, horizon=50)
    assert not asked(cost=100.0)
    assert not asked(cost=0.0, per_session=0)
    done = worth_asking(places, bandit, rows, Elicitor(AskingLimits(cost=0.0)), NOW_S, done=places.feature_names)
    assert done is None


@pytest.mark.parametrize(
    ("text", "language", "answer"),
    [
        ("Yes!", "en", "like"), ("I don't like it", "en", "dislike"), ("not at all.", "en", "hate"), ("skip", "en", "skip"),
        ("sehr gern", "de", "love"), ("Egal", "de", "neutral"), ("Nein.", "de", "dislike"), ("me encanta", "es", "love"),
        ("¡Sí!", "es", "like"), ("", "en", None), ("something cheaper", "en", None), ("x" * 500, "en", None),
    ],
)  # fmt: skip
def test_short_answers_are_read(text: str, language: str, answer: str | None) -> None:
    from edge_client.decide.elicitation import Question

    assert answer_named(text, speak(Question(0, 1.0, 0.5, 0.2), "beach", language)) == answer
