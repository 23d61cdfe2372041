"""What a noisy sum of `policy_value_sums` means: IPS, SNIPS and DR of a policy over all users, with intervals.

Standard errors are user-level (a user's decisions are not independent) and hold the noise of the release; ratios by the delta
method. All of it is post-processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from privacy.mechanisms import NoisySum
from shared_models.canonical import canonical_bytes
from shared_models.errors import ContributionError
from shared_models.policy_value import CROSSED, DIMENSION, PRODUCT_WEIGHT, PRODUCTS, SUMS, ValueLayout
from shared_models.wire import SCALE

NAME = "policy_value_sums"
VERSION = 1
PURPOSE = "quality-check"
ARTIFACT = "policy-value.json"


@dataclass(frozen=True)
class Estimate:
    """Mean reward per decision, in rewards."""

    value: float
    error: float
    """Standard error, with the noise in it; infinite if the noise leaves nothing."""

    @property
    def interval(self) -> tuple[float, float]:
        """95%."""
        return self.value - 1.96 * self.error, self.value + 1.96 * self.error


@dataclass(frozen=True)
class ReleasedValue:
    ips: Estimate
    snips: Estimate
    doubly_robust: Estimate
    users: int

    def to_bytes(self, target: str) -> bytes:
        """The artefact policy-value.json: canonical JSON; what the noise leaves nothing of is null."""

        def told(estimate: Estimate) -> dict[str, float | list[float]] | None:
            if not math.isfinite(estimate.error):
                return None
            return {"value": estimate.value, "error": estimate.error, "interval": list(estimate.interval)}

        return canonical_bytes(
            {
                "format": 1,
                "kind": "policy-value",
                "target": target,
                "users": self.users,
                "ips": told(self.ips),
                "snips": told(self.snips),
                "doubly_robust": told(self.doubly_robust),
            }
        )


def policy_value_from(release: NoisySum, layout: ValueLayout) -> ReleasedValue:
    """Raises ContributionError if the sum is not of this layout."""
    if release.values.shape != (DIMENSION,) or release.clip_norm != 1.0:
        raise ContributionError(f"a sum of shape {release.values.shape} is no sum of policy values")
    means = release.mean() / layout.factor
    noise = math.sqrt(release.noise_variance) / SCALE / release.survivors / layout.factor
    mean = dict(zip(SUMS, means[: len(SUMS)].tolist(), strict=True))
    pairs = dict(zip((*PRODUCTS, *CROSSED), (means[len(SUMS) :] / PRODUCT_WEIGHT).tolist(), strict=True))

    def ratio(over: str, under: str, unit: float) -> Estimate:
        """`unit` turns the ratio of scaled sums into rewards from the middle."""
        base = mean[under]
        if base <= 2.0 * noise:
            return Estimate(layout.middle, math.inf)
        value = mean[over] / base
        # Var(Σ over / Σ under) ≈ E[(over − value · under)²] / (n · E[under]²), never below what the noise alone gives.
        spread = pairs[over, over] - 2.0 * value * pairs[over, under] + value * value * pairs[under, under]
        sampling = max(spread, 0.0) / release.survivors
        error = math.sqrt(sampling + noise * noise * (1.0 + value * value)) / base
        return Estimate(layout.middle + value * unit * layout.half_range, error * unit * layout.half_range)

    return ReleasedValue(
        ips=ratio("gained", "decisions", layout.most_weight),
        snips=ratio("gained", "weight", 1.0),
        doubly_robust=ratio("robust", "decisions", layout.robust_most),
        users=release.survivors,
    )
