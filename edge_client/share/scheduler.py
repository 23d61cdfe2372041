"""When this device trains: the user's rules on what the device says, a pause that lasts, an end at once when the user is back.

It decides whether to TRAIN and whether to be ONLINE. It never decides whether an invitation is answered: a device that is invited
answers, with zeros if it did not train (`scheduled_port`), and being online hangs on nothing that the user does or has stored.
docs/scheduler.md says why.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from edge_client.share.probes import Network, Power, Probes, Readings, look, network_of
from edge_client.share.schedule_rules import ScheduleRules, checked_time_s
from shared_models.errors import ConfigError
from shared_models.purposes import find_purpose

SCHEDULE_TABLE = "schedule"
WATCH_EVERY_S = 0.25
"""Between two looks for the user's return while something trains. `user_is_active` need not wait for one."""

MOST_DURATIONS = 8
LONGEST_DURATION_S = 600.0


class Reason(StrEnum):
    """Why nothing is trained now, in the words of the privacy centre."""

    PAUSED = "paused by you"
    QUIET = "quiet hours"
    IN_USE = "the device is in use"
    IN_USE_UNKNOWN = "nobody can say whether the device is in use"
    BATTERY = "on battery"
    POWER_UNKNOWN = "nobody can say whether the device is charging"
    METERED = "the network is metered"
    NETWORK_UNKNOWN = "nobody can say whether the network is metered"
    TOO_SOON = "the last training was too recent"


class Outcome(StrEnum):
    """What became of the training part of a round."""

    TRAINED = "trained"
    NOT_ALLOWED = "not allowed"
    ABORTED = "aborted"
    FAILED = "failed"


class ScheduleMemory(Protocol):
    """Durable key → JSON object: a table of the store."""

    def get(self, key: str) -> dict[str, Any] | None: ...

    def put(self, key: str, value: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Verdict:
    """May it be done now?"""

    allowed: bool
    reasons: tuple[str, ...] = ()
    """Why not; empty if allowed."""
    next_s: float | None = None
    """Not before this Unix time, by the clock alone. None: allowed now, or it hangs on something without a time."""


class Scheduler:
    """One device's schedule. Thread-safe; `memory` is read once, at the start, so that a busy store never delays an abort.

    What is remembered (a pause, the last training of each purpose, how long trainings took) survives restarts.
    """

    def __init__(
        self, rules: ScheduleRules, probes: Probes, clock: Callable[[], float], memory: ScheduleMemory
    ) -> None:
        self._rules = rules
        self._probes = probes
        self._clock = clock
        self._memory = memory
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._active_s: float | None = None
        self._paused, self._pause_until_s = _stored_pause(memory.get("pause"))
        self._started = _stored_times(memory.get("started"))
        self._durations = _stored_durations(memory.get("durations"))
        self._last = memory.get("last")

    # -- what is asked --------------------------------------------------------------------------------------------

    def may_run(self, purpose: str) -> Verdict:
        """May something be trained for `purpose` now? Raises ConfigError for a purpose that does not exist."""
        find_purpose(purpose)
        now_s = self._now_s()
        readings = look(self._probes)
        reasons = [*self._conditions(now_s, readings), *self._network_reasons(readings)]
        if self._separated_at_s(purpose, now_s) > now_s:
            reasons.append(Reason.TOO_SOON)
        return Verdict(not reasons, tuple(reasons), self._not_before_s(purpose, now_s) if reasons else None)

    def may_connect(self) -> Verdict:
        """May the device be online for rounds? Asked between rounds only, and of nothing but the pause and the network's cost.

        Nothing that the user does at the device or has stored in it plays a part: staying away must say nothing about it.
        """
        now_s = self._now_s()
        reasons: list[Reason] = [Reason.PAUSED] if self._is_paused(now_s) else []
        if not self._rules.on_metered:
            # Not `look`: whether somebody sits at the device must not even be asked here.
            reasons += self._network_reasons(Readings(None, Power.UNKNOWN, network_of(self._probes)))
        return Verdict(not reasons, tuple(reasons), self._pause_until_s if Reason.PAUSED in reasons else None)

    @property
    def longest_training_s(self) -> float | None:
        """The longest of the last trainings here; None if none was completed yet."""
        with self._lock:
            return max(self._durations, default=None)

    # -- what people say ------------------------------------------------------------------------------------------

    def pause(self, until_s: float | None = None) -> None:
        """Train nothing, and leave the fleet between rounds, until then or until `resume`; what trains is aborted at once.

        Durable. Raises ConfigError for a time that is none or has passed, StoreWriteError if it cannot be kept; in the second
        case it holds for as long as this process lives.
        """
        if until_s is not None:
            until_s = checked_time_s("until_s", until_s)
            if until_s <= self._now_s():
                raise ConfigError(f"until_s is {until_s:.0f}, which has passed; expected a time to come, or None")
        with self._lock:
            self._paused, self._pause_until_s = True, until_s
        # Before it is written: whoever trains holds the store.
        self._fire(Reason.PAUSED)
        self._memory.put("pause", {"paused": True, "until_s": until_s})

    def resume(self) -> None:
        """End a pause; without one, nothing changes. Raises StoreWriteError, and the pause then stays."""
        self._memory.put("pause", {"paused": False, "until_s": None})
        with self._lock:
            self._paused, self._pause_until_s = False, None

    def user_is_active(self) -> None:
        """The app's word that the user is at the device now: counts as a touch, and ends a training without waiting for a look.

        Call it before anything that waits for the store.
        """
        self._active_s = self._now_s()
        if self._rules.idle_s:
            self._fire(Reason.IN_USE)

    # -- what happens ---------------------------------------------------------------------------------------------

    def started(self, purpose: str) -> None:
        """A training for `purpose` begins. Raises ConfigError, StoreWriteError."""
        find_purpose(purpose)
        with self._lock:
            self._started[purpose] = self._now_s()
            document = dict(self._started)
        self._memory.put("started", {"at_s": document})

    def ended(
        self, purpose: str, outcome: Outcome, reasons: tuple[str, ...] = (), duration_s: float | None = None
    ) -> None:
        """What became of it; `duration_s` of a training that was completed. Raises StoreWriteError."""
        last = {
            "purpose": purpose,
            "at_s": self._now_s(),
            "outcome": str(outcome),
            "reasons": [str(x) for x in reasons],
        }
        with self._lock:
            self._last = last
            if duration_s is not None and 0.0 <= duration_s <= LONGEST_DURATION_S:
                self._durations = [*self._durations, duration_s][-MOST_DURATIONS:]
            durations = list(self._durations)
        self._memory.put("last", last)
        if duration_s is not None:
            self._memory.put("durations", {"seconds": durations})

    @contextlib.contextmanager
    def watch(self, abort: Callable[[], None]) -> Iterator[Watch]:
        """While the block runs, call `abort` once, from another thread, as soon as nothing may be trained any more.

        That is: the user is back, a pause, quiet hours, no mains. Not the network's cost, for training uses no network and an
        answer weighs the same with or without it. `abort` is never called after the block has ended.
        """
        watch = Watch(abort)
        with self._lock:
            self._watches.add(watch)
        over = threading.Event()

        def look_for_reasons() -> None:
            while not over.is_set():
                reasons = self._conditions(self._now_s(), look(self._probes))
                if reasons:
                    watch.fire(tuple(reasons))
                    return
                over.wait(WATCH_EVERY_S)

        threading.Thread(target=look_for_reasons, name="schedule-watch", daemon=True).start()
        try:
            yield watch
        finally:
            over.set()
            with self._lock:
                self._watches.discard(watch)
            watch.close()

    def document(self) -> dict[str, Any]:
        """Rules, readings, the pause and the last training as plain JSON, for the privacy centre."""
        now_s = self._now_s()
        readings = look(self._probes)
        reasons = [*self._conditions(now_s, readings), *self._network_reasons(readings)]
        with self._lock:
            paused = {"until_s": self._pause_until_s} if self._is_paused(now_s) else None
            started, last = dict(self._started), self._last
        return {
            "may_train": not reasons,
            "reasons": [str(reason) for reason in reasons],
            "may_connect": self.may_connect().allowed,
            "next_s": self._not_before_s(None, now_s) if reasons else None,
            "paused": paused,
            "readings": readings.document(),
            "rules": self._rules.document(),
            "started_s": started,
            "last": last,
        }

    # -- the rules on the readings --------------------------------------------------------------------------------

    def _conditions(self, now_s: float, readings: Readings) -> list[Reason]:
        """All but the network's cost and the separation: what may also end a training that runs."""
        reasons = [Reason.PAUSED] if self._is_paused(now_s) else []
        if self._rules.quiet_at(now_s):
            reasons.append(Reason.QUIET)
        if self._rules.idle_s is not None:
            idle_s = self._idle_s(now_s, readings.idle_s)
            if idle_s is not None and idle_s < self._rules.idle_s:
                reasons.append(Reason.IN_USE)
            elif readings.idle_s is None and not self._rules.unknown_idle:
                reasons.append(Reason.IN_USE_UNKNOWN)
        if not self._rules.on_battery:
            if readings.power is Power.BATTERY:
                reasons.append(Reason.BATTERY)
            elif readings.power is Power.UNKNOWN and not self._rules.unknown_power:
                reasons.append(Reason.POWER_UNKNOWN)
        return reasons

    def _network_reasons(self, readings: Readings) -> list[Reason]:
        if self._rules.on_metered:
            return []
        if readings.network is Network.METERED:
            return [Reason.METERED]
        unknown = readings.network is Network.UNKNOWN and not self._rules.unknown_network
        return [Reason.NETWORK_UNKNOWN] if unknown else []

    def _idle_s(self, now_s: float, probed_s: float | None) -> float | None:
        """The shorter of what the system says and what the app said last."""
        if self._active_s is None:
            return probed_s
        # A clock that was set back: the user was active just now, and not at a time to come.
        self._active_s = min(self._active_s, now_s)
        since_s = now_s - self._active_s
        return since_s if probed_s is None else min(since_s, probed_s)

    def _is_paused(self, now_s: float) -> bool:
        return self._paused and (self._pause_until_s is None or now_s < self._pause_until_s)

    def _separated_at_s(self, purpose: str, now_s: float) -> float:
        """When the next training of `purpose` is far enough from the last."""
        with self._lock:
            last_s = self._started.get(purpose)
            if last_s is None:
                return now_s
            # A clock that was set back: the separation counts from now, and not from a time to come.
            self._started[purpose] = last_s = min(last_s, now_s)
        return last_s + self._rules.min_separation_s

    def _not_before_s(self, purpose: str | None, now_s: float) -> float | None:
        """The first time at which pause, quiet hours and separation all allow it; None if there is none, or it is now."""
        at_s = now_s
        if self._is_paused(now_s):
            if self._pause_until_s is None:
                return None
            at_s = self._pause_until_s
        if purpose is not None:
            at_s = max(at_s, self._separated_at_s(purpose, now_s))
        quiet_until_s = self._rules.quiet_until_s(at_s)
        return quiet_until_s if quiet_until_s is not None and quiet_until_s > now_s else None

    def _now_s(self) -> float:
        return checked_time_s("the clock's time", self._clock())

    def _fire(self, reason: Reason) -> None:
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch.fire((reason,))


def keep_rules(memory: ScheduleMemory, rules: ScheduleRules) -> None:
    """Remember which rules the agent works by, for whoever shows them while it is not there. Raises StoreWriteError."""
    if (memory.get("rules") or {}) != rules.document():
        memory.put("rules", rules.document())


def kept_rules(memory: ScheduleMemory) -> ScheduleRules:
    """The rules that the agent worked by last; those of the library if there are none, or another version wrote them."""
    stored = memory.get("rules")
    try:
        return ScheduleRules() if stored is None else ScheduleRules.from_document(stored)
    except ConfigError:
        return ScheduleRules()


class Watch:
    """One training that is watched."""

    def __init__(self, abort: Callable[[], None]) -> None:
        self.reasons: tuple[str, ...] = ()
        """Why it was aborted; empty if it was not."""
        self._abort = abort
        self._guard = threading.Lock()
        self._over = False

    def fire(self, reasons: tuple[str, ...]) -> None:
        """Abort, unless that was done before or the training is over."""
        with self._guard:
            if self._over:
                return
            self._over, self.reasons = True, reasons
            self._abort()

    def close(self) -> None:
        with self._guard:
            self._over = True


def _stored_pause(stored: Mapping[str, Any] | None) -> tuple[bool, float | None]:
    if stored is None:
        return False, None
    until_s = stored.get("until_s")
    try:
        return stored.get("paused") is not False, None if until_s is None else checked_time_s("until_s", until_s)
    except ConfigError:
        # Something else wrote it: whoever paused is not to be overruled by that.
        return True, None


def _stored_times(stored: Mapping[str, Any] | None) -> dict[str, float]:
    times = (stored or {}).get("at_s")
    found: dict[str, float] = {}
    for name, at_s in times.items() if isinstance(times, dict) else ():
        with contextlib.suppress(ConfigError):
            found[str(name)] = checked_time_s(str(name), at_s)
    return found


def _stored_durations(stored: Mapping[str, Any] | None) -> list[float]:
    seconds = (stored or {}).get("seconds")
    numbers = [x for x in seconds if isinstance(x, float | int)] if isinstance(seconds, list) else []
    return [float(x) for x in numbers if 0.0 <= x <= LONGEST_DURATION_S][-MOST_DURATIONS:]
