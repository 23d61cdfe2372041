"""The pure part of deliveries: hours that are learned, what a message is worth, caps that hold whatever a clock does."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from deliveries import MONDAY_EVENING_S
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.answer.claims import unsupported
from edge_client.answer.facts import Facts
from edge_client.answer.follow_up_words import follow_up_words
from edge_client.decide.delivery import HOUR_S, Candidate, Choice, Moment, Worth, choose, hour_of_week
from edge_client.decide.delivery_caps import DAY_S, WEEK_S, Cap, Caps, History, scopes_of
from edge_client.decide.follow_up_facts import FollowUpFacts
from edge_client.decide.follow_ups import TOPICS
from edge_client.decide.receptive_hours import CHANNELS, HALF_LIFE_S, HOURS, ReceptiveHours
from edge_client.share.schedule_rules import QuietHours
from shared_models.errors import DecisionError
from shared_models.languages import LANGUAGES

ALL = frozenset(CHANNELS)
EVENING, MORNING = 20, 7


def moment(hour: float = EVENING, day: int = 0, **more: object) -> Moment:
    """A time of the week of 2 November 2026."""
    at_s = MONDAY_EVENING_S + (day * 24 + hour - EVENING) * HOUR_S
    return Moment(at_s, UTC, **more)  # type: ignore[arg-type]


def candidate(now: Moment, lasts_h: float = 72.0, **more: object) -> Candidate:
    return Candidate("one", "how_was_it", now.now_s, now.now_s + lasts_h * HOUR_S, **more)  # type: ignore[arg-type]


def chosen(
    now: Moment,
    channels: frozenset[str] = ALL,
    hours: ReceptiveHours | None = None,
    wait_s: float = 0.0,
    **more: object,
) -> Choice:
    return choose(candidate(now, **more), channels, now, hours or ReceptiveHours(), lambda _: wait_s, Worth())  # type: ignore[arg-type]


def early_bird(weeks: int = 8) -> ReceptiveHours:
    """Opens at seven, never in the evening."""
    hours = ReceptiveHours()
    for week in range(weeks):
        for day in range(7):
            at_s = MONDAY_EVENING_S + week * WEEK_S + day * DAY_S
            hours.learn("notification", "how_was_it", "opened", at_s, day * 24 + MORNING)
            hours.learn("notification", "how_was_it", "ignored", at_s, day * 24 + EVENING)
    return hours


# -- hours -------------------------------------------------------------------------------------------------------------


def test_before_anything_is_known_the_population_is_believed() -> None:
    hours = ReceptiveHours()
    assert hours.attention == pytest.approx(ReceptiveHours(hours.attention).attention)
    assert hours.attention[EVENING] > hours.attention[10] > hours.attention[3]


def test_what_is_opened_and_ignored_moves_the_hours() -> None:
    hours, before = early_bird(), ReceptiveHours().attention
    assert hours.attention[MORNING] > before[MORNING] + 0.2
    assert hours.attention[EVENING] < before[EVENING] - 0.2
    # Hours share with their neighbours, and days with each other.
    sunday_only = ReceptiveHours()
    for week in range(8):
        sunday_only.learn("notification", "how_was_it", "opened", week * WEEK_S, 6 * 24 + 10)
    gained = sunday_only.attention - before
    assert gained[6 * 24 + 10] > gained[6 * 24 + 11] > gained[6 * 24 + 15]
    assert gained[6 * 24 + 10] > gained[5 * 24 + 10] > gained[2 * 24 + 10] > 0.0


def test_use_of_the_app_draws_attention_to_its_hours_and_disuse_away() -> None:
    hours, before = ReceptiveHours(), ReceptiveHours()
    for day in range(28):
        hours.used((day % 7) * 24 + 13, day * DAY_S)
    assert hours.use[13] > 0.7 > 0.05 > hours.use[3]
    assert hours.attention[13] > before.attention[13]
    assert hours.attention[EVENING] < before.attention[EVENING]


def test_silence_is_shared_between_moment_and_message() -> None:
    unlikely, likely = ReceptiveHours(), ReceptiveHours()
    unlikely.learn("notification", "how_was_it", "ignored", 0.0, 3)
    likely.learn("notification", "how_was_it", "ignored", 0.0, None)
    # At night nobody looks: that says little about the message. Somebody who was there has not wanted it.
    assert unlikely.opened("notification", "how_was_it") > likely.opened("notification", "how_was_it")
    assert likely.attention == pytest.approx(ReceptiveHours().attention)


def test_what_was_learned_fades() -> None:
    hours = early_bird()
    learned = hours.attention[MORNING]
    now_s = MONDAY_EVENING_S + 8 * WEEK_S
    for step in range(1, 40):
        hours.learn("card", "still_thinking", "ignored", now_s + step * HALF_LIFE_S / 4)
    assert abs(hours.attention[MORNING] - ReceptiveHours().attention[MORNING]) < 0.25 * abs(learned - 0.3)


def test_a_leap_of_the_clock_does_not_wipe_out_what_was_learned() -> None:
    hours = early_bird()
    before = hours.attention[MORNING]
    hours.used(MORNING, 9e9)
    hours.used(MORNING, MONDAY_EVENING_S)
    assert hours.attention[MORNING] > ReceptiveHours().attention[MORNING] + 0.5 * (before - 0.3)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(CHANNELS),
            st.sampled_from(("opened", "acted", "dismissed", "ignored", "disabled")),
            st.none() | st.integers(0, HOURS - 1),
            st.floats(-WEEK_S, WEEK_S),
        ),
        max_size=30,
    )
)
@settings(max_examples=30, deadline=None)
def test_beliefs_stay_probabilities_and_survive_the_store(lived: list[tuple[str, str, int | None, float]]) -> None:
    hours, now_s = ReceptiveHours(), 1e9
    for channel, outcome, hour, passed_s in lived:
        now_s += passed_s
        hours.learn(channel, "how_was_it", outcome, now_s, hour)
    again = ReceptiveHours.from_document(json.loads(json.dumps(hours.document())))
    for one in (hours, again):
        assert ((one.attention > 0.0) & (one.attention < 1.0)).all()
        assert ((one.use >= 0.0) & (one.use < 1.0)).all()
        rates = [rate for c in CHANNELS for rate in (one.opened(c, "how_was_it"), one.dismissed(c), one.disabled(c))]
        assert all(0.0 < rate < 1.0 for rate in (*rates, one.acted()))
    assert again.attention == pytest.approx(hours.attention, abs=2e-3)


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"hours": {"168": [0, 0, 0]}, "weeks": 0, "counts": {}, "seen_s": None},
        {"hours": {"1": [0, math.nan, 0]}, "weeks": 0, "counts": {}, "seen_s": None},
        {"hours": {"1": [0, -1, 0]}, "weeks": 0, "counts": {}, "seen_s": None},
        {"hours": {"1": [0, 1e9, 0]}, "weeks": 0, "counts": {}, "seen_s": None},
        {"hours": {}, "weeks": "many", "counts": {}, "seen_s": None},
        {"hours": {}, "weeks": 0, "counts": {str(n): [0, 0] for n in range(100)}, "seen_s": None},
        {"hours": {}, "weeks": 0, "counts": {"topic/x": [True, 0]}, "seen_s": None},
    ],
)
def test_beliefs_that_are_none_are_refused(document: object) -> None:
    with pytest.raises(DecisionError):
        ReceptiveHours.from_document(document)


def test_topics_without_end_are_bounded() -> None:
    hours = ReceptiveHours()
    for number in range(1000):
        hours.learn("card", f"topic {number}", "opened", float(number))
    assert len(hours.document()["counts"]) < 60
    ReceptiveHours.from_document(hours.document())


# -- what it is worth --------------------------------------------------------------------------------------------------


def test_a_message_waits_for_the_hour_in_which_it_is_opened() -> None:
    hours = early_bird()
    notification = frozenset({"notification"})
    assert chosen(moment(EVENING), notification, hours).action == "wait"
    morning = chosen(moment(MORNING + 1, 1), notification, hours)
    assert morning.action == "deliver"
    assert morning.value > chosen(moment(EVENING), notification, hours).value
    # Somebody about whom nothing is known hears it in the evening.
    assert chosen(moment(EVENING), notification).action == "deliver"


def test_what_soon_expires_waits_less() -> None:
    hours = early_bird()
    assert chosen(moment(10, 1), frozenset({"notification"}), hours, lasts_h=72.0).action == "wait"
    assert chosen(moment(10, 1), frozenset({"notification"}), hours, lasts_h=5.0).action == "deliver"


def test_who_always_waves_it_away_is_left_alone() -> None:
    hours = ReceptiveHours()
    for step in range(12):
        hours.learn("notification", "how_was_it", "dismissed", step * DAY_S, EVENING)
    found = chosen(moment(EVENING), frozenset({"notification"}), hours)
    assert found.action == "never"
    assert found.value < 0.0
    assert found.why == "not worth it"
    assert chosen(moment(EVENING), frozenset({"notification"}), hours, asked_for=True).action == "deliver"


def test_one_who_switches_channels_off_is_met_by_the_quieter_one() -> None:
    hours = ReceptiveHours()
    for step in range(6):
        hours.learn("notification", "still_thinking", "dismissed", step * DAY_S, EVENING)
        hours.learn("card", "still_thinking", "opened", step * DAY_S)
    assert chosen(moment(EVENING), frozenset({"notification", "card"}), hours).channel == "card"


def test_in_the_conversation_it_is_said_in_the_conversation() -> None:
    found = chosen(moment(EVENING, in_use=True))
    assert found.action == "deliver"
    assert found.channel == "chat"
    assert chosen(moment(EVENING), frozenset({"chat"})).action == "wait"


@pytest.mark.parametrize(
    ("now", "channels", "why"),
    [
        (moment(EVENING, driving=True, in_use=True), ALL, "quiet"),
        (moment(EVENING, do_not_disturb=True), frozenset({"notification"}), "quiet"),
        (moment(23), frozenset({"notification", "card"}), "quiet"),
        (moment(EVENING, quiet=(QuietHours.parse("19:00-21:00"),), in_use=True), ALL, "quiet"),
        (moment(EVENING), frozenset(), "no channel"),
        (moment(EVENING), frozenset({"telepathy"}), "no channel"),
    ],
)
def test_nothing_outweighs_a_limit(now: Moment, channels: frozenset[str], why: str) -> None:
    for asked_for in (False, True):
        found = chosen(now, channels, asked_for=asked_for)
        assert [found.action, found.why] == ["wait", why]
    assert chosen(moment(EVENING), wait_s=60.0, asked_for=True).why == "limits"


def test_before_due_and_after_expiry_nothing_is_said() -> None:
    now = moment()
    early = Candidate("x", "how_was_it", now.now_s + 1.0, now.now_s + DAY_S, True)
    late = Candidate("x", "how_was_it", now.now_s - DAY_S, now.now_s, True)
    asked = [choose(one, ALL, now, ReceptiveHours(), lambda _: 0.0, Worth()).why for one in (early, late)]
    assert asked == ["not due", "expired"]
    with pytest.raises(DecisionError):
        chosen(Moment(math.nan, UTC))


def test_hours_are_those_of_the_users_wall_also_when_the_clock_is_changed() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    # 25 October 2026: 3:00 becomes 2:00; 29 March 2026: 2:00 becomes 3:00.
    for day in (date(2026, 10, 24), date(2026, 10, 25), date(2026, 3, 28), date(2026, 3, 29)):
        evening = datetime(day.year, day.month, day.day, EVENING, tzinfo=berlin)
        wall = Moment(evening.timestamp(), berlin).wall(evening.timestamp())
        assert hour_of_week(wall) == day.weekday() * 24 + EVENING
    quiet = Moment(0.0, berlin, quiet=(QuietHours.parse("22:00-07:00"),))
    before = datetime(2026, 10, 25, 6, 59, tzinfo=berlin)
    assert quiet.is_quiet("card", quiet.wall(before.timestamp()), in_use=False)
    assert not quiet.is_quiet("card", quiet.wall((before + timedelta(minutes=1)).timestamp()), in_use=False)


def test_expected_values_are_what_many_draws_give() -> None:
    hours, worth, random = early_bird(3), Worth(), np.random.default_rng(3)
    now = moment(EVENING)
    found = chosen(now, frozenset({"notification"}), hours, asked_for=True)
    noticed = random.random(200_000) < hours.attention[EVENING]
    fate = random.random(200_000)
    opened, dismissed = hours.opened("notification", "how_was_it"), hours.dismissed("notification")
    gains = np.where(
        noticed & (fate < opened), worth.opened + worth.acted * (random.random(200_000) < hours.acted()), 0.0
    )
    lost = np.where(
        noticed & (fate >= opened) & (fate < opened + dismissed), worth.dismissed, worth.ignored["notification"]
    )
    gains -= np.where(noticed & (fate < opened), 0.0, lost)
    gains -= worth.disabled * (random.random(200_000) < hours.disabled("notification"))
    assert found.value == pytest.approx(gains.mean(), abs=0.01)


# -- caps --------------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.floats(-20 * DAY_S, 20 * DAY_S) | st.floats(-2 * HOUR_S, 12 * HOUR_S) | st.just(0.0),
        st.sampled_from(TOPICS),
        st.sampled_from(CHANNELS),
        st.booleans(),
        st.sampled_from(("", "opened", "ignored", "dismissed", "acted")),
    ),
    min_size=5,
    max_size=120,
)
CAPS = Caps(Cap(3, 7, 600.0), Cap(3, 6, 0.0), Cap(1, 4, 1200.0), {"notification": Cap(1, 2, 0.0)})


def most_in_a_window(times: list[float], width_s: float) -> int:
    return max((sum(0.0 <= other - one < width_s for other in times) for one in times), default=0)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_no_window_holds_more_than_the_cap_whatever_the_clock_does(
    steps: list[tuple[float, str, str, bool, str]],
) -> None:
    history, now_s, passed_s = History(), 1e9, 0.0
    given_: list[tuple[float, float, tuple[str, ...]]] = []
    for move_s, topic, channel, killed, outcome in steps:
        before_s, now_s = now_s, max(0.0, now_s + move_s)
        passed_s += max(0.0, now_s - before_s)
        if history.turned_back(now_s):
            history = history.at(now_s)
        scopes = scopes_of(topic, channel, "personalisation")
        if history.wait_s(CAPS, scopes, now_s) <= 0.0:
            history = history.with_delivery(scopes, now_s)
            given_.append((now_s, passed_s, scopes))
        if outcome:
            history = history.after(scopes, outcome)
        if killed:
            history = History.from_document(json.loads(json.dumps(history.document())))
    for scope in {scope for _, _, scopes in given_ for scope in scopes}:
        cap = CAPS.of(scope)
        if cap is None:
            continue
        # By the clock, and by the time that passed.
        for place in (0, 1):
            times = [one[place] for one in given_ if scope in one[2]]
            assert most_in_a_window(times, DAY_S) <= cap.per_day
            assert most_in_a_window(times, WEEK_S) <= cap.per_week
            assert all(b - a >= cap.gap_s for a, b in zip(sorted(times), sorted(times)[1:], strict=False))


def test_a_clock_set_far_ahead_and_back_does_not_silence_for_years() -> None:
    scopes = scopes_of("how_was_it", "card", "personalisation")
    history = History().at(1e9).with_delivery(scopes, 5e9)
    history = history.at(1e9)
    assert 0.0 < history.wait_s(Caps(), scopes, 1e9) <= WEEK_S
    assert history.wait_s(Caps(), scopes, 1e9 + WEEK_S) == 0.0


def test_the_wait_is_exact() -> None:
    scopes = scopes_of("how_was_it", "card", "personalisation")
    history = History().with_delivery(scopes, 1e9)
    wait_s = history.wait_s(Caps(), scopes, 1e9)
    assert wait_s == DAY_S
    assert history.wait_s(Caps(), scopes, 1e9 + wait_s - 1.0) > 0.0
    assert history.wait_s(Caps(), scopes, 1e9 + wait_s) == 0.0
    assert history.wait_s(Caps(all=Cap(0, 5)), scopes, 1e9) == math.inf


def test_gaps_grow_with_each_refusal_and_shrink_when_it_is_wanted() -> None:
    caps = Caps(Cap(24, 100), Cap(24, 100), Cap(24, 100, HOUR_S), {})
    scopes = scopes_of("how_was_it", "card", "personalisation")
    history, waits = History().with_delivery(scopes, 1e9), []
    for _ in range(12):
        waits.append(history.wait_s(caps, scopes, 1e9))
        history = history.after(scopes, "ignored")
    assert waits[:4] == [HOUR_S, 2 * HOUR_S, 4 * HOUR_S, 8 * HOUR_S]
    assert waits[-1] <= 30 * DAY_S
    assert history.wait_s(caps, scopes, 1e9, back_off=False) == HOUR_S
    assert history.after(scopes, "opened").wait_s(caps, scopes, 1e9) < history.wait_s(caps, scopes, 1e9)
    assert history.after(scopes, "acted").wait_s(caps, scopes, 1e9) == HOUR_S


@pytest.mark.parametrize(
    "cap", [{"per_day": -1}, {"per_day": 25}, {"per_week": 1000}, {"gap_s": math.nan}, {"per_day": 1.5}]
)
def test_caps_that_are_none_are_refused(cap: dict[str, float]) -> None:
    with pytest.raises(DecisionError):
        Cap(**{"per_day": 1, "per_week": 2, **cap})  # type: ignore[arg-type]


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_topic_has_words_that_say_their_facts_and_press_nobody(language: str) -> None:
    known = FollowUpFacts("Casa Azul", date(2027, 5, 3), date(2027, 5, 10), -3.0)
    today = date(2027, 4, 29)
    for topic in TOPICS:
        for tone in ("casual", "formal"):
            for seed in range(4):
                said = follow_up_words(topic, known, language, today, tone=tone, seed=seed)  # type: ignore[arg-type]
                assert said is not None
                assert "Casa Azul" in said.title
                assert "2027" in said.why
                for text in (said.title, said.text, said.why):
                    claims = unsupported(text, Facts(names=("Casa Azul",)), language, today)
                    assert {claim.kind for claim in claims} <= {"date", "number"}


def test_without_a_forecast_there_are_no_words_about_the_weather() -> None:
    known = FollowUpFacts("Casa Azul", date(2027, 5, 3), date(2027, 5, 10))
    assert follow_up_words("weather_before_trip", known, "en", date(2027, 4, 29)) is None
