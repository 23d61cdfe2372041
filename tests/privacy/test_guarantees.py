"""What is left of epsilon if more collude than the policy assumes."""

from __future__ import annotations

import pytest

from privacy.accounting import epsilon_from_rho
from privacy.guarantees import NoisyRelease, epsilon_under_collusion
from shared_models.errors import ConfigError
from shared_models.wire import SCALE

DELTA = 1e-5
RELEASE = NoisyRelease(survivors=80, cohort=100, colluders=10, share_variance=SCALE * SCALE)


def test_only_honest_shares_count() -> None:
    """One share has variance Δ², so h honest ones cost 1/(2h)."""
    figures = epsilon_under_collusion([RELEASE, RELEASE], DELTA)
    for name, honest in (("gamma", 70), ("half", 30), ("nine in ten", 1), ("all but one", 1)):
        assert figures[name] == pytest.approx(epsilon_from_rho(2 / (2 * honest), DELTA), rel=1e-12)


def test_more_colluding_never_means_less_epsilon() -> None:
    for survivors in (20, 50, 80, 100):
        figures = list(epsilon_under_collusion([NoisyRelease(survivors, 100, 10, 1 << 24)], DELTA).values())
        assert figures == sorted(figures)


def test_without_a_release_there_is_no_guarantee_to_state() -> None:
    with pytest.raises(ConfigError):
        epsilon_under_collusion([], DELTA)
