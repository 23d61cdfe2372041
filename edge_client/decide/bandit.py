"""The bandit: which action is likely to please, from a shared weight vector θ over context × action features.

θ starts from the population's prior (shared_models.bandit_prior) and is updated on the device: Bayesian linear regression, the
covariance kept as a square root (Potter's update), so that no number of updates makes it indefinite. Forgetting draws θ back to
the prior with time, never beyond it. Every choice comes with the probability with which it was made. What waits for its
reward is in `pending_rewards`; rules stand above all of this and arrive as masks.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from shared_models.bandit_prior import BanditPrior, FloatArray
from shared_models.errors import DecisionError

Mask = npt.NDArray[np.bool_]

MAX_ACTIONS = 100_000
MAX_SLOTS = 100
STATE_FORMAT = 1
_POOL = 128
_NOTHING = "no action is permitted: there is nothing to choose from"


@dataclass(frozen=True)
class Exploration:
    """How much is tried out. Whatever is set, an action that is not permitted has probability 0."""

    kind: Literal["greedy", "thompson"] = "thompson"
    """greedy: the action with the highest expected reward; thompson: that of weights drawn from the posterior."""
    spread: float = 0.3
    """Thompson: the draw's standard deviation as a share of the posterior's; 1 is Thompson sampling proper."""
    floor: float = 0.02
    """Probability that is spread evenly over all permitted actions: the least with which each can be seen."""
    sensitive_most: float = 0.0
    """The most probability that all sensitive actions together get, other than the one that is best by expectation."""

    def __post_init__(self) -> None:
        if self.kind not in ("greedy", "thompson"):
            raise DecisionError(f"exploration is {str(self.kind)[:40]!r}, expected greedy or thompson")
        for name, most in (("spread", 10.0), ("floor", 1.0), ("sensitive_most", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= most:
                raise DecisionError(f"exploration: {name} is {str(value)[:40]!r}, expected a number from 0 to {most:g}")


class Choice(NamedTuple):
    """One action, and what off-policy evaluation needs to know about how it was chosen."""

    action: int
    """Row of the features."""
    propensity: float
    """Probability with which this action was chosen, exact: given the weights that were drawn, and in a batch the slots
    before. Weighting by its inverse is unbiased, because the draw does not depend on the reward (docs/bandit.md)."""
    expected: float
    """Posterior mean reward."""


class Bandit:
    """One user's policy. Not thread-safe."""

    def __init__(
        self,
        prior: BanditPrior,
        exploration: Exploration | None = None,
        *,
        random: np.random.Generator,
        half_life_s: float = math.inf,
    ) -> None:
        """`half_life_s`: after it half of what was learned is forgotten. `random` is no secret: nothing leaves by it."""
        if not half_life_s > 0.0:
            raise DecisionError(f"half-life is {half_life_s}, expected seconds above 0")
        self._prior = prior
        self._exploration = exploration or Exploration()
        self._random = random
        self._half_life_s = half_life_s
        self._mean = prior.mean.copy()
        self._root = prior.root.copy()
        self._updates = 0
        self._draws = self._exploration.kind == "thompson" and self._exploration.spread > 0.0
        self._normals: list[FloatArray] = []
        self._uniforms: list[float] = []

    @property
    def prior(self) -> BanditPrior:
        return self._prior

    @property
    def mean(self) -> FloatArray:
        """[d], expected reward weights."""
        return self._mean.copy()

    @property
    def covariance(self) -> FloatArray:
        """[d, d]"""
        return np.asarray(self._root @ self._root.T)

    @property
    def updates(self) -> int:
        return self._updates

    # -- choosing -------------------------------------------------------------------------------------------------

    def choose(self, features: FloatArray, permitted: Mask | None = None, sensitive: Mask | None = None) -> Choice:
        """One of the actions whose features are the rows of `features` [actions, d].

        `permitted` [actions]: what no rule forbids; None is all. `sensitive` [actions]: what is not explored beyond
        `sensitive_most`. Raises DecisionError for what is not finite or misshaped, and if nothing is permitted.
        """
        if sensitive is not None:
            return self.choose_slots(features, 1, permitted, sensitive)[0]
        # The short way, for the commonest case: what `_distribution` would give, without the array of probabilities.
        drawn = self._drawn_scores(features)
        floor, count = self._exploration.floor, len(drawn)
        if permitted is None:
            winner = action = int(drawn.argmax())
        else:
            places = _mask("permitted", permitted, count, default=True).nonzero()[0]
            count = len(places)
            if not count:
                raise DecisionError(_NOTHING)
            winner = action = int(places[drawn.take(places).argmax()])
        if not self._uniforms:
            self._uniforms = self._random.random(_POOL).tolist()
        if self._uniforms.pop() < floor:
            place = int(self._random.integers(count))
            action = place if permitted is None else int(places[place])
        propensity = floor / count + (1.0 - floor if action == winner else 0.0)
        return Choice(action, propensity, float(features[action].dot(self._mean)))

    def choose_slots(
        self,
        features: FloatArray,
        slots: int,
        permitted: Mask | None = None,
        sensitive: Mask | None = None,
    ) -> tuple[Choice, ...]:
        """Up to `slots` different actions, the first one first; fewer if fewer are permitted.

        Each propensity is given the slots before it, so that of the whole list is their product. Raises as `choose`.
        """
        if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= MAX_SLOTS:
            raise DecisionError(f"{str(slots)[:40]} slots, expected 1 to {MAX_SLOTS}")
        drawn, expected = self._drawn_scores(features), features @ self._mean
        count = len(drawn)
        allowed = _mask("permitted", permitted, count, default=True).copy()
        guarded = _mask("sensitive", sensitive, count, default=False)
        chosen = []
        for _ in range(min(slots, _permitted_count(allowed))):
            probabilities = self._distribution(drawn, expected, allowed, guarded)
            ladder = np.cumsum(probabilities)
            # The last step of the ladder is 1 up to rounding; scaling it leaves what has probability 0 unreachable.
            action = int(np.searchsorted(ladder, self._random.random() * ladder[-1], side="right"))
            chosen.append(Choice(action, float(probabilities[action]), float(expected[action])))
            allowed[action] = False
        return tuple(chosen)

    def probabilities(
        self, features: FloatArray, permitted: Mask | None = None, sensitive: Mask | None = None
    ) -> FloatArray:
        """[actions]: those of one choice, given weights that are drawn now. Raises as `choose`."""
        drawn, expected = self._drawn_scores(features), features @ self._mean
        allowed = _mask("permitted", permitted, len(drawn), default=True)
        _permitted_count(allowed)
        return self._distribution(drawn, expected, allowed, _mask("sensitive", sensitive, len(drawn), default=False))

    def expected(self, features: FloatArray) -> FloatArray:
        """Posterior mean reward of each action [actions]. Raises DecisionError."""
        self._check(features)
        with np.errstate(over="ignore", invalid="ignore"):
            return _finite(features @ self._mean)

    # -- learning -------------------------------------------------------------------------------------------------

    def learn(self, features: FloatArray, reward: float, *, noise_variance: float | None = None) -> None:
        """Take in the reward of an action with `features` [d]; it is clipped to the declared range.

        `noise_variance`: for a signal that is surer (an answer) or less sure (a glance) than an ordinary reward.
        Raises DecisionError, and then nothing has changed.
        """
        if not isinstance(features, np.ndarray) or features.shape != self._mean.shape:
            raise DecisionError(f"expected the features of one action [{len(self._mean)}]")
        row = np.array(features, dtype=np.float64) if features.dtype.kind in "fiu" else np.full(1, np.nan)
        if isinstance(reward, bool) or not isinstance(reward, int | float | np.floating) or not math.isfinite(reward):
            raise DecisionError(f"reward is {str(reward)[:40]!r}, expected a number")
        noise = self._prior.noise_variance if noise_variance is None else noise_variance
        if not (isinstance(noise, int | float) and 0.0 < noise < math.inf):
            raise DecisionError(f"noise variance is {str(noise)[:40]!r}, expected a positive number")
        clipped = min(max(float(reward), self._prior.reward_low), self._prior.reward_high)
        _finite(row)
        # Potter (1963); Bierman, Factorization Methods for Discrete Sequential Estimation, 1977, section II.
        with np.errstate(over="ignore", invalid="ignore"):
            spread = row @ self._root
            total = float(spread @ spread) + noise
        if not math.isfinite(total):
            raise DecisionError("features are too large to learn from")
        gain = self._root @ spread
        self._mean = self._mean + gain * ((clipped - float(row @ self._mean)) / total)
        self._root = self._root - np.outer(gain, spread / (total + math.sqrt(noise * total)))
        self._updates += 1

    def forget(self, elapsed_s: float) -> None:
        """Let `elapsed_s` seconds pass: mean and covariance go back towards the prior, by half in each half-life.

        The user's tastes as an Ornstein-Uhlenbeck process whose resting state is the prior. O(d³): once a session, not once a
        decision. A clock that was set back forgets nothing.
        """
        if isinstance(elapsed_s, bool) or not isinstance(elapsed_s, int | float) or math.isnan(elapsed_s):
            raise DecisionError(f"elapsed time is {str(elapsed_s)[:40]!r}, expected seconds")
        if elapsed_s <= 0.0 or math.isinf(self._half_life_s):
            return
        kept = 0.5 ** (elapsed_s / self._half_life_s)
        self._mean = self._prior.mean + kept * (self._mean - self._prior.mean)
        covariance = kept**2 * self.covariance + (1.0 - kept**2) * self._prior.covariance
        # By eigenvalues and not by Cholesky: after many equal updates and little time it is singular up to rounding.
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2.0)
        self._root = vectors * np.sqrt(np.maximum(values, 0.0))

    # -- keeping --------------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """What was learned, for the encrypted store: it is as personal as the decisions that it came from."""
        return {
            "format": STATE_FORMAT,
            "updates": self._updates,
            "mean": _text(self._mean),
            "root": _text(self._root),
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Take up what `document()` gave. Raises DecisionError for anything else; then nothing has changed."""
        count = len(self._mean)
        try:
            if document["format"] != STATE_FORMAT:
                raise ValueError(f"format {str(document['format'])[:20]}")
            mean, root = _array(document["mean"], count), _array(document["root"], count * count)
            updates = document["updates"]
            if isinstance(updates, bool) or not isinstance(updates, int) or updates < 0:
                raise ValueError("updates is not a count")
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise DecisionError(f"not the state of a bandit with {count} features: {str(error)[:200]}") from error
        self._mean, self._root, self._updates = mean, root.reshape(count, count), updates

    # -- inside ---------------------------------------------------------------------------------------------------

    def _check(self, features: object) -> None:
        if not isinstance(features, np.ndarray) or features.dtype.kind not in "fiu" or features.ndim != 2:
            raise DecisionError("features are an array of numbers [actions, d]")
        if features.shape[1] != len(self._mean) or not 0 < len(features) <= MAX_ACTIONS:
            raise DecisionError(
                f"features have shape {features.shape}, expected [1 to {MAX_ACTIONS}, {len(self._mean)}]"
            )

    def _drawn_scores(self, features: FloatArray) -> FloatArray:
        """Each action's score [actions] under weights that are drawn now (greedy: the expected ones)."""
        self._check(features)
        weights = self._mean
        if self._draws:
            if not self._normals:
                # From a pool: one call to the generator costs as much as all the rest of a choice.
                self._normals = list(self._random.standard_normal((_POOL, len(weights))) * self._exploration.spread)
            weights = weights + self._root.dot(self._normals.pop())
        scores = features.dot(weights)
        # Any NaN in the features is the argmax; any infinity makes its row's score infinite or NaN.
        if not (math.isfinite(scores[scores.argmax()]) and math.isfinite(scores[scores.argmin()])):
            raise DecisionError("features hold NaN, infinite or too large numbers")
        return np.asarray(scores)

    def _distribution(self, drawn: FloatArray, expected: FloatArray, allowed: Mask, guarded: Mask) -> FloatArray:
        """Probability of each action, exactly 0 where it is not allowed."""
        exploration = self._exploration
        winner = int(np.where(allowed, drawn, -np.inf).argmax())
        best = int(np.where(allowed, expected, -np.inf).argmax())
        probabilities = np.where(allowed, exploration.floor / int(allowed.sum()), 0.0)
        probabilities[winner] += 1.0 - exploration.floor
        explored = guarded & allowed
        explored[best] = False
        mass = float(probabilities[explored].sum())
        if mass > exploration.sensitive_most:
            probabilities[explored] *= exploration.sensitive_most / mass
            probabilities[best] += mass - exploration.sensitive_most
        return probabilities


def _mask(name: str, value: object, count: int, *, default: bool) -> Mask:
    if value is None:
        return np.full(count, default)
    if not isinstance(value, np.ndarray) or value.dtype != np.bool_ or value.shape != (count,):
        raise DecisionError(f"{name}: expected one truth value for each of {count} actions")
    return value


def _permitted_count(allowed: Mask) -> int:
    count = np.count_nonzero(allowed)
    if not count:
        raise DecisionError(_NOTHING)
    return int(count)


def _finite(values: FloatArray) -> FloatArray:
    if not np.isfinite(values).all():
        raise DecisionError("features hold NaN, infinite or too large numbers")
    return values


def _text(array: FloatArray) -> str:
    return base64.b64encode(array.astype("<f8").tobytes()).decode()


def _array(text: object, count: int) -> FloatArray:
    if not isinstance(text, str):
        raise TypeError("an array is a text in base64")
    raw = base64.b64decode(text, validate=True)
    if len(raw) != 8 * count:
        raise ValueError(f"an array of {len(raw)} bytes, expected {8 * count}")
    array = np.frombuffer(raw, "<f8").astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("an array holds NaN or infinities")
    return array
