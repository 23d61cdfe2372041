"""The plain arithmetic of ρ and ε against an independent library, and no forbidden accountant anywhere."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import (
    cross_check,
    default_delta,
    epsilon_from_rho,
    largest_rho,
    noise_multiplier_for,
    pld_epsilon,
    rdp_epsilon,
    rho_from_epsilon,
)
from shared_models.errors import ConfigError, LedgerError

ROOT = Path(__file__).parents[2]
deltas = st.floats(-12.0, -2.0).map(lambda exponent: 10.0**exponent)
rhos = st.floats(-6.0, 2.5).map(lambda exponent: 10.0**exponent)


@pytest.mark.parametrize("multiplier", [0.2, 1.0, 4.86, 30.0])
@pytest.mark.parametrize("rounds", [1, 8, 200])
@pytest.mark.parametrize("delta", [1e-9, 4e-5, 5e-3])
def test_epsilon_agrees_with_dp_accounting(multiplier: float, rounds: int, delta: float) -> None:
    from dp_accounting import GaussianDpEvent, NeighboringRelation, SelfComposedDpEvent, rdp

    ours = epsilon_from_rho(rounds / (2.0 * multiplier**2), delta)
    orders = [1.0 + 10.0 ** (exponent / 40.0) for exponent in range(-80, 201)]
    accountant = rdp.RdpAccountant(orders, NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(multiplier), rounds))
    theirs = float(accountant.get_epsilon(delta))
    # A grid of orders can only find a larger bound than the continuous search.
    assert ours <= theirs + 1e-9
    assert ours == pytest.approx(theirs, rel=5e-3, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(rhos, deltas)
def test_epsilon_is_the_least_over_a_dense_grid_of_orders(rho: float, delta: float) -> None:
    def bound(order: float) -> float:
        return order * rho + math.log1p(-1.0 / order) - (math.log(delta) + math.log(order)) / (order - 1.0)

    grid = min(bound(1.0 + 10.0 ** (exponent / 200.0)) for exponent in range(-1000, 2000))
    epsilon = epsilon_from_rho(rho, delta)
    assert epsilon <= max(0.0, grid) + 1e-9
    assert epsilon == pytest.approx(max(0.0, grid), rel=1e-3, abs=1e-6)
    # And it is better than the textbook conversion.
    assert epsilon <= rho + 2.0 * math.sqrt(rho * math.log(1.0 / delta)) + 1e-12


@settings(max_examples=40, deadline=None)
@given(rhos, deltas, st.floats(1.001, 3.0))
def test_epsilon_grows_with_rho_and_shrinks_with_delta(rho: float, delta: float, factor: float) -> None:
    assert epsilon_from_rho(rho * factor, delta) >= epsilon_from_rho(rho, delta)
    assert epsilon_from_rho(rho, min(delta * factor, 0.9)) <= epsilon_from_rho(rho, delta)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 50.0), deltas)
def test_rho_from_epsilon_is_the_inverse_and_never_too_much(epsilon: float, delta: float) -> None:
    rho = rho_from_epsilon(epsilon, delta)
    assert epsilon_from_rho(rho, delta) <= epsilon
    assert epsilon_from_rho(rho, delta) == pytest.approx(epsilon, rel=1e-6, abs=1e-9)


@settings(max_examples=12, deadline=None)
@given(st.floats(0.1, 20.0), deltas, st.integers(1, 500))
def test_the_noise_multiplier_keeps_the_promised_epsilon(epsilon: float, delta: float, participations: int) -> None:
    multiplier = noise_multiplier_for(epsilon, delta, participations)
    assert epsilon_from_rho(participations / (2.0 * multiplier**2), delta) <= epsilon * (1 + 1e-9)
    assert epsilon_from_rho(participations / (2.0 * (0.99 * multiplier) ** 2), delta) > epsilon


def test_the_measured_figure_of_the_design_is_met() -> None:
    """N = 10k, k = 20, ε = 4: 4.86 by zCDP (FACTS.md)."""
    assert noise_multiplier_for(4.0, default_delta(10_000), 20) == pytest.approx(4.86, abs=0.01)


@pytest.mark.parametrize(("multiplier", "rounds"), [(1.0, 1), (4.86, 20), (2.0, 8)])
def test_pld_lies_below_the_headline(multiplier: float, rounds: int) -> None:
    delta = 4e-5
    headline = epsilon_from_rho(rounds / (2.0 * multiplier**2), delta)
    surrogate = pld_epsilon([multiplier] * rounds, delta)
    assert 0.5 * headline < surrogate < headline


def test_pld_of_one_gaussian_agrees_with_the_exact_formula() -> None:
    """Balle, Wang 2018: δ(ε) = Φ(Δ/2σ − εσ/Δ) − e^ε Φ(−Δ/2σ − εσ/Δ)."""
    normal = lambda x: 0.5 * math.erfc(-x / math.sqrt(2.0))  # noqa: E731
    for multiplier in (0.7, 1.0, 3.0):
        epsilon = pld_epsilon([multiplier], 1e-5)
        exact = normal(0.5 / multiplier - epsilon * multiplier) - math.exp(epsilon) * normal(
            -0.5 / multiplier - epsilon * multiplier
        )
        assert exact == pytest.approx(1e-5, rel=0.02)


def test_unequal_releases_add_in_rho() -> None:
    multipliers, delta = [1.0, 2.0, 2.0, 5.0], 1e-5
    rho = sum(1.0 / (2.0 * value**2) for value in multipliers)
    assert rdp_epsilon(multipliers, delta) == pytest.approx(epsilon_from_rho(rho, delta), rel=5e-3)


@pytest.mark.parametrize("multipliers", [[0.03], [0.1] * 3, [1.0], [5.0] * 20, [40.0] * 3, [1000.0], [1e5], [1e5, 0.5]])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 9e-3])
def test_the_two_accountants_agree_over_all_that_a_policy_may_allow(multipliers: list[float], delta: float) -> None:
    epsilon = epsilon_from_rho(sum(1.0 / (2.0 * value**2) for value in multipliers), delta)
    cross_check(multipliers, delta, epsilon)


def test_accountants_that_disagree_stop_the_report() -> None:
    right = epsilon_from_rho(0.5, 1e-5)
    cross_check([1.0], 1e-5, right)
    cross_check([], 1e-5, 0.0)
    for wrong in (right * 0.98, right * 1.02, 0.0):
        with pytest.raises(LedgerError, match="disagree"):
            cross_check([1.0], 1e-5, wrong)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.inf, math.nan])
def test_a_release_without_noise_is_never_accounted(multiplier: float) -> None:
    for accountant in (pld_epsilon, rdp_epsilon):
        with pytest.raises(LedgerError):
            accountant([1.0, multiplier], 1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: epsilon_from_rho(-1.0, 1e-5),
        lambda: epsilon_from_rho(math.nan, 1e-5),
        lambda: epsilon_from_rho(math.inf, 1e-5),
        lambda: epsilon_from_rho(1.0, 0.0),
        lambda: epsilon_from_rho(1.0, 1.0),
        lambda: epsilon_from_rho(1.0, math.nan),
        lambda: rho_from_epsilon(0.0, 1e-5),
        lambda: rho_from_epsilon(math.nan, 1e-5),
        lambda: rho_from_epsilon(math.inf, 1e-5),
        lambda: noise_multiplier_for(1.0, 1e-5, 0),
        lambda: default_delta(1),
    ],
)
def test_meaningless_arguments_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError):
        call()


def test_nothing_spent_costs_nothing() -> None:
    assert epsilon_from_rho(0.0, 1e-5) == 0.0


def test_the_dearest_rounds_count() -> None:
    assert largest_rho([0.1, 0.5, 0.2, 0.4], 2) == pytest.approx(0.9)
    assert largest_rho([0.1], 5) == pytest.approx(0.1)
    assert largest_rho([], 5) == 0.0


def test_no_code_of_this_repository_uses_a_gdp_accountant() -> None:
    banned = re.compile(r"(^|[^a-z])gdp([^a-z]|$)|gdpaccountant|gaussianaccountant|mu_poisson|eps_poisson|mu_uniform")
    scanned = 0
    for top in ("aggregator", "edge_client", "privacy", "shared_models", "benchmarks", "examples", "deploy"):
        for path in (ROOT / top).rglob("*.py"):
            scanned += 1
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [getattr(node, name, None) for name in ("id", "attr", "module", "name", "asname")]
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 40:
                    names.append(node.value)  # PrivacyEngine(accountant="gdp")
                for name in filter(None, names):
                    assert not banned.search(str(name).lower()), f"{path}: {name}"
    assert scanned > 50
