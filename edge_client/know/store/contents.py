"""What an open store holds in memory: tables of key → JSON bytes, and how a transaction that fails is undone.

Values stay encoded: a commit and a snapshot write them as they are, and what a reader gets is decoded for that reader alone.
The table OWN ("") is the store's own: marks that are committed like any record and shown to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from edge_client.know.store.frames import Op, encode_chunks, encode_value

OWN = ""


class Contents:
    """Tables in the order in which they were first written; in a table, keys in the order in which they were first put."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, bytes]] = {}
        self.purposes: dict[str, str] = {}
        """Table → purpose, for tables that have one."""
        self.removed = False
        """True if something was deleted that older boxes of the file still hold."""
        self.cleared = False
        """The same for a whole table."""
        self.live_bytes = 0
        self.records = 0
        self.pending: dict[str, list[Op]] = {}
        """What the open transaction did, for each table in order."""
        self._saved: dict[str, dict[str, bytes]] = {}
        self._added: dict[str, list[str]] = {}
        self._before = False, False

    def counts(self) -> dict[str, int]:
        """Records in each table that has any, but for OWN."""
        return {name: len(rows) for name, rows in self.tables.items() if rows and name != OWN}

    def purposes_in_use(self) -> dict[str, str]:
        """Table → purpose, of tables that have one and hold something."""
        return {name: purpose for name, purpose in self.purposes.items() if self.rows(name)}

    def tables_of(self, purpose: str) -> list[str]:
        return [name for name, known in self.purposes.items() if known == purpose]

    def chunks(self) -> Iterator[tuple[str, bytes]]:
        """Table and body of each box of a snapshot: OWN first and always, then what is not empty."""
        for name in (OWN, *(name for name, rows in self.tables.items() if rows and name != OWN)):
            yield from ((name, chunk) for chunk in encode_chunks(name, self.rows(name)))

    def rows(self, table: str) -> dict[str, bytes]:
        """The live rows. Not to be changed by callers."""
        return self.tables.get(table, {})

    def differences(self, data: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Op]]:
        """What makes the tables `data`, order of the keys included. Raises StoreWriteError for what JSON cannot say."""
        changes: dict[str, list[Op]] = {
            name: [(None, None)] for name, rows in self.tables.items() if rows and name not in (*data, OWN)
        }
        for name, documents in data.items():
            rows, wanted = self.rows(name), {str(key): encode_value(value) for key, value in documents.items()}
            ops: list[Op] = [(key, None) for key in rows if key not in wanted]
            ops += [(key, value) for key, value in wanted.items() if rows.get(key) != value]
            order = [key for key in rows if key in wanted] + [key for key in wanted if key not in rows]
            if ops or order != list(wanted):
                changes[name] = ops if order == list(wanted) else [(None, None), *wanted.items()]
        return changes

    def load(self, table: str, keys: Sequence[str | None], values: Sequence[bytes | None]) -> None:
        """Do what a box says. The parts of a snapshot only add, and there are many: they take the short way."""
        rows = self.tables.setdefault(table, {})
        if None in keys or None in values or not rows.keys().isdisjoint(keys):
            self.apply(table, zip(keys, values, strict=True))
            return
        added = cast(dict[str, bytes], dict(zip(keys, values, strict=True)))
        if len(added) < len(keys):
            self.apply(table, zip(keys, values, strict=True))
            return
        rows.update(added)
        self.records += len(added)
        self.live_bytes += sum(map(len, added)) + sum(map(len, added.values()))

    def apply(self, table: str, ops: Iterable[Op]) -> None:
        rows = self.tables.setdefault(table, {})
        for key, value in ops:
            if key is None:
                self.cleared |= bool(rows)
                self.live_bytes -= sum(len(known) + len(row) for known, row in rows.items())
                self.records -= len(rows)
                rows.clear()
                continue
            former = rows.get(key)
            if former is not None:
                self.live_bytes -= len(key) + len(former)
                self.records -= 1
            if value is None:
                self.removed |= rows.pop(key, None) is not None
            else:
                rows[key] = value
                self.live_bytes += len(key) + len(value)
                self.records += 1

    def apply_pending(self, table: str, ops: Sequence[Op]) -> None:
        """Do `ops` so that `drop_pending` can undo them."""
        if not self.pending:
            self._before = self.removed, self.cleared
        rows = self.tables.setdefault(table, {})
        added = self._added.setdefault(table, [])
        if table not in self._saved:
            new = {key for key, _ in ops if key is not None and key not in rows}
            if len(new) == len(ops) and all(value is not None for _, value in ops):
                # Only additions, all at the end: to undo them needs no copy of what was there.
                added += new
            else:
                fresh = set(added)
                self._saved[table] = {key: value for key, value in rows.items() if key not in fresh}
        self.pending.setdefault(table, []).extend(ops)
        self.apply(table, ops)

    def take_pending(self) -> dict[str, list[Op]]:
        """The transaction's changes; from here on they cannot be dropped any more."""
        taken, self.pending = self.pending, {}
        self._saved, self._added = {}, {}
        return taken

    def drop_pending(self) -> None:
        """Undo what the open transaction did."""
        if not self.pending:
            return
        removed, cleared = self._before
        for table, added in self._added.items():
            if table not in self._saved:
                self.apply(table, [(key, None) for key in added])
        for table, rows in self._saved.items():
            self.apply(table, [(None, None), *rows.items()])
        self.take_pending()
        self.removed, self.cleared = removed, cleared
