"""Quiet hours by the clock on the wall: over midnight, on the days when the clock jumps, in every zone."""

from __future__ import annotations

import json
import zoneinfo
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_client.share.schedule_rules import LONGEST_LOOK_S, QuietHours, ScheduleRules
from shared_models.errors import ConfigError

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",  # the clock jumps by half an hour
    "Asia/Kathmandu",
    "Pacific/Apia",  # left out a whole day in 2011
    "Africa/Casablanca",  # summer time stops for Ramadan
    "Asia/Gaza",
)
MINUTES = st.integers(0, 24 * 60 - 1).map(lambda minute: time(minute // 60, minute % 60))
HOURS = st.tuples(MINUTES, MINUTES).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: QuietHours(*pair))
# 2005 to 2035: all rules in use today, and some that were changed.
TIMES = st.integers(1_104_537_600, 2_051_222_400)


def wall(now_s: float, zone: str) -> datetime:
    return datetime.fromtimestamp(now_s, UTC).astimezone(zoneinfo.ZoneInfo(zone))


def at(zone: str, *when: int, fold: int = 0) -> float:
    return datetime(*when, tzinfo=zoneinfo.ZoneInfo(zone), fold=fold).timestamp()  # type: ignore[misc, arg-type]


def rules(*hours: str, zone: str = "Europe/Berlin") -> ScheduleRules:
    return ScheduleRules(quiet_hours=tuple(QuietHours.parse(text) for text in hours), zone=zone)


@settings(max_examples=200, deadline=None)
@given(TIMES, HOURS, st.sampled_from(ZONES))
def test_quiet_is_what_a_watch_on_the_wall_says(now_s: int, hours: QuietHours, zone: str) -> None:
    watch = wall(now_s, zone)
    minutes = watch.hour * 60 + watch.minute
    start, end = (each.hour * 60 + each.minute for each in (hours.start, hours.end))
    # Walk along the dial from the start: quiet, if the end comes after the hand.
    expected = (minutes - start) % 1440 < (end - start) % 1440
    assert ScheduleRules(quiet_hours=(hours,), zone=zone).quiet_at(now_s) is expected


@settings(max_examples=150, deadline=None)
@given(TIMES, st.lists(HOURS, min_size=1, max_size=3), st.sampled_from(ZONES))
@example(int(at("Europe/Berlin", 2026, 3, 29, 1, 0)), [QuietHours.parse("01:00-02:30")], "Europe/Berlin")
@example(int(at("Australia/Lord_Howe", 2026, 4, 5, 1, 0)), [QuietHours.parse("23:00-01:45")], "Australia/Lord_Howe")
def test_the_end_is_the_first_moment_that_is_not_quiet(now_s: int, hours: list[QuietHours], zone: str) -> None:
    schedule = ScheduleRules(quiet_hours=tuple(hours), zone=zone)
    end_s = schedule.quiet_until_s(now_s)
    if end_s is None:
        end_s = now_s + LONGEST_LOOK_S
    else:
        assert not schedule.quiet_at(end_s)
    for moment_s in range(now_s, int(end_s), 60):
        assert schedule.quiet_at(moment_s)
    if end_s > now_s:
        assert schedule.quiet_at(end_s - 1)


@settings(max_examples=150, deadline=None)
@given(TIMES, HOURS, st.sampled_from(ZONES))
def test_one_span_of_quiet_hours_is_never_longer_than_a_day_and_a_jump(
    now_s: int, hours: QuietHours, zone: str
) -> None:
    end_s = ScheduleRules(quiet_hours=(hours,), zone=zone).quiet_until_s(now_s)
    assert end_s is not None
    assert end_s - now_s <= timedelta(hours=26).total_seconds()


def test_over_midnight() -> None:
    night = rules("22:00-07:00", zone="UTC")
    for hour, quiet in ((21, False), (22, True), (23, True), (0, True), (6, True), (7, False), (12, False)):
        assert night.quiet_at(at("UTC", 2026, 11, 24, hour)) is quiet
    assert night.quiet_until_s(at("UTC", 2026, 11, 24, 23, 30)) == at("UTC", 2026, 11, 25, 7)


def test_a_clock_that_is_put_forward_over_the_end_ends_the_quiet() -> None:
    # Berlin, 29 March 2026: 02:00 becomes 03:00. 02:30 does not exist.
    early = rules("01:00-02:30")
    before_s, jump_s = at("Europe/Berlin", 2026, 3, 29, 1, 59), at("Europe/Berlin", 2026, 3, 29, 3, 0)
    assert jump_s - before_s == 60
    assert early.quiet_at(before_s)
    assert not early.quiet_at(jump_s)
    assert early.quiet_until_s(before_s) == jump_s


def test_quiet_hours_inside_the_gap_do_not_take_place() -> None:
    gap = rules("02:10-02:50")
    start_s = at("Europe/Berlin", 2026, 3, 29, 0, 0)
    assert not any(gap.quiet_at(start_s + minute * 60) for minute in range(24 * 60))


def test_an_hour_that_is_repeated_is_quiet_twice() -> None:
    # Berlin, 25 October 2026: 03:00 becomes 02:00.
    late = rules("02:15-02:45")
    first_s, second_s = (at("Europe/Berlin", 2026, 10, 25, 2, 30, fold=fold) for fold in (0, 1))
    assert second_s - first_s == 3600
    assert late.quiet_at(first_s)
    assert late.quiet_at(second_s)
    assert not late.quiet_at(first_s + 1800)
    assert late.quiet_until_s(first_s) == at("Europe/Berlin", 2026, 10, 25, 2, 45)


def test_a_night_has_nine_hours_of_quiet_but_ten_or_eight_when_the_clock_jumps() -> None:
    night = rules("22:00-07:00")
    for day, hours in (((2026, 11, 23), 9), ((2026, 10, 24), 10), ((2026, 3, 28), 8)):
        start_s = at("Europe/Berlin", *day, 22)
        end_s = night.quiet_until_s(start_s)
        assert end_s is not None
        assert end_s - start_s == hours * 3600


def test_several_quiet_hours_that_touch_are_one_and_a_whole_day_has_no_end() -> None:
    assert rules("08:00-12:00", "12:00-14:00").quiet_until_s(at("Europe/Berlin", 2026, 11, 24, 9)) == at(
        "Europe/Berlin", 2026, 11, 24, 14
    )
    assert rules("00:00-12:00", "12:00-00:00").quiet_until_s(at("Europe/Berlin", 2026, 11, 24, 9)) is None


def test_without_quiet_hours_it_is_never_quiet() -> None:
    assert not ScheduleRules().quiet_at(0.0)
    assert ScheduleRules().quiet_until_s(5.0) == 5.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "22-07",
        "22:00",
        "22:00-24:00",
        "22:60-07:00",
        "22:00–07:00",
        "٢٢:00-07:00",
        "22:00-22:00",
        "x" * 10_000,
        None,
        7,
    ],
)
def test_what_is_no_quiet_hours_is_one_clear_error(text: object) -> None:
    with pytest.raises(ConfigError, match="quiet hours"):
        QuietHours.parse(text)  # type: ignore[arg-type]


def test_quiet_hours_are_written_as_they_are_read() -> None:
    assert str(QuietHours.parse("22:05-07:00")) == "22:05-07:00"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("idle_s", -1.0),
        ("idle_s", float("nan")),
        ("idle_s", True),
        ("idle_s", "300"),
        ("min_separation_s", float("inf")),
        ("min_separation_s", None),
        ("on_battery", 1),
        ("unknown_power", None),
        ("zone", "Middle/Earth"),
        ("zone", "../../etc/passwd"),
        ("zone", ""),
        ("zone", 7),
        ("quiet_hours", ["22:00-07:00"]),
        ("quiet_hours", "22:00-07:00"),
        ("quiet_hours", tuple(QuietHours(time(0, 0), time(0, minute)) for minute in range(1, 30))),
    ],
)
def test_rules_that_cannot_work_are_one_clear_error(field: str, value: object) -> None:
    with pytest.raises(ConfigError):
        ScheduleRules(**{field: value})  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        ScheduleRules,
        idle_s=st.none() | st.floats(0, 86400),
        on_battery=st.booleans(),
        on_metered=st.booleans(),
        quiet_hours=st.lists(HOURS, max_size=4).map(tuple),
        min_separation_s=st.floats(0, 1e6),
        zone=st.none() | st.sampled_from(ZONES),
        unknown_idle=st.booleans(),
    )
)
def test_rules_come_back_from_their_own_document(rules: ScheduleRules) -> None:
    assert ScheduleRules.from_document(json.loads(json.dumps(rules.document()))) == rules


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"quiet_hours": None},
        {"quiet_hours": ["nine to five"]},
        {"quiet_hours": [], "moon": "full"},
        {"quiet_hours": [], "idle_s": "long"},
    ],
)
def test_a_document_of_another_version_is_one_clear_error(document: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ScheduleRules.from_document(document)
