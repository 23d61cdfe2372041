"""What the store keeps: tables, order, transactions, plain TinyDB on top, schemas."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tinydb import Query, TinyDB

from edge_client.know.examples import Examples
from edge_client.know.store import EncryptedStorage, Store
from edge_client.know.store.migrations import Schema
from shared_models.errors import StoreClosedError, StoreSchemaError, StoreWriteError

KEY = bytes(range(32))


def test_what_was_put_is_there_after_reopening(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        store.table("a").put("x", {"number": 1, "text": "ü ☃ \ud83d", "list": [1, 2.5, None, {"deep": True}]})
        store.table("b").put("x", {"number": 2})
    with Store(tmp_path, key=KEY) as store:
        assert store.table("a").get("x") == {"number": 1, "text": "ü ☃ \ud83d", "list": [1, 2.5, None, {"deep": True}]}
        assert store.table("b").get("x") == {"number": 2}
        assert store.table("a").get("y") is None


def test_order_is_that_of_the_first_put_and_a_put_replaces_whole(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        table = store.table("gate")
        for name in ("spent/b", "spent/a", "receipt/z", "spent/c"):
            table.put(name, {"name": name, "old": True})
        table.put("spent/b", {"name": "spent/b"})
    with Store(tmp_path, key=KEY) as store:
        table = store.table("gate")
        assert table.entries("spent/") == [
            {"name": "spent/b"},
            {"name": "spent/a", "old": True},
            {"name": "spent/c", "old": True},
        ]
        assert table.keys("receipt/") == ["receipt/z"]
        assert len(table) == 4


def test_what_is_returned_is_a_copy(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        table = store.table("a")
        given: dict[str, Any] = {"list": [1]}
        table.put("x", given)
        given["list"].append(2)
        table.get("x")["list"].append(3)  # type: ignore[index]
        table.entries()[0]["list"].append(4)
        table.items()[0][1]["list"].append(5)
        assert table.get("x") == {"list": [1]}


def test_delete_and_clear(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        table = store.table("a")
        for name in "xyz":
            table.put(name, {})
        assert table.delete("y")
        assert not table.delete("y")
        assert "x" in table
        assert "y" not in table
        assert table.clear() == 2
        assert table.clear() == 0
    with Store(tmp_path, key=KEY) as store:
        assert len(store.table("a")) == 0


def test_a_transaction_commits_several_tables_with_one_write(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        before = store.describe()["commits"]
        with store.transaction():
            store.table("a").put("x", {"n": 1})
            store.table("b").put("y", {"n": 2})
            store.table("a").delete("x")
            store.table("a").put("z", {"n": 3})
        assert store.describe()["commits"] == before + 1
        with store.transaction():
            assert store.table("a").keys() == ["z"]
        assert store.describe()["commits"] == before + 1


def test_a_transaction_that_raises_leaves_nothing_in_memory_or_on_disk(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        store.table("a").put("x", {"n": 1})

        def half_done() -> None:
            with store.transaction():
                store.table("a").put("x", {"n": 2})
                store.table("b").put("y", {"n": 3})
                assert store.table("a").get("x") == {"n": 2}
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            half_done()
        assert store.table("a").get("x") == {"n": 1}
        assert len(store.table("b")) == 0
    with Store(tmp_path, key=KEY) as store:
        assert store.describe()["records"] == {"a": 1}


def test_an_inner_transaction_joins_and_its_failure_spoils_the_whole(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        with store.transaction():
            store.table("a").put("x", {})
            with store.table("a").transaction():
                store.table("b").put("y", {})
        assert store.describe()["records"] == {"a": 1, "b": 1}

        def spoiled() -> None:
            with store.transaction():
                store.table("a").put("z", {})
                with pytest.raises(ZeroDivisionError), store.transaction():
                    raise ZeroDivisionError

        with pytest.raises(StoreWriteError, match="inner part"):
            spoiled()
        assert store.table("a").keys() == ["x"]


@pytest.mark.parametrize("value", [{"x": float("nan")}, {"x": object()}, {"x": b"bytes"}, {"x": {1, 2}}])
def test_values_that_json_cannot_say_are_refused_and_change_nothing(tmp_path: Path, value: dict[str, Any]) -> None:
    with Store(tmp_path, key=KEY) as store:
        with pytest.raises(StoreWriteError, match="JSON"):
            store.table("a").put("x", value)
        assert store.table("a").get("x") is None


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path, key=KEY)
    table = store.table("a")
    store.close()
    store.close()
    for use in (lambda: table.get("x"), lambda: table.put("x", {}), table.entries, store.transaction().__enter__):
        with pytest.raises(StoreClosedError):
            use()


def test_threads_see_whole_transactions_only(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        torn: list[object] = []

        def write() -> None:
            for number in range(15):
                with store.transaction():
                    store.table("a").put("left", {"n": number})
                    time.sleep(0)
                    store.table("b").put("right", {"n": number})

        def read() -> None:
            for _ in range(300):
                with store.transaction():
                    left, right = store.table("a").get("left"), store.table("b").get("right")
                if left != right:
                    torn.append((left, right))

        threads = [threading.Thread(target=work) for work in (write, read, read)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torn == []
        assert store.table("a").get("left") == {"n": 14}


def test_a_plain_tinydb_runs_on_the_storage(tmp_path: Path) -> None:
    with TinyDB(tmp_path, storage=EncryptedStorage, key=KEY) as database:
        database.insert({"name": "Ada", "born": 1815})
        database.table("trips").insert_multiple([{"to": "Oslo"}, {"to": "Rome"}])
        database.update({"born": 1816}, Query().name == "Ada")
    with TinyDB(tmp_path, storage=EncryptedStorage, key=KEY) as database:
        assert database.all() == [{"name": "Ada", "born": 1816}]
        assert [trip["to"] for trip in database.table("trips")] == ["Oslo", "Rome"]
        with pytest.raises(ZeroDivisionError):
            database.update(lambda document: document.update(born=1) or 1 / 0)  # type: ignore[func-returns-value]
        assert database.all() == [{"name": "Ada", "born": 1816}]


def test_contents_are_sealed_and_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Store(home, key=KEY) as store:
        store.table("canary-table").put("canary-key", {"canary-field": "canary value"})
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}
        raw = b"".join(path.read_bytes() for path in home.iterdir())
    assert b"canary" not in raw
    assert set(modes) == {"store.key", "store.tacit", "store.counter", "store.lock"}
    if os.name != "nt":
        assert set(modes.values()) == {0o600}
        assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_folder_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    if os.name == "nt":
        return
    tmp_path.chmod(0o755)
    Store(tmp_path, key=KEY).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


# -- schemas -----------------------------------------------------------------------------------------------------------


def write_schema_1(folder: Path) -> None:
    """A store as the first schema had it: examples in a list, one for each mention, without embeddings."""
    storage = EncryptedStorage(folder, key=KEY, schema=Schema(1))
    with TinyDB(storage=lambda: storage) as database:
        for number, (text, intent) in enumerate(
            [("to Oslo", "book_flight"), ("a room", "book_hotel"), ("To  Oslo", "book_flight"), ("a room", "rent_car")]
        ):
            database.table("examples").insert({"text": text, "intent": intent, "at_s": 100.0 + number})
        database.table("other").insert({"kept": True})


def test_a_store_of_schema_1_is_brought_forward(tmp_path: Path) -> None:
    write_schema_1(tmp_path)
    with Store(tmp_path, key=KEY) as store:
        found = [(item.text, item.intent, item.count, item.at_s) for item in Examples(store, time.time, 10).all()]
        assert found == [("To  Oslo", "book_flight", 2, 102.0), ("a room", "rent_car", 1, 103.0)]
        assert store.table("other").entries() == [{"kept": True}]
        assert store.describe()["schema"] == 2
    with pytest.raises(StoreSchemaError, match="newer version"):
        EncryptedStorage(tmp_path, key=KEY, schema=Schema(1))


def test_a_newer_schema_is_refused_and_stays_untouched(tmp_path: Path) -> None:
    EncryptedStorage(tmp_path, key=KEY, schema=Schema(3)).close()
    before = (tmp_path / "store.tacit").read_bytes()
    with pytest.raises(StoreSchemaError, match="update the app"):
        Store(tmp_path, key=KEY)
    assert (tmp_path / "store.tacit").read_bytes() == before


def test_a_gap_in_the_steps_is_refused(tmp_path: Path) -> None:
    write_schema_1(tmp_path)
    with pytest.raises(StoreSchemaError, match="no way leads"):
        EncryptedStorage(tmp_path, key=KEY, schema=Schema(3, {2: dict}))
    with Store(tmp_path, key=KEY) as store:
        assert len(store.table("examples")) == 2
