"""A capture over a real store, and events as apps send them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_client.know.capture import Capture, CaptureLimits
from edge_client.know.consent import Consent
from edge_client.know.profile import Profile
from edge_client.know.store import Store
from shared_models.profile import ProfileSchema, default_schema
from shared_models.purposes import PERSONALISATION

START_S = 1_800_000_000.0
KEY = bytes(range(32))


class CapturingDevice:
    """Store, consent, profile and capture of one user; `reopened` is the same user after a restart."""

    def __init__(
        self,
        folder: Path,
        *,
        granted: bool = True,
        limits: CaptureLimits | None = None,
        schema: ProfileSchema | None = None,
        now_s: float = START_S,
    ) -> None:
        self.now_s = now_s
        self.folder = folder
        self.limits = limits
        self.schema = schema or default_schema()
        self.store = Store(folder, key=KEY)
        self.consent = Consent(self.store, self.clock)
        self.profile = Profile(self.store, self.schema, self.clock)
        self.capture = Capture(self.store, self.schema, self.consent, self.profile, self.clock, limits)
        if granted:
            self.consent.grant(PERSONALISATION.name)

    def clock(self) -> float:
        return self.now_s

    def reopened(self, schema: ProfileSchema | None = None) -> CapturingDevice:
        self.store.close()
        return CapturingDevice(
            self.folder, granted=False, limits=self.limits, schema=schema or self.schema, now_s=self.now_s
        )

    def stored(self) -> list[dict[str, Any]]:
        """The records of the table of events, as they are on disk."""
        return self.store.table("events", purpose=PERSONALISATION.name).entries()


def iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()


def track(event: str, /, at_s: float | None = None, message_id: str | None = None, **properties: Any) -> dict[str, Any]:
    """A track event, as the Segment libraries make it."""
    document: dict[str, Any] = {"type": "track", "event": event, "userId": "u-1", "properties": properties}
    if at_s is not None:
        document["timestamp"] = iso(at_s)
    if message_id is not None:
        document["messageId"] = message_id
    return document


def page(name: str, /, at_s: float | None = None, **more: Any) -> dict[str, Any]:
    """A page view."""
    document = {"type": "page", "name": name, "anonymousId": "a-1", **more}
    return document if at_s is None else {**document, "timestamp": iso(at_s)}
