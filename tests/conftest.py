"""Fixtures that the tests of several packages share; what they are made of lies in tests/support."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))

if TYPE_CHECKING:
    from published_fleet import PublishedFleet
    from real_bundle import RealBundle

    from aggregator.deployment import FleetServer


@pytest.fixture(scope="session")
def _first_release(tmp_path_factory: pytest.TempPathFactory) -> PublishedFleet:
    from published_fleet import PublishedFleet

    published = PublishedFleet(tmp_path_factory.mktemp("fleet"))
    published.publish(0)
    return published


@pytest.fixture
def fleet(_first_release: PublishedFleet, tmp_path: Path) -> PublishedFleet:
    """A real publisher on disk, with release 0 out."""
    return _first_release.copied_to(tmp_path)


@pytest.fixture(scope="session")
def real_bundle(tmp_path_factory: pytest.TempPathFactory) -> RealBundle:
    """The travel domain, published with the real encoder. Shared: publish further releases into a copy only."""
    from real_bundle import RealBundle

    return RealBundle(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="session")
def served_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A real SuperLink behind its pass-through, on loopback; it is started again when a test kills it."""
    from fleet_devices import served

    with served(tmp_path_factory.mktemp("served")) as running:
        yield running
