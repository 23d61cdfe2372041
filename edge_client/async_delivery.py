"""`Delivering` for asyncio: the same names, each call in a worker thread. It decides nothing of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_client.decide.delivery_caps import Caps
    from edge_client.decide.follow_up_facts import FactsSource
    from edge_client.decide.follow_ups import FollowUp, Topic
    from edge_client.delivering import Delivering
    from edge_client.delivery_hooks import Delivered, Hook
    from edge_client.share.schedule_rules import QuietHours


class AsyncDelivering:
    """`Delivering` for asyncio. Hooks and listeners are plain functions, and run in threads of their own."""

    def __init__(self, find: Callable[[], Delivering]) -> None:
        self._find = find

    def register(self, channel: str, hook: Hook, *, ready: Callable[[], bool] | None = None) -> None:
        self._find().register(channel, hook, ready=ready)

    def unregister(self, channel: str) -> bool:
        return self._find().unregister(channel)

    def on_delivered(self, listener: Hook) -> Callable[[], None]:
        return self._find().on_delivered(listener)

    def set_caps(self, caps: Caps) -> None:
        self._find().set_caps(caps)

    def facts_from(self, source: FactsSource) -> None:
        self._find().facts_from(source)

    async def plan(self, follow_ups: Iterable[FollowUp], *, asked_for: bool = False) -> tuple[FollowUp, ...]:
        return await asyncio.to_thread(lambda: self._find().plan(follow_ups, asked_for=asked_for))

    async def drop(self, place: str, first: str | None = None, *, topic: Topic | None = None) -> int:
        return await asyncio.to_thread(lambda: self._find().drop(place, first, topic=topic))

    async def used(self) -> None:
        await asyncio.to_thread(lambda: self._find().used())

    async def tick(
        self, *, shows: Collection[str] = (), context: Mapping[str, Any] | None = None
    ) -> tuple[Delivered, ...]:
        return await asyncio.to_thread(lambda: self._find().tick(shows=shows, context=context))

    async def outcome(self, delivery_id: str, outcome: str) -> bool:
        return await asyncio.to_thread(lambda: self._find().outcome(delivery_id, outcome))

    async def rest(self) -> None:
        await asyncio.to_thread(lambda: self._find().rest())

    async def stop(self, what: str = "all") -> None:
        await asyncio.to_thread(lambda: self._find().stop(what))

    async def restore(self, what: str = "all") -> bool:
        return await asyncio.to_thread(lambda: self._find().restore(what))

    async def set_quiet_hours(self, hours: Iterable[str | QuietHours] | None) -> None:
        await asyncio.to_thread(lambda: self._find().set_quiet_hours(hours))

    async def pending(self) -> tuple[FollowUp, ...]:
        return await asyncio.to_thread(lambda: self._find().pending())

    async def quality(self) -> dict[str, int]:
        return await asyncio.to_thread(lambda: self._find().quality())

    async def document(self) -> dict[str, Any]:
        return await asyncio.to_thread(lambda: self._find().document())
