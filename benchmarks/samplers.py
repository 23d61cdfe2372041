"""Drawing the discrete Gaussian: the table of simulated devices, on two streams of random bits, beside OpenDP's exact sampler.

All in one process and one run, warmed up first: the table is made before the clock starts, and has a row of its own. A draw of
60,000 is one device's vector; the best of the repetitions counts, because other programs only ever make it slower.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Options, Row, main
from privacy.mechanisms import sample_discrete_gaussian
from privacy.table_sampler import TableSampler

DEVIATIONS = (1_000, 10_000)
"""Standard deviations of a device's share, in steps of the integer grid."""
DIMENSION = 60_000
BULK = 1_000_000
OPENDP = "OpenDP, exact"
GOAL = "goal"
GOAL_PER_S = 5e6


def run(options: Options) -> list[Row]:
    repeats = options.pick(3, 10, 30)
    exact_size = options.pick(5_000, 60_000, 240_000)
    sample_discrete_gaussian(DEVIATIONS[0] ** 2, 10)  # imports OpenDP
    rows = []
    for deviation in DEVIATIONS:
        options.say(f"standard deviation {deviation:,}")
        variance = deviation**2
        case = f"std {deviation:,}"
        begun_s = time.perf_counter()
        samplers = {"AES-256-CTR": TableSampler(variance)}
        rows.append(Row(case, "making the table, once a variance", "s", time.perf_counter() - begun_s))
        samplers["ChaCha20"] = TableSampler(variance, chacha20_words())
        exact = per_second(functools.partial(sample_discrete_gaussian, variance), exact_size, min(repeats, 3))
        for stream, sampler in samplers.items():
            vector, bulk = (per_second(sampler.sample, size, repeats) for size in (DIMENSION, BULK))
            metric = f"table on {stream}, {{}} at a time"
            rows += [
                Row(case, metric.format(f"{DIMENSION:,}"), "draws/s", vector, OPENDP, exact),
                Row(case, metric.format(f"{BULK:,}"), "draws/s", bulk, OPENDP, exact),
                Row(case, metric.format(f"{DIMENSION:,}"), "draws/s", vector, GOAL, GOAL_PER_S),
            ]
    return rows


def per_second(draw: Callable[[int], Any], size: int, repeats: int) -> float:
    """Draws per second of the fastest of `repeats` calls, after one that does not count."""
    draw(size)
    took_s = []
    for _ in range(repeats):
        begun_s = time.perf_counter()
        draw(size)
        took_s.append(time.perf_counter() - begun_s)
    return size / min(took_s)


def chacha20_words() -> Callable[[int], npt.NDArray[np.uint64]]:
    """A stream of 64-bit words from PyNaCl's ChaCha20, with a new seed for every call: it has no way to go on in a stream."""
    from nacl.utils import randombytes_deterministic

    key, calls = os.urandom(24), 0

    def words(count: int) -> npt.NDArray[np.uint64]:
        nonlocal calls
        calls += 1
        return np.frombuffer(randombytes_deterministic(8 * count, key + calls.to_bytes(8, "little")), np.uint64)

    return words


if __name__ == "__main__":
    main("samplers", run)
