"""Off-policy evaluation: unbiased where it says so, bounded in what leaves the device, right after the noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.decide.policy_value import Log, policy_value
from edge_client.share.contributions import policy_value_sums
from shared_models.errors import ConfigError, DecisionError, WireError
from shared_models.policy_value import DIMENSION, ValueLayout

TRUE_REWARDS = np.array([0.1, 0.6, -0.3])
LOGGING = np.array([0.6, 0.3, 0.1])
TARGET = np.array([0.1, 0.8, 0.1])


def log_of(count: int, seed: int = 0, *, model: np.ndarray | None = None) -> Log:
    random = np.random.default_rng(seed)
    action = random.choice(3, count, p=LOGGING)
    reward = TRUE_REWARDS[action] + 0.2 * random.standard_normal(count)
    guess = np.zeros(3) if model is None else model
    return Log(LOGGING[action], TARGET[action], reward, guess[action], np.full(count, float(TARGET @ guess)))


def test_all_estimators_find_the_value_of_a_policy_that_was_never_in_force() -> None:
    truth = float(TARGET @ TRUE_REWARDS)
    value = policy_value(log_of(20_000, model=TRUE_REWARDS + 0.1))
    assert value.ips == pytest.approx(truth, abs=4 * value.ips_error)
    assert value.snips == pytest.approx(truth, abs=4 * value.snips_error)
    assert value.doubly_robust == pytest.approx(truth, abs=4 * value.doubly_robust_error)
    # A model that is nearly right saves most of the variance.
    assert value.doubly_robust_error < 0.8 * value.ips_error
    assert value.effective < value.decisions


def test_ips_is_unbiased_and_its_error_covers_the_truth() -> None:
    truth = float(TARGET @ TRUE_REWARDS)
    values = [policy_value(log_of(300, seed, model=TRUE_REWARDS)) for seed in range(300)]
    for name in ("ips", "doubly_robust"):
        found = np.array([getattr(value, name) for value in values])
        assert found.mean() == pytest.approx(truth, abs=4 * found.std() / math.sqrt(len(found)))
    covered = [abs(value.ips - truth) <= 1.96 * value.ips_error for value in values]
    assert 0.9 <= np.mean(covered) <= 0.99


def test_doubly_robust_without_a_model_is_ips() -> None:
    value = policy_value(log_of(200))
    assert value.doubly_robust == pytest.approx(value.ips)


def test_a_policy_without_support_has_no_snips() -> None:
    log = Log(np.full(3, 0.5), np.zeros(3), np.ones(3), np.zeros(3), np.zeros(3))
    value = policy_value(log)
    assert (value.ips, value.snips, value.snips_error, value.effective) == (0.0, 0.0, math.inf, 0.0)


def test_logs_that_cannot_be_true_are_refused() -> None:
    good = [np.full(3, 0.5)] * 5
    for place, wrong in (
        (0, np.array([0.5, 0.0, 0.5])),
        (0, np.array([0.5, 1.5, 0.5])),
        (0, np.array([0.5, math.nan, 0.5])),
        (1, np.array([0.5, -0.1, 0.5])),
        (2, np.array([0.5, math.inf, 0.5])),
        (2, np.zeros(2)),
        (3, [0.0, 0.0, 0.0]),
        (4, np.full(3, "x")),
        (4, np.zeros((3, 1))),
    ):
        columns: list[object] = list(good)
        columns[place] = wrong
        with pytest.raises(DecisionError):
            Log(*columns)  # type: ignore[arg-type]
    empty = Log(*[np.zeros(0)] * 5)
    with pytest.raises(DecisionError):
        policy_value(empty)
    with pytest.raises(DecisionError):
        policy_value(Log(*good), most_weight=0.0)
    assert not policy_value_sums.compute(ValueLayout(-1.0, 1.0), empty).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 120), st.integers(0, 10_000), st.floats(1.0, 1e12), st.floats(1e-12, 1.0))
def test_what_leaves_a_device_is_bounded_whatever_its_log_holds(
    count: int, seed: int, size: float, propensity: float
) -> None:
    random = np.random.default_rng(seed)
    columns = [random.standard_normal(count) * size for _ in range(3)]
    log = Log(np.full(count, propensity), random.random(count), *columns)
    vector = policy_value_sums.compute(ValueLayout(-1.0, 1.0, most_decisions=40), log)
    assert vector.shape == (DIMENSION,)
    assert np.linalg.norm(vector) <= policy_value_sums.CLIP_NORM + 1e-12


def test_a_layout_travels_and_says_what_is_wrong_with_it() -> None:
    layout = ValueLayout(0.0, 5.0, 30, 4.0)
    assert ValueLayout.from_document(layout.document()) == layout
    for wrong in (None, {}, {**layout.document(), "most_weight": math.nan}, {**layout.document(), "extra": 1}):
        with pytest.raises(WireError):
            ValueLayout.from_document(wrong)
    for arguments in ((1.0, 0.0), (0.0, 1.0, 0), (0.0, 1.0, 5, 0.5), (0.0, 1.0, True), ("a", 1.0)):
        with pytest.raises(ConfigError):
            ValueLayout(*arguments)  # type: ignore[arg-type]
