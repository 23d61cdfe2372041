"""Days and ranges of days, and the few facts of the calendar that reading dates needs. No text in here."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import date, timedelta

SEASONS = {"spring": (3, 5), "summer": (6, 8), "autumn": (9, 11), "winter": (12, 2)}
"""First and last month, in the north."""


@dataclass(frozen=True, slots=True)
class DateRange:
    """From the first day to the last, both included; one day if they are the same."""

    start: date
    end: date

    @property
    def days(self) -> int:
        return (self.end - self.start).days + 1


@dataclass(frozen=True, slots=True)
class DateMatch:
    """Dates found in a text, as tokens [index, index + tokens)."""

    index: int
    tokens: int
    dates: DateRange


@dataclass(frozen=True, slots=True)
class DurationMatch:
    """A length of time: "two weeks", "5 nights"."""

    index: int
    tokens: int
    days: int


def next_time(today: date, month: int, day: int) -> date | None:
    """The first such day from `today` on, or None if there is none; 29 February may be years away."""
    days = (day_or_none(year, month, day) for year in range(today.year, today.year + 9))
    return next((found for found in days if found is not None and found >= today), None)


def feast(name: str, year: int) -> DateRange:
    """`christmas`, `new_year` or `easter` of a year."""
    if name == "easter":
        return DateRange(easter(year) - timedelta(2), easter(year) + timedelta(1))
    if name == "christmas":
        return DateRange(date(year, 12, 24), date(year, 12, 26))
    return DateRange(date(year, 12, 31), date(year + 1, 1, 1))


def next_feast(today: date, name: str) -> DateRange:
    """The first such feast that is not over."""
    return next(days for days in (feast(name, year) for year in (today.year, today.year + 1)) if days.end >= today)


def season(name: str, year: int) -> DateRange:
    """A season that starts in `year`."""
    first, last = SEASONS[name]
    return DateRange(date(year, first, 1), whole_month(year + (last < first), last).end)


def next_season(today: date, name: str, *, skip_running: bool) -> DateRange:
    """The first such season that is not over; with `skip_running`, that has not started."""
    found = (season(name, year) for year in range(today.year - 1, today.year + 3))
    return next(days for days in found if days.end >= today and not (skip_running and days.start <= today))


def easter(year: int) -> date:
    """Easter Sunday of the Gregorian calendar (the anonymous algorithm of 1876)."""
    a, b, c = year % 19, year // 100, year % 100
    h = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    x = (32 + 2 * (b % 4) + 2 * (c // 4) - h - c % 4) % 7
    m = (a + 11 * h + 22 * x) // 451
    month, day = divmod(h + x - 7 * m + 114, 31)
    return date(year, month, day + 1)


def day_or_none(year: int, month: int, day: int) -> date | None:
    """The day, or None if there is no such day."""
    try:
        return date(year, month, day)
    except ValueError:
        return None


def in_year(day: date, year: int) -> date:
    """The same day of another year; 1 March for 29 February where there is none."""
    return day_or_none(year, day.month, day.day) or date(year, 3, 1)


def whole_month(year: int, month: int) -> DateRange:
    """All days of a month."""
    return DateRange(date(year, month, 1), date(year, month, calendar.monthrange(year, month)[1]))
