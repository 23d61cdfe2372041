"""Against a filter bubble: lists that keep the proportions of what a user cares about, and a cap on what is shown again
and again.

`calibrated` re-ranks (Steck, Calibrated Recommendations, RecSys 2018): the list's shares of categories should be near the
user's own, mixed with a little of everything. It never pays more than a declared loss of score for that. `Exposure`
counts what was shown and says which groups have had their share for now. What the counts are about never leaves the
device.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared_models.errors import DecisionError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
MAX_ITEMS = 100_000
MAX_SIZE = 100
_SMOOTH = 0.01
"""Of the target, mixed into the list's shares: the divergence stays finite (Steck, equation 5)."""


@dataclass(frozen=True)
class DiversityLimits:
    """How much is done for variety, and what it may cost."""

    strength: float = 0.5
    """0: by score alone; 1: by proportions alone, within `most_loss`."""
    everything: float = 0.2
    """Part of the target that is spread evenly over all categories: the way out of a bubble."""
    most_loss: float = 0.15
    """No place of the list goes to an item whose score is further below the best one left than this part of the scores'
    range."""
    most_exposure: float = 0.4
    """Of what was shown lately, the most that one group may have while there is something else within `most_loss`."""
    window: int = 30
    """`lately`, in items shown."""

    def __post_init__(self) -> None:
        for name in ("strength", "everything", "most_loss", "most_exposure"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
                raise DecisionError(f"diversity: {name} is {str(value)[:40]!r}, expected a number from 0 to 1")
        if isinstance(self.window, bool) or not isinstance(self.window, int) or not 1 <= self.window <= 10_000:
            raise DecisionError(f"diversity: window is {str(self.window)[:40]!r}, expected 1 to 10000 items")


def shares(categories: Array, weights: Array | None = None) -> Array:
    """[c], mean of the items' category shares [n, c], each item's summing to 1; an item without any counts for all alike."""
    if len(categories) == 0:
        return np.full(categories.shape[1], 1.0 / categories.shape[1])
    mean = np.average(_per_item(categories), axis=0, weights=weights)
    return np.asarray(mean / mean.sum())


def divergence(target: Array, listed: Array) -> float:
    """Kullback-Leibler divergence of a list's shares from the target, in nats; 0 for the same proportions."""
    mixed = (1.0 - _SMOOTH) * listed + _SMOOTH * target
    some = target > 0.0
    return float(np.sum(target[some] * np.log(target[some] / mixed[some])))


def calibrated(
    scores: Array,
    categories: Array,
    target: Array,
    size: int,
    limits: DiversityLimits | None = None,
    *,
    permitted: Mask | None = None,
    tired: Mask | None = None,
) -> tuple[int, ...]:
    """Up to `size` different rows of `scores` [n], in the order in which they are shown.

    `categories` [n, c] are each item's shares (any scale, not negative); `target` [c] the user's own. `permitted` [n]:
    what no rule forbids, nothing else is ever returned. `tired` [n]: groups that had their share, taken only if nothing
    else is good enough. Raises DecisionError for shapes that do not fit, NaN and infinities.
    """
    limits = limits or DiversityLimits()
    allowed, avoided = _checked(scores, categories, target, size, permitted, tired)
    open_rows = np.flatnonzero(allowed)
    if not len(open_rows):
        return ()
    spread = float(np.ptp(scores[open_rows])) or 1.0
    # What could be taken at all: the best `size` and whatever is within the loss of the last of them.
    order = open_rows[np.argsort(-scores[open_rows], kind="stable")]
    floor = scores[order[min(size, len(order)) - 1]] - limits.most_loss * spread
    pool = order[scores[order] >= floor]
    value, parts = scores[pool] / spread, _per_item(categories[pool])
    wanted = np.asarray(target, dtype=np.float64)
    wanted = wanted / wanted.sum() if wanted.sum() > 0.0 else np.full(len(wanted), 1.0 / len(wanted))
    wanted = (1.0 - limits.everything) * wanted + limits.everything / len(wanted)
    some = wanted > 0.0
    left, total, chosen = np.ones(len(pool), dtype=bool), np.zeros(len(wanted)), []
    for place in range(min(size, len(pool))):
        near = left & (value >= value[left].max() - limits.most_loss)
        if (rested := near & ~avoided[pool]).any():
            near = rested
        mixed = (1.0 - _SMOOTH) * (total + parts) / (place + 1) + _SMOOTH * wanted
        apart = np.sum(wanted[some] * np.log(wanted[some] / mixed[:, some]), axis=1)
        gain = (1.0 - limits.strength) * value - limits.strength * apart
        best = int(np.where(near, gain, -np.inf).argmax())
        left[best] = False
        total = total + parts[best]
        chosen.append(int(pool[best]))
    return tuple(chosen)


class Exposure:
    """What was shown lately, by group (a country, a kind, a provider). Not thread-safe."""

    def __init__(self, limits: DiversityLimits | None = None) -> None:
        self._limits = limits or DiversityLimits()
        self._shown: deque[Hashable] = deque(maxlen=self._limits.window)
        self._counts: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._shown)

    def record(self, groups: Sequence[Hashable]) -> None:
        """These were shown now, one entry for each item."""
        for group in groups:
            if len(self._shown) == self._limits.window:
                oldest = self._shown[0]
                self._counts[oldest] -= 1
                if not self._counts[oldest]:
                    del self._counts[oldest]
            self._shown.append(group)
            self._counts[group] += 1

    def share(self, group: Hashable) -> float:
        """0..1; 0 while nothing was shown."""
        return self._counts[group] / len(self._shown) if self._shown else 0.0

    def tired(self, groups: Sequence[Hashable]) -> Mask:
        """[n]: whether each group would be above its share with one more; not before a third of the window was shown."""
        if 3 * len(self._shown) < self._limits.window:
            return np.zeros(len(groups), dtype=bool)
        most = self._limits.most_exposure * (len(self._shown) + 1)
        return np.array([self._counts[group] + 1 > most for group in groups], dtype=bool)

    @property
    def effective_groups(self) -> float:
        """How many groups equally shown would be as varied: exp of the entropy (Hill 1973); 0 while nothing was shown."""
        if not self._shown:
            return 0.0
        parts = [count / len(self._shown) for count in self._counts.values()]
        return math.exp(-sum(part * math.log(part) for part in parts))

    def document(self) -> dict[str, Any]:
        """For the encrypted store."""
        return {"format": 1, "shown": list(self._shown)}

    @classmethod
    def from_document(cls, document: Any, limits: DiversityLimits | None = None) -> Exposure:
        """Raises DecisionError for what `document()` did not give."""
        shown = document.get("shown") if isinstance(document, dict) and document.get("format") == 1 else None
        if not isinstance(shown, list) or not all(isinstance(group, str | int) for group in shown):
            raise DecisionError("not a record of what was shown: expected format 1 and a list of groups")
        exposure = cls(limits)
        exposure.record(shown[-10_000:])
        return exposure


def _per_item(categories: Array) -> Array:
    totals = categories.sum(axis=1, keepdims=True)
    even = 1.0 / categories.shape[1]
    return np.asarray(np.where(totals > 0.0, categories / np.where(totals > 0.0, totals, 1.0), even))


def _checked(
    scores: Array, categories: Array, target: Array, size: int, permitted: Mask | None, tired: Mask | None
) -> tuple[Mask, Mask]:
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_SIZE:
        raise DecisionError(f"a list of {str(size)[:40]}, expected 1 to {MAX_SIZE}")
    for name, array, dimensions in (("scores", scores, 1), ("categories", categories, 2), ("target", target, 1)):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim != dimensions:
            raise DecisionError(f"{name}: expected an array of numbers in {dimensions} dimensions")
        if not np.isfinite(array).all() or (name != "scores" and (array < 0.0).any()):
            raise DecisionError(f"{name}: NaN, infinite or negative numbers")
    count = len(scores)
    if not 0 < count <= MAX_ITEMS or categories.shape != (count, len(target)) or not len(target):
        raise DecisionError(f"scores {scores.shape}, categories {categories.shape}, target {target.shape} do not fit")
    masks = []
    for name, mask, default in (("permitted", permitted, True), ("tired", tired, False)):
        if mask is None:
            masks.append(np.full(count, default))
        elif isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (count,):
            masks.append(mask)
        else:
            raise DecisionError(f"{name}: expected one truth value for each of {count} items")
    return masks[0], masks[1]
