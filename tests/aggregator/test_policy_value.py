"""A policy's value from a noisy sum over users: near the truth, and honest about how near."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aggregator.releases.policy_value import policy_value_from
from edge_client.decide.policy_value import Log
from edge_client.share.contributions import policy_value_sums
from privacy.clipping import clip_l2, discretise
from privacy.mechanisms import NoisySum
from shared_models.errors import ContributionError
from shared_models.policy_value import DIMENSION, ValueLayout
from shared_models.wire import SCALE

LAYOUT = ValueLayout(-1.0, 1.0, most_decisions=20, most_weight=4.0)
LOGGING, TARGET = np.array([0.5, 0.5]), np.array([0.9, 0.1])


def released(users: int, multiplier: float, seed: int) -> NoisySum:
    random = np.random.default_rng(seed)
    total = np.zeros(DIMENSION, np.int64)
    for _ in range(users):
        # Users differ in what they like: their decisions are not independent of each other.
        likes = np.array([0.4, -0.2]) + 0.3 * random.standard_normal(2)
        action = random.choice(2, random.integers(5, 21), p=LOGGING)
        reward = np.clip(likes[action] + 0.1 * random.standard_normal(len(action)), -1.0, 1.0)
        guess = np.array([0.4, -0.2])
        log = Log(LOGGING[action], TARGET[action], reward, guess[action], np.full(len(action), float(TARGET @ guess)))
        total += discretise(clip_l2(policy_value_sums.compute(LAYOUT, log), 1.0)).values
    variance = max(1, int((multiplier * SCALE) ** 2))
    noise = np.rint(random.standard_normal(DIMENSION) * math.sqrt(variance)).astype(np.int64)
    return NoisySum(total + noise, users, variance, 1.0)


def test_the_released_value_is_near_the_truth_and_its_interval_covers_it() -> None:
    truth, covered = float(TARGET @ [0.4, -0.2]), {"ips": 0, "snips": 0, "doubly_robust": 0}
    for seed in range(15):
        value = policy_value_from(released(400, 4.0, seed), LAYOUT)
        assert value.users == 400
        for name in covered:
            estimate = getattr(value, name)
            low, high = estimate.interval
            covered[name] += low <= truth <= high
            assert estimate.value == pytest.approx(truth, abs=5 * estimate.error)
    assert min(covered.values()) >= 12


def test_without_noise_the_interval_is_that_of_the_users() -> None:
    values = [policy_value_from(released(300, 0.0, seed), LAYOUT) for seed in range(16)]
    spread = float(np.std([value.snips.value for value in values]))
    assert np.mean([value.snips.error for value in values]) == pytest.approx(spread, rel=0.5)


def test_where_the_noise_leaves_nothing_no_value_is_claimed() -> None:
    value = policy_value_from(NoisySum(np.zeros(DIMENSION, np.int64), 10, (50 * SCALE) ** 2, 1.0), LAYOUT)
    assert value.ips.error == value.snips.error == value.doubly_robust.error == math.inf


def test_a_sum_of_something_else_is_refused() -> None:
    with pytest.raises(ContributionError):
        policy_value_from(NoisySum(np.zeros(DIMENSION + 1, np.int64), 10, 1, 1.0), LAYOUT)
    with pytest.raises(ContributionError):
        policy_value_from(NoisySum(np.zeros(DIMENSION, np.int64), 10, 1, 0.5), LAYOUT)
