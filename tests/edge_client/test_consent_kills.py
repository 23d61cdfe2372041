"""SIGKILL at random times over grant, keep and withdraw: what was acknowledged holds, and what was withdrawn stays shut for ever.

A child turns a consent on and off and tells each step once it is durable. The parent stops it for a moment to copy its files,
kills it, opens the store as any program would, and then puts the copy back beside today's keys.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from store_model import KEY, Child

from edge_client.know.consent import Consent
from edge_client.know.store import Store
from shared_models.errors import StoreError

PERSONAL = "personalisation"


def turning(home: Path, first: int) -> Callable[[Callable[[int], None]], None]:
    """What the child does, from turn `first` on; it tells 2n when the events of turn n are kept and 2n+1 when it is withdrawn."""

    def work(tell: Callable[[int], None]) -> None:
        with Store(home, key=KEY) as store:
            consent = Consent(store, lambda: 1_800_000_000.0)
            # What the child before kept, and was killed with, goes first: each turn begins with nothing.
            consent.withdraw(PERSONAL)
            for turn in range(first, 1_000_000):
                consent.grant(PERSONAL)
                for number in range(3):
                    store.table("events", purpose=PERSONAL).append({"text": f"canary-{turn:06d}", "number": number})
                tell(2 * turn)
                # As long as it takes to be stopped: a copy of a file that still holds the events has to be among the copies.
                time.sleep(0.01)
                consent.withdraw(PERSONAL)
                tell(2 * turn + 1)

    return work


def shown(folder: Path) -> set[int]:
    """The turns of which something is found in the store in `folder`; none if it does not open."""
    try:
        with Store(folder, key=KEY) as store:
            return {int(turn) for turn in re.findall(r"canary-(\d{6})", json.dumps(store.table("events").items()))}
    except StoreError:
        return set()


def kill_once(home: Path, old: Path, turn: int, generator: random.Random) -> tuple[int, bool]:
    """Run from `turn`, kill, check; returns the next turn, and whether the copy of the file could be read with the old keys."""
    child = Child(turning(home, turn))
    telling = child.told()
    told = [next(telling)]
    time.sleep(generator.uniform(0.0, 0.05))
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(0.005)
    old.mkdir()
    for name in ("store.key", "store.counter", "store.tacit"):
        shutil.copy(home / name, old / name)
    os.kill(child.pid, signal.SIGCONT)
    time.sleep(generator.uniform(0.0, 0.05))
    child.kill()
    told += telling
    assert child.killed()
    withdrawn = max((value // 2 for value in told if value % 2), default=turn - 1)
    last_turn, off = divmod(told[-1], 2)
    with Store(home, key=KEY) as store:
        state = Consent(store, lambda: 0.0).state(PERSONAL)
        entries = [entry["text"] for entry in store.table("events", purpose=PERSONAL).entries()]
    if state == "off":
        assert entries == []
    else:
        assert state == "granted"
        assert set(entries) <= {f"canary-{withdrawn + 1:06d}"}
        assert len(entries) == 3 or off
    assert shown(home) <= {withdrawn + 1}
    readable = bool(shown(old))
    shutil.copy(home / "store.key", old / "store.key")
    assert not {found for found in shown(old) if found <= withdrawn}
    shutil.rmtree(old)
    return last_turn + 2, readable


def kill_often(folder: Path, kills: int, seed: int) -> int:
    generator, turn, readable = random.Random(seed), 0, 0
    for _ in range(kills):
        turn, could_be_read = kill_once(folder / "home", folder / "old", turn, generator)
        readable += could_be_read
    return readable


def test_kills_over_consent_and_withdrawal_keep_both_and_the_data_in_step(tmp_path: Path) -> None:
    kill_often(tmp_path, kills=4, seed=3)


@pytest.mark.deep
def test_many_kills_over_consent_and_withdrawal(tmp_path: Path) -> None:
    assert kill_often(tmp_path, kills=200, seed=4) > 10
