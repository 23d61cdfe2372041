"""What can happen to a store: wrong keys, changed bytes, old copies, two owners, full and read-only disks, erasure."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keyring
import keyring.backend
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_client.know.store import Passphrase, RawKey, Store
from edge_client.know.store.erasure import erase_home
from edge_client.know.store.keys import KeyFile, keyring_available
from shared_models.canonical import canonical_bytes, canonical_hash, parse_document
from shared_models.errors import (
    ConfigError,
    KeyUnavailableError,
    StoreClosedError,
    StoreDamagedError,
    StoreError,
    StoreLockedError,
    StoreRolledBackError,
    StoreSchemaError,
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


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_told_from_damage_and_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(WrongKeyError, match="raw key"):
        Store(tmp_path, key=bytes(32))
    with pytest.raises(WrongKeyError, match="made with a raw key, not with a passphrase"):
        Store(tmp_path, key="words")
    assert snapshot(tmp_path) == before
    with Store(tmp_path, key=KEY) as store:
        assert len(store.table("a")) == 3


def test_a_passphrase_opens_whatever_unicode_form_it_is_typed_in(tmp_path: Path) -> None:
    make(tmp_path, "Grüße aus Oslo")
    with Store(tmp_path, key="Gru\u0308ße aus Oslo") as store:
        assert len(store.table("a")) == 3
    with pytest.raises(WrongKeyError, match="passphrase"):
        Store(tmp_path, key="Grüsse aus Oslo")


@pytest.mark.parametrize("key", [b"short", b"x" * 33, "", "   ", 7, 3.5, ["x"]])
def test_keys_that_are_none_are_refused_before_anything_is_made(tmp_path: Path, key: object) -> None:
    with pytest.raises(ConfigError):
        Store(tmp_path / "home", key=key)  # type: ignore[arg-type]
    assert not (tmp_path / "home" / "store.key").exists()


def test_a_forged_argon2_cost_is_damage_and_takes_no_memory(tmp_path: Path) -> None:
    make(tmp_path, "words")
    path = tmp_path / "store.key"
    document = parse_document(path.read_bytes())
    document["remembered"]["memlimit_bytes"] = 1 << 45
    del document["sha256"]
    path.write_bytes(canonical_bytes({**document, "sha256": canonical_hash(document)}))
    with pytest.raises(StoreDamagedError, match="Argon2id"):
        Store(tmp_path, key="words")


def test_a_newer_key_file_asks_for_an_update(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "store.key"
    document = {**parse_document(path.read_bytes()), "format": 2}
    del document["sha256"]
    path.write_bytes(canonical_bytes({**document, "sha256": canonical_hash(document)}))
    with pytest.raises(StoreSchemaError, match="update"):
        Store(tmp_path, key=KEY)


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring for machines that have none (like most that run tests)."""

    priority = 5  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


@pytest.fixture
def system_keyring() -> object:
    before = keyring.get_keyring()
    backend = MemoryKeyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def test_the_system_keyring_keeps_the_key_and_forgetting_removes_it(
    tmp_path: Path, system_keyring: MemoryKeyring
) -> None:
    with Store(tmp_path, key=None) as store:
        store.table("a").put("x", {})
    assert len(system_keyring.entries) == 1
    with Store(tmp_path, key=None) as store:
        assert store.describe()["key"] == "keyring"
        assert store.erase() == []
    assert system_keyring.entries == {}


def test_a_store_whose_keyring_entry_is_gone_says_so(tmp_path: Path, system_keyring: MemoryKeyring) -> None:
    Store(tmp_path, key=None).close()
    system_keyring.entries.clear()
    with pytest.raises(KeyUnavailableError, match="no key for this store"):
        Store(tmp_path, key=None)


def test_without_a_keyring_the_way_out_is_named(tmp_path: Path) -> None:
    before = keyring.get_keyring()
    from keyring.backends import fail

    keyring.set_keyring(fail.Keyring())
    try:
        assert not keyring_available()
        with pytest.raises(KeyUnavailableError, match="passphrase"):
            Store(tmp_path, key=None)
    finally:
        keyring.set_keyring(before)
    assert not (tmp_path / "store.key").exists()
    make(tmp_path, "words instead")


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make(folder)
    return folder


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
    with pytest.raises(StoreDamagedError):
        Store(folder, key=KEY)
    assert snapshot(folder) == before


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
    with pytest.raises(StoreError):
        Store(folder, key=KEY)


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
    """Root may write read-only folders, so the failing calls are made to fail: open, write, sync, rename, folder sync."""

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for step in ("open", "write", "fsync", "replace"):
        folder = tmp_path / step
        with Store(folder, key=KEY) as store:
            store.table("a").put("x", {"n": 1})
            with monkeypatch.context() as patch:
                patch.setattr(f"edge_client.platform.os.{step}", failing)
                with pytest.raises(StoreWriteError, match="Read-only"):
                    store.table("a").put("x", {"n": 2})
            assert store.table("a").get("x") == {"n": 1}
            store.table("a").put("y", {"n": 3})
        with Store(folder, key=KEY) as store:
            assert store.table("a").items() == [("x", {"n": 1}), ("y", {"n": 3})]
    with Store(tmp_path / "last", key=KEY) as store:
        store.table("a").put("x", {"n": 1})
        with monkeypatch.context() as patch:
            patch.setattr("edge_client.platform.sync_folder", failing)
            with pytest.raises(StoreWriteError):
                store.table("a").put("x", {"n": 2})
        # The rename had happened: what is on disk is the new state, and so is what is in memory.
        assert store.table("a").get("x") == {"n": 2}
    with Store(tmp_path / "last", key=KEY) as store:
        assert store.table("a").get("x") == {"n": 2}


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


# -- erasure -----------------------------------------------------------------------------------------------------------


def test_forgetting_leaves_no_trace_and_closes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    store = Store(home, key=KEY)
    store.table("a").put("x", {"text": "canary phrase"})
    (home / "bundle").mkdir()
    (home / "bundle" / "cache").write_bytes(b"canary phrase")
    (home / "store.tacit.0123abcd.tmp").write_bytes(b"left by a killed writer")
    assert store.erase() == []
    assert list(home.iterdir()) == []
    with pytest.raises(StoreClosedError):
        store.table("a").get("x")
    with Store(home, key=KEY) as fresh:
        assert fresh.describe()["records"] == {}


def test_the_key_is_overwritten_in_place_before_anything_is_removed(tmp_path: Path) -> None:
    make(tmp_path, "words")
    os.link(tmp_path / "store.key", tmp_path / "second-name")
    before = (tmp_path / "second-name").read_bytes()
    KeyFile.from_bytes(before).unlock(Passphrase("words"))
    erase_home(tmp_path)
    after = (tmp_path / "second-name").read_bytes()
    assert len(after) == len(before)
    with pytest.raises(StoreDamagedError):
        KeyFile.from_bytes(after)


def test_erasing_needs_no_key_and_works_on_a_damaged_store(tmp_path: Path) -> None:
    make(tmp_path, "lost words")
    (tmp_path / "store.key").write_bytes(b"junk")
    assert erase_home(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert erase_home(tmp_path) == []
    assert erase_home(tmp_path / "never") == []


def test_an_open_store_is_not_erased_by_others(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        store.table("a").put("x", {})
        with pytest.raises(StoreLockedError):
            erase_home(tmp_path)
        assert len(store.table("a")) == 1


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "holiday.txt").write_text("mine")
    erase_home(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_a_key_source_of_the_app_works(tmp_path: Path) -> None:
    with Store(tmp_path, key=RawKey(KEY)) as store:
        store.table("a").put("x", {})
    with Store(tmp_path, key=KEY) as store:
        assert len(store.table("a")) == 1
