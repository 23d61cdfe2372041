"""What a noisy sum of `bandit_moments` means: the population's prior over reward weights. All of it is post-processing.

One release gives a prior; two are better at small budgets: the first, cheap one (`second` = 0) tells the mean, and the second is
then centred on it and looks hardest at the features that pay (`focused`). What each costs is the plan's; they add in ρ.

The covariance is the positive semi-definite S that fits  E[f fᵀ] · energy ≈ W S Wᵀ  with a nuclear-norm penalty in proportion to
the known noise, so that directions below the noise are left out (Cai, Candès, Shen 2010). f is the users' unit moment, W their
mean Gram; of indicators, W S Wᵀ is taken pair by pair. For other features every user's Gram is taken for the mean one, which
holds when contexts are alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from privacy.mechanisms import NoisySum
from shared_models.bandit_prior import (
    LEVEL_MOST,
    SCALARS,
    SQUARE_MOST,
    BanditPrior,
    BlockWeights,
    FloatArray,
    MomentLayout,
    unpack_symmetric,
)
from shared_models.errors import ContributionError
from shared_models.wire import SCALE

NAME = "bandit_moments"
VERSION = 1
PURPOSE = "suggestion-model"
FIRST_WEIGHTS = BlockWeights(gram=0.5, mean=1.0, second=0.0, scalars=0.3)
"""For a release that is about the mean alone."""
FIRST_SHARE = 0.1
"""Part of ρ for the first of two releases."""
PENALTY = 0.5
"""Of the nuclear norm, in units of the noise's expected spectral norm."""
MOMENT_LEAST = 0.7
"""Of the root mean square, for `MomentLayout.moment_least`: longer moments are cut, which bounds what one user weighs."""
STEPS = 80
LEAST_TELLING = 0.02
"""No smaller part of the users is believed to have something to tell."""


@dataclass(frozen=True, eq=False)
class MeanMoments:
    """Mean blocks of one release, with the standard deviation of the noise in each number of a block."""

    gram: FloatArray
    """[d, d]"""
    gram_noise: float
    mean: FloatArray
    """[d], mean of the users' unit moments."""
    mean_noise: float
    second: FloatArray | None
    """[d, d], mean outer product of the unit moments."""
    second_noise: float
    level: float
    """Mean of users' levels less the layout's, in rewards."""
    level_variance: float
    energy: float
    """Mean squared length of a user's moment over that of the Gram, in squared rewards."""
    residual: float
    """Mean squared reward around the user's own level."""
    unit: float
    """What a length of 1 in `mean` and `second` is in rewards."""
    users: int
    """Those with something to tell, about."""


@dataclass(frozen=True, eq=False)
class MeanEstimate:
    """Reward weights of the population, and how uncertain the noise leaves them."""

    theta: FloatArray
    """[d]"""
    variance: FloatArray
    """[d], of the noise before shrinkage."""
    level: float
    rms: float
    """Root mean square of users' moments, in rewards."""


def mean_moments(release: NoisySum, layout: MomentLayout) -> MeanMoments:
    """Take a released sum apart. Raises ContributionError if it is not of this layout."""
    if release.values.shape != (layout.dimension,):
        raise ContributionError(
            f"a sum of shape {release.values.shape} came, the layout has {layout.dimension} numbers"
        )
    if release.clip_norm != 1.0:
        raise ContributionError(f"moments are of clip norm 1, the sum is of {release.clip_norm}")
    mean = release.mean()
    noise = math.sqrt(release.noise_variance) / SCALE / release.survivors
    # Means over those who have something to tell: the others sent zeros, so that their silence says nothing.
    place = sum(layout.block_sizes[:3])
    telling = mean[place] / layout.block_factors[3] * math.sqrt(SCALARS)
    telling = min(max(float(telling), LEAST_TELLING), 1.0)
    mean, noise = mean / telling, noise / telling
    blocks, noises, start = [], [], 0
    for size, factor in zip(layout.block_sizes, layout.block_factors, strict=True):
        blocks.append(mean[start : start + size] / factor if size else np.zeros(0))
        noises.append(noise / factor if factor else 0.0)
        start += size
    count, half = len(layout.features), layout.half_range
    gram = np.diag(blocks[0]) if layout.indicators else unpack_symmetric(blocks[0], count)
    _, level, level_square, energy, residual, length = (blocks[3] * math.sqrt(SCALARS)).tolist()
    level, level_square = level * LEVEL_MOST, level_square * LEVEL_MOST**2
    energy, residual = energy * SQUARE_MOST, residual * SQUARE_MOST
    least = 1e-6
    return MeanMoments(
        gram=gram,
        gram_noise=noises[0],
        mean=blocks[1],
        mean_noise=noises[1],
        second=unpack_symmetric(blocks[2], count) if layout.weights.second else None,
        second_noise=noises[2],
        level=level * half,
        level_variance=max(level_square - level * level, least) * half * half,
        energy=max(energy, least) * half * half,
        residual=max(residual, least) * half * half,
        unit=math.sqrt(max(energy, least) / min(max(length, 0.05), 1.0)) * half,
        users=round(release.survivors * telling),
    )


def estimate_mean(moments: MeanMoments, layout: MomentLayout, earlier: MeanEstimate | None = None) -> MeanEstimate:
    """Reward weights by ridge; the ridge is the marginal likelihood's best, so that what is mostly noise stays near the center.

    `earlier`: the release that the layout was centred on; both are then weighed by their noise.
    """
    design = _design(moments, layout)
    scale = moments.unit
    theta, noise = _ridge(design, moments.mean * scale, moments.mean_noise * scale)
    if earlier is None:
        return MeanEstimate(layout.center + theta, noise, layout.level + moments.level, math.sqrt(moments.energy))
    share = earlier.variance / (earlier.variance + noise)
    merged = earlier.variance * noise / (earlier.variance + noise)
    return MeanEstimate(layout.center + share * theta, merged, layout.level + moments.level, math.sqrt(moments.energy))


def centred(layout: MomentLayout, estimate: MeanEstimate, weights: BlockWeights | None = None) -> MomentLayout:
    """The layout of a second release, centred on the first one's mean; lengths of moments are kept up to a typical one."""
    level = min(max(estimate.level, layout.reward_low), layout.reward_high)
    least = min(MOMENT_LEAST * estimate.rms, layout.half_range)
    return dataclasses.replace(
        layout, center=estimate.theta, level=level, weights=weights or BlockWeights(), moment_least=least
    )


def prior_from(
    moments: MeanMoments,
    layout: MomentLayout,
    estimate: MeanEstimate,
    *,
    intercept: int | None = None,
    intercept_value: float = 1.0,
    penalty: float = PENALTY,
) -> BanditPrior:
    """The prior. `intercept`: index of the feature that is always the same, `intercept_value`; None for indicators, where a
    level raises all alike.

    Raises ContributionError if the layout had no `second` block or no way to carry the users' level.
    """
    if moments.second is None:
        raise ContributionError("this release has no second moments: no covariance can be made of it")
    count = len(layout.features)
    if intercept is None and not layout.indicators:
        raise ContributionError("features that are no indicators need an intercept, which carries the users' level")
    direction = np.ones(count) if intercept is None else np.eye(count)[intercept] / intercept_value
    design = _design(moments, layout)
    # What is left of the mean in the second moments is no difference between users.
    offset = design @ (estimate.theta - layout.center)
    target = moments.second * moments.unit**2 - np.outer(offset, offset)
    noise = moments.second_noise * moments.unit**2
    if layout.indicators:
        covariance = _fitted_items(np.outer(np.diag(design), np.diag(design)), target, noise, penalty=penalty)
    else:
        covariance = _fitted(design, moments.gram, target, noise, penalty=penalty)
    covariance += moments.level_variance * np.outer(direction, direction)
    mean = estimate.theta + estimate.level * direction
    # No feature varies more than rewards do; and what the weights do not explain is noise.
    total = moments.residual + moments.level_variance
    largest = np.sqrt(np.minimum(1.0, total / np.maximum(np.diag(covariance), 1e-12)))
    covariance = covariance * np.outer(largest, largest)
    weight = np.diag(moments.gram).clip(min=0.0)
    explained = float(weight @ np.diag(covariance) / max(float(weight.sum()), 1e-12))
    least = 0.005 * layout.half_range**2
    covariance += np.eye(count) * max(1e-6 * float(np.trace(covariance)) / count, 1e-9 * layout.half_range**2)
    return BanditPrior(
        layout.features, mean, covariance, max(total - explained, least), layout.reward_low, layout.reward_high
    )


def _design(moments: MeanMoments, layout: MomentLayout) -> FloatArray:
    """W [d, d] with E[users' normalised moment] = W θ; noise in the Gram is shrunk away where it has a direction to go to."""
    if not layout.indicators:
        return moments.gram
    gram, noise = np.diag(moments.gram), moments.gram_noise
    typical = float(gram.mean())
    spread = max(float(gram.var()) - noise**2, 0.02 * typical**2)
    gram = typical + (gram - typical) * spread / (spread + noise**2)
    return np.asarray(np.diag(np.maximum(gram, 0.2 * max(typical, 1e-6))))


def _ridge(design: FloatArray, seen: FloatArray, noise: float) -> tuple[FloatArray, FloatArray]:
    """θ [d] of seen = design θ + N(0, noise²), θ ~ N(0, t²) with t by marginal likelihood; and the noise's variance in θ."""
    left, values, right = np.linalg.svd(design)
    rotated = left.T @ seen
    noise = max(noise, 1e-12)
    inverse = (right.T / np.maximum(values, 1e-3 * values.max())) ** 2
    variance = np.asarray(inverse.sum(axis=1)) * noise**2
    scale = float(np.abs(rotated).max(initial=0.0)) / max(float(values.max()), 1e-12)
    if scale == 0.0:
        return np.zeros(len(seen)), variance
    grid = np.geomspace(1e-3, 10.0, 60) * scale
    spread = np.square(grid)[:, None] * np.square(values)[None] + noise**2
    likelihood = -0.5 * (np.log(spread) + np.square(rotated)[None] / spread).sum(axis=1)
    best = float(grid[int(likelihood.argmax())]) ** 2
    shrunk = values * best / (best * np.square(values) + noise**2)
    return np.asarray(right.T @ (shrunk * rotated)), variance


def _fitted_items(pairs: FloatArray, target: FloatArray, noise: float, *, penalty: float) -> FloatArray:
    """S [d, d] ⪰ 0 that minimises ½Σ_{i≠j}(target − pairs · S)² + penalty · tr S.

    The diagonal of `target` holds also what single rewards add, and is left out.
    """
    largest = float(pairs.max())
    step = 1.0 / largest**2
    # The off-diagonal entries of the noise have standard deviation noise/√2: its spectral norm is √(2d) · noise.
    threshold = step * penalty * largest * noise * math.sqrt(len(pairs) / 2.0)
    mask = 1.0 - np.eye(len(pairs))
    return _proximal(lambda s: pairs * (pairs * s - target) * mask, len(pairs), step, threshold)


def _fitted(design: FloatArray, gram: FloatArray, target: FloatArray, noise: float, *, penalty: float) -> FloatArray:
    """S [d, d] ⪰ 0 that minimises ½‖target − W S Wᵀ − own · Gram‖² + penalty · tr S; `own` ≥ 0: what single rewards add."""
    whole = float(np.linalg.norm(design, 2))
    step = 1.0 / whole**4
    threshold = step * penalty * whole**2 * noise * math.sqrt(len(design) / 2.0)
    square = max(float(np.sum(gram * gram)), 1e-12)

    def gradient(s: FloatArray) -> FloatArray:
        left = target - design @ s @ design.T
        own = max(float(np.sum(gram * left)) / square, 0.0)
        return np.asarray(design.T @ (own * gram - left) @ design)

    return _proximal(gradient, len(design), step, threshold)


def _proximal(gradient: Callable[[FloatArray], FloatArray], count: int, step: float, threshold: float) -> FloatArray:
    """Accelerated proximal gradient over positive semi-definite matrices (Beck, Teboulle 2009)."""
    found = moving = np.zeros((count, count))
    momentum = 1.0
    for _ in range(STEPS):
        values, vectors = np.linalg.eigh(moving - step * gradient(moving))
        after = (vectors * np.maximum(values - threshold, 0.0)) @ vectors.T
        advance = (1.0 + math.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        moving = after + (momentum - 1.0) / advance * (after - found)
        found, momentum = after, advance
    return np.asarray((found + found.T) / 2.0)
