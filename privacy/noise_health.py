"""Is the noise in a release what the plan says? A χ² test on coordinates that are known to hold nothing else.

Nobody has the noise-free sum of a secure aggregation; but coordinates that are zero on every device show the noise itself. It is
a check of health, not a proof. One release shows a standard deviation that is too small by 6% in 4,096 coordinates with chance
0.78, by 7% with 0.96, by 8% with 0.997; by 2% in 60,000 coordinates with 0.987.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared_models.errors import ConfigError

ALARM_Z = 4.75
"""A two-sided false alarm in 2·10^-6 of releases, by the normal approximation."""


@dataclass(frozen=True)
class NoiseHealth:
    """`z`: how many standard errors the variance is off (negative: too little noise); `ratio_std`: observed over expected."""

    z: float
    ratio_std: float

    @property
    def too_small(self) -> bool:
        return self.z < -ALARM_Z

    @property
    def too_large(self) -> bool:
        return self.z > ALARM_Z


def noise_health(values: npt.NDArray[np.int64], expected_variance: float) -> NoiseHealth:
    """Test `values` [m], pure noise, against its expected variance.

    Σx²/variance is χ² with m degrees of freedom; its cube root is normal (Wilson and Hilferty 1931); within ±6, z is right
    to 0.05 at m = 100 and to 0.001 at m = 4,096. Raises ConfigError for no values or a variance that is not positive.
    """
    count = int(np.size(values))
    if count == 0 or not expected_variance > 0 or math.isinf(expected_variance):
        raise ConfigError(f"cannot test {count} values against a variance of {expected_variance}")
    ratio = float(np.square(np.asarray(values, np.float64)).sum()) / expected_variance / count
    if not math.isfinite(ratio):
        raise ConfigError("noise that holds NaN or infinite values cannot be tested")
    spread = 2.0 / (9.0 * count)
    return NoiseHealth((ratio ** (1.0 / 3.0) - (1.0 - spread)) / math.sqrt(spread), math.sqrt(ratio))
