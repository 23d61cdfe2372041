"""SIGKILL at named points and at random moments: whatever was acknowledged is there when the store is opened again.

The model and what a child does lie in tests/support/store_model.py. The named points are all that the store has.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from store_model import KEY, KINDS, PURPOSE, Child, Model, Step, check, everything_readable, perform, step, work_on

from edge_client.know.store import Store
from edge_client.know.store.erasure import erase_home
from edge_client.platform import FAULT_VARIABLE
from shared_models.errors import StoreDamagedError

ROOT = Path(__file__).parents[2]

WRITING = ("before_temp", "half_temp", "after_temp", "after_rename", "after_sync")
WIPING = (*WRITING, "after_wipe")
APPEND_POINTS = [f"store.append.{point}" for point in ("before_write", "half_write", "after_write", "after_sync")]
CREATION_POINTS = [
    *(f"store.key.{point}" for point in WRITING),
    *(f"store.count.{point}" for point in WRITING),
    "store.created",
    *(f"store.snapshot.{point}" for point in WIPING),
    "store.after_counter",
]
POINTS = {
    "append": [*APPEND_POINTS, "store.after_counter"],
    "together": [*APPEND_POINTS, "store.after_counter"],
    "clear": [
        *APPEND_POINTS,
        *(f"store.snapshot.{point}" for point in WIPING),
        "store.after_counter",
    ],
    "compact": [*(f"store.snapshot.{point}" for point in WIPING), "store.after_counter"],
    "rotate": [
        *(f"store.key.{point}" for point in WIPING),
        "store.rotate.after_both_keys",
        *(f"store.rotate.{point}" for point in WIPING),
        "store.after_counter",
        *(f"store.count.{point}" for point in WRITING),
        "store.rotate.after_counter",
        "store.rotate.after_new_key",
    ],
    "destroy": [
        *APPEND_POINTS,
        *(f"store.key.{point}" for point in WIPING),
        "store.destroy.after_key",
        *(f"store.destroy.{point}" for point in WIPING),
        "store.after_counter",
    ],
    "erase": ["forget.after_key", "forget.after_store"],
}
QUICK = {
    ("append", "store.append.half_write"),
    ("append", "store.append.after_write"),
    ("together", "store.append.half_write"),
    ("compact", "store.snapshot.after_rename"),
    ("rotate", "store.rotate.after_both_keys"),
    ("rotate", "store.rotate.after_rename"),
    ("rotate", "store.rotate.after_counter"),
    ("destroy", "store.append.after_sync"),
    ("destroy", "store.destroy.after_key"),
    ("erase", "forget.after_key"),
}


def killed_at(point: str, work: Callable[[], object]) -> bool:
    """Run `work` in a child that kills itself at `point`; False if it never came there."""

    def run(tell: Callable[[int], None]) -> None:
        os.environ[FAULT_VARIABLE] = point
        work()

    child = Child(run)
    assert list(child.told()) == []
    return child.killed()


def furnished(folder: Path) -> Model:
    """A store with something of everything."""
    model = Model()
    with Store(folder, key=KEY) as store:
        for number, kind in enumerate(("append", "put", "together", "append", "put")):
            now = Step(number, kind, f"k{number}", f"canary-{number}-")
            perform(store, now)
            model = model.after(now)
    return model


@pytest.mark.parametrize(
    ("kind", "point"),
    [
        pytest.param(kind, point, marks=() if (kind, point) in QUICK else pytest.mark.deep)
        for kind, points in POINTS.items()
        for point in points
    ],
)
def test_a_kill_at_a_named_point_leaves_the_former_or_the_new_state(tmp_path: Path, kind: str, point: str) -> None:
    model = furnished(tmp_path)
    now = Step(9, kind, "k1", "canary-9-")
    assert killed_at(point, lambda: perform(Store(tmp_path, key=KEY), now))
    found = check(tmp_path, model, now)
    if point in ("store.append.before_write", "store.append.half_write"):
        assert found is model
    if kind in ("append", "together", "clear", "destroy") and point in APPEND_POINTS[2:]:
        assert found.seen() == model.after(now).seen()
    # What was left is a store like any other.
    again = Step(10, "together", "k1", "canary-10-")
    with Store(tmp_path, key=KEY) as store:
        perform(store, again)
    check(tmp_path, found.after(again), None)


def test_every_fault_point_of_the_store_is_killed_at() -> None:
    known = {point for points in POINTS.values() for point in points} | set(CREATION_POINTS)
    known |= {"store.quarantine.after_aside"}
    for path in (ROOT / "edge_client" / "know" / "store").glob("*.py"):
        for point in re.findall(r'fault_point\("([^"]+)"\)', path.read_text(encoding="utf-8")):
            assert point in known


SOME_CREATION_POINTS = ["store.key.after_temp", "store.key.after_sync", "store.created", "store.snapshot.after_rename"]


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
    assert killed_at(point, lambda: Store(tmp_path, key=KEY))
    with Store(tmp_path, key=KEY) as store:
        assert store.describe()["records"] == {}
        store.table("a").put("x", {})
    with Store(tmp_path, key=KEY) as store:
        assert len(store.table("a")) == 1


@pytest.mark.parametrize("point", ["forget.after_key", "forget.after_store"])
def test_a_kill_while_forgetting_leaves_nothing_readable_and_can_be_finished(tmp_path: Path, point: str) -> None:
    with Store(tmp_path, key=KEY) as store:
        store.table("a").put("x", {"text": "canary"})
    assert killed_at(point, lambda: erase_home(tmp_path))
    assert not (tmp_path / "store.key").exists()
    if point == "forget.after_key":
        with pytest.raises(StoreDamagedError, match="key file is missing"):
            Store(tmp_path, key=KEY)
    assert erase_home(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_purpose_whose_destruction_was_committed_is_destroyed_at_the_next_opening(tmp_path: Path) -> None:
    model = furnished(tmp_path)
    assert killed_at("store.append.after_sync", lambda: Store(tmp_path, key=KEY).destroy_purpose(PURPOSE))
    assert b"canary-0-" in everything_readable(tmp_path)
    Store(tmp_path, key=KEY).close()
    assert b"canary-0-" not in everything_readable(tmp_path)
    check(tmp_path, model.after(Step(9, "destroy", "", "")), None)


def test_a_kill_while_damage_is_set_aside_still_tells_of_it(tmp_path: Path) -> None:
    furnished(tmp_path)
    raw = bytearray((tmp_path / "store.tacit").read_bytes())
    raw[-300] ^= 1
    (tmp_path / "store.tacit").write_bytes(raw)
    for point in ("store.quarantine.half_temp", "store.quarantine.after_aside", "store.snapshot.after_temp"):
        assert killed_at(point, lambda: Store(tmp_path, key=KEY))
    with Store(tmp_path, key=KEY) as store:
        found = store.quarantine
        assert found is not None
        assert found.commits == 1
        assert (tmp_path / "store.quarantine").stat().st_size < found.size_bytes + 100


def kill_at_random_times(folder: Path, kills: int, seed: int, kinds: dict[str, int]) -> set[str]:
    """Returns the kinds of operations that were under way when a kill came."""
    generator = random.Random(seed)
    model, number, interrupted = Model(), 0, set()
    Store(folder, key=KEY).close()
    for _ in range(kills):
        child = Child(work_on(folder, seed, number, kinds))
        telling = child.told()
        # One in eight dies while it opens the store, the others somewhere in their work.
        told = [] if generator.random() < 0.125 else [next(telling)]
        time.sleep(generator.uniform(0.0, 0.03))
        child.kill()
        told += telling
        assert child.killed()
        for value in told:
            if value % 2:
                model = model.after(step(seed, value // 2, kinds))
        under_way = None if not told or told[-1] % 2 else step(seed, told[-1] // 2, kinds)
        if under_way is not None:
            interrupted.add(under_way.kind)
        model = check(folder, model, under_way)
        number = told[-1] // 2 + 1 if told else number
    return interrupted


def test_kills_at_random_times_lose_nothing(tmp_path: Path) -> None:
    kill_at_random_times(tmp_path, kills=15, seed=1, kinds=KINDS)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("seed", "kinds"),
    [
        (2, KINDS),
        (3, {"append": 3, "together": 3, "put": 2}),
        (4, {"append": 2, "put": 1, "compact": 4, "clear": 1, "delete": 1}),
        (5, {"append": 2, "put": 1, "rotate": 5}),
        (6, {"append": 3, "destroy": 2, "withdraw": 2, "erase": 2}),
    ],
    ids=["all", "write", "snapshot", "rotate", "destroy-and-erase"],
)
def test_many_kills_at_random_times_lose_nothing(tmp_path: Path, seed: int, kinds: dict[str, int]) -> None:
    """Five mixes, 150 kills each."""
    interrupted = kill_at_random_times(tmp_path, 150, seed, kinds)
    # A mix whose point is a rare operation did interrupt it.
    assert interrupted & {*list(kinds)[-3:]}
