"""What a noisy sum of item Grams means: cleaned, solved and made into an item space. All of it is post-processing of the release.

1. `choose_head`   which items are paired: by a public rule, or from a release of `item_counts`, which is paid for
2. `read_gram`     the release as a symmetric matrix, with the noise of each entry
3. `clean_pairs`   each pair count's posterior mean: empirical Bayes, since most pairs are nearly empty and noise is known exactly
4. `solve`         item-item weights (EASE, Steck 2019), log-odds, item vectors; items outside the head by public side features

EASE's loss is linear in the Gram matrix, so the posterior mean is what it needs: no further penalty for the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.mechanisms import NoisySum
from shared_models.canonical import canonical_bytes
from shared_models.errors import ConfigError
from shared_models.preference import GRAM_DIAGONAL, MAX_HEAD, ItemSpace, gram_dimension
from shared_models.wire import SCALE

NAME = "item_gram"
COUNTS = "item_counts"
VERSION = 1
PURPOSE = "preference-model"

Matrix = npt.NDArray[np.float64]

WEIGHT_EXPONENT = 0.1
"""Item weights are popularity to minus this power: pairs of popular items need less of a vector's length than they would take."""
GROUPS = 6
"""Pairs are cleaned in groups of like expected count over noise, each with a prior of its own."""
RATIOS = np.concatenate([[0.0], np.exp(np.linspace(-6.0, 6.0, 32))])
"""That prior is a mixture of bells around these: true count over expected count."""
WIDTH = 0.25
"""Of a bell, in units of its ratio."""
STEPS = 30
TOPICS = 60
TOPIC_STEPS = 150


@dataclass(frozen=True)
class HeadChoice:
    """The items of a round of `item_gram`, most popular first, and their public weights."""

    items: tuple[str, ...]
    weights: npt.NDArray[np.float32]
    """[head, 1], above 0: what the plan's model carries."""


@dataclass(frozen=True)
class NoisyGram:
    """A released Gram matrix over `items`, in units of the contribution's weights."""

    items: tuple[str, ...]
    diagonal: Matrix
    """[n], above 0."""
    pairs: Matrix
    """[n, n], symmetric, zero on the diagonal."""
    noise: Matrix
    """[n, n], standard deviation of each entry of `pairs`; 0 on the diagonal."""


@dataclass(frozen=True)
class Solving:
    """Constants of `solve`, chosen once (docs/preference.md says on what)."""

    ridge: float = 10.0
    """EASE's λ without noise, in units of the Gram matrix."""
    doubt: float = 2.0
    """How many times an item's remaining doubt, √Σ of its pairs' posterior variances, is added to its λ."""
    odds_prior: float = 3.0
    """A conditional chance is that of this many more observations at the item's overall chance."""
    odds_weight: float = 0.75
    rank: int = 32


def choose_head(catalogue: Sequence[str], counts: NoisySum | None = None, *, most: int = MAX_HEAD) -> HeadChoice:
    """Which items are paired. Without `counts`: the whole catalogue, which must then be small enough; this costs nothing.

    With a release of `item_counts` over the catalogue: the items whose count is above 4 standard deviations of its noise, at most
    `most`, best first. The release costs what its plan says. Raises ConfigError.
    """
    if len(set(catalogue)) != len(catalogue) or not catalogue:
        raise ConfigError("a catalogue has items with different names, one at least")
    if not 1 <= most <= MAX_HEAD:
        raise ConfigError(f"most is {most}, expected 1 to {MAX_HEAD}")
    if counts is None:
        if len(catalogue) > most:
            raise ConfigError(
                f"{len(catalogue)} items are too many to pair, at most {most} can be: release `item_counts` to choose"
            )
        return HeadChoice(tuple(catalogue), np.ones((len(catalogue), 1), np.float32))
    if counts.values.shape != (len(catalogue),):
        raise ConfigError(f"counts of shape {counts.values.shape} came for {len(catalogue)} items")
    unit = counts.clip_norm / SCALE
    found, deviation = counts.values * unit, np.sqrt(counts.noise_variance) * unit
    order = np.argsort(-found, kind="stable")
    above = [int(place) for place in order if found[place] > 4.0 * deviation][:most]
    chosen = above or [int(order[0])]
    popularity = np.maximum(found[chosen], 4.0 * deviation + 1e-9)
    weights = (popularity / popularity.max()) ** -WEIGHT_EXPONENT
    return HeadChoice(tuple(catalogue[place] for place in chosen), weights.astype(np.float32)[:, None])


def read_gram(release: NoisySum, head: HeadChoice) -> NoisyGram:
    """The release of a round over `head`, with the weights taken out again. Raises ConfigError."""
    n = len(head.items)
    if release.values.shape != (gram_dimension(n),):
        raise ConfigError(f"a release of shape {release.values.shape}, expected ({gram_dimension(n)},) for {n} items")
    unit = release.clip_norm / SCALE
    own = head.weights.astype(np.float64).reshape(-1)
    upper = np.zeros((n, n))
    upper[np.triu_indices(n)] = release.values * unit
    deviation = np.sqrt(release.noise_variance) * unit
    pairs = (np.triu(upper, 1) + np.triu(upper, 1).T) / np.outer(own, own)
    noise = deviation / np.outer(own, own)
    np.fill_diagonal(noise, 0.0)
    counts = steadied(np.diag(upper) / (GRAM_DIAGONAL * own), deviation / (GRAM_DIAGONAL * own), pairs, noise)
    # A count below the noise is no information: it is held at a small positive number.
    return NoisyGram(head.items, np.maximum(counts, max(3.0, float(deviation))), pairs, noise)


def steadied(counts: Matrix, deviation: Matrix, pairs: Matrix, noise: Matrix) -> Matrix:
    """Item counts [n], of which `deviation` [n] is the noise, with the help of the pair counts' row sums.

    Where users have many items a row's sum is far less noisy than the diagonal, and a nearly constant multiple of it. How nearly
    is estimated, and the two are weighed by what each leaves open.
    """
    rows, row_noise = pairs.sum(axis=1), np.sqrt(np.square(noise).sum(axis=1))
    if not rows.sum() > 0 or not counts.sum() > 0 or not deviation.any():
        return counts
    multiple = counts.sum() / rows.sum()
    guess = np.maximum(multiple * rows, 0.0)
    beyond_noise = np.square(counts - guess) - np.square(deviation) - np.square(multiple * row_noise)
    spread = max(float(beyond_noise.sum() / np.square(guess).sum()), 1e-4)
    open_guess = spread * np.square(guess) + np.square(multiple * row_noise)
    trust = open_guess / (open_guess + np.square(deviation))
    mixed: Matrix = trust * counts + (1.0 - trust) * guess
    return mixed


def clean_pairs(gram: NoisyGram) -> tuple[Matrix, Matrix]:
    """Pair counts [n, n], symmetric, zero on the diagonal, and their posterior variances: the means over two expectations.

    Expected counts are first those of independent items; then half these, half those of a topic model of the first result.
    """
    independent = np.outer(gram.diagonal, gram.diagonal) / gram.diagonal.sum()
    first, first_doubt = posterior_mean(gram, independent)
    if not first.any():
        return first, first_doubt
    expected = 0.5 * independent + 0.5 * topic_counts(first, min(TOPICS, len(first)))
    second, second_doubt = posterior_mean(gram, expected)
    return 0.5 * (first + second), 0.5 * (first_doubt + second_doubt)


def posterior_mean(gram: NoisyGram, expected: Matrix) -> tuple[Matrix, Matrix]:
    """Posterior mean and variance of each pair count, if (count / expected) has an unknown distribution within each group.

    The distribution on RATIOS is estimated from the group's own noisy counts (non-parametric empirical Bayes: Kiefer and
    Wolfowitz 1956; EM), with the known Gaussian noise as likelihood. Without noise the counts are returned as they are.
    """
    n = len(gram.items)
    upper = np.triu_indices(n, 1)
    seen, noise, guess = gram.pairs[upper], gram.noise[upper], np.maximum(expected[upper], 1e-9)
    clean, doubt = np.zeros((n, n)), np.zeros((n, n))
    if len(seen) == 0:
        return clean, doubt
    if not noise.any():
        clean[upper] = np.maximum(seen, 0.0)
        return clean + clean.T, doubt
    signal = guess / noise
    cuts = np.quantile(signal, np.linspace(0.0, 1.0, GROUPS + 1)[1:-1])
    group = np.searchsorted(cuts, signal, side="right")
    found, left = np.zeros(len(seen)), np.zeros(len(seen))
    for number in np.unique(group):
        inside = group == number
        counts = guess[inside, None] * RATIOS
        # Each ratio stands for a bell around it: where there is little noise, counts between two ratios stay where they are.
        width, own, given = np.square(WIDTH * counts), np.square(noise[inside, None]), seen[inside, None]
        log_chance = -0.5 * (np.square(given - counts) / (own + width) + np.log(own + width))
        counts = np.maximum((counts * own + given * width) / (own + width), 0.0)
        chance = np.exp(log_chance - log_chance.max(axis=1, keepdims=True))
        share = np.full(len(RATIOS), 1.0 / len(RATIOS))
        for _ in range(STEPS):
            # Σ over pairs of the posterior share of each ratio; a little of every ratio stays possible.
            share = share * (chance / (chance @ share)[:, None]).mean(axis=0) + 1e-4 / len(RATIOS)
            share /= share.sum()
        weighted = chance * share
        weighted /= weighted.sum(axis=1, keepdims=True)
        mean = (weighted * counts).sum(axis=1)
        found[inside] = mean
        left[inside] = (weighted * (np.square(counts - mean[:, None]) + own * width / (own + width))).sum(axis=1)
    clean[upper], doubt[upper] = found, left
    return clean + clean.T, doubt + doubt.T


def topic_counts(pairs: Matrix, topics: int) -> Matrix:
    """Pair counts [n, n] of a mixture of `topics` independent choices, fitted to `pairs` by EM (Hofmann 1999, symmetric)."""
    n = len(pairs)
    random = np.random.default_rng(0)
    overall = pairs.sum(axis=1) / pairs.sum()
    words = 0.5 * random.dirichlet(np.ones(n), topics) + 0.5 * overall
    weight = np.full(topics, 1.0 / topics)
    for _ in range(TOPIC_STEPS):
        ratio = pairs / ((words.T * weight) @ words + 1e-15)
        amount = words * (words @ ratio) * weight[:, None]
        weight = amount.sum(axis=1) / amount.sum()
        words = amount + 0.01 * overall
        words /= words.sum(axis=1, keepdims=True)
    fitted: Matrix = (words.T * weight) @ words * pairs.sum()
    return fitted


def solve(
    gram: NoisyGram,
    *,
    solving: Solving | None = None,
    features: Matrix | None = None,
    others: Sequence[str] = (),
    version: int = 0,
) -> ItemSpace:
    """The item space of a release. `others` are items outside the head; `features` [head + others, f] are public.

    An item outside the head takes the weights of the head items that its features are like; without features it has the head's
    mean. Raises ConfigError.
    """
    wish = solving or Solving()
    n, count = len(gram.items), len(gram.items) + len(others)
    if features is not None and (features.shape[:1] != (count,) or not np.isfinite(features).all()):
        raise ConfigError(f"features of shape {features.shape}, expected finite numbers for {count} items")
    pairs, doubt = clean_pairs(gram)
    linear = ease(pairs, gram.diagonal, wish.ridge + wish.doubt * np.sqrt(doubt.sum(axis=1)))
    chance = gram.diagonal / gram.diagonal.sum()
    given = (pairs + wish.odds_prior * chance) / (gram.diagonal[:, None] + wish.odds_prior)
    odds = np.log(np.maximum(given, 1e-7) / chance)
    np.fill_diagonal(odds, 0.0)
    factors = item_vectors(odds, gram.diagonal, min(wish.rank, n))
    prior = np.log(chance)
    transfer = np.zeros((len(others), n))
    if others:
        transfer, likeness = (
            mixtures(features, n) if features is not None else (np.full((len(others), n), 1.0 / n), 0.0)
        )
        # As popular as what it is like, less what is unknown: half, and half of that again where nothing is like it.
        tail_prior = transfer @ prior - np.log(2.0) * (2.0 - likeness)
        prior = np.concatenate([prior, tail_prior])
        linear, odds = np.hstack([linear, linear @ transfer.T]), np.hstack([odds, odds @ transfer.T])
        factors = np.vstack([factors, transfer @ factors])
    as_float = np.float32
    return ItemSpace(
        (*gram.items, *others),
        prior.astype(as_float),
        np.ascontiguousarray(linear.T, as_float),
        np.ascontiguousarray(odds.T, as_float),
        factors.astype(as_float),
        transfer.astype(as_float),
        odds_weight=wish.odds_weight,
        version=version,
    )


def items_document(space: ItemSpace) -> bytes:
    """items.json: which items the space beside it ranks, in its order, those that were paired first."""
    return canonical_bytes(
        {"format": 1, "kind": "items", "version": space.version, "head": space.head, "items": list(space.items)}
    )


def ease(pairs: Matrix, diagonal: Matrix, ridge: float | Matrix) -> Matrix:
    """EASE's weights [from, to], zero on the diagonal: P = (G + ridge)⁻¹, −P_ij / P_jj (Steck 2019, eq. 8); `ridge` may be [n].

    Cleaned counts need not be a Gram matrix: eigenvalues below 0 are raised to it first.
    """
    values, vectors = np.linalg.eigh(pairs + np.diag(diagonal))
    gram = (vectors * np.maximum(values, 0.0)) @ vectors.T
    inverse = np.linalg.inv(gram + np.diag(np.broadcast_to(ridge, len(gram))))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def item_vectors(odds: Matrix, diagonal: Matrix, rank: int) -> Matrix:
    """Vectors [n, rank] whose products approximate the log-odds of pairs (Levy and Goldberg 2014), of rare items least."""
    trust = np.sqrt(diagonal / diagonal.max())
    symmetric = 0.5 * (odds + odds.T) * np.outer(trust, trust)
    values, vectors = np.linalg.eigh(symmetric)
    top = np.argsort(-values)[:rank]
    found: Matrix = vectors[:, top] * np.sqrt(np.maximum(values[top], 0.0)) / trust[:, None]
    # A rare item's vector would be long by noise: none is longer than the longest of well known ones.
    length = np.linalg.norm(found, axis=1)
    known = float(length[diagonal >= np.median(diagonal)].max(initial=1e-9))
    return found * np.minimum(1.0, known / np.maximum(length, 1e-9))[:, None]


def mixtures(features: Matrix, head: int, *, nearest: int = 10) -> tuple[Matrix, npt.NDArray[np.float64]]:
    """For each item after the first `head`: shares [m, head] of the head items like it (summing to 1), and the likeness [m], 0…1.

    Likeness is the cosine of centred public features; the `nearest` count, by its square.
    """
    centred = features - features[:head].mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    cosine = np.maximum(unit[head:] @ unit[:head].T, 0.0)
    if nearest < head:
        cosine[cosine < np.partition(cosine, -nearest, axis=1)[:, -nearest, None]] = 0.0
    strength = np.square(cosine)
    total = strength.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, strength / np.maximum(total, 1e-12), 1.0 / head)
    return shares, cosine.max(axis=1)
