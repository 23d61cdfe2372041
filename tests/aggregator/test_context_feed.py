"""Building the broadcast feed: real holidays, Open-Meteo's answers over real HTTP, and sources that fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from aggregator.context_feed import AHEAD_DAYS, FeedSources, build_feed
from aggregator.context_sources import (
    BATCH,
    EventFile,
    ForecastFile,
    OpenMeteo,
    PublicHolidays,
    RecordedForecast,
    SimulatedWeather,
)
from shared_models.context_feed import BroadcastFeed, Day
from shared_models.errors import ContextFeedError
from shared_models.travel.catalogue import Catalogue, Destination, load_catalogue

SAMPLE = Path(__file__).parent.parent / "data" / "travel" / "open_meteo_daily.json"
"""In the form that Open-Meteo documents for its daily API; the values are our own and stand for no real day."""
NOW_S = datetime(2026, 5, 4, 6, tzinfo=UTC).timestamp()
TODAY = date(2026, 5, 4)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture(scope="module")
def few(catalogue: Catalogue) -> Catalogue:
    """Fewer places, where more would only take longer."""
    return Catalogue(catalogue.feature_names, tuple(catalogue.place(id) for id in ("lisbon", "berlin", "auckland")))


class Server:
    """Answers like Open-Meteo, from the sample's first location; what it is told to say first, it says first."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.first: list[tuple[int, bytes]] = []
        sample = json.loads(SAMPLE.read_text())[0]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                outer.asked.append(query)
                many = len(query["latitude"].split(","))
                status, body = (
                    outer.first.pop(0)
                    if outer.first
                    else (200, json.dumps([sample] * many if many > 1 else sample).encode())
                )
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/forecast"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=5.0) as opened:
        yield opened


def test_every_place_is_asked_for_whoever_the_users_are(
    catalogue: Catalogue, server: Server, client: httpx.Client
) -> None:
    found = OpenMeteo(client, server.url).forecast(catalogue.destinations, TODAY)
    assert set(found) == set(catalogue.rows)
    assert len(server.asked) == -(-len(catalogue) // BATCH)
    assert server.asked[0]["daily"] == "weather_code,temperature_2m_max,temperature_2m_min,precipitation_sum"
    assert all(len(known) == 7 for known in found.values())


def test_one_place_comes_as_an_object_and_not_as_a_list(
    catalogue: Catalogue, server: Server, client: httpx.Client
) -> None:
    found = OpenMeteo(client, server.url).forecast([catalogue.place("lisbon")], TODAY + timedelta(days=2))
    assert [day.day for day in found["lisbon"]] == [TODAY + timedelta(days=n) for n in range(2, 7)]


def test_a_busy_service_is_asked_again(catalogue: Catalogue, server: Server, client: httpx.Client) -> None:
    waited: list[float] = []
    server.first = [(429, b""), (503, b"")]
    OpenMeteo(client, server.url, wait=waited.append).forecast([catalogue.place("lisbon")], TODAY)
    assert waited == [2.0, 4.0]


@pytest.mark.parametrize(
    "answer",
    [
        (400, b"{}"),
        (200, b"not json"),
        (200, b"[]"),
        (200, b"[[1]]"),
        (200, b"{}"),
        (200, b'{"daily": {"time": 5}}'),
        (200, b"[" * 50_000),
    ],
)
def test_an_answer_that_is_none_is_one_error(
    catalogue: Catalogue, server: Server, client: httpx.Client, answer: tuple[int, bytes]
) -> None:
    server.first = [answer]
    with pytest.raises(ContextFeedError, match="Open-Meteo"):
        OpenMeteo(client, server.url, wait=lambda _: None).forecast([catalogue.place("lisbon")], TODAY)


def test_an_endless_answer_is_cut_off(
    catalogue: Catalogue, server: Server, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.context_sources.MAX_RESPONSE_BYTES", 1000)
    server.first = [(200, b" " * 2000)]
    with pytest.raises(ContextFeedError, match="more than 1000 bytes"):
        OpenMeteo(client, server.url).forecast([catalogue.place("lisbon")], TODAY)


def test_an_error_does_not_tell_the_key(catalogue: Catalogue, client: httpx.Client) -> None:
    asked = OpenMeteo(client, "http://127.0.0.1:9/v1", api_key="secret-key", wait=lambda _: None)
    with pytest.raises(ContextFeedError) as refused:
        asked.forecast([catalogue.place("lisbon")], TODAY)
    assert "secret-key" not in str(refused.value)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("temperature_2m_max", None),
        ("temperature_2m_max", 900),
        ("precipitation_sum", -1),
        ("time", "soon"),
        ("time", None),
    ],
)
def test_days_count_up_to_the_first_that_is_not_complete(
    tmp_path: Path, catalogue: Catalogue, column: str, value: Any
) -> None:
    said = json.loads(SAMPLE.read_text())[:1]
    said[0]["daily"][column][3] = value
    (tmp_path / "said.json").write_text(json.dumps(said))
    found = RecordedForecast(tmp_path / "said.json").forecast(catalogue.destinations, TODAY)
    assert len(found["lisbon"]) == 3


def test_a_recorded_sample_is_replayed_from_today_and_says_so(catalogue: Catalogue) -> None:
    built = build_feed(catalogue, FeedSources(weather=RecordedForecast(SAMPLE)), NOW_S)
    told = {place.id: place.days for place in built.feed.places if place.days}
    assert set(told) == {"lisbon", "berlin", "mallorca", "reykjavik", "bangkok", "auckland"}
    assert all(known[0].day == TODAY and len(known) == 7 for known in told.values())
    assert "not a forecast" in built.feed.sources["weather"]
    assert any("nothing for" in note for note in built.notes)


def test_a_file_of_forecasts_keeps_its_days_and_leaves_out_what_is_over(catalogue: Catalogue) -> None:
    told = ForecastFile(SAMPLE, "our own service").forecast(catalogue.destinations, TODAY + timedelta(days=2))
    assert [day.day for day in told["lisbon"]] == [TODAY + timedelta(days=ahead) for ahead in range(2, 7)]
    built = build_feed(catalogue, FeedSources(weather=ForecastFile(SAMPLE, "our own service")), NOW_S)
    assert built.feed.sources["weather"] == "our own service"


@pytest.mark.parametrize("url", ["http://weather.example/v1", "ftp://weather.example", "weather.example", ""])
def test_weather_is_asked_over_https_only(url: str) -> None:
    with httpx.Client() as client, pytest.raises(ContextFeedError, match="https"):
        OpenMeteo(client, url)


def test_real_public_holidays_of_every_country_of_the_catalogue(catalogue: Catalogue) -> None:
    built = build_feed(catalogue, FeedSources(holidays=PublicHolidays()), NOW_S)
    assert not built.notes
    assert set(built.feed.holidays) == {place.country for place in catalogue.destinations}
    germany = {holiday.day: holiday.name for holiday in built.feed.holidays["DE"]}
    assert germany[date(2026, 10, 3)] == "German Unity Day"
    assert germany[date(2027, 3, 26)] == "Good Friday"
    last = TODAY + timedelta(days=AHEAD_DAYS)
    assert all(TODAY - timedelta(days=1) <= day <= last for day in germany)


def test_simulated_weather_is_the_same_for_a_seed_and_near_the_climate(catalogue: Catalogue) -> None:
    some = Catalogue(catalogue.feature_names, catalogue.destinations[::5])
    feeds = [build_feed(some, FeedSources(SimulatedWeather(seed)), NOW_S).feed for seed in (1, 1, 2)]
    assert feeds[0].to_bytes() == feeds[1].to_bytes() != feeds[2].to_bytes()
    away = [
        sum(day.high_c for day in place.days) / len(place.days) - catalogue.place(place.id).month(5).high_c
        for place in feeds[0].places
    ]
    assert abs(sum(away) / len(away)) < 0.5
    assert "not a forecast" in feeds[0].sources["weather"]


EVENTS = """
- {id: jazz, place: lisbon, kind: music, first: 2026-05-10, last: 2026-05-12, title: {en: Jazz, de: Jazztage}}
- {id: past, place: lisbon, kind: film, first: 2020-01-01, last: 2020-01-02, title: {en: Old films}}
- {id: lost, place: atlantis, kind: film, first: 2026-06-01, last: 2026-06-02, title: {en: Films}}
"""


def test_events_come_from_the_operators_list_and_strays_are_noted(tmp_path: Path, catalogue: Catalogue) -> None:
    (tmp_path / "events.yaml").write_text(EVENTS)
    built = build_feed(catalogue, FeedSources(events=EventFile(tmp_path / "events.yaml")), NOW_S)
    assert [event.id for event in built.feed.events] == ["jazz"]
    assert built.notes == ("events: 1 at places that are not in the catalogue, such as 'atlantis'",)


@pytest.mark.parametrize(
    "text", ["{", "5", "- 5", "- {id: x}", "- {id: 1, place: a, kind: b, first: x, last: y, title: z}"]
)
def test_a_bad_list_of_events_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "events.yaml").write_text(text)
    with pytest.raises(ContextFeedError, match=r"events\.yaml"):
        EventFile(tmp_path / "events.yaml").events(TODAY, TODAY)


class Failing:
    """A source of somebody else that breaks its contract."""

    name = "broken"

    def __init__(self, error: Exception) -> None:
        self._error = error

    def forecast(self, places: Sequence[Destination], first: date) -> Mapping[str, tuple[Day, ...]]:
        raise self._error

    def holidays(self, countries: Sequence[str], first: date, last: date) -> Any:
        raise self._error

    def events(self, first: date, last: date) -> Any:
        raise self._error


@pytest.mark.parametrize("error", [ContextFeedError("no answer"), KeyError("secret"), RecursionError()])
def test_a_source_that_fails_costs_its_own_part_and_the_last_word_is_kept(
    tmp_path: Path, few: Catalogue, error: Exception
) -> None:
    (tmp_path / "events.yaml").write_text(EVENTS)
    good = FeedSources(SimulatedWeather(1), PublicHolidays(), EventFile(tmp_path / "events.yaml"))
    before = build_feed(few, good, NOW_S).feed
    broken = Failing(error)
    after = build_feed(few, FeedSources(broken, broken, broken), NOW_S + 2 * 86_400, before)
    assert len([note for note in after.notes if "broken failed" in note]) == 3
    assert "secret" not in " ".join(after.notes)
    assert after.feed.sources == before.sources
    assert after.feed.holidays == before.holidays
    kept = {place.id: place.days for place in after.feed.places}
    assert kept["lisbon"] == next(place.days for place in before.places if place.id == "lisbon")[2:]


class Lying:
    """A source of somebody else that answers with something else than it should."""

    def __init__(self, answer: Any, name: Any = "liar") -> None:
        self.name, self._answer = name, answer

    def forecast(self, places: Sequence[Destination], first: date) -> Any:
        return self._answer


class _Calendar:
    name = "liar"

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def holidays(self, countries: Sequence[str], first: date, last: date) -> Any:
        return self._answer

    def events(self, first: date, last: date) -> Any:
        return self._answer


@pytest.mark.parametrize(
    "answer",
    [
        None,
        5,
        "x",
        [1],
        {"lisbon": 5},
        {"lisbon": ["x"]},
        {"lisbon": (Day(TODAY, "clear", float("nan"), 1.0, 0.0),)},
        {"lisbon": (Day(TODAY, "clear", 1.0, 9.0, 0.0),)},
        {"lisbon": (Day(TODAY, "clear", 20.0, 9.0, 0.0),) * 2},
    ],
)
def test_a_source_that_answers_nonsense_costs_its_own_part(few: Catalogue, answer: Any) -> None:
    built = build_feed(few, FeedSources(Lying(answer), PublicHolidays()), NOW_S)
    assert any("liar failed" in note for note in built.notes)
    assert set(built.feed.sources) == {"holidays"}
    assert not any(place.days for place in built.feed.places)


@pytest.mark.parametrize("answer", [None, ["x"], {"DE": "x"}, {"de": ((TODAY, "x"),)}, {"DE": ((TODAY, "a\nb"),)}])
def test_holidays_and_events_that_are_nonsense_cost_their_own_part(few: Catalogue, answer: Any) -> None:
    liar = _Calendar(answer)
    built = build_feed(few, FeedSources(SimulatedWeather(1), liar, liar), NOW_S)
    assert set(built.feed.sources) == {"weather"}
    assert (built.feed.holidays, built.feed.events) == ({}, ())


def test_without_sources_the_feed_still_names_every_place(catalogue: Catalogue) -> None:
    built = build_feed(catalogue, FeedSources(), NOW_S)
    assert len(built.feed.places) == len(catalogue)
    assert built.feed.sources == {}
    assert BroadcastFeed.from_bytes(built.feed.to_bytes()).staleness(NOW_S + 60) == "fresh"
