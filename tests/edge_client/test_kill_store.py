"""SIGKILL at named points and at random moments: whatever was acknowledged is there when the store is opened again.

A child commits transactions over two tables and prints each number once it is durable; the parent kills it, opens the store as
any program would, and compares with the numbers it read. The numbers are the reference model.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_client.know.store import Store
from edge_client.know.store.erasure import erase_home
from edge_client.platform import FAULT_VARIABLE
from shared_models.errors import StoreDamagedError

ROOT = Path(__file__).parents[2]
KEY = bytes(range(32))

COMMIT_POINTS = [
    f"store.{point}"
    for point in ("before_temp", "half_temp", "after_temp", "after_rename", "after_sync", "after_counter")
]
CREATION_POINTS = [
    *(f"store.key.{point}" for point in ("before_temp", "half_temp", "after_temp", "after_rename", "after_sync")),
    *(f"store.count.{point}" for point in ("before_temp", "half_temp", "after_temp", "after_rename", "after_sync")),
    "store.created",
    *COMMIT_POINTS,
]

CHILD = """
import os, sys
from edge_client.know.store import Store

folder, fault, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Store(folder, key=bytes(range(32))) as store:
    numbers, total = store.table("numbers"), store.table("total")
    start = (total.get("sum") or {"count": 0})["count"]
    for step in range(10_000):
        if fault and step == after:
            os.environ["TACIT_FAULT"] = fault
        number = start + step
        with store.transaction():
            numbers.put(f"{number:06d}", {"number": number, "text": "x" * (number * 37 % 900)})
            before = total.get("sum") or {"count": 0, "sum": 0}
            total.put("sum", {"count": before["count"] + 1, "sum": before["sum"] + number})
        print(number, flush=True)
"""


def start(folder: Path, fault: str = "", after: int = 0, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), fault, str(after)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def acknowledged_by(child: subprocess.Popen[str]) -> list[int]:
    """What the child printed until it was killed; a last line without an end was not printed."""
    assert child.stdout is not None
    with child.stdout:
        lines = child.stdout.read().split("\n")[:-1]
    assert child.wait(60) == -signal.SIGKILL
    return [int(line) for line in lines]


def check(folder: Path, acknowledged: list[int]) -> int:
    """Both tables agree, nothing acknowledged is missing, at most one more is there; returns how many there are."""
    with Store(folder, key=KEY) as store:
        numbers = [entry["number"] for entry in store.table("numbers").entries()]
        total = store.table("total").get("sum") or {"count": 0, "sum": 0}
    assert numbers == list(range(len(numbers)))
    assert total == {"count": len(numbers), "sum": sum(numbers)}
    assert not list(folder.glob("*.tmp"))
    if acknowledged:
        assert len(numbers) - 1 - acknowledged[-1] in (0, 1)
    return len(numbers)


@pytest.mark.parametrize("point", COMMIT_POINTS)
def test_a_kill_inside_a_commit_leaves_the_former_or_the_new_state(tmp_path: Path, point: str) -> None:
    acknowledged = acknowledged_by(start(tmp_path, point, after=3))
    assert acknowledged == [0, 1, 2]
    written = point in ("store.after_rename", "store.after_sync", "store.after_counter")
    assert check(tmp_path, acknowledged) == (4 if written else 3)


SOME_CREATION_POINTS = ["store.key.after_temp", "store.key.after_sync", "store.created", "store.after_rename"]


@pytest.mark.parametrize(
    "point",
    [
        *SOME_CREATION_POINTS,
        *(
            pytest.param(point, marks=pytest.mark.deep)
            for point in CREATION_POINTS
            if point not in SOME_CREATION_POINTS
        ),
    ],
)
def test_a_kill_while_a_store_is_made_leaves_one_that_can_be_made(tmp_path: Path, point: str) -> None:
    child = start(tmp_path, **{FAULT_VARIABLE: point})
    assert acknowledged_by(child) == []
    with Store(tmp_path, key=KEY) as store:
        assert store.describe()["records"] == {}
        store.table("a").put("x", {})
    with Store(tmp_path, key=KEY) as store:
        assert len(store.table("a")) == 1


@pytest.mark.parametrize("point", ["forget.after_key", "forget.after_store"])
def test_a_kill_while_forgetting_leaves_nothing_readable_and_can_be_finished(tmp_path: Path, point: str) -> None:
    with Store(tmp_path, key=KEY) as store:
        store.table("a").put("x", {"text": "canary"})
    program = (
        "import sys; from pathlib import Path; from edge_client.know.store.erasure import erase_home\n"
        "erase_home(Path(sys.argv[1]))"
    )
    environment = {**os.environ, FAULT_VARIABLE: point}
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, env=environment, check=False)
    assert found.returncode == -signal.SIGKILL
    assert not (tmp_path / "store.key").exists()
    if point == "forget.after_key":
        with pytest.raises(StoreDamagedError, match="key file is missing"):
            Store(tmp_path, key=KEY)
    assert erase_home(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def kill_at_random_times(folder: Path, kills: int, seed: int) -> None:
    generator = random.Random(seed)
    total = 0
    for _ in range(kills):
        child = start(folder)
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(generator.uniform(0.0, 0.12))
        child.kill()
        acknowledged = [int(first), *acknowledged_by(child)]
        assert acknowledged[0] == total
        total = check(folder, acknowledged)


def test_kills_at_random_times_lose_nothing(tmp_path: Path) -> None:
    kill_at_random_times(tmp_path, kills=5, seed=1)


@pytest.mark.deep
def test_many_kills_at_random_times_lose_nothing(tmp_path: Path) -> None:
    kill_at_random_times(tmp_path, kills=100, seed=2)
