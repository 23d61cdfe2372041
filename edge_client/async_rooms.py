"""The rooms for asyncio: the same names, each call in a worker thread. They decide nothing of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge_client.know.consent import Consent, ConsentReceipt
from edge_client.know.profile import Profile, ProfileValue
from shared_models.errors import CaptureError

if TYPE_CHECKING:
    from edge_client.know.capture import Capture
    from edge_client.know.connectors import Connector, Intake, Reading
    from edge_client.know.decisions import DecisionLog
    from edge_client.know.erasure_certificate import ErasureCertificate
    from edge_client.know.events import Captured, Event
    from edge_client.know.rights import Rights
    from edge_client.know.triggers import Trigger


class AsyncConsent:
    """`Consent` for asyncio."""

    def __init__(self, consent: Consent) -> None:
        self._consent = consent

    async def grant(self, purpose: str, *, notice_version: int | None = None) -> ConsentReceipt:
        return await asyncio.to_thread(self._consent.grant, purpose, notice_version=notice_version)

    async def withdraw(self, purpose: str) -> ConsentReceipt:
        return await asyncio.to_thread(self._consent.withdraw, purpose)

    async def decline(self, purpose: str, *, notice_version: int | None = None) -> ConsentReceipt:
        return await asyncio.to_thread(self._consent.decline, purpose, notice_version=notice_version)

    def when_withdrawn(self, purpose: str, hook: Callable[[], None]) -> None:
        """Registers only; the hook runs in the thread of the withdrawal."""
        self._consent.when_withdrawn(purpose, hook)

    def when_narrowed(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Registers only; the listener runs in the thread of the change."""
        return self._consent.when_narrowed(listener)

    async def tell_narrowed(self) -> None:
        await asyncio.to_thread(self._consent.tell_narrowed)

    async def was_asked(self, purpose: str) -> bool:
        return await asyncio.to_thread(self._consent.was_asked, purpose)

    async def is_granted(self, purpose: str) -> bool:
        return await asyncio.to_thread(self._consent.is_granted, purpose)

    async def granted_since(self, purpose: str) -> float | None:
        return await asyncio.to_thread(self._consent.granted_since, purpose)

    async def given_since(self, purpose: str) -> float | None:
        return await asyncio.to_thread(self._consent.given_since, purpose)

    async def state(self, purpose: str) -> str:
        return await asyncio.to_thread(self._consent.state, purpose)

    @property
    def objects_to_profiling(self) -> bool:
        return self._consent.objects_to_profiling

    async def restrict(self, purpose: str) -> None:
        await asyncio.to_thread(self._consent.restrict, purpose)

    async def lift(self, purpose: str) -> None:
        await asyncio.to_thread(self._consent.lift, purpose)

    async def object_to_profiling(self) -> None:
        await asyncio.to_thread(self._consent.object_to_profiling)

    async def withdraw_objection(self) -> None:
        await asyncio.to_thread(self._consent.withdraw_objection)

    async def signal_gpc(self, on: bool) -> None:
        await asyncio.to_thread(self._consent.signal_gpc, on)

    async def receipts(self) -> list[ConsentReceipt]:
        return await asyncio.to_thread(self._consent.receipts)

    async def records(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._consent.records)

    async def notices(self) -> dict[str, str]:
        return await asyncio.to_thread(self._consent.notices)

    async def document(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._consent.document)


class AsyncIntake:
    """`Intake` for asyncio: a connector's pull runs in a worker thread."""

    def __init__(self, intake: Callable[[], Intake]) -> None:
        self._intake = intake

    async def pull(self, connector: Connector) -> Reading:
        return await asyncio.to_thread(lambda: connector.pull(self._intake()))

    async def document(self) -> dict[str, Any]:
        return await asyncio.to_thread(lambda: self._intake().document())


class AsyncProfile:
    """`Profile` for asyncio."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    async def observe(
        self, name: str, value: Any, *, source: str, at_s: float, confidence: float = 1.0, provenance: str = ""
    ) -> bool:
        return await asyncio.to_thread(
            self._profile.observe, name, value, source=source, at_s=at_s, confidence=confidence, provenance=provenance
        )

    async def correct(self, name: str, value: Any) -> None:
        await asyncio.to_thread(self._profile.correct, name, value)

    async def withdraw_correction(self, name: str) -> bool:
        return await asyncio.to_thread(self._profile.withdraw_correction, name)

    async def remove(self, name: str) -> bool:
        return await asyncio.to_thread(self._profile.remove, name)

    async def get(self, name: str) -> ProfileValue | None:
        return await asyncio.to_thread(self._profile.get, name)

    async def values(self) -> dict[str, ProfileValue]:
        return await asyncio.to_thread(self._profile.values)

    async def document(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._profile.document)

    async def expire(self, now_s: float) -> int:
        return await asyncio.to_thread(self._profile.expire, now_s)

    async def clear(self, purpose: str | None = None) -> int:
        return await asyncio.to_thread(self._profile.clear, purpose)


class AsyncCapture:
    """`Capture` for asyncio. It is made, from the kept events, by the first call."""

    def __init__(self, find: Callable[[], Capture]) -> None:
        self._find = find

    async def receive(self, document: Mapping[str, Any]) -> Captured:
        return await asyncio.to_thread(lambda: self._find().receive(document))

    async def receive_batch(self, documents: Sequence[Mapping[str, Any]]) -> list[Captured | CaptureError]:
        return await asyncio.to_thread(lambda: self._find().receive_batch(documents))

    async def events(self, since_s: float | None = None, name: str | None = None) -> list[Event]:
        return await asyncio.to_thread(lambda: self._find().events(since_s, name))

    async def windows(self) -> dict[str, Any]:
        return await asyncio.to_thread(lambda: self._find().windows())

    async def on(self, trigger: Trigger, hook: Callable[..., None]) -> None:
        """The hook runs in the thread of the event, not in the loop."""
        await asyncio.to_thread(lambda: self._find().on(trigger, hook))

    async def quality(self) -> dict[str, Any]:
        return await asyncio.to_thread(lambda: self._find().quality())

    async def expire(self, now_s: float) -> int:
        return await asyncio.to_thread(lambda: self._find().expire(now_s))


class AsyncDecisions:
    """`DecisionLog` for asyncio."""

    def __init__(self, decisions: DecisionLog) -> None:
        self._decisions = decisions

    async def record(
        self, kind: str, chosen: str, reasons: Sequence[str], *, context: Mapping[str, Any] | None = None
    ) -> str | None:
        return await asyncio.to_thread(self._decisions.record, kind, chosen, reasons, context=context)

    async def recent(self, n: int = 50) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._decisions.recent, n)

    async def clear(self) -> int:
        return await asyncio.to_thread(self._decisions.clear)


class AsyncRights:
    """`Rights` for asyncio."""

    def __init__(self, find: Callable[[], Rights]) -> None:
        self._find = find

    async def export(self) -> dict[str, Any]:
        return await asyncio.to_thread(lambda: self._find().export())

    async def correct(self, name: str, value: Any) -> None:
        await asyncio.to_thread(lambda: self._find().correct(name, value))

    async def restrict(self, purpose: str) -> None:
        await asyncio.to_thread(lambda: self._find().restrict(purpose))

    async def lift(self, purpose: str) -> None:
        await asyncio.to_thread(lambda: self._find().lift(purpose))

    async def object_to_profiling(self) -> None:
        await asyncio.to_thread(lambda: self._find().object_to_profiling())

    async def withdraw_objection(self) -> None:
        await asyncio.to_thread(lambda: self._find().withdraw_objection())

    async def erase(self) -> ErasureCertificate:
        return await asyncio.to_thread(lambda: self._find().erase())

    async def audit(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(lambda: self._find().audit())
