"""Makes the small world of the privacy package's tests importable, and gives each test a fresh one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from privacy_world import World
    from secure_fleet import Fleet


@pytest.fixture
def world() -> World:
    """An officer, an aggregator and one device that consents, with a policy of 5 participations in force."""
    from privacy_world import World

    return World()


@pytest.fixture
def fleet() -> Fleet:
    """Six devices in mode `distributed`."""
    from secure_fleet import Fleet

    return Fleet()
