"""Opening a store: which files there are, which of them can be believed, and what a kill or damage left to do.

Nothing is written here but a new store and the bytes that damage sets aside; what else is due, sealed_journal.py does.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_client.know.store.contents import OWN, Contents
from edge_client.know.store.counter_file import COUNTER_NAME, read_counter
from edge_client.know.store.frames import (
    COMMIT,
    Header,
    Scan,
    Sealer,
    decode_body,
    encode_value,
    read_header,
    scan,
    split_head,
)
from edge_client.know.store.journal import STORE_NAME, Journal
from edge_client.know.store.key_sources import SystemKeyring, forget_keyring_entry
from edge_client.know.store.keys import KEY_NAME, KeyFile, Keys, KeySet, KeySource, derive
from edge_client.know.store.migrations import Schema
from edge_client.know.store.quarantine import QUARANTINE_NAME, Judgement, Quarantine, judge, set_aside, weigh
from edge_client.know.store.whole_file import WHOLE_FORMAT, unseal_whole
from edge_client.platform import fault_point, remove_temporaries, wipe_formers, write_atomically
from shared_models.errors import StoreDamagedError, StoreRolledBackError, StoreWriteError

MAX_STORE_BYTES = 256 * 1024 * 1024
"""Live contents."""
MAX_FILE_BYTES = 3 * MAX_STORE_BYTES

_log = logging.getLogger(__name__)


@dataclass
class Opened:
    """A store that was read, and what is to be done before it is used."""

    keys: Keys
    contents: Contents
    counter: int
    boxes: int = 0
    """Boxes behind the snapshot, and their bytes."""
    tail_bytes: int = 0
    snapshot_due: bool = False
    counter_lags: bool = False
    former_keys: bool = False
    """True if the counter may still be sealed with the keys before a rotation."""
    keys_due: bool = False
    lost: Quarantine | None = None
    repaired: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Files:
    """The bytes of the three files; None for one that is missing."""

    folder: Path
    key: bytes | None
    store: bytes | None
    counter: bytes | None


def open_store(folder: Path, source: KeySource, schema: Schema, journal: Journal) -> Opened:
    """Read what is in `folder`, or make a new store. Raises what EncryptedStorage says, and OSError."""
    opened = _open(folder, source, schema, journal)
    for name in (STORE_NAME, KEY_NAME, COUNTER_NAME, QUARANTINE_NAME):
        remove_temporaries(folder / name)
        wipe_formers(folder / name)
    return opened


def _open(folder: Path, source: KeySource, schema: Schema, journal: Journal) -> Opened:
    files = _Files(folder, _read(folder / KEY_NAME), _read(folder / STORE_NAME), _read(folder / COUNTER_NAME))
    if files.key is None:
        if files.store is None and files.counter is None:
            return _create(folder, source, journal)
        raise StoreDamagedError(f"{folder}: the key file is missing, so what is kept there cannot be read any more")
    key_file = KeyFile.from_bytes(files.key)
    if files.store is None and files.counter is None:
        # Killed while it was being made: nothing was ever kept, and the key file may be replaced.
        if key_file.kind == SystemKeyring.kind:
            forget_keyring_entry(key_file.store_id)
        return _create(folder, source, journal)
    keys = key_file.unlock(source)
    counted = _counted(files.counter, keys)
    if files.store is None:
        if counted != 0:
            raise StoreRolledBackError(f"{folder}: the store's file is missing; put the newest {STORE_NAME} back")
        return Opened(keys, Contents(), 0, snapshot_due=True)
    try:
        head, end = split_head(files.store)
        header = None if head.get("format") == WHOLE_FORMAT else read_header(head)
    except StoreDamagedError:
        # The header says nothing that the boxes are not bound to: if any verifies with what it should say, it is not missed.
        header, end = _supposed_header(files.store, keys, schema), 0
        if header is None:
            raise
    if header is None:
        opened = _open_whole(files, head, end, keys, schema, counted)
    else:
        opened = _open_journal(files, header, end, keys, schema, counted, journal)
    if end == 0:
        opened.snapshot_due = True
        opened.repaired = opened.repaired or {"cut_bytes": 0, "aside_bytes": 0, "lost_commits": 0}
    opened.keys_due |= key_file.format < 2
    return opened


def _supposed_header(raw: bytes, keys: Keys, schema: Schema) -> Header | None:
    """The header of a file that has lost it; None if nothing in the file verifies with one that this version writes."""
    for known in keys.sets:
        header = Header(schema.version, keys.store_id, known.epoch)
        if scan(raw, 0, Sealer(header, known.data, known.key), known.is_destroyed).boxes:
            return header
    return None


def _create(folder: Path, source: KeySource, journal: Journal) -> Opened:
    keys = KeyFile.create(source)
    try:
        write_atomically(folder / KEY_NAME, keys.wrapped().to_bytes(), "store.key")
        journal.new_counter(0, keys.store_id, _counter_key(keys.store_id, keys.sets[0]))
    except OSError as error:
        raise StoreWriteError(f"{folder}: a store cannot be made: {error.strerror or error}") from error
    fault_point("store.created")
    return Opened(keys, Contents(), 0, snapshot_due=True)


def _open_whole(
    files: _Files, head: dict[str, Any], end: int, keys: Keys, schema: Schema, counted: int | None
) -> Opened:
    """A store of the former format: brought forward by a first snapshot."""
    assert files.store is not None
    version, counter, tables = unseal_whole(files.store, head, end, keys.store_id, keys.sets[-1].data)
    _check_counter(files, counter, counted)
    contents = _contents_of(schema.bring_forward(tables, version))
    return Opened(keys, contents, counter, snapshot_due=True)


def _open_journal(
    files: _Files, header: Header, end: int, keys: Keys, schema: Schema, counted: int | None, journal: Journal
) -> Opened:
    assert files.store is not None
    schema.refuse_newer(header.schema)
    if header.store_id != keys.store_id:
        raise StoreDamagedError("the store's file belongs to another store than its key file")
    active = next((known for known in keys.sets if known.epoch == header.epoch), None)
    if active is None:
        raise StoreRolledBackError(
            f"{files.folder}: the store's file and its key file are not of the same age; put the newest of both back"
        )
    sealer = Sealer(header, active.data, active.key)
    found = scan(files.store, end, sealer, active.is_destroyed)
    if any(prefix.purpose >= active.next_number for prefix in found.damaged.values()):
        raise StoreRolledBackError(
            f"{files.folder}: an older copy of the key file was put in place; put the newest back"
        )
    if counted is None:
        _check_counter(files, 0, counted)
    assert counted is not None
    verdict = judge(found, counted)
    contents, mixed = _replayed(found, verdict, sealer, active)
    names = {sealer.tag(name): name for name in contents.tables if name}
    opened = Opened(
        keys=replace(keys, sets=(active,)),
        contents=contents,
        counter=verdict.counter,
        boxes=sum(kind == COMMIT for kind, _, _ in verdict.keep),
        tail_bytes=sum(end - start for place, (start, end) in found.spans.items() if place[0] == COMMIT),
        snapshot_due=mixed or bool(found.destroyed),
        counter_lags=verdict.counter > counted,
        former_keys=len(keys.sets) > 1 and active is keys.sets[-1],
        keys_due=len(keys.sets) > 1,
        lost=weigh(verdict, names.get),
    )
    if header.schema != schema.version:
        tables = {
            name: {key: json.loads(row) for key, row in rows.items()}
            for name, rows in contents.tables.items()
            if name != OWN
        }
        migrated = _contents_of(schema.bring_forward(tables, header.schema))
        migrated.tables[OWN] = contents.rows(OWN)
        migrated.purposes = contents.purposes
        opened.contents, opened.snapshot_due = migrated, True
    journal.end_bytes, journal.torn = verdict.end_bytes, verdict.end_bytes < len(files.store)
    _repair(files, verdict, opened, journal)
    return opened


def _repair(files: _Files, verdict: Judgement, opened: Opened, journal: Journal) -> None:
    """Cut a torn end, or set aside what does not verify; and tell."""
    assert files.store is not None
    size_bytes = sum(end - start for start, end in verdict.aside)
    if not size_bytes and not verdict.lost_commits and not verdict.out_of_order:
        return
    if verdict.only_cut:
        try:
            journal.cut()
        except OSError as error:
            raise StoreWriteError(f"{files.folder}: a torn end cannot be cut off: {error.strerror or error}") from error
        opened.repaired = {"cut_bytes": size_bytes, "aside_bytes": 0, "lost_commits": 0}
        _log.warning(
            "the store ended in an unfinished commit: %d bytes were cut off, nothing committed is lost", size_bytes
        )
        return
    try:
        set_aside(files.folder, files.store, verdict.aside)
    except OSError as error:
        raise StoreWriteError(
            f"{files.folder}: damaged bytes cannot be set aside: {error.strerror or error}; nothing was changed"
        ) from error
    fault_point("store.quarantine.after_aside")
    opened.repaired = {"cut_bytes": 0, "aside_bytes": size_bytes, "lost_commits": verdict.lost_commits}
    opened.snapshot_due = True
    if opened.lost is None:
        _log.warning("the store's file was put right: %d bytes were set aside, nothing is lost", size_bytes)
    else:
        _log.error(
            "the store is damaged: %d commits are lost, %d bytes were set aside%s",
            opened.lost.commits,
            size_bytes,
            "; nothing will be contributed from this device any more" if opened.lost.unsafe else "",
        )


def _replayed(found: Scan, verdict: Judgement, sealer: Sealer, keys: KeySet) -> tuple[Contents, bool]:
    """The contents, and whether a table is sealed with more than one key (killed before a snapshot could change that)."""
    contents, sealed_with, mixed = Contents(), dict[str, int](), False
    names = {number: name for name, (number, _) in keys.purposes.items()}
    for place in verdict.keep:
        prefix, plain = found.boxes[place]
        table, row_keys, values = decode_body(plain)
        if sealer.tag(table) != prefix.tag:
            raise StoreDamagedError("a box of the store holds another table than it says")
        mixed |= sealed_with.setdefault(table, prefix.purpose) != prefix.purpose
        sealed_with[table] = prefix.purpose
        if prefix.purpose:
            contents.purposes[table] = names[prefix.purpose]
        contents.load(table, row_keys, values)
    return contents, mixed


def _contents_of(tables: dict[str, Any]) -> Contents:
    contents = Contents()
    for name, documents in tables.items():
        contents.apply(name, [(str(key), encode_value(value)) for key, value in documents.items()])
    return contents


def _counted(raw: bytes | None, keys: Keys) -> int | None:
    """What the counter says, under any of the keys; None if it is missing or says nothing."""
    if raw is None:
        return None
    found = (read_counter(raw, keys.store_id, _counter_key(keys.store_id, known)) for known in keys.sets)
    return max((value for value in found if value is not None), default=None)


def _counter_key(store_id: str, keys: KeySet) -> bytes:
    return derive(keys.data, "counter", store_id)


def _check_counter(files: _Files, counter: int, counted: int | None) -> None:
    """Raises StoreRolledBackError."""
    if counted is None:
        problem = "missing" if files.counter is None else "damaged"
        raise StoreRolledBackError(
            f"{files.folder}: {COUNTER_NAME} is {problem}, so the store may be an old copy; put that file back, or erase all"
        )
    if counter < counted:
        raise StoreRolledBackError(
            f"{files.folder}: an older copy of the store was put in place (commit {counter} of {counted}); "
            f"put the newest {STORE_NAME} back, or erase all"
        )


def _read(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise StoreDamagedError(f"{path}: too large to be this file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
