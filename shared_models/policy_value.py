"""The layout of the sums by which a policy is evaluated before it ships: public constants, the same on every device.

A device contributes through `edge_client.share.contributions.policy_value_sums`; what the noisy sum means stands in
`aggregator.releases.policy_value`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from shared_models.canonical import canonical_hash
from shared_models.errors import ConfigError, WireError

SUMS = ("decisions", "weight", "gained", "robust")
"""Of one user: n, Σw, Σw·r, Σ(doubly robust term)."""
PRODUCTS = (("decisions", "decisions"), ("weight", "weight"), ("gained", "gained"), ("robust", "robust"))
CROSSED = (("gained", "decisions"), ("gained", "weight"), ("robust", "decisions"))
"""Their products, summed over users, give the user-level variances of ratios."""
DIMENSION = len(SUMS) + len(PRODUCTS) + len(CROSSED)
PRODUCT_WEIGHT = 0.3
"""Of products against sums: intervals may be rougher than the values."""


@dataclass(frozen=True)
class ValueLayout:
    """What is cut where. One user's numbers are scaled by these to at most 1 each."""

    reward_low: float
    reward_high: float
    most_decisions: int = 50
    """The newest decisions of a user that count."""
    most_weight: float = 10.0
    """Where target / propensity is cut: a bias towards the middle of the range, for less noise."""

    def __post_init__(self) -> None:
        for name in ("reward_low", "reward_high", "most_weight"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"{name} is {str(value)[:40]!r}, expected a number")
        if not -1e9 <= self.reward_low < self.reward_high <= 1e9 or not 1.0 <= self.most_weight <= 1e6:
            raise ConfigError("rewards range from the lower to the higher, and weights are cut at 1 or more")
        if isinstance(self.most_decisions, bool) or not isinstance(self.most_decisions, int):
            raise ConfigError(f"most_decisions is {str(self.most_decisions)[:40]!r}, expected a count")
        if not 1 <= self.most_decisions <= 100_000:
            raise ConfigError(f"most_decisions is {self.most_decisions}, expected 1 to 100000")

    @property
    def middle(self) -> float:
        return (self.reward_low + self.reward_high) / 2.0

    @property
    def half_range(self) -> float:
        return (self.reward_high - self.reward_low) / 2.0

    @property
    def robust_most(self) -> float:
        """Bound of one decision's doubly robust term in half ranges: |q_target| + w · |r − q| ≤ 1 + 2 · most_weight."""
        return 1.0 + 2.0 * self.most_weight

    @property
    def factor(self) -> float:
        """Of every number, so that the whole vector has L2 norm ≤ 1."""
        return 1.0 / math.sqrt(len(SUMS) + (len(PRODUCTS) + len(CROSSED)) * PRODUCT_WEIGHT**2)

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def hash(self) -> str:
        return canonical_hash(self.document())

    @classmethod
    def from_document(cls, document: Any) -> ValueLayout:
        """Parse what came with a plan. Raises WireError."""
        try:
            return cls(**document)
        except (ConfigError, TypeError) as error:
            raise WireError(f"not a layout of policy values: {str(error)[:200]}") from error
