"""The façade for asyncio: the same names, each call in a worker thread. It decides nothing of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_client.answer.feedback import FeedbackResult, Reaction
from edge_client.answer.respond import Reply
from edge_client.async_delivery import AsyncDelivering
from edge_client.async_improvement import AsyncImprovement as AsyncImprovement
from edge_client.async_rooms import AsyncCapture as AsyncCapture
from edge_client.async_rooms import AsyncConsent as AsyncConsent
from edge_client.async_rooms import AsyncDecisions as AsyncDecisions
from edge_client.async_rooms import AsyncIntake as AsyncIntake
from edge_client.async_rooms import AsyncProfile as AsyncProfile
from edge_client.async_rooms import AsyncRights as AsyncRights
from edge_client.client import EdgeClient
from edge_client.config import EdgeConfig
from edge_client.know.store import Store
from edge_client.lifecycle import Lifecycle
from shared_models.bundle import Staleness, TrustAnchor
from shared_models.intents import Recognition

if TYPE_CHECKING:
    from types import TracebackType

    from edge_client.improve.nightly import NightReport
    from edge_client.know.store.keys import KeySource
    from edge_client.share.device import ClientPort
    from edge_client.understand.intent import IntentModel
    from shared_models.profile import ProfileSchema


class AsyncEdgeClient:
    """`EdgeClient` for asyncio: `async with await AsyncEdgeClient.open(…) as client`. See there for what each call does."""

    def __init__(self, client: EdgeClient) -> None:
        self._client = client
        self.consent = AsyncConsent(client.consent)
        self.improvement = AsyncImprovement(client.improvement)

    @classmethod
    async def open(
        cls,
        path: Path | str,
        *,
        key: bytes | str | KeySource | None = None,
        bundle: Path | str | None = None,
        trust: Path | None = None,
        config: EdgeConfig | None = None,
        schema: ProfileSchema | None = None,
    ) -> AsyncEdgeClient:
        client = await asyncio.to_thread(
            EdgeClient.open, path, key=key, bundle=bundle, trust=trust, config=config, schema=schema
        )
        return cls(client)

    @property
    def config(self) -> EdgeConfig:
        return self._client.config

    @property
    def store(self) -> Store:
        """The store itself, not asynchronous: call it from a worker thread."""
        return self._client.store

    @property
    def model(self) -> IntentModel:
        """The model itself, not asynchronous; the first access loads it."""
        return self._client.model

    @property
    def state(self) -> Lifecycle:
        return self._client.state

    @property
    def schema(self) -> ProfileSchema:
        return self._client.schema

    @property
    def capture(self) -> AsyncCapture:
        return AsyncCapture(lambda: self._client.capture)

    @property
    def intake(self) -> AsyncIntake:
        return AsyncIntake(lambda: self._client.intake)

    @property
    def profile(self) -> AsyncProfile:
        return AsyncProfile(self._client.profile)

    @property
    def decisions(self) -> AsyncDecisions:
        return AsyncDecisions(self._client.decisions)

    @property
    def delivery(self) -> AsyncDelivering:
        return AsyncDelivering(lambda: self._client.delivery)

    @property
    def rights(self) -> AsyncRights:
        return AsyncRights(lambda: self._client.rights)

    @property
    def trust(self) -> TrustAnchor:
        return self._client.trust

    @property
    def published_policy(self) -> bytes | None:
        return self._client.published_policy

    async def device_port(self) -> ClientPort:
        """The port itself, not asynchronous: call it from a worker thread."""
        return await asyncio.to_thread(self._client.device_port)

    async def recognize(self, text: str) -> Recognition:
        return await asyncio.to_thread(self._client.recognize, text)

    async def respond(
        self, text: str, *, conversation: str = "main", learn: bool = True, shown: bool | None = None
    ) -> Reply:
        return await asyncio.to_thread(self._client.respond, text, conversation=conversation, learn=learn, shown=shown)

    async def new_conversation(self, name: str = "main") -> None:
        await asyncio.to_thread(self._client.new_conversation, name)

    async def react(self, decision_id: str, verdict: str, because: str = "", *, within: str = "") -> Reaction:
        return await asyncio.to_thread(self._client.react, decision_id, verdict, because, within=within)

    async def why(self, decision_id: str, *, within: str = "") -> tuple[str, ...]:
        return await asyncio.to_thread(self._client.why, decision_id, within=within)

    async def intents(self) -> dict[str, str]:
        return await asyncio.to_thread(self._client.intents)

    async def feedback(self, text: str | Recognition | Reply, *, intent: str, own: bool = True) -> FeedbackResult:
        return await asyncio.to_thread(self._client.feedback, text, intent=intent, own=own)

    async def accept(self, recognition: Recognition | Reply) -> FeedbackResult:
        return await asyncio.to_thread(self._client.accept, recognition)

    async def define_intent(self, name: str, phrases: Sequence[str]) -> int:
        return await asyncio.to_thread(self._client.define_intent, name, phrases)

    async def remove_intent(self, name: str) -> None:
        await asyncio.to_thread(self._client.remove_intent, name)

    async def training_examples(self) -> tuple[npt.NDArray[np.float32], list[str]]:
        return await asyncio.to_thread(self._client.training_examples)

    async def refresh(self, source: Path | str | None = None, trust: Path | None = None) -> Staleness:
        return await asyncio.to_thread(self._client.refresh, source, trust)

    async def nightly(self, stopping: Callable[[], bool] = lambda: False) -> NightReport:
        return await asyncio.to_thread(self._client.nightly, stopping)

    async def inspect(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._client.inspect)

    async def status(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._client.status)

    async def export(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._client.export)

    async def forget(self) -> tuple[str, ...]:
        return await asyncio.to_thread(self._client.forget)

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> AsyncEdgeClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
