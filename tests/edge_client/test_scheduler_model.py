"""The scheduler beside a model of a few lines: any order of pauses, trainings, restarts and clocks that jump."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.share.probes import GivenProbes, Network, Power
from edge_client.share.schedule_rules import QuietHours, ScheduleRules
from edge_client.share.scheduler import Reason, Scheduler

START_S = 1_800_000_000
PURPOSE = "intent-model"
SEPARATION_S = 3600.0
QUIET = QuietHours.parse("22:00-07:00")
RULES = ScheduleRules(quiet_hours=(QUIET,), zone="UTC", min_separation_s=SEPARATION_S)

STEPS = st.one_of(
    st.tuples(st.just("pass"), st.integers(0, 40_000)),
    st.tuples(st.just("set back"), st.integers(1, 40_000)),
    st.tuples(st.just("pause"), st.none() | st.integers(1, 40_000)),
    st.tuples(st.just("resume"), st.just(0)),
    st.tuples(st.just("train"), st.just(0)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("power"), st.sampled_from(Power)),
    st.tuples(st.just("away"), st.none() | st.sampled_from((0.0, 299.9, 300.0, 1e6))),
)


class Table:
    """Durable, as far as a restart of the scheduler goes."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.items.get(key))

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        self.items[key] = copy.deepcopy(dict(value))


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_any_history_gives_what_a_simple_model_says(steps: list[tuple[str, Any]]) -> None:
    now_s, probes, table = [float(START_S)], GivenProbes(3600.0, Power.MAINS, Network.UNMETERED), Table()
    one = Scheduler(RULES, probes, lambda: now_s[0], table)
    pause: tuple[bool, float | None] = (False, None)
    started_s: float | None = None
    stored_s: float | None = None
    for step, value in steps:
        if step == "pass":
            now_s[0] += value
        elif step == "set back":
            now_s[0] -= value
        elif step == "pause":
            pause = (True, None if value is None else now_s[0] + value)
            one.pause(pause[1])
        elif step == "resume":
            pause = (False, None)
            one.resume()
        elif step == "train":
            started_s = stored_s = now_s[0]
            one.started(PURPOSE)
        elif step == "restart":
            one = Scheduler(RULES, probes, lambda: now_s[0], table)
            started_s = stored_s
        elif step == "power":
            probes.fed_by = value
        else:
            probes.user_away_s = value
        expected = []
        if pause[0] and (pause[1] is None or now_s[0] < pause[1]):
            expected.append(Reason.PAUSED)
        if QUIET.holds(datetime.fromtimestamp(now_s[0], UTC).time()):
            expected.append(Reason.QUIET)
        if probes.user_away_s is not None and probes.user_away_s < 300.0:
            expected.append(Reason.IN_USE)
        if probes.fed_by is Power.BATTERY:
            expected.append(Reason.BATTERY)
        if started_s is not None:
            # A time to come, after the clock was set back, counts as now.
            started_s = min(started_s, now_s[0])
            if now_s[0] < started_s + SEPARATION_S:
                expected.append(Reason.TOO_SOON)
        verdict = one.may_run(PURPOSE)
        assert list(verdict.reasons) == expected
        assert verdict.allowed is (not expected)
        assert one.may_connect().allowed is (Reason.PAUSED not in expected)
        if verdict.next_s is not None:
            _check_next(now_s, one, verdict.next_s)


def _check_next(now_s: list[float], one: Scheduler, next_s: float) -> None:
    """At that time nothing of the clock stands against it any more; a minute before, something did."""
    by_clock = {Reason.PAUSED, Reason.QUIET, Reason.TOO_SOON}
    before_s = now_s[0]
    assert next_s > before_s
    now_s[0] = max(before_s, next_s - 60.0)
    assert by_clock & set(one.may_run(PURPOSE).reasons)
    now_s[0] = next_s
    assert not by_clock & set(one.may_run(PURPOSE).reasons)
    now_s[0] = before_s
