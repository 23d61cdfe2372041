"""One key for each purpose: destroying it, giving tables to it, rotating all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_model import KEY, everything_readable

from edge_client.know.store import Store
from edge_client.know.store.keys import KeyFile, RawKey
from shared_models.errors import StoreError, StoreRolledBackError, StoreWriteError


def test_a_destroyed_purpose_is_gone_from_every_copy_with_all_other_keys_present(tmp_path: Path) -> None:
    home = tmp_path / "home"
    backups: list[Path] = []

    def back_up() -> None:
        backups.append(tmp_path / f"backup-{len(backups)}")
        backups[-1].write_bytes((home / "store.tacit").read_bytes())

    with Store(home, key=KEY) as store:
        events, gate = store.table("events", "personalisation"), store.table("gate")
        gate.put("spent", {"rho": 1})
        events.append({"text": "canary"})
        back_up()
        store.compact()
        back_up()
        assert b"canary" in everything_readable(home, backups)
        os.link(home / "store.key", tmp_path / "blocks-of-the-key")
        store.destroy_purpose("personalisation")
        back_up()
        assert len(events) == 0
        assert gate.entries() == [{"rho": 1}]
        assert b"canary" not in everything_readable(home, backups)
        assert b"rho" in everything_readable(home, backups)
        with pytest.raises(StoreError):
            KeyFile.from_bytes((tmp_path / "blocks-of-the-key").read_bytes())
        # The table may be used again, under another key.
        events.append({"text": "new"})
        assert b"canary" not in everything_readable(home, backups)
    with Store(home, key=KEY) as store:
        assert store.table("events").entries() == [{"text": "new"}]
        assert store.describe()["purposes"] == {"events": "personalisation"}
        store.destroy_purpose("personalisation")
        store.destroy_purpose("personalisation")
        store.destroy_purpose("never used")
    with Store(home, key=KEY) as store:
        assert store.describe()["records"] == {"gate": 1}
        assert store.describe()["quarantine"] is None


def test_in_a_transaction_a_purpose_is_destroyed_with_the_commit_or_not_at_all(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        store.table("events", "personalisation").append({"text": "canary"})

        def withdrawn_but_failed() -> None:
            with store.transaction():
                store.destroy_purpose("personalisation")
                assert len(store.table("events")) == 0
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            withdrawn_but_failed()
        assert len(store.table("events")) == 1
        with store.transaction():
            store.table("consent").put("personalisation", {"granted": False})
            store.destroy_purpose("personalisation")
        assert b"canary" not in everything_readable(tmp_path)
        assert store.table("consent").entries() == [{"granted": False}]


def test_a_table_that_is_given_a_purpose_is_sealed_again_at_once(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        store.table("events").append({"text": "canary"})
        with pytest.raises(StoreWriteError, match="inside a transaction"), store.transaction():
            store.table("events", "personalisation")
        assert len(store.table("events", "personalisation")) == 1
        store.destroy_purpose("personalisation")
        assert b"canary" not in everything_readable(tmp_path)


def test_an_older_key_file_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        store.table("a").put("x", {})
        old = (tmp_path / "store.key").read_bytes()
        store.table("events", "personalisation").append({})
    (tmp_path / "store.key").write_bytes(old)
    with pytest.raises(StoreRolledBackError, match="key file"):
        Store(tmp_path, key=KEY)


# -- rotation ----------------------------------------------------------------------------------------------------------


def test_rotated_keys_open_the_store_and_the_former_ones_nothing_of_it(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        store.table("events", "personalisation").append({"n": 1})
        store.table("gate").put("spent", {"rho": 1})
        old_key, old_store = (tmp_path / "store.key").read_bytes(), (tmp_path / "store.tacit").read_bytes()
        store.rotate_keys()
        new_store = (tmp_path / "store.tacit").read_bytes()
        store.table("events").append({"n": 2})
        with pytest.raises(StoreWriteError, match="transaction"), store.transaction():
            store.rotate_keys()
    before, after = (
        KeyFile.from_bytes(raw).unlock(RawKey(KEY)).sets for raw in (old_key, (tmp_path / "store.key").read_bytes())
    )
    assert len(before) == len(after) == 1
    assert {before[0].data, *(key for _, key in before[0].purposes.values())}.isdisjoint(
        {after[0].data, *(key for _, key in after[0].purposes.values())}
    )
    with Store(tmp_path, key=KEY) as store:
        assert store.table("events").entries() == [{"n": 1}, {"n": 2}]
        assert store.table("gate").entries() == [{"rho": 1}]
        store.rotate_keys()
    newest = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, raw in (("store.tacit", old_store), ("store.tacit", new_store), ("store.key", old_key)):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(StoreRolledBackError):
            Store(tmp_path, key=KEY)
        (tmp_path / name).write_bytes(newest[name])
    Store(tmp_path, key=KEY).close()


def test_a_passphrase_still_opens_after_rotation(tmp_path: Path) -> None:
    with Store(tmp_path, key="words") as store:
        store.table("a").put("x", {})
        store.rotate_keys()
    with Store(tmp_path, key="words") as store:
        assert len(store.table("a")) == 1
