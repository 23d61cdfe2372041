"""The store as the rooms use it: named tables of JSON objects, and transactions that commit several of them at once.

Thread-safe. Between transactions, memory holds exactly what is on disk: a change that cannot be written is undone in memory.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from tinydb import TinyDB

from edge_client.know.store.contents import OWN
from edge_client.know.store.documents import Documents
from edge_client.know.store.erasure import erase_files
from edge_client.know.store.frames import encode_value
from edge_client.know.store.keys import KeySource, check_purpose
from edge_client.know.store.quarantine import Quarantine
from edge_client.know.store.sealed_journal import DESTROYING, SealedJournal
from edge_client.know.store.storage import LOCK_NAME, EncryptedStorage
from edge_client.platform import remove_lock
from shared_models.errors import InputError, StoreWriteError


class _Database(TinyDB):
    table_class = Documents


class Records:
    """One table: text key → JSON object, in the order in which keys were first put."""

    def __init__(self, store: Store, name: str, documents: Documents) -> None:
        self._store = store
        self._name = name
        self._documents = documents
        self._glanced: dict[str, tuple[bytes, Mapping[str, Any]]] = {}

    @property
    def name(self) -> str:
        return self._name

    def get(self, key: str) -> dict[str, Any] | None:
        """A copy of the object under `key`."""
        with self._store.lock:
            row = self._documents.rows().get(key)
        return None if row is None else json.loads(row)

    def glance(self, key: str) -> Mapping[str, Any] | None:
        """What `get` gives, not to be changed: parsed once as long as it stays. For what is asked many times in a turn.

        It stays in memory until the next glance at a key that has changed: for settings, not for what a user may erase.
        """
        with self._store.lock:
            row = self._documents.rows().get(key)
            if row is None:
                self._glanced.pop(key, None)
                return None
            known = self._glanced.get(key)
            if known is None or known[0] is not row:
                known = self._glanced[key] = (row, MappingProxyType(json.loads(row)))
        return known[1]

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep `value` under `key`: durable on return, or at the end of the transaction. Raises StoreWriteError."""
        if not isinstance(key, str):
            raise StoreWriteError(f"table {self._name!r} has keys of text, not {type(key).__name__}")
        row = self._encoded(value)
        with self._store.lock:
            self._documents.storage.change(self._name, [(key, row)])

    def append(self, value: Mapping[str, Any], suffix: str = "") -> str:
        """Keep `value` under a new key, above all that were given before, and return that key. Raises StoreWriteError.

        `suffix` ends the key: something random for keys that nobody may guess.
        """
        row = self._encoded(value)
        with self._store.lock:
            key = f"{self._documents.storage.next_key()}{suffix}"
            self._documents.storage.change(self._name, [(key, row)])
            return key

    def delete(self, key: str) -> bool:
        """Remove `key`; True if it was there. Its sealed bytes go with the next snapshot, at the latest at closing."""
        with self._store.lock:
            if key not in self._documents.rows():
                return False
            self._documents.storage.change(self._name, [(key, None)])
            return True

    def clear(self) -> int:
        """Remove all, their sealed bytes too; returns how many there were."""
        with self._store.lock:
            count = len(self._documents.rows())
            if count:
                self._documents.storage.change(self._name, [(None, None)])
            return count

    def keys(self, prefix: str = "") -> list[str]:
        with self._store.lock:
            return [key for key in self._documents.rows() if key.startswith(prefix)]

    def oldest(self, most: int) -> list[str]:
        """The first `most` keys, without looking at the others."""
        with self._store.lock:
            return list(islice(self._documents.rows(), max(0, most)))

    def entries(self, prefix: str = "") -> list[dict[str, Any]]:
        """Copies of the objects whose keys start with `prefix`, in the order in which the keys were first put."""
        return [value for _, value in self.items(prefix)]

    def items(self, prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
        """The same with their keys."""
        with self._store.lock:
            rows = [(key, row) for key, row in self._documents.rows().items() if key.startswith(prefix)]
        return [(key, json.loads(row)) for key, row in rows]

    @property
    def damaged(self) -> bool:
        """True if records without a purpose, as the gate's are, may have been lost: see quarantine.py."""
        return self._store.quarantined

    def transaction(self) -> contextlib.AbstractContextManager[Store]:
        """The store's (all tables together): so that one table can serve as the gate's memory."""
        return self._store.transaction()

    def _encoded(self, value: Mapping[str, Any]) -> bytes:
        try:
            return encode_value(dict(value))
        except (TypeError, ValueError, StoreWriteError) as error:
            raise StoreWriteError(f"table {self._name!r} keeps JSON objects only: {error}") from error

    def __contains__(self, key: str) -> bool:
        with self._store.lock:
            return key in self._documents.rows()

    def __len__(self) -> int:
        with self._store.lock:
            return len(self._documents.rows())


class Store:
    """An open store. See `EncryptedStorage` for `key` and for what opening can raise."""

    def __init__(self, folder: Path | str, *, key: bytes | str | KeySource | None) -> None:
        self.lock = threading.RLock()
        self._storage = EncryptedStorage(folder, key=key)
        self._database = _Database(storage=lambda: self._storage)
        self._records: dict[str, Records] = {}
        self._depth = 0
        self._failed = False
        self._when_rolled_back: list[Callable[[], object]] = []

    @property
    def folder(self) -> Path:
        return self._storage.folder

    @property
    def closed(self) -> bool:
        return self._storage.closed

    @property
    def in_transaction(self) -> bool:
        """True within a transaction of this thread: nothing is durable yet. Waits for the transactions of other threads."""
        with self.lock:
            return self._depth > 0

    @property
    def quarantine(self) -> Quarantine | None:
        """The warning that damage has cost records; it stays with the store. None if it never did."""
        with self.lock:
            self._storage.require_open()
            return self._storage.sealed.quarantine

    @property
    def quarantined(self) -> bool:
        """True if what the device remembers for itself (consent, what the gate has spent) may be among the lost records.

        The gate must then refuse: a forgotten expense would be a second budget. It stays True until all is erased.
        """
        found = self.quarantine
        return found is not None and found.unsafe

    def table(self, name: str, purpose: str | None = None) -> Records:
        """The table `name`; it need not exist before. With `purpose` it is sealed with that purpose's own key from now on.

        What it already holds under another key is sealed again at once. Without `purpose` a table keeps the one it has.
        Raises InputError, StoreWriteError.
        """
        if not isinstance(name, str) or name == OWN:
            raise InputError(f"a table's name is text, not {name!r:.60}")
        with self.lock:
            if purpose is not None:
                self._storage.assign(name, check_purpose(purpose))
            if name not in self._records:
                documents = cast(Documents, self._database.table(name, cache_size=0))
                self._records[name] = Records(self, name, documents)
            return self._records[name]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Store]:
        """All puts and deletes inside are committed together, by one durable write, when the block ends; none if it raises.

        Other threads wait. An inner transaction joins the outer one; if it fails, the outer one cannot be committed any more.
        """
        with self.lock:
            self._storage.require_open()
            if self._depth == 0:
                self._failed = False
                self._storage.hold()
            self._depth += 1
            try:
                yield self
                if self._depth == 1:
                    if self._failed:
                        raise StoreWriteError("an inner part of this transaction failed, so nothing of it was kept")
                    self._storage.commit()
            except BaseException:
                self._failed = True
                if not self._storage.closed:
                    self._storage.drop()
                raise
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._storage.held = False
                    if self._failed:
                        for hook in self._when_rolled_back:
                            hook()
            if self._depth == 0 and not self._storage.closed:
                self._storage.sealed.destroy_marked()

    def when_rolled_back(self, hook: Callable[[], object]) -> None:
        """Call `hook` whenever nothing of an outermost transaction was kept, also if only its commit failed: memory follows disk.

        It is called with the store held, after everything was undone, and must not raise.
        """
        with self.lock:
            self._when_rolled_back.append(hook)

    def destroy_purpose(self, purpose: str) -> None:
        """Destroy the key of `purpose` and every table sealed with it: no copy of the store's file, however old, gives it back.

        Inside a transaction it happens when that is committed. From the commit on it will happen, whatever is killed: what was
        left undone is done at the next opening. The tables may be used again, under a new key. A purpose that was never used is
        fine. Raises InputError, StoreWriteError: then the tables are empty already if the commit stood, and the next call, or
        the next opening, destroys the key.
        """
        check_purpose(purpose)
        with self.transaction():
            if self._storage.sealed.knows_purpose(purpose):
                for name in self._storage.contents.tables_of(purpose):
                    self._storage.change(name, [(None, None)])
                self._storage.change(OWN, [(DESTROYING + purpose, b"{}")])

    def rotate_keys(self) -> None:
        """New random keys for everything, under the same passphrase, keyring entry or raw key. Raises StoreWriteError."""
        with self._outside_transactions() as sealed:
            sealed.rotate_keys()

    def compact(self) -> None:
        """Write what is live in place of the journal, and overwrite that. Raises StoreWriteError."""
        with self._outside_transactions() as sealed:
            sealed.compact()

    @contextlib.contextmanager
    def _outside_transactions(self) -> Iterator[SealedJournal]:
        with self.lock:
            self._storage.require_open()
            if self._depth:
                raise StoreWriteError("this cannot be done inside a transaction")
            yield self._storage.sealed

    def erase(self) -> list[str]:
        """Destroy the keys, then the files, and close; returns what withstood, in words. See erasure.py."""
        with self.lock:
            self._storage.require_open()
            folder, lock = self.folder, self._storage.surrender_lock()
            try:
                return erase_files(folder)
            finally:
                remove_lock(lock, folder / LOCK_NAME)

    def describe(self) -> dict[str, Any]:
        """Counts and sizes, as plain JSON; `repaired` and `quarantine` say what damage did, None if nothing."""
        with self.lock:
            self._storage.require_open()
            found = self._storage.sealed.quarantine
            return {
                "folder": str(self.folder),
                "store_id": self._storage.store_id,
                "key": self._storage.key_kind,
                "schema": self._storage.schema_version,
                "commits": self._storage.sealed.counter,
                "size_bytes": self._storage.sealed.size_bytes,
                "live_bytes": self._storage.contents.live_bytes,
                "records": dict(sorted(self._storage.contents.counts().items())),
                "purposes": self._storage.contents.purposes_in_use(),
                "repaired": self._storage.repaired,
                "quarantined": self.quarantined,
                "quarantine": None if found is None else found.document(),
            }

    def close(self) -> None:
        """Twice is fine. Everything committed is on disk already."""
        with self.lock:
            self._storage.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
