"""Sources of the broadcast feed: Open-Meteo, files that an operator brings, the `holidays` library, and a simulation.

Each is asked about every place of the catalogue in the same way, whoever uses the app: a request tells nothing about a user.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import yaml

from shared_models.context_feed import MAX_DAYS, MAX_TEXT_CHARS, Day, Event, Holiday, Sky
from shared_models.errors import ContextFeedError, WireError
from shared_models.travel.catalogue import Destination, distances_km

if TYPE_CHECKING:
    import httpx

FORECAST_DAYS = 14
BATCH = 50
"""Places in one request."""
MAX_RESPONSE_BYTES = 8 * 1024 * 1024
MAX_EVENT_FILE_BYTES = 4 * 1024 * 1024
ATTEMPTS = 3
NEAREST_KM = 50.0
OPEN_METEO = "https://api.open-meteo.com/v1/forecast"
_DAILY = ("weather_code", "temperature_2m_max", "temperature_2m_min", "precipitation_sum")
_SKIES: tuple[tuple[range, Sky], ...] = (
    (range(2), "clear"),
    (range(2, 4), "cloudy"),
    (range(45, 49), "fog"),
    (range(51, 68), "rain"),
    (range(71, 78), "snow"),
    (range(80, 83), "rain"),
    (range(85, 87), "snow"),
    (range(95, 100), "storm"),
)
"""WMO code table 4677 as Open-Meteo uses it."""


class OpenMeteo:
    """Forecasts by Open-Meteo's daily API, CC BY 4.0; whoever runs a commercial fleet passes the address and key of their
    contract."""

    name = "Open-Meteo.com (CC BY 4.0)"

    def __init__(
        self,
        client: httpx.Client,
        url: str = OPEN_METEO,
        *,
        api_key: str | None = None,
        days: int = FORECAST_DAYS,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """`client` asks; `url` is https. Raises ContextFeedError."""
        if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= MAX_DAYS:
            raise ContextFeedError(f"a forecast of {str(days)[:40]} days, expected 1 to {MAX_DAYS}")
        parts = urlsplit(url)
        if not parts.hostname or (parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "::1")):
            raise ContextFeedError(f"{url[:200]!r} is not an https address: whoever listens could change the weather")
        self._client, self._url, self._api_key, self._days, self._wait = client, url, api_key, days, wait

    def forecast(self, places: Sequence[Destination], first: date) -> Mapping[str, tuple[Day, ...]]:
        """Days of the place's own calendar, from `first` on. Raises ContextFeedError."""
        found: dict[str, tuple[Day, ...]] = {}
        for start in range(0, len(places), BATCH):
            batch = places[start : start + BATCH]
            said = _locations(self._get(batch))
            if len(said) != len(batch):
                raise ContextFeedError(f"Open-Meteo: {len(said)} places in the answer, {len(batch)} were asked for")
            for place, location in zip(batch, said, strict=True):
                found[place.id] = tuple(day for day in _days(location) if day.day >= first)
        return found

    def _get(self, batch: Sequence[Destination]) -> bytes:
        import httpx

        asked: dict[str, str | int] = {
            "latitude": ",".join(f"{place.latitude:.2f}" for place in batch),
            "longitude": ",".join(f"{place.longitude:.2f}" for place in batch),
            "daily": ",".join(_DAILY),
            "timezone": "auto",
            "forecast_days": self._days,
        }
        if self._api_key is not None:
            asked["apikey"] = self._api_key
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._wait(2.0**attempt)
            try:
                with self._client.stream("GET", self._url, params=asked) as response:
                    if response.status_code == 200:
                        return _bounded(response)
                    problem = f"status {response.status_code}"
                    if response.status_code != 429 and response.status_code < 500:
                        break
            except httpx.HTTPError as error:
                # The address holds the key: only the kind of error is told.
                problem = type(error).__name__
        raise ContextFeedError(f"Open-Meteo: {problem}")


class ForecastFile:
    """Forecasts that the operator brings in a file: a JSON list of locations in the form of Open-Meteo's answers."""

    def __init__(self, path: Path, name: str = "the operator's forecast") -> None:
        """`name`: who says so, shown to users. Raises ContextFeedError."""
        self.name = name
        try:
            if path.stat().st_size > MAX_RESPONSE_BYTES:
                raise ContextFeedError(f"{path.name}: larger than {MAX_RESPONSE_BYTES} bytes")
            self._said = _locations(path.read_bytes())
        except OSError as error:
            raise ContextFeedError(f"{path}: cannot be read: {type(error).__name__}") from error

    def forecast(self, places: Sequence[Destination], first: date) -> Mapping[str, tuple[Day, ...]]:
        """Each location goes to the nearest place within NEAREST_KM. Raises ContextFeedError."""
        found = self._by_place(places)
        return {place: tuple(day for day in days if day.day >= first) for place, days in found.items()}

    def _by_place(self, places: Sequence[Destination]) -> dict[str, tuple[Day, ...]]:
        found = {}
        for location in self._said:
            at = [location.get(name) for name in ("latitude", "longitude")]
            if not places or not all(isinstance(value, int | float) for value in at):
                continue
            coordinates = np.array([[place.latitude, place.longitude] for place in places])
            away = distances_km(float(at[0]), float(at[1]), coordinates[:, 0], coordinates[:, 1])  # type: ignore[arg-type]
            days = _days(location)
            if days and float(away.min()) <= NEAREST_KM:
                found[places[int(away.argmin())].id] = days
        return found


class RecordedForecast(ForecastFile):
    """Replays such a file, its first day as the first asked for: for tests and demonstrations; says so in its name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a recorded sample, not a forecast")

    def forecast(self, places: Sequence[Destination], first: date) -> Mapping[str, tuple[Day, ...]]:
        """Raises ContextFeedError."""
        found = self._by_place(places)
        return {place: tuple(_moved(day, first - days[0].day) for day in days) for place, days in found.items()}


class SimulatedWeather:
    """Days drawn from the climate table, for demonstrations and tests without a network; says so in its name."""

    name = "simulated from long-term means, not a forecast"

    def __init__(self, seed: int, days: int = FORECAST_DAYS) -> None:
        self._seed, self._days = seed, days

    def forecast(self, places: Sequence[Destination], first: date) -> Mapping[str, tuple[Day, ...]]:
        random = np.random.default_rng(self._seed)
        return {
            place.id: tuple(self._day(place, first + timedelta(days=n), random) for n in range(self._days))
            for place in places
        }

    def _day(self, place: Destination, day: date, random: np.random.Generator) -> Day:
        usual, shift = place.month(day.month), float(random.normal(0.0, 2.0))
        wet = bool(random.random() < usual.rain_days / 30.4)
        rain_mm = round(float(random.gamma(1.2, 5.0)) + 1.0, 1) if wet else 0.0
        high, low = round(usual.high_c + shift, 1), round(usual.low_c + shift, 1)
        sky: Sky = ("snow" if high < 2 else "rain") if wet else ("clear" if random.random() < 0.6 else "cloudy")
        return Day(day, sky, high, low, rain_mm)


class PublicHolidays:
    """The `holidays` library: public holidays of a whole country, in English where the library has English names."""

    name = "the holidays library"

    def holidays(self, countries: Sequence[str], first: date, last: date) -> Mapping[str, tuple[Holiday, ...]]:
        import holidays

        known, localized = holidays.list_supported_countries(), holidays.list_localized_countries()
        found = {}
        for country in countries:
            if country not in known:
                continue
            language = "en_US" if "en_US" in localized.get(country, ()) else None
            calendar = holidays.country_holidays(country, years=range(first.year, last.year + 1), language=language)
            found[country] = tuple(
                Holiday(day, str(name)[:MAX_TEXT_CHARS])
                for day, name in sorted(calendar.items())
                if first <= day <= last
            )
        return found


class EventFile:
    """Events that the operator keeps in a YAML file: a list in the form that the feed has (id, place, kind, first, last,
    title)."""

    def __init__(self, path: Path, name: str = "the operator's list") -> None:
        self.name, self._path = name, path

    def events(self, first: date, last: date) -> Sequence[Event]:
        try:
            if self._path.stat().st_size > MAX_EVENT_FILE_BYTES:
                raise ContextFeedError(f"{self._path.name}: larger than {MAX_EVENT_FILE_BYTES} bytes")
            entries = yaml.safe_load(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise ContextFeedError(f"{self._path.name}: cannot be read: {str(error)[:200]}") from error
        if not isinstance(entries, list):
            raise ContextFeedError(f"{self._path.name}: expected a list of events")
        try:
            events = [Event.from_document(_with_plain_dates(entry)) for entry in entries]
        except WireError as error:
            raise ContextFeedError(f"{self._path.name}: {error}") from error
        return [event for event in events if event.last >= first and event.first <= last]


def _with_plain_dates(entry: Any) -> Any:
    """YAML reads 2026-12-24 as a date; the feed keeps it as text."""
    if not isinstance(entry, Mapping):
        return entry
    return {key: value.isoformat() if isinstance(value, date) else value for key, value in entry.items()}


def _moved(day: Day, by: timedelta) -> Day:
    return Day(day.day + by, day.sky, day.high_c, day.low_c, day.rain_mm)


def _bounded(response: httpx.Response) -> bytes:
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > MAX_RESPONSE_BYTES:
            raise ContextFeedError(f"Open-Meteo: an answer of more than {MAX_RESPONSE_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _locations(raw: bytes) -> list[dict[str, Any]]:
    """Open-Meteo's answer: one object, or a list of them for several places."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ContextFeedError("Open-Meteo: the answer is not JSON") from error
    said = said if isinstance(said, list) else [said]
    if not all(isinstance(location, dict) for location in said):
        raise ContextFeedError("Open-Meteo: expected objects, one for each place")
    return said


def _days(location: Mapping[str, Any]) -> tuple[Day, ...]:
    """The days of one place up to the first that is not complete. Raises ContextFeedError for what is no forecast at all."""
    daily = location.get("daily")
    if not isinstance(daily, Mapping) or not all(isinstance(daily.get(name), list) for name in ("time", *_DAILY)):
        raise ContextFeedError("Open-Meteo: an answer without daily values")
    days: list[Day] = []
    for day, code, high, low, rain in zip(daily["time"], *(daily[name] for name in _DAILY), strict=False):
        numbers = (code, high, low, rain)
        if not all(isinstance(value, int | float) and abs(value) <= 5000 for value in numbers) or low > high:
            break
        try:
            when = date.fromisoformat(day)
        except (TypeError, ValueError):
            break
        if days and when - days[-1].day != timedelta(days=1):
            break
        if not (-95 <= low <= high <= 65 and 0 <= rain <= 2000):
            break
        days.append(Day(when, _sky(code), float(high), float(low), float(rain)))
    return tuple(days[:MAX_DAYS])


def _sky(code: float) -> Sky:
    return next((sky for codes, sky in _SKIES if code in codes), "unknown")
