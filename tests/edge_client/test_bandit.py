"""The bandit: exact propensities, masks that nothing gets through, updates that stay sound, rewards late or never."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.decide.bandit import Bandit, Exploration
from edge_client.decide.pending_rewards import MAX_PENDING, Pending, PendingRewards
from shared_models.bandit_prior import BanditPrior
from shared_models.errors import DecisionError

NAMES = tuple(f"f{number}" for number in range(6))
EXPLORATIONS = (
    Exploration("greedy", floor=0.1),
    Exploration("greedy", floor=0.0),
    Exploration("thompson", spread=1.0, floor=0.2),
    Exploration("thompson", spread=0.3, floor=0.0),
)


def prior(spread: float = 0.5) -> BanditPrior:
    return BanditPrior.wide(NAMES, reward_low=-1.0, reward_high=1.0, spread=spread)


def bandit(exploration: Exploration | None = None, seed: int = 0, **options: float) -> Bandit:
    return Bandit(prior(), exploration, random=np.random.default_rng(seed), **options)


def actions(count: int = 5, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, len(NAMES)))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(EXPLORATIONS),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.integers(0, 1000),
    st.floats(0.0, 1.0),
)
def test_what_is_forbidden_has_probability_exactly_zero(
    exploration: Exploration, permitted: list[bool], sensitive: list[bool], seed: int, most: float
) -> None:
    exploration = Exploration(exploration.kind, exploration.spread, exploration.floor, most)
    policy, features = bandit(exploration, seed), actions(5, seed)
    allowed, guarded = np.array(permitted), np.array(sensitive)
    if not allowed.any():
        for ask in (policy.choose, policy.probabilities):
            with pytest.raises(DecisionError, match="nothing to choose"):
                ask(features, allowed, guarded)
        return
    probabilities = policy.probabilities(features, allowed, guarded)
    assert (probabilities[~allowed] == 0.0).all()
    assert probabilities.sum() == pytest.approx(1.0)
    best = int(np.where(allowed, policy.expected(features), -np.inf).argmax())
    explored = guarded & (np.arange(5) != best)
    assert probabilities[explored].sum() <= most + 1e-12
    for slots in (1, 5):
        chosen = policy.choose_slots(features, slots, allowed, guarded)
        assert all(allowed[choice.action] and choice.propensity > 0.0 for choice in chosen)
        assert len({choice.action for choice in chosen}) == len(chosen) == min(slots, int(allowed.sum()))
    assert allowed[policy.choose(features, allowed).action]


@pytest.mark.parametrize("exploration", EXPLORATIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_inverse_propensities_are_unbiased_for_every_action(exploration: Exploration, masked: bool) -> None:
    """E[1{A = a} / propensity] = 1 for each action that can be chosen: what IPS needs, in the short way and the long one."""
    policy, features = bandit(exploration), actions(4)
    allowed = np.array([True, True, False, True]) if masked else None
    reachable = np.ones(4, bool) if allowed is None else allowed
    seen, squares, rounds = np.zeros(4), np.zeros(4), 20_000
    for _ in range(rounds):
        choice = policy.choose(features, allowed)
        seen[choice.action] += 1.0 / choice.propensity
        squares[choice.action] += 1.0 / choice.propensity**2
    if exploration.floor:
        error = np.sqrt(squares / rounds) / math.sqrt(rounds)
        assert (np.abs(seen / rounds - 1.0)[reachable] < 5.0 * error[reachable]).all()
    assert not seen[~reachable].any()


def test_the_long_way_chooses_as_often_as_it_says() -> None:
    policy, features = bandit(Exploration("greedy", floor=0.4)), actions(4)
    guarded = np.array([True, True, True, True])
    told = policy.probabilities(features, None, guarded)
    counts = np.bincount([policy.choose(features, None, guarded).action for _ in range(4000)], minlength=4)
    assert counts[told == 0.0].sum() == 0
    assert counts / 4000 == pytest.approx(told, abs=0.04)


def test_propensities_of_slots_multiply_to_that_of_the_list() -> None:
    policy, features = bandit(Exploration("greedy", floor=0.5)), actions(3)
    lists: dict[tuple[int, ...], int] = {}
    told: dict[tuple[int, ...], float] = {}
    for _ in range(6000):
        chosen = policy.choose_slots(features, 2)
        key = tuple(choice.action for choice in chosen)
        lists[key] = lists.get(key, 0) + 1
        told[key] = math.prod(choice.propensity for choice in chosen)
    assert sum(told.values()) == pytest.approx(1.0)
    for key, count in lists.items():
        assert count / 6000 == pytest.approx(told[key], abs=0.03)


def test_updates_equal_bayesian_regression() -> None:
    policy, rows = bandit(), actions(40)
    rewards = np.clip(rows @ np.linspace(-0.3, 0.3, len(NAMES)), -1.0, 1.0)
    for row, reward in zip(rows, rewards, strict=True):
        policy.learn(row, float(reward))
    noise = policy.prior.noise_variance
    precision = np.linalg.inv(policy.prior.covariance) + rows.T @ rows / noise
    assert policy.covariance == pytest.approx(np.linalg.inv(precision), abs=1e-9)
    assert policy.mean == pytest.approx(np.linalg.solve(precision, rows.T @ rewards / noise), abs=1e-9)


def test_many_nearly_equal_updates_leave_a_covariance_that_is_one() -> None:
    policy = bandit(half_life_s=1e6)
    row = actions(1)[0] * 1e3
    for step in range(5000):
        policy.learn(row * (1.0 + 1e-9 * step), 1.0, noise_variance=1e-8)
    values = np.linalg.eigvalsh(policy.covariance)
    assert np.isfinite(policy.mean).all()
    assert values.min() >= -1e-15
    assert float(row @ policy.mean) == pytest.approx(1.0, abs=1e-3)
    policy.forget(1e-3)
    assert np.isfinite(policy.covariance).all()
    assert float(row @ policy.mean) == pytest.approx(1.0, abs=1e-3)


def test_forgetting_goes_back_to_the_prior_and_not_beyond() -> None:
    policy = bandit(half_life_s=100.0)
    for row in actions(30):
        policy.learn(row, 0.8)
    learned, sure = policy.mean, policy.covariance
    policy.forget(100.0)
    assert policy.mean == pytest.approx(learned / 2.0)
    assert policy.covariance == pytest.approx(0.25 * sure + 0.75 * policy.prior.covariance)
    policy.forget(-50.0)
    policy.forget(0.0)
    assert policy.mean == pytest.approx(learned / 2.0)
    policy.forget(1e9)
    assert policy.mean == pytest.approx(policy.prior.mean, abs=1e-12)
    assert policy.covariance == pytest.approx(policy.prior.covariance, abs=1e-12)


def test_a_reward_outside_its_range_weighs_no_more_than_the_range_allows() -> None:
    honest, hostile = bandit(), bandit()
    honest.learn(actions(1)[0], 1.0)
    hostile.learn(actions(1)[0], 1e12)
    assert hostile.mean == pytest.approx(honest.mean)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_one_typed_error_and_changes_nothing(value: float) -> None:
    policy, features = bandit(Exploration("thompson", floor=0.0)), actions()
    before = policy.document()
    spoiled = features.copy()
    spoiled[3, 2] = value
    for step in (
        lambda: policy.choose(spoiled),
        lambda: policy.choose_slots(spoiled, 2),
        lambda: policy.probabilities(spoiled),
        lambda: policy.expected(spoiled),
        lambda: policy.learn(spoiled[3], 0.1),
        lambda: policy.learn(features[0], value),
        lambda: policy.learn(features[0] * 1e300, 0.1),
    ):
        with pytest.raises(DecisionError):
            step()
    with pytest.raises(DecisionError):
        policy.forget(math.nan)
    assert policy.document() == before


@pytest.mark.parametrize(
    "features",
    [
        None,
        [[0.0] * 6],
        np.zeros(6),
        np.zeros((0, 6)),
        np.zeros((2, 5)),
        np.full((2, 6), "x"),
        np.zeros((1, 6), object),
    ],
)
def test_what_is_no_table_of_features_is_refused(features: object) -> None:
    with pytest.raises(DecisionError):
        bandit().choose(features)  # type: ignore[arg-type]


def test_masks_of_another_kind_are_refused() -> None:
    for mask in (np.ones(4, bool), np.ones(5), [True] * 5):
        with pytest.raises(DecisionError):
            bandit().choose(actions(), mask)  # type: ignore[arg-type]
    for slots in (0, -1, 10**6, 1.5, True):
        with pytest.raises(DecisionError):
            bandit().choose_slots(actions(), slots)  # type: ignore[arg-type]
    for wrong in ({"kind": "ucb"}, {"floor": 1.5}, {"floor": math.nan}, {"spread": -1.0}, {"sensitive_most": "all"}):
        with pytest.raises(DecisionError):
            Exploration(**wrong)  # type: ignore[arg-type]


def test_a_kept_state_goes_on_where_it_was() -> None:
    policy, other = bandit(), bandit(seed=5)
    for row in actions(8):
        policy.learn(row, 0.4)
    other.restore(policy.document())
    assert (other.mean == policy.mean).all()
    assert (other.covariance == policy.covariance).all()
    assert other.updates == 8
    for spoiled in (
        {},
        {**policy.document(), "format": 2},
        {**policy.document(), "mean": "AAAA"},
        {**policy.document(), "root": policy.document()["mean"]},
        {**policy.document(), "mean": 3},
        {**policy.document(), "updates": -1},
    ):
        with pytest.raises(DecisionError):
            other.restore(spoiled)
    assert (other.mean == policy.mean).all()


def waiting(key: str = "a", at: float = 100.0) -> Pending:
    return Pending(key, np.zeros(2), 0.5, at)


def test_a_late_reward_counts_once_within_its_window() -> None:
    pending = PendingRewards(window_s=60.0)
    for number in range(3):
        pending.add(waiting(f"d{number}"))
    settled = pending.reward("d0", 1.0, 130.0)
    assert settled is not None
    assert (settled.reward, settled.waited_s, settled.by_silence) == (1.0, 30.0, False)
    assert pending.reward("d0", 1.0, 131.0) is None
    assert pending.reward("d1", 1.0, 161.0) is None
    assert pending.reward("never", 1.0, 130.0) is None
    with pytest.raises(DecisionError):
        pending.reward("d2", math.nan, 130.0)
    assert pending.reward("d2", -1.0, 160.0) is not None


def test_silence_is_missing_unless_the_app_says_what_it_means() -> None:
    quiet, declared = PendingRewards(window_s=60.0), PendingRewards(window_s=60.0, silence=-0.2)
    for pending in (quiet, declared):
        pending.add(waiting("old", 0.0))
        pending.add(waiting("new", 100.0))
    assert quiet.expire(110.0) == []
    assert (quiet.missing, len(quiet)) == (1, 1)
    (settled,) = declared.expire(110.0)
    assert (settled.decision.key, settled.reward, settled.by_silence) == ("old", -0.2, True)
    assert (declared.missing, len(declared)) == (0, 1)


def test_decisions_that_wait_are_bounded_and_survive_a_restart() -> None:
    pending = PendingRewards()
    for number in range(MAX_PENDING + 5):
        pending.add(waiting(f"d{number}"))
    assert (len(pending), pending.missing) == (MAX_PENDING, 5)
    again = PendingRewards()
    again.restore(pending.document())
    assert (len(again), again.missing) == (MAX_PENDING, 5)
    assert again.reward("d7", 0.5, 101.0) is not None
    for spoiled in ({}, {"waiting": [[1]], "missing": 0}, {"waiting": [["k", [math.nan], 0.5, 1.0, ""]], "missing": 0}):
        with pytest.raises(DecisionError):
            again.restore(spoiled)
    for wrong in (waiting(""), Pending("p", np.zeros(1), 0.0, 1.0), Pending("q", np.array([math.inf]), 1.0, 1.0)):
        with pytest.raises(DecisionError):
            again.add(wrong)
