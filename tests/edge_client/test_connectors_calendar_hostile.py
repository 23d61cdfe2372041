"""Calendars that are hostile or damaged: what cannot be read is counted, the work is bounded, and the rest stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from calendars import MEETING, ics, lines
from connector_world import NOW_S, Device
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_client.know.connectors import calendar as calendar_module
from edge_client.know.connectors.calendar import CalendarConnector, calendar_features
from shared_models.errors import ConfigError, ConnectorDataError

BERN = ZoneInfo("Europe/Zurich")
HOUR_S, DAY_S = 3600.0, 86_400.0
SINCE_S, UNTIL_S = NOW_S, NOW_S + 60 * DAY_S


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "store")
    with made.store:
        yield made


@pytest.mark.parametrize(
    "event",
    [
        lines("DTSTART:20261101T100000Z", "RRULE:FREQ=SECONDLY"),
        lines("DTSTART:20261101T100000Z", "RRULE:FREQ=HOURLY"),
        lines("DTSTART:20261101T100000Z", "RRULE:FREQ=DAILY;INTERVAL=0"),
        lines("DTSTART:20261101T100000Z", "RRULE:FREQ=DAILY;BYSECOND=1,2,3;BYMINUTE=1,2,3"),
        lines("DTSTART:20261101T100000Z", "RRULE:FREQ=SOMETIMES"),
        lines("DTSTART:20261101T100000Z", "RRULE:nonsense"),
        lines("DTSTART:yesterday"),
        lines("SUMMARY:no start"),
        lines("DTSTART:20261125T100000Z", "DTEND:20261120T100000Z"),
        lines("DTSTART:20261125T100000Z", "DURATION:P99999999D"),
        lines("DTSTART:00010101T000000Z", "RRULE:FREQ=DAILY"),
        lines("DTSTART:20261125T100000Z", "DTEND:99991231T235959Z"),
    ],
)
def test_an_entry_that_cannot_be_read_is_counted_and_the_others_stay(device: Device, event: str) -> None:
    started = time.monotonic()
    reading = CalendarConnector("calendar", [ics(event, MEETING)], zone=BERN).pull(device.intake)
    assert device.values()["events_7d"] == 1
    assert reading.invalid.total() >= 1
    assert time.monotonic() - started < 60


def test_a_date_that_never_comes_costs_little() -> None:
    started = time.monotonic()
    rules = ("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "FREQ=MONTHLY;BYMONTHDAY=40")
    for rule in rules:
        calendar_features([ics(lines("DTSTART:19700101T100000Z", f"RRULE:{rule}"))], NOW_S, UTC)
    assert time.monotonic() - started < 60


def test_a_calendar_that_is_too_much_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar_module, "MOST_SECONDS", 0.2)
    events = [lines("DTSTART:19700101T100000Z", "RRULE:FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30")] * 300
    started = time.monotonic()
    with pytest.raises(ConnectorDataError, match="too much work"):
        calendar_features([ics(*events)], NOW_S, UTC)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "raw",
    [b"", b"hello", b"\xff\xfe", b"BEGIN:VCALENDAR\r\n\xff", b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT", ics(MEETING)[:-20]],
)
def test_bytes_that_are_no_calendar_are_one_clear_error(device: Device, raw: bytes) -> None:
    with pytest.raises(ConnectorDataError):
        CalendarConnector("calendar", [raw]).pull(device.intake)
    assert device.values() == {}


def test_too_much_of_it_is_refused(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar_module, "MAX_ENTRIES", 10)
    with pytest.raises(ConnectorDataError, match="at most 10"):
        CalendarConnector("calendar", [ics(*[MEETING] * 11)]).pull(device.intake)
    monkeypatch.setattr(calendar_module, "MAX_CALENDAR_BYTES", 100)
    with pytest.raises(ConnectorDataError, match="100 bytes"):
        CalendarConnector("calendar", [ics(MEETING)]).pull(device.intake)


def test_options_that_cannot_be_used_are_said(device: Device) -> None:
    for days in (0, 1000, True, "90"):
        with pytest.raises(ConfigError):
            CalendarConnector("calendar", [b""], horizon_days=days)  # type: ignore[arg-type]
    for calendars in ([], b"BEGIN:VCALENDAR", "mine.ics", None):
        with pytest.raises(ConfigError):
            CalendarConnector("calendar", calendars)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        CalendarConnector("calendar", [lambda: "text"]).pull(device.intake)  # type: ignore[arg-type, return-value]


NAMES = st.sampled_from(
    [
        "DTSTART",
        "DTEND",
        "DURATION",
        "RRULE",
        "EXDATE",
        "RDATE",
        "RECURRENCE-ID",
        "UID",
        "STATUS",
        "TRANSP",
        "CATEGORIES",
    ]
)
VALUES = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20),
    st.sampled_from(
        [
            "20261125T090000Z",
            "20261125",
            "P1D",
            "PT1H",
            "FREQ=DAILY",
            "FREQ=YEARLY;BYDAY=1MO",
            "FREQ=WEEKLY;COUNT=5",
            "20261125T090000Z/PT1H",
            "00000000T000000Z",
            "99991231T235959Z",
            "-P1D",
        ]
    ),
)
PARAMETERS = st.sampled_from(
    ["", ";VALUE=DATE", ";TZID=Europe/Zurich", ";TZID=", ";TZID=Mars/North", ";VALUE=PERIOD", ';X="a']
)
LINE = st.tuples(NAMES, PARAMETERS, VALUES).map(lambda parts: f"{parts[0]}{parts[1]}:{parts[2]}")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(st.lists(LINE, max_size=6), max_size=4))
def test_whatever_a_calendar_holds_it_is_read_or_one_error(events: list[list[str]]) -> None:
    try:
        features, _ = calendar_features([ics(*["\r\n".join(event) for event in events])], NOW_S, BERN)
    except ConnectorDataError:
        return
    assert 0.0 <= features["busy_hours_7d"] <= 7 * 24.0
