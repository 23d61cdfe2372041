"""The store as the rooms use it: named tables of JSON objects, and transactions that commit several of them at once.

Thread-safe. Between transactions, memory holds exactly what is on disk: a change that cannot be written is undone in memory.
"""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from tinydb import TinyDB
from tinydb.storages import Storage
from tinydb.table import Table

from edge_client.know.store.erasure import erase_files
from edge_client.know.store.keys import KeySource
from edge_client.know.store.storage import LOCK_NAME, STORE_NAME, EncryptedStorage
from edge_client.platform import remove_lock
from shared_models.errors import StoreWriteError


class _Cache(Storage):
    """Holds the parsed tables between commits; what TinyDB changes in it reaches the disk at `commit`, or is dropped."""

    def __init__(self, inner: EncryptedStorage) -> None:
        self.inner = inner
        self.held = False
        """True inside a transaction: writes wait for `commit`."""
        self._dirty = False
        self._tables = inner.read() or {}

    def read(self) -> dict[str, dict[str, Any]]:
        self.inner.require_open()
        return self._tables

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        self._tables, self._dirty = data, True
        if not self.held:
            self.commit()

    def commit(self) -> None:
        if not self._dirty:
            return
        try:
            self.inner.write(self._tables)
        except BaseException:
            self.drop()
            raise
        self._dirty = False

    def drop(self) -> None:
        """Forget what was not committed."""
        self._dirty = False
        self._tables = self.inner.read() or {}

    def close(self) -> None:
        self._tables = {}
        self.inner.close()


class _Documents(Table):
    """TinyDB's table with text for document ids."""

    document_id_class = str

    def replace(self, key: str, document: dict[str, Any]) -> None:
        """Put `document` under `key`; one that is there is replaced whole and keeps its place."""
        self._update_table(lambda table: table.__setitem__(key, document))


class _Database(TinyDB):
    table_class = _Documents


class Records:
    """One table: text key → JSON object, in the order in which keys were first put."""

    def __init__(self, store: Store, name: str, documents: _Documents) -> None:
        self._store = store
        self._name = name
        self._documents = documents

    @property
    def name(self) -> str:
        return self._name

    def get(self, key: str) -> dict[str, Any] | None:
        """A copy of the object under `key`."""
        with self._store.lock:
            found = self._documents.get(doc_id=key)
            return None if found is None else copy.deepcopy(dict(found))

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep `value` under `key`: durable on return, or at the end of the transaction. Raises StoreWriteError."""
        try:
            document = json.loads(json.dumps(dict(value), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise StoreWriteError(f"table {self._name!r} keeps JSON objects only: {error}") from error
        with self._store.lock:
            self._documents.replace(key, document)

    def delete(self, key: str) -> bool:
        """Remove `key`; True if it was there."""
        with self._store.lock:
            if key not in self:
                return False
            return bool(self._documents.remove(doc_ids=[key]))

    def clear(self) -> int:
        """Remove all; returns how many there were."""
        with self._store.lock:
            count = len(self)
            if count:
                self._documents.truncate()
            return count

    def keys(self, prefix: str = "") -> list[str]:
        with self._store.lock:
            return [key for key in self._documents._read_table() if key.startswith(prefix)]

    def entries(self, prefix: str = "") -> list[dict[str, Any]]:
        """Copies of the objects whose keys start with `prefix`, in the order in which the keys were first put."""
        return [value for _, value in self.items(prefix)]

    def items(self, prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
        """The same with their keys."""
        with self._store.lock:
            table = self._documents._read_table()
            return [(key, copy.deepcopy(dict(value))) for key, value in table.items() if key.startswith(prefix)]

    def transaction(self) -> contextlib.AbstractContextManager[Store]:
        """The store's (all tables together): so that one table can serve as the gate's memory."""
        return self._store.transaction()

    def __contains__(self, key: str) -> bool:
        with self._store.lock:
            return bool(self._documents.contains(doc_id=key))

    def __len__(self) -> int:
        with self._store.lock:
            return len(self._documents)


class Store:
    """An open store. See `EncryptedStorage` for `key` and for what opening can raise."""

    def __init__(self, folder: Path | str, *, key: bytes | str | KeySource | None) -> None:
        self.lock = threading.RLock()
        self._storage = EncryptedStorage(folder, key=key)
        self._cache = _Cache(self._storage)
        self._database = _Database(storage=lambda: self._cache)
        self._records: dict[str, Records] = {}
        self._depth = 0
        self._failed = False

    @property
    def folder(self) -> Path:
        return self._storage.folder

    @property
    def closed(self) -> bool:
        return self._storage.closed

    def table(self, name: str) -> Records:
        """The table `name`; it need not exist before."""
        with self.lock:
            if name not in self._records:
                documents = cast(_Documents, self._database.table(name, cache_size=0))
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
                self._failed, self._cache.held = False, True
            self._depth += 1
            try:
                yield self
                if self._depth == 1:
                    if self._failed:
                        raise StoreWriteError("an inner part of this transaction failed, so nothing of it was kept")
                    self._cache.commit()
            except BaseException:
                self._failed = True
                if not self._storage.closed:
                    self._cache.drop()
                raise
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._cache.held = False

    def erase(self) -> list[str]:
        """Destroy the key, then the files, and close; returns what withstood, in words. See erasure.py."""
        with self.lock:
            self._storage.require_open()
            folder, lock = self.folder, self._storage.surrender_lock()
            try:
                self._cache.close()
                return erase_files(folder)
            finally:
                remove_lock(lock, folder / LOCK_NAME)

    def describe(self) -> dict[str, Any]:
        """Counts and sizes, as plain JSON."""
        with self.lock:
            tables = self._cache.read()
            return {
                "folder": str(self.folder),
                "store_id": self._storage.store_id,
                "key": self._storage.key_kind,
                "schema": self._storage.schema_version,
                "commits": self._storage.commits,
                "size_bytes": (self.folder / STORE_NAME).stat().st_size,
                "records": {name: len(table) for name, table in sorted(tables.items())},
            }

    def close(self) -> None:
        """Twice is fine. Everything committed is on disk already."""
        with self.lock:
            self._cache.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
