"""The device's half of `policy_value_sums`: what a policy that is not in force would have earned with this user.

One user's sums, and the products of these sums, scaled so that the vector's L2 norm is at most 1 (shared_models.policy_value).
Rewards count from the middle of their range, so that a user without decisions and one with middling rewards add the
same: nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_client.decide.policy_value import Log
from shared_models.policy_value import CROSSED, PRODUCT_WEIGHT, PRODUCTS, SUMS, ValueLayout

NAME = "policy_value_sums"
VERSION = 1
PURPOSE = "quality-check"
CLIP_NORM = 1.0


def compute(layout: ValueLayout, log: Log) -> npt.NDArray[np.float64]:
    """The vector [DIMENSION] for the gate; zeros for an empty log."""
    newest = slice(max(0, len(log) - layout.most_decisions), None)
    weights = log.weights(layout.most_weight)[newest]

    def scaled(rewards: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.clip((rewards[newest] - layout.middle) / layout.half_range, -1.0, 1.0)

    reward, chosen, target = scaled(log.reward), scaled(log.model_chosen), scaled(log.model_target)
    most = float(layout.most_decisions)
    whole = {
        "decisions": len(reward) / most,
        "weight": float(weights.sum()) / (most * layout.most_weight),
        "gained": float(weights @ reward) / (most * layout.most_weight),
        "robust": float((target + weights * (reward - chosen)).sum()) / (most * layout.robust_most),
    }
    products = [PRODUCT_WEIGHT * whole[first] * whole[second] for first, second in (*PRODUCTS, *CROSSED)]
    numbers = np.array([*(whole[name] for name in SUMS), *products])
    return np.asarray(layout.factor * np.clip(numbers, -1.0, 1.0))
