"""The value of a session: equals the one-step reward at discount 0, sees what comes later otherwise, and never runs away."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_client.decide.session_value import Step, TemporalDifference, fitted_q
from shared_models.errors import DecisionError

# One-hot features: in state 0 `grab` pays 1 and ends the session, `wait` pays 0 and leads to state 1, where `take` pays 3.
GRAB, WAIT, TAKE = np.eye(3)
STEPS = [Step(GRAB, 1.0, None), Step(WAIT, 0.0, np.array([TAKE])), Step(TAKE, 3.0, None)] * 50


def test_without_a_discount_it_is_the_one_step_reward() -> None:
    assert fitted_q(STEPS, discount=0.0, ridge=1e-6) == pytest.approx([1.0, 0.0, 3.0], abs=1e-3)


def test_with_one_it_knows_what_waiting_is_worth() -> None:
    assert fitted_q(STEPS, discount=0.9, ridge=1e-6) == pytest.approx([1.0, 2.7, 3.0], abs=1e-3)


def test_learning_step_by_step_comes_to_the_same() -> None:
    learner = TemporalDifference(np.zeros(3), discount=0.9, rate=0.5)
    for _ in range(20):
        for step in STEPS:
            learner.learn(step)
    assert learner.weights == pytest.approx([1.0, 2.7, 3.0], abs=1e-2)


def test_what_was_not_seen_stays_where_it_started() -> None:
    start = np.array([0.5, 0.5, 0.5])
    weights = fitted_q(STEPS[:1], discount=0.9, start=start)
    assert weights[1:] == pytest.approx(start[1:])


def test_values_that_run_away_are_an_error_and_not_a_policy() -> None:
    """Baird-like: the same features on both sides with a larger copy ahead."""
    steps = [Step(np.array([1.0]), 1.0, np.array([[2.0]]))] * 10
    with pytest.raises(DecisionError, match="run away"):
        fitted_q(steps, discount=0.99, ridge=1e-6, iterations=500)


def test_hostile_steps_are_one_typed_error() -> None:
    for features, reward, following in (
        (np.array([math.nan]), 0.0, None),
        (np.array([1.0]), math.inf, None),
        (np.array([1.0]), 0.0, np.array([[math.inf]])),
        (np.array([1.0]), 0.0, np.zeros((2, 2))),
        ([1.0], 0.0, None),
        (np.zeros(0), 0.0, None),
    ):
        with pytest.raises(DecisionError):
            Step(features, reward, following)  # type: ignore[arg-type]
    with pytest.raises(DecisionError):
        fitted_q([], discount=0.5)
    for discount in (1.0, -0.1, math.nan):
        with pytest.raises(DecisionError):
            fitted_q(STEPS, discount=discount)
    with pytest.raises(DecisionError):
        fitted_q(STEPS, discount=0.5, start=np.zeros(2))
    learner = TemporalDifference(np.zeros(3), discount=0.5)
    with pytest.raises(DecisionError):
        learner.learn(Step(np.ones(2), 0.0, None))
    with pytest.raises(DecisionError):
        TemporalDifference(np.zeros(3), discount=0.5, rate=0.0)
