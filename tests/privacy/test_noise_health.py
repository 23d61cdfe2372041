"""Missing noise is found in what is released, and honest noise raises no alarm."""

from __future__ import annotations

import numpy as np
import pytest
from secure_round import SecureRound, plan_for

from privacy.noise_health import noise_health
from privacy.table_sampler import TableSampler
from shared_models.errors import ConfigError


@pytest.mark.parametrize(("coordinates", "shortfall"), [(60_000, 0.02), (4096, 0.08)])
def test_a_shortfall_of_the_noise_is_found(coordinates: int, shortfall: float) -> None:
    planned = 10_000**2
    sampler = TableSampler(round(planned * (1 - shortfall) ** 2))
    found = sum(noise_health(sampler.sample(coordinates), planned).too_small for _ in range(40))
    assert found >= 32  # chances of 0.987 and 0.997 each: fewer than one false failure in 10^7


def test_six_per_cent_are_seen_in_4096_coordinates() -> None:
    sampler = TableSampler(round(10_000**2 * 0.94**2))
    scores = [noise_health(sampler.sample(4096), 10_000**2) for _ in range(40)]
    assert np.mean([score.z for score in scores]) < -4.75
    assert np.mean([score.ratio_std for score in scores]) == pytest.approx(0.94, abs=0.01)


def test_honest_noise_raises_no_alarm() -> None:
    sampler = TableSampler(10_000**2)
    scores = [noise_health(sampler.sample(4096), 10_000**2) for _ in range(500)]
    # One alarm is to be expected in 500,000 releases: in 500, more than two are not.
    assert sum(score.too_small or score.too_large for score in scores) <= 2
    # z is standard normal: mean and spread of 500 draws.
    assert abs(np.mean([score.z for score in scores])) < 0.25
    assert 0.85 < np.std([score.z for score in scores]) < 1.15


def test_too_much_noise_is_found() -> None:
    assert noise_health(TableSampler(11_000**2).sample(4096), 10_000**2).too_large


@pytest.mark.parametrize(
    ("values", "variance"),
    [([], 1.0), ([1], 0.0), ([1], -1.0), ([1], float("nan")), ([1], float("inf")), ([float("nan")], 1.0)],
)
def test_what_cannot_be_tested_is_refused(values: list[float], variance: float) -> None:
    with pytest.raises(ConfigError, match="test"):
        noise_health(np.array(values), variance)


@pytest.mark.parametrize("drops", [{}, {"contribute": [0]}, {"share": [1], "contribute": [2]}])
def test_the_noise_of_a_released_sum_has_the_planned_variance(drops: dict[str, list[int]]) -> None:
    """A whole secure sum of noise alone, 60,000 coordinates: exactly what was planned raises no alarm, 2% less is found."""
    plan = plan_for(8, 5, colluders=1, dimension=60_000)
    honest, stingy = plan.share_variance, round(plan.share_variance * 0.98**2)
    for variance, alarm in ((honest, False), (stingy, True)):
        shares = [TableSampler(variance).sample(plan.dimension) for _ in range(8)]
        released = SecureRound(plan, shares, drops).run()
        health = noise_health(released.values, released.survivors * plan.share_variance)
        assert health.too_small == alarm, health
        assert released.noise_variance == (released.survivors - 1) * plan.share_variance >= plan.noise_variance
