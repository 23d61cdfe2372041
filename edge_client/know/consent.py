"""The user's consents: off until granted, one switch for each purpose, and a receipt for every change.

What must be erased when a consent goes is erased in the same transaction as the change. Nothing here asks the user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_client.know.store import Store
from shared_models.errors import ConfigError
from shared_models.purposes import NOTICE_VERSION, PURPOSES, find_purpose


@dataclass(frozen=True)
class ConsentReceipt:
    """One change of one switch."""

    number: int
    purpose: str
    action: str
    """`granted`, `declined` (asked, and not allowed) or `withdrawn`."""
    at_s: float
    """Unix time in seconds."""
    notice_version: int
    """Version of the wording that the user saw."""

    def document(self) -> dict[str, Any]:
        return asdict(self)


class Consent:
    """The switches of one store. Implements `privacy.gate.ConsentSource`."""

    def __init__(
        self, store: Store, clock: Callable[[], float], on_withdrawal: Mapping[str, Callable[[], None]] | None = None
    ) -> None:
        """`on_withdrawal[purpose]` erases what was kept for a purpose; it runs inside the transaction of the withdrawal."""
        self._store = store
        self._switches = store.table("consent")
        self._receipts = store.table("consent-receipts")
        self._clock = clock
        self._on_withdrawal = dict(on_withdrawal or {})

    def grant(self, purpose: str, *, notice_version: int = NOTICE_VERSION) -> ConsentReceipt:
        """Allow `purpose` from now on; granting again renews it (a looser policy asks for that). Raises ConfigError."""
        return self._change(purpose, "granted", notice_version)

    def withdraw(self, purpose: str) -> ConsentReceipt:
        """Forbid `purpose` from now on, and erase what was kept for it. What was contributed cannot be called back."""
        return self._change(purpose, "withdrawn", NOTICE_VERSION)

    def decline(self, purpose: str, *, notice_version: int = NOTICE_VERSION) -> ConsentReceipt:
        """Note that the user was asked and did not allow `purpose`, so that nobody asks again."""
        return self._change(purpose, "declined", notice_version)

    def was_asked(self, purpose: str) -> bool:
        """True if the user has ever decided about `purpose`."""
        return find_purpose(purpose).name in self._switches

    def is_granted(self, purpose: str) -> bool:
        """Raises ConfigError for a purpose that does not exist."""
        return self.granted_since(purpose) is not None

    def granted_since(self, purpose: str) -> float | None:
        """Unix time of the consent in force; None if there is none."""
        switch = self._switches.get(find_purpose(purpose).name)
        return float(switch["since_s"]) if switch is not None and switch["granted"] else None

    def receipts(self) -> list[ConsentReceipt]:
        """Every change, oldest first."""
        return [ConsentReceipt(**document) for document in self._receipts.entries()]

    def document(self) -> dict[str, Any]:
        """All switches as plain JSON."""
        return {
            name: {
                "title": purpose.title,
                "description": purpose.description,
                "granted": self.is_granted(name),
                "since_s": self.granted_since(name),
            }
            for name, purpose in PURPOSES.items()
        }

    def _change(self, name: str, action: str, notice_version: int) -> ConsentReceipt:
        purpose = find_purpose(name)
        if isinstance(notice_version, bool) or not isinstance(notice_version, int) or notice_version < 1:
            raise ConfigError(f"notice_version is {notice_version!r}, expected a whole number from 1")
        with self._store.transaction():
            now_s = float(self._clock())
            receipt = ConsentReceipt(len(self._receipts) + 1, purpose.name, action, now_s, notice_version)
            self._switches.put(
                purpose.name, {"granted": action == "granted", "since_s": now_s, "notice_version": notice_version}
            )
            self._receipts.put(f"{receipt.number:08d}", receipt.document())
            if action != "granted" and purpose.name in self._on_withdrawal:
                self._on_withdrawal[purpose.name]()
        return receipt
