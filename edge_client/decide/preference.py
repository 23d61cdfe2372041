"""A user's taste, folded in on the device: signals → evidence for each item → a history and a vector → the best items.

What speaks for an item becomes part of the history, whose weights the population has shown. What speaks against, which no count
of the population holds, moves the user's vector by ridge regression, whose prior is the population (0); so does all evidence
where the item space has no head. Nothing here is kept or leaves the device: plain values in, plain values out.

Guards against noise: a look that was too short is nearly nothing and one that was left open counts as a usual one; clicks in a
burst count once; much of one weak kind never weighs more than one clear word; old signals fade; a single rating that fits nothing
else is bounded (Huber 1964); few signals leave the population's ranking nearly as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shared_models.errors import SignalError
from shared_models.median import median
from shared_models.preference import Array, ItemSpaceSession

DAY_S = 86_400.0
MAX_SIGNALS = 5000
"""The newest ones are used; bounds time and memory."""
SHORT_LOOK_S = 2.0
"""A look below this was an accident."""
OPEN_LOOK_S = 1200.0
"""A look beyond this was left open: it says no more than a usual one."""
USUAL_LOOK_S = 20.0
"""Until a user's own median is known."""
BURST_S = 0.7
"""Clicks closer together than this are one."""
CLEAR_PRECISION = 4.0
"""A clear word is a taste with a standard deviation of 1/2; the population's tastes have one of 1 in each direction."""
HUBER = 0.5
"""Residuals beyond this weigh as if they were here."""
LEARNED_AFTER = 20.0
"""So many of a user's own pairs of a weak and a clear signal weigh as much as the population's strength of a kind."""


@dataclass(frozen=True)
class Strength:
    """What one signal of a kind says."""

    value: float
    """−1 (against) to 1 (for)."""
    weight: float
    """How sure, 0 to 1; 1 is a clear word."""
    half_life_days: float


STRENGTHS: Mapping[str, Strength] = {
    "chosen": Strength(1.0, 1.0, 365.0),
    "like": Strength(1.0, 1.0, 365.0),
    "dislike": Strength(-1.0, 1.0, 365.0),
    "rating": Strength(0.0, 1.0, 365.0),
    "save": Strength(0.9, 0.7, 180.0),
    "click": Strength(0.5, 0.25, 45.0),
    "look": Strength(0.6, 0.2, 45.0),
    "skip": Strength(-0.3, 0.1, 14.0),
    "dismiss": Strength(-0.7, 0.5, 90.0),
}
"""Kinds of signals. A rating's value is its own; `look` carries a dwell time."""
CLEAR = ("chosen", "like", "dislike", "rating")


@dataclass(frozen=True)
class Signal:
    """One thing that the user did with an item. Raises SignalError for what cannot be used."""

    item: str
    kind: str
    time_s: float
    """Unix time."""
    value: float | None = None
    """Of a rating: −1 to 1."""
    dwell_s: float | None = None
    """Of a look: how long, 0 or more."""

    def __post_init__(self) -> None:
        if not isinstance(self.item, str) or not 0 < len(self.item) <= 100:
            raise SignalError("a signal names an item by 1 to 100 characters")
        if not isinstance(self.kind, str) or self.kind not in STRENGTHS:
            raise SignalError(f"there is no kind of signal {str(self.kind)[:40]!r}; expected {', '.join(STRENGTHS)}")
        if not _finite(self.time_s) or not 0 <= self.time_s < 1e12:
            raise SignalError(f"time_s is {str(self.time_s)[:40]!r}, expected a Unix time")
        if (self.value is None) == (self.kind == "rating") or not (
            self.value is None or (_finite(self.value) and abs(self.value) <= 1.0)
        ):
            raise SignalError("a rating, and nothing else, has a value from -1 to 1")
        if self.dwell_s is not None and (self.kind != "look" or not _finite(self.dwell_s) or self.dwell_s < 0):
            raise SignalError("only a look has a dwell_s, of 0 seconds or more")


@dataclass(frozen=True, eq=False)
class Taste:
    """A user, as an item space sees them. Stays on the device."""

    history: Array
    """[head], 0…1: how surely the user likes each."""
    user: Array
    """[rank]: mean of the user's vector."""
    covariance: npt.NDArray[np.float64]
    """[rank, rank]: what is not known yet; the identity for a new user."""
    amount: float
    """How many clear words all evidence is worth."""
    against: tuple[int, ...]
    """Rows of items that the user clearly does not want."""
    had: tuple[int, ...]
    """Rows of items that the user clearly likes, and has no need to be told of."""


@dataclass(frozen=True)
class Suggestion:
    item: str
    score: float
    """Comparable within one answer only."""


def fold_in(
    space: ItemSpaceSession,
    signals: Iterable[Signal],
    now_s: float,
    strengths: Mapping[str, Strength] = STRENGTHS,
) -> Taste:
    """The user's taste from their signals, in any order; items unknown to the space are passed over. Raises SignalError."""
    if not _finite(now_s):
        raise SignalError(f"now_s is {str(now_s)[:40]!r}, expected a Unix time")
    evidence = gather(signals, now_s, strengths)
    known = [(space.row[item], value, weight) for item, (value, weight) in evidence.items() if item in space.row]
    rows = np.array([row for row, _, _ in known], np.int64)
    values = np.array([value for _, value, _ in known])
    weights = np.array([weight for _, _, weight in known])
    history = np.zeros(space.head, np.float32)
    in_history = (values > 0) & bool(space.head)
    if in_history.any():
        # The surest of what points at one item, not the sum: ten items like it are not ten times it.
        pointed = space.mixtures(rows[in_history]) * (values * weights)[in_history, None].astype(np.float32)
        history = pointed.max(axis=0)
    folded = ~in_history
    user, covariance = ridge(space.vectors(rows[folded]), values[folded], CLEAR_PRECISION * weights[folded])
    against = tuple(int(row) for row in rows[(values < -0.5) & (weights >= 0.5)])
    had = tuple(int(row) for row in rows[(values > 0.5) & (weights >= 0.5)])
    return Taste(history, user, covariance, float(weights.sum()), against, had)


def gather(
    signals: Iterable[Signal], now_s: float, strengths: Mapping[str, Strength]
) -> dict[str, tuple[float, float]]:
    """Item → (value −1…1, weight 0…1): the weighted mean of what its signals say, and how sure that is. Newest signals first."""
    newest = sorted(signals, key=_time, reverse=True)[:MAX_SIGNALS]
    usual_s = _usual_look_s(newest)
    sums: dict[str, list[float]] = {}
    latest_clear: dict[str, float] = {}
    last_click: dict[str, float] = {}
    for signal in newest:
        if signal.kind == "click":
            later_s = last_click.get(signal.item)
            last_click[signal.item] = signal.time_s
            if later_s is not None and later_s - signal.time_s < BURST_S:
                continue
        value, weight = _says(signal, strengths[signal.kind], usual_s)
        # A clear word that was taken back later does not count against the later one.
        if signal.kind in CLEAR and latest_clear.setdefault(signal.item, signal.time_s) > signal.time_s:
            continue
        # A clock that runs ahead makes nothing fresher than fresh.
        age_days = max(0.0, now_s - signal.time_s) / DAY_S
        weight *= 0.5 ** (age_days / strengths[signal.kind].half_life_days)
        total = sums.setdefault(signal.item, [0.0, 0.0, 0.0])
        total[0] += weight * value
        total[1] += weight
        total[2] = max(total[2], strengths[signal.kind].weight)
    found = {}
    for item, (weighted, total_weight, surest) in sums.items():
        if total_weight > 1e-6:
            # Weak signals of one item add up, to twice their kind's weight and to a clear word at most.
            found[item] = (weighted / total_weight, min(total_weight, 2.0 * surest, 1.0))
    return found


def ridge(
    vectors: Array, values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], *, turns: int = 3
) -> tuple[Array, npt.NDArray[np.float64]]:
    """Mean [rank] and covariance [rank, rank] of the user's vector u: values [m] ≈ vectors [m, rank] · u, prior N(0, 1).

    `weights` [m] are precisions. Huber's loss by reweighting, `turns` times, so that one false signal pulls with bounded force.
    """
    items = vectors.astype(np.float64)
    rank = items.shape[1]
    mean, covariance = np.zeros(rank), np.eye(rank)
    bounded = weights
    for _ in range(turns if len(values) else 0):
        covariance = np.linalg.inv(np.eye(rank) + (items * bounded[:, None]).T @ items)
        mean = covariance @ (items.T @ (bounded * values))
        bounded = weights * np.minimum(1.0, HUBER / np.maximum(np.abs(values - items @ mean), 1e-12))
    return mean.astype(np.float32), covariance


def suggest(
    space: ItemSpaceSession, taste: Taste, k: int, *, excluded: Sequence[str] = (), again: bool = False
) -> list[Suggestion]:
    """The best `k` items for a taste, best first. Left out: `excluded`, what the user clearly does not want, and, unless `again`,
    what the user has had. Raises InputError."""
    barred = {space.row[item] for item in excluded if item in space.row} | set(taste.against)
    if not again:
        barred |= set(taste.had)
    scores, rows = space.top(taste.history, taste.user, k, sorted(barred))
    return [
        Suggestion(space.items[row], float(score)) for score, row in zip(scores, rows, strict=True) if row not in barred
    ]


def learn_strengths(signals: Iterable[Signal], strengths: Mapping[str, Strength] = STRENGTHS) -> dict[str, Strength]:
    """The population's strengths, moved to what this user's weak signals have meant: the clear words on the same items.

    A kind's value becomes the mean over the user's own clear words and LEARNED_AFTER imagined ones at the population's value, so
    that few of them change little.
    """
    clear: dict[str, float] = {}
    weak: list[Signal] = []
    for signal in sorted(signals, key=_time)[-MAX_SIGNALS:]:
        if signal.kind in CLEAR:
            clear[signal.item] = signal.value if signal.value is not None else strengths[signal.kind].value
        else:
            weak.append(signal)
    learned = dict(strengths)
    for kind in {signal.kind for signal in weak}:
        # Each item once: a hundred clicks on one item are one observation.
        meant = [clear[item] for item in {signal.item for signal in weak if signal.kind == kind} if item in clear]
        before = strengths[kind]
        value = (LEARNED_AFTER * before.value + math.fsum(meant)) / (LEARNED_AFTER + len(meant))
        learned[kind] = replace(before, value=value)
    return learned


def _says(signal: Signal, strength: Strength, usual_s: float) -> tuple[float, float]:
    if signal.value is not None:
        return signal.value, strength.weight
    if signal.dwell_s is None:
        return strength.value, strength.weight
    if signal.dwell_s < SHORT_LOOK_S:
        return 0.0, strength.weight * 0.2
    looked_s = usual_s if signal.dwell_s > OPEN_LOOK_S else signal.dwell_s
    return strength.value * min(1.0, math.log1p(looked_s) / math.log1p(usual_s)), strength.weight


def _usual_look_s(signals: Sequence[Signal]) -> float:
    """The user's median look, once ten are known: who reads slowly does not like everything."""
    looks = [
        signal.dwell_s
        for signal in signals
        if signal.dwell_s is not None and SHORT_LOOK_S <= signal.dwell_s <= OPEN_LOOK_S
    ]
    return median(looks) if len(looks) >= 10 else USUAL_LOOK_S


def _time(signal: Signal) -> float:
    return signal.time_s


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
