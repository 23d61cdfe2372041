"""The value of a whole session instead of the next reward: fitted Q iteration with a linear Q on the bandit's own features.

Q(s, a) = φ(s, a) · w; w solves  min Σ (r + γ max_a' Q(s', a') − Q(s, a))² + ridge  again and again (Ernst, Geurts, Wehenkel
2005), or follows one logged step at a time (`TemporalDifference`; Sutton, Barto 2018, section 10.1). It can take the bandit's
place as the score of an action. Whether it should is measured (benchmarks/bandit.py): where one answer does not change the next,
it must not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared_models.errors import DecisionError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Step:
    """One decision of a session and what followed."""

    features: FloatArray
    """[d], of the action that was chosen."""
    reward: float
    following: FloatArray | None
    """[actions, d], what could be chosen next; None if the session ended here."""

    def __post_init__(self) -> None:
        if not isinstance(self.features, np.ndarray) or self.features.ndim != 1 or not len(self.features):
            raise DecisionError("features of a step: expected an array [d]")
        count = len(self.features)
        if self.following is not None and (
            not isinstance(self.following, np.ndarray) or self.following.ndim != 2 or self.following.shape[1] != count
        ):
            raise DecisionError(f"what follows a step: expected an array [actions, {count}] or None")
        finite = np.isfinite(self.features).all() and math.isfinite(self.reward)
        if not finite or (self.following is not None and not np.isfinite(self.following).all()):
            raise DecisionError("a step holds NaN or infinite values")


def fitted_q(
    steps: Sequence[Step], *, discount: float, ridge: float = 1.0, iterations: int = 50, start: FloatArray | None = None
) -> FloatArray:
    """Weights w [d]. `start`: weights to shrink to, such as the bandit's mean (0 by default). discount 0 is the one-step reward.

    Raises DecisionError, also if the iteration runs away (it need not converge off-policy; then keep the one-step policy).
    """
    _check(discount, ridge)
    if not steps:
        raise DecisionError("there are no steps to learn from")
    rows = np.stack([step.features for step in steps]).astype(np.float64)
    rewards = np.array([step.reward for step in steps], dtype=np.float64)
    center = np.zeros(rows.shape[1]) if start is None else np.array(start, dtype=np.float64)
    if center.shape != (rows.shape[1],) or not np.isfinite(center).all():
        raise DecisionError(f"start: expected finite weights [{rows.shape[1]}]")
    going_on = [(place, step.following) for place, step in enumerate(steps) if step.following is not None]
    stacked = np.concatenate([following for _, following in going_on]) if going_on else np.zeros((0, rows.shape[1]))
    firsts = np.cumsum([0, *(len(following) for _, following in going_on)])[:-1]
    places = np.array([place for place, _ in going_on], dtype=np.int64)
    factor = np.linalg.inv(rows.T @ rows + ridge * np.eye(rows.shape[1]))
    weights = center.copy()
    bound = (float(np.abs(rewards).max()) + 1.0) * 1e6
    for _ in range(iterations):
        targets = rewards.copy()
        if len(places):
            targets[places] += discount * np.maximum.reduceat(stacked @ weights, firsts)
        fresh = factor @ (rows.T @ targets + ridge * center)
        if not np.isfinite(fresh).all() or float(np.abs(rows @ fresh).max()) > bound:
            raise DecisionError("the session values run away: keep the one-step rewards")
        settled = float(np.abs(fresh - weights).max()) <= 1e-9 * (1.0 + float(np.abs(fresh).max()))
        weights = fresh
        if settled:
            break
    return weights


class TemporalDifference:
    """The same value, learned step by step (semi-gradient Q-learning with normalised steps): O(actions · d) for each."""

    def __init__(self, start: FloatArray, *, discount: float, rate: float = 0.1) -> None:
        _check(discount, 1.0)
        if not 0.0 < rate <= 1.0:
            raise DecisionError(f"rate is {rate}, expected above 0 up to 1")
        self._weights = np.array(start, dtype=np.float64)
        if self._weights.ndim != 1 or not np.isfinite(self._weights).all():
            raise DecisionError("start: expected finite weights [d]")
        self._discount, self._rate = discount, rate

    @property
    def weights(self) -> FloatArray:
        return self._weights.copy()

    def learn(self, step: Step) -> float:
        """Take in one step; returns its error. Raises DecisionError, and then nothing has changed."""
        if len(step.features) != len(self._weights):
            raise DecisionError(f"expected features [{len(self._weights)}]")
        ahead = (
            0.0 if step.following is None or not len(step.following) else float((step.following @ self._weights).max())
        )
        error = step.reward + self._discount * ahead - float(step.features @ self._weights)
        fresh = self._weights + self._rate * error * step.features / (1.0 + float(step.features @ step.features))
        if not np.isfinite(fresh).all():
            raise DecisionError("the session values run away: keep the one-step rewards")
        self._weights = fresh
        return error


def _check(discount: float, ridge: float) -> None:
    if not 0.0 <= discount < 1.0:
        raise DecisionError(f"discount is {discount}, expected from 0 to below 1")
    if not 0.0 < ridge < math.inf:
        raise DecisionError(f"ridge is {ridge}, expected a positive number")
