"""From users' decisions through real gates to a prior: bounds, what a sum means, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.releases import bandit_prior as release
from edge_client.share.contributions import bandit_moments
from privacy.clipping import SQUARED_SENSITIVITY, clip_l2, discretise, from_ring
from privacy.mechanisms import NoisySum, TrustedSum
from shared_models.bandit_prior import BanditPrior, BlockWeights, MomentLayout, pack_symmetric, unpack_symmetric
from shared_models.errors import ConfigError, ContributionError, WireError
from shared_models.wire import SCALE

sys.path.insert(0, str(Path(__file__).parents[1] / "privacy"))

ITEMS = tuple(f"item{number}" for number in range(12))


def layout(*, indicators: bool = True, second: bool = True, names: tuple[str, ...] = ITEMS) -> MomentLayout:
    weights = BlockWeights() if second else release.FIRST_WEIGHTS
    return MomentLayout.plain(names, indicators=indicators, reward_low=-1.0, reward_high=1.0, weights=weights)


def summed(plan: MomentLayout, vectors: list[np.ndarray], multiplier: float = 0.0, seed: int = 0) -> NoisySum:
    """As the gate makes integers, with rounded normals for the noise."""
    total = sum(discretise(clip_l2(vector, bandit_moments.CLIP_NORM)).values for vector in vectors)
    variance = int((multiplier * SCALE) ** 2) if multiplier else 1
    noise = np.rint(np.random.default_rng(seed).standard_normal(plan.dimension) * np.sqrt(variance)).astype(np.int64)
    return NoisySum(total + noise, len(vectors), variance, bandit_moments.CLIP_NORM)


def item_users(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Users with tastes from a known prior over ITEMS, each with rewards for a random part of them."""
    random = np.random.default_rng(seed)
    mean = np.linspace(-0.4, 0.4, len(ITEMS))
    factor = np.concatenate([np.full(6, 0.25), np.full(6, -0.25)])
    covariance = np.outer(factor, factor) + 0.02
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(ITEMS)))
    users = []
    for _ in range(count):
        theta = mean + root @ random.standard_normal(len(ITEMS))
        seen = np.flatnonzero(random.random(len(ITEMS)) < random.choice([0.5, 1.0]))
        rewards = np.clip(theta[seen] + 0.2 * random.standard_normal(len(seen)), -1.0, 1.0)
        users.append((np.eye(len(ITEMS))[seen], rewards))
    return mean, covariance, users


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40),
    st.booleans(),
    st.booleans(),
    st.floats(-1e12, 1e12),
    st.integers(0, 10_000),
)
def test_a_contribution_is_never_longer_than_the_clip_norm(
    count: int, indicators: bool, second: bool, size: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    plan = layout(indicators=indicators, second=second)
    rows = np.eye(12)[random.integers(0, 12, count)] if indicators else random.standard_normal((count, 12))
    vector = bandit_moments.compute(plan, rows, random.standard_normal(count) * size)
    assert vector.shape == (plan.dimension,)
    assert np.linalg.norm(vector) <= bandit_moments.CLIP_NORM + 1e-12
    grid = discretise(clip_l2(vector, bandit_moments.CLIP_NORM)).values
    assert int(np.dot(grid, grid)) <= SQUARED_SENSITIVITY


def test_what_a_device_cannot_contribute_is_one_typed_error() -> None:
    good, rewards = np.eye(12)[:3], np.zeros(3)
    for features, gained in (
        (good[:, :5], rewards),
        (good, rewards[:2]),
        (good * 0.5, rewards),
        (np.where(good == 1.0, np.nan, good), rewards),
        (np.where(good == 1.0, np.inf, good), rewards),
        (good, np.full(3, np.nan)),
        (good, ["a", "b", "c"]),
        ("features", rewards),
        (good.astype(object), rewards),
    ):
        with pytest.raises(ContributionError):
            bandit_moments.compute(layout(), features, gained)  # type: ignore[arg-type]
    assert not bandit_moments.compute(layout(), np.zeros((0, 12)), np.zeros(0)).any()


def two_releases(
    first: MomentLayout, users: list[tuple[np.ndarray, np.ndarray]], *, intercept: int | None = None
) -> BanditPrior:
    """As a fleet learns it: a rough mean, then a release that is centred on it."""
    rough_sum = summed(first, [bandit_moments.compute(first, *user) for user in users], multiplier=2.0)
    rough = release.estimate_mean(release.mean_moments(rough_sum, first), first)
    second = release.centred(first, rough)
    better_sum = summed(second, [bandit_moments.compute(second, *user) for user in users], multiplier=0.2)
    moments = release.mean_moments(better_sum, second)
    return release.prior_from(moments, second, release.estimate_mean(moments, second, rough), intercept=intercept)


def test_the_mean_and_the_covariance_of_the_users_are_found() -> None:
    mean, covariance, users = item_users(3000)
    prior = two_releases(layout(second=False), users)
    assert prior.mean == pytest.approx(mean, abs=0.06)
    off = ~np.eye(12, dtype=bool)
    assert np.corrcoef(prior.covariance[off], covariance[off])[0, 1] > 0.97
    assert np.abs(prior.covariance - covariance)[off].max() < 0.04
    assert prior.noise_variance < 0.2


def test_users_with_nothing_to_tell_change_nothing() -> None:
    """They send zeros, since staying away would say something; the prior is that of the others."""
    _, _, users = item_users(600)
    plan = layout()
    vectors = [bandit_moments.compute(plan, *user) for user in users]
    alone = release.mean_moments(summed(plan, vectors), plan)
    among = release.mean_moments(summed(plan, [*vectors, *[np.zeros(plan.dimension)] * 900]), plan)
    assert among.users == alone.users == 600
    priors = [release.prior_from(moments, plan, release.estimate_mean(moments, plan)) for moments in (alone, among)]
    assert priors[1].mean == pytest.approx(priors[0].mean, abs=2e-3)
    assert priors[1].covariance == pytest.approx(priors[0].covariance, abs=2e-3)


def test_noise_shrinks_a_prior_and_never_breaks_it() -> None:
    """From hardly any users or with overwhelming noise it is still a prior."""
    _, _, users = item_users(20)
    plan = layout()
    vectors = [bandit_moments.compute(plan, *user) for user in users]
    for multiplier in (0.5, 5.0, 500.0):
        for seed in range(5):
            moments = release.mean_moments(summed(plan, vectors, multiplier, seed), plan)
            prior = release.prior_from(moments, plan, release.estimate_mean(moments, plan))
            assert np.isfinite(prior.mean).all()
            assert prior.noise_variance > 0.0
            assert np.linalg.eigvalsh(prior.covariance).min() > 0.0


def test_nobody_who_contributes_anything_still_gives_a_prior() -> None:
    plan = layout()
    moments = release.mean_moments(summed(plan, [np.zeros(plan.dimension)] * 5), plan)
    prior = release.prior_from(moments, plan, release.estimate_mean(moments, plan))
    assert np.isfinite(prior.covariance).all()


def test_a_second_release_centred_on_the_first_comes_closer() -> None:
    mean, _, users = item_users(2000)
    first = layout(second=False)
    vectors = [bandit_moments.compute(first, *user) for user in users]
    rough = release.estimate_mean(release.mean_moments(summed(first, vectors, 12.0), first), first)
    second = release.centred(first, rough)
    assert second.hash != first.hash
    vectors = [bandit_moments.compute(second, *user) for user in users]
    moments = release.mean_moments(summed(second, vectors, 4.0, 1), second)
    better = release.estimate_mean(moments, second, rough)
    assert np.linalg.norm(better.theta + better.level - mean) <= np.linalg.norm(rough.theta + rough.level - mean) + 0.02
    assert (better.variance <= rough.variance).all()
    assert release.prior_from(moments, second, better).features == ITEMS


def test_features_that_are_no_indicators_need_an_intercept_and_give_a_prior() -> None:
    random = np.random.default_rng(3)
    names = ("constant", "warm", "cheap", "far")
    plan = layout(indicators=False, names=names)
    mean, root = np.array([0.1, 0.3, -0.2, 0.0]), np.diag([0.1, 0.25, 0.05, 0.05])
    users = []
    for _ in range(1500):
        rows = np.c_[np.ones(60), random.choice([-1.0, 1.0], (60, 3))] / 2.0
        theta = 2.0 * (mean + root @ random.standard_normal(4))
        users.append((rows, rows @ theta + 0.1 * random.standard_normal(60)))
    with pytest.raises(ContributionError, match="intercept"):
        two_releases(plan, users)
    prior = two_releases(plan, users, intercept=0)
    # The constant is 1/2 here, so a level of 1 is a weight of 2; the others are found as they are.
    assert prior.mean[1:] == pytest.approx(2.0 * mean[1:], abs=0.08)
    assert np.diag(prior.covariance)[1:].argmax() == 0


def test_a_sum_of_another_layout_is_refused() -> None:
    plan = layout()
    other = summed(layout(second=False), [np.zeros(layout(second=False).dimension)])
    with pytest.raises(ContributionError):
        release.mean_moments(other, plan)
    with pytest.raises(ContributionError):
        release.mean_moments(NoisySum(np.zeros(plan.dimension, np.int64), 5, 1, 2.0), plan)
    first = layout(second=False)
    moments = release.mean_moments(summed(first, [np.zeros(first.dimension)]), first)
    with pytest.raises(ContributionError, match="second"):
        release.prior_from(moments, first, release.estimate_mean(moments, first))


def test_a_layout_travels_and_says_what_is_wrong_with_it() -> None:
    plan = layout()
    assert MomentLayout.from_document(plan.document()).hash == plan.hash
    document = plan.document()
    for wrong in (
        {},
        None,
        {**document, "features": []},
        {**document, "features": ["a", "a"]},
        {**document, "features": ITEMS[0]},
        {**document, "center": [0.0]},
        {**document, "center": [float("nan")] * 12},
        {**document, "moment_least": -1.0},
        {**document, "moment_least": "long"},
        {**document, "level": 5.0},
        {**document, "reward_low": 1.0, "reward_high": -1.0},
        {**document, "weights": [0.0] * 4},
        {**document, "weights": [1.0]},
        {**document, "indicators": "yes"},
    ):
        with pytest.raises(WireError):
            MomentLayout.from_document(wrong)
    with pytest.raises(ConfigError):
        BlockWeights(gram=float("inf"))


def test_symmetric_matrices_keep_their_norm_when_packed() -> None:
    matrix = np.random.default_rng(0).standard_normal((7, 7))
    matrix = matrix + matrix.T
    assert unpack_symmetric(pack_symmetric(matrix), 7) == pytest.approx(matrix)
    assert np.linalg.norm(pack_symmetric(matrix)) == pytest.approx(np.linalg.norm(matrix))


def test_real_gates_carry_it_in_a_trusted_sum() -> None:
    """Consent, policy, budget and clipping are those of any contribution; the noise is exact and of the plan's size."""
    from privacy_world import World, contribution_of, policy_document, signed_plan

    document = policy_document()
    plan_layout = layout()
    contribution_of(document).update(
        {"clip_norm": bandit_moments.CLIP_NORM, "noise_multiplier": 4.0, "max_dimension": plan_layout.dimension + 64}
    )
    total, mask = None, 0
    _, _, users = item_users(4)
    for features, rewards in users:
        device = World(document)
        plan = device.plan(dimension=plan_layout.dimension, model_hash=plan_layout.hash)
        total = total or TrustedSum(plan)
        sealed = device.gate.seal(
            signed_plan(plan),
            lambda accepted, features=features, rewards=rewards: bandit_moments.compute(plan_layout, features, rewards),
            model_hash=plan_layout.hash,
            encoder_hash=plan.encoder_hash,
        )
        integers = from_ring(sealed.values)
        mask += integers
        assert int(np.dot(integers, integers)) <= SQUARED_SENSITIVITY
        total.add(sealed.values)
    assert total is not None
    noisy = total.release()
    spread = float(np.std(noisy.values - mask)) / np.sqrt(noisy.noise_variance)
    assert 0.7 < spread < 1.3
    moments = release.mean_moments(noisy, plan_layout)
    assert 0 <= moments.users <= 4
