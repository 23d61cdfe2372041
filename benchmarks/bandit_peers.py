"""The bandit's peers on Jester's cold start and on the clock: popularity, Vowpal Wabbit, MABWiser. No `run` here.

Both libraries are warm-started from the raw ratings of the known users, which is not private, and given the same examples: a
joke, its rating, and as context the ratings that the user had given before. So they can tell users apart, which item features
alone would not. Their settings are plausible ones and were not tuned.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

EXAMPLES_PER_USER = 8
LONGEST_HISTORY = 29
Scorer = Callable[[np.ndarray], np.ndarray]
"""Ratings given so far [users, items], NaN where none → scores [users, items]."""


def examples(known: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histories [n, items] with NaN, the joke that came next [n], its rating [n]."""
    random = np.random.default_rng([seed, 11])
    histories, items, ratings = [], [], []
    for row in known:
        seen = np.flatnonzero(~np.isnan(row))
        for _ in range(EXAMPLES_PER_USER):
            order = random.permutation(seen)
            history = np.full(len(row), np.nan)
            past = order[1 : 1 + int(random.integers(0, LONGEST_HISTORY + 1))]
            history[past] = row[past]
            histories.append(history)
            items.append(order[0])
            ratings.append(row[order[0]])
    return np.array(histories), np.array(items), np.array(ratings)


def popularity(known: np.ndarray) -> Scorer:
    mean = np.nanmean(known, axis=0)
    return lambda history: np.tile(mean, (len(history), 1))


def vowpal_wabbit(known: np.ndarray, seed: int) -> Scorer:
    """Greedy on a linear model of joke and joke × rating so far (`-q ih`), three passes over the examples."""
    import vowpalwabbit

    workspace = vowpalwabbit.Workspace("--quiet -q ih -b 18 --l2 1e-7")
    histories, items, ratings = examples(known, seed)
    for _ in range(3):
        for history, item, rating in zip(histories, items, ratings, strict=True):
            workspace.learn(f"{rating:.3f} |i j{item} |h {_sparse(history)}")

    def scores(history: np.ndarray) -> np.ndarray:
        found = np.full(history.shape, -np.inf)
        for row, past in enumerate(history):
            context = _sparse(past)
            for item in np.flatnonzero(np.isnan(past)):
                found[row, item] = workspace.predict(f"|i j{item} |h {context}")
        return found

    return scores


def mabwiser(known: np.ndarray, seed: int) -> Scorer:
    """LinUCB (alpha 0.3) with a ridge regression on the ratings so far for each joke."""
    from mabwiser.mab import MAB, LearningPolicy

    count = known.shape[1]
    policy = MAB(list(range(count)), LearningPolicy.LinUCB(alpha=0.3, l2_lambda=10.0), seed=seed)
    histories, items, ratings = examples(known, seed)
    policy.fit(items.tolist(), ratings.tolist(), _dense(histories))

    def scores(history: np.ndarray) -> np.ndarray:
        found = policy.predict_expectations(_dense(history))
        rows = found if isinstance(found, list) else [found]
        return np.array([[row[item] for item in range(count)] for row in rows])

    return scores


def rewards_of(scorer: Scorer, fresh: np.ndarray, rounds: int) -> np.ndarray:
    """[users, rounds]: ratings of the jokes that the scorer shows one after the other, each once, among those rated."""
    history = np.full(fresh.shape, np.nan)
    found = np.zeros((len(fresh), rounds))
    everyone = np.arange(len(fresh))
    for number in range(rounds):
        scores = np.where(np.isnan(fresh) | ~np.isnan(history), -np.inf, scorer(history))
        shown = scores.argmax(axis=1)
        found[:, number] = history[everyone, shown] = fresh[everyone, shown]
    return found


def vowpal_wabbit_decision_us(features: np.ndarray) -> float:
    """One decision of `--cb_explore_adf`, examples parsed before; microseconds, best of many batches."""
    import vowpalwabbit

    workspace = vowpalwabbit.Workspace("--quiet --cb_explore_adf --epsilon 0.05")
    lines = ["|a " + " ".join(f"{place}:{value:.5f}" for place, value in enumerate(row)) for row in features]
    workspace.learn([f"0:0.5:0.1 {lines[0]}", *lines[1:]])
    parsed = workspace.parse(lines, vowpalwabbit.LabelType.CONTEXTUAL_BANDIT)
    return best_us(lambda: workspace.predict(parsed), 100)


def mabwiser_decision_us(features: np.ndarray) -> float:
    """One LinTS decision; its arms share a context, so the work is the same: a draw and a product for each of the arms."""
    from mabwiser.mab import MAB, LearningPolicy

    arms, size = features.shape
    policy = MAB(list(range(arms)), LearningPolicy.LinTS(alpha=0.3), seed=1)
    random = np.random.default_rng(0)
    policy.fit(
        [row % arms for row in range(4 * arms)],
        random.standard_normal(4 * arms).tolist(),
        random.standard_normal((4 * arms, size)),
    )
    context = features[:1]
    return best_us(lambda: policy.predict(context), 3, repeats=10)


def best_us(step: Callable[[], object], number: int, *, repeats: int = 200) -> float:
    """Microseconds of one call: the best batch of many, since the machine may do other work."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(number):
            step()
        best = min(best, time.perf_counter() - started)
    return best / number * 1e6


def _sparse(history: np.ndarray) -> str:
    return " ".join(f"{item}:{history[item] / 10.0:.3f}" for item in np.flatnonzero(~np.isnan(history)))


def _dense(history: np.ndarray) -> np.ndarray:
    return np.c_[np.ones(len(history)), np.nan_to_num(history) / 10.0]
