"""What of a damaged file may be kept, and what has to be told.

    cut         an unfinished commit at the end that nobody was told about: dropped whole
    put right   boxes in another order, twice, or with bytes between them: nothing is lost, since each box names its place
    lost        a commit that the counter or a later one vouches for does not verify: the rest is kept, the bytes are set aside
    rolled back the file ends cleanly before the commit that the counter knows: an older copy, refused

Of a lost box whose prefix verifies, the table and the purpose are known. Records of a purpose (events, a profile) say what an app
knows; records of no purpose are the device's own memory: consent, and what the gate has spent. If one of those may be lost,
`Quarantine.unsafe` is True for the rest of this store's life: the gate must refuse, since a forgotten expense would be a second
budget, and a consent may have been withdrawn in what is lost. Only erasing begins anew. A lost deletion may bring a record back;
that is told, not guessed. The bytes set aside stay under the keys of their time: rotating keys or erasing ends what they say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_client.know.store.frames import COMMIT, SNAPSHOT, Prefix, Scan
from edge_client.platform import write_atomically
from shared_models.canonical import canonical_bytes
from shared_models.errors import StoreDamagedError, StoreRolledBackError

QUARANTINE_NAME = "store.quarantine"


@dataclass(frozen=True)
class Quarantine:
    """A warning that stays with the store: records are lost. Holds no personal data but names of tables."""

    commits: int = 0
    """How many commits, or parts of a snapshot, have lost something."""
    tables: tuple[str, ...] = ()
    """Tables known to have lost records."""
    unsafe: bool = False
    """True if records without a purpose (consent, the gate's memory) may be among the lost."""
    size_bytes: int = 0
    """Bytes that were set aside in store.quarantine."""

    def joined(self, other: Quarantine) -> Quarantine:
        return Quarantine(
            self.commits + other.commits,
            tuple(sorted({*self.tables, *other.tables})),
            self.unsafe or other.unsafe,
            self.size_bytes + other.size_bytes,
        )

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "tables": list(self.tables)}

    @classmethod
    def from_row(cls, row: bytes) -> Quarantine:
        document = json.loads(row)
        return cls(**{**document, "tables": tuple(document["tables"])})


@dataclass
class Judgement:
    """What is to be done with a scanned file."""

    counter: int
    """Of the last commit that is kept."""
    keep: list[tuple[int, int, int]] = field(default_factory=list)
    """Places of the boxes to read, in order."""
    end_bytes: int = 0
    """Where the last of them ends."""
    aside: list[tuple[int, int]] = field(default_factory=list)
    """From where to where bytes are not kept."""
    lost: list[Prefix] = field(default_factory=list)
    lost_commits: int = 0
    unknown: bool = False
    """True if something is lost of which not even the table is known."""
    dropped: int = 0
    """Unfinished commits at the end."""
    out_of_order: bool = False

    @property
    def only_cut(self) -> bool:
        """True if cutting the end off puts all right."""
        return (
            not self.lost_commits and not self.out_of_order and all(start >= self.end_bytes for start, _ in self.aside)
        )


def judge(found: Scan, counted: int) -> Judgement:
    """Raises StoreDamagedError if nothing can be kept, StoreRolledBackError for an older copy."""
    if not found.boxes and not found.destroyed:
        raise StoreDamagedError("nothing in the store's file can be read: it was changed or cut")
    groups: dict[tuple[int, int], list[Prefix]] = {}
    for prefix in found.prefixes():
        groups.setdefault((prefix.kind, prefix.counter), []).append(prefix)
    base = max((counter for kind, counter in groups if kind == SNAPSHOT), default=None)
    verdict = Judgement(counter=0, out_of_order=found.out_of_order)
    if base is None:
        base = min(counter for _, counter in groups) - 1
        verdict.unknown, verdict.lost_commits = True, 1
    wanted = sorted(
        ((kind, counter), prefixes)
        for (kind, counter), prefixes in groups.items()
        if (kind == SNAPSHOT and counter == base) or (kind == COMMIT and counter > base)
    )
    last = max((counter for (_, counter), prefixes in wanted if not _missing(found, prefixes)), default=base)
    top = max(counted, last)
    kept_counters = 0
    for (kind, counter), prefixes in wanted:
        if counter > top:
            verdict.dropped += 1
            continue
        kept_counters += kind == COMMIT
        verdict.keep += [prefix.place for prefix in sorted(prefixes) if prefix.place in found.boxes]
        if missing := _missing(found, prefixes):
            verdict.lost_commits += 1
            known = [found.damaged[place] for place in missing if place in found.damaged]
            verdict.lost += known
            verdict.unknown |= len(known) < len(missing)
    absent = top - base - kept_counters
    if absent:
        verdict.lost_commits += absent
        verdict.unknown = True
    verdict.counter = top
    kept = [found.spans[place] for place in (*verdict.keep, *found.destroyed) if place[1] <= top]
    verdict.end_bytes = max((end for _, end in kept), default=0)
    sound = {place for place in (*verdict.keep, *found.destroyed)}
    verdict.aside = sorted([*found.odd, *(span for place, span in found.spans.items() if place not in sound)])
    if absent and absent == verdict.lost_commits and not verdict.aside and top > last:
        raise StoreRolledBackError(
            f"an older copy of the store was put in place (commit {last} of {counted}); put the newest one back, or erase all"
        )
    return verdict


def _missing(found: Scan, prefixes: Sequence[Prefix]) -> list[tuple[int, int, int]]:
    """Places of a commit or snapshot that hold no readable box. All prefixes are authentic, so they agree about `of`."""
    first = prefixes[0]
    if len(prefixes) == first.of and not found.damaged:
        return []
    places = ((first.kind, first.counter, part) for part in range(first.of))
    return [place for place in places if place not in found.spans]


def weigh(verdict: Judgement, names: Callable[[bytes], str | None]) -> Quarantine | None:
    """The warning that `verdict` deserves; None if nothing is lost. `names(tag)`: a table's name, as far as it is known."""
    if not verdict.lost_commits:
        return None
    tables = {names(prefix.tag) for prefix in verdict.lost}
    return Quarantine(
        commits=verdict.lost_commits,
        tables=tuple(sorted(name for name in tables if name)),
        unsafe=verdict.unknown or any(prefix.purpose == 0 for prefix in verdict.lost),
        size_bytes=sum(end - start for start, end in verdict.aside),
    )


def set_aside(folder: Path, raw: bytes, spans: Iterable[tuple[int, int]]) -> None:
    """Keep the bytes of `spans`, each behind a line that says where it lay. Doing it again adds nothing. Raises OSError."""
    path = folder / QUARANTINE_NAME
    before = path.read_bytes() if path.exists() else b""
    added = b"".join(
        canonical_bytes({"offset": start, "size_bytes": end - start}) + b"\n" + raw[start:end] + b"\n"
        for start, end in spans
    )
    if added not in before:
        write_atomically(path, before + added, "store.quarantine")
