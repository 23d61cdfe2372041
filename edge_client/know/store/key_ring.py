"""The keys of an open store: which of them seals what, and how the key file changes when one is added, destroyed or rotated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edge_client.know.store.frames import Header, Sealer
from edge_client.know.store.keys import KEY_NAME, Keys, KeySet, derive
from edge_client.platform import write_atomically


class KeyRing:
    """All methods that write raise OSError."""

    def __init__(self, folder: Path, keys: Keys, schema: int) -> None:
        self._path = folder / KEY_NAME
        self._schema = schema
        self._use(keys)

    @property
    def rotating(self) -> bool:
        """True while the key file holds the former keys too."""
        return len(self.keys.sets) > 1

    def number(self, purpose: str | None) -> int | None:
        """The number of the key that seals for `purpose`; None if there is none yet."""
        return self.keys.sets[-1].number(purpose)

    def knows(self, purpose: str) -> bool:
        return any(purpose in known.purposes for known in self.keys.sets)

    def add(self, purpose: str) -> None:
        """A key for `purpose`. If it cannot be written, there is none."""
        before = self.keys
        self._use(replace(before, sets=(*before.sets[:-1], before.sets[-1].with_purpose(purpose))))
        try:
            self.write()
        except OSError:
            self._use(before)
            raise

    def destroy(self, purposes: Iterable[str]) -> None:
        """Overwrite the keys of `purposes`. Even if that fails, nothing is sealed or opened with them any more."""
        sets = self.keys.sets
        for purpose in purposes:
            sets = tuple(known.without_purpose(purpose) for known in sets)
        self._use(replace(self.keys, sets=sets))
        self.write(wipe_former=True)

    def start_rotation(self) -> None:
        """New keys beside the present ones; they seal from now on."""
        before = self.keys
        current = before.sets[-1]
        self._use(replace(before, sets=(*before.sets, KeySet.fresh(current.epoch + 1, current))))
        try:
            self.write()
        except OSError:
            self._use(before)
            raise

    def call_off_rotation(self) -> None:
        """The former keys seal again; the next writing drops the new ones."""
        self._use(replace(self.keys, sets=self.keys.sets[:-1]))

    def finish_rotation(self) -> None:
        """Overwrite the former keys. Only when the store's file and its counter are sealed with the new ones."""
        self._use(replace(self.keys, sets=self.keys.sets[-1:]))
        self.write(wipe_former=True)

    def write(self, *, wipe_former: bool = False) -> None:
        write_atomically(self._path, self.keys.wrapped().to_bytes(), "store.key", wipe_former=wipe_former)

    def _use(self, keys: Keys) -> None:
        current = keys.sets[-1]
        self.keys = keys
        self.sealer = Sealer(Header(self._schema, keys.store_id, current.epoch), current.data, current.key)
        self.counter_key = derive(current.data, "counter", keys.store_id)
