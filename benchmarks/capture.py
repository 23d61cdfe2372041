"""Durable capture of one event, beside TinyDB's JSONStorage (with fsync) and SQLite (WAL, synchronous=FULL), on the same disk.

One event of about 300 bytes is kept at a time, each durable before the next; all three hold the same events and are measured in
turn, a few events each, so that a busy moment of the disk hits all. SQLite keeps the event's JSON in a table with an integer
key; it encrypts nothing. "Stored" is how many events are there before. TinyDB rewrites its whole file for each event, so it is
measured with few.

Opening is measured twice: after a clean snapshot, and after a kill at the worst moment (the journal as long as it is allowed to
get). Memory is what one process holds more for a store of 100,000 events than for an empty one; with a limit by retention, the
file and the memory after ten times the limit are compared with those after one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Options, Row, main
from edge_client.know.store import Store

STORED = (0, 10_000, 100_000)
KEY = bytes(range(32))
SQLITE, TINYDB = "SQLite (WAL, synchronous=FULL)", "TinyDB JSONStorage"
PURPOSE = "personalisation"


def event(number: int) -> dict[str, Any]:
    """An event as an app tracks it."""
    return {
        "message_id": f"{number:08x}-5f1c-4e8e-9a57-3c41e0b7d2aa",
        "type": "track",
        "event": ("Product Viewed", "Search Performed", "Trip Booked")[number % 3],
        "at_s": 1_790_000_000.0 + number,
        "properties": {"price": 120.5 + number % 90, "currency": "EUR", "category": "hotel", "place": "Oslo"},
        "context": {"device": "phone", "locale": "de-DE", "time_zone": "Europe/Berlin"},
    }


class Ours:
    def __init__(self, folder: Path, stored: int) -> None:
        self.folder = folder
        fill(folder, stored)
        self.store = Store(folder, key=KEY)
        self.keep = self.store.table("events", PURPOSE).append

    def close(self) -> None:
        self.store.close()


class Sqlite:
    def __init__(self, folder: Path, stored: int) -> None:
        folder.mkdir()
        self.connection = sqlite3.connect(folder / "events.db", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("CREATE TABLE events (key INTEGER PRIMARY KEY, value TEXT)")
        self.connection.execute("BEGIN")
        self.connection.executemany(
            "INSERT INTO events (value) VALUES (?)", ((json.dumps(event(number)),) for number in range(stored))
        )
        self.connection.execute("COMMIT")
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def keep(self, value: dict[str, Any]) -> None:
        self.connection.execute("INSERT INTO events (value) VALUES (?)", (json.dumps(value),))

    def close(self) -> None:
        self.connection.close()


class TinyJson:
    def __init__(self, folder: Path, stored: int) -> None:
        from tinydb import TinyDB

        folder.mkdir()
        tables = {"events": {str(number + 1): event(number) for number in range(stored)}}
        (folder / "events.json").write_text(json.dumps(tables))
        self.database = TinyDB(folder / "events.json")
        self.keep = self.database.table("events").insert

    def close(self) -> None:
        self.database.close()


def fill(folder: Path, stored: int) -> None:
    """A store of ours with `stored` events, as a snapshot."""
    with Store(folder, key=KEY) as store:
        table = store.table("events", PURPOSE)
        with store.transaction():
            for number in range(stored):
                table.append(event(number))
        store.compact()


def timed(keep: Callable[[dict[str, Any]], object], numbers: range) -> list[float]:
    took_s = []
    for number in numbers:
        value = event(number)
        started = time.perf_counter()
        keep(value)
        took_s.append(time.perf_counter() - started)
    return took_s


def percentile_ms(took_s: list[float], share: float) -> float:
    return 1000 * sorted(took_s)[min(len(took_s) - 1, int(share * len(took_s)))]


def appends(options: Options, root: Path) -> list[Row]:
    rows = []
    for stored in STORED[:2] if options.quick else STORED:
        options.say(f"append at {stored:,} stored events")
        count = options.pick(300, 3000, 10_000)
        ours, sqlite = Ours(root / f"ours-{stored}", stored), Sqlite(root / f"sqlite-{stored}", stored)
        tiny = TinyJson(root / f"tiny-{stored}", stored)
        took: dict[str, list[float]] = {"ours": [], SQLITE: [], TINYDB: []}
        few = options.pick(3, 20, 40) if stored < STORED[2] else options.pick(1, 3, 5)
        for turn in range(20):
            numbers = range(stored + turn * count // 20, stored + (turn + 1) * count // 20)
            took["ours"] += timed(ours.keep, numbers)
            took[SQLITE] += timed(sqlite.keep, numbers)
            if turn < few:
                took[TINYDB] += timed(tiny.keep, range(stored + turn, stored + turn + 1))
        for peer in (ours, sqlite, tiny):
            peer.close()
        case = f"{stored:,} stored"
        for name, share in (("p50", 0.50), ("p99", 0.99)):
            mine = percentile_ms(took["ours"], share)
            rows.append(Row(case, f"durable append {name}", "ms", mine, SQLITE, percentile_ms(took[SQLITE], share)))
            if name == "p50":
                rows.append(Row(case, f"durable append {name}", "ms", mine, TINYDB, percentile_ms(took[TINYDB], share)))
        rows.append(Row(case, "slowest append", "ms", 1000 * max(took["ours"]), SQLITE, 1000 * max(took[SQLITE])))
    return rows


OPENED = """
import resource, sys, time
from edge_client.know.store import Store
wall_s, cpu_s = time.perf_counter(), time.process_time()
store = Store(sys.argv[1], key=bytes(range(32)))
wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
held_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if sys.platform == "linux":
    held_kib = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(wall_s, cpu_s, len(store.table("events")), held_kib)
"""


def opened(folder: Path) -> tuple[float, float, int, float]:
    """Seconds to open (wall, processor), events found and MiB held, in a fresh process that does not close the store."""
    found = subprocess.run([sys.executable, "-c", OPENED, str(folder)], capture_output=True, text=True, check=True)
    wall_s, cpu_s, events, held_kib = found.stdout.split()
    return float(wall_s), float(cpu_s), int(events), float(held_kib) / 1024


def opening(options: Options, root: Path) -> list[Row]:
    stored = options.pick(10_000, 100_000, 100_000)
    options.say(f"open a store of {stored:,} events")
    fill(root / "snapshot", stored)
    longest = root / "longest"
    late = stored // 9
    fill(longest, stored - late)
    # As many commits of their own as the store lets pile up, left by a process that was killed.
    program = (
        "import os, signal, sys\n"
        "from benchmarks.capture import KEY, PURPOSE, event\n"
        "from edge_client.know.store import Store\n"
        "table = Store(sys.argv[1], key=KEY).table('events', PURPOSE)\n"
        "for number in range(int(sys.argv[2])): table.append(event(number))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(longest), str(late)], check=False)
    Store(root / "empty", key=KEY).close()
    repeats = options.pick(1, 5, 10)
    clean = [opened(root / "snapshot") for _ in range(repeats)]
    # A store that is opened and not closed leaves the journal as it was.
    worst = [opened(longest) for _ in range(repeats)]
    assert clean[0][2] == worst[0][2] == stored
    empty_mib = statistics.median(opened(root / "empty")[3] for _ in range(repeats))
    size_mib = (root / "snapshot" / "store.tacit").stat().st_size / (1 << 20)
    with Store(longest, key=KEY) as store:
        started = time.perf_counter()
        store.compact()
        snapshot_s = time.perf_counter() - started
    case, rows = f"{stored:,} stored", []
    for name, found in (("snapshot", clean), ("longest journal", worst)):
        wall_s, cpu_s = (statistics.median(one[place] for one in found) for place in (0, 1))
        rows.append(Row(case, f"open, {name}", "s", wall_s, "goal", 1.0, repeats))
        rows.append(Row(case, f"open, {name}, processor time", "s", cpu_s, seeds=repeats))
    return [
        *rows,
        Row(case, "snapshot, once in n/8 appends", "s", snapshot_s),
        Row(case, "memory held", "MiB", statistics.median(one[3] for one in clean) - empty_mib),
        Row(case, "file", "MiB", size_mib),
    ]


def retention(options: Options, root: Path) -> list[Row]:
    """A table that keeps the newest `most` only: file and memory after one and after ten times as many."""
    most = options.pick(500, 5000, 10_000)
    options.say(f"retention: {10 * most:,} events through a table of {most:,}")
    found = []
    with Store(root / "bounded", key=KEY) as store:
        table = store.table("events", PURPOSE)
        for turn in range(10 * most // 100):
            with store.transaction():
                for number in range(100):
                    table.append(event(100 * turn + number))
                for key in table.keys()[: max(0, len(table) - most)]:
                    table.delete(key)
            if (turn + 1) * 100 in (most, 10 * most):
                # The largest the file may be is what counts, so it is looked at before the snapshot that closing makes.
                found.append((store.describe()["size_bytes"] / (1 << 20), store.describe()["live_bytes"] / (1 << 20)))
    (file_once, live_once), (file_ten, live_ten) = found
    return [
        Row(f"the newest {most:,}", "file after 10x as many", "MiB", file_ten, "after 1x", file_once),
        Row(f"the newest {most:,}", "live bytes after 10x as many", "MiB", live_ten, "after 1x", live_once),
    ]


def run(options: Options) -> list[Row]:
    # Where /tmp is held in memory a sync costs nothing: name a folder of a real disk then.
    with tempfile.TemporaryDirectory(prefix="tacit-capture-", dir=os.environ.get("TACIT_BENCH_DISK")) as folder:
        root = Path(folder)
        return [*appends(options, root), *opening(options, root), *retention(options, root)]


if __name__ == "__main__":
    main("capture", run)
