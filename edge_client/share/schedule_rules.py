"""What the user allows: when this device may train. Quiet hours, and how each unknown is read. Pure: no clock, no probe.

The officer's policy, the consent and the budget are not here: those are the gate's (privacy.gate), and no rule here loosens them.
"""

from __future__ import annotations

import math
import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any

from shared_models.errors import ConfigError

MINUTE_S = 60
LONGEST_LOOK_S = 48 * 3600
"""Quiet hours that have no end within this have none at all."""

MOST_QUIET_HOURS = 24
MAX_SEPARATION_S = 90 * 86400.0
MAX_IDLE_S = 86400.0
EARLIEST_S, LATEST_S = 0.0, 32_503_680_000.0
"""1970 to 3000: what a clock may say."""

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True)
class QuietHours:
    """From `start` up to, and without, `end`, by the clock on the user's wall; over midnight if `end` is the earlier one.

    Whole minutes. Where the clock is put forward over `end`, the quiet ends with the jump; where it is put back into the quiet
    hours, what is repeated is quiet again. Raises ConfigError.
    """

    start: time
    end: time

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not isinstance(value, time) or value.second or value.microsecond or value.tzinfo is not None:
                raise ConfigError(f"{name} of quiet hours is {value!r}, expected a time of day in whole minutes")
        if self.start == self.end:
            raise ConfigError(f"quiet hours from {self} are empty or the whole day: pause the agent instead")

    @classmethod
    def parse(cls, text: str) -> QuietHours:
        """From `22:00-07:00`. Raises ConfigError."""
        found = _HOURS.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ConfigError(f"quiet hours are {str(text)[:40]!r}, expected HH:MM-HH:MM such as 22:00-07:00")
        start_hour, start_minute, end_hour, end_minute = map(int, found.groups())
        return cls(time(start_hour, start_minute), time(end_hour, end_minute))

    def holds(self, wall: time) -> bool:
        """True if the time of day `wall` is in them."""
        if self.start < self.end:
            return self.start <= wall < self.end
        return wall >= self.start or wall < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


@dataclass(frozen=True, kw_only=True)
class ScheduleRules:
    """When this device may train. Raises ConfigError for values that cannot work.

    A device that cannot say (`unknown`) trains by default, for each of the three conditions by itself: a machine without a
    battery, a screen or NetworkManager is most often a desktop or a server, and "no" would mean never. Say otherwise where it
    matters.
    """

    idle_s: float | None = 300.0
    """Seconds without the user before anything is trained; None: the user's presence does not matter."""
    on_battery: bool = False
    """Train without mains power too."""
    on_metered: bool = False
    """Be online for rounds, and train, on a network that costs by volume too."""
    quiet_hours: tuple[QuietHours, ...] = ()
    """Nothing is trained in these."""
    min_separation_s: float = 0.0
    """Between the starts of two trainings of one purpose. The officer's policy has its own, between rounds."""
    zone: str | None = None
    """Name of the time zone of the quiet hours, such as `Europe/Berlin`; None is the system's."""
    unknown_idle: bool = True
    """Train where nobody can say whether the user is there."""
    unknown_power: bool = True
    unknown_network: bool = True

    def __post_init__(self) -> None:
        for name in ("on_battery", "on_metered", "unknown_idle", "unknown_power", "unknown_network"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected True or False")
        if self.idle_s is not None:
            _check_seconds("idle_s", self.idle_s, MAX_IDLE_S)
        _check_seconds("min_separation_s", self.min_separation_s, MAX_SEPARATION_S)
        hours = self.quiet_hours
        if not isinstance(hours, tuple) or not all(isinstance(one, QuietHours) for one in hours):
            raise ConfigError(f"quiet_hours is {str(hours)[:80]!r}, expected a tuple of QuietHours")
        if len(hours) > MOST_QUIET_HOURS:
            raise ConfigError(f"{len(hours)} quiet hours, expected {MOST_QUIET_HOURS} at most")
        self._zone()

    def quiet_at(self, now_s: float) -> bool:
        """True if the Unix time `now_s` lies in quiet hours."""
        # Most devices have none, and then no time zone is asked for.
        return bool(self.quiet_hours) and self._is_quiet(now_s, self._zone())

    def quiet_until_s(self, now_s: float) -> float | None:
        """The first Unix time from `now_s` on that is not quiet; None if there is none within two days."""
        if not self.quiet_at(now_s):
            return now_s
        # Minute by minute, for the edges of quiet hours, and the jumps of every zone in use today, lie on whole minutes. Two
        # days take some milliseconds; a formula would have to know about both kinds of jump.
        zone = self._zone()
        first_s = (math.floor(now_s) // MINUTE_S + 1) * MINUTE_S
        for minute_s in range(first_s, first_s + LONGEST_LOOK_S, MINUTE_S):
            if not self._is_quiet(minute_s, zone):
                return float(minute_s)
        return None

    def document(self) -> dict[str, Any]:
        """As plain JSON, for the privacy centre."""
        return {
            "idle_s": self.idle_s,
            "on_battery": self.on_battery,
            "on_metered": self.on_metered,
            "quiet_hours": [str(hours) for hours in self.quiet_hours],
            "min_separation_s": self.min_separation_s,
            "zone": self.zone,
            "unknown_idle": self.unknown_idle,
            "unknown_power": self.unknown_power,
            "unknown_network": self.unknown_network,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ScheduleRules:
        """From what `document` gave. Raises ConfigError."""
        given = dict(document)
        hours = given.get("quiet_hours")
        if not isinstance(hours, list):
            raise ConfigError(f"quiet_hours is {str(hours)[:80]!r}, expected a list of HH:MM-HH:MM")
        try:
            return cls(**{**given, "quiet_hours": tuple(QuietHours.parse(text) for text in hours)})
        except TypeError as error:
            raise ConfigError("these rules were written by another version") from error

    def _is_quiet(self, now_s: float, zone: zoneinfo.ZoneInfo | None) -> bool:
        wall = datetime.fromtimestamp(now_s, UTC).astimezone(zone).time()
        return any(hours.holds(wall) for hours in self.quiet_hours)

    def _zone(self) -> zoneinfo.ZoneInfo | None:
        if self.zone is None:
            return None
        try:
            return zoneinfo.ZoneInfo(self.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
            raise ConfigError(
                f"there is no time zone {str(self.zone)[:60]!r}; expected a name such as Europe/Berlin"
            ) from error


def checked_time_s(name: str, value: object) -> float:
    """`value` as Unix time. Raises ConfigError unless it is a number from 1970 to 3000."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not EARLIEST_S <= value <= LATEST_S:
        raise ConfigError(f"{name} is {str(value)[:40]!r}, expected Unix time in seconds")
    return float(value)


def _check_seconds(name: str, value: object, most_s: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= most_s:
        raise ConfigError(f"{name} is {str(value)[:40]!r}, expected seconds from 0 to {most_s:g}")
