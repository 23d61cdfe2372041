"""How the assistant did for this user, counted by group: right, corrected, declined turns; accepted and passed suggestions.

Only counters, in buckets that the schema declares (`slices`), never a text. Kept with consent to personalisation, encrypted, for
three periods of four weeks; they go with the withdrawal. They leave the device only as `fairness_slices`, through the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge_client.know.consent import Consent
from edge_client.know.profile import SECONDS_PER_DAY, Profile
from edge_client.know.store import Records, Store
from shared_models.errors import InputError
from shared_models.fairness import OUTCOMES, SliceSource
from shared_models.purposes import PERSONALISATION

TABLE = "outcomes"
PERIOD_S = 28 * SECONDS_PER_DAY
PERIODS = 3
"""Kept and counted; older ones go."""
MOST = 1_000_000
"""Of one counter: beyond that it stands still."""
_FIRST = "first"


class Outcomes:
    """The counters of one store. Thread-safe; every count is durable on return."""

    def __init__(
        self,
        store: Store,
        consent: Consent,
        profile: Profile,
        slices: Mapping[str, SliceSource],
        clock: Callable[[], float],
    ) -> None:
        """`slices`: those of the schema that `profile` has."""
        self._store = store
        self._consent = consent
        self._profile = profile
        self._slices = slices
        self._clock = clock

    @property
    def slices(self) -> Mapping[str, SliceSource]:
        """The groups that this device counts by."""
        return self._slices

    @property
    def _table(self) -> Records:
        # Asked for each time: destroying a purpose's key gives its tables a new one.
        return self._store.table(TABLE, purpose=PERSONALISATION.name)

    def record(self, outcome: str, by: int = 1, **known: Any) -> bool:
        """Count `outcome` (one of OUTCOMES) for each group that the user is in now; True if it was counted.

        `by` below 0 takes back (a turn that was counted as right and is corrected now). `known`: attributes that the caller knows
        better than the profile, such as the language of a reply. Without consent nothing is counted. Raises InputError,
        StoreWriteError.
        """
        if outcome not in OUTCOMES:
            raise InputError(f"{str(outcome)[:60]!r} is no outcome; expected one of {', '.join(OUTCOMES)}")
        if isinstance(by, bool) or not isinstance(by, int) or abs(by) > MOST:
            raise InputError(f"by is {str(by)[:40]!r}, expected a whole number")
        place = OUTCOMES.index(outcome)
        with self._store.lock:
            if not self._consent.is_granted(PERSONALISATION.name):
                return False
            now_s = float(self._clock())
            with self._store.transaction():
                table = self._table
                period = int(now_s // PERIOD_S)
                first = table.get(_FIRST)
                if first is None:
                    first = {"day": int(now_s // SECONDS_PER_DAY)}
                    table.put(_FIRST, first)
                groups = self._groups(known, max(0, int(now_s // SECONDS_PER_DAY) - int(first["day"])))
                counts = table.get(_key(period)) or {}
                for name, bucket in groups.items():
                    counted = counts.setdefault(name, {}).setdefault(bucket, [0] * len(OUTCOMES))
                    counted[place] = min(max(counted[place] + by, 0), MOST)
                table.put(_key(period), counts)
                # A clock that was wrong may have left periods of the future, too.
                for key in table.keys("period-"):
                    if not period - PERIODS < int(key.removeprefix("period-")) <= period:
                        table.delete(key)
        return True

    def counts(self) -> dict[str, dict[str, list[int]]]:
        """Slice -> bucket -> how often each of OUTCOMES was counted in the last PERIODS; empty without consent."""
        with self._store.lock:
            if not self._consent.is_granted(PERSONALISATION.name):
                return {}
            period = int(float(self._clock()) // PERIOD_S)
            kept = {key: counts for key, counts in self._table.items("period-")}
        total: dict[str, dict[str, list[int]]] = {}
        for key, counts in kept.items():
            if not period - PERIODS < int(key.removeprefix("period-")) <= period:
                continue
            for name, buckets in counts.items():
                for bucket, counted in buckets.items():
                    before = total.setdefault(name, {}).setdefault(bucket, [0] * len(OUTCOMES))
                    total[name][bucket] = [one + int(other) for one, other in zip(before, counted, strict=True)]
        return total

    def document(self) -> dict[str, Any]:
        """As plain JSON, for the user's export."""
        return {"outcomes": list(OUTCOMES), "days": int(PERIODS * PERIOD_S // SECONDS_PER_DAY), "counts": self.counts()}

    def clear(self) -> int:
        """Erase all; returns how many records."""
        return self._table.clear()

    def _groups(self, known: Mapping[str, Any], days: int) -> dict[str, str]:
        found = {}
        for name, source in self._slices.items():
            if source.of_use:
                value: Any = days
            elif source.attribute in known:
                value = known[source.attribute]
            else:
                held = self._profile.get(source.attribute)
                value = None if held is None else held.value
            if bucket := source.bucket(value):
                found[name] = bucket
        return found


def _key(period: int) -> str:
    return f"period-{period}"
