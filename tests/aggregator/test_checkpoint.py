"""The aggregator's state: what was committed is found again, and what was damaged is refused instead of believed."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import nacl.signing
import numpy as np
import pytest
from small_fleet import AGGREGATOR, LABELS, NOW_S, SmallFleet

from aggregator.checkpoint import KEPT_CHECKPOINTS, Checkpoint, FleetState
from aggregator.rounds import RoundSettings
from privacy.ledger import Entry, next_entry, read_entries, sign_entry, verify_chain
from shared_models.errors import CheckpointError


def a_checkpoint() -> Checkpoint:
    random = np.random.default_rng(0)
    weights = random.normal(size=(5, 16))
    return Checkpoint(LABELS, weights.astype(np.float32), weights, 2 * weights, 2, 7, 6, 8)


@pytest.fixture(scope="module")
def _five_rounds(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("rounds") / "state.sqlite"
    fleet = SmallFleet()
    state = fleet.state(path)
    fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=5))
    state.close()
    return path.read_bytes()


@pytest.fixture
def location(_five_rounds: bytes, tmp_path: Path) -> Path:
    """A state of five released rounds, closed."""
    path = tmp_path / "state.sqlite"
    path.write_bytes(_five_rounds)
    return path


def change(location: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(location)) as database:
        assert database.execute(statement, values).rowcount > 0
        database.commit()


def use(location: Path | str, key: nacl.signing.SigningKey | None = AGGREGATOR) -> Checkpoint | None:
    """What an aggregator does first."""
    state = FleetState(location, key, clock=lambda: NOW_S)
    try:
        return state.checkpoint()
    finally:
        state.close()


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was() -> None:
    before = a_checkpoint()
    after = Checkpoint.from_bytes(before.to_bytes())
    for name in ("weights", "velocity", "tail_sum"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert getattr(after, name).dtype == getattr(before, name).dtype
    assert (after.labels, after.tail_count, after.next_round_id) == (LABELS, 2, 7)
    assert (after.rounds_done, after.rounds_planned) == (6, 8)


def test_a_state_is_found_again(location: Path) -> None:
    checkpoint = use(location)
    assert checkpoint is not None
    assert (checkpoint.rounds_done, checkpoint.next_round_id) == (5, 6)
    state = FleetState(location, None)
    verify_chain(state.entries())
    assert len(state.leaves(5)) == 6
    assert state.leaves(99) == []
    state.close()


def test_a_new_state_is_empty(tmp_path: Path) -> None:
    state = FleetState(tmp_path / "state.sqlite", AGGREGATOR)
    assert (state.checkpoint(), state.entries(), state.last_entry) == (None, [], None)
    state.close()


def test_old_checkpoints_are_dropped_and_the_ledger_is_not(location: Path) -> None:
    with closing(sqlite3.connect(location)) as database:
        (kept,) = database.execute("SELECT count(*) FROM checkpoints").fetchone()
        (entries,) = database.execute("SELECT count(*) FROM ledger").fetchone()
    assert kept == KEPT_CHECKPOINTS
    assert entries == 2 + 2 * 5


def test_notes_are_replaced(location: Path) -> None:
    state = FleetState(location, AGGREGATOR)
    state.note("last_error", {"error": "one"})
    state.note("last_error", {"error": "two"})
    assert state.notes()["last_error"] == {"error": "two"}
    state.close()


def test_the_exported_ledger_is_the_ledger(location: Path, tmp_path: Path) -> None:
    state = FleetState(location, None)
    state.export_ledger(tmp_path / "ledger.jsonl")
    lines = (tmp_path / "ledger.jsonl").read_bytes().splitlines()
    assert lines == state.lines()
    verify_chain([entry for _, entry in read_entries(lines)])
    state.close()


# -- what is refused ---------------------------------------------------------------------------------------------------


def damaged_arrays() -> dict[str, bytes]:
    whole = a_checkpoint()
    good = whole.to_bytes()
    nan = np.full((5, 16), np.nan)
    return {
        "nothing": b"",
        "text": b"not a checkpoint",
        "half": good[: len(good) // 2],
        "one bit": good[:700] + bytes([good[700] ^ 1]) + good[701:],
        "shapes": replace(whole, velocity=np.zeros((5, 15))).to_bytes(),
        "labels": replace(whole, labels=LABELS[:4]).to_bytes(),
        "NaN weights": replace(whole, weights=nan.astype(np.float32)).to_bytes(),
        "infinite momentum": replace(whole, velocity=nan + np.inf).to_bytes(),
        "a lone array": _npy(np.zeros(3)),
        "pickled": _npy(np.array([{}], dtype=object)),
    }


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("raw", damaged_arrays().values(), ids=damaged_arrays().keys())
def test_damaged_checkpoint_bytes_are_refused(raw: bytes, location: Path) -> None:
    with pytest.raises(CheckpointError):
        Checkpoint.from_bytes(raw)
    change(location, "UPDATE checkpoints SET arrays = ? WHERE position = (SELECT max(position) FROM checkpoints)", raw)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        use(location)


def test_a_checkpoint_of_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.checkpoint.FORMAT", 2)
    raw = a_checkpoint().to_bytes()
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="checkpoint of format 2, this version reads 1"):
        Checkpoint.from_bytes(raw)


def test_an_altered_hash_beside_an_altered_checkpoint_does_not_help(location: Path) -> None:
    raw = a_checkpoint().to_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    change(
        location,
        "UPDATE checkpoints SET arrays = ?, sha256 = ? WHERE position = (SELECT max(position) FROM checkpoints)",
        raw,
        digest,
    )
    with pytest.raises(CheckpointError, match="missing or damaged"):
        use(location)


def test_a_missing_newest_checkpoint_is_not_replaced_by_an_older_one(location: Path) -> None:
    change(location, "DELETE FROM checkpoints WHERE position = (SELECT max(position) FROM checkpoints)")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        use(location)


def rewritten(line: bytes, key: nacl.signing.SigningKey) -> bytes:
    """A release that claims more survivors, signed again."""
    ((_, entry),) = read_entries([line])
    return sign_entry(replace(entry, body={**entry.body, "survivors": 10_000}), key)


@pytest.mark.parametrize("position", [3, 5, 11])
@pytest.mark.parametrize("how", ["one bit", "cut", "signed by another key", "deleted", "another entry's"])
def test_an_altered_ledger_row_is_refused(location: Path, position: int, how: str) -> None:
    with closing(sqlite3.connect(location)) as database:
        lines = {place: line for place, line in database.execute("SELECT position, line FROM ledger")}
    line = lines[position]
    if how == "deleted" and position == 11:
        # The last entry is gone, and with it nothing that the chain could miss; its checkpoint would then be an older one.
        change(location, "DELETE FROM ledger WHERE position = 11")
        checkpoint = use(location)
        assert checkpoint is not None
        assert checkpoint.next_round_id == 6, "the round's reservation stands, so its id is not used again"
        return
    if how == "deleted":
        change(location, "DELETE FROM ledger WHERE position = ?", position)
    else:
        altered = {
            "one bit": line[:200] + bytes([line[200] ^ 1]) + line[201:],
            "cut": line[:-20],
            "signed by another key": rewritten(line, nacl.signing.SigningKey.generate()),
            "another entry's": lines[position - 2],
        }[how]
        change(location, "UPDATE ledger SET line = ? WHERE position = ?", altered, position)
    with pytest.raises(CheckpointError, match="ledger is damaged"):
        use(location)
    if not (position == 11 and how in ("one bit", "signed by another key")):
        # Without the key, whoever only reads sees all but what stands alone at the end; verify_ledger sees that, too.
        with pytest.raises(CheckpointError):
            use(location, None)


@pytest.mark.parametrize("size", [0, 10, 100, 5000])
def test_a_database_that_was_overwritten_is_refused(location: Path, size: int) -> None:
    raw = bytearray(location.read_bytes())
    raw[:size] = bytes([0xA5]) * size
    location.write_bytes(raw if size else b"this is not a database, it is a text")
    with pytest.raises(CheckpointError):
        use(location)


def test_a_database_that_was_cut_is_refused(location: Path) -> None:
    location.write_bytes(location.read_bytes()[:6000])
    with pytest.raises(CheckpointError):
        use(location)


def test_a_state_of_a_newer_format_is_refused_and_untouched(location: Path) -> None:
    change(location, "UPDATE notes SET value = ? WHERE name = 'format'", json.dumps(2))
    with pytest.raises(CheckpointError, match="a state of format 2, this version reads 1"):
        use(location)
    change(location, "UPDATE notes SET value = ? WHERE name = 'format'", json.dumps(1))
    checkpoint = use(location)
    assert checkpoint is not None
    assert checkpoint.rounds_done == 5


def test_a_database_of_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE customers (name TEXT)")
        database.commit()
    with pytest.raises(CheckpointError, match="a database of something else"):
        use(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]


@pytest.mark.parametrize(
    "address", ["nonsense", "nosuchdatabase://host/name", "sqlite:////nowhere/at/all/state.sqlite", ""]
)
def test_an_address_that_leads_nowhere_is_refused(address: str) -> None:
    with pytest.raises(CheckpointError):
        FleetState(address, AGGREGATOR)


def test_a_folder_is_not_a_state(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        FleetState(tmp_path, AGGREGATOR)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_found_out_and_writes_nothing(location: Path) -> None:
    first, second = (FleetState(location, AGGREGATOR, clock=lambda: NOW_S) for _ in range(2))
    first.append("reserve", {"round_id": 6, "plan_hash": "a"}, checkpoint=a_checkpoint(), leaves=(6, ["aa", "bb"]))
    with pytest.raises(CheckpointError, match="another process has written"):
        second.append("reserve", {"round_id": 6, "plan_hash": "b"}, checkpoint=a_checkpoint(), leaves=(7, ["cc"]))
    assert second.leaves(7) == []
    assert second.entries()[-1].body["plan_hash"] == "a"
    first.append("abort", {"round_id": 6, "plan_hash": "a", "reason": "", "survivors": 0})
    verify_chain(first.entries())
    first.close()
    second.close()


def test_a_second_aggregator_is_stopped_before_it_asks_any_device(location: Path) -> None:
    fleet = SmallFleet()
    first, second = fleet.state(location), fleet.state(location)
    runner = fleet.runner(second)
    fleet.runner(first).run(fleet.grid(), RoundSettings(rounds=6))
    fleet.handled.clear()
    late = SmallFleet()
    with pytest.raises(CheckpointError, match="another process has written"):
        runner.run(late.grid(), RoundSettings(rounds=7))
    assert late.handled == []
    assert use(location).next_round_id == 7  # type: ignore[union-attr]
    first.close()
    second.close()


def test_an_append_is_whole_or_not_there(location: Path) -> None:
    state = FleetState(location, AGGREGATOR, clock=lambda: NOW_S)
    before = state.lines()
    with pytest.raises(CheckpointError):
        # Two leaves at one place: the entry and the checkpoint before them are taken back as well.
        state.append("release", {}, checkpoint=a_checkpoint(), leaves=(5, ["aa"]))
    assert state.lines() == before
    assert use(location).rounds_done == 5  # type: ignore[union-attr]
    state.append("release", {}, checkpoint=a_checkpoint(), leaves=(8, ["aa"]))
    assert use(location).rounds_done == 6  # type: ignore[union-attr]
    state.close()


def test_a_state_without_a_key_is_for_reading(location: Path) -> None:
    state = FleetState(location, None)
    with pytest.raises(CheckpointError, match="for reading only"):
        state.append("abort", {})
    assert state.checkpoint() is not None
    state.close()


def test_a_file_that_cannot_be_written_loses_nothing(location: Path) -> None:
    state = FleetState(f"sqlite:///file:{location}?mode=ro&uri=true", AGGREGATOR, clock=lambda: NOW_S)
    before = state.lines()
    with pytest.raises(CheckpointError, match="nothing was changed"):
        state.append("abort", {"round_id": 6})
    with pytest.raises(CheckpointError, match="could not be written"):
        state.note("last_error", {})
    assert state.lines() == before
    checkpoint = state.checkpoint()
    assert checkpoint is not None
    assert checkpoint.rounds_done == 5
    state.close()


def test_a_round_on_a_file_that_cannot_be_written_asks_no_device(location: Path) -> None:
    fleet = SmallFleet()
    state = FleetState(f"sqlite:///file:{location}?mode=ro&uri=true", AGGREGATOR, clock=fleet.clock)
    with pytest.raises(CheckpointError):
        fleet.runner(state).run(fleet.grid(), RoundSettings(rounds=6))
    assert fleet.handled == []
    state.close()


def test_time_never_runs_backwards_in_the_ledger(tmp_path: Path) -> None:
    times = iter([NOW_S, NOW_S - 5000, NOW_S + 1])
    state = FleetState(tmp_path / "state.sqlite", AGGREGATOR, clock=lambda: next(times))
    written = [state.append("abort", {}) for _ in range(3)]
    assert [entry.time_s - int(NOW_S) for entry in written] == [0, 0, 1]
    state.close()


def test_an_entry_follows_the_last_one_of_a_state_that_was_opened_again(location: Path) -> None:
    state = FleetState(location, AGGREGATOR, clock=lambda: NOW_S)
    last = state.last_entry
    assert isinstance(last, Entry)
    assert state.append("abort", {"x": 1}) == next_entry(last, NOW_S, "abort", {"x": 1})
    verify_chain(state.entries())
    state.close()
