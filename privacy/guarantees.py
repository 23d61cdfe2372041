"""What is left if more devices collude than the policy assumes: ε of a secure sum whose honest shares of the noise are fewer.

In mode `distributed` every survivor adds a share of the noise. Colluders know theirs and add none: only the honest shares count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privacy.accounting import epsilon_from_rho
from privacy.budgets import ADVERTS_PER_PARTICIPATION
from shared_models.errors import ConfigError
from shared_models.wire import SCALE

PROTOCOL_FAILURE = 3 * 2.0**-40
"""Probability that the secure sum's random graph fails one of its bounds (sizing: privacy, separation) or a sample of
signatures misses (device, over a cohort): of each round for which a device offered keys, whether or not it was released."""


def protocol_failure(rounds: int) -> float:
    """What is added to δ for `rounds` that are charged: for each of them a device may have offered keys for several."""
    return PROTOCOL_FAILURE * ADVERTS_PER_PARTICIPATION * rounds


SHARES: Mapping[str, float] = {"half": 0.5, "nine in ten": 0.9, "all but one": 1.0}


@dataclass(frozen=True)
class NoisyRelease:
    """One release of a secure sum, as far as its noise goes."""

    survivors: int
    cohort: int
    colluders: int
    """What the plan assumes, ⌈γ · cohort⌉."""
    share_variance: int

    def rho(self, colluding: int) -> float:
        """zCDP cost if `colluding` of the cohort add no noise and all answer; one share, the device's own, is honest."""
        honest = max(1, self.survivors - colluding)
        return SCALE * SCALE / (2.0 * honest * self.share_variance)


def epsilon_under_collusion(releases: Sequence[NoisyRelease], delta: float) -> dict[str, float]:
    """ε at `delta` of all `releases` together: at the policy's γ, and at 50%, 90% and all but one of the cohort colluding.

    Raises ConfigError for none.
    """
    if not releases:
        raise ConfigError("no releases, so no guarantee to compute")
    result = {"gamma": epsilon_from_rho(math.fsum(item.rho(item.colluders) for item in releases), delta)}
    for name, share in SHARES.items():
        rho = math.fsum(item.rho(math.ceil(share * item.cohort)) for item in releases)
        result[name] = epsilon_from_rho(rho, delta)
    return result
