"""The discrete Gaussian and the trusted sum: the noise is what it claims to be, and nothing comes out without it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from privacy_world import make_plan, parsed, policy_document
from scipy import stats

from privacy.clipping import to_ring
from privacy.mechanisms import NoisySum, TrustedSum, sample_discrete_gaussian
from shared_models.errors import ContributionError, RoundError, TooFewSurvivorsError
from shared_models.wire import SCALE, RoundPlan

DIMENSION = 58_000
Z_LIMIT = 4.75
"""One false alarm in a million, per test."""


def small_plan(**changes: object) -> RoundPlan:
    return make_plan(parsed(policy_document()), **{"dimension": 6, **changes})


def variance_z(residuals: np.ndarray, variance: float) -> float:
    """z of the chi-square statistic of Gaussian residuals with a claimed variance."""
    degrees = residuals.size
    return (float(np.sum(residuals.astype(np.float64) ** 2)) / variance - degrees) / math.sqrt(2.0 * degrees)


def released_noise(plan: RoundPlan) -> np.ndarray:
    """White-box: sum of known vectors, released; what differs is the noise."""
    exact = np.zeros(plan.dimension, np.int64)
    total = TrustedSum(plan)
    random = np.random.default_rng(0)
    for _ in range(5):
        vector = random.integers(-30, 30, plan.dimension)
        vector[np.arange(plan.dimension) > 100_000] = 0
        total.add(to_ring(vector))
        exact += vector
    return total.release().values - exact


def test_the_noise_in_a_release_has_the_planned_variance() -> None:
    plan = small_plan(dimension=DIMENSION)
    residuals = released_noise(plan)
    assert abs(variance_z(residuals, plan.noise_variance)) < Z_LIMIT
    assert abs(float(residuals.mean())) < Z_LIMIT * math.sqrt(plan.noise_variance / DIMENSION)
    # The same test finds noise whose standard deviation is 2% too small, in this one round.
    assert abs(variance_z(residuals * 0.98, plan.noise_variance)) > Z_LIMIT
    sample = stats.kstest(residuals / math.sqrt(plan.noise_variance), "norm")
    assert sample.pvalue > 1e-6
    neighbours = float(np.corrcoef(residuals[:-1], residuals[1:])[0, 1])
    assert abs(neighbours) < Z_LIMIT / math.sqrt(DIMENSION)


def test_small_variances_follow_the_discrete_distribution_exactly() -> None:
    for variance in (1, 7):
        draws = sample_discrete_gaussian(variance, 12_000)
        support = np.arange(-40, 41)
        weights = np.exp(-(support**2) / (2.0 * variance))
        probability = weights / weights.sum()
        counts = np.array([(draws == value).sum() for value in support])
        expected = probability * draws.size
        frequent = expected >= 10
        observed = np.append(counts[frequent], counts[~frequent].sum())
        wanted = np.append(expected[frequent], expected[~frequent].sum())
        assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-6


def test_noise_is_fresh_for_every_release() -> None:
    plan = small_plan(dimension=500)
    assert not np.array_equal(released_noise(plan), released_noise(plan))


def test_noise_drawn_once_equals_summed_shares() -> None:
    """n shares of variance s²/n each against one draw of variance s²: what the benchmark's `projected` rows rely on."""
    devices, variance, size = 10, 10 * 900, 6_000
    shares = sum(sample_discrete_gaussian(variance // devices, size) for _ in range(devices))
    once = sample_discrete_gaussian(variance, size)
    for sample in (shares, once):
        assert abs(variance_z(sample, variance)) < Z_LIMIT
        assert abs(float(sample.mean())) < Z_LIMIT * math.sqrt(variance / size)
        # Fourth moment of a Gaussian: 3, with standard error sqrt(24/n).
        kurtosis = float(np.mean((sample / sample.std()) ** 4))
        assert abs(kurtosis - 3.0) < Z_LIMIT * math.sqrt(24.0 / size)
    assert stats.ks_2samp(shares, once).pvalue > 1e-6


def test_a_sum_goes_out_once_only() -> None:
    total = TrustedSum(small_plan(min_survivors=3))
    for _ in range(3):
        total.add(np.zeros(6, np.uint32))
    total.release()
    with pytest.raises(RoundError, match="already released"):
        total.release()
    with pytest.raises(RoundError, match="already released"):
        total.add(np.zeros(6, np.uint32))


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_below_n_min_nothing_is_released(answers: int) -> None:
    total = TrustedSum(small_plan(min_survivors=3))
    for _ in range(answers):
        total.add(np.zeros(6, np.uint32))
    for _ in range(2):
        with pytest.raises(TooFewSurvivorsError):
            total.release()
    assert total.survivors == answers


@pytest.mark.parametrize(
    "values",
    [
        None,
        [0] * 6,
        np.zeros(5, np.uint32),
        np.zeros(7, np.uint32),
        np.zeros((1, 6), np.uint32),
        np.zeros((6, 1), np.uint32),
        np.zeros(6, np.int32),
        np.zeros(6, np.uint64),
        np.zeros(6, np.float32),
        np.zeros(6, ">u4"),
        to_ring(np.array([SCALE + 1, 0, 0, 0, 0, 0])),
        to_ring(np.array([SCALE, 1, 0, 0, 0, 0])),
        to_ring(np.array([-SCALE, 0, 0, 0, 0, -1])),
        np.full(6, 1 << 31, np.uint32),
        np.full(6, 0xFFFF_FFFF - SCALE, np.uint32),
    ],
)
def test_what_no_honest_gate_seals_is_refused_and_not_counted(values: object) -> None:
    total = TrustedSum(small_plan())
    with pytest.raises(ContributionError):
        total.add(values)  # type: ignore[arg-type]
    assert total.survivors == 0


def test_squares_that_would_wrap_64_bits_are_not_taken_for_short() -> None:
    plan = small_plan(dimension=1 << 16)
    total = TrustedSum(plan)
    with pytest.raises(ContributionError):
        total.add(np.full(1 << 16, 1 << 31, np.uint32))


def test_a_vector_of_exactly_the_clip_norm_counts() -> None:
    total = TrustedSum(small_plan())
    total.add(to_ring(np.array([0, 0, -SCALE, 0, 0, 0])))
    assert total.survivors == 1


def test_the_exact_sum_has_no_accessor() -> None:
    total = TrustedSum(small_plan())
    secret = 7_777
    for _ in range(3):
        total.add(to_ring(np.array([secret, 0, 0, 0, 0, 0])))
    public = {name for name in dir(total) if not name.startswith("_")}
    assert public == {"add", "release", "survivors"}
    assert str(3 * secret) not in repr(total) + str(total)
    released = total.release()
    assert set(vars(released)) == {"values", "survivors", "noise_variance", "clip_norm"}
    # And after the release there is nothing left to read, by whatever way.
    assert all(not isinstance(value, np.ndarray) or value.size == 0 for value in vars(total).values())


def test_a_distributed_round_is_not_summed_here() -> None:
    with pytest.raises(RoundError):
        TrustedSum(small_plan(mode="distributed", degree=1, threshold=1))


def test_the_mean_is_in_units_of_the_contribution() -> None:
    total = NoisySum(np.array([SCALE * 10, -SCALE * 5]), survivors=10, noise_variance=1, clip_norm=0.3)
    np.testing.assert_allclose(total.mean(), [0.3, -0.15])
    assert total.hash != NoisySum(np.array([SCALE * 10, -SCALE * 5 + 1]), 10, 1, 0.3).hash


def test_a_release_reports_realised_survivors_and_its_own_noise() -> None:
    plan = small_plan()
    total = TrustedSum(plan)
    for _ in range(8):
        total.add(np.zeros(6, np.uint32))
    released = total.release()
    assert (released.survivors, released.noise_variance) == (8, plan.noise_variance)
    assert released.values.dtype == np.int64
