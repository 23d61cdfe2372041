"""Context providers: coarse, isolated from one another, and from a feed that is the same for everybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from captured import START_S, CapturingDevice

from edge_client.know.context import (
    ContextFeed,
    ContextSources,
    DeviceContext,
    FeedContext,
    PlaceContext,
    TimeContext,
)
from shared_models.errors import ConfigError, WireError
from shared_models.profile import default_schema

SCHEMA = default_schema()
FEED = {
    "format": "tacit-context-feed-1",
    "issued": "2027-01-15T06:00:00Z",
    "valid_until": "2027-01-15T12:00:00Z",
    "places": {
        "Lisbon": {"weather": "clear", "temperature": 16, "traffic": "jammed", "latitude": 38.7, "longitude": -9.1},
        "Zürich": {
            "weather": "Snow",
            "temperature": {"value": 28.4, "unit": "degF"},
            "local_events": ["Light festival", "Book fair"],
            "latitude": 47.4,
            "longitude": 8.5,
            "motto": "not a thing of the schema",
        },
    },
}


def feed() -> ContextFeed:
    return ContextFeed.from_document(FEED)


@dataclass
class Broken:
    said: Any
    name: str = "broken"

    def provide(self, now_s: float) -> Mapping[str, Any]:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said  # type: ignore[no-any-return]


def test_device_and_time_are_told_in_the_words_of_the_schema() -> None:
    sources = ContextSources([DeviceContext("tablet"), TimeContext(lambda now_s: -5 * 3600 - 1800)], SCHEMA)
    found = sources.gather(START_S)  # a Friday, 08:00 UTC
    assert found.pop("os") in SCHEMA.attributes["os"].choices
    assert found == {
        "device_type": "tablet",
        "local_hour": 2,
        "part_of_day": "night",
        "weekend": False,
        "utc_offset_h": -6,
    }
    assert set(ContextSources([TimeContext()], SCHEMA).gather(START_S)) == {
        "local_hour",
        "part_of_day",
        "weekend",
        "utc_offset_h",
    }


@pytest.mark.parametrize(
    ("place", "weather"),
    [
        ("Lisbon", "clear"),
        ("  zürich ", "snow"),
        ({"city": "Zürich", "country": "Switzerland"}, "snow"),
        ({"latitude": 47.2, "longitude": 8.6}, "snow"),
        ("38.72, -9.14", "clear"),
        ({"latitude": 0, "longitude": 0}, None),
        ("Atlantis", None),
        ("Springfield, Nowhere", None),
        (None, None),
    ],
)
def test_the_feed_is_looked_up_by_the_users_place_on_the_device(place: Any, weather: str | None) -> None:
    sources = ContextSources([PlaceContext(lambda: place), FeedContext(feed, lambda: place)], SCHEMA)
    found = sources.gather(START_S)
    assert found.get("weather") == weather
    assert "motto" not in found
    assert sources.failures == {"place": 0, "feed": 0}


def test_the_feed_is_normalised_like_everything_else() -> None:
    found = ContextSources([FeedContext(feed, lambda: "Zürich")], SCHEMA).gather(START_S)
    assert found == {
        "weather": "snow",
        "temperature": pytest.approx(-2.0),
        "local_events": ["Light festival", "Book fair"],
    }


@pytest.mark.parametrize("now_s", [START_S - 3 * 3600, START_S + 4 * 3600])
def test_a_feed_that_is_not_valid_now_says_nothing(now_s: float) -> None:
    assert ContextSources([FeedContext(feed, lambda: "Lisbon")], SCHEMA).gather(now_s) == {}
    assert ContextSources([FeedContext(lambda: None, lambda: "Lisbon")], SCHEMA).gather(now_s) == {}


@pytest.mark.parametrize(
    "said",
    [RuntimeError("canary"), {"weather": "canary"}, ["canary"], None, {"place": "Canary Road 12"}],
    ids=["raises", "not a choice", "a list", "nothing", "too fine"],
)
def test_a_provider_that_fails_costs_nobody_else(said: Any, caplog: pytest.LogCaptureFixture) -> None:
    sources = ContextSources([Broken(said), DeviceContext("phone")], SCHEMA)
    assert sources.gather(START_S)["device_type"] == "phone"
    assert sources.failures == {"broken": 1, "device": 0}
    assert "canary" not in caplog.text.lower()


def test_a_provider_tells_context_only_and_what_the_schema_names() -> None:
    said = {"diet": ["vegan"], "shoe_size": 42, "traffic": "busy", "weather": None}
    assert ContextSources([Broken(said)], SCHEMA).gather(START_S) == {"traffic": "busy"}


def test_a_later_provider_wins_and_names_are_unique() -> None:
    assert (
        ContextSources([DeviceContext("tv"), Broken({"device_type": "watch"})], SCHEMA).gather(0)["device_type"]
        == "watch"
    )
    with pytest.raises(ConfigError):
        ContextSources([DeviceContext(), DeviceContext()], SCHEMA)


def test_what_was_gathered_is_captured(tmp_path: Path) -> None:
    device = CapturingDevice(tmp_path)
    sources = ContextSources([DeviceContext("phone"), FeedContext(feed, lambda: "Lisbon")], SCHEMA)
    assert device.capture.receive(sources.event(device.now_s)).kept
    values = device.profile.values()
    assert (values["weather"].value, values["weather"].source) == ("clear", "context")
    assert values["traffic"].value == "jammed"
    assert device.stored()[0]["properties"] == {}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "tacit-context-feed-2"},
        {"issued": None},
        {"valid_until": "2027-01-15T06:00:00Z"},
        {"places": []},
        {"places": {"12 Main Street": {}}},
        {"places": {"Lisbon": "sunny"}},
        {"places": {"Lisbon": {"latitude": "38"}}},
        {"places": {"Lisbon": {"latitude": 38, "longitude": float("nan")}}},
        {"places": {5: {}}},
    ],
)
def test_a_malformed_feed_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        ContextFeed.from_document({**FEED, **change})
    with pytest.raises(WireError):
        ContextFeed.from_document([])  # type: ignore[arg-type]
