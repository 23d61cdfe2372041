"""What a noisy sum of `drift_count` means: how many users have drifted, and whether a new training series pays.

A rate is taken over the devices that watched; its interval holds the sampling of users and the noise of the release. All of it is
post-processing. The fleet's alarm is careful: it counts only what exceeds the false alarms of the detectors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from privacy.mechanisms import NoisySum
from shared_models.canonical import canonical_bytes, parse_document
from shared_models.drift import ANSWERED_WEIGHT, CLIP_NORM, DIMENSION, FACTOR, FALSE_ALARMS, KINDS, RETRAIN
from shared_models.errors import ConfigError, ContributionError, WireError
from shared_models.wire import SCALE

NAME = "drift_count"
VERSION = 1
PURPOSE = "quality-check"
ARTIFACT = "drift.json"
FORMAT = 1

WORTH = 0.05
"""A new series pays if at least so many more users than by false alarms have drifted; for less the model in force will do."""
SURE = 2.5
"""Standard errors of the alarm's bound: 0.6% for one kind, so 2.5% for all four together."""


@dataclass(frozen=True)
class Rate:
    """Share of the devices that watched on which one kind drifted in the period."""

    value: float
    """0 to 1."""
    error: float
    """Standard error, with the noise in it; infinite if the noise leaves nothing to divide by."""
    low: float
    high: float
    """95%, within 0 to 1."""


@dataclass(frozen=True)
class ReleasedDrift:
    rates: Mapping[str, Rate]
    """By kind."""
    watched: float
    """How many of the cohort watched, estimated: not more than `users`."""
    users: int
    alarms: tuple[str, ...]
    """Kinds of which so many have drifted that it cannot be chance."""
    retrain: tuple[str, ...]
    """The contributions for which a new series pays; empty if none does."""

    @property
    def words(self) -> str:
        """One plain sentence for the operator's page."""
        if not self.alarms:
            return (
                "No new training series pays yet: not more users have drifted than by chance and the worth of a series."
            )
        rates = ", ".join(f"{kind} of {100 * self.rates[kind].value:.0f}% of users" for kind in self.alarms)
        return f"A new training series of {' and '.join(self.retrain)} pays: {rates} has drifted."

    def to_bytes(self) -> bytes:
        """The artefact `drift.json`: canonical JSON."""
        # JSON has no infinity.
        rates = {
            kind: {**asdict(rate), "error": rate.error if math.isfinite(rate.error) else None}
            for kind, rate in self.rates.items()
        }
        return canonical_bytes(
            {
                "format": FORMAT,
                "rates": rates,
                "watched": self.watched,
                "users": self.users,
                "alarms": list(self.alarms),
                "retrain": list(self.retrain),
                "words": self.words,
            }
        )


def drift_from(release: NoisySum, *, worth: float = WORTH) -> ReleasedDrift:
    """Read a release. `worth`: the excess over false alarms from which a series pays, 0 to 1.

    Raises ContributionError if the sum is not one of `drift_count`, ConfigError for a `worth` that is none.
    """
    if release.values.shape != (DIMENSION,) or release.clip_norm != CLIP_NORM:
        raise ContributionError(f"a sum of shape {release.values.shape} is no sum of drift counts")
    if isinstance(worth, bool) or not isinstance(worth, int | float) or not 0.0 <= worth <= 1.0:
        raise ConfigError(f"worth is {str(worth)[:40]!r}, expected a share from 0 to 1")
    sums = (release.mean() * release.survivors / FACTOR).tolist()
    noise = math.sqrt(release.noise_variance) / SCALE / FACTOR
    watched, watched_noise = sums[-1] / ANSWERED_WEIGHT, noise / ANSWERED_WEIGHT
    found = dict(zip(KINDS, sums[:-1], strict=True))
    rates = {kind: _rate(total, noise, watched, watched_noise) for kind, total in found.items()}
    alarms = tuple(kind for kind, rate in rates.items() if rate.value - SURE * rate.error > FALSE_ALARMS + worth)
    return ReleasedDrift(
        rates=rates,
        watched=min(max(watched, 0.0), float(release.survivors)),
        users=release.survivors,
        alarms=alarms,
        retrain=tuple(dict.fromkeys(RETRAIN[kind] for kind in alarms)),
    )


def drift_document(raw: bytes) -> dict[str, Any]:
    """Parse `drift.json`. Raises WireError."""
    document = parse_document(raw, limit_bytes=64 * 1024)
    if document.get("format") != FORMAT or not isinstance(document.get("rates"), dict):
        raise WireError(f"not a count of drift of format {FORMAT}")
    return document


def _rate(total: float, noise: float, watched: float, watched_noise: float) -> Rate:
    # Below two standard deviations the noise alone could have made the denominator.
    if watched <= 2.0 * watched_noise or watched < 1.0:
        return Rate(0.0, math.inf, 0.0, 1.0)
    value = total / watched
    # Agresti and Coull 1998: at a rate near 0 the plain variance is near 0, and the interval would not cover.
    shrunk = min(max((total + 2.0) / (watched + 4.0), 0.0), 1.0)
    sampling = shrunk * (1.0 - shrunk) / (watched + 4.0)
    # Of a quotient, by the delta method.
    error = math.sqrt(sampling + (noise**2 + (value * watched_noise) ** 2) / watched**2)
    clipped = min(max(value, 0.0), 1.0)
    low, high = max(value - 1.96 * error, 0.0), min(value + 1.96 * error, 1.0)
    return Rate(clipped, error, min(low, clipped), max(high, clipped))
