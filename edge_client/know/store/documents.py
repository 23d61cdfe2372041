"""TinyDB's table over the journal: a change costs what it touches, not what is there.

TinyDB's own table reads everything, changes a copy and writes everything. This one gives its updaters a view that notes what they
touch, and hands only that to the storage. All of TinyDB's methods work on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, cast

from tinydb.table import Table

from edge_client.know.store.frames import Op, encode_value
from edge_client.know.store.storage import EncryptedStorage


class _Rows(Mapping[str, Any]):
    """Encoded rows, each decoded for whoever asks."""

    def __init__(self, rows: Mapping[str, bytes]) -> None:
        self._rows = rows

    def __getitem__(self, key: str) -> Any:
        return json.loads(self._rows[key])

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class _Changes(MutableMapping[str, Any]):
    """The rows as an updater sees them, and what it did to them."""

    def __init__(self, rows: Mapping[str, bytes]) -> None:
        self._rows = rows
        self._cleared = False
        self._touched: dict[str, Any] = {}
        """What was read or set: it may still be changed in place."""
        self._gone: set[str] = set()
        self._again: set[str] = set()
        """Rows of before that were deleted and then set: they move to the end."""

    def ops(self) -> list[Op]:
        """What to do to the rows. Raises StoreWriteError for what JSON cannot say."""
        ops: list[Op] = [(None, None)] if self._cleared else []
        ops += [(key, None) for key in (*self._gone, *self._again)]
        for key, document in self._touched.items():
            row = encode_value(document)
            if key in self._again or not self._is_former(key) or self._rows[key] != row:
                ops.append((key, row))
        return ops

    def _is_former(self, key: str) -> bool:
        return not self._cleared and key not in self._gone and key in self._rows

    def __getitem__(self, key: str) -> Any:
        if key not in self._touched:
            if not self._is_former(key):
                raise KeyError(key)
            self._touched[key] = json.loads(self._rows[key])
        return self._touched[key]

    def __setitem__(self, key: str, document: Any) -> None:
        if key in self._gone:
            self._gone.discard(key)
            self._again.add(key)
        self._touched[key] = document

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._touched.pop(key, None)
        self._again.discard(key)
        if not self._cleared and key in self._rows:
            self._gone.add(key)

    def clear(self) -> None:
        self._touched, self._gone, self._again, self._cleared = {}, set(), set(), True

    def __contains__(self, key: object) -> bool:
        return key in self._touched or self._is_former(cast(str, key))

    def __iter__(self) -> Iterator[str]:
        yield from (key for key in self._rows if self._is_former(key) and key not in self._again)
        yield from (key for key in self._touched if key in self._again or not self._is_former(key))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Documents(Table):
    """One table, with text for document ids; a new document gets one above all before."""

    document_id_class = str

    @property
    def storage(self) -> EncryptedStorage:
        return cast(EncryptedStorage, self._storage)

    def rows(self) -> dict[str, bytes]:
        """Key → JSON, live: for reading only."""
        return self.storage.rows(self.name)

    def _read_table(self) -> Mapping[str, Any]:
        return _Rows(self.rows())

    def _update_table(self, updater: Callable[[Any], None]) -> None:
        changes = _Changes(self.rows())
        updater(changes)
        self.storage.change(self.name, changes.ops())
        self.clear_cache()

    def _get_next_id(self) -> str:
        return self.storage.next_key()
