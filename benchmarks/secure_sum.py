"""Secure sums: what a device and the server spend on one, beside Flower's SecAgg+ and the goals of the project.

Each round runs in a process of its own, all devices and the server in it, so that its peak memory is its own. CPU is process
time. Signature checks and roots are remembered within a process, which no real device could profit from: for the measured devices
everything that is remembered is forgotten before each stage; the other devices profit, and are not measured. Bytes are those of
the protocol's own messages, before any envelope. Noise is drawn beside the rounds ("sampler"), whose sums are compared with
plain integer sums instead.
"""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Options, Row, main
from benchmarks.secure_sum_flower import measure_flower
from benchmarks.secure_sum_round import (
    CLIENT_STAGES,
    COLLUDING,
    MEASURED,
    SURVIVING,
    Figures,
    measure_round,
    measure_sampled,
    plan_for,
)
from privacy.secure_sum import sizing
from privacy.secure_sum.sizing import graph_size
from shared_models.errors import PolicyError

GOAL = "goal"
FLOWER = "SecAgg+, composed"
FLOWER_50 = "SecAgg+, 1 client x 50"
GOAL_CASE = (1000, 60_000)
GOAL_SERVER_S = {0.1: 2.5, 0.3: 6.0}
FEW_COLLUDE = 0.05
"""The demo's γ: fewer colluders, so fewer share-holders."""


def run(options: Options) -> list[Row]:
    rows = graph_rows()
    options.say("mask generators, X25519, samplers")
    rows += apart(primitives, options.pick(20, 200, 500))
    for cohort, dimension, drop, colluding in rounds(options):
        options.say(f"n = {cohort:,}, d = {dimension:,}, {drop:.0%} drop out, {colluding:.0%} collude")
        found = apart(measure_round, cohort, dimension, drop, colluding)
        rows += round_rows(cohort, dimension, drop, colluding, found)
    if options.full:
        options.say("n = 10,000, sampled")
        rows += sampled_rows(10_000, 60_000, apart(measure_sampled, 10_000, 60_000))
    if not options.quick:
        options.say("n = 50 beside Flower's SecAgg+")
        rows += beside_flower(apart(measure_round, 50, 60_000, 0.0), apart(measure_flower, 50, 60_000))
    return rows


def rounds(options: Options) -> list[tuple[int, int, float, float]]:
    """(devices, dimension, part of them that drops out after sharing, part that is assumed to collude)."""
    if options.quick:
        return [(100, 1_000, 0.1, COLLUDING), (100, 12_000, 0.3, COLLUDING)]
    chosen = [(100, dimension, 0.1, COLLUDING) for dimension in (1_000, 12_000, 60_000)]
    chosen += [(*GOAL_CASE, drop, colluding) for colluding in (COLLUDING, FEW_COLLUDE) for drop in (0.1, 0.3)]
    if options.full:
        chosen += [(1000, dimension, 0.1, COLLUDING) for dimension in (1_000, 12_000)]
        chosen += [(100, 1_000_000, 0.1, COLLUDING)]
    return chosen


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """The result of a call in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(function, *arguments).result()


# -- the parts by themselves ----------------------------------------------------------------------------------------


def graph_rows() -> list[Row]:
    """The graph for a tenth of colluders and three tenths of drop-outs."""
    rows = []
    for cohort in (10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 5000, 10_000):
        case = f"graph, n = {cohort:,}"
        survivors, colluders = math.ceil(SURVIVING * cohort), math.ceil(COLLUDING * cohort)
        try:
            size = graph_size(cohort, colluders, survivors)
        except PolicyError as error:
            rows.append(Row(f"{case}: {error}"[:60], "degree", "devices", None))
            continue
        rows += [
            Row(case, "degree", "devices", size.degree),
            Row(case, "threshold", "shares", size.threshold),
        ]
        for metric, bits, bound in (
            ("privacy", size.privacy_log2, sizing.PRIVACY_FAILURE_BITS),
            ("separation", size.separation_log2, sizing.PRIVACY_FAILURE_BITS),
            ("correctness", size.correctness_log2, sizing.CORRECTNESS_FAILURE_BITS),
        ):
            if math.isfinite(bits):
                rows.append(Row(case, f"{metric} fails, -log2", "bits", -bits, "at least", bound))
            else:
                rows.append(Row(case, f"{metric}: no case in which it fails", "bits", None, "at least", bound))
    return rows


def primitives(repeats: int) -> list[Row]:
    from nacl.utils import randombytes_deterministic

    from privacy.mechanisms import sample_discrete_gaussian
    from privacy.secure_sum.masking import KeyPair, Masker
    from privacy.table_sampler import sample_from_table

    dimension = GOAL_CASE[1]
    total, key = np.zeros(dimension, np.uint32), os.urandom(32)
    masker, own, other = Masker(dimension), KeyPair(), KeyPair()

    def chacha() -> None:
        np.add(total, np.frombuffer(randombytes_deterministic(4 * dimension, key), np.uint32), out=total)

    aes_ms = best_ms(lambda: masker.add(total, key), repeats)
    case = f"d = {dimension:,}"
    rows = [
        Row(case, "mask, AES-256-CTR", "ms", aes_ms, "ChaCha20 (PyNaCl)", best_ms(chacha, repeats)),
        Row("X25519", "one agreement", "ms", best_ms(lambda: own.agree(other.public), repeats)),
    ]
    variance = plan_for(*GOAL_CASE).share_variance
    table_ms = best_ms(lambda: sample_from_table(variance, dimension), 5)
    exact_ms = best_ms(lambda: sample_discrete_gaussian(variance, dimension), 1)
    rows.append(Row(case, "sampler, OpenDP, exact (real devices)", "ms", exact_ms))
    rows.append(Row(case, "sampler, table (simulated devices)", "ms", table_ms))
    return rows


def best_ms(call: Callable[[], object], repeats: int) -> float:
    call()
    took = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        took.append(time.process_time() - begun)
    # The fastest: other programs only make it slower.
    return 1000 * min(took)


# -- rows of a round ------------------------------------------------------------------------------------------------


def client_rows(case: str, found: Figures, *, goals: bool) -> list[Row]:
    def goal(value: float) -> tuple[str, float | None]:
        return (GOAL, value) if goals else ("", None)

    rows = [
        Row(case, f"client CPU, {stage}", "ms", found[f"client {stage}"], seeds=MEASURED) for stage in CLIENT_STAGES
    ]
    rows += [
        Row(case, "client CPU, all, sampler apart", "ms", found["client"], *goal(100), MEASURED),
        Row(case, "client CPU, the same without agreement", "ms", found["client without"], *goal(50), MEASURED),
        Row(case, "up, most of any measured", "kB", found["up"], *goal(300)),
        Row(case, "down, mean of the measured", "kB", found["down mean"], *goal(150), MEASURED),
        Row(case, "down, most of any measured", "kB", found["down"], *goal(150)),
    ]
    return rows


def round_rows(cohort: int, dimension: int, drop: float, colluding: float, found: Figures) -> list[Row]:
    case = f"{cohort:,} x {dimension:,} -{drop:.0%} γ{colluding:.0%}"
    goals = (cohort, dimension) == GOAL_CASE
    held_mb = 4e-6 * cohort * dimension
    goal = (GOAL, GOAL_SERVER_S[drop]) if goals else ("", None)
    return [
        *client_rows(case, found, goals=goals),
        Row(case, "graph's size, not in the above", "ms", found["graph"]),
        Row(case, "server CPU, all after sharing", "s", found["server"], *goal),
        Row(case, "server CPU, release alone", "s", found["release"]),
        Row(case, "peak memory, everybody", "MB", found["peak"]),
        Row(case, "peak's growth after sharing", "MB", found["peak"] - found["before"], "n vectors held", held_mb),
        Row(case, "sum bit-exact", "1 = yes", 1.0),
    ]


def sampled_rows(cohort: int, dimension: int, found: Figures) -> list[Row]:
    return client_rows(f"{cohort:,} x {dimension:,}, only {MEASURED} fully", found, goals=False)


def beside_flower(ours: Figures, theirs: Figures) -> list[Row]:
    case, cohort = "50 x 60,000, 0% drop", 50
    return [
        Row(case, "client CPU, all, sampler apart", "ms", ours["client"], FLOWER, theirs["client"]),
        Row(case, "server CPU, release", "s", ours["release"], FLOWER_50, cohort * theirs["server"]),
        Row(
            case,
            "50 clients (no sampler) + release",
            "s",
            cohort * ours["client"] / 1000 + ours["release"],
            FLOWER_50,
            cohort * (theirs["client"] / 1000 + theirs["server"]),
        ),
        Row(case, "up, a device", "kB", ours["up"], FLOWER, theirs["up"]),
        Row(case, "down, without model and plan", "kB", ours["down"], FLOWER, theirs["down"]),
    ]


if __name__ == "__main__":
    main("secure_sum", run)
