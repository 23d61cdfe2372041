"""Erasing a store: first the key, then the files, with or without a key to open it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_client.know.store import Passphrase, RawKey, Store
from edge_client.know.store.erasure import erase_home
from edge_client.know.store.keys import KeyFile
from shared_models.errors import (
    StoreClosedError,
    StoreDamagedError,
    StoreLockedError,
)

KEY = bytes(range(32))
FILES = ("store.key", "store.tacit", "store.counter")


def make(folder: Path, key: bytes | str = KEY, entries: int = 3) -> None:
    with Store(folder, key=key) as store:
        for number in range(entries):
            store.table("a").put(f"k{number}", {"n": number})


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
