"""What the user decides about what the assistant says by itself, and what can be seen of it: stop, restore, quiet hours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from edge_client.decide.follow_ups import TOPICS, FollowUp
from edge_client.decide.receptive_hours import CHANNELS
from edge_client.delivery_memory import Memory
from edge_client.know.store import Store
from edge_client.share.schedule_rules import MOST_QUIET_HOURS, QuietHours, checked_time_s
from shared_models.errors import ConfigError, InputError


class DeliveryWishes:
    """The part of `Delivering` that is the user's."""

    def __init__(self, store: Store, memory: Memory, clock: Callable[[], float]) -> None:
        self._store, self._memory, self._clock = store, memory, clock

    # -- what the user decides ------------------------------------------------------------------------------------

    def stop(self, what: str = "all") -> None:
        """Stop asking: `all`, a topic, or `channel/notification` and the like. Nothing of it is said until `restore`."""
        with self._store.transaction():
            self._stop(_checked_scope(what))

    def restore(self, what: str = "all") -> bool:
        """The user wants it again; `all` restores everything. True if something was stopped."""
        scope = _checked_scope(what)
        with self._store.transaction():
            stopped = self._memory.stopped() if scope == "all" else [scope]
            gone = [one for one in stopped if self._memory.settings.delete(f"stop/{one}")]
            now_s = self._now()
            history = self._memory.history(now_s)
            wanted = {*gone, *(f"topic/{one}" for one in gone)}
            levels = (
                {} if scope == "all" else {key: level for key, level in history.levels.items() if key not in wanted}
            )
            if levels != dict(history.levels):
                self._memory.keep_history(replace(history, levels=levels))
            return bool(gone)

    def set_quiet_hours(self, hours: Iterable[str | QuietHours] | None) -> None:
        """Nothing is said in these, by any channel (`22:00-07:00`); none: any time will do; None: the night again.

        Raises ConfigError, StoreWriteError.
        """
        if hours is None:
            self._memory.settings.delete("quiet")
            return
        if isinstance(hours, str) or not isinstance(hours, Iterable):
            raise ConfigError("quiet hours: expected a list such as ['22:00-07:00']")
        named = [str(one if isinstance(one, QuietHours) else QuietHours.parse(one)) for one in hours]
        if len(named) > MOST_QUIET_HOURS:
            raise ConfigError(f"{len(named)} quiet hours, expected {MOST_QUIET_HOURS} at most")
        self._memory.settings.put("quiet", {"hours": named})

    # -- what can be seen -----------------------------------------------------------------------------------------

    def pending(self) -> tuple[FollowUp, ...]:
        """What is planned and was not said, by due time."""
        with self._store.lock:
            return tuple(plan.follow_up for plan in self._memory.plans()[0])

    def quality(self) -> dict[str, int]:
        """Event -> how often, over all topics and channels: no personal data beyond counts."""
        with self._store.lock:
            return self._memory.totals()

    def document(self) -> dict[str, Any]:
        """All that is kept, as plain JSON: for the export and the privacy centre."""
        with self._store.lock:
            return self._memory.document()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return checked_time_s("the clock", self._clock())

    def _discard(self, one: FollowUp, why: str) -> None:
        if self._memory.table.delete(f"plan/{one.id}"):
            self._memory.count(one.topic, "-", why)

    def _stop(self, scope: str) -> None:
        self._memory.settings.put(f"stop/{scope}", {"since_s": self._now()})
        for plan in self._memory.plans()[0]:
            if scope in ("all", plan.follow_up.topic):
                self._discard(plan.follow_up, "changed")


def _checked_scope(what: object) -> str:
    known = ("all", *TOPICS, *(f"channel/{channel}" for channel in CHANNELS))
    if not isinstance(what, str) or what not in known:
        raise InputError(f"{str(what)[:40]!r} cannot be stopped; expected one of {', '.join(known)}")
    return what
