"""The device's half of `bandit_moments`: sums of this user's decisions and rewards, each block of norm ≤ 1.

What the blocks are stands in `shared_models.bandit_prior.MomentLayout`. A user's whole history is one contribution; the gate
clips the vector once more, adds the noise and masks it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from shared_models.bandit_prior import (
    LEVEL_MOST,
    SCALARS,
    SQUARE_MOST,
    MomentLayout,
    checked_rows,
    pack_symmetric,
)
from shared_models.errors import ContributionError, DecisionError

NAME = "bandit_moments"
VERSION = 1
PURPOSE = "suggestion-model"
CLIP_NORM = 1.0
"""L2 norm of a contribution at most: its own normalisation keeps it, the gate enforces it."""
MAX_DECISIONS = 4096
"""The newest ones are used; bounds time and memory on a device."""


def compute(
    layout: MomentLayout, features: npt.NDArray[np.float64], rewards: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The vector [layout.dimension] for the gate from features [n, d] of what was chosen and its rewards [n].

    Rewards outside the declared range are clipped to it. Nothing to tell gives zeros. Raises ContributionError.
    """
    count = len(layout.features)
    try:
        rows = checked_rows(features, count)[-MAX_DECISIONS:]
    except DecisionError as error:
        raise ContributionError(str(error)) from error
    if not isinstance(rewards, np.ndarray) or rewards.dtype.kind not in "fiu" or rewards.shape != (len(features),):
        raise ContributionError(f"expected {len(features)} rewards, one for each decision")
    gained = np.clip(np.asarray(rewards[-MAX_DECISIONS:], dtype=np.float64), layout.reward_low, layout.reward_high)
    if not np.isfinite(gained).all():
        raise ContributionError("rewards hold NaN")
    if not len(rows):
        return np.zeros(layout.dimension)
    if layout.indicators and not (((rows == 0.0) | (rows == 1.0)).all() and (rows.sum(axis=1) == 1.0).all()):
        raise ContributionError("each decision must have exactly one feature that is 1")
    residual = gained - rows @ layout.center - layout.level
    level = float(residual.mean())
    residual -= level
    gram = rows.T @ rows
    if layout.indicators:
        gram = np.diag(np.diag(gram))
    moment = rows.T @ residual
    gram_norm, moment_norm = float(np.linalg.norm(gram)), float(np.linalg.norm(moment))
    if gram_norm == 0.0:
        return np.zeros(layout.dimension)
    unit_gram = gram / gram_norm
    # With one decision nothing is left after the user's own mean is taken out: the direction is then no direction.
    whole = max(moment_norm, layout.moment_least * gram_norm)
    unit = moment / whole if moment_norm > 1e-9 * layout.half_range else np.zeros(count)
    half = layout.half_range
    energy = (moment_norm / gram_norm) ** 2
    squares = np.minimum([energy, float(np.mean(residual**2))], SQUARE_MOST * half**2) / (SQUARE_MOST * half**2)
    cut = min(max(level / (LEVEL_MOST * half), -1.0), 1.0)
    scalars = np.array([1.0, cut, cut * cut, *squares, float(unit @ unit)])
    blocks = [
        np.diag(unit_gram) if layout.indicators else pack_symmetric(unit_gram),
        unit,
        pack_symmetric(np.outer(unit, unit)) if layout.weights.second else np.zeros(0),
        scalars / math.sqrt(SCALARS),
    ]
    return np.concatenate([block * factor for block, factor in zip(blocks, layout.block_factors, strict=True)])
