"""Off-policy evaluation: what another policy or rule set would have earned, from decisions that this one made.

Three estimators, from logged propensities: inverse propensity (IPS; Horvitz, Thompson 1952), self-normalised (SNIPS; Swaminathan,
Joachims 2015) and doubly robust (DR; Dudík, Langford, Li 2011). On one device they are for its owner; summed through the gate
(share.contributions.policy_value_sums) they tell what a release would do before it ships.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared_models.errors import DecisionError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Log:
    """Logged decisions, each array [n]. What the target policy would do is computed on the device that has the contexts."""

    propensity: FloatArray
    """Probability with which the action was chosen; above 0."""
    target: FloatArray
    """Probability with which the policy that is judged chooses the same action there."""
    reward: FloatArray
    model_chosen: FloatArray
    """The reward model's guess for the action that was chosen; zeros make DR into IPS."""
    model_target: FloatArray
    """Its guess for the target policy: Σ_a target(a) · guess(a)."""

    def __post_init__(self) -> None:
        sizes = set()
        for name in ("propensity", "target", "reward", "model_chosen", "model_target"):
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "fiu":
                raise DecisionError(f"{name}: expected an array of numbers [n]")
            object.__setattr__(self, name, np.array(value, dtype=np.float64))
            if not np.isfinite(value).all():
                raise DecisionError(f"{name}: holds NaN or infinite values")
            sizes.add(value.shape)
        if len(sizes) != 1:
            raise DecisionError("the columns of a log are equally long")
        if not ((self.propensity > 0.0) & (self.propensity <= 1.0)).all():
            raise DecisionError("a logged propensity is above 0 and at most 1")
        if not ((self.target >= 0.0) & (self.target <= 1.0)).all():
            raise DecisionError("a target probability is between 0 and 1")

    def __len__(self) -> int:
        return len(self.reward)

    def weights(self, most: float = math.inf) -> FloatArray:
        """target / propensity [n], cut at `most`: less variance, and a bias towards 0 where it cuts."""
        if not most > 0.0:
            raise DecisionError(f"weights are cut at {most}, expected a number above 0")
        return np.minimum(self.target / self.propensity, most)


@dataclass(frozen=True)
class PolicyValue:
    """Mean reward of the target policy per decision, by each estimator, with its standard error."""

    ips: float
    ips_error: float
    snips: float
    snips_error: float
    doubly_robust: float
    doubly_robust_error: float
    effective: float
    """(Σw)²/Σw²: how many decisions the log is worth for this question."""
    decisions: int


def policy_value(log: Log, *, most_weight: float = math.inf) -> PolicyValue:
    """All three estimates; standard errors take decisions as independent. Raises DecisionError for an empty log."""
    count = len(log)
    if not count:
        raise DecisionError("there are no decisions to evaluate from")
    weights = log.weights(most_weight)
    gained = weights * log.reward
    robust = log.model_target + weights * (log.reward - log.model_chosen)
    total = float(weights.sum())
    snips = float(gained.sum()) / total if total > 0.0 else 0.0
    deviation = weights * (log.reward - snips)
    return PolicyValue(
        ips=float(gained.mean()),
        ips_error=_error(gained),
        snips=snips,
        snips_error=math.sqrt(float(deviation @ deviation)) / total if total > 0.0 else math.inf,
        doubly_robust=float(robust.mean()),
        doubly_robust_error=_error(robust),
        effective=total**2 / float(weights @ weights) if total > 0.0 else 0.0,
        decisions=count,
    )


def _error(values: FloatArray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
