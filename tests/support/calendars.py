"""Calendars for tests, written out as iCalendar."""

from __future__ import annotations


def ics(*events: str, head: str = "") -> bytes:
    body = "".join(
        f"BEGIN:VEVENT\r\nUID:{n}\r\nDTSTAMP:20261101T000000Z\r\n{event}\r\nEND:VEVENT\r\n"
        for n, event in enumerate(events)
    )
    return f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//x//EN\r\n{head}{body}END:VCALENDAR\r\n".encode()


def lines(*parts: str) -> str:
    return "\r\n".join(parts)


MEETING = lines("SUMMARY:Oncologist", "DTSTART:20261125T090000Z", "DTEND:20261125T103000Z", "LOCATION:Room 5")
TRIP = lines("SUMMARY:Lisbon with Anna", "DTSTART;VALUE=DATE:20261204", "DTEND;VALUE=DATE:20261209")
