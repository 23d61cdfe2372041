"""Whether something planned is said now, and by which channel, or later, or not at all: by what each is worth, within
hard limits.

Worth is counted in opened messages. Delivering now by channel c is worth

    V(c) = p_open · (opened + p_act · acted) − p_ignored · ignored_c − p_dismissed · dismissed − p_disabled · disabled,

with the probabilities of `ReceptiveHours`. Waiting is worth the best of the hours to come before the message expires,
less what it loses by getting old; saying nothing is worth 0. Quiet hours, caps, driving and do-not-disturb are no
costs: nothing outweighs them. What the user has asked for needs no worth, but keeps to the limits too. Pure: no clock,
no store, no randomness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_client.decide.receptive_hours import CHANNELS, HOURS, Channel, FloatArray, ReceptiveHours
from edge_client.share.schedule_rules import QuietHours
from shared_models.errors import DecisionError

HOUR_S = 3600.0
NIGHT = (QuietHours.parse("22:00-08:00"),)
"""Holds until the user has said which hours are quiet; somebody who is in the conversation is answered in it all the
same.
"""
LOOK_AHEAD_H = 96
CARD_LASTS_H = 72
"""A card is noticed if the app is looked at within so many hours."""
NOTICED_IN_USE = 0.95


@dataclass(frozen=True)
class Worth:
    """What outcomes are worth, in opened messages. Raises DecisionError."""

    opened: float = 1.0
    acted: float = 1.0
    """On top of `opened`."""
    dismissed: float = 0.6
    """What it costs; so with the following."""
    disabled: float = 8.0
    ignored: Mapping[str, float] = field(default_factory=lambda: {"chat": 0.05, "card": 0.02, "notification": 0.15})
    patience: float = 0.5
    """Part of the time between due and expiry in which a message loses half of its value."""

    def __post_init__(self) -> None:
        values = [self.opened, self.acted, self.dismissed, self.disabled, *self.ignored.values()]
        numbers = all(not isinstance(one, bool) and isinstance(one, int | float) and 0 <= one <= 1e3 for one in values)
        if not numbers or set(self.ignored) != set(CHANNELS) or not 0.01 <= self.patience <= 100.0:
            raise DecisionError("worth of deliveries: expected numbers from 0 to 1000, and patience from 0.01 to 100")


@dataclass(frozen=True)
class Moment:
    """When and in what situation it is decided."""

    now_s: float
    """Unix time."""
    zone: tzinfo | None = None
    """Where the user is; None is the device's zone."""
    in_use: bool = False
    """The user is with the app right now."""
    do_not_disturb: bool = False
    """No notifications."""
    driving: bool = False
    """Nothing at all."""
    quiet: tuple[QuietHours, ...] | None = None
    """The user's quiet hours; None if the user has said nothing: then the night is quiet."""

    def wall(self, at_s: float) -> datetime:
        """The user's wall clock at a Unix time."""
        return datetime.fromtimestamp(at_s, UTC).astimezone(self.zone)

    def is_quiet(self, channel: str, wall: datetime, *, in_use: bool) -> bool:
        """True if nothing may be said by `channel` at this time of day."""
        if self.quiet is not None:
            return any(hours.holds(wall.time()) for hours in self.quiet)
        return not (channel == "chat" and in_use) and any(hours.holds(wall.time()) for hours in NIGHT)


@dataclass(frozen=True)
class Candidate:
    """Something that may be said."""

    id: str
    topic: str
    due_s: float
    expires_s: float
    asked_for: bool = False
    """The user has asked to be told."""


@dataclass(frozen=True)
class Choice:
    """What to do with one candidate now."""

    action: Literal["deliver", "wait", "never"]
    channel: Channel | None
    """By which it would be delivered now."""
    value: float
    """Of delivering it now by the best channel; -inf if none may be used now."""
    later: float
    """Expected value of the best moment to come; 0 where that decides nothing."""
    why: str
    """`value`, `asked`, `limits`, `quiet`, `no channel`, `later`, `not worth it`, `not due`, `expired`."""


def hour_of_week(wall: datetime) -> int:
    """0 is Monday from 0:00 to 1:00."""
    return wall.weekday() * 24 + wall.hour


def choose(
    candidate: Candidate,
    channels: Collection[str],
    moment: Moment,
    hours: ReceptiveHours,
    wait_s: Callable[[str], float],
    worth: Worth,
) -> Choice:
    """What to do with `candidate`. `channels`: those that the app can show now; `wait_s`: seconds until the caps allow
    a channel.

    Raises DecisionError for a time that is none.
    """
    now_s = moment.now_s
    if isinstance(now_s, bool) or not isinstance(now_s, int | float) or not 0 <= now_s <= 1e11:
        raise DecisionError(f"now is {str(now_s)[:40]!r}, expected Unix seconds")
    if now_s >= candidate.expires_s:
        return Choice("never", None, -math.inf, 0.0, "expired")
    if now_s < candidate.due_s:
        return Choice("wait", None, -math.inf, 0.0, "not due")
    usable = [channel for channel in CHANNELS if channel in channels]
    waits: dict[str, float] = {channel: wait_s(channel) for channel in usable}
    wall, why = moment.wall(now_s), "no channel"
    best: tuple[float, Channel] | None = None
    for channel in usable:
        if moment.driving or (channel == "notification" and moment.do_not_disturb):
            why = "quiet"
        elif channel == "chat" and not moment.in_use:
            # A word in a conversation is for somebody who is in it.
            continue
        elif waits[channel] > 0.0:
            why = "limits"
        elif moment.is_quiet(channel, wall, in_use=moment.in_use):
            why = "quiet"
        else:
            noticed = _noticed_now(channel, moment, hours, wall)
            value = _value(channel, candidate.topic, noticed, hours, worth)
            if best is None or value > best[0]:
                best = value, channel
    if best is None:
        return Choice("wait", None, -math.inf, 0.0, why)
    value, channel = best
    if candidate.asked_for:
        return Choice("deliver", channel, value, 0.0, "asked")
    later = _later(candidate, usable, moment, hours, waits, worth)
    if value > 0.0 and value >= later:
        return Choice("deliver", channel, value, later, "value")
    if later > 0.0:
        return Choice("wait", channel, value, later, "later")
    return Choice("never", channel, value, later, "not worth it")


def _noticed_now(channel: str, moment: Moment, hours: ReceptiveHours, wall: datetime) -> float:
    if moment.in_use:
        return NOTICED_IN_USE
    hour = hour_of_week(wall)
    if channel == "card":
        coming = hours.use[(hour + np.arange(CARD_LASTS_H)) % HOURS]
        return float(NOTICED_IN_USE * (1.0 - np.prod(1.0 - coming)))
    return float(hours.attention[hour])


def _value(channel: str, topic: str, noticed: float, hours: ReceptiveHours, worth: Worth) -> float:
    return float(_values(channel, topic, np.array([noticed]), hours, worth)[0])


def _values(channel: str, topic: str, noticed: FloatArray, hours: ReceptiveHours, worth: Worth) -> FloatArray:
    """[n], for each probability of being noticed."""
    opened = noticed * hours.opened(channel, topic)
    dismissed = np.minimum(noticed * hours.dismissed(channel), 1.0 - opened)
    gained = opened * (worth.opened + hours.acted() * worth.acted)
    lost = (1.0 - opened - dismissed) * worth.ignored[channel] + dismissed * worth.dismissed
    return np.asarray(gained - lost - hours.disabled(channel) * worth.disabled)


def _later(
    candidate: Candidate,
    usable: list[Channel],
    moment: Moment,
    hours: ReceptiveHours,
    waits: Mapping[str, float],
    worth: Worth,
) -> float:
    """Expected value of the best that can come of waiting, hour by hour from the next one on."""
    if not usable:
        return 0.0
    now_s, ahead = moment.now_s, _hours_ahead(moment)
    count = min(LOOK_AHEAD_H, math.ceil((candidate.expires_s - ahead.times[0]) / HOUR_S))
    if count <= 0:
        return 0.0
    times, week = ahead.times[:count], ahead.week[:count]
    fading_s = worth.patience * max(HOUR_S, candidate.expires_s - candidate.due_s)
    kept = 0.5 ** ((times - now_s) / fading_s)
    best = 0.0
    for channel in usable:
        open_ = ahead.loud[channel][:count] & (times - now_s >= waits[channel])
        if channel == "notification":
            value = _values(channel, candidate.topic, hours.attention[week], hours, worth) * kept
            best = max(best, float(np.where(open_, value, 0.0).max()))
            continue
        # Both wait for the user to come: the first time of use that is open is when it can be said.
        coming = np.where(open_, hours.use[week], 0.0)
        before = np.concatenate([[1.0], np.cumprod(1.0 - coming)[:-1]])
        there = max(0.0, _value(channel, candidate.topic, NOTICED_IN_USE, hours, worth))
        best = max(best, there * float(kept @ (coming * before)))
    return best


@dataclass(frozen=True, eq=False)
class _HoursAhead:
    """The next LOOK_AHEAD_H hours as they are on the user's wall."""

    times: FloatArray
    """[n] Unix seconds."""
    week: npt.NDArray[np.int64]
    """[n] hours of the week."""
    loud: Mapping[str, npt.NDArray[np.bool_]]
    """Channel -> [n]: not quiet."""


@lru_cache(maxsize=4)
def _hours_ahead(moment: Moment) -> _HoursAhead:
    # All candidates of a tick share it.
    times = (moment.now_s // HOUR_S + 1) * HOUR_S + HOUR_S * np.arange(LOOK_AHEAD_H, dtype=np.float64)
    walls = [moment.wall(at_s) for at_s in times.tolist()]
    loud: dict[str, npt.NDArray[np.bool_]] = {
        channel: np.array([not moment.is_quiet(channel, wall, in_use=channel == "chat") for wall in walls])
        for channel in CHANNELS
    }
    return _HoursAhead(times, np.array([hour_of_week(wall) for wall in walls]), loud)
