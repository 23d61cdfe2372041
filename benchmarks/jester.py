"""Jester as a cold start, shared by the benchmarks of bandit and elicitation: the split, and priors learned from known users.

No `run` here. A prior is learned as a fleet would: each user's contribution is the device's own vector, passed through the gate's
clipping and rounding (aggregator.replica.gate_integers); the sum's noise is rounded normals of the accounted variance, from a
seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aggregator.releases import bandit_prior as release
from aggregator.replica import gate_integers
from benchmarks.harness import Options
from edge_client.share.contributions import bandit_moments
from privacy.accounting import rho_from_epsilon
from privacy.mechanisms import NoisySum
from shared_models.bandit_prior import BanditPrior, BlockWeights, MomentLayout
from shared_models.wire import noise_variance_for

DELTA = 1e-5
LOW, HIGH = -10.0, 10.0


@dataclass(frozen=True, eq=False)
class Split:
    """Users to learn from and users who are new. NaN: not rated."""

    known: np.ndarray
    """[users, items]"""
    fresh: np.ndarray
    """[users, items]"""


def split(options: Options, seed: int) -> Split | None:
    """A fifth of the users is new, drawn by `seed`."""
    path = options.path("preferences/jester.npz", "Jester")
    if path is None:
        return None
    ratings = np.load(path)["ratings"].astype(np.float64)
    order = np.random.default_rng(seed).permutation(len(ratings))
    cut = int(0.8 * len(ratings))
    return Split(ratings[order[:cut]], ratings[order[cut:]])


def item_names(count: int) -> tuple[str, ...]:
    return tuple(f"joke{number}" for number in range(count))


def private_prior(known: np.ndarray, epsilon: float, seed: int, delta: float = DELTA) -> BanditPrior:
    """Two releases, together ε at `delta` by zCDP: a rough mean, then mean and covariance. ε = ∞: no noise."""
    rho = math.inf if math.isinf(epsilon) else rho_from_epsilon(epsilon, delta)
    random = np.random.default_rng([seed, 77])
    first = MomentLayout.plain(
        item_names(known.shape[1]), indicators=True, reward_low=LOW, reward_high=HIGH, weights=release.FIRST_WEIGHTS
    )
    rough = release.estimate_mean(
        release.mean_moments(_sum(known, first, rho * release.FIRST_SHARE, random), first), first
    )
    second = release.centred(first, rough, BlockWeights())
    moments = release.mean_moments(_sum(known, second, rho * (1.0 - release.FIRST_SHARE), random), second)
    return release.prior_from(moments, second, release.estimate_mean(moments, second, rough))


def raw_prior(known: np.ndarray) -> BanditPrior:
    """The not private reference: item means and pairwise covariances of the raw ratings, made positive definite."""
    seen = ~np.isnan(known)
    mean = np.where(seen, known, 0.0).sum(axis=0) / seen.sum(axis=0)
    residual = np.where(seen, known - mean, 0.0)
    pairs = seen.T.astype(np.float64) @ seen
    covariance = residual.T @ residual / np.maximum(pairs, 1.0)
    values, vectors = np.linalg.eigh(covariance)
    cleaned = (vectors * np.maximum(values, 1e-3)) @ vectors.T
    return BanditPrior(item_names(known.shape[1]), mean, cleaned, 5.0, LOW, HIGH)


def _sum(known: np.ndarray, layout: MomentLayout, rho: float, random: np.random.Generator) -> NoisySum:
    eye = np.eye(known.shape[1])
    total = np.zeros(layout.dimension)
    for row in known:
        seen = np.flatnonzero(~np.isnan(row))
        total += gate_integers(bandit_moments.compute(layout, eye[seen], row[seen]), bandit_moments.CLIP_NORM)
    variance = 1 if math.isinf(rho) else noise_variance_for(math.sqrt(1.0 / (2.0 * rho)))
    noise = np.rint(random.standard_normal(layout.dimension) * math.sqrt(variance)) if not math.isinf(rho) else 0.0
    return NoisySum((total + noise).astype(np.int64), len(known), variance, bandit_moments.CLIP_NORM)
