"""The store's file and its counter while they are open: append, cut, replace. What the bytes mean lies in frames.py.

While a store is open, zeros are kept behind the end of its file; a kill leaves them there, and they mean nothing.

After any failure the file is either as it was, or `append` first makes it so again: a commit that was told to have failed is
cut off before the next one is written.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from edge_client.know.store.counter_file import COUNTER_NAME, counter_bytes, counter_slot
from edge_client.platform import (
    fault_point,
    open_in_place,
    sync_data,
    sync_folder,
    write_at,
    write_atomically,
)

STORE_NAME = "store.tacit"
RESERVE_BYTES = 64 * 1024

_log = logging.getLogger(__name__)


class Journal:
    """`end_bytes`: where the sound part of the file ends; what lies behind is cut before the next append."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STORE_NAME
        self.end_bytes = 0
        self.torn = False
        """True if there may be bytes behind `end_bytes`."""
        self._counter_path = folder / COUNTER_NAME
        self._descriptor: int | None = None
        self._counter_descriptor: int | None = None
        self._folder_synced = True
        self._reserved_bytes = 0

    def append(self, frames: bytes) -> None:
        """Add `frames` at the end: durable on return. Raises OSError; then they are not there, or are cut off later."""
        fault_point("store.append.before_write")
        if not self._folder_synced:
            sync_folder(self.path.parent)
            self._folder_synced = True
        if self.torn:
            self.cut()
        descriptor = self._opened()
        half = len(frames) // 2
        try:
            if self.end_bytes + len(frames) > self._reserved_bytes:
                self._reserve(descriptor)
            write_at(descriptor, self.end_bytes, frames[:half])
            fault_point("store.append.half_write")
            write_at(descriptor, self.end_bytes + half, frames[half:])
            fault_point("store.append.after_write")
            sync_data(descriptor)
        except BaseException:
            self.torn = True
            with contextlib.suppress(OSError):
                self.cut()
            raise
        self.end_bytes += len(frames)
        fault_point("store.append.after_sync")

    def cut(self) -> None:
        """Cut off what lies behind `end_bytes`. Raises OSError."""
        descriptor = self._opened()
        self._reserved_bytes = 0
        os.ftruncate(descriptor, self.end_bytes)
        os.fsync(descriptor)
        self.torn = False

    def _reserve(self, descriptor: int) -> None:
        """Zeros behind the end: to sync what is written over them, a file system need not record a new length each time."""
        try:
            write_at(descriptor, self.end_bytes, bytes(RESERVE_BYTES))
            self._reserved_bytes = self.end_bytes + RESERVE_BYTES
        except OSError:
            # No room for that; perhaps there is for the commit itself.
            self._reserved_bytes = 0
            os.ftruncate(descriptor, self.end_bytes)

    def replace(self, parts: Iterable[bytes], *, fault_prefix: str) -> None:
        """A whole new file; the blocks of the former are overwritten. Raises OSError; then the former stands.

        What is live now may be deleted later, and must then not be found in blocks that a former file left on the disk.
        """
        self._close_file()
        size_bytes = 0

        def counted() -> Iterable[bytes]:
            nonlocal size_bytes
            for part in parts:
                size_bytes += len(part)
                yield part

        before = self.path.stat() if self.path.exists() else None
        try:
            write_atomically(self.path, counted(), fault_prefix, wipe_former=True)
        except OSError:
            # Renamed but not made durable: it is the file that will be read, and the next append tries again to make it last.
            if self.path.exists() and (before is None or not os.path.samestat(before, self.path.stat())):
                self.end_bytes, self.torn, self._folder_synced = size_bytes, False, False
                _log.warning(
                    "the store's file was replaced, but its folder could not be synced or its former file wiped"
                )
                return
            raise
        self.end_bytes, self.torn, self._folder_synced = size_bytes, False, True

    def count(self, counter: int, store_id: str, counter_key: bytes) -> None:
        """Say outside the file how many commits there are. Never raises: a counter that lags accuses nobody."""
        try:
            if self._counter_descriptor is None:
                self._counter_descriptor = open_in_place(self._counter_path)
            write_at(self._counter_descriptor, *counter_slot(counter, store_id, counter_key))
        except OSError as error:
            self._close_counter()
            _log.warning("the store's counter could not be written: %s", error.strerror)

    def new_counter(self, counter: int, store_id: str, counter_key: bytes) -> None:
        """A whole new counter file. Raises OSError."""
        self._close_counter()
        write_atomically(self._counter_path, counter_bytes(counter, store_id, counter_key), "store.count")

    def close(self) -> None:
        """Give the reserved zeros back, and the descriptors."""
        if self._descriptor is not None and self._reserved_bytes > self.end_bytes:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.end_bytes)
        self._close_file()
        self._close_counter()

    def _opened(self) -> int:
        if self._descriptor is None:
            self._descriptor = open_in_place(self.path)
        return self._descriptor

    def _close_file(self) -> None:
        self._reserved_bytes = 0
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _close_counter(self) -> None:
        if self._counter_descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._counter_descriptor)
            self._counter_descriptor = None
