"""Which detector finds a change soonest at the same rate of false alarms: ours beside ADWIN's bound, Page-Hinkley, KSWIN and MMD.

Simulated streams of one device, numbers from 0 (good) to 1 (bad): 0/1 events at several rates (out of scope, corrections) and
shares (1 − confidence). Ours has the threshold that is compiled in; every peer gets one that is set on streams without any
change, so that on the worst kind of them as many raise an alarm within 1,000 observations as of ours on its worst. Then 200
observations without a change are followed by 300 with one; what counts is the mean delay, 300 where nothing was found. Nothing
here is a dependency: the peers are written down here from their papers, for whole arrays of streams at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Options, Row, main
from edge_client.decide.drift import DriftDetector

Streams = npt.NDArray[np.float64]
"""[streams, observations]"""

BEFORE, AFTER, WATCHED = 200, 300, 1000
LEVEL = 0.05
NULLS: tuple[tuple[str, float, float], ...] = (
    ("events", 0.02, 0.0), ("events", 0.05, 0.0), ("events", 0.15, 0.0), ("events", 0.4, 0.0),
    ("shares", 0.15, 3.0), ("shares", 0.3, 6.0),
)  # fmt: skip
CHANGES: tuple[tuple[str, float, float, float], ...] = (
    ("events", 0.05, 0.15, 0.0), ("events", 0.1, 0.25, 0.0), ("events", 0.3, 0.5, 0.0),
    ("shares", 0.15, 0.25, 3.0), ("shares", 0.3, 0.4, 6.0),
)  # fmt: skip


def run(options: Options) -> list[Row]:
    random = np.random.default_rng(0)
    nulls, changes = options.pick(40, 150, 600), options.pick(20, 60, 200)
    still = {case: _streams(random, case[0], case[1], case[2], nulls, WATCHED) for case in NULLS}
    changed = {
        case: np.concatenate(
            [
                _streams(random, case[0], mean, case[3], changes, count)
                for mean, count in ((case[1], BEFORE), (case[2], AFTER))
            ],
            axis=1,
        )
        for case in CHANGES
    }
    peers: dict[str, Callable[[Streams], Streams]] = {
        "ADWIN": adwin, "Page-Hinkley": page_hinkley, "KSWIN": kswin, "MMD": mmd,
    }  # fmt: skip
    options.say("ours: false alarms")
    rows, worst = [], 1.0 / nulls
    for case, streams in still.items():
        share = float(np.mean([_first_alarm(stream) < WATCHED for stream in streams]))
        worst = max(worst, share)
        rows.append(Row(f"{case[0]} at {case[1]}", "false alarms in 1,000", "%", 100 * share, "stated", 100 * LEVEL))
    in_turns = _in_sessions(random, 0.15, nulls)
    by_turn, by_session = (
        float(np.mean([_first_alarm(stream) < stream.size for stream in streams]))
        for streams in (in_turns, in_turns.reshape(nulls, -1, 10).mean(axis=2))
    )
    # A device observes the means of sessions (improve/drift_watch.py): this is why.
    case_in_turns = ("1,000 events at 0.15 in 100 sessions", "false alarms, means of sessions observed", "%")
    rows.append(Row(*case_in_turns, 100 * by_session, "each event observed", 100 * by_turn))
    thresholds = {}
    for name, statistic in peers.items():
        options.say(f"{name}: threshold")
        # As many false alarms as ours has on the kind of stream where it has most.
        thresholds[name] = max(
            float(np.quantile(statistic(known).max(axis=1), 1.0 - worst)) for known in still.values()
        )
    ours = {case: _delays(np.array([_first_alarm(stream) for stream in streams])) for case, streams in changed.items()}
    for name, statistic in peers.items():
        options.say(f"{name}: delays")
        delays = {}
        for case, streams in changed.items():
            hits = statistic(streams) > thresholds[name]
            first = np.where(hits.any(axis=1), hits.argmax(axis=1), BEFORE + AFTER)
            delays[case] = _delays(first)
            rows.append(
                Row(
                    f"{case[0]} {case[1]} to {case[2]}",
                    "mean delay",
                    "observations",
                    ours[case],
                    name,
                    delays[case],
                    changes,
                )
            )
        mean = [float(np.mean(list(found.values()))) for found in (ours, delays)]
        rows.append(Row("all changes", "mean delay", "observations", mean[0], name, mean[1], changes))
    return rows


def _streams(random: np.random.Generator, kind: str, mean: float, spread: float, count: int, length: int) -> Streams:
    if kind == "events":
        return (random.random((count, length)) < mean).astype(np.float64)
    return random.beta(mean * spread, (1.0 - mean) * spread, (count, length))


def _in_sessions(random: np.random.Generator, mean: float, count: int) -> Streams:
    """Events that are not independent: sessions of ten observations, some worse than others."""
    of_session = random.beta(2.0 * mean, 2.0 * (1.0 - mean), (count, WATCHED // 10))
    return (random.random((count, WATCHED)) < np.repeat(of_session, 10, axis=1)).astype(np.float64)


def _first_alarm(stream: npt.NDArray[np.float64]) -> int:
    detector = DriftDetector()
    return next((place for place, value in enumerate(stream) if detector.observe(float(value))), len(stream))


def _delays(first: npt.NDArray[Any]) -> float:
    """Mean delay after the change, of the streams that did not raise an alarm before it."""
    late = first[first >= BEFORE] - BEFORE
    return float(np.minimum(late, AFTER).mean()) if len(late) else float(AFTER)


# -- peers: [streams, observations] → their statistic after each observation; an alarm is what exceeds the threshold -----------


def adwin(streams: Streams) -> Streams:
    """ADWIN2 (Bifet, Gavaldà 2007, theorem 3.2) for rises: the exponent for which its bound allows just the largest rise."""
    count, length = streams.shape
    sums = np.concatenate([np.zeros((count, 1)), streams.cumsum(axis=1)], axis=1)
    squares = np.concatenate([np.zeros((count, 1)), np.square(streams).cumsum(axis=1)], axis=1)
    sizes = np.unique(np.round(4.0 * 1.15 ** np.arange(60)).astype(int))
    found = np.zeros(streams.shape)
    for end in range(20, length + 1):
        after = sizes[sizes <= end - 10]
        before = end - after
        rise = (sums[:, [end]] - sums[:, before]) / after - sums[:, before] / before
        variance = squares[:, [end]] / end - np.square(sums[:, [end]] / end)
        inverse = 1.0 / before + 1.0 / after
        slope, linear = np.sqrt(2.0 * np.maximum(variance, 0.0) * inverse), 2.0 / 3.0 * inverse
        root = (np.sqrt(slope * slope + 4.0 * linear * np.maximum(rise, 0.0)) - slope) / (2.0 * linear)
        found[:, end - 1] = np.square(root).max(axis=1)
    return found


def page_hinkley(streams: Streams, slack: float = 0.05) -> Streams:
    """Page 1954; Hinkley 1971: the cumulative sum of what exceeds the running mean by `slack`, above its least."""
    found, mean, total, least = np.zeros(streams.shape), 0.0, np.zeros(len(streams)), np.zeros(len(streams))
    for place in range(streams.shape[1]):
        mean = mean + (streams[:, place] - mean) / (place + 1)
        total = total + streams[:, place] - mean - slack
        least = np.minimum(least, total)
        found[:, place] = total - least
    found[:, :20] = 0.0
    return found


def kswin(streams: Streams, window: int = 100, recent: int = 30) -> Streams:
    """Raab, Heusinger, Schleif 2020: Kolmogorov-Smirnov of the newest 30 against 30 drawn from the 70 before."""
    random = np.random.default_rng(1)
    found = np.zeros(streams.shape)
    for end in range(window, streams.shape[1] + 1):
        drawn = random.integers(end - window, end - recent, recent)
        new, old = streams[:, end - recent : end], streams[:, drawn]
        both = np.concatenate([new, old], axis=1)
        shares = [(part[:, None, :] <= both[:, :, None]).mean(axis=2) for part in (new, old)]
        # Ties between thresholds, which a statistic of thirtieths has many of, are broken at random.
        found[:, end - 1] = np.abs(shares[0] - shares[1]).max(axis=1) + 1e-6 * random.random(len(streams))
    return found


def mmd(streams: Streams, window: int = 50, frequencies: int = 20) -> Streams:
    """Gretton et al. 2012 with random Fourier features (Rahimi, Recht 2007): the newest 50 against all before."""
    random = np.random.default_rng(1)
    axes, phases = 5.0 * random.standard_normal(frequencies), random.uniform(0.0, 2.0 * np.pi, frequencies)
    sums = np.zeros((*streams.shape, frequencies))
    np.cumsum(np.cos(streams[:, :, None] * axes + phases) * np.sqrt(2.0 / frequencies), axis=1, out=sums)
    found = np.zeros(streams.shape)
    for end in range(2 * window, streams.shape[1] + 1):
        new = (sums[:, end - 1] - sums[:, end - 1 - window]) / window
        old = sums[:, end - 1 - window] / (end - window)
        found[:, end - 1] = np.square(new - old).sum(axis=1) / (1.0 / window + 1.0 / (end - window))
    return found


if __name__ == "__main__":
    main("drift", run)
