"""The broadcast feed: read as it was written, the same for everybody, and refused when it is malformed."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import pytest

from shared_models.canonical import canonical_bytes
from shared_models.context_feed import BroadcastFeed, Day, Event, Holiday, Outlook, Place
from shared_models.errors import WireError

FIRST = date(2026, 5, 4)
ISSUED_S = 1_777_852_800


def days(count: int) -> tuple[Day, ...]:
    return tuple(
        Day(FIRST + timedelta(days=n), "rain" if n % 2 else "clear", 20.0 + n, 12.0, 4.0 * (n % 2))
        for n in range(count)
    )


@pytest.fixture
def feed() -> BroadcastFeed:
    return BroadcastFeed(
        ISSUED_S,
        ISSUED_S + 36 * 3600,
        (
            Place("lisbon", "Lisbon", "PT", 38.72, -9.14, days(6)),
            Place("porto", "Porto", "PT", 41.15, -8.61),
        ),
        {"PT": (Holiday(date(2026, 6, 10), "Portugal Day"), Holiday(date(2026, 12, 25), "Christmas Day"))},
        (Event("jazz_2026", "lisbon", "music", FIRST, FIRST + timedelta(days=2), {"en": "Jazz", "de": "Jazztage"}),),
        {"weather": "somebody", "holidays": "a library"},
    )


def test_what_was_written_is_read_back(feed: BroadcastFeed) -> None:
    again = BroadcastFeed.from_bytes(feed.to_bytes())
    assert again.document() == feed.document()
    assert set(again.places) == set(feed.places)
    assert (again.holidays, again.events, again.sources) == (feed.holidays, feed.events, feed.sources)
    assert again.to_bytes() == feed.to_bytes()


def test_today_is_repeated_for_readers_that_want_no_more(feed: BroadcastFeed) -> None:
    said = feed.document()["places"]["Lisbon"]
    assert (said["weather"], said["temperature"], said["local_events"]) == ("clear", 16.0, ["music"])
    assert "weather" not in feed.document()["places"]["Porto"]


def test_an_outlook_says_how_far_it_reaches(feed: BroadcastFeed) -> None:
    assert feed.outlook("lisbon", FIRST, FIRST + timedelta(days=3)) == Outlook(4, 21.5, 2)
    assert feed.outlook("lisbon", FIRST + timedelta(days=4), FIRST + timedelta(days=7)) == Outlook(2, 24.5, 1)
    assert feed.outlook("lisbon", FIRST + timedelta(days=5), FIRST + timedelta(days=9)) is None
    assert feed.outlook("porto", FIRST, FIRST) is None
    assert feed.outlook("nowhere", FIRST, FIRST) is None
    assert feed.last_day == FIRST + timedelta(days=5)


def test_events_and_holidays_are_found_by_their_days(feed: BroadcastFeed) -> None:
    assert [event.id for event in feed.events_at("lisbon", FIRST + timedelta(days=2), FIRST + timedelta(days=9))] == [
        "jazz_2026"
    ]
    assert not feed.events_at("lisbon", FIRST + timedelta(days=3), FIRST + timedelta(days=9))
    assert [holiday.name for holiday in feed.holidays_in("PT", date(2026, 6, 1), date(2026, 6, 30))] == ["Portugal Day"]
    assert feed.holidays_in("DE", date(2026, 1, 1), date(2026, 12, 31)) == ()


@pytest.mark.parametrize(
    ("after_s", "said"),
    [
        (-1, "expired"),
        (0, "fresh"),
        (36 * 3600 - 1, "fresh"),
        (36 * 3600, "stale"),
        (72 * 3600, "expired"),
        (float("nan"), "expired"),
    ],
)
def test_an_old_feed_is_stale_and_then_expired(feed: BroadcastFeed, after_s: float, said: str) -> None:
    assert feed.staleness(ISSUED_S + after_s) == said


def spoiled(feed: BroadcastFeed, path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(feed.to_bytes())
    inner: Any = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "tacit-context-feed-9"),
        (("issued",), 1.5),
        (("issued",), True),
        (("issued",), -1),
        (("issued",), 10**30),
        (("valid_until",), ISSUED_S),
        (("places",), []),
        (("places", "Lisbon"), None),
        (("places", "Lisbon", "latitude"), 90.5),
        (("places", "Lisbon", "country"), "Portugal"),
        (("places", "Lisbon", "user"), "x"),
        (("places", "Lisbon", "days"), [{}] * 17),
        (("places", "Lisbon", "days", 1, "day"), "2026-05-09"),
        (("places", "Lisbon", "days", 1, "day"), "20260505"),
        (("places", "Lisbon", "days", 1, "weather"), ["rain"]),
        (("places", "Lisbon", "days", 1, "high"), -20),
        (("places", "Lisbon", "days", 1, "high"), "hot"),
        (("places", "Porto", "id"), "lisbon"),
        (("places", "x\u0000"), {}),
        (("holidays",), {"Portugal": {}}),
        (("holidays", "PT"), {"2026-13-01": "x"}),
        (("holidays", "PT"), {"2026-12-01": ""}),
        (("events", 0, "place"), "atlantis"),
        (("events", 0, "last"), "2026-05-01"),
        (("events", 0, "title"), {}),
        (("events", 0, "title"), {"en": "a\nb"}),
        (("events",), "x"),
        (("sources",), {"astrology": "x"}),
        (("extra",), 1),
    ],
)
def test_a_malformed_feed_is_refused(feed: BroadcastFeed, path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(WireError):
        BroadcastFeed.from_document(spoiled(feed, path, value))


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"\xff\xfe", b"{" * 1000, b'{"format":NaN}'])
def test_hostile_bytes_are_one_error(raw: bytes) -> None:
    with pytest.raises(WireError):
        BroadcastFeed.from_bytes(raw)


def test_bytes_that_are_not_canonical_are_refused(feed: BroadcastFeed) -> None:
    document = feed.document()
    with pytest.raises(WireError, match="canonical"):
        BroadcastFeed.from_bytes(json.dumps(document).encode())
    assert BroadcastFeed.from_bytes(canonical_bytes(document)).document() == document


def test_two_names_that_a_reader_cannot_tell_apart_are_refused() -> None:
    places = (Place("a", "San  José", "CR", 9.9, -84.1), Place("b", "san josé", "US", 37.3, -121.9))
    with pytest.raises(WireError, match="same name"):
        BroadcastFeed(ISSUED_S, ISSUED_S + 1, places)
