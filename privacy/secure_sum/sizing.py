"""How many share-holders a device needs, and how many of them must answer: one function, computed by server and device alike.

Every device draws `degree` share-holders at random from the roster. Of the roster at most `colluders` are bad (an assumption)
and at least `min_survivors` answer to the end, or nothing is released. The exact tails are hypergeometric; failure
probabilities hold for the whole cohort together (union bound).

    privacy      some device has `threshold` or more bad share-holders: they could open it           ≤ 2^-40
    separation   the server chooses who drops so that the survivors fall into two groups whose
                 sums it learns apart (each with too little noise)                                   ≤ 2^-40
    correctness  some survivor or dropped device has fewer than `threshold` share-holders that
                 answer, when drop-outs fall at random: the round is lost, nothing is revealed       ≤ 2^-30
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from shared_models.errors import PolicyError

PRIVACY_FAILURE_BITS = 40
CORRECTNESS_FAILURE_BITS = 30
COMPLETE_BELOW = 30
"""A smaller roster gets the complete graph."""
MAX_DEGREE = 254
"""Shares are points of GF(2^8) other than zero, one for each share-holder."""

_LN2 = math.log(2.0)


@dataclass(frozen=True)
class GraphSize:
    """Share-holders per device, how many of them reconstruct, and how likely each kind of failure is (log2, upper bounds)."""

    degree: int
    threshold: int
    privacy_log2: float
    separation_log2: float
    correctness_log2: float


@functools.lru_cache(maxsize=256)
def graph_size(roster: int, colluders: int, min_survivors: int) -> GraphSize:
    """The smallest degree that meets all three bounds, with the largest threshold that correctness allows.

    Raises PolicyError if there is none: too many colluders or drop-outs for shares over GF(2^8).
    """
    if not 0 <= colluders < min_survivors <= roster or roster < 2:
        raise PolicyError(
            f"a secure sum over {roster} devices with {colluders} colluders and at least {min_survivors} survivors is impossible"
        )
    others = roster - 1
    if roster < COMPLETE_BELOW:
        return _complete(roster, colluders, min_survivors)
    dropped = roster - min_survivors
    degree = _first(lambda k: _tails_meet(others, colluders, dropped, roster, k), 2, min(MAX_DEGREE, others))
    while degree is not None and degree < min(MAX_DEGREE, others):
        size = _sized(roster, colluders, min_survivors, degree)
        if size is not None:
            return size
        degree += 1
    if others <= MAX_DEGREE and colluders + 1 <= min_survivors - 1:
        return _complete(roster, colluders, min_survivors)
    raise PolicyError(
        f"no graph of at most {MAX_DEGREE} share-holders protects {roster} devices of which {colluders} collude "
        f"and {dropped} may drop out: allow fewer drop-outs (a larger min_survivors)"
    )


def _complete(roster: int, colluders: int, min_survivors: int) -> GraphSize:
    """Everybody holds a share of everybody: no chance is involved."""
    threshold = min_survivors - 1
    if threshold <= colluders:
        raise PolicyError(
            f"of {roster} devices {colluders} may collude and {min_survivors} are enough for a release: "
            f"min_survivors must be at least {colluders + 2}"
        )
    return GraphSize(roster - 1, threshold, -math.inf, -math.inf, -math.inf)


def _sized(roster: int, colluders: int, min_survivors: int, degree: int) -> GraphSize | None:
    others, dropped = roster - 1, roster - min_survivors
    union = math.log2(roster)
    threshold = 0
    # A lower threshold is more likely to be reached: the largest that still is has the widest margin for privacy.
    low, high = 1, degree
    while low <= high:
        middle = (low + high) // 2
        lost = union + log2_at_least(others, dropped, degree, degree - middle + 1)
        if lost <= -CORRECTNESS_FAILURE_BITS:
            threshold, low = middle, middle + 1
        else:
            high = middle - 1
    if not threshold:
        return None
    privacy = union + log2_at_least(others, colluders, degree, threshold)
    if privacy > -PRIVACY_FAILURE_BITS:
        return None
    separation = separation_log2(roster, colluders, min_survivors, degree, threshold)
    if separation > -PRIVACY_FAILURE_BITS:
        return None
    lost = union + log2_at_least(others, dropped, degree, degree - threshold + 1)
    return GraphSize(degree, threshold, privacy, separation, lost)


def _tails_meet(others: int, colluders: int, dropped: int, roster: int, degree: int) -> bool:
    """Whether some threshold meets privacy and correctness; monotone in `degree` but for a step of one."""
    union = math.log2(roster)
    low, high = 1, degree
    while low < high:
        middle = (low + high) // 2
        if union + log2_at_least(others, colluders, degree, middle) <= -PRIVACY_FAILURE_BITS:
            high = middle
        else:
            low = middle + 1
    return union + log2_at_least(others, dropped, degree, degree - low + 1) <= -CORRECTNESS_FAILURE_BITS and (
        union + log2_at_least(others, colluders, degree, low) <= -PRIVACY_FAILURE_BITS
    )


def _first(holds, low: int, high: int) -> int | None:  # type: ignore[no-untyped-def]
    """The least value from which `holds` is seen, by bisection and a few steps back (it may jump at single values)."""
    if not holds(high):
        return None
    most = high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    found = low
    for earlier in range(max(2, low - 4), low):
        if holds(earlier):
            found = earlier
            break
    return min(found, most)


def log2_at_least(population: int, marked: int, drawn: int, least: int) -> float:
    """log2 P[X ≥ least], X hypergeometric: marked ones among `drawn` of `population`. Exact up to float rounding."""
    most = min(marked, drawn)
    if least <= max(0, drawn - (population - marked)):
        return 0.0
    if least > most:
        return -math.inf
    all_ways = _ln_choose(population, drawn)
    terms = [
        _ln_choose(marked, hit) + _ln_choose(population - marked, drawn - hit) - all_ways
        for hit in range(least, most + 1)
    ]
    largest = max(terms)
    return min(0.0, (largest + math.log(math.fsum(math.exp(term - largest) for term in terms))) / _LN2)


def separation_log2(roster: int, colluders: int, min_survivors: int, degree: int, threshold: int) -> float:
    """log2 of a bound on: some set S of s honest survivors can be cut off from the other honest survivors R.

    For the self masks of S to be opened, each of its devices needs `threshold` share-holders among S and the colluders: none
    of R may be among its share-holders, for a mask between two survivors stays closed. So, for each size s of the smaller
    side, all s devices draw (a) at least `threshold` from s + colluders others, and (b) none of R, |R| ≥ what n_min leaves.
    Union over all S, for (b) also over all R; the smaller bound counts. (a) is bounded by Hoeffding 1963, Theorem 4.
    """
    others = roster - 1
    honest = roster - colluders
    total = -math.inf
    for size in range(2, honest // 2 + 1):
        choose = _ln_choose(honest, size) / _LN2
        inside = choose + size * _log2_hoeffding((size + colluders) / others, threshold / degree, degree)
        rest = max(size, min_survivors - colluders - size)
        reachable = others - rest
        apart = (
            -math.inf
            if reachable < degree
            else choose + honest + size * (_ln_choose(reachable, degree) - _ln_choose(others, degree)) / _LN2
        )
        total = _log2_add(total, min(inside, apart))
    return total


def _log2_hoeffding(mean: float, reached: float, drawn: int) -> float:
    """log2 of exp(−drawn · KL(reached ‖ mean)), a bound on P[share ≥ reached] for sampling without replacement."""
    if reached <= mean:
        return 0.0
    divergence = reached * math.log(reached / mean)
    if reached < 1.0:
        divergence += (1.0 - reached) * math.log((1.0 - reached) / (1.0 - mean))
    return -drawn * divergence / _LN2


def _log2_add(one: float, other: float) -> float:
    largest, least = max(one, other), min(one, other)
    return largest if least == -math.inf else largest + math.log2(1.0 + 2.0 ** (least - largest))


@functools.lru_cache(maxsize=1 << 16)
def _ln_choose(population: int, drawn: int) -> float:
    if not 0 <= drawn <= population:
        return -math.inf
    return math.lgamma(population + 1) - math.lgamma(drawn + 1) - math.lgamma(population - drawn + 1)
