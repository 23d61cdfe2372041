"""The audit trail of exercised rights: which right, when, for which purpose, and counts. Never a name, a value or a text.

It is erased with the store; who wants to keep it keeps what `Rights.erase` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge_client.know.store import Store
from shared_models.errors import ConfigError
from shared_models.purposes import find_purpose

ACCESS = "access"
RECTIFICATION = "rectification"
RESTRICTION = "restriction"
RESTRICTION_LIFTED = "restriction-lifted"
OBJECTION = "objection"
OBJECTION_WITHDRAWN = "objection-withdrawn"
SIGNAL = "sec-gpc"
SIGNAL_WITHDRAWN = "sec-gpc-withdrawn"
WITHDRAWAL = "withdrawal-of-consent"
ERASURE = "erasure"
RIGHTS = (
    ACCESS,
    RECTIFICATION,
    RESTRICTION,
    RESTRICTION_LIFTED,
    OBJECTION,
    OBJECTION_WITHDRAWN,
    SIGNAL,
    SIGNAL_WITHDRAWN,
    WITHDRAWAL,
    ERASURE,
)
MOST_ENTRIES = 1000
"""Beyond that the oldest go: an app that flips a switch all day must not fill the disk."""


class AuditTrail:
    """The trail of one store, oldest first."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._table = store.table("audit")
        self._clock = clock

    def note(self, right: str, *, purpose: str = "", counts: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Add one entry, durably or with the transaction around it; returns it. Raises ConfigError, StoreWriteError."""
        entry = audit_entry(self._clock(), right, purpose=purpose, counts=counts)
        with self._store.transaction():
            self._table.append(entry)
            if len(self._table) > MOST_ENTRIES:
                for surplus in self._table.oldest(len(self._table) - MOST_ENTRIES):
                    self._table.delete(surplus)
        return entry

    def entries(self) -> list[dict[str, Any]]:
        """Every entry: `at_s` (Unix seconds), `right`, `purpose` (may be empty) and `counts`."""
        return self._table.entries()


def audit_entry(
    at_s: float, right: str, *, purpose: str = "", counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """One entry as plain JSON. Raises ConfigError for a right or purpose that does not exist: free text has no place here."""
    if right not in RIGHTS:
        raise ConfigError(f"there is no right {str(right)[:60]!r}; expected one of {', '.join(RIGHTS)}")
    return {
        "at_s": float(at_s),
        "right": right,
        "purpose": find_purpose(purpose).name if purpose else "",
        "counts": {str(name): int(count) for name, count in (counts or {}).items()},
    }
