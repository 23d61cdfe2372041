"""SIGKILL of an aggregator at every statement of its database, at every step of a round and at random times."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from killed_aggregator import check_state, reference, run_series

import aggregator.collection
from aggregator.checkpoint import FleetState
from privacy.mechanisms import TrustedSum


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def forked(action: Callable[[], object]) -> int:
    """Start `action` in a child process; returns its process id."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a forked child must never return into the test run
            traceback.print_exc()
            os._exit(1)
    return child


def was_killed(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def series(folder: Path, rounds: int, prepare: Callable[[], None]) -> Callable[[], None]:
    def action() -> None:
        prepare()
        run_series(folder, rounds)

    return action


def before_statement(number: int) -> Callable[[], None]:
    """Die before the n-th statement or commit that changes the database."""

    def prepare() -> None:
        left = number

        def count(*event: object) -> None:
            nonlocal left
            if len(event) == 1 or not str(event[2]).lstrip().startswith(("SELECT", "PRAGMA")):
                left -= 1
                if left == 0:
                    die()

        sa.event.listen(sa.engine.Engine, "before_cursor_execute", count)
        sa.event.listen(sa.engine.Engine, "commit", count)

    return prepare


def deadly(owner: object, name: str, *, after: bool, kind: str | None = None) -> Callable[[], None]:
    """Die before or after a call, of the given ledger kind if there is one."""

    def prepare() -> None:
        real = getattr(owner, name)

        def call(*given: object, **options: object) -> object:
            meant = kind is None or given[1] == kind
            if meant and not after:
                die()
            result = real(*given, **options)
            if meant:
                die()
            return result

        setattr(owner, name, call)

    return prepare


NAMED = {
    f"{'after' if after else 'before'} {label}": deadly(owner, name, after=after, kind=kind)
    for label, owner, name, kind in (
        ("the first model", FleetState, "append", "begin"),
        ("the reservation", FleetState, "append", "reserve"),
        ("an answer", aggregator.collection._Replies, "take", None),
        ("the draw", TrustedSum, "release", None),
        ("the release", FleetState, "append", "release"),
    )
    for after in (False, True)
}


@pytest.mark.parametrize("prepare", NAMED.values(), ids=NAMED.keys())
def test_killed_at_a_step_of_a_round_and_started_again(tmp_path: Path, prepare: Callable[[], None]) -> None:
    expected = reference(3)
    assert was_killed(forked(series(tmp_path, 3, prepare)))
    check_state(tmp_path, expected)
    # Once more at the same step; a first model is made only once.
    assert was_killed(forked(series(tmp_path, 3, prepare))) or prepare is NAMED["after the first model"]
    check_state(tmp_path, expected)
    assert not was_killed(forked(series(tmp_path, 3, lambda: None)))
    assert check_state(tmp_path, expected) == 3


def killed_before_changes(folder: Path, rounds: int, every: int) -> int:
    """Kill before every n-th change of the database, each time in a new folder; returns how many changes a series makes."""
    expected = reference(rounds)
    for number in itertools.count(1, every):
        place = folder / str(number)
        place.mkdir()
        killed = was_killed(forked(series(place, rounds, before_statement(number))))
        check_state(place, expected)
        if not killed:
            return number
        assert not was_killed(forked(series(place, rounds, lambda: None)))
        assert check_state(place, expected) == rounds
    raise AssertionError


def test_killed_before_some_changes_of_the_database(tmp_path: Path) -> None:
    assert killed_before_changes(tmp_path, 1, 4) > 15


@pytest.mark.deep
def test_killed_before_every_change_of_the_database(tmp_path: Path) -> None:
    assert killed_before_changes(tmp_path, 2, 1) > 20


def kill_at_random_times(folder: Path, rounds: int, seed: int, times: int, longest_s: float) -> int:
    """Kill `times` times, each after a random time, comparing after each; then let the series end.

    Returns how many kills came before that.
    """
    chance, expected = random.Random(seed), reference(rounds)
    interrupted = 0
    for _ in range(times):
        child = forked(series(folder, rounds, lambda: None))
        time.sleep(chance.uniform(0.0, longest_s))
        # If the child is done already, it stays until it is waited for: the signal then does nothing.
        os.kill(child, signal.SIGKILL)
        interrupted += was_killed(child)
        check_state(folder, expected)
    assert not was_killed(forked(series(folder, rounds, lambda: None)))
    assert check_state(folder, expected) == rounds
    return interrupted


def test_killed_at_random_times(tmp_path: Path) -> None:
    kill_at_random_times(tmp_path, 4, 1, times=4, longest_s=0.6)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_times_many_times(tmp_path: Path, seed: int) -> None:
    assert kill_at_random_times(tmp_path, 50, seed, times=25, longest_s=0.2) > 15
