"""The situation in which something would be said: as the app tells it with the call, else as the profile has it, else
unknown.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Collection, Mapping
from datetime import timedelta, timezone, tzinfo
from typing import Any

from edge_client.decide.delivery import HOUR_S, Moment
from edge_client.decide.receptive_hours import CHANNELS
from edge_client.know.profile import Profile
from edge_client.share.schedule_rules import QuietHours
from shared_models.errors import ConfigError
from shared_models.languages import LANGUAGES

SITUATION = ("in_use", "do_not_disturb", "driving")
IN_USE_S = 300.0
"""The user is with the app for so long after the last sign of it."""


def checked(shows: Collection[str], context: Mapping[str, Any] | None) -> tuple[frozenset[str], dict[str, Any]]:
    """What the caller of `tick` says. Raises ConfigError."""
    if isinstance(shows, str) or not set(shows) <= set(CHANNELS):
        raise ConfigError(f"shows is {str(shows)[:60]!r}, expected some of {', '.join(CHANNELS)}")
    if context is not None and not isinstance(context, Mapping):
        raise ConfigError(f"context is a {type(context).__name__}, expected an object")
    given = dict(context or {})
    if any(not isinstance(given.get(name, False), bool) for name in SITUATION):
        raise ConfigError(f"context: {', '.join(SITUATION)} are True or False")
    _named_zone(given)
    return frozenset(shows), given


class Situation:
    """Reads one profile; what its schema does not name is unknown."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.last_use_s: float | None = None

    def known(self, name: str) -> Any:
        """The profile's value; None if there is none."""
        found = self._profile.get(name)
        return None if found is None else found.value

    def zone(self, context: Mapping[str, Any], now_s: float) -> tzinfo | None:
        """Where the user is: as the app says, else as the profile says, else (None) as the device says."""
        if (named := _named_zone(context)) is not None:
            return named
        offset_h = self.known("utc_offset_h")
        if isinstance(offset_h, bool) or not isinstance(offset_h, int | float) or not -14 <= offset_h <= 14:
            return None
        device = Moment(now_s).wall(now_s).utcoffset()
        if device is not None and abs(device.total_seconds() / HOUR_S - offset_h) <= 0.5:
            # The profile has whole hours; the device's own zone is more exact, and knows of daylight saving.
            return None
        return timezone(timedelta(hours=offset_h))

    def moment(
        self, context: Mapping[str, Any], shows: Collection[str], quiet: tuple[QuietHours, ...] | None, now_s: float
    ) -> Moment:
        """All that the policy wants to know."""
        said = {name: context.get(name, self.known(name)) is True for name in SITUATION}
        recent = self.last_use_s is not None and 0.0 <= now_s - self.last_use_s < IN_USE_S
        in_use = said["in_use"] or (context.get("in_use") is not False and ("chat" in shows or recent))
        return Moment(now_s, self.zone(context, now_s), in_use, said["do_not_disturb"], said["driving"], quiet)

    @property
    def language(self) -> str:
        """The user's, if there are words in it; else English."""
        said = self.known("language")
        code = said.replace("_", "-").partition("-")[0].casefold() if isinstance(said, str) else ""
        return code if code in LANGUAGES else "en"


def _named_zone(context: Mapping[str, Any]) -> tzinfo | None:
    name = context.get("zone")
    if name is None:
        return None
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise ConfigError(f"context: no time zone {str(name)[:60]!r}, expected one such as Europe/Berlin") from error
