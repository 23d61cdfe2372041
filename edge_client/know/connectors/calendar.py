"""The user's calendar (iCalendar, RFC 5545) as a source on this device: how busy the user is and when the next trip is.

What is kept are the few numbers of `FIELDS` that the schema names; titles only if the schema names `titles_7d`; descriptions,
places and guests never. Recurrences are expanded up to a horizon. Needs the extra `connectors` (icalendar).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from edge_client.know.connectors.imports import read_bytes
from edge_client.know.connectors.intake import Intake, Reading, check_name
from edge_client.know.connectors.mapping import FieldMapping
from shared_models.errors import ConfigError, ConnectorDataError
from shared_models.profile import ProfileSchema

FIELDS = ("busy_hours_7d", "events_7d", "next_free_day", "next_trip_start", "next_trip_end", "titles_7d")
"""What a calendar tells; see `calendar_features`."""

MAX_CALENDAR_BYTES = 2 * 1024 * 1024
MAX_ENTRIES = 20_000
MAX_TITLES = 50
HORIZON_DAYS = 90
LONGEST_DAYS = 366
"""An entry that is longer is not believed."""
MOST_SECONDS = 5.0
"""Of the processor's time for recurrences: a calendar that needs more is refused."""
FIRST_YEAR = 1900
"""An entry that began before is not believed."""
TRIP_CATEGORIES = frozenset({"travel", "trip", "vacation", "holiday", "holidays"})

_RULES = frozenset({"DAILY", "WEEKLY", "MONTHLY", "YEARLY"})
_CYCLE_YEARS = 7600
"""A multiple of 400: after so many years the Gregorian calendar is the same, days of the week included."""
_FAULTS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)
"""What the library raises on malformed entries."""


Calendar = Path | bytes | Callable[[], bytes]
"""A file, its bytes, or what gives them: the platform's calendar."""


@dataclass(frozen=True)
class Occurrence:
    """One time that something takes place."""

    start_s: float
    """Unix time in seconds."""
    end_s: float
    all_day: bool
    busy: bool
    """False if the entry says that the time stays free (TRANSP:TRANSPARENT)."""
    title: str
    categories: frozenset[str]

    @property
    def is_trip(self) -> bool:
        """Whole days with a night in between, or an entry that says that it is one."""
        days = (self.end_s - self.start_s) / 86_400.0
        return bool(self.categories & TRIP_CATEGORIES) or (self.all_day and days > 1.5)


class CalendarConnector:
    """The calendars of this device, as one source: the user is busy if one of them says so."""

    def __init__(
        self,
        name: str,
        calendars: Sequence[Calendar],
        mapping: FieldMapping | None = None,
        *,
        zone: tzinfo | None = None,
        horizon_days: int = HORIZON_DAYS,
    ) -> None:
        """`mapping` None keeps those of FIELDS that the schema names. `zone` None is the device's.

        Raises ConfigError.
        """
        if isinstance(horizon_days, bool) or not isinstance(horizon_days, int) or not 7 <= horizon_days <= LONGEST_DAYS:
            raise ConfigError(f"horizon_days is {horizon_days!r}, expected 7 to {LONGEST_DAYS}")
        if not isinstance(calendars, list | tuple) or not calendars:
            raise ConfigError("expected a list of calendars: files, their bytes, or functions that give them")
        self.name = check_name(name)
        self._calendars = tuple(calendars)
        self._mapping = mapping
        self._zone = zone
        self._horizon_days = horizon_days

    def pull(self, intake: Intake) -> Reading:
        """Read the calendars anew; what they do not tell any more is taken back. If one cannot be read, none is.

        Raises ConsentError (then none was read), ConnectorDataError, StoreWriteError.
        """
        mapping = self._mapping or default_mapping(intake.schema)
        reading = intake.begin(self.name, [mapping])
        raws = [read_bytes(one() if callable(one) else one, MAX_CALENDAR_BYTES) for one in self._calendars]
        told, unread = calendar_features(raws, reading.at_s, self._zone, self._horizon_days)
        mapped = intake.read_usable(mapping, [told], reading)
        reading.pages = len(raws)
        reading.count(reading.invalid, unread)
        intake.take(mapping, mapped, reading)
        intake.finish(reading)
        return reading


def default_mapping(schema: ProfileSchema) -> FieldMapping:
    """Each of FIELDS to the attribute of that name, if the schema has it."""
    return FieldMapping(attributes={name: name for name in FIELDS if name in schema.attributes})


def calendar_features(
    raws: Sequence[bytes], now_s: float, zone: tzinfo | None, horizon_days: int = HORIZON_DAYS
) -> tuple[dict[str, Any], list[str]]:
    """What calendars tell together at `now_s`, and the names of properties of entries that could not be read.

    busy_hours_7d     hours of the next seven days in which something with a time of day takes place; what overlaps counts once
    events_7d         what takes place in the next seven days
    next_free_day     Unix time of the first day from tomorrow on (local midnight) on which nothing does
    next_trip_start   Unix times of the first trip that is not over (Occurrence.is_trip)
    next_trip_end
    titles_7d         titles of events_7d

    None where there is none within the horizon. Raises ConnectorDataError.
    """
    local = zone or _local_zone()
    until_s = now_s + horizon_days * 86_400.0
    unread: list[str] = []
    found = sorted(
        (event for raw in raws for event in occurrences(raw, now_s, until_s, local, unread)),
        key=lambda event: (event.start_s, event.end_s, event.title),
    )
    week_s = now_s + 7 * 86_400.0
    week = [event for event in found if event.start_s < week_s]
    trip = next((event for event in found if event.is_trip), None)
    told = {
        "busy_hours_7d": round(_covered_s(week, now_s, week_s) / 3600.0, 2),
        "events_7d": len(week),
        "next_free_day": _next_free_day(found, now_s, horizon_days, local),
        "next_trip_start": None if trip is None else trip.start_s,
        "next_trip_end": None if trip is None else trip.end_s,
        "titles_7d": list(dict.fromkeys(event.title for event in week if event.title))[:MAX_TITLES] or None,
    }
    return told, unread


def occurrences(raw: bytes, since_s: float, until_s: float, local: tzinfo, unread: list[str]) -> Iterator[Occurrence]:
    """What takes place between two times and was not cancelled. Names of what cannot be read go into `unread`.

    Raises ConnectorDataError for bytes that are no calendar, or one that is too much work.
    """
    entries = _entries(raw)
    deadline = time.thread_time() + MOST_SECONDS
    moved: dict[str, set[float]] = {}
    for entry in entries:
        try:
            if "RECURRENCE-ID" in entry:
                moved.setdefault(_uid(entry), set()).add(_at(entry["RECURRENCE-ID"].dt, local))
        except _FAULTS:
            unread.append("RECURRENCE-ID")
    for entry in entries:
        if time.thread_time() > deadline:
            raise ConnectorDataError("the calendar's recurrences are too much work; export a shorter part of it")
        try:
            if str(entry.get("STATUS", "")).upper() == "CANCELLED":
                continue
            alone = "RECURRENCE-ID" in entry
            length_s = _length_s(entry, local)
            if not 0 <= length_s <= LONGEST_DAYS * 86_400.0:
                raise ValueError("no believable length")
            starts = _starts(entry, since_s - length_s, until_s, local)
            first = starts[0]
            all_day = not isinstance(entry["DTSTART"].dt, datetime)
            busy = str(entry.get("TRANSP", "OPAQUE")).upper() != "TRANSPARENT"
            title, categories = str(entry.get("SUMMARY", "")).strip()[:100], _categories(entry)
        except _FAULTS:
            unread.append("VEVENT")
            continue
        elsewhere: set[float] = set() if alone else moved.get(_uid(entry), set())
        for start_s in (first,) if alone else starts:
            if start_s in elsewhere:
                continue
            end_s = start_s + length_s
            # A moment without a length takes place too.
            if start_s < until_s and (end_s > since_s or start_s == end_s == since_s):
                yield Occurrence(start_s, end_s, all_day, busy, title, categories)


# -- reading entries --------------------------------------------------------------------------------------------------


def _entries(raw: bytes) -> list[Any]:
    try:
        import icalendar
    except ImportError as error:
        raise ConfigError("calendars need the extra `connectors`: pip install 'tacit[connectors]'") from error
    # One that was cut off must not read as a week in which nothing is on.
    if b"BEGIN:VCALENDAR" not in raw[:1024].upper() or not raw.rstrip().upper().endswith(b"END:VCALENDAR"):
        raise ConnectorDataError("not a whole iCalendar file: expected BEGIN:VCALENDAR … END:VCALENDAR")
    try:
        calendars = icalendar.Calendar.from_ical(raw.decode("utf-8-sig"), multiple=True)
        entries = [entry for calendar in calendars for entry in calendar.walk("VEVENT")]
    except _FAULTS as error:
        raise ConnectorDataError(f"not an iCalendar file: {type(error).__name__}") from error
    if len(entries) > MAX_ENTRIES:
        raise ConnectorDataError(f"{len(entries)} entries, at most {MAX_ENTRIES} are read; export a shorter part of it")
    return entries


def _starts(entry: Any, since_s: float, until_s: float, local: tzinfo) -> list[float]:
    """Starts of an entry, that of DTSTART first; of a recurring one those between two times besides."""
    start = entry["DTSTART"].dt
    if start.year < FIRST_YEAR:
        raise ValueError("no believable start")
    first = _at(start, local)
    gone = {_at(value, local) for value in _dates(entry, "EXDATE")}
    found = [_at(value, local) for value in _dates(entry, "RDATE")]
    if "RRULE" in entry:
        rules = entry["RRULE"] if isinstance(entry["RRULE"], list) else [entry["RRULE"]]
        for rule in rules:
            found += _recurrences(rule, start, since_s - 86_400.0, until_s, local)
    rest = sorted({at_s for at_s in found if at_s < until_s} - {first})
    return [at_s for at_s in [first, *rest] if at_s not in gone] or [float("inf")]


def _recurrences(rule: Any, start: date | datetime, since_s: float, until_s: float, local: tzinfo) -> list[float]:
    """By the wall clock of the entry's own zone, as RFC 5545, section 3.3.10, wants it."""
    from dateutil.rrule import rrulestr

    if int(rule.get("INTERVAL", [1])[0]) < 1:
        raise ValueError("recurs without end at one time")
    if str(rule["FREQ"][0]).upper() not in _RULES or not {"BYHOUR", "BYMINUTE", "BYSECOND"}.isdisjoint(rule):
        raise ValueError("recurs more often than daily")
    zone = (start.tzinfo if isinstance(start, datetime) else None) or local
    wall = start.replace(tzinfo=None) if isinstance(start, datetime) else datetime(start.year, start.month, start.day)

    def walled(at_s: float) -> datetime:
        return datetime.fromtimestamp(at_s, UTC).astimezone(zone).replace(tzinfo=None)

    last = walled(until_s)
    if "UNTIL" in rule:
        # In UTC for a start with a zone; the last instance that counts may begin at that very time.
        until = rule["UNTIL"][0]
        if isinstance(until, datetime):
            last = min(last, until.astimezone(zone).replace(tzinfo=None) if until.tzinfo else until)
        else:
            last = min(last, datetime(until.year, until.month, until.day, 23, 59, 59))
    begin = max(wall, walled(since_s))
    step_days = {"DAILY": 1, "WEEKLY": 7}.get(str(rule["FREQ"][0]).upper(), 0) * int(rule.get("INTERVAL", [1])[0])
    if step_days and "COUNT" not in rule:
        # Whole intervals change neither the days that follow nor the weekday: what lies before need not be walked through.
        wall += timedelta(days=(begin - wall).days // step_days * step_days)
    text = ";".join(part for part in rule.to_ical().decode().split(";") if not part.upper().startswith("UNTIL="))
    # The library looks for a date that never comes (30 February) up to the year 9999: there, it has little left to look at.
    walls = rrulestr(text, dtstart=_shifted(wall, _CYCLE_YEARS)).between(
        _shifted(begin, _CYCLE_YEARS), _shifted(last, _CYCLE_YEARS), inc=True
    )
    return [_shifted(moment, -_CYCLE_YEARS).replace(tzinfo=zone).timestamp() for moment in walls]


def _shifted(moment: datetime, years: int) -> datetime:
    return moment.replace(year=moment.year + years)


def _dates(entry: Any, name: str) -> Iterator[date | datetime]:
    for values in _listed(entry.get(name)):
        for value in values.dts:
            yield value.dt[0] if isinstance(value.dt, tuple) else value.dt


def _length_s(entry: Any, local: tzinfo) -> float:
    start = entry["DTSTART"].dt
    if "DTEND" in entry:
        return _at(entry["DTEND"].dt, local) - _at(start, local)
    if "DURATION" in entry:
        return float(entry["DURATION"].dt.total_seconds())
    return 0.0 if isinstance(start, datetime) else 86_400.0


def _categories(entry: Any) -> frozenset[str]:
    return frozenset(str(name).strip().casefold() for value in _listed(entry.get("CATEGORIES")) for name in value.cats)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _uid(entry: Any) -> str:
    return str(entry.get("UID", ""))


def _at(moment: date | datetime, local: tzinfo) -> float:
    """Unix time; a date is its midnight, and without a zone the clock on the wall, here."""
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=local)).timestamp()


# -- what follows from them -------------------------------------------------------------------------------------------


def _covered_s(events: list[Occurrence], since_s: float, until_s: float) -> float:
    """Seconds between two times in which at least one of `events` (in order of their starts) keeps the user busy."""
    covered_s, reached_s = 0.0, since_s
    for event in events:
        if event.busy and not event.all_day:
            end_s = min(event.end_s, until_s)
            covered_s += max(0.0, end_s - max(event.start_s, reached_s))
            reached_s = max(reached_s, end_s)
    return covered_s


def _next_free_day(events: list[Occurrence], now_s: float, horizon_days: int, local: tzinfo) -> float | None:
    today = datetime.fromtimestamp(now_s, UTC).astimezone(local).date()
    taken: set[date] = set()
    for event in events:
        if event.busy:
            start_s, end_s = max(event.start_s, now_s), min(event.end_s - 1, now_s + horizon_days * 86_400.0)
            day = datetime.fromtimestamp(start_s, UTC).astimezone(local).date()
            last = datetime.fromtimestamp(max(start_s, end_s), UTC).astimezone(local).date()
            while day <= last:
                taken.add(day)
                day += timedelta(days=1)
    days = (today + timedelta(days=n) for n in range(1, horizon_days))
    free = next((day for day in days if day not in taken), None)
    return None if free is None else datetime(free.year, free.month, free.day, tzinfo=local).timestamp()


def _local_zone() -> tzinfo:
    from dateutil.tz import tzlocal

    return tzlocal()  # type: ignore[no-any-return]
