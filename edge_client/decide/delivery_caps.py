"""How often the assistant may speak by itself: caps over sliding windows, least gaps, and a growing silence for who
ignores it.

A cap holds in time as it passes and in time as the clock shows it. A clock that is put back opens nothing: *elapsed*
time only grows, by what a clock moved forward; and what was delivered at a time that the clock shows again still
counts there. What nobody can see without a second clock is one that is put forward. Pure: no clock, no store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shared_models.errors import DecisionError

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
MOST_PER_DAY, MOST_PER_WEEK = 24, 100
"""No configuration allows more."""
MOST_REMEMBERED = 512
LONG_AGO_S = 35 * DAY_S
MOST_LONG_AGO = 40
LONGEST_GAP_S = 30 * DAY_S
MOST_LEVEL = 8.0
ALL = "all"
_STEPS: Mapping[str, float] = {"ignored": 1.0, "dismissed": 2.0, "disabled": 3.0}
_MOST_S = 1e13


@dataclass(frozen=True)
class Cap:
    """How often at most, in any window of a day and of a week, and how far apart. Raises DecisionError."""

    per_day: int
    per_week: int
    gap_s: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("per_day", MOST_PER_DAY), ("per_week", MOST_PER_WEEK)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise DecisionError(f"cap: {name} is {str(value)[:40]!r}, expected a count up to {most}")
        if (
            isinstance(self.gap_s, bool)
            or not isinstance(self.gap_s, int | float)
            or not 0 <= self.gap_s <= LONGEST_GAP_S
        ):
            raise DecisionError(f"cap: gap_s is {str(self.gap_s)[:40]!r}, expected seconds up to {LONGEST_GAP_S:g}")


@dataclass(frozen=True)
class Caps:
    """The caps in all, for each purpose, for each topic, and for each channel. The defaults are the product's."""

    all: Cap = Cap(2, 5, 4 * 3600.0)
    purpose: Cap = Cap(2, 5, 4 * 3600.0)
    topic: Cap = Cap(1, 2, 20 * 3600.0)
    channels: Mapping[str, Cap] = field(default_factory=lambda: {"notification": Cap(1, 3, 12 * 3600.0)})

    def of(self, scope: str) -> Cap | None:
        """The cap of a scope: `all`, `purpose/…`, `topic/…`, `channel/…`; None if it has none."""
        kind, _, name = scope.partition("/")
        if kind == ALL:
            return self.all
        return {"purpose": self.purpose, "topic": self.topic}.get(kind, self.channels.get(name))


@dataclass(frozen=True)
class Given:
    """One delivery, as the caps remember it."""

    at_s: float
    """What the clock showed, in Unix seconds."""
    elapsed_s: float
    """The history's own time then."""
    scopes: tuple[str, ...]


@dataclass(frozen=True)
class History:
    """What was delivered lately, and how it was taken. Immutable; every change is a new one."""

    elapsed_s: float = 0.0
    """Time that has passed up to `seen_s`: the sum of all forward moves of the clock."""
    seen_s: float | None = None
    """What the clock showed last."""
    given: tuple[Given, ...] = ()
    levels: Mapping[str, float] = field(default_factory=dict)
    """Scope -> how often it was refused of late: each step doubles the gap."""

    def at(self, now_s: float) -> History:
        """The same at a later look at the clock, which may have been put back."""
        if not _is_time(now_s):
            raise DecisionError(f"now is {str(now_s)[:40]!r}, expected Unix seconds")
        passed_s = 0.0 if self.seen_s is None else max(0.0, now_s - self.seen_s)
        return replace(self, elapsed_s=self.elapsed_s + passed_s, seen_s=float(now_s))

    def turned_back(self, now_s: float) -> bool:
        """True if the clock shows less than before: then the history must be kept, or time would stand still."""
        return self.seen_s is not None and now_s < self.seen_s

    def wait_s(self, caps: Caps, scopes: Sequence[str], now_s: float, *, back_off: bool = True) -> float:
        """Seconds until the caps of all `scopes` allow one more; 0: now; infinite: never.

        `back_off`: whether earlier refusals lengthen the gaps.
        """
        here = self.at(now_s)
        longest = 0.0
        for scope in scopes:
            cap = caps.of(scope)
            if cap is None:
                continue
            gap_s = cap.gap_s
            if back_off:
                gap_s = min(gap_s * 2.0 ** min(self.levels.get(scope, 0.0), MOST_LEVEL), LONGEST_GAP_S)
            for most, width_s in ((cap.per_day, DAY_S), (cap.per_week, WEEK_S), (1, gap_s)):
                longest = max(longest, here._until_below(most, width_s, scope))
        return longest

    def with_delivery(self, scopes: Sequence[str], now_s: float) -> History:
        """The same after one more delivery."""
        here = self.at(now_s)
        assert here.seen_s is not None
        # Those long past matter only to a clock that is put back very far.
        lately = [one for one in here.given[:-MOST_LONG_AGO] if here.elapsed_s - one.elapsed_s < LONG_AGO_S]
        given = (*lately, *here.given[-MOST_LONG_AGO:], Given(here.seen_s, here.elapsed_s, tuple(scopes)))
        return replace(here, given=given[-MOST_REMEMBERED:])

    def after(self, scopes: Sequence[str], outcome: str) -> History:
        """The same after an outcome: what was ignored or dismissed lengthens the gaps of its scopes, what was opened
        shortens them.
        """
        levels = dict(self.levels)
        for scope in scopes:
            level = levels.get(scope, 0.0)
            # One topic that is unwelcome says less about all others.
            step = _STEPS.get(outcome, -1.0) * (1.0 if scope.startswith("topic/") else 0.25)
            level = 0.0 if outcome == "acted" else min(MOST_LEVEL, max(0.0, level + step))
            levels[scope] = level
        return replace(self, levels={scope: level for scope, level in levels.items() if level > 0.0})

    def document(self) -> dict[str, Any]:
        """For the encrypted store."""
        return {
            "elapsed_s": self.elapsed_s,
            "seen_s": self.seen_s,
            "given": [[one.at_s, one.elapsed_s, list(one.scopes)] for one in self.given],
            "levels": dict(self.levels),
        }

    @classmethod
    def from_document(cls, document: Any) -> History:
        """Raises DecisionError for what `document()` does not give."""
        try:
            given = tuple(Given(at_s, elapsed_s, tuple(scopes)) for at_s, elapsed_s, scopes in document["given"])
            levels = {str(scope): float(level) for scope, level in document["levels"].items()}
            elapsed_s, seen_s = document["elapsed_s"], document["seen_s"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DecisionError(f"not a history of deliveries: {str(error)[:100]}") from error
        sound = (
            len(given) <= MOST_REMEMBERED
            and _is_time(elapsed_s)
            and (seen_s is None or _is_time(seen_s))
            and all(_is_time(one.at_s) and _is_time(one.elapsed_s) and one.elapsed_s <= elapsed_s for one in given)
            and all(isinstance(scope, str) for one in given for scope in one.scopes)
            and all(0.0 <= level <= MOST_LEVEL for level in levels.values())
        )
        if not sound:
            raise DecisionError("not a history of deliveries: its times and levels are not in order")
        return cls(float(elapsed_s), None if seen_s is None else float(seen_s), given, levels)

    def _until_below(self, most: int, width_s: float, scope: str) -> float:
        """Seconds until fewer than `most` deliveries of `scope` lie in the last `width_s`."""
        if most == 0:
            return math.inf
        assert self.seen_s is not None
        left = []
        for one in self.given:
            if scope not in one.scopes:
                continue
            passing = one.elapsed_s + width_s - self.elapsed_s
            # By the clock it counts whether it lies before or after what the clock shows now.
            shown = one.at_s + width_s - self.seen_s if abs(self.seen_s - one.at_s) < width_s else 0.0
            if max(passing, shown) > 0.0:
                left.append(max(passing, shown))
        return 0.0 if len(left) < most else sorted(left)[-most]


def scopes_of(topic: str, channel: str, purpose: str) -> tuple[str, ...]:
    """What a delivery counts for."""
    return (ALL, f"purpose/{purpose}", f"topic/{topic}", f"channel/{channel}")


def _is_time(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= _MOST_S
