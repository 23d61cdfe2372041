"""The asynchronous room of improvement gives what the room itself gives, and its names and arguments are the room's."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from edge_client import AsyncEdgeClient, EdgeClient, EdgeConfig
from edge_client.async_improvement import AsyncImprovement
from edge_client.bundles import BundleStore
from edge_client.improve.improvement import Improvement

if TYPE_CHECKING:
    from real_bundle import RealBundle


def test_each_call_of_the_async_room_is_one_of_the_room() -> None:
    for name, call in vars(AsyncImprovement).items():
        if not name.startswith("_"):
            original = vars(Improvement)[name]
            original = original.fget if isinstance(original, property) else original
            assert list(inspect.signature(call).parameters) == list(inspect.signature(original).parameters)


def test_the_async_room_says_the_same(real_bundle: RealBundle, tmp_path: Path) -> None:
    bundles = BundleStore(tmp_path / "bundle")
    bundles.refresh(real_bundle.folder)

    async def life() -> None:
        client = EdgeClient.open(tmp_path / "home", key=bytes(32), config=EdgeConfig(bundles=bundles))
        async with AsyncEdgeClient(client) as twin:
            assert await twin.improvement.last_night() is None
            assert await twin.improvement.next_night_s(60.0, 10.0) == 0.0
            assert set(await twin.improvement.refold()) == {"signals", "outcomes", "open_suggestions"}
            assert await twin.improvement.document() == client.improvement.document()
            assert not await twin.improvement.reset()

    asyncio.run(life())
