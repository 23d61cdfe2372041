"""Has something changed? A light detector of one stream of numbers from 0 (good) to 1 (bad), and what a change asks for.

Windows are those of ADWIN (Bifet, Gavaldà 2007): buckets of exponentially growing size, so that memory and the work of one
observation are bounded however long the stream. The test at each cut is ours: only for the worse (a fleet is not retrained
because things got better), and by Bernstein's bound with the variance of the older part alone, which a change does not inflate.
benchmarks/drift.py compares it with ADWIN's own bound, Page-Hinkley, KSWIN and MMD, all set to the same rate of false alarms.
Pure: what watches, and what is kept, stands in edge_client/improve/drift_watch.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_client.decide.bandit import Exploration
from shared_models.errors import DecisionError

THRESHOLD = 5.0
"""Evidence, in nats of Bernstein's bound, from which it is a change. Set so that in 1,000 independent observations without any
change at most 5% of streams raise an alarm, whatever their rate and shape (benchmarks/drift.py, tests)."""
BUCKETS = 8
"""Of one size before the two oldest are joined."""
MOST_LEVELS = 14
"""Sizes 1, 2, 4, … 2^13: a window of up to about 130,000 observations in 112 buckets; the oldest go."""
BLOCK_LEVEL = 4
"""Sums over blocks of 2^4 observations show how much more they vary than independent ones would: what comes in sessions does."""
LEAST_BEFORE, LEAST_AFTER = 20, 12
"""Observations before and after a cut, at least."""
_SHRINK = 4.0
"""As many imagined observations with a variance of 0.1 steady the variance of a short or constant past."""
_BERNSTEIN = 2.0 / 3.0
STATE_FORMAT = 1


Bucket = tuple[float, float, float]
"""Sum, sum of squares, and sum of the squares of the sums of whole blocks; the last is 0 in buckets smaller than a block."""


class DriftDetector:
    """One stream. Not thread-safe. O(1): at most BUCKETS · MOST_LEVELS sums are held and looked at for each observation."""

    def __init__(self) -> None:
        self._levels: list[list[Bucket]] = [[]]
        """Level i: buckets of 2^i observations, oldest first."""
        self._count = 0

    def __len__(self) -> int:
        """Observations in the window."""
        return self._count

    @property
    def mean(self) -> float:
        """Of the window; 0 if it is empty."""
        return sum(bucket[0] for level in self._levels for bucket in level) / self._count if self._count else 0.0

    def observe(self, badness: float) -> bool:
        """Take in one number from 0 to 1; True if things have got worse since some time in the window.

        Then what was before that time is dropped, so that one change raises one alarm. Raises DecisionError.
        """
        if isinstance(badness, bool):
            badness = float(badness)
        if not isinstance(badness, int | float) or not 0.0 <= badness <= 1.0:
            raise DecisionError(f"badness is {str(badness)[:40]!r}, expected a number from 0 to 1")
        value = float(badness)
        self._levels[0].append((value, value * value, 0.0))
        self._count += 1
        self._join()
        if self._count < LEAST_BEFORE + LEAST_AFTER:
            return False
        cut = self._worst_cut()
        if cut is None:
            return False
        self._drop_before(cut)
        return True

    def _join(self) -> None:
        for number in range(MOST_LEVELS):
            level = self._levels[number]
            if len(level) <= BUCKETS:
                return
            first, second = level[0], level[1]
            del level[:2]
            if number + 1 == MOST_LEVELS:
                self._count -= 2 << number
                return
            if number + 1 == len(self._levels):
                self._levels.append([])
            total = first[0] + second[0]
            blocks = total * total if number + 1 == BLOCK_LEVEL else first[2] + second[2]
            self._levels[number + 1].append((total, first[1] + second[1], blocks))

    def _worst_cut(self) -> int | None:
        """How many observations lie before the cut with the most evidence, if that is enough."""
        total = sum(bucket[0] for level in self._levels for bucket in level)
        worst, found = THRESHOLD, None
        before, before_sum, before_squares, in_blocks, block_sum, block_squares = 0, 0.0, 0.0, 0, 0.0, 0.0
        for number in range(len(self._levels) - 1, -1, -1):
            for bucket_sum, bucket_squares, bucket_blocks in self._levels[number]:
                before += 1 << number
                before_sum += bucket_sum
                before_squares += bucket_squares
                if number >= BLOCK_LEVEL:
                    in_blocks += 1 << (number - BLOCK_LEVEL)
                    block_sum += bucket_sum
                    block_squares += bucket_blocks
                after = self._count - before
                if before < LEAST_BEFORE:
                    continue
                if after < LEAST_AFTER:
                    return found
                variance = (max(before_squares - before_sum**2 / before, 0.0) + 0.1 * _SHRINK) / (before + _SHRINK)
                if in_blocks > 1:
                    together = (block_squares - block_sum**2 / in_blocks) / (in_blocks - 1) / (1 << BLOCK_LEVEL)
                    variance = max(variance, together)
                evidence = _evidence(before, before_sum, variance, after, total - before_sum)
                if evidence > worst:
                    worst, found = evidence, before
        return found

    def _drop_before(self, count: int) -> None:
        for number in range(len(self._levels) - 1, -1, -1):
            level, size = self._levels[number], 1 << number
            gone = min(len(level), count // size)
            del level[:gone]
            count -= gone * size
            self._count -= gone * size

    # -- keeping --------------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """For the encrypted store: sums, no single observation that is older than the newest few."""
        return {"format": STATE_FORMAT, "levels": [[list(bucket) for bucket in level] for level in self._levels]}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Take up what `document()` gave. Raises DecisionError for anything else; then nothing has changed."""
        try:
            if document["format"] != STATE_FORMAT or not 1 <= len(document["levels"]) <= MOST_LEVELS:
                raise ValueError("format or levels")
            levels = [[(float(a), float(b), float(c)) for a, b, c in level] for level in document["levels"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DecisionError(f"not the state of a drift detector: {str(error)[:100]}") from error
        for number, level in enumerate(levels):
            size = 1 << number
            # NaN fails these, too.
            if len(level) > BUCKETS + 1 or not all(
                -1e-6 <= squares <= total + 1e-6 and total <= size + 1e-6 and 0.0 <= blocks <= total * total + 1e-6
                for total, squares, blocks in level
            ):
                raise DecisionError("not the state of a drift detector: sums that no observations have")
        self._levels = levels
        self._count = sum(len(level) << number for number, level in enumerate(levels))


def _evidence(before: int, total: float, variance: float, after: int, later: float) -> float:
    """The exponent L for which Bernstein's bound allows just this rise: rise = √(2·v·L/m) + 2L/(3m), m the harmonic count."""
    rise = later / after - total / before
    if rise <= 0.0:
        return 0.0
    inverse = 1.0 / before + 1.0 / after
    slope, linear = math.sqrt(2.0 * variance * inverse), _BERNSTEIN * inverse
    root = (math.sqrt(slope * slope + 4.0 * linear * rise) - slope) / (2.0 * linear)
    return root * root


# -- what a change asks for --------------------------------------------------------------------------------------------

CALM_AFTER_S = 14 * 86_400.0
"""For so long after a change more is tried out and more is forgotten."""


@dataclass(frozen=True)
class Unrest:
    """How much the user's taste has just changed: 1 at the change, falling to 0 over CALM_AFTER_S."""

    level: float = 0.0

    @classmethod
    def since(cls, changed_s: float | None, now_s: float) -> Unrest:
        """`changed_s`: Unix time of the last change of taste, None if there was none. A clock that was set back counts as now."""
        if changed_s is None:
            return cls()
        return cls(min(1.0, max(0.0, 1.0 - (now_s - changed_s) / CALM_AFTER_S)))

    def exploration(self, usual: Exploration) -> Exploration:
        """Up to twice the usual spread and floor. What is sensitive is explored no more than ever."""
        if self.level == 0.0:
            return usual
        more = 1.0 + self.level
        return replace(usual, spread=min(usual.spread * more, 10.0), floor=min(usual.floor * more, 1.0))

    def half_life_s(self, usual_s: float) -> float:
        """Down to an eighth of the usual half-life: what was learned before the change fades."""
        return usual_s if self.level == 0.0 else usual_s * 0.5 ** (3.0 * self.level)
