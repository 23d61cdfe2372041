"""How old is old: staleness by the device's clock, which never runs backwards."""

from __future__ import annotations

import json

import pytest
from published_fleet import PublishedFleet, serving

from shared_models.errors import BundleExpiredError, BundleUnavailableError

DAY_S = 86_400


def test_staleness_grows_with_the_clock_while_nothing_can_be_fetched(fleet: PublishedFleet) -> None:
    store = fleet.device()
    store.refresh(fleet.folder)
    seen = []
    for days in (0, 0.9, 1.1, 6, 8, 89, 91, 400):
        fleet.now_s = 1_800_000_000.0 + days * DAY_S
        seen.append(store.staleness)
        with pytest.raises(BundleUnavailableError):
            store.refresh(fleet.root / "nowhere")
    assert seen == ["fresh", "fresh", "stale", "stale", "stale", "stale", "expired", "expired"]
    active = fleet.device().current()
    assert active is not None, "an expired bundle still answers; what to do about it is the caller's decision"
    assert active.staleness == "expired"


@pytest.mark.parametrize(("days", "staleness"), [(0, "fresh"), (3, "stale"), (200, "expired"), (1000, "expired")])
def test_an_old_folder_in_an_app_is_accepted_and_labelled(fleet: PublishedFleet, days: int, staleness: str) -> None:
    fleet.now_s += days * DAY_S
    store = fleet.device()
    assert store.refresh(fleet.folder) == staleness
    assert store.refresh(fleet.folder) == staleness
    assert store.staleness == staleness


def test_the_same_old_bundle_from_a_server_is_refused(fleet: PublishedFleet) -> None:
    # Holds python-tuf to the injected time as well: by the system's clock this bundle is not expired.
    fleet.now_s += 3 * DAY_S
    with serving(fleet.folder) as url:
        store = fleet.device()
        with pytest.raises(BundleExpiredError, match="clock"):
            store.refresh(url, fleet.trust)
        assert store.current() is None


def test_a_server_catches_up_a_device_that_started_from_an_old_folder(fleet: PublishedFleet) -> None:
    shipped = fleet.copy("shipped")
    fleet.now_s += 300 * DAY_S
    store = fleet.device()
    assert store.refresh(shipped) == "expired"
    fleet.publish(1)
    with serving(fleet.folder) as url:
        assert store.refresh(url) == "fresh"


def test_a_clock_that_is_set_back_makes_nothing_young_again(fleet: PublishedFleet) -> None:
    store = fleet.device()
    store.refresh(fleet.folder)
    fleet.now_s += 2 * DAY_S
    assert store.staleness == "stale"
    fleet.now_s -= 2 * DAY_S
    assert store.staleness == "stale"
    assert fleet.device().staleness == "stale", "also after a restart"
    with serving(fleet.folder) as url, pytest.raises(BundleExpiredError):
        fleet.device().refresh(url)


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"latest_s":"x"}', b'{"latest_s":null}', b"\xff" * 5000])
def test_a_damaged_clock_file_is_no_obstacle(fleet: PublishedFleet, raw: bytes) -> None:
    fleet.device().refresh(fleet.folder)
    path = fleet.root / "device" / "clock.json"
    path.write_bytes(raw)
    assert fleet.device().refresh(fleet.folder) == "fresh"
    assert json.loads(path.read_bytes()) == {"latest_s": int(fleet.now_s)}
