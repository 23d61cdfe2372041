"""The calendar as a source: what is counted, recurrences and zones, and calendars that are hostile or damaged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from calendars import MEETING, TRIP, ics, lines
from connector_world import EXTENSION, NOW_S, Device
from dateutil.rrule import rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.know.connectors import FieldMapping
from edge_client.know.connectors.calendar import CalendarConnector, calendar_features, occurrences
from shared_models.errors import ConnectorDataError, ConsentError
from shared_models.profile import ProfileSchema, default_schema

BERN = ZoneInfo("Europe/Zurich")
HOUR_S, DAY_S = 3600.0, 86_400.0
SINCE_S, UNTIL_S = NOW_S, NOW_S + 60 * DAY_S


def starts(raw: bytes, zone: Any = BERN, since_s: float = SINCE_S, until_s: float = UNTIL_S) -> list[str]:
    unread: list[str] = []
    found = sorted(event.start_s for event in occurrences(raw, since_s, until_s, zone, unread))
    assert unread == []
    return [datetime.fromtimestamp(start_s, UTC).strftime("%m-%dT%H:%MZ") for start_s in found]


def told(raw: bytes, zone: Any = BERN) -> dict[str, Any]:
    features, unread = calendar_features([raw], NOW_S, zone)
    assert unread == []
    return features


def local_s(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERN).timestamp()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "store")
    with made.store:
        yield made


def test_numbers_are_kept_and_no_title_place_or_guest(device: Device) -> None:
    reading = CalendarConnector("calendar", [ics(MEETING, TRIP)], zone=BERN).pull(device.intake)
    assert device.values() == {
        "busy_hours_7d": 1.5,
        "events_7d": 1,
        "next_free_day": local_s("2026-11-26"),
        "next_trip_start": local_s("2026-12-04"),
        "next_trip_end": local_s("2026-12-09"),
    }
    assert (reading.records, reading.attributes, dict(reading.dropped)) == (1, 5, {"titles_7d": 1})
    for secret in ("Oncologist", "Lisbon", "Anna", "Room"):
        assert secret not in device.kept()
    found = device.profile.get("next_trip_start")
    assert found is not None
    assert found.provenance == "connector:calendar"


def test_titles_are_kept_if_the_schema_names_them(tmp_path: Path) -> None:
    device = Device(tmp_path / "titles", default_schema().extended(ProfileSchema.from_yaml(EXTENSION)))
    with device.store:
        CalendarConnector("calendar", [ics(MEETING.replace("Oncologist", "Budget review"), TRIP)], zone=BERN).pull(
            device.intake
        )
        assert device.values()["titles_7d"] == ["Budget review"]


def test_titles_that_speak_of_what_is_never_inferred_are_not_kept(tmp_path: Path) -> None:
    device = Device(tmp_path / "titles", default_schema().extended(ProfileSchema.from_yaml(EXTENSION)))
    with device.store:
        CalendarConnector("calendar", [ics(MEETING, TRIP)], zone=BERN).pull(device.intake)
        assert "titles_7d" not in device.values()


def test_what_is_cancelled_is_taken_back(device: Device) -> None:
    CalendarConnector("calendar", [ics(TRIP)], zone=BERN).pull(device.intake)
    assert "next_trip_start" in device.values()
    device.clock.now_s += 60
    CalendarConnector("calendar", [ics(lines(TRIP, "STATUS:CANCELLED"))], zone=BERN).pull(device.intake)
    assert "next_trip_start" not in device.values()
    assert device.values()["busy_hours_7d"] == 0.0


def test_without_consent_the_calendar_is_not_read(tmp_path: Path) -> None:
    read = []

    def source() -> bytes:
        read.append(1)
        return ics(MEETING)

    device = Device(tmp_path / "none", consent=False)
    with device.store:
        with pytest.raises(ConsentError):
            CalendarConnector("calendar", [source]).pull(device.intake)
        assert read == []
        device.consent.grant("personalisation")
        CalendarConnector("calendar", [source]).pull(device.intake)
        assert read == [1]


def test_a_file_is_a_source_too_and_the_mapping_may_choose(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "mine.ics"
    path.write_bytes(ics(MEETING, TRIP))
    mapping = FieldMapping(attributes={"events_7d": "events_7d"})
    CalendarConnector("calendar", [path], mapping, zone=BERN).pull(device.intake)
    assert device.values() == {"events_7d": 1}


def test_overlapping_hours_count_once_and_free_time_does_not(device: Device) -> None:
    raw = ics(
        lines("DTSTART:20261125T090000Z", "DTEND:20261125T110000Z"),
        lines("DTSTART:20261125T100000Z", "DURATION:PT2H"),
        lines("DTSTART:20261126T100000Z", "DTEND:20261126T110000Z", "TRANSP:TRANSPARENT"),
        lines("DTSTART;VALUE=DATE:20261127"),
        lines("DTSTART:20261124T143000Z", "DTEND:20261124T153000Z"),
        lines("DTSTART:20261201T140000Z", "DTEND:20261201T180000Z"),
    )
    features = told(raw)
    # Of what goes on now and of what reaches over the seventh day only the part inside counts.
    assert features["busy_hours_7d"] == 3.0 + 0.5 + 1.0
    assert features["events_7d"] == 6
    assert features["next_free_day"] == local_s("2026-11-26")


def test_several_calendars_are_one_source(device: Device) -> None:
    work, home = ics(MEETING), ics(TRIP, lines("DTSTART:20261125T100000Z", "DTEND:20261125T110000Z"))
    CalendarConnector("calendar", [work, home], zone=BERN).pull(device.intake)
    assert (device.values()["busy_hours_7d"], device.values()["events_7d"]) == (2.0, 2)
    assert device.values()["next_trip_start"] == local_s("2026-12-04")
    device.clock.now_s += 60
    with pytest.raises(ConnectorDataError):
        CalendarConnector("calendar", [work, b"cut"], zone=BERN).pull(device.intake)
    assert device.values()["events_7d"] == 2


def test_a_trip_is_nights_in_a_row_or_what_says_so() -> None:
    assert told(ics(lines("DTSTART;VALUE=DATE:20261204")))["next_trip_start"] is None
    weekend = told(ics(lines("DTSTART;VALUE=DATE:20261204", "DTEND;VALUE=DATE:20261206")))
    assert weekend["next_trip_end"] == local_s("2026-12-06")
    named = lines("DTSTART:20261210T080000Z", "DTEND:20261210T200000Z", "CATEGORIES:Work,Travel")
    assert told(ics(named))["next_trip_start"] == local_s("2026-12-10T09:00")
    going_on = told(ics(lines("DTSTART;VALUE=DATE:20261120", "DTEND;VALUE=DATE:20261201"), TRIP))
    assert going_on["next_trip_end"] == local_s("2026-12-01")


def test_an_empty_calendar_tells_that_nothing_is_on() -> None:
    assert told(ics()) == {
        "busy_hours_7d": 0.0,
        "events_7d": 0,
        "next_free_day": local_s("2026-11-25"),
        "next_trip_start": None,
        "next_trip_end": None,
        "titles_7d": None,
    }


def test_no_free_day_within_the_horizon_is_none() -> None:
    daily = lines("DTSTART:20200101T100000Z", "DTEND:20200101T110000Z", "RRULE:FREQ=DAILY")
    assert told(ics(daily))["next_free_day"] is None


def test_recurrences_with_exceptions_moves_and_additions() -> None:
    master = lines(
        "DTSTART:20261102T080000Z",
        "DTEND:20261102T090000Z",
        "RRULE:FREQ=WEEKLY;BYDAY=MO;UNTIL=20261221T080000Z",
        "EXDATE:20261207T080000Z",
        "RDATE:20261203T080000Z",
    )
    moved = lines("RECURRENCE-ID:20261214T080000Z", "DTSTART:20261215T120000Z", "DTEND:20261215T130000Z")
    gone = lines("RECURRENCE-ID:20261221T080000Z", "DTSTART:20261221T080000Z", "STATUS:CANCELLED")
    # The same UID is what ties them together.
    raw = ics(master, moved, gone).replace(b"UID:1", b"UID:0").replace(b"UID:2", b"UID:0")
    assert starts(raw) == ["11-30T08:00Z", "12-03T08:00Z", "12-15T12:00Z"]


def test_a_meeting_keeps_its_hour_on_the_wall_when_the_clocks_change() -> None:
    weekly = lines("DTSTART;TZID=Europe/Zurich:20261016T090000", "DURATION:PT1H", "RRULE:FREQ=WEEKLY;COUNT=3")
    since_s = datetime(2026, 10, 1, tzinfo=UTC).timestamp()
    assert starts(ics(weekly), UTC, since_s) == ["10-16T07:00Z", "10-23T07:00Z", "10-30T08:00Z"]


def test_zones_by_their_own_definition_by_windows_name_and_none() -> None:
    zone = lines(
        "BEGIN:VTIMEZONE",
        "TZID:Office",
        "BEGIN:STANDARD",
        "DTSTART:19700101T000000",
        "TZOFFSETFROM:-0500",
        "TZOFFSETTO:-0500",
        "END:STANDARD",
        "END:VTIMEZONE",
        "",
    )
    assert starts(ics("DTSTART;TZID=Office:20261125T090000", head=zone)) == ["11-25T14:00Z"]
    assert starts(ics("DTSTART;TZID=Tokyo Standard Time:20261125T090000")) == ["11-25T00:00Z"]
    assert starts(ics("DTSTART:20261125T090000")) == ["11-25T08:00Z"]
    assert starts(ics("DTSTART:20261125T090000"), ZoneInfo("Asia/Tokyo")) == ["11-25T00:00Z"]


@pytest.mark.parametrize(
    ("rule", "start", "expected"),
    [
        ("FREQ=MONTHLY;BYDAY=-1FR", "20200131T100000Z", ["11-27T10:00Z", "12-25T10:00Z"]),
        ("FREQ=YEARLY", "19701224T180000Z", ["12-24T18:00Z"]),
        ("FREQ=MONTHLY;BYMONTHDAY=-1", "20240131T100000Z", ["11-30T10:00Z", "12-31T10:00Z"]),
        ("FREQ=DAILY;INTERVAL=20", "20260101T100000Z", ["12-07T10:00Z", "12-27T10:00Z"]),
        ("FREQ=WEEKLY;INTERVAL=3;WKST=SU;BYDAY=TU", "20260106T100000Z", ["12-08T10:00Z", "12-29T10:00Z"]),
        (
            "FREQ=YEARLY;BYMONTH=11,12;BYDAY=4TH,1MO",
            "20200101T100000Z",
            ["11-26T10:00Z", "12-07T10:00Z", "12-24T10:00Z"],
        ),
        ("FREQ=DAILY;UNTIL=20261126", "20261101T100000Z", ["11-25T10:00Z", "11-26T10:00Z"]),
        ("FREQ=DAILY;COUNT=3", "20261123T160000Z", ["11-24T16:00Z", "11-25T16:00Z"]),
    ],
)
def test_rules_recur_as_the_standard_says(rule: str, start: str, expected: list[str]) -> None:
    assert starts(ics(lines(f"DTSTART:{start}", f"RRULE:{rule}")), UTC, until_s=NOW_S + 40 * DAY_S) == expected


def test_29_february_recurs_in_leap_years_only() -> None:
    raw = ics(lines("DTSTART;VALUE=DATE:20240229", "RRULE:FREQ=YEARLY"))
    since_s = datetime(2027, 12, 1, tzinfo=UTC).timestamp()
    assert starts(raw, UTC, since_s, since_s + 300 * DAY_S) == ["02-29T00:00Z"]
    since_s = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    assert starts(raw, UTC, since_s, since_s + 300 * DAY_S) == []


def test_the_devices_own_zone_is_used_by_itself() -> None:
    features, _ = calendar_features([ics(MEETING)], NOW_S, None)
    assert features["busy_hours_7d"] == 1.5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-48, 300), st.integers(0, 100), st.booleans()), max_size=8))
def test_busy_hours_are_those_of_a_count_hour_by_hour(events: list[tuple[int, int, bool]]) -> None:
    def stamp(hours: int) -> str:
        return (datetime.fromtimestamp(NOW_S, UTC) + timedelta(hours=hours)).strftime("%Y%m%dT%H%M%SZ")

    raw = ics(
        *(
            lines(
                f"DTSTART:{stamp(start)}",
                f"DTEND:{stamp(start + hours)}",
                f"TRANSP:{'OPAQUE' if busy else 'TRANSPARENT'}",
            )
            for start, hours, busy in events
        )
    )
    busy = {hour for start, hours, opaque in events if opaque for hour in range(start, start + hours)}
    assert told(raw)["busy_hours_7d"] == len(busy & set(range(7 * 24)))


RULES = st.builds(
    lambda freq, interval, days, months, week, end: ";".join(
        [f"FREQ={freq}", f"INTERVAL={interval}", *days, *months, *week, *end]
    ),
    st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]),
    st.integers(1, 9),
    st.sampled_from([[], ["BYDAY=MO,TH"], ["BYDAY=SU"]]),
    st.sampled_from([[], ["BYMONTH=11,12,1"]]),
    st.sampled_from([[], ["WKST=SU"]]),
    st.sampled_from([[], ["COUNT=700"], ["UNTIL=20261215T120000Z"]]),
)


@settings(max_examples=150, deadline=None)
@given(rule=RULES, age_days=st.integers(0, 4000), minutes=st.integers(0, 1439))
def test_recurrences_are_those_that_the_plain_rule_gives(rule: str, age_days: int, minutes: int) -> None:
    """The rule is walked from near the window, in a year far away; what comes out must not tell."""
    start = (datetime.fromtimestamp(NOW_S, UTC) - timedelta(days=age_days)).replace(hour=0, minute=0) + timedelta(
        minutes=minutes
    )
    plain = rrulestr(rule.replace("T120000Z", "T120000"), dtstart=start.replace(tzinfo=None))
    since, until = (datetime.fromtimestamp(at_s, UTC).replace(tzinfo=None) for at_s in (SINCE_S, UNTIL_S))
    expected = {moment for moment in plain.between(since, until) if moment + timedelta(hours=1) > since}
    raw = ics(lines(f"DTSTART:{start:%Y%m%dT%H%M%SZ}", "DURATION:PT1H", f"RRULE:{rule}"))
    found = {
        datetime.fromtimestamp(event.start_s, UTC).replace(tzinfo=None)
        for event in occurrences(raw, SINCE_S, UNTIL_S, UTC, [])
    }
    # An event that goes on when the window begins is found too, and the first is one even if its own rule leaves it out.
    assert found - {start.replace(tzinfo=None)} - expected <= {m for m in found if m <= since}
    assert expected <= found
