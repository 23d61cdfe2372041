"""From noise to ρ and ε. Device and aggregator enforce in ρ (zCDP); the conversion to (ε, δ) is for people.

The plain functions need nothing but the standard library. `pld_epsilon` and `rdp_epsilon` use dp-accounting, on the side of
reports only: the first as the tighter "continuous surrogate, plan fixed in advance", the second as a check of ours. The
Gaussian-DP (GDP) central-limit accountant is not used anywhere: it under-reports.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from shared_models.errors import ConfigError, LedgerError


def epsilon_from_rho(rho: float, delta: float) -> float:
    """Least ε such that ρ-zCDP implies (ε, δ)-DP over all orders (Canonne, Kamath, Steinke 2020, Prop. 12 and Cor. 13)."""
    _check(rho=rho, delta=delta)
    if rho == 0.0:
        return 0.0

    def bound(log_order_minus_one: float) -> float:
        order_minus_one = math.exp(log_order_minus_one)
        order = 1.0 + order_minus_one
        return order * rho - math.log1p(1.0 / order_minus_one) - (math.log(delta) + math.log(order)) / order_minus_one

    return max(0.0, _minimum(bound, -12.0, 30.0))


def rho_from_epsilon(epsilon: float, delta: float) -> float:
    """Largest ρ whose conversion by `epsilon_from_rho` is at most `epsilon`."""
    if not epsilon > 0.0 or math.isinf(epsilon):
        raise ConfigError(f"epsilon is {epsilon}, expected a positive number")
    low, high = 0.0, 1.0
    while epsilon_from_rho(high, delta) <= epsilon:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if epsilon_from_rho(middle, delta) <= epsilon else (low, middle)
    return low


def noise_multiplier_for(epsilon: float, delta: float, participations: int) -> float:
    """σ/Δ of each release so that `participations` of them together cost at most ε at δ, by zCDP, without amplification."""
    if participations < 1:
        raise ConfigError(f"participations is {participations}, expected at least 1")
    return math.sqrt(participations / (2.0 * rho_from_epsilon(epsilon, delta)))


def default_delta(population: int) -> float:
    """δ = N^−1.1."""
    if population < 2:
        raise ConfigError(f"population is {population}, expected at least 2")
    return float(population**-1.1)


def largest_rho(rhos: Iterable[float], participations: int) -> float:
    """What a device that took part at most `participations` times can have spent at most: the largest costs count."""
    return math.fsum(sorted(rhos, reverse=True)[:participations])


def pld_epsilon(noise_multipliers: Sequence[float], delta: float) -> float:
    """ε at δ of the composed Gaussians by privacy loss distributions (dp-accounting), add/remove = zero-out here.

    Valid only for a plan fixed in advance, and for the continuous Gaussian: always labelled so.
    """
    from dp_accounting import NeighboringRelation, pld

    accountant = pld.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3)
    accountant.compose(_event_tree(noise_multipliers))
    return float(accountant.get_epsilon(delta))


def rdp_epsilon(noise_multipliers: Sequence[float], delta: float) -> float:
    """ε at δ by dp-accounting's RDP accountant on the same event tree: the second implementation of the headline."""
    from dp_accounting import NeighboringRelation, rdp

    orders = [1.0 + 10.0 ** (exponent / 40.0) for exponent in range(-80, 281)]
    accountant = rdp.RdpAccountant(orders, NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(_event_tree(noise_multipliers))
    return float(accountant.get_epsilon(delta))


def cross_check(noise_multipliers: Sequence[float], delta: float, epsilon: float, *, tolerance: float = 0.01) -> None:
    """Raise LedgerError if the second implementation differs from `epsilon` by more than `tolerance` (relative)."""
    other = rdp_epsilon(noise_multipliers, delta) if noise_multipliers else 0.0
    if abs(other - epsilon) > tolerance * max(epsilon, 1e-3):
        raise LedgerError(f"two accountants disagree: {epsilon:.6f} and {other:.6f}; nothing is reported")


def _event_tree(noise_multipliers: Sequence[float]):  # type: ignore[no-untyped-def]
    import dp_accounting

    if any(not (z > 0.0 and math.isfinite(z)) for z in noise_multipliers):
        raise LedgerError("a release without noise cannot be accounted")
    return dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(z), count)
            for z, count in sorted(Counter(noise_multipliers).items())
        ]
    )


def _minimum(function, low: float, high: float) -> float:  # type: ignore[no-untyped-def]
    """Golden-section search for the minimum of a unimodal function."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(120):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return float(min(at_left, at_right))


def _check(*, rho: float, delta: float) -> None:
    if not rho >= 0.0 or math.isinf(rho):
        raise ConfigError(f"rho is {rho}, expected a number of at least 0")
    if not 0.0 < delta < 1.0:
        raise ConfigError(f"delta is {delta}, expected a number between 0 and 1")
