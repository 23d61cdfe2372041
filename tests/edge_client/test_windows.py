"""Windows: counts, sessions, dwell and funnels, whatever the order of arrival, and the same after a restart."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from captured import START_S, CapturingDevice, iso, page, track
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.know.capture import CaptureLimits
from edge_client.know.events import Event
from edge_client.know.windows import MOST_SESSIONS, MOST_TIMES, MOST_VIEWS, SLIDING, Windows
from shared_models.profile import default_schema

FUNNELS = default_schema().funnels
NAMES = ("page", "product_viewed", "product_added", "order_completed", "suggestion_shown", "suggestion_accepted")
MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0


def happened(name: str, ago_s: float, page_name: str = "") -> Event:
    kind = name if name in ("page", "screen", "context", "chat") else "track"
    properties = {"name": page_name} if page_name else {}
    return Event("k", kind, name, START_S - ago_s, START_S, None, properties)


def windows_of(*events: Event) -> Windows:
    windows = Windows(FUNNELS)
    for event in events:
        windows.add(event, START_S)
    return windows


def test_counts_are_those_of_each_window() -> None:
    windows = windows_of(
        *(happened("page", ago_s) for ago_s in (0, 30 * MINUTE_S, 5 * HOUR_S, 3 * DAY_S, 20 * DAY_S, 200 * DAY_S))
    )
    assert windows.document(START_S)["counts"] == {"page": {"1h": 2, "24h": 3, "7d": 4, "30d": 5}}
    assert windows.count("page", "24h", START_S + 2 * DAY_S) == 0
    assert windows.count("chat", "1h", START_S) == 0


def test_recency_is_that_of_the_latest_also_if_an_older_one_arrives_later() -> None:
    windows = windows_of(happened("page", 10), happened("page", 500))
    assert windows.recency("page", START_S) == 10
    assert windows.recency("chat", START_S) is None


def test_a_session_ends_after_a_pause_and_its_dwell_is_by_page() -> None:
    windows = windows_of(
        happened("page", 5 * HOUR_S, "Old"),
        happened("page", 600, "Home"),
        happened("page", 500, "Search"),
        happened("product_viewed", 400),
        happened("page", 200, "Home"),
        happened("chat", 50),
    )
    assert windows.session(START_S) == {"active": True, "events": 5, "views": 3, "duration_s": 550.0, "idle_s": 50.0}
    assert windows.dwell(START_S) == {"Search": 300.0, "Home": 250.0, "Old": 0.0}
    assert windows.document(START_S)["sessions_30d"] == {"number": 2, "mean_duration_s": 275.0, "mean_events": 3.0}
    assert windows.session(START_S + HOUR_S)["active"] is False
    assert windows.dwell(START_S + 31 * DAY_S) == {}


def test_a_late_event_joins_two_sessions() -> None:
    windows = windows_of(happened("page", 60 * MINUTE_S, "A"), happened("page", 10 * MINUTE_S, "B"))
    assert windows.document(START_S)["sessions_30d"]["number"] == 2
    windows.add(happened("chat", 35 * MINUTE_S), START_S)
    assert windows.document(START_S)["sessions_30d"] == {"number": 1, "mean_duration_s": 3000.0, "mean_events": 3.0}
    assert windows.dwell(START_S) == {"A": 3000.0, "B": 0.0}


def test_what_the_device_makes_by_itself_is_no_activity() -> None:
    assert windows_of(happened("context", 5)).session(START_S)["active"] is False


def test_a_funnel_tells_the_step_of_the_attempt_that_is_on() -> None:
    windows = windows_of(happened("product_added", 9 * HOUR_S), happened("product_viewed", 8 * HOUR_S))
    assert windows.funnel("purchase", START_S) == {"step": 1, "of": 3, "completed": 0, "idle_s": 8 * HOUR_S}
    windows.add(happened("order_completed", 6 * HOUR_S), START_S)
    assert windows.funnel("purchase", START_S)["step"] == 1, "a step was left out"
    windows.add(happened("product_added", 7 * HOUR_S), START_S)
    assert windows.funnel("purchase", START_S) == {"step": 0, "of": 3, "completed": 1, "idle_s": 6 * HOUR_S}
    windows.add(happened("product_viewed", HOUR_S), START_S)
    assert windows.funnel("purchase", START_S) == {"step": 1, "of": 3, "completed": 1, "idle_s": HOUR_S}
    assert windows.funnel("purchase", START_S + 80 * HOUR_S) == {"step": 0, "of": 3, "completed": 0, "idle_s": None}


def test_memory_does_not_grow_with_history() -> None:
    windows = Windows(FUNNELS)
    for number in range(30_000):
        for event in (
            happened("product_viewed", (30_000 - number) * 120.0),
            happened("page", (30_000 - number) * 120.0, f"p{number % 300}"),
        ):
            windows.add(event, event.at_s)
    buckets = windows._buckets["page"]
    assert all(len(buckets[window]) <= 2 * number for window, (_, number) in SLIDING.items())
    assert len(windows._times["product_viewed"]) == MOST_TIMES
    assert len(windows._sessions) <= MOST_SESSIONS
    assert all(len(session.views) <= MOST_VIEWS for session in windows._sessions)
    assert len(json.dumps(windows.document(START_S))) < 10_000


events_strategy = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.integers(0, 40 * 24 * 60).map(lambda minutes: minutes * MINUTE_S)
        | st.floats(0, 4 * HOUR_S).map(lambda s: round(s, 3)),
        st.sampled_from(["", "Home", "Search"]),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(events=events_strategy, seed=st.integers(0, 1000), later_s=st.floats(0, 3 * DAY_S))
def test_the_order_of_arrival_does_not_matter(events: list[tuple[str, float, str]], seed: int, later_s: float) -> None:
    made = [happened(*event) for event in events]
    shuffled = random.Random(seed).sample(made, len(made))
    now_s = START_S + later_s
    assert windows_of(*made).document(now_s) == windows_of(*shuffled).document(now_s)


@settings(max_examples=150, deadline=None)
@given(events=events_strategy)
def test_incremental_numbers_are_those_of_the_definition(events: list[tuple[str, float, str]]) -> None:
    made = sorted((happened(*event) for event in events), key=lambda event: event.at_s)
    document = windows_of(*made).document(START_S)
    for name in {event.name for event in made}:
        times = [event.at_s for event in made if event.name == name]
        assert document["recency_s"][name] == pytest.approx(START_S - max(times), abs=1e-3)
        for window, (width_s, number) in SLIDING.items():
            begin_s = (START_S // width_s - number + 1) * width_s
            assert document["counts"][name][window] == sum(at_s >= begin_s for at_s in times)
    sessions: list[list[Event]] = []
    for event in made:
        if not sessions or event.at_s - sessions[-1][-1].at_s > 1800:
            sessions.append([])
        sessions[-1].append(event)
    recent = [session for session in sessions if session[-1].at_s > START_S - 30 * DAY_S][-MOST_SESSIONS:]
    assert document["sessions_30d"]["number"] == len(recent)
    dwelt: dict[str, float] = {}
    for session in recent:
        views = sorted((event.at_s, event.properties.get("name", "")) for event in session if event.type == "page")
        for (at_s, name), (end_s, _) in zip(views, [*views, (session[-1].at_s, "")][1:], strict=True):
            dwelt[name] = dwelt.get(name, 0.0) + end_s - at_s
    assert document["dwell_s"] == pytest.approx(dwelt, abs=1e-2)


def message(name: str, ago_s: float, page_name: str, number: int) -> dict[str, Any]:
    at_s = START_S - ago_s
    if name == "page":
        return page(page_name or "Home", at_s, messageId=str(number))
    if name in ("context", "identify"):
        return {"type": name, "messageId": str(number), "timestamp": iso(at_s)}
    return track(name, at_s, str(number))


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([*NAMES, "context", "identify"]),
                st.integers(0, 40 * 24 * 60).map(lambda minutes: minutes * MINUTE_S) | st.integers(0, 90).map(float),
                st.sampled_from(["", "Home"]),
            ),
            max_size=30,
        ),
        min_size=1,
        max_size=3,
    ),
    pause_d=st.sampled_from([0.0, 0.5, 1.0, 1.5, 29.9, 35.0, 100.0]),
)
def test_windows_are_the_same_after_a_restart_and_after_an_expiry(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, float, str]]], pause_d: float
) -> None:
    device = CapturingDevice(Path(tmp_path_factory.mktemp("home")))
    number = 0
    for batch in batches:
        messages = [message(*event, number + place) for place, event in enumerate(batch)]
        number += len(messages)
        if messages:
            device.capture.receive(messages[0])
            device.capture.receive_batch(messages)
            device.now_s += pause_d * DAY_S
            device.capture.expire(device.now_s)
    before = device.capture.windows()
    again = device.reopened()
    assert again.capture.windows() == before
    times = [event.at_s for event in again.capture.events()]
    assert times == sorted(times)
    again.store.close()


def context(at_s: float) -> dict[str, Any]:
    return {"type": "context", "timestamp": iso(at_s)}


def test_what_had_expired_at_opening_is_not_taken_out_a_second_time(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path)
    for _ in range(2):
        device.capture.receive(context(device.now_s))
        device.now_s += HOUR_S
    device.now_s += 22.5 * HOUR_S  # the first has outlived its day, the second, of the same two hours, has not
    again = device.reopened()
    with again.store.lock:
        assert again.capture.windows()["counts"]["context"]["7d"] == 1
    assert again.capture.expire(again.now_s) == 1
    assert again.capture.windows()["counts"]["context"]["7d"] == 1


def test_an_event_that_goes_out_of_a_session_changes_the_session(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path)
    identify = {"type": "identify", "userId": "u"}  # 30 days
    device.capture.receive(identify)
    for _ in range(6):
        device.now_s += 20 * MINUTE_S
        device.capture.receive(page("Home"))
    device.now_s += DAY_S
    device.capture.receive(identify)
    device.now_s = START_S + 30 * DAY_S + HOUR_S
    assert device.capture.windows()["sessions_30d"] == {"number": 2, "mean_duration_s": 3000.0, "mean_events": 3.5}
    assert device.reopened().capture.windows()["sessions_30d"]["mean_events"] == 3.5


@settings(max_examples=15, deadline=None)
@given(
    names=st.lists(
        st.sampled_from(["page", "product_viewed", "product_added", "order_completed"]), min_size=20, max_size=60
    ),
    step_s=st.sampled_from([30.0, 1000.0, 2000.0]),
)
def test_windows_are_the_same_after_a_restart_when_events_went_for_want_of_room(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], step_s: float
) -> None:
    device = CapturingDevice(Path(tmp_path_factory.mktemp("home")), limits=CaptureLimits(most_events=10))
    for name in names:
        device.now_s += step_s
        device.capture.receive(page("Home") if name == "page" else track(name))
    before = device.capture.windows()
    again = device.reopened()
    assert again.capture.windows() == before
    assert len(again.stored()) <= 11
    again.store.close()


def test_a_funnel_forgets_the_steps_that_went_for_want_of_room(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path, limits=CaptureLimits(most_events=10))
    for name in ("product_viewed", "product_added", "product_viewed", *["application_opened"] * 9):
        device.now_s += 2 * HOUR_S
        device.capture.receive(track(name))
    assert len(device.stored()) == 10
    assert device.capture.windows()["funnels"]["purchase"]["step"] == 1
    assert device.reopened().capture.windows()["funnels"]["purchase"]["step"] == 1
