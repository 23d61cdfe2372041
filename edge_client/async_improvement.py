"""`Improvement` for asyncio: what an app asks it, each call in a worker thread. What rooms tell each other is not here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_client.improve.improvement import Improvement


class AsyncImprovement:
    """`Improvement` for asyncio. A night itself is `AsyncEdgeClient.nightly`."""

    def __init__(self, improvement: Improvement) -> None:
        self._improvement = improvement

    async def refold(self) -> Mapping[str, int]:
        return await asyncio.to_thread(self._improvement.refold)

    async def last_night(self) -> dict[str, Any] | None:
        """A property of the original; here awaited, because it waits for the store's lock."""
        return await asyncio.to_thread(lambda: self._improvement.last_night)

    async def next_night_s(self, every_s: float, again_after_s: float) -> float:
        return await asyncio.to_thread(self._improvement.next_night_s, every_s, again_after_s)

    async def reset(self) -> bool:
        return await asyncio.to_thread(self._improvement.reset)

    async def document(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._improvement.document)
