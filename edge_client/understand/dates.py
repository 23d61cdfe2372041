"""Dates and ranges of dates in a text, in English, German and Spanish, as seen from a given day. All are read as in the future.

Declared readings: "Friday" is the first one after today, "next Friday" the Friday of the next calendar week, "the weekend"
Saturday and Sunday; 3/5 is the 3rd of May unless only the other order is a date; seasons are those of the north; a month without
a year is the next one that is not over. Why no library: docs/understanding.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta

from edge_client.understand.days import (
    DateMatch,
    DateRange,
    DurationMatch,
    day_or_none,
    in_year,
    next_feast,
    next_season,
    next_time,
    season,
    whole_month,
)  # fmt: skip
from edge_client.understand.numbers import CURRENCY_SIGNS, may_be_number, number_at
from shared_models.languages import Language
from shared_models.languages.tokens import Token

_NUMERIC = re.compile(r"(\d{1,2})\.(\d{1,2})(?:\.(\d{4}|\d{2}))?\Z")
_MOST_DAYS_AHEAD = 1500
_MOST_YEARS = 10
_STARTS = (
    "months", "weekdays", "day_words", "next", "this", "after_next", "parts", "units", "in", "feasts", "seasons",
    "number_phrases", "ordinals",
)  # fmt: skip


class DateReader:
    """Reads one text. `today` is injected: nothing here asks a clock."""

    def __init__(self, tokens: Sequence[Token], language: Language, today: date) -> None:
        self._tokens = tokens
        self._language = language
        self._today = today
        self._singles: dict[tuple[int, bool], DateMatch | None] = {}

    def find(self) -> list[DateMatch]:
        """Dates, left to right, not overlapping."""
        found, index, opening = [], 0, self._language.first_words(("range_open",))
        while index < len(self._tokens):
            match = (self._range(index) or self._single(index)) if self._may_start(index, opening) else None
            if match is not None:
                found.append(match)
            index += match.tokens if match else 1
        return found

    def durations(self) -> list[DurationMatch]:
        """Lengths of time that are not themselves dates ("in two weeks" is one)."""
        found, index = [], 0
        while index < len(self._tokens):
            length = self._length(index)
            if length is not None and self._language.phrases("in").ending(self._tokens, index) is None:
                found.append(DurationMatch(index, length[1], length[0]))
            index += length[1] if length else 1
        return found

    def _may_start(self, index: int, also: frozenset[str] = frozenset()) -> bool:
        """Whether a date, or one of the words `also`, can start here: most words are ruled out by one look."""
        if index >= len(self._tokens):
            return False
        token = self._tokens[index]
        if token.is_number and self._is_money(index):
            return False
        if token.is_number or token.folded in self._language.first_words(_STARTS) or token.folded in also:
            return True
        return may_be_number(token, self._language)

    def _is_money(self, index: int) -> bool:
        """Whether a sign of a currency stands before or after this number: €3 is no third of a month."""
        before = index > 0 and self._tokens[index - 1].text in CURRENCY_SIGNS
        return before or (index + 1 < len(self._tokens) and self._tokens[index + 1].text in CURRENCY_SIGNS)

    # -- ranges -------------------------------------------------------------------------------------------------------

    def _range(self, index: int) -> DateMatch | None:
        """ "from 3 to 10 May", "3-10 May", "May 3-10", "between June and August", "from Friday to Monday"."""
        opened = self._size("range_open", index)
        if not self._may_start(index + opened):
            return None
        start = index + opened
        first, day = self._single(start, bare_months=bool(opened)), self._day(start)
        for begin, length in ((first, first.tokens if first else 0), (None, day[1] if day else 0)):
            if not length:
                continue
            middle = self._size("range_to", start + length)
            if not middle:
                continue
            after = start + length + middle
            last = self._single(after, bare_months=True)
            # "May 3-10": the second day takes the month of the first one; "3-10 May": the first takes that of the second.
            end_day = self._day(after) if last is None and begin is not None else None
            made = self._joined(begin, day, last, end_day)
            if made is not None:
                closing = last.tokens if last else end_day[1] if end_day else 0
                return DateMatch(index, opened + length + middle + closing, made)
        return None

    def _joined(
        self,
        begin: DateMatch | None,
        day: tuple[int, int] | None,
        last: DateMatch | None,
        end_day: tuple[int, int] | None,
    ) -> DateRange | None:
        if begin is not None and last is not None:
            start, end = begin.dates.start, last.dates.end
            while end < start and end.year < start.year + 2:
                end = in_year(end, end.year + 1)
            # "from 20 December to 5 January", written before the 20th: the start must not lie a year after the end.
            return DateRange(start, end) if (end - start).days <= 366 else None
        if begin is None and day is not None and last is not None and last.dates.days == 1:
            since = day_or_none(last.dates.end.year, last.dates.end.month, day[0])
            return DateRange(since, last.dates.end) if since is not None and since <= last.dates.end else None
        if begin is not None and end_day is not None and begin.dates.days == 1:
            until = day_or_none(begin.dates.start.year, begin.dates.start.month, end_day[0])
            return DateRange(begin.dates.start, until) if until is not None and until >= begin.dates.start else None
        return None

    # -- single dates -------------------------------------------------------------------------------------------------

    def _single(self, index: int, *, bare_months: bool = False) -> DateMatch | None:
        if (index, bare_months) not in self._singles:
            self._singles[index, bare_months] = self._read_single(index, bare_months)
        return self._singles[index, bare_months]

    def _read_single(self, index: int, bare_months: bool) -> DateMatch | None:
        if not self._may_start(index):
            return None
        readers = (self._iso, self._numeric, self._day_and_month, self._relative, self._named_day, self._month_and_day,
                   self._part, self._weekday, self._period, self._feast, self._season)  # fmt: skip
        # The last six begin with a word, the first two with a number.
        for read in readers[:5] if self._tokens[index].is_number else readers[2:]:
            found = read(index)
            if found is not None:
                return DateMatch(index, found[1], found[0])
        month = self._month(index, bare=bare_months)
        return None if month is None else DateMatch(index, month[1], month[0])

    def _iso(self, index: int) -> tuple[DateRange, int] | None:
        parts = self._separated(index, "-")
        if parts is None or len(parts[0]) != 4:
            return None
        return _one(self._day_of(*map(int, parts)), 5)

    def _numeric(self, index: int) -> tuple[DateRange, int] | None:
        """3.5., 3.5.2027, 03/05/2027, 3/5."""
        token = self._tokens[index]
        dotted = _NUMERIC.match(token.text)
        if dotted is not None and (dotted[3] or (self._language.code == "de" and self._sign(index + 1, "."))):
            size = 1 if dotted[3] else 2
            if not dotted[3] and (year := self._year(index + 2)) is not None:
                return self._day_first(dotted[1], dotted[2], str(year), 3)
            return self._day_first(dotted[1], dotted[2], dotted[3] or "", size)
        parts = self._separated(index, "/")
        if parts is not None and len(parts[0]) <= 2:
            return self._day_first(*parts, 5)
        if token.is_number and len(token.text) <= 2 and self._sign(index + 1, "/") and index + 2 < len(self._tokens):
            other = self._tokens[index + 2]
            if other.is_number and len(other.text) <= 2 and not self._sign(index + 3, "/"):
                return self._day_first(token.text, other.text, "", 3)
        return None

    def _day_first(self, first: str, second: str, year: str, size: int) -> tuple[DateRange, int] | None:
        if not all(text.isdecimal() for text in (first, second)) or (year and not year.isdecimal()):
            return None
        day, month = int(first), int(second)
        if month > 12 >= day:
            day, month = month, day
        if not year:
            return _one(next_time(self._today, month, day), size)
        return _one(self._day_of(int(year) + (2000 if len(year) == 2 else 0), month, day), size)

    def _day_of(self, year: int, month: int, day: int) -> date | None:
        """A day with a written year: of this decade or so, past or not; others are no dates of a journey."""
        return day_or_none(year, month, day) if abs(year - self._today.year) <= _MOST_YEARS else None

    def _separated(self, index: int, sign: str) -> tuple[str, str, str] | None:
        group = self._tokens[index : index + 5]
        if len(group) < 5 or group[1].text != sign or group[3].text != sign:
            return None
        texts = (group[0].text, group[2].text, group[4].text)
        return texts if all(text.isdecimal() and len(text) <= 4 for text in texts) else None

    def _day_and_month(self, index: int) -> tuple[DateRange, int] | None:
        """3 May, the 3rd of May 2027, 3. Mai, 3 de mayo de 2027."""
        day = self._day(index)
        if day is None:
            return None
        size = day[1]
        size += self._size("of", index + size)
        month = self._language.phrases("months").at(self._tokens, index + size)
        if month is None:
            return None
        size += month.tokens
        return self._with_year(int(month.value), day[0], index, size)

    def _month_and_day(self, index: int) -> tuple[DateRange, int] | None:
        """May 3rd, May 3, 2027. English only: elsewhere the day comes first."""
        if self._language.code != "en":
            return None
        month = self._language.phrases("months").at(self._tokens, index)
        if month is None:
            return None
        size = month.tokens + self._size("place_articles", index + month.tokens)
        day = self._day(index + size)
        if day is None:
            return None
        return self._with_year(int(month.value), day[0], index, size + day[1])

    def _with_year(self, month: int, day: int, index: int, size: int) -> tuple[DateRange, int] | None:
        of = self._size("of", index + size)
        for gap in (of, 0) if of else (0,):
            year = self._year(index + size + gap)
            if year is not None:
                return _one(day_or_none(year, month, day), size + gap + 1)
        return _one(next_time(self._today, month, day), size)

    def _day(self, index: int) -> tuple[int, int] | None:
        """A day of a month, 1..31, as digits with or without an ending, or as a word."""
        if index >= len(self._tokens):
            return None
        token = self._tokens[index]
        if token.is_number:
            if not token.text.isdecimal() or len(token.text) > 2 or not 1 <= int(token.text) <= 31:
                return None
            return int(token.text), 1 + self._size("ordinal", index + 1)
        ordinal = self._language.phrases("ordinals").at(self._tokens, index)
        if ordinal is not None and int(ordinal.value) > 0:
            return int(ordinal.value), ordinal.tokens
        number = number_at(self._tokens, index, self._language)
        if number is None or not 1 <= number.value <= 31:
            return None
        return int(number.value), number.tokens

    def _month(self, index: int, *, bare: bool) -> tuple[DateRange, int] | None:
        """A whole month: "in May", "May 2027", "next March"."""
        found = self._language.phrases("months").at(self._tokens, index)
        # "31 February" is no day, and does not mean all of February.
        if found is None or (index > 0 and self._tokens[index - 1].is_number and not bare):
            return None
        of = self._size("of", index + found.tokens)
        for gap in (of, 0) if of else (0,):
            year = self._year(index + found.tokens + gap)
            if year is not None:
                return whole_month(year, int(found.value)), found.tokens + gap + 1
        if not bare and self._language.phrases("month_needs_lead").at(self._tokens, index):
            alone = len(self._tokens) == 1
            lead = self._language.phrases("month_leads").ending(self._tokens, index)
            # "in may", but not "you may": a verb is no month.
            if not alone and lead is None:
                return None
        return self._next_month(int(found.value)), found.tokens

    def _part(self, index: int) -> tuple[DateRange, int] | None:
        """Early May, Mitte Mai, a finales de mayo."""
        part = self._language.phrases("parts").at(self._tokens, index)
        if part is None:
            return None
        size = part.tokens + self._size("of", index + part.tokens)
        month = self._month(index + size, bare=True)
        if month is None:
            return None
        first, last = month[0].start, month[0].end
        tenth, twentieth = first.replace(day=10), first.replace(day=20)
        days = {
            "early": DateRange(first, tenth),
            "mid": DateRange(tenth + timedelta(1), twentieth),
            "late": DateRange(twentieth + timedelta(1), last),
        }
        return days[part.value], size + month[1]

    def _relative(self, index: int) -> tuple[DateRange, int] | None:
        """In two weeks, in 3 Tagen, dentro de un mes."""
        opening = self._language.phrases("in").at(self._tokens, index)
        if opening is None:
            return None
        length = self._length(index + opening.tokens)
        if length is None:
            return None
        return _one(self._today + timedelta(length[0]), opening.tokens + length[1])

    def _length(self, index: int) -> tuple[int, int] | None:
        """Days and tokens of "two weeks", "a month"."""
        number = number_at(self._tokens, index, self._language, articles=True)
        if number is None or not 1 <= number.value <= 400 or number.value != int(number.value):
            return None
        unit = self._language.phrases("units").at(self._tokens, index + number.tokens)
        if unit is None:
            return None
        days = {"day": 1, "night": 1, "week": 7, "month": 30, "year": 365, "weekend": 2}[unit.value] * int(number.value)
        return (days, number.tokens + unit.tokens) if days <= _MOST_DAYS_AHEAD else None

    def _named_day(self, index: int) -> tuple[DateRange, int] | None:
        found = self._language.phrases("day_words").at(self._tokens, index)
        if found is None:
            return None
        # "guten Morgen" and "por la mañana" are no tomorrow.
        for length in range(1, 4):
            other = self._language.phrases("not_day_words").at(self._tokens, index - length + 1)
            if other is not None and other.tokens >= length:
                return None
        return _one(self._today + timedelta(int(found.value)), found.tokens)

    def _weekday(self, index: int) -> tuple[DateRange, int] | None:
        """Friday, this Friday, next Friday, el viernes que viene."""
        kind, size = self._which(index)
        found = self._language.phrases("weekdays").at(self._tokens, index + size)
        if found is None:
            return None
        written = self._tokens[index + size].text
        if found.value and len(written) <= 3 and not written[0].isupper():
            return None
        size += found.tokens
        if not kind and (later := self._size("post_next", index + size)):
            kind, size = "next", size + later
        number = int(found.value) - 1
        if kind in ("next", "after_next"):
            monday = self._today - timedelta(self._today.weekday())
            return _one(monday + timedelta(number + (7 if kind == "next" else 14)), size)
        ahead = (number - self._today.weekday() - 1) % 7 + 1
        return _one(self._today + timedelta(ahead), size)

    def _which(self, index: int) -> tuple[str, int]:
        for kind in ("after_next", "next", "this"):
            if size := self._size(kind, index):
                return kind, size
        return "", 0

    def _period(self, index: int) -> tuple[DateRange, int] | None:
        """This weekend, next week, nächsten Monat, la semana que viene; a weekend may stand alone."""
        kind, size = self._which(index)
        unit = self._language.phrases("units").at(self._tokens, index + size)
        if unit is None or unit.value in ("day", "night"):
            return None
        size += unit.tokens
        later = self._size("post_next", index + size)
        if not kind and later:
            kind, size = "next", size + later
        counted = number_at(self._tokens, index - 1, self._language, articles=True) is not None
        if not kind and unit.value == "weekend" and not counted:
            kind = "this"
        if not kind:
            return None
        steps = {"this": 0, "next": 1, "after_next": 2}[kind]
        if unit.value == "month":
            months = self._today.month - 1 + steps
            return whole_month(self._today.year + months // 12, months % 12 + 1), size
        if unit.value == "year":
            year = self._today.year + steps
            return DateRange(date(year, 1, 1), date(year, 12, 31)), size
        monday = self._today - timedelta(self._today.weekday()) + timedelta(7 * steps)
        if unit.value == "weekend":
            return DateRange(monday + timedelta(5), monday + timedelta(6)), size
        return DateRange(max(monday, self._today), monday + timedelta(6)), size

    def _feast(self, index: int) -> tuple[DateRange, int] | None:
        found = self._language.phrases("feasts").at(self._tokens, index)
        return None if found is None else (next_feast(self._today, found.value), found.tokens)

    def _season(self, index: int) -> tuple[DateRange, int] | None:
        kind, size = self._which(index)
        found = self._language.phrases("seasons").at(self._tokens, index + size)
        if found is None:
            return None
        size += found.tokens
        year = self._year(index + size)
        if year is not None:
            return season(found.value, year), size + 1
        return next_season(self._today, found.value, skip_running=kind == "next"), size

    # -- words --------------------------------------------------------------------------------------------------------

    def _year(self, index: int) -> int | None:
        if index >= len(self._tokens):
            return None
        text = self._tokens[index].text
        if len(text) != 4 or not text.isdecimal():
            return None
        return int(text) if self._today.year - 1 <= int(text) <= self._today.year + 5 else None

    def _next_month(self, month: int) -> DateRange:
        year = self._today.year + (month < self._today.month)
        days = whole_month(year, month)
        return DateRange(max(days.start, self._today), days.end)

    def _size(self, name: str, index: int) -> int:
        found = self._language.phrases(name).at(self._tokens, index)
        return found.tokens if found else 0

    def _sign(self, index: int, sign: str) -> bool:
        return index < len(self._tokens) and self._tokens[index].text == sign


def _one(day: date | None, size: int) -> tuple[DateRange, int] | None:
    return None if day is None else (DateRange(day, day), size)
