"""The median. That of numpy loads numpy.ma at its first call, which a first answer would wait for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def median(values: npt.ArrayLike) -> float:
    """The middle of [n] numbers, n > 0; of an even number of them the mean of the two in the middle. NaN if one of them is."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if np.isnan(ordered[-1]):
        return float("nan")
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2.0)
