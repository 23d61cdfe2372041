"""Damage to the journal: which is cut, which is put right, which is set aside, and when the gate has to refuse."""

from __future__ import annotations

import logging
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_model import KEY, PURPOSE, everything_readable

from edge_client.know.store import Store
from edge_client.know.store.erasure import erase_home
from edge_client.know.store.frames import MARK, split_head
from edge_client.know.store.quarantine import Quarantine
from shared_models.errors import StoreDamagedError, StoreError, StoreRolledBackError, StoreWriteError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A snapshot, and behind it: gate 0, event 0, gate 1, event 1, gate 2, event 2, and a commit of both."""
    folder = tmp_path / "home"
    with Store(folder, key=KEY) as store:
        store.table("gate").put("policy", {"n": -1})
        store.table("events", PURPOSE).put("first", {"n": -1})
        store.compact()
        for number in range(3):
            store.table("gate").put(f"spent/{number}", {"n": number})
            store.table("events").put(f"event/{number}", {"n": number})
        with store.transaction():
            store.table("gate").put("spent/both", {"n": 9})
            store.table("events").put("event/both", {"n": 9})
    return folder


def boxes(folder: Path) -> tuple[bytes, list[bytes]]:
    """The header, and the boxes: events and gate of the snapshot are 1 and 2 or 2 and 1, OWN is 0."""
    raw = (folder / "store.tacit").read_bytes()
    end = split_head(raw)[1]
    return raw[:end], [MARK + box for box in raw[end:].split(MARK)[1:]]


def rewrite(folder: Path, header: bytes, parts: list[bytes]) -> None:
    (folder / "store.tacit").write_bytes(header + b"".join(parts))


def seen(store: Store) -> tuple[list[str], list[str]]:
    return store.table("gate").keys(), store.table("events").keys()


GATE = ["policy", "spent/0", "spent/1", "spent/2", "spent/both"]
EVENTS = ["first", "event/0", "event/1", "event/2", "event/both"]
FIRST = 3
"""The first box behind the snapshot."""


def test_the_boxes_lie_where_these_tests_think(home: Path) -> None:
    assert len(boxes(home)[1]) == FIRST + 8
    with Store(home, key=KEY) as store:
        assert seen(store) == (GATE, EVENTS)
        assert store.quarantine is None


@pytest.mark.parametrize("torn", [1, 40, 66, 100, -1])
def test_a_torn_end_is_cut_and_told_and_costs_nothing(home: Path, torn: int, caplog: pytest.LogCaptureFixture) -> None:
    """As a power cut leaves it: the bytes of a commit that nobody was told about."""
    header, parts = boxes(home)
    shutil.copy(home / "store.counter", home.parent / "counter")
    with Store(home, key=KEY) as store:
        store.table("gate").put("spent/torn", {"n": 1})
    torn_box = boxes(home)[1][-1][:torn]
    rewrite(home, header, [*parts, torn_box])
    shutil.copy(home.parent / "counter", home / "store.counter")
    with caplog.at_level(logging.WARNING), Store(home, key=KEY) as store:
        assert seen(store) == (GATE, EVENTS)
        assert store.describe()["repaired"] == {"cut_bytes": len(torn_box), "aside_bytes": 0, "lost_commits": 0}
        assert store.quarantine is None
        assert not store.quarantined
        store.table("gate").put("spent/next", {"n": 2})
    assert "cut off" in caplog.text
    assert "spent" not in caplog.text
    with Store(home, key=KEY) as store:
        assert seen(store) == ([*GATE, "spent/next"], EVENTS)
        assert store.describe()["repaired"] is None


def test_half_of_a_torn_transaction_is_not_kept(home: Path) -> None:
    header, parts = boxes(home)
    counter = (home / "store.counter").read_bytes()
    with Store(home, key=KEY) as store, store.transaction():
        store.table("gate").put("spent/x", {"n": 1})
        store.table("events").put("event/x", {"n": 1})
    rewrite(home, header, [*parts, boxes(home)[1][-2]])
    (home / "store.counter").write_bytes(counter)
    with Store(home, key=KEY) as store:
        assert seen(store) == (GATE, EVENTS)
        assert store.quarantine is None
        assert store.describe()["repaired"]["cut_bytes"] > 0


def test_a_clean_end_before_the_counter_is_an_older_copy(home: Path) -> None:
    header, parts = boxes(home)
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    for keep in (len(parts) - 2, FIRST + 3, FIRST):
        rewrite(home, header, parts[:keep])
        with pytest.raises(StoreRolledBackError, match="older copy"):
            Store(home, key=KEY)
    rewrite(home, header, parts)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before
    Store(home, key=KEY).close()


def flipped(box: bytes, place: int = -20) -> bytes:
    raw = bytearray(box)
    raw[place] ^= 1
    return bytes(raw)


def test_a_damaged_event_is_set_aside_and_the_gate_may_go_on(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    header, parts = boxes(home)
    bad = flipped(parts[FIRST + 3])
    rewrite(home, header, [*parts[: FIRST + 3], bad, *parts[FIRST + 4 :]])
    with Store(home, key=KEY) as store:
        assert seen(store) == (GATE, [key for key in EVENTS if key != "event/1"])
        assert store.quarantine == Quarantine(commits=1, tables=("events",), unsafe=False, size_bytes=len(bad))
        assert not store.quarantined
        assert store.describe()["quarantine"]["tables"] == ["events"]
    assert bad in (home / "store.quarantine").read_bytes()
    assert "1 commits are lost" in caplog.text
    assert "event/" not in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda parts: [*parts[: FIRST + 2], flipped(parts[FIRST + 2]), *parts[FIRST + 3 :]],
        lambda parts: [*parts[: FIRST + 3], flipped(parts[FIRST + 3], 20), *parts[FIRST + 4 :]],
        lambda parts: [*parts[: FIRST + 3], *parts[FIRST + 4 :]],
        lambda parts: [*parts[: FIRST + 3], parts[FIRST + 1], *parts[FIRST + 4 :]],
        lambda parts: [*parts[:-1], flipped(parts[-2])],
        lambda parts: [*parts[:-1], parts[-1][:50]],
        lambda parts: [flipped(parts[0]), *parts[1:]],
        lambda parts: [b"", *parts[1:]],
        lambda parts: parts[FIRST:],
        lambda parts: [b"".join(parts)[: sum(map(len, parts)) // 2], b"\0" * 500],
    ],
    ids=[
        "gate's box",
        "prefix of an event's box",
        "an event's box cut out",
        "an event's box replaced by another",
        "half a transaction",
        "a torn committed end",
        "own box",
        "own box cut out",
        "no snapshot",
        "second half zeroed",
    ],
)
def test_where_a_loss_may_touch_the_gate_the_store_says_so_for_life(
    home: Path, damage: Callable[[list[bytes]], list[bytes]]
) -> None:
    header, parts = boxes(home)
    rewrite(home, header, damage(parts))
    with Store(home, key=KEY) as store:
        assert store.quarantined
        kept_gate, kept_events = seen(store)
        assert [key for key in GATE if key in kept_gate] == kept_gate
        assert [key for key in EVENTS if key in kept_events] == kept_events
        store.table("gate").put("more", {})
        store.compact()
        store.rotate_keys()
    with Store(home, key=KEY) as store:
        assert store.quarantined
        assert store.describe()["quarantined"]
        assert store.describe()["repaired"] is None
        store.erase()
    with Store(home, key=KEY) as store:
        assert not store.quarantined


def test_swapped_repeated_and_foreign_bytes_are_told_and_cost_nothing(home: Path) -> None:
    header, parts = boxes(home)
    for mixed in (
        [*parts[:FIRST], parts[FIRST + 1], parts[FIRST], *parts[FIRST + 2 :]],
        [*parts, parts[FIRST + 2]],
        [*parts[:FIRST], b"foreign bytes", *parts[FIRST:]],
        [*parts[FIRST:], *parts[:FIRST]],
    ):
        folder = home.parent / "mixed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(home, folder)
        rewrite(folder, header, mixed)
        with Store(folder, key=KEY) as store:
            assert seen(store) == (GATE, EVENTS)
            assert store.describe()["repaired"] is not None
            assert store.quarantine is None
        with Store(folder, key=KEY) as store:
            assert seen(store) == (GATE, EVENTS)
            assert store.describe()["repaired"] is None


def test_boxes_of_another_store_or_of_before_a_snapshot_count_for_nothing(home: Path, tmp_path: Path) -> None:
    _, old = boxes(home)
    with Store(home, key=KEY) as store:
        store.table("gate").put("spent/0", {"n": 100})
        store.compact()
    newer_header, newer = boxes(home)
    with Store(tmp_path / "other", key=KEY) as other:
        other.table("gate").put("spent/0", {"n": 200})
    rewrite(home, newer_header, [*newer, *old[FIRST:], *boxes(tmp_path / "other")[1]])
    with Store(home, key=KEY) as store:
        assert store.table("gate").get("spent/0") == {"n": 100}
        assert store.quarantine is None
        assert store.describe()["repaired"] is not None


def test_random_damage_never_invents_reorders_or_hides(home: Path) -> None:
    """What opens holds a part of what was put, in order; and if anything of the gate is missing, it says so."""
    generator = random.Random(7)
    original = (home / "store.tacit").read_bytes()
    opened = 0
    for turn in range(60):
        folder = home.parent / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(home, folder)
        raw = bytearray(original)
        for _ in range(generator.randrange(1, 4)):
            place, length = generator.randrange(len(raw)), generator.randrange(1, 200)
            raw[place : place + length] = generator.choice(
                (generator.randbytes(length), b"", bytes(raw[generator.randrange(len(raw)) :][:length]), b"\0" * length)
            )
        (folder / "store.tacit").write_bytes(raw)
        try:
            store = Store(folder, key=KEY)
        except StoreError:
            assert (folder / "store.tacit").read_bytes() == raw
            continue
        opened += 1
        with store:
            gate, events = seen(store)
            assert [key for key in GATE if key in gate] == gate, turn
            assert [key for key in EVENTS if key in events] == events, turn
            assert store.quarantined or gate == GATE, turn
            assert store.quarantine is not None or events == EVENTS, turn
    assert opened > 20


def test_a_lost_header_costs_nothing_since_every_box_is_bound_to_it(home: Path) -> None:
    header, parts = boxes(home)
    for bad in (flipped(header), header[:10], b"", b"junk" * 20):
        rewrite(home, bad, parts)
        with Store(home, key=KEY) as store:
            assert seen(store) == (GATE, EVENTS)
            assert store.quarantine is None
            assert store.describe()["repaired"] is not None
        assert boxes(home)[0] == header
        header, parts = boxes(home)


def test_a_file_in_which_nothing_verifies_is_refused_untouched(home: Path, tmp_path: Path) -> None:
    header, _ = boxes(home)
    with Store(tmp_path / "other", key=KEY) as other:
        other.table("gate").put("spent/0", {"n": 200})
    foreign_header, foreign = boxes(tmp_path / "other")
    for content in (b"", b"junk" * 100, foreign_header + b"".join(foreign), b"".join(foreign)):
        (home / "store.tacit").write_bytes(content)
        with pytest.raises(StoreDamagedError):
            Store(home, key=KEY)
        assert (home / "store.tacit").read_bytes() == content
    rewrite(home, header, [b"nothing here verifies"])
    with pytest.raises(StoreDamagedError, match="nothing"):
        Store(home, key=KEY)


def test_erasing_takes_the_quarantine_along(home: Path) -> None:
    header, parts = boxes(home)
    rewrite(home, header, [*parts[:-1], flipped(parts[-1])])
    Store(home, key=KEY).close()
    assert (home / "store.quarantine").exists()
    assert erase_home(home) == []
    assert list(home.iterdir()) == []


def test_several_users_are_separate(tmp_path: Path) -> None:
    with Store(tmp_path / "a", key=KEY) as first, Store(tmp_path / "b", key=KEY) as second:
        first.table("events", PURPOSE).append({"text": "canary of a"})
        second.table("events", PURPOSE).append({"text": "canary of b"})
        first.destroy_purpose(PURPOSE)
        assert b"canary of b" in everything_readable(tmp_path / "b")
        assert b"canary" not in everything_readable(tmp_path / "a", [tmp_path / "b" / "store.tacit"])


# -- full disks --------------------------------------------------------------------------------------------------------


def test_a_destruction_that_finds_no_room_is_made_up_for(home: Path) -> None:
    store = Store(home, key=KEY)
    size_bytes = (home / "store.tacit").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for the commit that decides it, none for the key file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes + 400, before[1]))
    try:
        store.table("events").put("big", {"text": "x" * 100})
        with pytest.raises(StoreWriteError):
            store.destroy_purpose(PURPOSE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.table("gate").keys() == GATE
    store.destroy_purpose(PURPOSE)
    store.table("events").put("new", {"n": 1})
    store.close()
    with Store(home, key=KEY) as store:
        assert seen(store) == (GATE, ["new"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB where that can be mounted; elsewhere a folder, and the kernel's limit on file sizes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield disk
    if mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.deep
def test_a_full_disk_keeps_all_that_was_told_to_be_kept_and_works_again_with_room(small_disk: Path) -> None:
    home = small_disk / "home"
    kept = []
    with Store(home, key=KEY) as store:
        events = store.table("events", PURPOSE)

        def fill() -> None:
            for number in range(10_000):
                events.append({"n": number, "text": "x" * 3000})
                kept.append(number)

        with pytest.raises(StoreWriteError, match="committed before is safe"):
            fill()
        assert [entry["n"] for entry in events.entries()] == kept
        for attempt in (store.compact, store.rotate_keys, lambda: events.append({"n": -1, "text": "x" * 3000})):
            with pytest.raises(StoreWriteError):
                attempt()
    with Store(home, key=KEY) as store:
        assert [entry["n"] for entry in store.table("events").entries()] == kept
        assert store.describe()["repaired"] is None
        assert store.erase() == []
    with Store(home, key=KEY) as store:
        store.table("events").append({"n": 1})


@pytest.mark.deep
def test_a_read_only_disk_is_a_typed_error_and_loses_nothing(small_disk: Path) -> None:
    if not os.path.ismount(small_disk):
        return
    home = small_disk / "home"
    with Store(home, key=KEY) as store:
        store.table("a").put("x", {"n": 1})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreWriteError):
        Store(home, key=KEY)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    with Store(home, key=KEY) as store:
        assert store.table("a").get("x") == {"n": 1}
