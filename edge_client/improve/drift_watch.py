"""Watching for drift on one device: a detector for each kind (decide/drift.py), what it needs kept, and what its alarms ask for.

What is said within one session is not independent, and a detector that took it for that would raise alarms without a cause. So
the mean of each session is one observation for it (SESSION_S without a word ends one).

In the encrypted store with consent to personalisation only: what is watched is how the user fares. An observation is a sum in
memory; it is written down every KEEP_EVERY of them and at once with an alarm, so that a turn does not wait for the disk, and a
kill costs a few observations and never an alarm.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from edge_client.decide.drift import DriftDetector, Unrest
from edge_client.know.consent import Consent
from edge_client.know.store import Records, Store
from shared_models.drift import KINDS, MOST_WATCHED, RETRAIN
from shared_models.errors import DecisionError, StoreWriteError
from shared_models.purposes import PERSONALISATION

TABLE = "drift"
WEEK_S = 7 * 86_400.0
PERIOD_WEEKS = 4
"""What `drifted` tells is about this week and the three before it."""
PERIOD_S = PERIOD_WEEKS * WEEK_S
KEEP_EVERY = 16
SESSION_S = 1800.0
_log = logging.getLogger(__name__)


class DriftWatch:
    """The detectors of one store. The owner holds the store's lock."""

    def __init__(self, store: Store, consent: Consent, clock: Callable[[], float]) -> None:
        self._store, self._consent, self._clock = store, consent, clock
        consent.when_withdrawn(PERSONALISATION.name, self.drop)
        store.when_rolled_back(self.drop)
        self.drop()

    def drop(self) -> None:
        """Forget what is held in memory; what is kept is read again when it may be used."""
        self._detectors: dict[str, DriftDetector] | None = None
        self._changed_s: dict[str, float] = {}
        self._weeks: dict[int, dict[str, int]] = {}
        self._session: dict[str, tuple[float, int, float]] = {}
        """Kind -> sum, count and Unix time of the last observation of the session that is not over."""
        self._unkept = 0

    @property
    def allowed(self) -> bool:
        return self._consent.is_granted(PERSONALISATION.name)

    def observe(self, kind: str, badness: float) -> bool:
        """Take in one observation (shared_models.drift.KINDS), 0 good to 1 bad; True if the session before raises an alarm.

        Nothing is watched without consent. What cannot be written down is logged, never raised: the user waits for an answer.
        Raises DecisionError for a kind or a number that is none.
        """
        if kind not in KINDS:
            raise DecisionError(f"{str(kind)[:40]!r} is not watched, expected one of {', '.join(KINDS)}")
        if not self.allowed:
            return False
        detectors, now_s = self._held(), float(self._clock())
        if sum(week.get(kind, 0) for week in self._period(now_s).values()) >= MOST_WATCHED:
            # Beyond this the false alarms of a period would add up to more than is stated.
            return False
        if not isinstance(badness, bool | int | float) or not 0.0 <= badness <= 1.0:
            raise DecisionError(f"badness is {str(badness)[:40]!r}, expected a number from 0 to 1")
        total, count, last_s = self._session.get(kind, (0.0, 0, now_s))
        alarm = False
        if count and abs(now_s - last_s) > SESSION_S:
            alarm = detectors[kind].observe(min(total / count, 1.0))
            total, count = 0.0, 0
        self._session[kind] = (total + float(badness), count + 1, now_s)
        week = self._weeks.setdefault(int(now_s // WEEK_S), {})
        week[kind] = week.get(kind, 0) + 1
        if alarm:
            self._changed_s[kind] = now_s
        self._unkept += 1
        if alarm or self._unkept >= KEEP_EVERY:
            self.keep()
        return alarm

    def keep(self) -> None:
        """Write down what was watched; a failure is logged."""
        if self._detectors is None or not self._unkept or not self.allowed:
            return
        record = {
            "detectors": {kind: one.document() for kind, one in self._detectors.items() if len(one)},
            "changed_s": dict(self._changed_s),
            "session": {kind: list(one) for kind, one in self._session.items()},
            "weeks": {str(number): dict(counts) for number, counts in self._weeks.items()},
        }
        try:
            self._table().put("state", record)
            self._unkept = 0
        except StoreWriteError as error:
            _log.warning("what was watched could not be kept: %s", type(error).__name__)

    # -- what it says -----------------------------------------------------------------------------------------------

    def drifted(self) -> tuple[frozenset[str], int]:
        """The kinds that raised an alarm in the period, and how many observations of all kinds there were in it.

        What `drift_count` contributes; nothing and 0 without consent.
        """
        if not self.allowed:
            return frozenset(), 0
        self._held()
        now_s = float(self._clock())
        watched = sum(sum(week.values()) for week in self._period(now_s).values())
        return frozenset(kind for kind, at_s in self._changed_s.items() if now_s - at_s < PERIOD_S), watched

    def asks_for_tuning(self, since_s: float) -> bool:
        """True if understanding has got worse since then: the head should be tuned anew."""
        if not self.allowed:
            return False
        self._held()
        return any(RETRAIN[kind] == "intent_head" and at_s > since_s for kind, at_s in self._changed_s.items())

    @property
    def unrest(self) -> Unrest:
        """How much the user's taste has just changed: for exploration and forgetting."""
        if not self.allowed:
            return Unrest()
        self._held()
        return Unrest.since(self._changed_s.get("preference"), float(self._clock()))

    def document(self) -> dict[str, Any]:
        """What is kept, in plain words and numbers: for the export, also while it may not be used."""
        record = self._table().get("state") or {}
        return {
            "changed_s": record.get("changed_s", {}),
            "watched_by_week": record.get("weeks", {}),
            "detectors": record.get("detectors", {}),
        }

    # -- inside -----------------------------------------------------------------------------------------------------

    def _held(self) -> dict[str, DriftDetector]:
        if self._detectors is None:
            self._detectors = {kind: DriftDetector() for kind in KINDS}
            record = self._table().get("state") or {}
            try:
                for kind, document in record.get("detectors", {}).items():
                    if kind in KINDS:
                        self._detectors[kind].restore(document)
                self._changed_s = {
                    kind: float(at_s)
                    for kind, at_s in record.get("changed_s", {}).items()
                    if kind in KINDS and math.isfinite(at_s)
                }
                self._session = {
                    kind: (float(total), int(count), float(last_s))
                    for kind, (total, count, last_s) in record.get("session", {}).items()
                    if kind in KINDS and 0.0 <= total <= count and math.isfinite(last_s)
                }
                self._weeks = {
                    int(number): {kind: int(count) for kind, count in counts.items() if kind in KINDS}
                    for number, counts in record.get("weeks", {}).items()
                }
            except (AttributeError, TypeError, ValueError, DecisionError) as error:
                # Another version wrote it. Watching starts anew, which raises no alarm.
                _log.warning("what was watched before cannot be read: %s", type(error).__name__)
                self._detectors = {kind: DriftDetector() for kind in KINDS}
                self._changed_s, self._weeks, self._session = {}, {}, {}
        return self._detectors

    def _period(self, now_s: float) -> dict[int, dict[str, int]]:
        """The counts of this week and the three before; older ones go. A clock that was set back forgets nothing."""
        this = int(now_s // WEEK_S)
        self._weeks = {number: counts for number, counts in self._weeks.items() if number > this - PERIOD_WEEKS}
        return self._weeks

    def _table(self) -> Records:
        # Asked for each time: destroying a purpose's key gives its tables a new one.
        return self._store.table(TABLE, purpose=PERSONALISATION.name)
