"""What a bandit starts from: the population's prior over reward weights (an artefact), and the layout of the sums it is made of.

A device contributes moments of its own decisions in a `MomentLayout` (edge_client.share.contributions.bandit_moments); the
aggregator turns their noisy sum into a `BanditPrior` (aggregator.releases.bandit_prior), which every device loads. Here are only
the typed values, their bytes and their checks.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_models.canonical import canonical_bytes, canonical_hash, parse_document
from shared_models.errors import ConfigError, DecisionError, ModelDamagedError, WireError
from shared_models.sensitive import check_features

FloatArray = npt.NDArray[np.float64]

PRIOR_FORMAT = 1
MAX_FEATURES = 512
MAX_PRIOR_BYTES = 8 * 1024 * 1024
SCALARS = 6
"""1 (who has nothing to tell sends zeros), level, level², energy, squared residual, squared length of the moment."""
LEVEL_MOST = 0.7
"""Where a user's level is cut, in half ranges."""
SQUARE_MOST = 0.5
"""Where energy and squared residual are cut, in squared half ranges."""


@dataclass(frozen=True)
class BlockWeights:
    """How much of the clip norm each block of a contribution gets; 0 leaves a block out. Relative to each other."""

    gram: float = 0.15
    mean: float = 0.3
    second: float = 1.0
    scalars: float = 0.15

    def __post_init__(self) -> None:
        values = self.values
        if (
            not all(_is_number(value) and 0.0 <= value <= 1e3 for value in values)
            or not min(self.gram, self.mean) > 0.0
        ):
            raise ConfigError(
                f"weights of blocks are {self}, expected numbers of at least 0, those of gram and mean above 0"
            )
        if not self.scalars > 0.0:
            raise ConfigError("the scalars cannot be left out: the scale of all the others comes from them")

    @property
    def values(self) -> tuple[float, ...]:
        """In the order of the blocks."""
        return self.gram, self.mean, self.second, self.scalars


@dataclass(frozen=True, eq=False)
class MomentLayout:
    """What devices sum up, block by block; public, and the same for all devices of a round.

    For one user with features Φ [n, d] and rewards r [n]: y = r − Φ center − level, less its own mean (the user's level);
    A = ΦᵀΦ and b = Φᵀy. The blocks are A/‖A‖ (its diagonal for `indicators`), u, u uᵀ and six scalars, where u is b/‖b‖ or,
    with `moment_least`, b/‖A‖ over it, cut to norm 1. Each has L2 norm ≤ 1, so the weighted whole has norm ≤ 1, whatever a user
    did.
    """

    features: tuple[str, ...]
    """Names of the d features, in order."""
    indicators: bool
    """Each decision has exactly one feature that is 1 (a catalogue of items); else any vectors of norm ≤ 1."""
    reward_low: float
    reward_high: float
    center: FloatArray
    """[d], reward weights that are known before; zeros at first."""
    level: float
    """Mean reward that is known before."""
    weights: BlockWeights
    moment_least: float = 0.0
    """Moments shorter than this, in rewards, keep their length, longer ones are cut to it. 0: all get length 1."""

    def __post_init__(self) -> None:
        _check_names(self.features, ConfigError)
        _check_range(self.reward_low, self.reward_high, ConfigError)
        object.__setattr__(self, "center", _vector("center", self.center, len(self.features), ConfigError))
        if not _is_number(self.level) or not self.reward_low <= self.level <= self.reward_high:
            raise ConfigError(f"level is {self.level!r}, expected a reward of the declared range")
        if not _is_number(self.moment_least) or not 0.0 <= self.moment_least <= self.half_range:
            raise ConfigError(f"moment_least is {self.moment_least!r}, expected rewards from 0 to half the range")

    @classmethod
    def plain(
        cls,
        features: tuple[str, ...],
        *,
        indicators: bool,
        reward_low: float,
        reward_high: float,
        weights: BlockWeights,
    ) -> MomentLayout:
        """A first layout, that knows nothing of the population yet."""
        _check_names(features, ConfigError)
        _check_range(reward_low, reward_high, ConfigError)
        count = len(features)
        middle = (reward_low + reward_high) / 2.0
        return cls(features, indicators, reward_low, reward_high, np.zeros(count), middle, weights)

    @property
    def half_range(self) -> float:
        """Half of the range of rewards: their unit."""
        return (self.reward_high - self.reward_low) / 2.0

    @property
    def block_sizes(self) -> tuple[int, int, int, int]:
        """Numbers in the blocks gram, mean, second, scalars."""
        count = len(self.features)
        triangle = count * (count + 1) // 2
        return count if self.indicators else triangle, count, triangle if self.weights.second else 0, SCALARS

    @property
    def dimension(self) -> int:
        return sum(self.block_sizes)

    @property
    def block_factors(self) -> tuple[float, ...]:
        """What each unit-norm block is multiplied with, so that the whole has norm ≤ 1."""
        weights = self.weights.values
        whole = math.sqrt(sum(value * value for value in weights))
        return tuple(value / whole for value in weights)

    def document(self) -> dict[str, Any]:
        return {
            "features": list(self.features),
            "indicators": self.indicators,
            "reward_low": float(self.reward_low),
            "reward_high": float(self.reward_high),
            "center": self.center.tolist(),
            "level": float(self.level),
            "weights": list(self.weights.values),
            "moment_least": float(self.moment_least),
        }

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical encoding: what a round's plan names as its model."""
        return canonical_hash(self.document())

    @classmethod
    def from_document(cls, document: Any) -> MomentLayout:
        """Parse what came with a plan. Raises WireError."""
        try:
            names, weights, indicators = document["features"], document["weights"], document["indicators"]
            if not isinstance(names, list) or not isinstance(weights, list) or not isinstance(indicators, bool):
                raise TypeError("features and weights are lists, indicators is true or false")
            if len(weights) != len(BlockWeights().values):
                raise TypeError("one weight for each block")
            return cls(
                tuple(names),
                indicators,
                document["reward_low"],
                document["reward_high"],
                np.asarray(document["center"]),
                document["level"],
                BlockWeights(*weights),
                document["moment_least"],
            )
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise WireError(f"not a layout of moments: {str(error)[:300]}") from error


@dataclass(frozen=True, eq=False)
class BanditPrior:
    """θ ~ N(mean, covariance) over the users, reward = φ·θ + N(0, noise_variance). Rewards in their own units."""

    features: tuple[str, ...]
    mean: FloatArray
    """[d]"""
    covariance: FloatArray
    """[d, d], symmetric and positive definite: how users differ."""
    noise_variance: float
    reward_low: float
    reward_high: float

    def __post_init__(self) -> None:
        _check_names(self.features, ModelDamagedError)
        _check_range(self.reward_low, self.reward_high, ModelDamagedError)
        count = len(self.features)
        object.__setattr__(self, "mean", _vector("mean", self.mean, count, ModelDamagedError))
        covariance = _numbers("covariance", self.covariance, (count, count), ModelDamagedError)
        if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9 * float(np.abs(covariance).max())):
            raise ModelDamagedError("prior: the covariance is not symmetric")
        object.__setattr__(self, "covariance", _frozen((covariance + covariance.T) / 2.0))
        if not _is_number(self.noise_variance) or not 0.0 < self.noise_variance < 1e12:
            raise ModelDamagedError(f"prior: noise variance is {self.noise_variance!r}, expected a positive number")
        _ = self.root

    @functools.cached_property
    def root(self) -> FloatArray:
        """[d, d], lower triangular L with L Lᵀ = covariance."""
        try:
            return _frozen(np.asarray(np.linalg.cholesky(self.covariance), dtype=np.float64))
        except np.linalg.LinAlgError as error:
            raise ModelDamagedError("prior: the covariance is not positive definite") from error

    @classmethod
    def wide(
        cls, features: tuple[str, ...], *, reward_low: float, reward_high: float, spread: float | None = None
    ) -> BanditPrior:
        """What a device starts from when nothing was published: mean 0, independent weights, half the range as their spread."""
        _check_names(features, ConfigError)
        _check_range(reward_low, reward_high, ConfigError)
        half = (reward_high - reward_low) / 2.0
        variance = (half if spread is None else spread) ** 2
        eye = np.eye(len(features)) * variance
        return cls(features, np.zeros(len(features)), eye, half * half / 4.0, reward_low, reward_high)

    def to_bytes(self) -> bytes:
        return canonical_bytes(
            {
                "format": PRIOR_FORMAT,
                "kind": "bandit-prior",
                "features": list(self.features),
                "mean": _encoded(self.mean),
                "covariance": _encoded(self.covariance[np.tril_indices(len(self.features))]),
                "noise_variance": float(self.noise_variance),
                "reward_low": float(self.reward_low),
                "reward_high": float(self.reward_high),
            }
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> BanditPrior:
        """Parse and check an artefact. Raises ModelDamagedError for anything else."""
        try:
            document = parse_document(raw, limit_bytes=MAX_PRIOR_BYTES)
            if document.get("format") != PRIOR_FORMAT or document.get("kind") != "bandit-prior":
                raise ValueError(f"unknown format, this version reads format {PRIOR_FORMAT}")
            names = document["features"]
            if not isinstance(names, list):
                raise TypeError("features are a list of names")
            _check_names(tuple(names), ModelDamagedError)
            count = len(names)
            covariance = np.zeros((count, count))
            covariance[np.tril_indices(count)] = _decoded(document["covariance"], count * (count + 1) // 2)
            covariance = covariance + np.tril(covariance, -1).T
            return cls(
                tuple(names),
                _decoded(document["mean"], count),
                covariance,
                document["noise_variance"],
                document["reward_low"],
                document["reward_high"],
            )
        except (WireError, KeyError, TypeError, ValueError) as error:
            raise ModelDamagedError(f"not a bandit's prior: {str(error)[:300]}") from error


def pack_symmetric(matrix: FloatArray) -> FloatArray:
    """[d, d] → [d(d+1)/2]: the upper triangle, off-diagonal entries times √2, so that L2 norms are the same."""
    rows, columns = _triangle(len(matrix))
    return np.asarray(matrix[rows, columns] * np.where(rows == columns, 1.0, math.sqrt(2.0)))


def unpack_symmetric(packed: FloatArray, count: int) -> FloatArray:
    """The inverse of `pack_symmetric`: [d(d+1)/2] → [d, d]."""
    rows, columns = _triangle(count)
    matrix = np.zeros((count, count))
    matrix[rows, columns] = packed / np.where(rows == columns, 1.0, math.sqrt(2.0))
    return np.asarray(matrix + np.triu(matrix, 1).T)


def checked_rows(features: object, count: int) -> FloatArray:
    """Feature vectors of actions as float64 [n, count]. Raises DecisionError for another type or shape, NaN or infinities."""
    rows = _numbers("features", features, None, DecisionError)
    if rows.ndim != 2 or rows.shape[1] != count:
        raise DecisionError(f"features have shape {rows.shape}, expected [actions, {count}]")
    return rows


@functools.lru_cache(maxsize=8)
def _triangle(count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    rows, columns = np.triu_indices(count)
    return rows, columns


def _check_names(names: object, error: type[Exception]) -> None:
    if not isinstance(names, tuple) or not 0 < len(names) <= MAX_FEATURES:
        raise error(f"features: expected 1 to {MAX_FEATURES} names")
    if any(not isinstance(name, str) or not 0 < len(name) <= 100 for name in names) or len(set(names)) != len(names):
        raise error("features: expected short names, each once")
    check_features(names, error=error)


def _check_range(low: object, high: object, error: type[Exception]) -> None:
    if not _is_number(low) or not _is_number(high) or not -1e9 <= low < high <= 1e9:  # type: ignore[operator]
        raise error(f"rewards range from {str(low)[:40]} to {str(high)[:40]}, expected two numbers, the lower first")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _vector(name: str, value: object, count: int, error: type[Exception]) -> FloatArray:
    return _frozen(_numbers(name, value, (count,), error))


def _numbers(name: str, value: object, shape: tuple[int, ...] | None, error: type[Exception]) -> FloatArray:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise error(f"{name}: expected an array of numbers, got {type(value).__name__}")
    if shape is not None and value.shape != shape:
        raise error(f"{name}: shape {value.shape}, expected {shape}")
    # A plain copy: a subclass of arrays could hide entries from the check.
    numbers = np.array(value, dtype=np.float64, subok=False)
    if not np.isfinite(numbers).all() or float(np.abs(numbers).max(initial=0.0)) > 1e12:
        raise error(f"{name}: holds NaN, infinite or absurdly large numbers")
    return numbers


def _frozen(array: FloatArray) -> FloatArray:
    array.setflags(write=False)
    return array


def _encoded(array: FloatArray) -> str:
    return base64.b64encode(array.astype("<f8").tobytes()).decode()


def _decoded(text: object, count: int) -> FloatArray:
    if not isinstance(text, str):
        raise TypeError("an array is a text in base64")
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if len(raw) != 8 * count:
        raise ValueError(f"an array of {len(raw)} bytes, expected {8 * count}")
    return np.frombuffer(raw, "<f8").astype(np.float64)
