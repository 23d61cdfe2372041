"""The README is true: its commands work as they stand, its links lead somewhere, and it names every command there is.

A block of shell or Python is preceded by a comment that readers do not see:

    <!-- run: quick -->                        run by `make test`, in order, in one folder
    <!-- run: deep -->                         run by `make test-deep`, after the quick ones, in the same way
    <!-- run: deep, until "TEXT" three times -->  the same, in the background, as in a terminal of its own, until TEXT was printed
    <!-- run: demo -->                         run by `make test-deep`, alone
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import pytest

from edge_client.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
NOT_RUN = {"make demo": "installs an environment", "make test": "would run this very test, and without end"}
README_PORT = "8443"
ENOUGH_S = 240.0

_MARK = re.compile(r'<!-- run: (?P<how>quick|deep|demo)(?:, until "(?P<until>[^"]+)"(?P<often> three times)?)? -->\n?')
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block of the README."""

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


def blocks() -> list[Block]:
    found = []
    lines = README.read_text(encoding="utf-8").splitlines(keepends=True)
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
                line=opened,
                language=lines[opened - 1].strip("`\n"),
                text="".join(lines[opened : number - 1]),
                how=mark["how"] if mark else "",
                until=(mark["until"] or "") if mark else "",
                times=3 if mark and mark["often"] else 1,
            )
        )
        opened = None
    assert opened is None, f"README.md:{opened}: this block is never closed"
    return found


class Terminals:
    """A folder in which a reader works, with as many terminals as it takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""
        self._background: list[tuple[Block, subprocess.Popen[bytes]]] = []
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = str(free.getsockname()[1])
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TACIT_PASSPHRASE": "correct horse battery staple",
            "XDG_DATA_HOME": str(folder / "data"),
            "PYTHONUNBUFFERED": "1",
        }

    def __enter__(self) -> Terminals:
        return self

    def __exit__(self, *_: object) -> None:
        for _block, process in reversed(self._background):
            self._end(process)

    def run(self, block: Block, timeout_s: float = ENOUGH_S) -> None:
        """Run one block to its end, or until it has said what it is waited for."""
        output = self.folder / f"README-{block.line}.out"
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
                    pytest.fail(f"README.md:{block.line} is not done after {timeout_s:.0f} s:\n{_read(output)}")
                assert code == 0, f"README.md:{block.line} ended with {code}:\n{_read(output)}"
        self.said += _read(output)

    def _start(self, block: Block, sink: IO[bytes]) -> subprocess.Popen[bytes]:
        # Only the port differs from what the reader sees: the README's may be taken on this machine.
        command = [part.replace(README_PORT, self._port) for part in block.command()]
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
            assert process.poll() is None, f"README.md:{block.line} ended too early:\n{_read(output)}"
            assert time.monotonic() < give_up_s, f"README.md:{block.line} never said {block.until!r}:\n{_read(output)}"
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


def test_the_quick_commands_work(tmp_path: Path) -> None:
    with Terminals(tmp_path) as terminals:
        for block in blocks():
            if block.how == "quick":
                terminals.run(block)
    for said in (
        "nothing to mend",
        "I will check the delivery. Which order do you mean?",
        "did you mean track_order",
        "gift_wrap",
        "return_item: kept on this device as an example",
        "Nothing has left this device.",
        "Everything about you on this device is erased.",
        "Signed by the officer's key",
        "entries hold: chain, signatures, arithmetic. Policy by the trusted officer's key",
        "policy.halt.json",
    ):
        assert said in terminals.said, f"{said!r} is missing from:\n{terminals.said}"
    assert (tmp_path / "report.html").stat().st_size > 1000


@pytest.mark.deep
def test_a_real_round_in_three_terminals(tmp_path: Path) -> None:
    with Terminals(tmp_path) as terminals:
        for block in blocks():
            if block.how in ("quick", "deep"):
                terminals.run(block)
    for said in (
        "3 devices enrolled",
        "round 1: released over 3 devices",
        "Devices: 3 online of 3 enrolled.",
        "release 1 published",
        "what was reserved stays spent",
        "done: 4 rounds in all",
        "release 2 published",
        "release 1 published again as 3",
        "Assistant for shop: 3 intents, model 3, fresh.",
        "HALTED by the privacy officer: no rounds.",
    ):
        assert said in terminals.said, f"{said!r} is missing from:\n{terminals.said}"


@pytest.mark.deep
def test_the_demo_reduced(tmp_path: Path) -> None:
    (block,) = (block for block in blocks() if block.how == "demo")
    with Terminals(tmp_path) as terminals:
        terminals.run(block, timeout_s=800.0)
    for said in ("bundle verified", "receipts", "erased", "Try next"):
        assert said in terminals.said
    assert (tmp_path / "small-demo" / "ledger.jsonl").stat().st_size > 0


def test_every_block_of_commands_is_run_or_an_exception_with_a_reason() -> None:
    unmarked = [block for block in blocks() if block.language in ("sh", "python") and not block.how]
    commands = [line.partition("#")[0].strip() for block in unmarked for line in block.text.splitlines()]
    assert sorted(commands) == sorted(NOT_RUN)
    languages = {block.language for block in blocks()}
    assert languages <= {"sh", "python", "text"}, "an unknown kind of block would never be run"
    marks = len(re.findall("<!-- run:", README.read_text(encoding="utf-8")))
    assert marks == sum(bool(block.how) for block in blocks()), "a mark does not stand directly before its block"


@pytest.mark.parametrize("tool", ["tacit-fleet", "tacit-privacy", "tacit-device"])
def test_every_command_is_in_the_readme(tool: str) -> None:
    done = subprocess.run([Path(sys.executable).parent / tool, "--help"], capture_output=True, text=True, check=True)
    names = re.findall(r"^ {4}([a-z]+)(?: |$)", done.stdout, re.MULTILINE)
    assert len(names) >= 4, done.stdout
    if tool == "tacit-device":
        assert set(names) == {command.name for command in COMMANDS}
    text = README.read_text(encoding="utf-8")
    assert [name for name in names if f"{tool} {name}" not in text] == []


def test_links_lead_to_files_and_headings_that_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in _LINK.findall(text):
            if target.startswith(("http://", "https://")):
                continue
            name, _, anchor = target.partition("#")
            linked = page if not name else page.parent / name
            assert linked.exists(), f"{page.name}: {target} leads nowhere"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{page.name}: {target}: there is no such heading"


def test_pictures_are_whole_and_load_nothing() -> None:
    pictures = sorted((ROOT / "docs").glob("*.svg"))
    assert pictures
    for picture in pictures:
        text = picture.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert not re.search(r"href=|url\((?!#)|@import|<script|<image", text), f"{picture.name} loads something"


_HOSTS = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs\.org|crates\.io|deb\.debian\.org|"
    r"proxy\.golang\.org|conda\.anaconda\.org)"
)
_MACHINE_PATHS = re.compile(r"/work/(?:main|shared|\.library)\b|/tmp/[w]/|/ro{2}t/|/home/\w+/|/Users/\w+/")


def test_no_file_names_a_registry_or_a_path_of_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = sorted({name for name in listed.stdout.decode().split("\0") if name})
    assert len(names) > 100
    for name in names:
        path = ROOT / name
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (_HOSTS, _MACHINE_PATHS):
            found = pattern.search(text)
            assert found is None, f"{name}:{text.count(chr(10), 0, found.start()) + 1}: {found.group()}"
