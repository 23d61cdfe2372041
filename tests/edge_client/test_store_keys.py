"""Which keys open a store: raw, passphrase, the keyring of the system, and what is said when one does not."""

from __future__ import annotations

from pathlib import Path

import keyring
import keyring.backend
import pytest

from edge_client.know.store import Store
from edge_client.know.store.keys import keyring_available
from shared_models.canonical import canonical_bytes, canonical_hash, parse_document
from shared_models.errors import (
    ConfigError,
    KeyUnavailableError,
    StoreDamagedError,
    StoreSchemaError,
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
    document = {**parse_document(path.read_bytes()), "format": 3}
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
