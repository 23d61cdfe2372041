"""What all benchmarks share: options, rows, the table and the JSON file. A benchmark is a module with `run(options)`.

from benchmarks.harness import Options, Row, main

def run(options: Options) -> list[Row]: ...

if __name__ == "__main__":
    main("name", run)
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OUT = Path("bench-out")


@dataclass(frozen=True)
class Row:
    """One figure of ours, beside a peer's if there is one."""

    case: str
    """What was measured on what: "CLINC150", "1,000 clients"."""
    metric: str
    unit: str
    ours: float | None
    peer: str = ""
    """Who is beside us: another implementation measured in this run, or "goal"."""
    theirs: float | None = None
    seeds: int = 1
    """How many independent repetitions the figure is a mean of."""

    @property
    def ratio(self) -> float | None:
        """ours / theirs; None if either is missing or theirs is 0."""
        if self.ours is None or not self.theirs or not math.isfinite(self.ours):
            return None
        return self.ours / self.theirs

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


@dataclass
class Options:
    """How much to measure, and with which data."""

    size: str = "default"
    """`quick` (does it still work), `default` (all of them in a quarter of an hour), `full` (more seeds, all data)."""
    data: Path | None = None
    """The data directory; None: only what needs no data is measured."""
    left_out: list[str] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)

    @property
    def quick(self) -> bool:
        return self.size == "quick"

    @property
    def full(self) -> bool:
        return self.size == "full"

    def pick(self, quick: int, default: int, full: int) -> int:
        """The number that goes with the chosen size."""
        return {"quick": quick, "default": default, "full": full}[self.size]

    def path(self, name: str, for_what: str) -> Path | None:
        """A file of the data directory, or None after noting what is left out for lack of it."""
        if self.data is None:
            self.leave_out(f"{for_what}: no data directory (--data or TACIT_DATA)")
        elif not (self.data / name).is_file():
            self.leave_out(f"{for_what}: {name} is not in the data directory")
        else:
            return self.data / name
        return None

    def leave_out(self, what: str) -> None:
        if what not in self.left_out:
            self.left_out.append(what)

    def say(self, stage: str) -> None:
        print(f"  {time.monotonic() - self.started_s:6.1f} s  {stage}", file=sys.stderr, flush=True)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl.gz file, one a line."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def options_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    size = parser.add_mutually_exclusive_group()
    for name, meaning in (
        ("quick", "does it still work: minutes"),
        ("full", "more seeds and all data: may take hours"),
    ):
        size.add_argument(f"--{name}", dest="size", action="store_const", const=name, default="default", help=meaning)
    data = os.environ.get("TACIT_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="data directory, or TACIT_DATA")
    return parser


def main(name: str, run: Callable[[Options], list[Row]], arguments: Sequence[str] | None = None) -> None:
    """Command line of one benchmark: measure, print the table, write the rows where --json says."""
    parser = options_parser(f"Tacit benchmark: {name}")
    parser.add_argument("--json", type=Path, help="write the rows here, as a list of objects")
    chosen = parser.parse_args(arguments)
    if chosen.data is not None and not chosen.data.is_dir():
        parser.error(f"--data {chosen.data}: no such directory")
    options = Options(chosen.size, chosen.data)
    rows = run(options)
    show(name, rows, options)
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps([row.document() for row in rows], indent=1) + "\n", encoding="utf-8")


def show(name: str, rows: Sequence[Row], options: Options) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Piped into a file a table keeps its width instead of being folded to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 140)
    took_s = time.monotonic() - options.started_s
    table = Table(title=f"{name} ({options.size}, {took_s:.0f} s)", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("case", "metric", "unit"):
        table.add_column(column)
    for column in ("ours", "theirs", "ratio"):
        table.add_column(column, justify="right")
    table.add_column("peer")
    table.add_column("seeds", justify="right")
    for row in rows:
        numbers = [_number(value) for value in (row.ours, row.theirs, row.ratio)]
        table.add_row(row.case, row.metric, row.unit, *numbers, row.peer, str(row.seeds))
    console.print(table)
    for what in options.left_out:
        console.print(f"left out: {what}", markup=False, highlight=False)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
