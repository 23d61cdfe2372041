"""What can happen to a store: changed bytes, old copies, two owners, full and read-only disks."""

from __future__ import annotations

import errno
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_client.know.store import Store
from edge_client.know.store.frames import MARK
from shared_models.errors import (
    StoreDamagedError,
    StoreError,
    StoreLockedError,
    StoreRolledBackError,
    StoreWriteError,
    WrongKeyError,
)

KEY = bytes(range(32))
FILES = ("store.key", "store.tacit", "store.counter")


def make(folder: Path, key: bytes | str = KEY, entries: int = 3) -> None:
    with Store(folder, key=key) as store:
        for number in range(entries):
            store.table("a").put(f"k{number}", {"n": number})


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make(folder)
    return folder


def kept(store: Store) -> set[int]:
    """The numbers of `make` that are there; each must be what was put."""
    numbers = set()
    for key, value in store.table("a").items():
        assert value == {"n": int(key[1:])}
        numbers.add(value["n"])
    return numbers


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_changed_byte_is_found(sound: Path, tmp_path: Path, name: str, place: float, flip: int) -> None:
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    raw = bytearray((folder / name).read_bytes())
    position = int(place * len(raw))
    raw[position] ^= flip
    (folder / name).write_bytes(raw)
    if name == "store.counter":
        # One slot may be hurt (a torn write): the other still counts, one commit behind.
        try:
            Store(folder, key=KEY).close()
        except StoreRolledBackError:
            pytest.fail("a single damaged slot must not lock the user out")
        return
    before = snapshot(folder)
    try:
        store = Store(folder, key=KEY)
    except StoreDamagedError:
        assert name == "store.key"
        assert snapshot(folder) == before
        return
    with store:
        if position < (folder / "store.tacit").read_bytes().index(MARK):
            # Every box is bound to the header, so it is not missed.
            assert kept(store) == {0, 1, 2}
            assert store.describe()["repaired"] is not None
            return
        # One box is lost, of a table that has no purpose: the gate must not go on as if nothing had been.
        assert store.quarantined
        assert store.quarantine is not None
        assert store.quarantine.commits == 1
        assert store.describe()["repaired"]["lost_commits"] == 1
        lost = {0, 1, 2} - kept(store)
        assert len(lost) <= 1
        assert raw[position : position + 1] in (folder / "store.quarantine").read_bytes()
    with Store(folder, key=KEY) as store:
        assert store.quarantined
        assert store.describe()["repaired"] is None
        assert {0, 1, 2} - kept(store) == lost


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), keep=st.floats(0, 1, exclude_max=True))
def test_any_cut_is_found(sound: Path, tmp_path: Path, name: str, keep: float) -> None:
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    raw = (folder / name).read_bytes()
    cut = raw[: int(keep * len(raw))]
    (folder / name).write_bytes(cut)
    if name == "store.counter" and len(cut) >= 64:
        Store(folder, key=KEY).close()
        return
    try:
        store = Store(folder, key=KEY)
    except StoreError:
        return
    with store:
        # Cut inside a commit: those before it are kept, and that committed ones are gone is told.
        assert store.quarantined
        numbers = kept(store)
        assert numbers == set(range(len(numbers)))
        assert len(numbers) < 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), junk=st.binary(max_size=400))
def test_junk_in_place_of_a_file_is_a_typed_error(sound: Path, tmp_path: Path, name: str, junk: bytes) -> None:
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    (folder / name).write_bytes(junk)
    with pytest.raises((StoreDamagedError, StoreRolledBackError)):
        Store(folder, key=KEY)


def test_a_store_of_another_user_is_not_accepted(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "store.tacit", tmp_path / "a" / "store.tacit")
    with pytest.raises(StoreDamagedError, match="another store"):
        Store(tmp_path / "a", key=KEY)


@pytest.mark.parametrize(
    ("missing", "error"),
    [("store.key", StoreDamagedError), ("store.tacit", StoreRolledBackError), ("store.counter", StoreRolledBackError)],
)
def test_a_missing_file_is_noticed(tmp_path: Path, missing: str, error: type[StoreError]) -> None:
    make(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(error):
        Store(tmp_path, key=KEY)


def test_a_folder_in_place_of_a_file_is_a_typed_error(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "store.tacit").unlink()
    (tmp_path / "store.tacit").mkdir()
    with pytest.raises(StoreDamagedError, match="cannot be read"):
        Store(tmp_path, key=KEY)


def test_a_file_in_place_of_the_folder_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(StoreWriteError):
        Store(tmp_path / "home", key=KEY)


# -- rollback ----------------------------------------------------------------------------------------------------------


def test_an_older_copy_is_found_and_the_newest_opens_again(tmp_path: Path) -> None:
    make(tmp_path)
    old = (tmp_path / "store.tacit").read_bytes()
    make(tmp_path, entries=4)
    new = (tmp_path / "store.tacit").read_bytes()
    (tmp_path / "store.tacit").write_bytes(old)
    with pytest.raises(StoreRolledBackError, match="older copy"):
        Store(tmp_path, key=KEY)
    (tmp_path / "store.tacit").write_bytes(new)
    with Store(tmp_path, key=KEY) as store:
        assert len(store.table("a")) == 4


def test_a_counter_that_lags_accuses_nobody_and_catches_up(tmp_path: Path) -> None:
    make(tmp_path)
    old_counter, old_store = (tmp_path / "store.counter").read_bytes(), (tmp_path / "store.tacit").read_bytes()
    make(tmp_path, entries=5)
    (tmp_path / "store.counter").write_bytes(old_counter)
    Store(tmp_path, key=KEY).close()
    (tmp_path / "store.tacit").write_bytes(old_store)
    with pytest.raises(StoreRolledBackError):
        Store(tmp_path, key=KEY)


def test_a_counter_of_another_store_counts_for_nothing(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "store.counter", tmp_path / "a" / "store.counter")
    with pytest.raises(StoreRolledBackError, match="damaged"):
        Store(tmp_path / "a", key=KEY)


# -- owners ------------------------------------------------------------------------------------------------------------


def test_a_second_owner_is_refused_at_once_and_may_come_after_the_first(tmp_path: Path) -> None:
    first = Store(tmp_path, key=KEY)
    started = time.monotonic()
    with pytest.raises(StoreLockedError, match="open elsewhere"):
        Store(tmp_path, key=KEY)
    program = (
        "import sys; from edge_client.know.store import Store\n"
        "from shared_models.errors import StoreLockedError\n"
        "try: Store(sys.argv[1], key=bytes(range(32)))\n"
        "except StoreLockedError: print('locked')\n"
    )
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.strip() == "locked", found.stderr
    assert time.monotonic() - started < 30
    first.close()
    Store(tmp_path, key=KEY).close()


ROOT = Path(__file__).parents[2]


def test_a_failed_opening_gives_the_lock_back(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(WrongKeyError):
        Store(tmp_path, key=bytes(32))
    Store(tmp_path, key=KEY).close()


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing_and_memory_goes_back_to_what_is_on_disk(tmp_path: Path) -> None:
    """The kernel's own limit on file sizes stands for the full disk: writes fail in the middle of the file."""
    with Store(tmp_path, key=KEY) as store:
        table = store.table("a")
        table.put("x", {"n": 1})

        def change_two_tables() -> None:
            with store.transaction():
                table.put("x", {"n": 2})
                store.table("b").put("big", {"text": "y" * 10_000})

        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        try:
            with pytest.raises(StoreWriteError, match="committed before is safe"):
                table.put("big", {"text": "y" * 10_000})
            with pytest.raises(StoreWriteError):
                change_two_tables()
            assert table.items() == [("x", {"n": 1})]
            assert len(store.table("b")) == 0
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list(tmp_path.glob("*.tmp"))
        table.put("y", {"n": 3})
    with Store(tmp_path, key=KEY) as store:
        assert store.table("a").keys() == ["x", "y"]


def test_a_disk_that_fails_at_any_step_leaves_memory_equal_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write read-only folders, so the failing calls are made to fail."""

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for step in ("write", "fdatasync", "lseek", "open"):
        folder = tmp_path / step
        Store(folder, key=KEY).close()
        with Store(folder, key=KEY) as store:
            if step != "open":
                store.table("a").put("x", {"n": 1})
            with monkeypatch.context() as patch:
                patch.setattr(f"edge_client.platform.os.{step}", failing)
                with pytest.raises(StoreWriteError, match="Read-only"):
                    store.table("a").put("y", {"n": 2})
            assert "y" not in store.table("a")
            store.table("a").put("z", {"n": 3})
        with Store(folder, key=KEY) as store:
            assert store.table("a").keys() == (["z"] if step == "open" else ["x", "z"])
            assert store.describe()["repaired"] is None


def test_a_snapshot_that_cannot_be_written_leaves_the_journal_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in ("open", "write", "fsync", "replace"):
        folder = tmp_path / step
        with Store(folder, key=KEY) as store:
            store.table("a").put("x", {"n": 1})
            with monkeypatch.context() as patch:
                patch.setattr(f"edge_client.platform.os.{step}", failing)
                with pytest.raises(StoreWriteError, match="No space"):
                    store.compact()
            store.table("a").put("y", {"n": 2})
        with Store(folder, key=KEY) as store:
            assert store.table("a").keys() == ["x", "y"]
        assert not list(folder.glob("*.tmp"))
    with Store(tmp_path / "last", key=KEY) as store:
        store.table("a").put("x", {"n": 1})
        with monkeypatch.context() as patch:
            patch.setattr("edge_client.platform.sync_folder", failing)
            store.compact()
            patch.setattr("edge_client.know.store.journal.sync_folder", failing)
            # The rename has happened but may not last: nothing is told to be durable before it does.
            with pytest.raises(StoreWriteError):
                store.table("a").put("y", {"n": 2})
        store.table("a").put("y", {"n": 3})
    with Store(tmp_path / "last", key=KEY) as store:
        assert store.table("a").items() == [("x", {"n": 1}), ("y", {"n": 3})]


def test_a_read_only_folder_is_a_typed_error(tmp_path: Path) -> None:
    """As another user than root where the tests run as root."""
    make(tmp_path)
    tmp_path.chmod(0o500)
    program = (
        "import os, sys\n"
        "from edge_client.know.store import Store\n"
        "from shared_models.errors import StoreWriteError\n"
        "store = Store(sys.argv[1], key=bytes(range(32)))\n"
        "os.chmod(sys.argv[1], 0o500)\n"
        "os.geteuid() == 0 and os.seteuid(os.stat(sys.argv[1]).st_uid or 65534)\n"
        "try: store.table('a').put('new', {})\n"
        "except StoreWriteError as error: print('refused', len(store.table('a')))\n"
    )
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    tmp_path.chmod(0o700)
    assert found.stdout.strip() == "refused 3", found.stderr
