"""One device's rooms of knowledge over a real store, joined as a client joins them, without models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_client.know.capture import Capture
from edge_client.know.consent import Consent, ConsentTerms, Controller
from edge_client.know.decisions import DecisionLog
from edge_client.know.profile import Profile
from edge_client.know.rights import Rights
from edge_client.know.store import Store
from shared_models.profile import default_schema
from shared_models.purposes import PERSONALISATION

PERSONAL = PERSONALISATION.name
START_S = 1_800_000_000.0
TERMS = ConsentTerms(controllers=(Controller("app", "Example App Ltd"),))


class Device:
    """The rooms of one device, joined as a client joins them."""

    def __init__(self, folder: Path, key: bytes | str | None = bytes(range(32))) -> None:
        self.now_s = START_S
        self.more: dict[str, Any] = {
            "examples": [{"text": "zip zap", "intent": "book_hotel"}],
            "privacy": {"receipts": [], "rho": {"intent-model": 0.25}},
        }
        self.store = Store(folder, key=key)
        self.consent = Consent(self.store, self.clock, terms=TERMS)
        schema = default_schema()
        self.profile = Profile(self.store, schema, self.clock)
        self.capture = Capture(self.store, schema, self.consent, self.profile, self.clock)
        self.decisions = DecisionLog(self.store, self.consent, self.clock)
        self.rights = Rights(
            self.store, self.consent, self.profile, self.capture, self.decisions, self.clock, lambda: self.more
        )

    def clock(self) -> float:
        return self.now_s

    def live(self) -> None:
        """Consent, and a little of everything that can be known."""
        self.consent.grant(PERSONAL)
        self.profile.observe("home_city", "Lisbon", source="declared", at_s=START_S, provenance="event:identify")
        self.profile.observe("favourite_category", "surfing", source="inferred", at_s=START_S, confidence=0.7)
        self.view("surfboards")
        self.decisions.record("suggestion", "surf camp", ["you looked at surfboards"], context={"score": 0.5})

    def view(self, category: str) -> Any:
        """One page view, as an app reports it."""
        number = len(self.capture.events())
        return self.capture.receive(
            {"type": "page", "messageId": f"m-{category}-{number}", "properties": {"category": category}}
        )
