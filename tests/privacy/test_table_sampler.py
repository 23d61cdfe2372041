"""The table sampler draws from the discrete Gaussian, bit for bit of its table, and as OpenDP does."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from privacy.mechanisms import sample_discrete_gaussian
from privacy.table_sampler import TableSampler, _table, sample_from_table
from shared_models.errors import ConfigError

LIMIT = 15
"""Standard deviations of χ²: fewer than one false alarm in 10^9 from 9 degrees of freedom on, where its tail is longest."""


def chi_square(counts: np.ndarray, chances: np.ndarray) -> float:
    """χ² as a number of standard deviations, over cells with 20 or more expected."""
    expected = chances * counts.sum()
    kept = expected >= 20
    observed, wanted = np.append(counts[kept], counts[~kept].sum()), np.append(expected[kept], expected[~kept].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    degrees = len(wanted) - 1
    return float((((observed - wanted) ** 2 / wanted).sum() - degrees) / math.sqrt(2 * degrees))


def chances(variance: int) -> tuple[np.ndarray, int]:
    radius = math.ceil(13 * math.sqrt(variance))
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * variance))
    return weights / weights.sum(), radius


@pytest.mark.parametrize("variance", [1, 2, 9, 400])
def test_the_table_is_exact_to_a_hundred_bits(variance: int) -> None:
    """Against rational arithmetic with exp from its series, to 200 bits."""

    def exp_of(value: Fraction) -> Fraction:
        halvings = max(0, math.ceil(math.log2(float(-value) + 1))) + 4
        small, term, total = value / 2**halvings, Fraction(1), Fraction(1)
        for order in range(1, 40):
            term = Fraction(int(term * small / order * 2**300), 2**300)
            total += term
        for _ in range(halvings):
            total = Fraction(int(total * total * 2**300), 2**300)
        return total

    table = _table(variance)
    values = range(table.least, table.least + len(table.high))
    weights = [exp_of(Fraction(-value * value, 2 * variance)) for value in values]
    total, running = sum(weights), Fraction(0)
    for high, low, weight in zip(table.high, table.low, weights, strict=True):
        running += weight
        assert abs(Fraction(int(high) * 2**64 + int(low), 2**128) - running / total) < Fraction(1, 2**100)


@pytest.mark.parametrize("variance", [1, 5, 1000, 1_300_000])
def test_draws_fit_the_distribution(variance: int) -> None:
    drawn = TableSampler(variance).sample(1_000_000)
    wanted, radius = chances(variance)
    assert abs(chi_square(np.bincount(drawn + radius, minlength=2 * radius + 1), wanted)) < LIMIT
    assert drawn.dtype == np.int64


def test_the_exact_sampler_and_the_table_draw_alike() -> None:
    variance, size = 50, 40_000
    wanted, radius = chances(variance)
    for drawn in (sample_discrete_gaussian(variance, size), sample_from_table(variance, size)):
        assert abs(chi_square(np.bincount(drawn + radius, minlength=2 * radius + 1), wanted)) < LIMIT


def test_a_tie_is_resolved_by_the_next_64_bits() -> None:
    table = _table(100)
    at = len(table.high) // 2
    high, low = int(table.high[at]), int(table.low[at])
    for second, expected in ((0, at), (low - 1, at), (low, at + 1), ((1 << 64) - 1, at + 1)):
        stream = iter([[high], [second]])
        drawn = TableSampler(100, lambda count, stream=stream: np.array(next(stream), np.uint64)).sample(1)
        assert int(drawn[0]) == table.least + expected
    for word in (0, (1 << 64) - 1):
        drawn = TableSampler(100, lambda count, word=word: np.full(count, word, np.uint64)).sample(3)
        assert (np.abs(drawn) <= -table.least).all()


def test_threads_may_share_a_sampler() -> None:
    sampler = TableSampler(1 << 20)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(sampler.sample, [50_000] * 100))
    assert len({block.tobytes() for block in drawn}) == 100


def test_a_forked_process_does_not_repeat_the_noise() -> None:
    sampler = TableSampler(1 << 20)
    sampler.sample(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, sampler.sample(8).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reading, 64), np.int64)
    os.close(reading)
    os.close(writing)
    assert (theirs != sampler.sample(8)).any()


@pytest.mark.parametrize("variance", [0, -1, 1.5, True, None, 1 << 41])
def test_an_impossible_variance_is_refused(variance: object) -> None:
    with pytest.raises(ConfigError, match="variance"):
        TableSampler(variance)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [-1, 1.5, True, None, "x"])
def test_an_impossible_size_is_refused(size: object) -> None:
    with pytest.raises(ConfigError, match="draw"):
        TableSampler(1).sample(size)  # type: ignore[arg-type]
