"""From a noisy sum of item Grams to an item space: noise is taken out where it is noise, and tastes are left in."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from aggregator.releases.item_space import (
    NoisyGram,
    choose_head,
    clean_pairs,
    ease,
    mixtures,
    posterior_mean,
    read_gram,
    solve,
    steadied,
)
from aggregator.replica import gate_integers
from edge_client.share.contributions.item_gram import count_vector, gram_vector
from privacy.mechanisms import NoisySum
from shared_models.errors import ConfigError
from shared_models.preference import ItemSpace
from shared_models.wire import SCALE

N = 24
NAMES = [f"item {number}" for number in range(N)]


@functools.cache
def people(count: int = 1500, seed: int = 0) -> np.ndarray:
    """Users × items: four groups of taste, of six items each, some of them popular; a fifth of what they like is any item."""
    random = np.random.default_rng(seed)
    popular = 1.0 / np.arange(1, N // 4 + 1)
    liked = np.zeros((count, N))
    for row in liked:
        group = random.integers(4)
        for _ in range(random.integers(2, 6)):
            inside = group + 4 * random.choice(N // 4, p=popular / popular.sum())
            row[inside if random.random() < 0.8 else random.integers(N)] = 1.0
    return liked


def release(liked: np.ndarray, multiplier: float, weights: np.ndarray | None = None, seed: int = 0) -> NoisySum:
    own = np.ones(liked.shape[1]) if weights is None else weights.reshape(-1).astype(np.float64)
    exact = sum(gate_integers(gram_vector(np.flatnonzero(row), own), 1.0) for row in liked)
    noise = np.rint(np.random.default_rng(seed).normal(size=len(exact)) * multiplier * SCALE)
    return NoisySum((exact + noise).astype(np.int64), len(liked), int((multiplier * SCALE) ** 2), 1.0)


def found_rate(space: ItemSpace, liked: np.ndarray, k: int = 3) -> float:
    """How often a hidden item is among the best `k` of those the user has not had."""
    random = np.random.default_rng(5)
    rows = [row for row in liked if row.sum() >= 3]
    hits = 0
    for row in rows:
        hidden = random.choice(np.flatnonzero(row))
        history = row.copy()
        history[hidden] = 0.0
        scores = space.scores(history[None].astype(np.float32))[0]
        hits += hidden in np.argsort(-scores)[:k]
    return hits / len(rows)


def popular_rate(liked: np.ndarray, learned: np.ndarray) -> float:
    space = solve(read_gram(release(learned, 0.01), choose_head(NAMES)))
    flat = ItemSpace(space.items, space.prior, space.linear * 0, space.odds * 0, space.factors, space.transfer)
    return found_rate(flat, liked)


def test_tastes_are_learned_through_the_noise_of_epsilon_one() -> None:
    learned, others = people(), people(400, seed=9)
    space = solve(read_gram(release(learned, 4.05), choose_head(NAMES)))
    popular, best = (
        popular_rate(others, learned),
        found_rate(solve(read_gram(release(learned, 0.01), choose_head(NAMES))), others),
    )
    assert best > popular + 0.15
    assert found_rate(space, others) > popular + 0.6 * (best - popular)


def test_more_noise_is_never_much_better() -> None:
    others = people(400, seed=9)
    rates = [
        found_rate(solve(read_gram(release(people(), multiplier), choose_head(NAMES))), others)
        for multiplier in (0.6, 8.0, 60.0)
    ]
    assert rates[0] > rates[2]
    assert rates[0] >= rates[1] - 0.02


def test_a_sum_of_noise_alone_still_gives_a_space() -> None:
    nobody = np.zeros((10, N))
    for seed in range(5):
        space = solve(read_gram(release(nobody, 5.0, seed=seed), choose_head(NAMES)))
        assert np.isfinite(space.scores(np.eye(N, dtype=np.float32))).all()


def test_a_sum_without_noise_is_read_exactly() -> None:
    liked = people(200)
    gram = read_gram(NoisySum(release(liked, 0.0).values, 200, 0, 1.0), choose_head(NAMES))
    assert not gram.noise.any()
    weights = 1.0 / np.sqrt([max(d * (d - 1) / 2 + 0.09 * d, 1e-9) if d > 1 else 1.0 for d in liked.sum(axis=1)])
    exact = (liked * weights[:, None]).T @ liked
    assert np.abs(gram.pairs - (exact - np.diag(np.diag(exact)))).max() < 0.02
    assert np.array_equal(clean_pairs(gram)[0], np.maximum(gram.pairs, 0.0))


def test_weights_of_items_are_taken_out_again() -> None:
    weights = np.linspace(0.5, 2.0, N)[:, None].astype(np.float32)
    liked = np.zeros((50, N))
    liked[:, [3, 7]] = 1.0
    head = choose_head(NAMES)
    weighted = type(head)(head.items, weights)
    gram = read_gram(release(liked, 0.01, weights), weighted)
    assert gram.noise[3, 7] == pytest.approx(0.01 / float(weights[3, 0] * weights[7, 0]), rel=1e-3)
    # Both users' counts on one scale: the pair's and the items' weights are equal for all of them.
    assert gram.pairs[3, 7] == pytest.approx(gram.diagonal[3], rel=1e-2)
    assert gram.diagonal[3] == pytest.approx(gram.diagonal[7], rel=1e-2)


def test_cleaning_brings_counts_nearer_to_the_truth() -> None:
    truth = read_gram(NoisySum(release(people(), 0.0).values, 1500, 0, 1.0), choose_head(NAMES)).pairs
    for multiplier in (1.0, 2.0, 8.0):
        noisy = read_gram(release(people(), multiplier), choose_head(NAMES))
        clean, doubt = clean_pairs(noisy)
        assert (doubt >= 0).all()
        assert doubt[np.triu_indices(N, 1)].mean() < multiplier**2
        assert np.array_equal(clean, clean.T)
        assert (clean >= 0).all()
        assert np.square(clean - truth).mean() < 0.85 * np.square(noisy.pairs - truth).mean()


def test_pairs_that_are_all_noise_become_nearly_nothing() -> None:
    random = np.random.default_rng(3)
    noise = np.triu(random.normal(size=(N, N)), 1)
    gram = NoisyGram(tuple(NAMES), np.full(N, 30.0), noise + noise.T, np.ones((N, N)) - np.eye(N))
    clean, _ = posterior_mean(gram, np.full((N, N), 1e-3))
    assert clean.max() < 0.3


def test_row_sums_steady_counts_that_are_mostly_noise() -> None:
    random = np.random.default_rng(4)
    truth = random.uniform(5.0, 50.0, N)
    pairs = np.outer(truth, truth) * 0.05
    np.fill_diagonal(pairs, 0.0)
    noise = np.ones((N, N)) - np.eye(N)
    noisy = truth + 20.0 * random.normal(size=N)
    better = steadied(noisy, np.full(N, 20.0), pairs, noise)
    assert np.abs(better - truth).mean() < 0.5 * np.abs(noisy - truth).mean()
    exact = steadied(truth, np.full(N, 1e-6), pairs, noise)
    assert np.abs(exact - truth).max() < 1e-3


def test_eases_weights_are_those_of_its_paper() -> None:
    liked = people(300)
    gram = liked.T @ liked
    inverse = np.linalg.inv(gram + 10.0 * np.eye(N))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0.0)
    pairs = gram - np.diag(np.diag(gram))
    assert np.allclose(ease(pairs, np.diag(gram), 10.0), expected)


def test_a_small_catalogue_is_paired_whole_and_a_large_one_is_chosen_from_a_paid_release() -> None:
    assert choose_head(NAMES).items == tuple(NAMES)
    with pytest.raises(ConfigError, match="item_counts"):
        choose_head(NAMES, most=10)
    exact = sum(gate_integers(count_vector(np.flatnonzero(row), N), 1.0) for row in people())
    counts = NoisySum((exact + 0).astype(np.int64), 1500, int((9.0 * SCALE) ** 2), 1.0)
    head = choose_head(NAMES, counts, most=10)
    popular = np.argsort(-exact)[:10]
    assert head.items == tuple(NAMES[place] for place in popular)
    assert (np.diff(head.weights[:, 0]) >= 0).all()
    few = NoisySum(counts.values, 1500, int((200.0 * SCALE) ** 2), 1.0)
    assert len(choose_head(NAMES, few).items) == 1


def test_an_item_that_nobody_has_met_stands_with_what_its_features_are_like() -> None:
    learned, others = people(), people(400, seed=9)
    random = np.random.default_rng(6)
    head, cold = NAMES[: N - 4], NAMES[N - 4 :]
    features = np.eye(4)[np.arange(N) % 4] + 0.1 * random.normal(size=(N, 4))
    gram = read_gram(release(learned[:, : N - 4], 2.0), choose_head(head))
    space = solve(gram, features=features, others=cold)
    assert space.items == tuple(NAMES)
    assert np.allclose(space.transfer.sum(axis=1), 1.0, atol=1e-5)
    own, foreign = [], []
    for row in others:
        group = int(np.bincount(np.flatnonzero(row[: N - 4]) % 4, minlength=4).argmax())
        scores = space.scores(row[None, : N - 4].astype(np.float32))[0, N - 4 :]
        own.append(scores[group])
        foreign.append(np.delete(scores, group).mean())
    assert np.mean(np.array(own) > np.array(foreign)) > 0.85


def test_without_features_an_unknown_item_is_like_all_others_and_less_popular() -> None:
    space = solve(read_gram(release(people(200), 1.0), choose_head(NAMES)), others=["new"])
    assert space.prior[-1] < space.prior[:-1].mean()
    assert np.allclose(space.transfer, 1.0 / N)


def test_features_like_nothing_are_like_everything() -> None:
    shares, likeness = mixtures(np.zeros((5, 2)), 3)
    assert np.allclose(shares, 1 / 3)
    assert not likeness.any()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda head: read_gram(NoisySum(np.zeros(9, np.int64), 10, 1, 1.0), head),
        lambda head: choose_head([]),
        lambda head: choose_head(["a", "a"]),
        lambda head: choose_head(NAMES, most=0),
        lambda head: choose_head(NAMES, NoisySum(np.zeros(3, np.int64), 10, 1, 1.0)),
        lambda head: solve(read_gram(release(people(20), 1.0), head), features=np.zeros((3, 2)), others=["new"]),
        lambda head: solve(
            read_gram(release(people(20), 1.0), head), features=np.full((N + 1, 2), np.nan), others=["n"]
        ),
        lambda head: solve(read_gram(release(people(20), 1.0), head), others=[NAMES[0]]),
    ],
)
def test_what_cannot_be_solved_is_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError):
        wrong(choose_head(NAMES))
