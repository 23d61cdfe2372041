"""An aggregator's process, killed while it runs rounds and started again by the same command, against the reference model."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killed_aggregator import check_state, reference

PROGRAM = Path(__file__).parents[1] / "support" / "killed_aggregator.py"
ROOT = Path(__file__).parents[2]


def started(folder: Path, rounds: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{PROGRAM.parent}", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), str(folder), str(rounds)]
    return subprocess.Popen(command, env=environment, cwd=folder)


def journal_lines(folder: Path) -> int:
    path = folder / "journal"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed_during_a_round(folder: Path, rounds: int, chance: random.Random) -> None:
    """Start, wait until it has sent a message that no earlier run had, then kill a moment later."""
    before = journal_lines(folder)
    process = started(folder, rounds)
    while journal_lines(folder) == before:
        assert process.poll() is None, "it ended before it sent anything"
        time.sleep(0.005)
    time.sleep(chance.uniform(0.0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(("kills", "rounds"), [(2, 30), pytest.param(15, 120, marks=pytest.mark.deep)])
def test_a_killed_aggregator_goes_on_where_it_was(tmp_path: Path, kills: int, rounds: int) -> None:
    chance, expected = random.Random(kills), reference(rounds)
    released = 0
    for _ in range(kills):
        killed_during_a_round(tmp_path, rounds, chance)
        now = check_state(tmp_path, expected)
        assert now >= released, "what was released stays released"
        released = now
    assert started(tmp_path, rounds).wait() == 0
    assert check_state(tmp_path, expected) == rounds


def test_two_aggregators_at_once_do_no_harm(tmp_path: Path) -> None:
    expected = reference(12)
    both = [started(tmp_path, 12) for _ in range(2)]
    ended = [process.wait() for process in both]
    released = check_state(tmp_path, expected)
    # Which of them gives way, and when, is chance; whoever does says so by its exit status, and the next one finishes.
    assert released == 12 or any(ended)
    assert started(tmp_path, 12).wait() == 0
    assert check_state(tmp_path, expected) == 12
