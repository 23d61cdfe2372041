"""A TinyDB storage that is an encrypted journal: `TinyDB(FOLDER, storage=EncryptedStorage, key=…)`.

    FOLDER/store.key         the wrapped keys; rewritten only when a key is added, destroyed or rotated
    FOLDER/store.tacit       a snapshot, and behind it one group of sealed boxes for each commit since
    FOLDER/store.counter     how many commits there were; written after each
    FOLDER/store.quarantine  bytes that did not verify, if there ever were any
    FOLDER/store.lock        held while open

A commit appends and syncs; nothing that was there is read or written again. When the journal is much longer than what is live in
it, or a table was cleared, a snapshot takes its place; at closing also when records were deleted, since their old boxes could
still be read. An older copy of store.tacit put in place is found by the counter. Not found: an older copy of store.tacit and
store.counter together (a backup of the whole folder put back), and at most the last commits before a power cut, which the counter
may lag. Opening lies in opening.py.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinydb.storages import Storage

from edge_client.know.store.contents import OWN, Contents
from edge_client.know.store.counter_file import COUNTER_NAME
from edge_client.know.store.frames import Op
from edge_client.know.store.journal import STORE_NAME, Journal
from edge_client.know.store.keys import KeySource, key_source
from edge_client.know.store.migrations import DEVICE_SCHEMA, Schema
from edge_client.know.store.opening import MAX_STORE_BYTES, open_store
from edge_client.know.store.sealed_journal import DESTROYING, SealedJournal
from edge_client.platform import hold_lock, private_folder
from shared_models.errors import StoreClosedError, StoreDamagedError, StoreWriteError

__all__ = ["COUNTER_NAME", "LOCK_NAME", "MAX_STORE_BYTES", "STORE_NAME", "EncryptedStorage"]

LOCK_NAME = "store.lock"


class EncryptedStorage(Storage):
    """One store, open. Not thread-safe: the owner serialises calls (records.Store does).

    `key` is 32 raw bytes, a passphrase, None for the system's keyring, or a KeySource. A folder without a store gets a new one.

    Raises WrongKeyError, KeyUnavailableError, StoreDamagedError, StoreRolledBackError, StoreLockedError, StoreSchemaError,
    StoreWriteError; then nothing on disk was changed.
    """

    def __init__(
        self, folder: Path | str, *, key: bytes | str | KeySource | None, schema: Schema = DEVICE_SCHEMA
    ) -> None:
        self.folder = private_folder(Path(folder))
        self.closed = False
        self.held = False
        """True while changes wait for `commit`."""
        self._issued = -1, 0
        """For which commit keys were given out, and how many."""
        self._journal = Journal(self.folder)
        source = key_source(key)
        self._lock: Any = hold_lock(self.folder / LOCK_NAME)
        try:
            opened = open_store(self.folder, source, schema, self._journal)
            self.sealed = SealedJournal(self.folder, opened, self._journal, schema.version)
        except OSError as error:
            self._give_up()
            raise StoreDamagedError(f"{self.folder}: the store cannot be read: {error.strerror or error}") from error
        except BaseException:
            self._give_up()
            raise
        self.contents = opened.contents
        self.store_id, self.schema_version = opened.keys.store_id, schema.version
        self.key_kind = opened.keys.kind
        """`raw`, `passphrase` or `keyring`."""
        self.repaired = opened.repaired
        """What opening had to put right this time: sizes and counts, or None."""

    # -- TinyDB's interface ---------------------------------------------------------------------------------------

    def read(self) -> dict[str, dict[str, Any]] | None:
        """A fresh copy of what was last committed; None if there is nothing yet."""
        self.require_open()
        tables = {
            name: {key: json.loads(value) for key, value in rows.items()}
            for name, rows in self.contents.tables.items()
            if name != OWN
        }
        return tables or None

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        """Commit `data` as the whole contents: durable on return. Raises StoreWriteError; then `read` gives what is on disk."""
        self.require_open()
        changes = self.contents.differences(data)
        self.sealed.commit(changes)
        for name, ops in changes.items():
            self.contents.apply(name, ops)
        self.sealed.settle()

    def close(self) -> None:
        """Give the lock back. Everything that was committed is on disk already."""
        if not self.closed:
            if self.contents.removed and self._lock is not None:
                self.sealed.compact_quietly()
            self.closed = True
            self.contents = Contents()
            del self.sealed
            self._give_up()

    def _give_up(self) -> None:
        self._journal.close()
        if self._lock is not None:
            self._lock.release()

    # -- for the owner --------------------------------------------------------------------------------------------

    def require_open(self) -> None:
        """Raises StoreClosedError after close() or erasure."""
        if self.closed:
            raise StoreClosedError("the store was closed or erased")

    def surrender_lock(self) -> Any:
        """Close, but leave the lock to the caller, who erases."""
        lock, self._lock = self._lock, None
        self.close()
        return lock

    def rows(self, table: str) -> dict[str, bytes]:
        """Key → JSON of a table, live: for reading only."""
        self.require_open()
        return self.contents.rows(table)

    def next_key(self) -> str:
        """A key above all that this gave before in the life of this store: from the number of the commit that will write it."""
        self.require_open()
        counter, issued = self._issued
        issued = issued + 1 if counter == self.sealed.counter else 0
        if issued >= 1_000_000:
            raise StoreWriteError("more than a million records in one transaction")
        self._issued = self.sealed.counter, issued
        return f"{self.sealed.counter + 1:012d}{issued:06d}"

    def assign(self, table: str, purpose: str) -> None:
        """Seal `table` with the key of `purpose` from now on; what it holds under another key is sealed again at once."""
        self.require_open()
        if self.contents.purposes.get(table) == purpose:
            return
        before = self.contents.purposes.get(table)
        self.contents.purposes[table] = purpose
        if not self.contents.rows(table):
            return
        try:
            if self.held:
                raise StoreWriteError(f"table {table!r} cannot be given a purpose inside a transaction")
            self.sealed.compact()
        except StoreWriteError:
            self.contents.purposes.pop(table)
            if before is not None:
                self.contents.purposes[table] = before
            raise

    # -- committing -----------------------------------------------------------------------------------------------

    def change(self, table: str, ops: Sequence[Op]) -> None:
        """Do `ops` to `table`: durable on return, or with `commit` after `hold`. Raises StoreWriteError; then nothing is done."""
        self.require_open()
        if not ops:
            return
        if any(value is not None for _, value in ops):
            self._refuse_destroyed(table)
        if self.held:
            self.contents.apply_pending(table, ops)
            return
        self.sealed.commit({table: ops})
        self.contents.apply(table, ops)
        self.sealed.settle()

    def hold(self) -> None:
        """From now on changes wait for `commit`."""
        with contextlib.suppress(StoreWriteError):
            # What an earlier failure left of a destruction: until it succeeds, writing to those tables is refused.
            self.sealed.destroy_marked()
        self.held = True

    def commit(self) -> None:
        """Make all changes since `hold` durable, together. Raises StoreWriteError; then they are undone."""
        if self.contents.pending:
            try:
                self.sealed.commit(self.contents.pending)
            except BaseException:
                self.drop()
                raise
            self.contents.take_pending()
        self.held = False
        self.sealed.settle()

    def drop(self) -> None:
        """Undo what was not committed."""
        self.contents.drop_pending()

    def _refuse_destroyed(self, table: str) -> None:
        """Nothing new is sealed with a key that is about to go. Raises StoreWriteError."""
        mark = DESTROYING + self.contents.purposes.get(table, "")
        if mark in self.contents.rows(OWN):
            if self.held:
                raise StoreWriteError(
                    f"table {table!r} is of a purpose that is being destroyed; write to it afterwards"
                )
            self.sealed.destroy_marked()
