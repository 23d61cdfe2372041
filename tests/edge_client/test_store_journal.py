"""The journal: what a commit costs, when a snapshot takes its place, what stays readable after deleting, interrupts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_model import KEY, everything_readable
from tinydb import Query

from edge_client.know.store import Store
from edge_client.know.store.documents import Documents
from edge_client.know.store.frames import COMMIT, Body, Header, Sealer, encode_ops, scan
from edge_client.know.store.keys import KeyFile
from shared_models.errors import InputError, StoreWriteError


def test_a_commit_adds_to_the_file_and_changes_nothing_that_was_there(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        table = store.table("events")
        table.append({"n": 0})
        grown = []
        for number in range(1, 30):
            before = (tmp_path / "store.tacit").read_bytes()[: store.describe()["size_bytes"]]
            table.append({"n": number % 10})
            after = (tmp_path / "store.tacit").read_bytes()[: store.describe()["size_bytes"]]
            assert after.startswith(before)
            grown.append(len(after) - len(before))
        assert len(set(grown)) == 1


def test_zeros_that_a_killed_owner_leaves_at_the_end_mean_nothing(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        store.table("events").append({"n": 0})
        exact = (tmp_path / "store.tacit").read_bytes()[: store.describe()["size_bytes"]]
        assert (tmp_path / "store.tacit").stat().st_size > len(exact)
    assert (tmp_path / "store.tacit").read_bytes() == exact
    for _ in range(2):
        (tmp_path / "store.tacit").write_bytes(exact + bytes(50_000))
        with Store(tmp_path, key=KEY) as store:
            assert store.describe()["repaired"] is None
            store.table("events").append({"n": 1})
            exact = (tmp_path / "store.tacit").read_bytes()[: store.describe()["size_bytes"]]
    with Store(tmp_path, key=KEY) as store:
        assert store.table("events").entries() == [{"n": 0}, {"n": 1}, {"n": 1}]


def test_a_box_that_itself_ends_in_zeros_is_found_before_reserved_ones() -> None:
    sealer = Sealer(Header(2, "0" * 32, 1), bytes(32), lambda number: None)
    body = Body("a", 0, encode_ops("a", [("x", b"{}")]))
    raw = b""
    while not raw.endswith(b"\0"):
        raw = b"".join(sealer.seal(COMMIT, 7, [body]))
    for tail in (b"", bytes(100)):
        found = scan(raw + tail, 0, sealer, lambda number: False)
        assert [plain for _, plain in found.boxes.values()] == [body.plain]
        assert found.odd == []


def test_appended_keys_ascend_for_life_also_after_deleting_and_reopening(tmp_path: Path) -> None:
    keys = []
    for _ in range(3):
        with Store(tmp_path, key=KEY) as store:
            table = store.table("events")
            keys += [table.append({"n": 1}), table.append({"n": 2})]
            with store.transaction():
                keys += [table.append({"n": number}) for number in range(5)]
            table.clear()
    assert keys == sorted(set(keys))


def test_all_of_tinydbs_methods_work_on_a_table(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        documents: Documents = store.table("a")._documents
        first = documents.insert({"name": "Ada", "born": 1815})
        second, third = documents.insert_multiple([{"name": "Alan", "born": 1912}, {"name": "Grace", "born": 1906}])
        assert documents.update({"seen": True}, Query().born > 1900) == [second, third]
        assert documents.update(lambda found: found.update(born=1816), doc_ids=[first]) == [first]
        assert documents.upsert({"name": "Ada", "died": 1852}, Query().name == "Ada") == [first]
        assert documents.remove(Query().name == "Alan") == [second]
        commits = store.describe()["commits"]
        with pytest.raises(ZeroDivisionError):
            documents.update(lambda found: found.update(born=1 // 0))
        assert store.describe()["commits"] == commits
        expected = [
            (first, {"name": "Ada", "born": 1816, "died": 1852}),
            (third, {"name": "Grace", "born": 1906, "seen": True}),
        ]
        assert store.table("a").items() == expected
        assert [found["name"] for found in documents.search(Query().born.exists())] == ["Ada", "Grace"]
        assert documents.get(doc_id=third) == expected[1][1]
    with Store(tmp_path, key=KEY) as store:
        assert store.table("a").items() == expected
        store.table("a")._documents.truncate()
        assert len(store.table("a")) == 0


TEXTS = st.text(max_size=8)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcdef"), st.integers(0, 9)),
        st.tuples(st.just("delete"), st.sampled_from("abcdef"), st.just(0)),
        st.tuples(st.just("clear"), st.just(""), st.just(0)),
        st.tuples(st.just("fail"), st.sampled_from("abcdef"), st.integers(0, 9)),
        st.tuples(st.just("compact"), st.just(""), st.just(0)),
        st.tuples(st.just("reopen"), st.just(""), st.just(0)),
        st.tuples(st.just("rotate"), st.just(""), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_a_table_is_a_dict_that_lasts(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("model")
    model: dict[str, Any] = {}
    store = Store(folder, key=KEY)

    def fail(key: str, number: int) -> None:
        with store.transaction():
            store.table("t").put(key, {"n": number})
            store.table("t").delete("a")
            store.table("t").put("a", {"n": -1})
            if number % 2:
                store.table("t").clear()
            raise ZeroDivisionError

    for kind, key, number in steps:
        table = store.table("t", "purpose" if number % 2 else None)
        if kind == "put":
            table.put(key, {"n": number})
            model[key] = {"n": number}
        elif kind == "delete":
            assert table.delete(key) == (model.pop(key, None) is not None)
        elif kind == "clear":
            table.clear()
            model.clear()
        elif kind == "fail":
            with pytest.raises(ZeroDivisionError):
                fail(key, number)
        elif kind == "compact":
            store.compact()
        elif kind == "rotate":
            store.rotate_keys()
        else:
            store.close()
            store = Store(folder, key=KEY)
        assert store.table("t").items() == list(model.items())
        assert store.describe()["live_bytes"] == sum(len(key) + len(f'{{"n":{v["n"]}}}') for key, v in model.items())
    store.close()
    with Store(folder, key=KEY) as store:
        assert store.table("t").items() == list(model.items())
        assert store.describe()["repaired"] is None


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=TEXTS.filter(bool), key=TEXTS, value=st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers(), st.none())))
def test_any_name_key_and_value_comes_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, key: str, value: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for _ in range(2):
        with Store(folder, key=KEY) as store:
            store.table(name).put(key, value)
            assert store.table(name).items() == [(key, value)]
            store.compact()


@pytest.mark.parametrize("name", ["", 7, None, b"bytes"])
def test_names_that_are_none_are_refused(tmp_path: Path, name: Any) -> None:
    with Store(tmp_path, key=KEY) as store:
        with pytest.raises(InputError):
            store.table(name)
        with pytest.raises(InputError):
            store.table("a", "" if name is None else name)
        with pytest.raises(InputError):
            store.destroy_purpose(name)
        with pytest.raises(StoreWriteError):
            store.table("a").put(7, {})  # type: ignore[arg-type]


# -- snapshots ---------------------------------------------------------------------------------------------------------


def test_a_journal_much_longer_than_what_is_live_becomes_a_snapshot_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_client.know.store.sealed_journal.LEAST_BOXES", 50)
    with Store(tmp_path, key=KEY) as store:
        sizes = []
        for number in range(400):
            store.table("a").put(f"k{number % 5}", {"n": number, "text": "x" * 200})
            sizes.append(store.describe()["size_bytes"])
    assert max(sizes) < 60 * 500
    with Store(tmp_path, key=KEY) as store:
        assert store.table("a").entries() == [{"n": 395 + n, "text": "x" * 200} for n in range(5)]


def test_snapshots_hold_large_tables_in_parts(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        with store.transaction():
            for number in range(3000):
                store.table("a").append({"n": number, "text": "x" * 300})
        store.compact()
    with Store(tmp_path, key=KEY) as store:
        assert [entry["n"] for entry in store.table("a").entries()] == list(range(3000))


@pytest.mark.parametrize("how", ["compact", "close", "clear"])
def test_what_was_deleted_can_no_longer_be_decrypted_with_every_key(tmp_path: Path, how: str) -> None:
    os.makedirs(tmp_path / "home")
    store = Store(tmp_path / "home", key=KEY)
    store.table("a").put("stays", {"text": "stays"})
    store.table("b").put("goes", {"text": "canary"})
    os.link(tmp_path / "home" / "store.tacit", tmp_path / "blocks-on-the-disk")
    assert b"canary" in everything_readable(tmp_path / "home")
    if how == "clear":
        store.table("b").clear()
    else:
        store.table("b").delete("goes")
        store.compact() if how == "compact" else store.close()
    assert b"canary" not in everything_readable(tmp_path / "home")
    # The blocks of the former file were overwritten too.
    assert b"canary" not in everything_readable(tmp_path / "home", [tmp_path / "blocks-on-the-disk"])
    assert b"stays" in everything_readable(tmp_path / "home")
    store.close()


def test_a_transaction_that_did_nothing_and_failed_forgets_no_deletion(tmp_path: Path) -> None:
    with Store(tmp_path, key=KEY) as store:
        with store.transaction():
            store.table("a").put("goes", {"text": "canary"})
        store.table("a").delete("goes")
        with pytest.raises(ZeroDivisionError), store.transaction():
            raise ZeroDivisionError
    assert b"canary" not in everything_readable(tmp_path)


@pytest.mark.parametrize("place", ["sync_data", "fault_point"])
def test_an_interrupt_in_the_middle_of_a_commit_lets_memory_and_disk_not_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def interrupted(what: object) -> None:
        if place == "sync_data" or what == "store.append.after_sync":
            raise KeyboardInterrupt

    store = Store(tmp_path, key=KEY)
    store.table("a").put("x", {"n": 1})
    with monkeypatch.context() as patch:
        patch.setattr(f"edge_client.know.store.journal.{place}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.table("a").put("y", {"n": 2})
    # Nobody can know which commit is the last, so nothing is built on it.
    with pytest.raises(StoreWriteError, match="open it again"):
        store.table("a").put("z", {"n": 3})
    store.close()
    with Store(tmp_path, key=KEY) as store:
        assert store.table("a").keys() == (["x"] if place == "sync_data" else ["x", "y"])
        store.table("a").put("z", {"n": 3})
        assert store.describe()["quarantine"] is None


@pytest.mark.parametrize(
    "point", ["store.rotate.after_both_keys", "store.rotate.after_rename", "store.rotate.after_wipe"]
)
def test_an_interrupted_rotation_is_finished_or_undone_at_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    def interrupted(name: str) -> None:
        if name == point:
            raise KeyboardInterrupt

    store = Store(tmp_path, key=KEY)
    store.table("events", "personalisation").append({"n": 1})
    with monkeypatch.context() as patch:
        patch.setattr("edge_client.platform.fault_point", interrupted)
        patch.setattr("edge_client.know.store.sealed_journal.fault_point", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.rotate_keys()
    for attempt in (
        store.rotate_keys,
        store.compact,
        lambda: store.table("events").append({"n": 2}),
        lambda: store.table("other", "another").append({"n": 2}),
        lambda: store.destroy_purpose("personalisation"),
    ):
        with pytest.raises(StoreWriteError, match="open it again"):
            attempt()
    store.close()
    with Store(tmp_path, key=KEY) as store:
        assert store.table("events").entries() == [{"n": 1}]
        assert store.quarantine is None
        assert len(KeyFile.from_bytes((tmp_path / "store.key").read_bytes()).sets) == 1
