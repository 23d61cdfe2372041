"""How an open store writes: commits, snapshots, and what a change of keys does to the file. One owner at a time, no threads.

What is in memory (contents.py) and what is on the disk (journal.py) are brought together here and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edge_client.know.store.contents import OWN
from edge_client.know.store.frames import COMMIT, SNAPSHOT, Body, Op, encode_ops, encode_value
from edge_client.know.store.journal import Journal
from edge_client.know.store.key_ring import KeyRing
from edge_client.know.store.opening import MAX_STORE_BYTES, Opened
from edge_client.know.store.quarantine import Quarantine
from edge_client.platform import fault_point
from shared_models.errors import StoreWriteError

DESTROYING = "destroying/"
"""In OWN: purposes whose keys are to be destroyed. Committed first, so that it will happen whatever is killed."""
QUARANTINED = "quarantine"
LEAST_BOXES = 2048
LEAST_TAIL_BYTES = 4 * 1024 * 1024
"""A journal shorter than this is never worth a snapshot of its own."""

_log = logging.getLogger(__name__)


class SealedJournal:
    """The journal with its keys and its contents. `schema`: what this version writes."""

    def __init__(self, folder: Path, opened: Opened, journal: Journal, schema: int) -> None:
        """Take over what was read, and do what a kill or damage left to do. Raises StoreWriteError."""
        self.folder = folder
        self.contents = opened.contents
        self.counter = opened.counter
        """Commits in the life of this store, snapshots among them."""
        self.store_id = opened.keys.store_id
        self._journal = journal
        self._ring = KeyRing(folder, opened.keys, schema)
        self._boxes, self._tail_bytes = opened.boxes, opened.tail_bytes
        """Behind the snapshot."""
        self._retry_at = 0
        """Boxes at which a snapshot that failed is tried again."""
        self._unsettled = False
        if opened.lost is not None:
            before = self.quarantine or Quarantine()
            self.contents.apply(OWN, [(QUARANTINED, encode_value(before.joined(opened.lost).document()))])
        if opened.snapshot_due:
            self.compact()
        elif opened.counter_lags:
            self._count()
        with self._writing():
            if opened.former_keys:
                journal.new_counter(self.counter, self.store_id, self._ring.counter_key)
            if opened.keys_due:
                self._ring.write(wipe_former=True)
        self.destroy_marked()
        self.settle()

    @property
    def size_bytes(self) -> int:
        return self._journal.end_bytes

    @property
    def quarantine(self) -> Quarantine | None:
        """The warning that records were lost to damage; None if none ever were."""
        row = self.contents.rows(OWN).get(QUARANTINED)
        return None if row is None else Quarantine.from_row(row)

    def knows_purpose(self, purpose: str) -> bool:
        """True if there is a key for it, or a table that waits for one."""
        return self._ring.knows(purpose) or bool(self.contents.tables_of(purpose))

    # -- commits --------------------------------------------------------------------------------------------------

    def commit(self, changes: Mapping[str, Sequence[Op]]) -> None:
        """Make `changes` durable, together; the caller applies them and calls `settle`. Raises StoreWriteError."""
        if not changes:
            return
        self._require_settled()
        added = sum(len(key or "") + len(value or b"") for ops in changes.values() for key, value in ops)
        if self.contents.live_bytes + added > MAX_STORE_BYTES:
            raise StoreWriteError(f"the store would have more than {MAX_STORE_BYTES} bytes")
        bodies = [Body(name, self._number(name), encode_ops(name, ops)) for name, ops in changes.items()]
        frames = b"".join(self._ring.sealer.seal(COMMIT, self.counter + 1, bodies))
        with self._settling():
            self._journal.append(frames)
        self.counter += 1
        self._boxes += len(bodies)
        self._tail_bytes += len(frames)
        self._count()
        fault_point("store.after_counter")

    def _count(self) -> None:
        self._journal.count(self.counter, self.store_id, self._ring.counter_key)

    # -- snapshots ------------------------------------------------------------------------------------------------

    def compact(self, *, fault_prefix: str = "store.snapshot") -> None:
        """Write what is live as a snapshot in place of the journal. Raises StoreWriteError; then the journal stands."""
        self._require_settled()
        contents = self.contents
        bodies = [Body(name, self._number(name), chunk) for name, chunk in contents.chunks()]

        def parts() -> Iterable[bytes]:
            yield self._ring.sealer.header.to_bytes()
            yield from self._ring.sealer.seal(SNAPSHOT, self.counter + 1, bodies)

        with self._settling():
            self._journal.replace(parts(), fault_prefix=fault_prefix)
        self.counter += 1
        self._unsettled = False
        self._count()
        fault_point("store.after_counter")
        contents.removed = contents.cleared = False
        self._boxes, self._tail_bytes, self._retry_at = 0, 0, 0

    def settle(self) -> None:
        """Memory and disk agree again. Shortens the journal where that is due."""
        self._unsettled = False
        contents = self.contents
        long = self._boxes > max(LEAST_BOXES, contents.records // 8)
        long |= self._tail_bytes > max(LEAST_TAIL_BYTES, contents.live_bytes)
        if contents.cleared or (long and self._boxes >= self._retry_at):
            self.compact_quietly()

    def compact_quietly(self) -> None:
        """The same where it is welcome but not asked for."""
        try:
            self.compact()
        except StoreWriteError as error:
            # Nothing is lost: the journal stands. Tried again when it has grown, or when the store is opened.
            self._retry_at = 2 * self._boxes
            _log.warning("the store's journal could not be made shorter: %s", type(error.__cause__).__name__)

    # -- keys -----------------------------------------------------------------------------------------------------

    def destroy_marked(self) -> None:
        """Destroy the keys of all purposes that are marked for it in OWN, then what they sealed. Raises StoreWriteError."""
        marked = [key for key in self.contents.rows(OWN) if key.startswith(DESTROYING)]
        if not marked:
            return
        self._require_settled()
        with self._writing():
            self._ring.destroy(mark.removeprefix(DESTROYING) for mark in marked)
        fault_point("store.destroy.after_key")
        self.contents.apply(OWN, [(mark, None) for mark in marked])
        try:
            self.compact(fault_prefix="store.destroy")
        except StoreWriteError:
            # The key is gone, and with it what it sealed; only the mark has to be taken away when there is room again.
            self.contents.apply(OWN, [(mark, b"{}") for mark in marked])
            _log.warning("a purpose's key was destroyed; the rest of the store's file will be shortened later")

    def rotate_keys(self) -> None:
        """New keys for everything. Killed or failed anywhere, the store opens with old or new ones. Raises StoreWriteError."""
        self._require_settled()
        self._finish_rotation()
        with self._writing():
            self._ring.start_rotation()
        try:
            fault_point("store.rotate.after_both_keys")
            self.compact(fault_prefix="store.rotate")
        except StoreWriteError:
            self._ring.call_off_rotation()
            raise
        except BaseException:
            # Interrupted: which keys the file is sealed with is not known here. Opening finds out.
            self._unsettled = True
            raise
        self._finish_rotation()

    def _finish_rotation(self) -> None:
        """The file is sealed with the newest keys: so must be the counter, and then the former keys go."""
        if not self._ring.rotating:
            return
        with self._writing():
            self._journal.new_counter(self.counter, self.store_id, self._ring.counter_key)
            fault_point("store.rotate.after_counter")
            self._ring.finish_rotation()
        fault_point("store.rotate.after_new_key")

    def _number(self, table: str) -> int:
        """The number of the key that seals `table`; makes the key if there is none yet."""
        purpose = self.contents.purposes.get(table)
        number = self._ring.number(purpose)
        while number is None:
            assert purpose is not None
            with self._writing():
                self._ring.add(purpose)
            number = self._ring.number(purpose)
        return number

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreWriteError(
                f"{self.folder}: cannot be written: {error.strerror or error}; what was committed before is safe"
            ) from error

    def _require_settled(self) -> None:
        """Raises StoreWriteError if Ctrl-C hit a write: nothing may be built on a file whose last commit is not known."""
        if self._unsettled:
            raise StoreWriteError("an earlier write was interrupted: close the store and open it again")

    @contextlib.contextmanager
    def _settling(self) -> Iterator[None]:
        """Around a write that changes which commit is the last. Ctrl-C between the disk and memory must not let them part."""
        self._unsettled = True
        try:
            with self._writing():
                yield
        except StoreWriteError:
            self._unsettled = False
            raise
