"""What a noisy sum of `fairness_slices` means: how often the assistant is right for each group, with intervals, and which gaps
are more than chance.

A rate is the mean over a group's users of each user's own share. Its interval is the set of rates that the sum does not
contradict (Fieller 1954, with the score variance of Wilson 1927): it holds the noise of the release and the sampling of users,
also where the group is so small that the noise is in the denominator. A group that is too small is suppressed: a number that
says nothing is not published. All of it is post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from privacy.mechanisms import NoisySum
from shared_models.canonical import canonical_bytes, parse_document
from shared_models.errors import ConfigError, ContributionError, WireError
from shared_models.fairness import CLIP_NORM, GROUPS, OUTCOMES, FairnessLayout
from shared_models.wire import SCALE

NAME = "fairness_slices"
PURPOSE = "quality-check"
VERSION = 1
ARTIFACT = "fairness.json"
FORMAT = 1
WIDEST = 0.3
"""A group is suppressed if the 95% interval of a rate of one half would be wider, from end to end: it depends on the group's size
and on the noise alone, so that no rate is shown or hidden for what it is."""
LEVEL = 0.95
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2.0)
_STEP = 0.001
GRID = np.linspace(0.0, 1.0, round(1.0 / _STEP) + 1)
MOST_BYTES = 256 * 1024


@dataclass(frozen=True)
class SliceRate:
    """One outcome of one group. Suppressed: no value, the interval is 0 to 1."""

    slice: str
    bucket: str
    outcome: str
    value: float | None
    low: float
    high: float
    """95%."""
    users: float | None
    """How many users of the group have any outcome of this kind, estimated; None where the noise hides it."""

    @property
    def suppressed(self) -> bool:
        return self.value is None


@dataclass(frozen=True)
class Gap:
    """The largest difference between two groups of one slice in one outcome, of those that are sure if any is."""

    slice: str
    outcome: str
    higher: str
    lower: str
    value: float
    low: float
    high: float
    """95% for all pairs that were compared together (Bonferroni)."""

    @property
    def sure(self) -> bool:
        """True if it is more than chance and noise."""
        return self.low > 0.0


@dataclass(frozen=True)
class ReleasedFairness:
    """What the model card says about groups."""

    rates: tuple[SliceRate, ...]
    gaps: tuple[Gap, ...]
    """One for each slice and outcome of which two groups at least can be told, the largest first."""
    users: int
    """Of the cohort."""
    layout_hash: str

    @property
    def words(self) -> str:
        """One plain sentence for an operator."""
        sure = [gap for gap in self.gaps if gap.sure]
        hidden = len({(rate.slice, rate.bucket) for rate in self.rates if rate.suppressed})
        tail = f" {hidden} groups are too small to be told." if hidden else ""
        if not sure:
            return f"No gap between groups is more than chance and noise would make.{tail}"
        said = "; ".join(
            f"{gap.outcome} more often for {gap.slice} {gap.higher} than for {gap.lower}, by {100 * gap.value:.0f} points "
            f"({100 * gap.low:.0f} to {100 * gap.high:.0f})"
            for gap in sure
        )
        return f"The assistant does not treat all groups alike: {said}.{tail}"

    def to_bytes(self) -> bytes:
        """The artefact `fairness.json`: canonical JSON."""
        return canonical_bytes(
            {
                "format": FORMAT,
                "rates": [{**asdict(rate), "suppressed": rate.suppressed} for rate in self.rates],
                "gaps": [{**asdict(gap), "sure": gap.sure} for gap in self.gaps],
                "users": self.users,
                "layout": self.layout_hash,
                "words": self.words,
            }
        )


def fairness_from(release: NoisySum, layout: FairnessLayout, *, widest: float = WIDEST) -> ReleasedFairness:
    """Read a release. `widest`: groups whose intervals may be wider than this are suppressed, above 0 to 1.

    Raises ContributionError if the sum is not of this layout, ConfigError for a width that is none.
    """
    if release.values.shape != (layout.dimension,) or release.clip_norm != CLIP_NORM:
        raise ContributionError(f"a sum of shape {release.values.shape} is no sum of these slices")
    if isinstance(widest, bool) or not isinstance(widest, int | float) or not 0.0 < widest <= 1.0:
        raise ConfigError(f"widest is {str(widest)[:40]!r}, expected a width above 0, at most 1")
    sums = release.mean() * release.survivors / layout.factor
    noise = math.sqrt(release.noise_variance) / SCALE / layout.factor
    found = dict(zip(layout.slots, sums.tolist(), strict=True))
    rates = []
    for name, source in layout.slices.items():
        for bucket in source.buckets:
            for group in GROUPS:
                total = sum(found[name, bucket, outcome] for outcome in group)
                rates += [
                    _rate(name, bucket, outcome, found[name, bucket, outcome], total, len(group), noise, widest)
                    for outcome in group
                ]
    return ReleasedFairness(tuple(rates), _gaps(rates), release.survivors, layout.hash)


def fairness_document(raw: bytes) -> dict[str, Any]:
    """Parse `fairness.json`. Raises WireError."""
    document = parse_document(raw, limit_bytes=MOST_BYTES)
    if set(document) != {"format", "rates", "gaps", "users", "layout", "words"} or document["format"] != FORMAT:
        raise WireError(f"not a comparison of groups of format {FORMAT}")
    if not isinstance(document["rates"], list) or not isinstance(document["gaps"], list):
        raise WireError("a comparison of groups has lists of rates and of gaps")
    known = {"slice", "bucket", "outcome", "value", "low", "high", "users", "suppressed"}
    if not all(
        isinstance(rate, dict) and set(rate) == known and rate["outcome"] in OUTCOMES for rate in document["rates"]
    ):
        raise WireError("a comparison of groups has rates of other fields")
    return document


def _rate(
    name: str, bucket: str, outcome: str, count: float, total: float, slots: int, noise: float, widest: float
) -> SliceRate:
    hidden = SliceRate(name, bucket, outcome, None, 0.0, 1.0, None)
    spread = noise * math.sqrt(slots)
    if (
        total < 1.0
        or total <= 2.0 * spread
        or 2.0 * _Z * math.sqrt(_variance(0.5, total, slots, noise)) / total > widest
    ):
        return hidden
    inside = _not_contradicted(count, total, slots, noise)
    if not len(inside):
        return hidden
    # To the next point of the grid: what lies between was not looked at.
    low, high = max(float(inside[0]) - _STEP, 0.0), min(float(inside[-1]) + _STEP, 1.0)
    return SliceRate(name, bucket, outcome, min(max(count / total, low), high), low, high, total)


def _not_contradicted(count: float, total: float, slots: int, noise: float) -> npt.NDArray[np.float64]:
    """The rates θ for which count − θ · total is as near to 0 as it should be."""
    near = np.square(count - GRID * total) <= _Z * _Z * _variance(GRID, total, slots, noise) + 1e-12
    return np.asarray(GRID[near])


def _variance(rate: Any, total: float, slots: int, noise: float) -> Any:
    """Of count − θ · total: the noise of `slots` independent numbers, one of them weighing 1 − θ and the others θ, and the users.

    A share between 0 and 1 with mean θ varies by at most θ (1 − θ) between them (Bhatia and Davis 2000).
    """
    return noise**2 * ((1.0 - rate) ** 2 + (slots - 1) * rate**2) + max(total, 1.0) * rate * (1.0 - rate)


def _gaps(rates: list[SliceRate]) -> tuple[Gap, ...]:
    told: dict[tuple[str, str], list[SliceRate]] = {}
    for rate in rates:
        if not rate.suppressed:
            told.setdefault((rate.slice, rate.outcome), []).append(rate)
    pairs = sum(len(group) * (len(group) - 1) // 2 for group in told.values())
    if not pairs:
        return ()
    z = NormalDist().inv_cdf(1.0 - (1.0 - LEVEL) / 2.0 / pairs)
    # One that is sure before one that is larger: between small groups the largest difference is mostly noise.
    pairwise = [_differences(group, z / _Z) for group in told.values() if len(group) > 1]
    found = [max(gaps, key=lambda gap: (gap.sure, gap.value)) for gaps in pairwise]
    return tuple(sorted(found, key=lambda gap: -gap.value))


def _differences(group: list[SliceRate], wider: float) -> Iterator[Gap]:
    for one, other in combinations(group, 2):
        above, below = (one, other) if (one.value or 0.0) >= (other.value or 0.0) else (other, one)
        value = (above.value or 0.0) - (below.value or 0.0)
        # Of two independent intervals that need not be symmetric (Newcombe 1998, method 10).
        down = math.hypot((above.value or 0.0) - above.low, below.high - (below.value or 0.0))
        up = math.hypot(above.high - (above.value or 0.0), (below.value or 0.0) - below.low)
        low, high = max(value - wider * down, -1.0), min(value + wider * up, 1.0)
        yield Gap(one.slice, one.outcome, above.bucket, below.bucket, value, low, high)


def rates_by_group(document: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """(slice, bucket) -> outcome -> rate, of a parsed `fairness.json`."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for rate in document["rates"]:
        found.setdefault((str(rate["slice"]), str(rate["bucket"])), {})[str(rate["outcome"])] = rate
    return found
