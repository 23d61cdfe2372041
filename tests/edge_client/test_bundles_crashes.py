"""SIGKILL before every change of the disk during a refresh, and disks that refuse: the bundle is the old or the new one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from published_fleet import PublishedFleet, killed_at_each_step

from edge_client.bundles import BundleStore
from shared_models.errors import StoreWriteError


def whole(fleet: PublishedFleet, versions: set[int | None]) -> int | None:
    """The device opens, and what it opens is one release, completely."""
    active = fleet.device().current()
    version = None if active is None else active.manifest.version
    assert version in versions
    if active is not None:
        assert active.head == b"head %d" % active.manifest.version
        assert active.encoder_model.read_bytes() == b"encoder %d" % active.manifest.version
    return version


def publish(fleet: PublishedFleet, version: int) -> None:
    fleet.encoder.write_bytes(b"encoder %d" % version)
    fleet.publish(version, templates={"greeting": (f"Hello {version}.",)})


def no_debris(fleet: PublishedFleet) -> None:
    folder = fleet.root / "device"
    assert sorted(path.name for path in folder.iterdir()) == [
        "anchor.json",
        "clock.json",
        "current",
        "generations",
        "lock",
        "objects",
    ]
    assert len(list((folder / "generations").iterdir())) == 1
    assert len(list((folder / "objects").iterdir())) == 6


def test_killed_at_any_step_of_an_update(fleet: PublishedFleet) -> None:
    publish(fleet, 1)
    fleet.device().refresh(fleet.folder)
    old = fleet.copy("old-release")
    publish(fleet, 2)
    settled = fleet.root / "device"
    settled.rename(fleet.root / "settled")
    seen = set()
    for step in killed_at_each_step(lambda: from_settled(fleet).refresh(fleet.folder)):
        seen.add(whole(fleet, {1, 2}))
        if step % 4 == 0:
            assert fleet.device().refresh(fleet.folder) == "fresh"
            assert whole(fleet, {2}) == 2
            no_debris(fleet)
    assert whole(fleet, {2}) == 2
    no_debris(fleet)
    assert seen == {1, 2}, "kills fell both before and after the swap"
    assert old.is_dir()


def from_settled(fleet: PublishedFleet) -> BundleStore:
    """In the child: the device as it was, copied with calls that do not count as its own steps."""
    subprocess.run(["rm", "-rf", str(fleet.root / "device")], check=True)
    subprocess.run(["cp", "-a", str(fleet.root / "settled"), str(fleet.root / "device")], check=True)
    return fleet.device()


@pytest.mark.deep
def test_killed_at_any_step_of_the_first_refresh(fleet: PublishedFleet) -> None:
    publish(fleet, 1)
    (fleet.root / "settled").mkdir()
    seen = set()
    for step in killed_at_each_step(lambda: from_settled(fleet).refresh(fleet.folder)):
        seen.add(whole(fleet, {None, 1}))
        if step % 4 == 0:
            assert fleet.device().refresh(fleet.folder) == "fresh"
            no_debris(fleet)
    assert seen == {None, 1}
    no_debris(fleet)


def test_debris_of_a_crash_is_gone_after_the_next_start(fleet: PublishedFleet) -> None:
    fleet.device().refresh(fleet.folder)
    staging = fleet.root / "device" / "staging"
    (staging / "downloads").mkdir(parents=True)
    (staging / "downloads" / "half").write_bytes(b"x" * 1000)
    (fleet.root / "device" / "objects" / ("0" * 64)).write_bytes(b"nobody names this")
    (fleet.root / "device" / "current.12ab34cd.tmp").write_bytes(b"{")
    assert whole_after_start(fleet) == 0
    assert not staging.exists()
    assert len(list((fleet.root / "device" / "objects").iterdir())) == 6
    assert not list((fleet.root / "device").glob("*.tmp"))


def whole_after_start(fleet: PublishedFleet) -> int:
    active = fleet.device().current()
    assert active is not None
    return active.manifest.version


def test_a_start_while_another_process_refreshes_does_not_remove_its_work(fleet: PublishedFleet) -> None:
    fleet.device().refresh(fleet.folder)
    fleet.publish(1)
    code = (
        "import sys, time, os; from pathlib import Path; from edge_client.bundles import BundleStore;"
        "real = os.replace;"
        "slowly = lambda *a: (print('busy', flush=True), time.sleep(0.5), real(*a))[2];"
        "os.replace = lambda *a: slowly(*a) if 'objects' in str(a[1]) else real(*a);"
        f"print(BundleStore(Path({str(fleet.root / 'device')!r}), lambda: {fleet.now_s}).refresh({str(fleet.folder)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        # A start finds a staging folder that somebody is filling: it leaves it alone, and does not wait.
        store = fleet.device()
        assert store.current().manifest.version == 0  # type: ignore[union-attr]
        assert process.wait(timeout=60) == 0
    assert store.current().manifest.version == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_disk_that_refuses_leaves_the_old_release(
    fleet: PublishedFleet, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fleet.device()
    store.refresh(fleet.folder)
    fleet.publish(1)
    real = getattr(os, call)
    for number in range(1, 40):
        left = number

        def failing(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            if not refused_for_space(store, fleet):
                assert number > 3
                break
        active = fleet.device().current()
        assert active is not None
        assert active.head == b"head %d" % active.manifest.version
    else:
        pytest.fail("the refresh never got through")
    assert store.current().manifest.version == 1  # type: ignore[union-attr]


def refused_for_space(store: BundleStore, fleet: PublishedFleet) -> bool:
    try:
        store.refresh(fleet.folder)
    except StoreWriteError as error:
        return "No space left" in str(error)
    return False


@pytest.mark.deep
def test_killed_at_random_times(fleet: PublishedFleet) -> None:
    publish(fleet, 1)
    fleet.device().refresh(fleet.folder)
    version = 1
    code = (
        "import sys; from pathlib import Path; from edge_client.bundles import BundleStore; import edge_client.bundle_check;"
        "print('go', flush=True);"
        f"BundleStore(Path({str(fleet.root / 'device')!r}), lambda: {fleet.now_s}).refresh({str(fleet.folder)!r})"
    )
    kills = 0
    for run in range(60):
        publish(fleet, version := version + 1)
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.002 * run)
            process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
        whole(fleet, {*range(1, version + 1)})
    assert kills > 10
    assert fleet.device().refresh(fleet.folder) == "fresh"
    assert whole(fleet, {version}) == version
    no_debris(fleet)
