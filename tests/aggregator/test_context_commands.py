"""`tacit-fleet context`: from sources into a file, from the file to every device; nobody is asked unless told to."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import NoReturn

import pytest
from optional_parts import catalogue, feed
from published_fleet import PublishedFleet

from aggregator.cli import main
from aggregator.publish import publish_context
from edge_client.bundles import ActiveBundle, BundleStore
from shared_models.bundle import CATALOGUE_TARGET, FEED_TARGET
from shared_models.context_feed import BroadcastFeed

Captured = pytest.CaptureFixture[str]
SAMPLE = Path(__file__).parent.parent / "data" / "travel" / "open_meteo_daily.json"


@pytest.fixture
def bundle(fleet: PublishedFleet) -> Path:
    """A bundle with a catalogue, as `build` leaves it: its keys beside it."""
    fleet.keys_dir.rename(fleet.folder.with_name("bundle-keys"))
    publish_context(fleet.folder, {CATALOGUE_TARGET: catalogue().to_bytes()})
    return fleet.folder


def arrived(bundle: Path, name: str = "device") -> ActiveBundle:
    device = BundleStore(bundle.parent / name)
    device.refresh(bundle)
    active = device.current()
    assert active is not None
    return active


def test_a_feed_goes_from_its_sources_to_a_device(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    events = tmp_path / "events.yaml"
    today = time.strftime("%Y-%m-%d", time.gmtime())
    events.write_text(f"- {{id: jazz, place: oslo, kind: music, first: {today}, last: {today}, title: {{en: Jazz}}}}")
    out = tmp_path / "made.json"
    sources = ["--weather", "simulated", "--holidays", "--events", str(events)]
    assert main(["context", "fetch", str(bundle), *sources, "--out", str(out)]) == 0
    assert "2 with a forecast; holidays of 2 countries; 1 events" in capsys.readouterr().out
    assert arrived(bundle).optional(FEED_TARGET) is None, "fetched, and not yet published"
    assert main(["context", "publish", str(bundle), str(out)]) == 0
    active = arrived(bundle)
    told = BroadcastFeed.from_bytes(active.optional(FEED_TARGET) or b"")
    assert told.staleness(time.time()) == "fresh"
    assert [event.id for event in told.events] == ["jazz"]
    assert set(told.holidays) == {"PT", "NO"}
    assert active.optional(CATALOGUE_TARGET) == catalogue().to_bytes()
    assert active.manifest.version == 0


def test_without_a_source_nobody_is_asked(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    out = tmp_path / "made.json"
    assert main(["context", "fetch", str(bundle), "--out", str(out)]) == 0
    told = BroadcastFeed.from_bytes(out.read_bytes())
    assert (len(told.places), told.holidays, told.events, told.sources) == (2, {}, (), {})
    assert not any(place.days for place in told.places)


def test_a_source_that_fails_is_told_and_the_others_are_kept(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "made.json"
    nobody = ["--weather", "open-meteo", "--weather-url", "https://127.0.0.1:1/v1"]
    events = tmp_path / "events.yaml"
    events.write_text("5")
    assert main(["context", "fetch", str(bundle), "--holidays", "--events", str(events), "--out", str(out)]) == 1
    assert "events: the operator's list failed" in capsys.readouterr().err
    assert set(BroadcastFeed.from_bytes(out.read_bytes()).holidays) == {"PT", "NO"}
    assert (
        main(["context", "fetch", str(bundle), *nobody[:2], "--weather-url", "http://x.example", "--out", str(out)])
        == 2
    )
    assert "https" in capsys.readouterr().err


def test_a_file_of_forecasts_is_taken_as_it_is(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    said = json.loads(SAMPLE.read_text(encoding="utf-8"))[:1]
    said[0].update(latitude=40.0, longitude=5.0)
    first = time.time() - 86_400
    said[0]["daily"]["time"] = [time.strftime("%Y-%m-%d", time.gmtime(first + 86_400 * day)) for day in range(7)]
    (tmp_path / "said.json").write_text(json.dumps(said))
    out = tmp_path / "made.json"
    given = ["--weather", "file", "--weather-file", str(tmp_path / "said.json")]
    assert main(["context", "fetch", str(bundle), *given, "--out", str(out)]) == 0
    (told, *_) = [place for place in BroadcastFeed.from_bytes(out.read_bytes()).places if place.days]
    assert len(told.days) == 6
    assert main(["context", "fetch", str(bundle), "--weather", "file", "--out", str(out)]) == 2


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b"[" * 5000])
def test_what_is_no_feed_is_not_published(bundle: Path, tmp_path: Path, capsys: Captured, raw: bytes) -> None:
    before = (bundle / "metadata" / "timestamp.json").read_bytes()
    (tmp_path / "made.json").write_bytes(raw)
    assert main(["context", "publish", str(bundle), str(tmp_path / "made.json")]) == 2
    assert (bundle / "metadata" / "timestamp.json").read_bytes() == before


def test_a_feed_that_is_over_is_not_published(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "made.json").write_bytes(feed(int(time.time()) - 10 * 86_400).to_bytes())
    assert main(["context", "publish", str(bundle), str(tmp_path / "made.json")]) == 2
    assert "over" in capsys.readouterr().err
    assert main(["context", "publish", str(bundle), str(tmp_path / "nothing.json")]) == 2
    assert main(["context", "fetch", str(tmp_path / "nowhere")]) == 2


def test_a_bundle_without_a_catalogue_has_no_places_to_tell_about(fleet: PublishedFleet, capsys: Captured) -> None:
    assert main(["context", "fetch", str(fleet.folder)]) == 2
    assert "no catalogue" in capsys.readouterr().err
