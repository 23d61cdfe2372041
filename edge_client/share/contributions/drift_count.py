"""The device's half of `drift_count`: what has drifted here in this period, as one vector of zeros and ones.

One fixed slot for each kind and one for "this device watched" (shared_models.drift). A device that has watched too little, or
whose user has not allowed that anything is watched, adds zeros: whoever reads the sum cannot tell them from others.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from shared_models.drift import ANSWERED_WEIGHT, CLIP_NORM, DIMENSION, FACTOR, KINDS, LEAST_WATCHED
from shared_models.errors import ContributionError

__all__ = ["CLIP_NORM", "DIMENSION", "NAME", "PURPOSE", "VERSION", "compute"]

NAME = "drift_count"
VERSION = 1
PURPOSE = "quality-check"


def compute(drifted: Collection[str], watched: int) -> npt.NDArray[np.float64]:
    """The vector [DIMENSION] for the gate, L2 norm ≤ CLIP_NORM.

    `drifted`: the kinds that raised an alarm in the period; `watched`: observations of all kinds in it.
    Raises ContributionError for a kind that does not exist and a count that is none.
    """
    if isinstance(watched, bool) or not isinstance(watched, int) or watched < 0:
        raise ContributionError(f"watched is {str(watched)[:40]!r}, expected a count of observations")
    kinds = set() if isinstance(drifted, str) else set(drifted)
    if isinstance(drifted, str) or not kinds <= set(KINDS):
        raise ContributionError(f"{str(drifted)[:60]!r} has drifted, expected kinds among {', '.join(KINDS)}")
    if watched < LEAST_WATCHED:
        return np.zeros(DIMENSION)
    slots = [1.0 if kind in kinds else 0.0 for kind in KINDS]
    return FACTOR * np.array([*slots, ANSWERED_WEIGHT])
