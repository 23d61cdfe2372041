"""A TinyDB storage whose file is sealed whole: `TinyDB(FOLDER, storage=EncryptedStorage, key=…)`.

    FOLDER/store.key      the wrapped data key; written once
    FOLDER/store.tacit    the contents; replaced whole by each commit
    FOLDER/store.counter  how many commits there were; written after each
    FOLDER/store.lock     held while open

An older copy of store.tacit put in place is found by the counter. Not found: an older copy of store.tacit and store.counter
together (a backup of the whole folder put back), and at most the last commits before a power cut, which the counter may lag.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tinydb.storages import Storage

from edge_client.know.store.keys import (
    KEY_NAME,
    KeyFile,
    KeySource,
    SystemKeyring,
    derive,
    forget_keyring_entry,
    key_source,
)
from edge_client.know.store.migrations import DEVICE_SCHEMA, Schema
from edge_client.know.store.sealed_file import (
    MAX_STORE_BYTES,
    SLOT_BYTES,
    Header,
    counter_slot,
    decode_tables,
    encode_tables,
    read_counter,
    seal,
    unseal,
)
from edge_client.platform import (
    fault_point,
    hold_lock,
    overwrite_in_place,
    private_folder,
    remove_temporaries,
    write_atomically,
)
from shared_models.errors import (
    StoreClosedError,
    StoreDamagedError,
    StoreError,
    StoreRolledBackError,
    StoreWriteError,
)

STORE_NAME = "store.tacit"
COUNTER_NAME = "store.counter"
LOCK_NAME = "store.lock"

_log = logging.getLogger(__name__)


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
        self._schema = schema
        self._closed = False
        source = key_source(key)
        self._lock: Any = hold_lock(self.folder / LOCK_NAME)
        try:
            self._open(source)
        except OSError as error:
            self._lock.release()
            raise StoreDamagedError(f"{self.folder}: the store cannot be read: {error.strerror or error}") from error
        except BaseException:
            self._lock.release()
            raise

    # -- TinyDB's interface ---------------------------------------------------------------------------------------

    def read(self) -> dict[str, dict[str, Any]] | None:
        """A fresh copy of what was last committed; None if there is nothing yet."""
        self.require_open()
        return decode_tables(self._plain) or None

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        """Commit `data` as the whole contents: durable on return. Raises StoreWriteError; then `read` gives what is on disk."""
        self.require_open()
        plain = encode_tables(data)
        if len(plain) > MAX_STORE_BYTES:
            raise StoreWriteError(f"the store would have {len(plain)} bytes, at most {MAX_STORE_BYTES} are kept")
        self._commit(plain)

    def close(self) -> None:
        """Give the lock back. Everything that was committed is on disk already."""
        if not self._closed:
            self._closed = True
            self._plain, self._data_key, self._counter_key = b"", b"", b""
            if self._lock is not None:
                self._lock.release()

    # -- for the owner --------------------------------------------------------------------------------------------

    @property
    def store_id(self) -> str:
        return self._key_file.store_id

    @property
    def key_kind(self) -> str:
        """`raw`, `passphrase` or `keyring`."""
        return self._key_file.kind

    @property
    def commits(self) -> int:
        """Commits in the life of this store."""
        return self._counter

    @property
    def schema_version(self) -> int:
        return self._schema.version

    @property
    def closed(self) -> bool:
        return self._closed

    def require_open(self) -> None:
        """Raises StoreClosedError after close() or erasure."""
        if self._closed:
            raise StoreClosedError("the store was closed or erased")

    def surrender_lock(self) -> Any:
        """Close, but leave the lock to the caller, who erases."""
        lock, self._lock = self._lock, None
        self.close()
        return lock

    # -- opening --------------------------------------------------------------------------------------------------

    def _open(self, source: KeySource) -> None:
        raw_key, raw_counter = _read(self.folder / KEY_NAME), _read(self.folder / COUNTER_NAME)
        raw_store = _read(self.folder / STORE_NAME)
        if raw_key is None and raw_store is None and raw_counter is None:
            self._create(source)
            return
        if raw_key is None:
            raise StoreDamagedError(
                f"{self.folder}: the key file is missing, so what is kept there cannot be read any more"
            )
        self._key_file = KeyFile.from_bytes(raw_key)
        if raw_store is None and raw_counter is None:
            # Killed while it was being made: nothing was ever kept, and the key file may be replaced.
            if self._key_file.kind == SystemKeyring.kind:
                forget_keyring_entry(self.store_id)
            self._create(source)
            return
        self._use(self._key_file.unlock(source))
        counted = None if raw_counter is None else read_counter(raw_counter, self.store_id, self._counter_key)
        if raw_store is None:
            if counted != 0:
                raise StoreRolledBackError(
                    f"{self.folder}: the store's file is missing; put the newest {STORE_NAME} back"
                )
            self._counter, self._plain = 0, b"{}"
            self._commit(b"{}")
            return
        header, plain = unseal(raw_store, self.store_id, self._data_key)
        if counted is None:
            problem = "missing" if raw_counter is None else "damaged"
            raise StoreRolledBackError(
                f"{self.folder}: {COUNTER_NAME} is {problem}, so the store may be an old copy; put that file back, or erase all"
            )
        if header.counter < counted:
            raise StoreRolledBackError(
                f"{self.folder}: an older copy of the store was put in place (commit {header.counter} of {counted}); "
                f"put the newest {STORE_NAME} back, or erase all"
            )
        tables = self._schema.bring_forward(decode_tables(plain), header.schema)
        remove_temporaries(self.folder / STORE_NAME)
        remove_temporaries(self.folder / KEY_NAME)
        self._counter, self._plain = header.counter, plain
        if header.schema != self._schema.version:
            self._commit(encode_tables(tables))
        elif header.counter > counted:
            self._count()

    def _create(self, source: KeySource) -> None:
        self._key_file, data_key = KeyFile.create(source)
        self._use(data_key)
        self._counter, self._plain = 0, b"{}"
        try:
            write_atomically(self.folder / KEY_NAME, self._key_file.to_bytes(), "store.key")
            offset, slot = counter_slot(0, self.store_id, self._counter_key)
            write_atomically(
                self.folder / COUNTER_NAME,
                slot.rjust(offset + SLOT_BYTES, b"\0").ljust(2 * SLOT_BYTES, b"\0"),
                "store.count",
            )
        except OSError as error:
            raise StoreWriteError(f"{self.folder}: a store cannot be made: {error.strerror or error}") from error
        fault_point("store.created")
        self._commit(b"{}")

    def _use(self, data_key: bytes) -> None:
        self._data_key = data_key
        self._counter_key = derive(data_key, "counter", self.store_id)

    # -- committing -----------------------------------------------------------------------------------------------

    def _commit(self, plain: bytes) -> None:
        header = Header(self._schema.version, self.store_id, self._counter + 1)
        path = self.folder / STORE_NAME
        try:
            write_atomically(path, seal(header, plain, self._data_key), "store")
        except OSError as error:
            self._reload()
            raise StoreWriteError(
                f"{self.folder}: cannot be written: {error.strerror or error}; what was committed before is safe"
            ) from error
        self._counter, self._plain = header.counter, plain
        self._count()
        fault_point("store.after_counter")

    def _count(self) -> None:
        try:
            overwrite_in_place(
                self.folder / COUNTER_NAME, *counter_slot(self._counter, self.store_id, self._counter_key)
            )
        except OSError as error:
            # The commit stands. A counter that lags accuses nobody, and the next commit tries again.
            _log.warning("the store's counter could not be written: %s", error.strerror)

    def _reload(self) -> None:
        """After a failed write: whatever is on disk now is the truth (the last step of the write may have failed alone)."""
        try:
            header, plain = unseal((self.folder / STORE_NAME).read_bytes(), self.store_id, self._data_key)
        except (OSError, StoreError) as error:
            _log.warning("the store cannot be read back after a failed write: %s", type(error).__name__)
            return
        self._counter, self._plain = header.counter, plain


def _read(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > MAX_STORE_BYTES + (1 << 20):
            raise StoreDamagedError(f"{path}: too large to be this file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
