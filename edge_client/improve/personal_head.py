"""The user's own change of the intent head: kept in the encrypted store, tied to the head that it was tuned from, never sent.

With consent to personal learning only; withdrawing it destroys the change with its purpose's key. It counts for one published
head alone: with a newer one it is out of use until it is tuned anew. The user can take it back at once.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_client.know.consent import Consent
from edge_client.know.store import Records, Store
from shared_models.local_tuning import LocalTuning
from shared_models.purposes import PERSONAL_LEARNING

TABLE = "personal-head"
DELTA = 1e-5
"""Of the stated ε of a tuning with noise."""

Array = npt.NDArray[np.float32]


class PersonalHead:
    """Of one store. The owner holds the store's lock."""

    def __init__(self, store: Store, consent: Consent, clock: Callable[[], float]) -> None:
        self._store, self._consent, self._clock = store, consent, clock

    @property
    def allowed(self) -> bool:
        return self._consent.is_granted(PERSONAL_LEARNING.name)

    def change_for(self, head_sha256: str, classes: int, dimension: int) -> Array | None:
        """What the logits' weights [classes, dimension] of the published head change by; None if nothing was learned for it.

        A record that cannot be read counts as none: the published head is always there.
        """
        record = self._table().get("head") if self.allowed else None
        if record is None or record.get("head_sha256") != head_sha256:
            return None
        try:
            raw = base64.b64decode(record["change"], validate=True)
            change = np.frombuffer(raw, "<f2").astype(np.float32).reshape(classes, dimension)
        except (KeyError, TypeError, ValueError, binascii.Error):
            return None
        return change if np.isfinite(change).all() else None

    def keep(
        self, change: Array, head_sha256: str, version: int, measured: Mapping[str, Any], tuning: LocalTuning
    ) -> None:
        """Put this change in force, durably and whole. Raises StoreWriteError."""
        halves = np.ascontiguousarray(np.clip(change, -60_000.0, 60_000.0), "<f2")
        self._table().put(
            "head",
            {
                "head_sha256": head_sha256,
                "version": version,
                "at_s": float(self._clock()),
                "change": base64.b64encode(halves.tobytes()).decode(),
                "measured": dict(measured),
                "epsilon": stated_epsilon(tuning),
            },
        )

    def drop_tuned(self) -> None:
        """Take what is in force out of it; the next tuning starts from the published head. Raises StoreWriteError."""
        self._table().delete("head")

    def reset(self) -> bool:
        """The user takes back what was learned: at once, and the examples kept until now are not tuned on again.

        True if there was something. Raises StoreWriteError.
        """
        with self._store.transaction():
            there = self._table().delete("head")
            self._table().put("reset", {"at_s": float(self._clock())})
            self._table().delete("attempt")
        return there

    @property
    def reset_s(self) -> float:
        """Examples until then are not tuned on: what the user took back must not come back by itself."""
        return float((self._table().get("reset") or {}).get("at_s", -math.inf))

    @property
    def last_attempt(self) -> Mapping[str, Any]:
        """What the last tuning was from, whether or not its outcome is used; empty before the first."""
        return self._table().get("attempt") or {}

    def attempted(self, head_sha256: str, examples: int, outcome: str, measured: Mapping[str, Any] | None) -> None:
        """Remember a tuning that went through to its end. Raises StoreWriteError."""
        self._table().put(
            "attempt",
            {
                "head_sha256": head_sha256,
                "examples": examples,
                "at_s": float(self._clock()),
                "outcome": outcome,
                "measured": None if measured is None else dict(measured),
            },
        )

    def document(self) -> dict[str, Any]:
        """What is kept, as facts and without the numbers of the change: for the export and the privacy centre."""
        head, attempt = self._table().get("head"), self._table().get("attempt")
        facts = ("version", "at_s", "measured", "epsilon")
        return {
            "in_force": None if head is None else {name: head.get(name) for name in facts} | {"delta": DELTA},
            "last_attempt": attempt,
            "leaves_the_device": False,
            "means": MEANS,
        }

    def _table(self) -> Records:
        # Asked for each time: destroying a purpose's key gives its tables a new one.
        return self._store.table(TABLE, purpose=PERSONAL_LEARNING.name)


MEANS = (
    "A change of the published model that was learned from your kept examples, on this device. It never leaves it. Each example "
    "was clipped, so that none moved it far; no noise was added unless an epsilon is stated, which then is about somebody who "
    "reads this change and nothing else. Who can read the store can read your examples as well: its encryption protects both."
)


def stated_epsilon(tuning: LocalTuning) -> float | None:
    """ε at DELTA of one tuning, about one example, by zCDP; None without noise, for then there is none."""
    if math.isinf(tuning.rho):
        return None
    from privacy.accounting import epsilon_from_rho

    return epsilon_from_rho(tuning.rho, DELTA)
