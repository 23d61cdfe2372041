"""Fixtures of the device's tests that need the real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from travel_clients import Open, TickingClock, opening

from edge_client import EdgeClient, EdgeConfig
from edge_client.bundles import BundleStore

if TYPE_CHECKING:
    from real_bundle import RealBundle

CLIENT_KEY = bytes(range(32))


@pytest.fixture(scope="session")
def bundles(real_bundle: RealBundle, tmp_path_factory: pytest.TempPathFactory) -> BundleStore:
    """The real bundle, arrived: shared by many clients through their configuration."""
    store = BundleStore(tmp_path_factory.mktemp("shared-bundles"))
    store.refresh(real_bundle.folder)
    return store


@pytest.fixture
def client(bundles: BundleStore, tmp_path: Path) -> Iterator[EdgeClient]:
    """A new device of its own, open."""
    with EdgeClient.open(tmp_path / "home", key=CLIENT_KEY, config=EdgeConfig(bundles=bundles)) as opened:
        yield opened


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


@pytest.fixture
def opened(travel: BundleStore, tmp_path: Path, clock: TickingClock) -> Iterator[Open]:
    """Opens a device of the travel assistant; again for the same home, which closes the one before."""
    with opening(travel, tmp_path / "home", clock) as open_client:
        yield open_client
