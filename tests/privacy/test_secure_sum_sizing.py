"""Degree and threshold of a secure sum's graph: against exact integer arithmetic, and against graphs that are really drawn."""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secure_sum.sizing import (
    COMPLETE_BELOW,
    MAX_DEGREE,
    GraphSize,
    _log2_hoeffding,
    graph_size,
    log2_at_least,
    separation_log2,
)
from shared_models.errors import PolicyError

TABLE = [
    (roster, gamma, drop_out)
    for roster in (10, 20, 29, 30, 50, 100, 300, 1000, 3000, 10_000)
    for gamma in (0.05, 0.1)
    for drop_out in (0.1, 0.3)
]


@functools.lru_cache(maxsize=4096)
def exact_at_least(population: int, marked: int, drawn: int, least: int) -> Fraction:
    """P[X ≥ least], X hypergeometric, without rounding."""
    ways = sum(
        math.comb(marked, hit) * math.comb(population - marked, drawn - hit)
        for hit in range(max(0, least), min(marked, drawn) + 1)
    )
    return Fraction(ways, math.comb(population, drawn))


def log2_of(value: Fraction) -> float:
    return math.log2(value.numerator) - math.log2(value.denominator) if value else -math.inf


def sized(roster: int, gamma: float, drop_out: float) -> tuple[int, int, GraphSize]:
    colluders, survivors = math.ceil(gamma * roster), math.ceil(roster * (1 - drop_out))
    return colluders, survivors, graph_size(roster, colluders, survivors)


def privacy_fails(roster: int, colluders: int, degree: int, threshold: int) -> Fraction:
    """Union bound: some device has `threshold` colluders among its share-holders."""
    return roster * exact_at_least(roster - 1, colluders, degree, threshold)


def correctness_fails(roster: int, survivors: int, degree: int, threshold: int) -> Fraction:
    """Union bound: some device has fewer than `threshold` share-holders among those who answer."""
    return roster * exact_at_least(roster - 1, roster - survivors, degree, degree - threshold + 1)


@given(data=st.data(), population=st.integers(2, 2000))
@settings(max_examples=60, deadline=None)
def test_tails_are_those_of_integer_arithmetic(data: st.DataObject, population: int) -> None:
    marked = data.draw(st.integers(0, population))
    drawn = data.draw(st.integers(1, min(population, MAX_DEGREE)))
    least = data.draw(st.integers(0, drawn + 1))
    exact = log2_of(exact_at_least(population, marked, drawn, least))
    assert log2_at_least(population, marked, drawn, least) == pytest.approx(exact, rel=1e-9, abs=1e-8)


@given(data=st.data(), population=st.integers(3, 300))
@settings(max_examples=60, deadline=None)
def test_tails_grow_with_the_marked_and_the_drawn_and_fall_with_what_is_asked(
    data: st.DataObject, population: int
) -> None:
    marked, drawn = data.draw(st.integers(0, population - 1)), data.draw(st.integers(1, population - 1))
    least = data.draw(st.integers(0, drawn))
    here = log2_at_least(population, marked, drawn, least)
    assert log2_at_least(population, marked + 1, drawn, least) >= here - 1e-9
    assert log2_at_least(population, marked, drawn + 1, least) >= here - 1e-9
    assert log2_at_least(population, marked, drawn, least + 1) <= here + 1e-9


@pytest.mark.parametrize(("roster", "gamma", "drop_out"), TABLE)
def test_the_table_meets_its_failure_probabilities_exactly(roster: int, gamma: float, drop_out: float) -> None:
    colluders, survivors, size = sized(roster, gamma, drop_out)
    assert 1 <= size.threshold <= size.degree <= min(MAX_DEGREE, roster - 1)
    if size.degree == roster - 1:
        # Everybody holds a share of everybody: any n_min survivors reconstruct, all colluders together do not.
        assert colluders < size.threshold == survivors - 1
        return
    privacy = privacy_fails(roster, colluders, size.degree, size.threshold)
    correctness = correctness_fails(roster, survivors, size.degree, size.threshold)
    assert privacy <= Fraction(1, 2**40)
    assert correctness <= Fraction(1, 2**30)
    assert size.separation_log2 <= -40
    assert size.privacy_log2 == pytest.approx(log2_of(privacy), rel=1e-7)
    assert size.correctness_log2 == pytest.approx(log2_of(correctness), rel=1e-7)


@pytest.mark.parametrize(("roster", "gamma", "drop_out"), [item for item in TABLE if 30 <= item[0] <= 1000])
def test_the_degree_is_the_least_and_the_threshold_the_largest_that_will_do(
    roster: int, gamma: float, drop_out: float
) -> None:
    colluders, survivors, size = sized(roster, gamma, drop_out)
    assert correctness_fails(roster, survivors, size.degree, size.threshold + 1) > Fraction(1, 2**30)
    for degree in range(2, size.degree):
        works = [
            threshold
            for threshold in range(1, degree + 1)
            if log2_at_least(roster - 1, colluders, degree, threshold) + math.log2(roster) <= -40
            and log2_at_least(roster - 1, roster - survivors, degree, degree - threshold + 1) + math.log2(roster) <= -30
            and separation_log2(roster, colluders, survivors, degree, threshold) <= -40
        ]
        assert not works


def test_more_colluders_or_drop_outs_never_need_fewer_share_holders() -> None:
    for roster in (100, 300):
        degrees = [graph_size(roster, colluders, int(0.8 * roster)).degree for colluders in range(0, roster // 5, 5)]
        assert degrees == sorted(degrees)
        degrees = [graph_size(roster, roster // 20, roster - dropped).degree for dropped in range(0, roster // 3, 5)]
        assert degrees == sorted(degrees)


@pytest.mark.parametrize("roster", [*range(3, COMPLETE_BELOW), COMPLETE_BELOW])
def test_small_rosters_get_the_complete_graph(roster: int) -> None:
    size = graph_size(roster, 0, roster - 1)
    if roster < COMPLETE_BELOW:
        assert (size.degree, size.threshold) == (roster - 1, roster - 2)
        assert size.privacy_log2 == size.separation_log2 == size.correctness_log2 == -math.inf
    else:
        assert size.degree < roster - 1


@pytest.mark.parametrize(
    ("roster", "colluders", "survivors"),
    [
        (1, 0, 1),
        (0, 0, 0),
        (10, -1, 5),
        (10, 5, 5),
        (10, 6, 5),
        (10, 0, 11),
        (10, 0, 1),
        (10, 4, 5),
        (2, 0, 1),
        (1000, 499, 500),
        (10_000, 4000, 6000),
        (10_000, 1000, 3000),
    ],
)
def test_what_cannot_be_protected_is_refused(roster: int, colluders: int, survivors: int) -> None:
    with pytest.raises(PolicyError):
        graph_size(roster, colluders, survivors)


@given(roster=st.integers(2, 600), colluders=st.integers(0, 600), survivors=st.integers(1, 600), data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_asked_the_answer_is_a_graph_over_gf_256_or_a_refusal(
    roster: int, colluders: int, survivors: int, data: st.DataObject
) -> None:
    try:
        size = graph_size(roster, colluders, survivors)
    except PolicyError:
        return
    assert colluders < survivors <= roster
    assert 1 <= size.threshold <= size.degree <= min(254, roster - 1)
    assert privacy_fails(roster, colluders, size.degree, size.threshold) <= Fraction(1, 2**40) * (
        1 + Fraction(1, 10**6)
    )


# -- separation --------------------------------------------------------------------------------------------------------


@given(data=st.data(), population=st.integers(5, 400))
@settings(max_examples=80, deadline=None)
def test_hoeffdings_bound_is_above_the_exact_tail(data: st.DataObject, population: int) -> None:
    drawn = data.draw(st.integers(1, population))
    marked, least = data.draw(st.integers(1, population)), data.draw(st.integers(1, drawn))
    bound = _log2_hoeffding(marked / population, least / drawn, drawn)
    assert log2_at_least(population, marked, drawn, least) <= bound + 1e-9


def separated(holders: list[int], honest: int, colluders: int, threshold: int, least: int) -> bool:
    """Whether a server can cut the honest survivors in two: devices are bits, `holders[i]` those that device i drew.

    By trying every set S of at most half of the honest, as `separation_log2` states the event: each of S has `threshold`
    holders among S and the colluders, and some R, of the size that n_min leaves, is holder of none of S.
    """
    bad = ((1 << colluders) - 1) << honest
    for count in range(2, honest // 2 + 1):
        for chosen in itertools.combinations(range(honest), count):
            inside = sum(1 << item for item in chosen)
            if any((holders[item] & (inside | bad)).bit_count() < threshold for item in chosen):
                continue
            reached = inside
            for item in chosen:
                reached |= holders[item]
            free = honest - (reached & ((1 << honest) - 1)).bit_count()
            if free >= max(count, least - colluders - count):
                return True
    return False


def test_graphs_that_are_really_drawn_are_separable_no_more_often_than_the_bound_says() -> None:
    """Twelve honest devices and one colluder, every set tried in 100 graphs; degree 3 is far too small, and seen to be."""
    random = np.random.default_rng(5)
    honest, colluders, least, graphs = 12, 1, 9, 100
    roster = honest + colluders
    seen = {}
    for degree, threshold in ((2, 1), (3, 2), (6, 4)):
        hits = 0
        for _ in range(graphs):
            holders = []
            for item in range(honest):
                others = np.delete(np.arange(roster), item)
                holders.append(int(sum(1 << int(other) for other in random.choice(others, degree, replace=False))))
            hits += separated(holders, honest, colluders, threshold, least)
        seen[degree] = hits / graphs
        bound = min(1.0, 2.0 ** separation_log2(roster, colluders, least, degree, threshold))
        # Four standard errors of a share near the bound.
        assert seen[degree] <= bound + 4 * math.sqrt(bound * (1 - bound) / graphs)
    assert seen[2] > seen[3] >= seen[6]
    assert seen[6] == 0


def test_two_groups_that_drew_only_their_own_are_seen_as_separable() -> None:
    groups = [0b000111, 0b111000]
    holders = [groups[item // 3] & ~(1 << item) for item in range(6)]
    assert separated(holders, 6, 0, 2, 6)
    # One link from each device to the other side, and with every holder needed there is no way.
    joined = [holders[item] | 1 << (item + 3) % 6 for item in range(6)]
    assert not separated(joined, 6, 0, 3, 6)


def test_a_larger_degree_makes_separation_less_likely() -> None:
    figures = [separation_log2(1000, 100, 700, degree, round(0.38 * degree)) for degree in range(50, 200, 25)]
    assert figures == sorted(figures, reverse=True)
    assert separation_log2(1000, 100, 700, 100, 38) > separation_log2(1000, 50, 700, 100, 38)
