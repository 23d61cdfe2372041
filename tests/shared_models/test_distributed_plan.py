"""Plans of mode `distributed`: shares of noise that are large enough, sums that fit, a graph that can exist."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_models.errors import WireError
from shared_models.wire import MODE_DISTRIBUTED, MODE_TRUSTED, SCALE, RoundPlan, noise_variance_for

PLAN = RoundPlan(
    task="fleet",
    round_id=1,
    purpose="intent-model",
    contribution="intent_head",
    contribution_version=1,
    dimension=5000,
    clip_norm=1.0,
    noise_variance=noise_variance_for(2.8),
    cohort=1000,
    min_survivors=700,
    mode=MODE_DISTRIBUTED,
    issued_s=1_800_000_000,
    deadline_s=1_800_000_600,
    model_hash="a" * 64,
    encoder_hash="b" * 64,
    policy_hash="c" * 64,
    policy_sequence=1,
    colluders=100,
    degree=60,
    threshold=35,
    health_dimension=4096,
)


def test_it_reads_back_equal_with_its_share_of_the_noise() -> None:
    assert RoundPlan.from_bytes(PLAN.to_bytes()) == PLAN
    assert PLAN.share_variance == -(-PLAN.noise_variance // 600)


@given(variance=st.integers(1 << 20, 1 << 34), survivors=st.integers(2, 900), colluders=st.integers(0, 899))
def test_honest_survivors_alone_add_the_planned_noise(variance: int, survivors: int, colluders: int) -> None:
    colluders %= survivors
    try:
        plan = replace(PLAN, noise_variance=variance, min_survivors=survivors, colluders=colluders)
    except WireError:
        return
    honest = survivors - colluders
    assert variance <= honest * plan.share_variance < variance + honest


@pytest.mark.parametrize(
    "changed",
    [
        {"colluders": 700},
        {"colluders": -1},
        {"colluders": True},
        {"degree": 0},
        {"degree": 255},
        {"threshold": 0},
        {"threshold": 61},
        {"cohort": 60, "min_survivors": 50, "colluders": 5},
        {"health_dimension": 5000},
        {"health_dimension": -1},
        {"health_dimension": 1.0},
        {"mode": MODE_TRUSTED},
    ],
)
def test_figures_that_cannot_be_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        replace(PLAN, **changed)


def test_a_share_below_four_units_is_refused() -> None:
    assert replace(PLAN, noise_variance=600 * 16).share_variance == 16
    with pytest.raises(WireError, match="standard deviation below 4"):
        replace(PLAN, noise_variance=600 * 15)


def test_the_sum_must_fit_with_the_shares_of_all_who_may_answer() -> None:
    def fits(variance: int) -> bool:
        try:
            return bool(replace(PLAN, noise_variance=variance, min_survivors=150))
        except WireError:
            return False

    low, high = 1 << 30, 1 << 53
    assert fits(low)
    assert not fits(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    largest = replace(PLAN, noise_variance=low, min_survivors=150)
    total = 1000 * SCALE + 12 * math.sqrt(1000 * largest.share_variance)
    assert (1 << 31) - 32 < total < 1 << 31
    # The planned noise alone would have fitted: it is the shares of all the others that do not.
    assert replace(PLAN, mode=MODE_TRUSTED, colluders=0, degree=0, threshold=0, noise_variance=high)
