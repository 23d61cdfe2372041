"""An aggregator that is killed and started again, and the reference model that its state is compared with.

As a program: `python killed_aggregator.py FOLDER ROUNDS` runs (or resumes) a series of rounds on FOLDER/state.sqlite.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from small_fleet import FEATURES, LABELS, OFFICER, SmallFleet, examples

import privacy.mechanisms
from aggregator.checkpoint import Checkpoint
from aggregator.releases.intent_head import ServerOptimizer
from aggregator.replica import ReplicaClient, ReplicaSettings, train
from aggregator.rounds import RoundSettings
from privacy.mechanisms import TrustedSum
from privacy.reports import verify_ledger
from shared_models.wire import model_hash

DEVICES = 5
OPTIMIZER = ServerOptimizer(learning_rate=0.5, momentum=0.9, tail_rounds=2)


def known_noise(variance: int, size: int) -> np.ndarray:
    """The same draw in every round, so that the model after n releases is known beforehand."""
    return np.rint(np.random.default_rng(3).normal(size=size) * np.sqrt(variance) / 50).astype(np.int64)


@contextlib.contextmanager
def _known_draws(folder: Path) -> Iterator[None]:
    """Known noise, and a journal of what left the aggregator's hands: kept by the kernel, so SIGKILL does not lose it."""
    release, sample = TrustedSum.release, privacy.mechanisms.sample_discrete_gaussian

    def noted(self: TrustedSum):
        _note(folder, f"drawn {self._plan.round_id}")
        return release(self)

    TrustedSum.release, privacy.mechanisms.sample_discrete_gaussian = noted, known_noise  # type: ignore[method-assign]
    try:
        yield
    finally:
        TrustedSum.release, privacy.mechanisms.sample_discrete_gaussian = release, sample  # type: ignore[method-assign]


def _note(folder: Path, line: str) -> None:
    descriptor = os.open(folder / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def run_series(folder: Path, rounds: int) -> Checkpoint:
    """Run, or resume, a series of `rounds` rounds: always this same call."""
    fleet = SmallFleet(DEVICES)

    def noting(message, context, honest):
        _note(folder, f"sent {message.metadata.group_id}")
        return honest(message, context)

    fleet.behaviours[0] = noting
    state = fleet.state(folder / "state.sqlite")
    try:
        with _known_draws(folder):
            return fleet.runner(state).run(fleet.grid(), RoundSettings(rounds, optimizer=OPTIMIZER))
    finally:
        state.close()


def reference(rounds: int) -> list[Checkpoint]:
    """The checkpoints after 0, 1, … `rounds` releases of a series that nobody killed."""
    limits = SmallFleet().policy.purposes["intent-model"].contributions["intent_head"]
    assert limits.local is not None
    settings = ReplicaSettings(rounds, limits.clip_norm, limits.noise_multiplier, limits.local, OPTIMIZER)
    start = np.zeros((len(LABELS), FEATURES), np.float32)
    passed: list[Checkpoint] = []
    clients = [ReplicaClient(*examples(index)) for index in range(DEVICES)]
    train(LABELS, start, clients, settings, sampler=known_noise, on_round=passed.append)
    zeros = np.zeros(start.shape)
    return [Checkpoint(LABELS, start, zeros, zeros, 0, 1, 0, rounds), *passed]


def check_state(folder: Path, expected: list[Checkpoint]) -> int:
    """Compare what a killed aggregator left with the reference; returns how many rounds were released."""
    fleet = SmallFleet(DEVICES)
    state = fleet.state(folder / "state.sqlite")
    try:
        entries = state.entries()
        reserved = [entry.body["round_id"] for entry in entries if entry.kind == "reserve"]
        released = [entry for entry in entries if entry.kind == "release"]
        ended = Counter(entry.body["round_id"] for entry in entries if entry.kind in ("release", "abort"))
        assert reserved == list(range(1, len(reserved) + 1)), "round ids are used in order, each once"
        assert set(ended) <= set(reserved)
        assert max(ended.values(), default=1) == 1
        journal = (folder / "journal").read_text().split("\n")[:-1] if (folder / "journal").exists() else []
        counted = Counter(journal)
        # Nothing was asked of a device, and nothing drawn, for which the budget had not been reserved before.
        assert {int(line.split()[1]) for line in journal} <= set(reserved)
        assert max(counted.values(), default=1) == 1, "no round is sent or drawn twice"
        assert {entry.body["round_id"] for entry in released} <= {int(x.split()[1]) for x in journal if "drawn" in x}
        if len(entries) > 1:
            ledger = verify_ledger(state.lines(), bytes(OFFICER.verify_key))
            assert len([item for item in ledger.rounds if item.survivors == DEVICES]) == len(released)
            checkpoint = state.checkpoint()
            assert checkpoint is not None
            assert checkpoint.rounds_done == len(released)
            assert checkpoint.next_round_id == len(reserved) + 1
            _same(checkpoint, expected[len(released)])
        for number, entry in enumerate(released, 1):
            assert entry.body["model_hash"] == model_hash(LABELS, expected[number].weights)
            assert len(state.leaves(entry.body["round_id"])) == DEVICES
        return len(released)
    finally:
        state.close()


def _same(found: Checkpoint, expected: Checkpoint) -> None:
    for name in ("weights", "velocity", "tail_sum"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    counters = dict(next_round_id=0, rounds_planned=0, weights=0, velocity=0, tail_sum=0)
    assert replace(found, **counters) == replace(expected, **counters)  # type: ignore[arg-type]


if __name__ == "__main__":
    run_series(Path(sys.argv[1]), int(sys.argv[2]))
