"""Decisions that wait for what comes of them: rewards that are late, that come twice, or that never come.

A reward that never comes is *missing*, not zero, unless the app declares what silence means for a kind of decision. Kept in the
order of time, bounded, and plain values throughout, so that the encrypted store can hold it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared_models.bandit_prior import FloatArray
from shared_models.errors import DecisionError

MAX_PENDING = 1000


@dataclass(frozen=True, eq=False)
class Pending:
    """One decision that has no reward yet."""

    key: str
    """The app's name of the decision."""
    features: FloatArray
    """[d], of the action that was chosen."""
    propensity: float
    decided_s: float
    """Unix time."""
    group: str = ""
    """Decisions of one session or one batch of slots share it."""


@dataclass(frozen=True, eq=False)
class Settled:
    """A decision and its reward."""

    decision: Pending
    reward: float
    waited_s: float
    by_silence: bool
    """True if nobody said anything and the app has declared what that means."""


class PendingRewards:
    """Holds decisions until their reward comes or their window is over."""

    def __init__(self, *, window_s: float = 86_400.0, silence: float | None = None) -> None:
        """`window_s`: how long a reward may take. `silence`: the reward of a decision that got none; None: it is missing."""
        if not 0.0 < window_s < math.inf:
            raise DecisionError(f"window is {window_s}, expected seconds above 0")
        if silence is not None and not math.isfinite(silence):
            raise DecisionError(f"silence is {silence}, expected a reward or None")
        self._window_s = window_s
        self._silence = silence
        self._waiting: dict[str, Pending] = {}
        self._missing = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def missing(self) -> int:
        """How many decisions ended without a reward."""
        return self._missing

    def add(self, decision: Pending) -> None:
        """Wait for the reward of `decision`. The oldest one gives way if too many wait. Raises DecisionError."""
        if not isinstance(decision.key, str) or not 0 < len(decision.key) <= 200 or decision.key in self._waiting:
            raise DecisionError(
                f"decision {str(decision.key)[:40]!r}: expected a short name that is not waiting already"
            )
        if not 0.0 < decision.propensity <= 1.0:
            raise DecisionError(f"propensity is {decision.propensity}, expected a probability above 0")
        if not math.isfinite(decision.decided_s) or not np.isfinite(decision.features).all():
            raise DecisionError("time and features of a decision are finite numbers")
        while len(self._waiting) >= MAX_PENDING:
            self._waiting.pop(next(iter(self._waiting)))
            self._missing += 1
        self._waiting[decision.key] = decision

    def reward(self, key: str, reward: float, now_s: float) -> Settled | None:
        """The decision that `reward` is for; None if it is unknown, has had its reward, or its window is over.

        Raises DecisionError for a reward that is no finite number: the decision goes on waiting.
        """
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
            raise DecisionError(f"reward is {str(reward)[:40]!r}, expected a number")
        decision = self._waiting.get(key) if isinstance(key, str) else None
        if decision is None or now_s - decision.decided_s > self._window_s:
            return None
        del self._waiting[decision.key]
        return Settled(decision, float(reward), max(0.0, now_s - decision.decided_s), by_silence=False)

    def expire(self, now_s: float) -> list[Settled]:
        """Let go of decisions whose window is over; with `silence` declared they come back with that reward."""
        over = [item for item in self._waiting.values() if now_s - item.decided_s > self._window_s]
        for item in over:
            del self._waiting[item.key]
        if self._silence is None:
            self._missing += len(over)
            return []
        return [Settled(item, self._silence, self._window_s, by_silence=True) for item in over]

    def document(self) -> dict[str, Any]:
        """For the encrypted store."""
        rows = [
            [item.key, item.features.tolist(), item.propensity, item.decided_s, item.group]
            for item in self._waiting.values()
        ]
        return {"missing": self._missing, "waiting": rows}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Take up what `document()` gave. Raises DecisionError for anything else; then nothing has changed."""
        fresh = PendingRewards(window_s=self._window_s, silence=self._silence)
        try:
            rows: Sequence[Any] = document["waiting"]
            for key, features, propensity, decided_s, group in rows[-MAX_PENDING:]:
                fresh.add(Pending(key, np.array(features, dtype=np.float64), propensity, decided_s, str(group)))
            missing = int(document["missing"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DecisionError):
                raise
            raise DecisionError(f"not a list of decisions that wait: {str(error)[:200]}") from error
        self._waiting, self._missing = fresh._waiting, missing
