"""`tacit-fleet context`: fetch weather, holidays and events of everywhere into one feed, and sign it for every device.

Nothing is asked of anybody unless a source is named: without one, a feed holds the places alone. Run both once or twice a day,
from a timer; `publish` needs the keys context, snapshot and timestamp, and no others.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shared_models.bundle import CATALOGUE_TARGET, CONTEXT_ROLE, FEED_TARGET, METADATA_FOLDER, max_target_bytes
from shared_models.errors import ConfigError, DomainError, WireError

if TYPE_CHECKING:
    from aggregator.context_feed import EventSource, FeedSources, WeatherSource
    from shared_models.context_feed import BroadcastFeed
    from shared_models.travel.catalogue import Catalogue

API_KEY_VARIABLE = "TACIT_OPEN_METEO_KEY"
TIMEOUT_S = 30.0


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `context fetch` and `context publish`."""
    context = commands.add_parser("context", help="weather, holidays and events for everybody")
    doing = context.add_subparsers(required=True, metavar="DO")
    asked = doing.add_parser("fetch", help="ask the named sources about every place, and write the feed into a file")
    asked.add_argument("fleet", type=Path, help="a fleet's folder, or a bundle of `tacit-fleet build`")
    asked.add_argument("--weather", choices=("off", "open-meteo", "file", "simulated"), default="off")
    asked.add_argument("--weather-file", type=Path, metavar="FILE.json", help="for file: answers in Open-Meteo's form")
    asked.add_argument("--weather-url", metavar="URL", help="for open-meteo: the address of your contract, https")
    asked.add_argument("--holidays", action="store_true", help="public holidays, from the holidays library")
    asked.add_argument("--events", type=Path, metavar="FILE.yaml", help="a list of events that you keep")
    asked.add_argument("--seed", type=int, default=0, help="for simulated")
    asked.add_argument("--out", type=Path, default=Path(FEED_TARGET))
    asked.set_defaults(run=fetch)
    signed = doing.add_parser("publish", help="sign a feed and publish it")
    signed.add_argument("fleet", type=Path)
    signed.add_argument("feed", type=Path, nargs="?", default=Path(FEED_TARGET))
    signed.set_defaults(run=publish)


def fetch(options: argparse.Namespace) -> int:
    """Exit code 1 if a source that was named had nothing to say; the feed is written all the same."""
    from aggregator.context_feed import build_feed
    from aggregator.durable_files import write_durably

    bundle = bundle_of(options.fleet)
    catalogue = _catalogue(bundle)
    with _sources(options) as sources:
        built = build_feed(catalogue, sources, time.time(), _previous(bundle))
    write_durably(options.out, built.feed.to_bytes())
    told = sum(bool(place.days) for place in built.feed.places)
    print(
        f"{options.out}  {len(built.feed.places)} places, {told} with a forecast; holidays of "
        f"{len(built.feed.holidays)} countries; {len(built.feed.events)} events\n"
        f"tacit-fleet context publish {options.fleet} {options.out}"
    )
    for note in built.notes:
        print(f"tacit-fleet: {note}", file=sys.stderr)
    return 1 if any(" failed: " in note for note in built.notes) else 0


def publish(options: argparse.Namespace) -> int:
    """Refuses a feed that is over already: a device would have no use for it."""
    from aggregator.publish import publish_context
    from shared_models.context_feed import BroadcastFeed

    try:
        with options.feed.open("rb") as file:
            raw = file.read(max_target_bytes(FEED_TARGET) + 1)
    except OSError as error:
        raise ConfigError(f"{options.feed}: cannot be read ({error}); `tacit-fleet context fetch` makes one") from error
    feed = BroadcastFeed.from_bytes(raw)
    now_s = time.time()
    if feed.staleness(now_s) == "expired":
        raise ConfigError(f"{options.feed}: this feed is over, or from the future; fetch it anew")
    bundle = bundle_of(options.fleet)
    publish_context(bundle, {FEED_TARGET: raw}, now=now_s)
    hours = (feed.valid_until_s - now_s) / 3600
    print(f"{FEED_TARGET} published in {bundle}, {len(raw) // 1024} KB, valid for {hours:.0f} hours")
    return 0


def bundle_of(folder: Path) -> Path:
    """The bundle of a fleet's folder, or the folder itself if it is a bundle. Raises ConfigError."""
    for bundle in (folder / "bundle", folder):
        if (bundle / METADATA_FOLDER / "timestamp.json").is_file():
            return bundle
    raise ConfigError(f"{folder}: neither a fleet's folder nor a bundle; `tacit-fleet init` or `build` makes one")


def _catalogue(bundle: Path) -> Catalogue:
    from aggregator.publish import read_published
    from shared_models.travel.catalogue import Catalogue

    raw = read_published(bundle, CONTEXT_ROLE, CATALOGUE_TARGET)
    if raw is None:
        raise ConfigError(
            f"{bundle}: has no catalogue, so there are no places to tell about (catalogue.yaml in the domain)"
        )
    try:
        return Catalogue.from_bytes(raw)
    except DomainError as error:
        raise ConfigError(f"{bundle}: {error}") from error


def _previous(bundle: Path) -> BroadcastFeed | None:
    from aggregator.publish import read_published
    from shared_models.context_feed import BroadcastFeed

    raw = read_published(bundle, CONTEXT_ROLE, FEED_TARGET)
    try:
        return None if raw is None else BroadcastFeed.from_checked_bytes(raw)
    except WireError:
        # Of another version: the new feed does without it.
        return None


@contextlib.contextmanager
def _sources(options: argparse.Namespace) -> Iterator[FeedSources]:
    from aggregator.context_feed import FeedSources
    from aggregator.context_sources import (
        OPEN_METEO,
        EventFile,
        ForecastFile,
        OpenMeteo,
        PublicHolidays,
        SimulatedWeather,
    )

    if (options.weather == "file") != (options.weather_file is not None):
        raise ConfigError("--weather file and --weather-file FILE.json go together")
    if options.weather_url is not None and options.weather != "open-meteo":
        raise ConfigError("--weather-url goes with --weather open-meteo")
    events: EventSource | None = None if options.events is None else EventFile(options.events)
    holidays = PublicHolidays() if options.holidays else None
    weather: WeatherSource | None = None
    if options.weather == "open-meteo":
        import httpx

        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=True) as client:
            key = os.environ.get(API_KEY_VARIABLE)
            weather = OpenMeteo(client, options.weather_url or OPEN_METEO, api_key=key)
            yield FeedSources(weather, holidays, events)
        return
    if options.weather == "file":
        weather = ForecastFile(options.weather_file)
    elif options.weather == "simulated":
        weather = SimulatedWeather(options.seed)
    yield FeedSources(weather, holidays, events)
