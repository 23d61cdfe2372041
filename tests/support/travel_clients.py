"""Devices of the travel assistant that a test opens, with consents and settings of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from travel_bundle import NOW_S

from edge_client import EdgeClient, EdgeConfig
from edge_client.bundles import BundleStore
from edge_client.decide.elicitation import AskingLimits
from shared_models.domain import TRAVEL
from shared_models.optional_targets import read_profile

KEY = bytes(range(32))
SCHEMA = read_profile((TRAVEL / "profile.yaml").read_bytes())
NEVER = AskingLimits(per_session=0)
Open = Callable[..., EdgeClient]
"""(*purposes, **options of EdgeConfig) -> the device, with consent to the purposes."""


class TickingClock:
    """A second later at each look, from NOW_S on."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


@contextmanager
def opening(travel: BundleStore, home: Path, clock: Callable[[], float]) -> Iterator[Open]:
    """Opens the same home again and again, by `clock`, asking no questions; the last one is closed in the end."""
    clients: list[EdgeClient] = []

    def open_client(*purposes: str, **options: Any) -> EdgeClient:
        if clients:
            clients[-1].close()
        settings = {"bundles": travel, "clock": clock, "random_seed": 7, "asking": NEVER, **options}
        client = EdgeClient.open(home, key=KEY, config=EdgeConfig(**settings), schema=SCHEMA)
        for purpose in purposes:
            client.consent.grant(purpose)
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.close()
