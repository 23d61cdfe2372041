"""What the store's tests share: everything that can be read with every key, and a model of committed state for kills.

A child works through an endless list of operations that depends on a seed alone, and tells the parent when it begins and when it
has finished each. Whenever it is killed, the store must hold what the model holds after the last finished operation, or after the
one that was under way: nothing else, and nothing half.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edge_client.know.store import Store
from edge_client.know.store.erasure import erase_home
from edge_client.know.store.frames import Header, Sealer, read_header, scan, split_head
from edge_client.know.store.keys import KeyFile, RawKey
from shared_models.errors import StoreDamagedError

KEY = bytes(range(32))
PURPOSE = "personalisation"


def everything_readable(home: Path, more: Iterable[Path] = ()) -> bytes:
    """All that someone with the master key and the key file of `home` can read in its files, and in `more`, raw and decrypted.

    Boxes are looked for at every place of the bytes, whatever the store itself would do with them.
    """
    found = []
    keys = KeyFile.from_bytes((home / "store.key").read_bytes()).unlock(RawKey(KEY))
    header = read_header(split_head((home / "store.tacit").read_bytes())[0])
    for path in (*home.iterdir(), *more):
        raw = path.read_bytes()
        found.append(raw)
        for known in keys.sets:
            sealer = Sealer(Header(header.schema, keys.store_id, known.epoch), known.data, known.key)
            scanned = scan(raw, 0, sealer, known.is_destroyed)
            found += [plain for _, plain in scanned.boxes.values()]
            # Boxes that share a place (of files of different age) hide one another in a scan of a whole: look at each alone.
            for start, end in scanned.odd:
                found += [plain for _, plain in scan(raw[start:end], 0, sealer, known.is_destroyed).boxes.values()]
    return b"\n".join(found)


class Step(NamedTuple):
    """One operation of the endless list."""

    number: int
    kind: str
    key: str
    text: str


KINDS = {
    "append": 8,
    "put": 4,
    "together": 6,
    "delete": 3,
    "clear": 1,
    "compact": 3,
    "rotate": 3,
    "destroy": 2,
    "withdraw": 2,
    "reopen": 2,
    "erase": 1,
}


def step(seed: int, number: int, kinds: dict[str, int]) -> Step:
    generator = random.Random(f"{seed}/{number}")
    kind = generator.choices(list(kinds), list(kinds.values()))[0]
    text = f"canary-{number}-" + "x" * generator.choice((0, 10, 300, 5000))
    return Step(number, kind, f"k{generator.randrange(6)}", text)


@dataclass
class Model:
    """What is committed: events by number, `notes` by key, and how many events were ever written with a total beside them."""

    events: list[int] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    total: int = 0
    destroyed: tuple[int, ...] = ()
    """Numbers of events that must not be readable any more."""

    def after(self, done: Step) -> Model:
        notes, number = dict(self.notes), done.number
        if done.kind == "append":
            return Model([*self.events, number], notes, self.total, self.destroyed)
        if done.kind == "together":
            notes.pop(done.key, None)
            return Model([*self.events, number], notes, self.total + 1, self.destroyed)
        if done.kind == "put":
            return Model(self.events, {**notes, done.key: number}, self.total, self.destroyed)
        if done.kind == "delete":
            notes.pop(done.key, None)
            return Model(self.events, notes, self.total, self.destroyed)
        if done.kind == "clear":
            return Model(self.events, {}, self.total, self.destroyed)
        if done.kind in ("destroy", "withdraw"):
            notes = {"withdrawn": number} if done.kind == "withdraw" else notes
            return Model([], notes, self.total, (*self.destroyed, *self.events)[-50:])
        if done.kind == "erase":
            return Model()
        return self

    def seen(self) -> tuple[list[int], list[tuple[str, int]], int]:
        return self.events, list(self.notes.items()), self.total


def state(store: Store) -> tuple[list[int], list[tuple[str, int]], int]:
    """The same of a real store."""
    events = [entry["n"] for entry in store.table("events", PURPOSE).entries()]
    notes = [(key, entry["n"]) for key, entry in store.table("notes").items()]
    return events, notes, (store.table("total").get("sum") or {"n": 0})["n"]


def perform(store: Store, now: Step) -> Store:
    """Do it for real; the store to go on with."""
    events, notes, total = store.table("events", PURPOSE), store.table("notes"), store.table("total")
    value = {"n": now.number, "text": now.text}
    if now.kind == "append":
        events.append(value)
    elif now.kind == "put":
        notes.put(now.key, value)
    elif now.kind == "together":
        with store.transaction():
            events.append(value)
            notes.delete(now.key)
            total.put("sum", {"n": (total.get("sum") or {"n": 0})["n"] + 1})
    elif now.kind == "delete":
        notes.delete(now.key)
    elif now.kind == "clear":
        notes.clear()
    elif now.kind == "compact":
        store.compact()
    elif now.kind == "rotate":
        store.rotate_keys()
    elif now.kind == "destroy":
        store.destroy_purpose(PURPOSE)
    elif now.kind == "withdraw":
        with store.transaction():
            notes.clear()
            notes.put("withdrawn", value)
            store.destroy_purpose(PURPOSE)
    else:
        folder = store.folder
        store.erase() if now.kind == "erase" else store.close()
        return Store(folder, key=KEY)
    return store


class Child:
    """A process that works on a store until it is killed; forked, so that hundreds of them take no time to start."""

    def __init__(self, work: Callable[[Callable[[int], None]], None]) -> None:
        self._reading, writing = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._reading)
                work(lambda number: _tell(writing, number))
                status = 0
            finally:
                os._exit(status)
        os.close(writing)

    def told(self) -> Iterator[int]:
        """Numbers as they come, until the child is gone."""
        with os.fdopen(self._reading, "rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield int(line)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def killed(self) -> bool:
        """Wait; True if it died of SIGKILL."""
        return os.WIFSIGNALED(status := os.waitpid(self.pid, 0)[1]) and os.WTERMSIG(status) == signal.SIGKILL


def _tell(descriptor: int, number: int) -> None:
    os.write(descriptor, f"{number}\n".encode())


def work_on(folder: Path, seed: int, first: int, kinds: dict[str, int]) -> Callable[[Callable[[int], None]], None]:
    """What a child does: from step `first` on for ever. It tells 2n when it begins step n and 2n+1 when it has finished it."""

    def work(tell: Callable[[int], None]) -> None:
        store = Store(folder, key=KEY)
        for number in range(first, first + 100_000):
            tell(2 * number)
            store = perform(store, step(seed, number, kinds))
            tell(2 * number + 1)

    return work


def check(folder: Path, model: Model, under_way: Step | None) -> Model:
    """Open what a killed child left: it must be `model`, or `model` after the step under way; returns which."""
    allowed = [model] if under_way is None else [model, model.after(under_way)]
    try:
        store = Store(folder, key=KEY)
    except StoreDamagedError:
        # Half erased: nothing is readable any more, and erasing is finished by whoever asks for it.
        assert under_way is not None
        assert under_way.kind == "erase"
        assert not (folder / "store.key").exists() or b"store_id" not in (folder / "store.key").read_bytes()
        assert erase_home(folder) == []
        assert list(folder.iterdir()) == []
        return Model()
    with store:
        found: Any = state(store)
        assert not store.quarantined
        assert store.quarantine is None
        chosen = next((one for one in allowed if one.seen() == found), None)
        assert chosen is not None, (under_way, found, [one.seen() for one in allowed])
    assert not [path.name for path in folder.iterdir() if path.suffix in (".tmp", ".former")]
    readable = everything_readable(folder)
    assert not [number for number in chosen.destroyed if f"canary-{number}-".encode() in readable]
    return chosen
