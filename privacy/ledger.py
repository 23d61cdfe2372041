"""The ledger: append-only, hash-linked, each entry signed. Pure: entries in, entries out; whoever keeps them is elsewhere.

It proves integrity and arithmetic (nothing altered, left out in the middle or counted wrongly), not that noise was added.
The aggregator's ledger stands in its database, in one transaction with model and round; a device keeps one of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nacl.signing

from shared_models.canonical import Envelope, canonical_bytes, canonical_hash, key_id, parse_document, seal_envelope
from shared_models.errors import LedgerError, WireError

ENTRY_KIND = "application/vnd.tacit.ledger-entry+json"
START = "0" * 64
"""What the first entry names as its predecessor."""

_MOST_TIME_S = 253_402_300_799
"""End of the year 9999."""


@dataclass(frozen=True)
class Entry:
    """One entry. `kind`: genesis, policy, begin, reserve, release, abort, artifact, publish; on a device contribution."""

    index: int
    time_s: int
    kind: str
    body: dict[str, Any]
    previous: str

    def document(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "time_s": self.time_s,
            "kind": self.kind,
            "body": self.body,
            "previous": self.previous,
        }

    @property
    def hash(self) -> str:
        return canonical_hash(self.document())

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Entry:
        try:
            entry = cls(**document)
        except TypeError as error:
            raise LedgerError(f"not a ledger entry: {error}") from error
        # type(), not isinstance: true is an int too.
        found = tuple(type(value) for value in (entry.index, entry.time_s, entry.kind, entry.body, entry.previous))
        if found != (int, int, str, dict, str):
            raise LedgerError("not a ledger entry: a field has the wrong type")
        if not 0 <= entry.time_s <= _MOST_TIME_S:
            raise LedgerError(f"not a ledger entry: its time is {str(entry.time_s)[:40]}")
        return entry


def next_entry(last: Entry | None, time_s: float, kind: str, body: dict[str, Any]) -> Entry:
    """The entry that follows `last`. Time never runs backwards along the chain."""
    if last is None:
        return Entry(0, int(time_s), kind, body, START)
    return Entry(last.index + 1, max(int(time_s), last.time_s), kind, body, last.hash)


def sign_entry(entry: Entry, key: nacl.signing.SigningKey) -> bytes:
    """One line of a ledger file (without the newline): the entry in a signed envelope."""
    return seal_envelope(ENTRY_KIND, canonical_bytes(entry.document()), key).to_bytes()


def read_entries(lines: Iterable[bytes]) -> Iterator[tuple[Envelope, Entry]]:
    """Parse the lines of a ledger file; signatures are checked by `verify_signatures`. Raises LedgerError with the line's number.

    A line has one way to be written, so that no byte of it can be changed unnoticed.
    """
    for number, line in enumerate(lines, 1):
        try:
            envelope = Envelope.from_bytes(line)
            entry = Entry.from_document(parse_document(envelope.payload))
            if envelope.to_bytes() != line or canonical_bytes(entry.document()) != envelope.payload:
                raise LedgerError("not in canonical form: something was altered")
            yield envelope, entry
        except (WireError, LedgerError) as error:
            raise LedgerError(f"ledger line {number}: {error}") from error


def verify_chain(entries: Sequence[Entry]) -> None:
    """Check numbering, hash links and the order of times. Raises LedgerError that names the first bad entry."""
    previous, time_s = START, 0
    for position, entry in enumerate(entries):
        if entry.index != position:
            raise LedgerError(f"ledger entry {position} says that it is number {entry.index}: one is missing or moved")
        if entry.previous != previous:
            raise LedgerError(f"ledger entry {position} does not follow the one before it: something was altered")
        if entry.time_s < time_s:
            raise LedgerError(f"ledger entry {position} is older than the one before it")
        previous, time_s = entry.hash, entry.time_s


def verify_signatures(lines: Sequence[tuple[Envelope, Entry]], keys: Sequence[bytes]) -> None:
    """Check that entry i is signed by keys[i]. Raises LedgerError."""
    for (envelope, entry), key in zip(lines, keys, strict=True):
        try:
            envelope.open(ENTRY_KIND, key)
            if envelope.signer != key_id(key):
                raise WireError("it names another key than the one that signed it")
        except WireError as error:
            raise LedgerError(f"ledger entry {entry.index}: {error}") from error
