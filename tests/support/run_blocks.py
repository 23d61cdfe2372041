"""Pages whose commands are run as they stand: their blocks, and a folder with the terminals in which a reader would type them.

A block of shell or Python is preceded by a comment that readers do not see:

    <!-- run: quick -->                        run by `make test`, in order, in one folder
    <!-- run: quick, until "TEXT" -->          the same, in the background, as in a terminal of its own, until TEXT was printed
    <!-- run: deep -->                         run by `make test-deep`, after the quick ones, in the same way
    <!-- run: deep, until "TEXT" three times -->  the same, until TEXT was printed three times
    <!-- run: demo -->                         run by `make test-deep`, alone
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from aggregator.ports import free_port

ROOT = Path(__file__).parents[2]
ENOUGH_S = 240.0

_MARK = re.compile(r'<!-- run: (?P<how>quick|deep|demo)(?:, until "(?P<until>[^"]+)"(?P<often> three times)?)? -->\n?')


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    """Name of its file."""
    line: int
    language: str
    text: str
    how: str
    """`quick`, `deep`, `demo`, or empty where no mark stands before it."""
    until: str
    times: int

    def command(self) -> list[str]:
        return (
            [sys.executable, "-c", self.text]
            if self.language == "python"
            else ["bash", "-euo", "pipefail", "-c", self.text]
        )

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found = []
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    opened = None
    for number, line in enumerate(lines, start=1):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        mark = _MARK.fullmatch(lines[opened - 2])
        found.append(
            Block(
                page=page.name,
                line=opened,
                language=lines[opened - 1].strip("`\n"),
                text="".join(lines[opened : number - 1]),
                how=mark["how"] if mark else "",
                until=(mark["until"] or "") if mark else "",
                times=3 if mark and mark["often"] else 1,
            )
        )
        opened = None
    assert opened is None, f"{page.name}:{opened}: this block is never closed"
    return found


class Terminals:
    """A folder in which a reader works, with as many terminals as it takes."""

    def __init__(self, folder: Path, port: str, environment: Mapping[str, str] | None = None) -> None:
        """`port`: the one that the page names; `environment`: what differs from that of the README's reader."""
        self.folder = folder
        self.said = ""
        self._background: list[tuple[Block, subprocess.Popen[bytes]]] = []
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        self._ports = (port, str(free_port()))
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TACIT_PASSPHRASE": "correct horse battery staple",
            "XDG_DATA_HOME": str(folder / "data"),
            "PYTHONUNBUFFERED": "1",
            # This tree, whatever the environment's own commands were installed from.
            "PYTHONPATH": str(ROOT),
            **(environment or {}),
        }

    def __enter__(self) -> Terminals:
        return self

    def __exit__(self, *_: object) -> None:
        for _block, process in reversed(self._background):
            self._end(process)

    def run(self, block: Block, timeout_s: float = ENOUGH_S) -> None:
        """Run one block to its end, or until it has said what it is waited for."""
        output = self.folder / f"{block.page}-{block.line}.out"
        with output.open("wb") as sink:
            process = self._start(block, sink)
            if block.until:
                self._background.append((block, process))
                self._wait_for(block, process, output, time.monotonic() + timeout_s)
            else:
                try:
                    code = process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    self._end(process)
                    pytest.fail(f"{block.where} is not done after {timeout_s:.0f} s:\n{_read(output)}")
                assert code == 0, f"{block.where} ended with {code}:\n{_read(output)}"
        self.said += _read(output)

    def _start(self, block: Block, sink: IO[bytes]) -> subprocess.Popen[bytes]:
        # Only the port differs from what the reader sees: the page's may be taken on this machine.
        command = [part.replace(*self._ports) for part in block.command()]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _wait_for(self, block: Block, process: subprocess.Popen[bytes], output: Path, give_up_s: float) -> None:
        while _read(output).count(block.until) < block.times:
            assert process.poll() is None, f"{block.where} ended too early:\n{_read(output)}"
            assert time.monotonic() < give_up_s, f"{block.where} never said {block.until!r}:\n{_read(output)}"
            time.sleep(0.2)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, how)
                give_up_s = time.monotonic() + 20.0
                while time.monotonic() < give_up_s:
                    process.poll()
                    os.killpg(process.pid, 0)
                    time.sleep(0.1)
            except ProcessLookupError:
                return


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
