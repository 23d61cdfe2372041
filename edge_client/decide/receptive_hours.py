"""When one user is likely to look, and what they do with what they see: conjugate beliefs, learned from very little.

An hour of the week (0 is Monday 0:00 local time) has an *attention*: the probability that something shown then is
noticed in time. A channel and a topic have a probability to be opened once noticed. A message is opened with the
product of these, each with a Beta belief. Attention starts from a population's curve, is drawn to the hours in which the app
is used (Beta too: an hour of a week sees use or it does not), and learns from outcomes; hours share with their
neighbours. What is old fades. No clock, no store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from shared_models.errors import DecisionError

FloatArray = npt.NDArray[np.float64]
Channel = Literal["chat", "card", "notification"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
Outcome = Literal["opened", "acted", "dismissed", "ignored", "disabled"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
HOURS = 168
WEEK_S = 604_800.0
HALF_LIFE_S = 60 * 86_400.0
PRIOR_WEIGHT = 2.0
"""The population's curve counts like so many messages in each hour."""
USE_WEIGHT = 4.0
"""Weeks of use count like so many messages at most."""
USED_PER_NOTICED = 0.1
"""An hour sees the app used so much less often than a notification noticed, until use was seen."""
LONGEST_GAP_S = 4 * WEEK_S
"""A clock that leaps forward ages what was learned by no more than this at once."""
MOST_TOPICS = 32
_MOST = 1e6

_OPENED: Mapping[str, tuple[float, float]] = {"chat": (6.0, 4.0), "card": (3.0, 7.0), "notification": (5.0, 5.0)}
_DISMISSED: Mapping[str, tuple[float, float]] = {"chat": (0.5, 9.5), "card": (0.3, 9.7), "notification": (1.5, 8.5)}
_DISABLED: Mapping[str, tuple[float, float]] = {"chat": (0.02, 60.0), "card": (0.02, 60.0), "notification": (0.5, 60.0)}
_TOPIC = (3.0, 3.0)
_ACTED = (1.0, 3.0)


def population_hours() -> FloatArray:
    """[168]: a broad curve of attention, declared and not measured: little at night, most in the evening, later at
    weekends.

    A fleet that has measured one gives it to `ReceptiveHours` instead.
    """
    workday = [0.06] * 6 + [
        0.15,
        0.3,
        0.35,
        0.3,
        0.3,
        0.3,
        0.4,
        0.38,
        0.3,
        0.3,
        0.32,
        0.38,
        0.45,
        0.5,
        0.52,
        0.48,
        0.3,
        0.12,
    ]
    weekend = [0.06] * 7 + [
        0.12,
        0.22,
        0.32,
        0.4,
        0.42,
        0.42,
        0.4,
        0.38,
        0.38,
        0.38,
        0.4,
        0.44,
        0.48,
        0.5,
        0.46,
        0.34,
        0.16,
    ]
    return np.array(workday * 5 + weekend * 2)


class ReceptiveHours:
    """What is believed about one user. Not thread-safe."""

    def __init__(self, prior: FloatArray | None = None) -> None:
        """`prior`: [168], attention of a population, each above 0 and below 1. Raises DecisionError."""
        curve = population_hours() if prior is None else np.asarray(prior, np.float64)
        if curve.shape != (HOURS,) or not np.isfinite(curve).all() or not ((curve > 0.0) & (curve < 1.0)).all():
            raise DecisionError(f"attention of a population: expected {HOURS} probabilities between 0 and 1")
        self._prior = curve
        self._noticed, self._missed, self._used = (np.zeros(HOURS) for _ in range(3))
        self._weeks = 0.0
        self._counts: dict[str, list[float]] = {}
        """`opened/chat`, `dismissed/card`, `disabled/…`, `topic/…`, `acted`: (yes, no), without the prior's part."""
        self._seen_s: float | None = None
        self._curves: tuple[FloatArray, FloatArray] | None = None

    # -- what is believed -----------------------------------------------------------------------------------------

    @property
    def attention(self) -> FloatArray:
        """[168]: probability that something shown in this hour is noticed in time."""
        return self._both()[0]

    @property
    def use(self) -> FloatArray:
        """[168]: probability that the app is used at least once in this hour."""
        return self._both()[1]

    def opened(self, channel: str, topic: str) -> float:
        """Probability that a message is opened once it was noticed."""
        yes, no = self._posterior(f"topic/{topic}", _TOPIC)
        # Relative to a topic about which nothing is known.
        liking = (yes / (yes + no)) / (_TOPIC[0] / sum(_TOPIC))
        return min(0.97, max(0.003, self._rate(f"opened/{channel}", _OPENED[channel]) * liking))

    def dismissed(self, channel: str) -> float:
        """Probability that it is waved away once it was noticed."""
        return self._rate(f"dismissed/{channel}", _DISMISSED[channel])

    def disabled(self, channel: str) -> float:
        """Probability that a delivery makes the user switch the channel off."""
        return self._rate(f"disabled/{channel}", _DISABLED[channel])

    def acted(self) -> float:
        """Probability that something is done with a message that was opened."""
        return self._rate("acted", _ACTED)

    # -- what is learned ------------------------------------------------------------------------------------------

    def used(self, hour: int, now_s: float) -> None:
        """The app was in use in this hour of the week. Once for each hour that passed: that is the caller's to see to."""
        self._age(now_s)
        self._used[_checked_hour(hour)] += 1.0
        self._curves = None

    def learn(self, channel: str, topic: str, outcome: str, now_s: float, hour: int | None = None) -> None:
        """What came of a delivery. `hour`: of the week, if its moment was the assistant's choice and the user may not
        have seen it.

        Nobody knows whether an ignored message was not noticed or not wanted: the two share it by their probabilities
        given the silence, (1 − a) and a · (1 − o) over 1 − a · o (one step of expectation-maximisation).
        """
        if channel not in CHANNELS or outcome not in OUTCOMES:
            raise DecisionError(f"no outcome {str(outcome)[:40]!r} of a delivery by {str(channel)[:40]!r}")
        seen = 1.0 if hour is None else float(self.attention[_checked_hour(hour)])
        rate = self.opened(channel, topic)
        self._age(now_s)
        good, refused = outcome in ("opened", "acted"), outcome in ("dismissed", "disabled")
        # What was waved away was noticed, at a moment that was wrong or about a thing that is.
        unseen = 0.0 if good else 0.5 * (1.0 - seen) if refused else (1.0 - seen) / max(1e-6, 1.0 - seen * rate)
        if hour is not None:
            self._noticed[hour] += float(good)
            self._missed[hour] += unseen
        for name in (f"opened/{channel}", f"topic/{topic}"):
            self._add(name, 1.0 if good else 0.0, 0.0 if good else 1.0 - unseen)
        self._add(f"dismissed/{channel}", float(refused), (1.0 - unseen) * (not refused))
        self._add(f"disabled/{channel}", float(outcome == "disabled"), float(outcome != "disabled"))
        if good:
            self._add("acted", float(outcome == "acted"), float(outcome != "acted"))
        self._curves = None

    def corrected(self, channel: str, outcome: str, now_s: float) -> None:
        """Something more came of what was learned from already: it was opened and is now `acted` on, or the channel is
        `disabled`.
        """
        self._age(now_s)
        name = {"acted": "acted", "disabled": f"disabled/{channel}"}.get(outcome)
        if name is not None:
            yes, no = self._counts.get(name, [0.0, 0.0])
            self._counts[name] = [yes + 1.0, max(0.0, no - 1.0)]

    # -- for the store --------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """For the encrypted store and for the user: sparse, hour of the week -> (noticed, missed, in use)."""
        hours = {
            str(hour): [round(float(table[hour]), 4) for table in (self._noticed, self._missed, self._used)]
            for hour in range(HOURS)
            if self._noticed[hour] or self._missed[hour] or self._used[hour]
        }
        counts = {name: [round(value, 4) for value in pair] for name, pair in self._counts.items()}
        return {"hours": hours, "weeks": round(self._weeks, 6), "counts": counts, "seen_s": self._seen_s}

    @classmethod
    def from_document(cls, document: Any, prior: FloatArray | None = None) -> ReceptiveHours:
        """Raises DecisionError for what `document()` does not give."""
        made = cls(prior)
        try:
            seen_s = document["seen_s"]
            made._weeks = _amount(document["weeks"])
            made._seen_s = None if seen_s is None else _amount(seen_s, 1e11)
            for key, values in document["hours"].items():
                hour = _checked_hour(int(key))
                made._noticed[hour], made._missed[hour], made._used[hour] = map(_amount, values)
            for name, (yes, no) in document["counts"].items():
                made._counts[str(name)[:80]] = [_amount(yes), _amount(no)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DecisionError(f"not what was learned about hours: {str(error)[:100]}") from error
        if len(made._counts) > MOST_TOPICS + 3 * len(CHANNELS) + 1:
            raise DecisionError("not what was learned about hours: too many counts")
        return made

    # -- inside ---------------------------------------------------------------------------------------------------

    def _both(self) -> tuple[FloatArray, FloatArray]:
        if self._curves is None:
            close, near = _sharing(0.5), _sharing(1.2)
            expected = USED_PER_NOTICED * self._prior
            use = (expected + close @ self._used) / (1.0 + close.sum(axis=1) * self._weeks)
            use = np.clip(use, 1e-4, 0.95)
            # The hours of use have the shape of attention, not its height: most of what is noticed leads to no use.
            drawn = np.clip(use * (self._prior.mean() / use.mean()), 0.02, 0.95)
            weight = min(self._weeks, USE_WEIGHT)
            yes = PRIOR_WEIGHT * self._prior + weight * drawn + near @ self._noticed
            no = PRIOR_WEIGHT * (1.0 - self._prior) + weight * (1.0 - drawn) + near @ self._missed
            self._curves = yes / (yes + no), use
        return self._curves

    def _posterior(self, name: str, prior: tuple[float, float]) -> tuple[float, float]:
        yes, no = self._counts.get(name, (0.0, 0.0))
        return prior[0] + yes, prior[1] + no

    def _rate(self, name: str, prior: tuple[float, float]) -> float:
        yes, no = self._posterior(name, prior)
        return yes / (yes + no)

    def _add(self, name: str, yes: float, no: float) -> None:
        topics = sum(known.startswith("topic/") for known in self._counts)
        if name not in self._counts and name.startswith("topic/") and topics >= MOST_TOPICS:
            return
        known = self._counts.setdefault(name, [0.0, 0.0])
        known[0] += yes
        known[1] += no

    def _age(self, now_s: float) -> None:
        if not math.isfinite(now_s):
            raise DecisionError("time is a finite number of seconds")
        passed_s = 0.0 if self._seen_s is None else min(max(0.0, now_s - self._seen_s), LONGEST_GAP_S)
        self._seen_s = now_s
        fade = 0.5 ** (passed_s / HALF_LIFE_S)
        for table in (self._noticed, self._missed, self._used):
            table *= fade
        # Weeks without any use say something too, but only once the app has ever reported use.
        self._weeks = self._weeks * fade + (passed_s / WEEK_S if self._used.any() else 0.0)
        for pair in self._counts.values():
            pair[0] *= fade
            pair[1] *= fade


@lru_cache(maxsize=2)
def _sharing(width_h: float) -> FloatArray:
    """[168, 168]: what an hour learns from another: from the hours beside it, and less from other days, least across
    the weekend.
    """
    day, hour = np.divmod(np.arange(HOURS), 24)
    apart = np.abs(hour[:, None] - hour[None])
    apart = np.minimum(apart, 24 - apart)
    weekend = day >= 5
    days = np.where(day[:, None] == day[None], 1.0, np.where(weekend[:, None] == weekend[None], 0.6, 0.25))
    shared = np.exp(-0.5 * np.square(apart / width_h)) * days
    return np.where(shared < 0.02, 0.0, shared)


def _checked_hour(hour: int) -> int:
    if isinstance(hour, bool) or not isinstance(hour, int) or not 0 <= hour < HOURS:
        raise DecisionError(f"hour of the week is {str(hour)[:40]!r}, expected 0 to {HOURS - 1}")
    return hour


def _amount(value: object, most: float = _MOST) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a number from 0 to {most:g}")
    return float(value)
