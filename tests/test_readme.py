"""The README is true: its commands work as they stand, its links lead somewhere, and it names every command there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from run_blocks import Block, Terminals, blocks_of

from edge_client.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
NOT_RUN = {"make demo": "installs an environment", "make test": "would run this very test, and without end"}
README_PORT = "8443"

_LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks() -> list[Block]:
    return blocks_of(README)


def test_the_quick_commands_work(tmp_path: Path) -> None:
    with Terminals(tmp_path, README_PORT) as terminals:
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
    with Terminals(tmp_path, README_PORT) as terminals:
        for block in blocks():
            if block.how in ("quick", "deep"):
                terminals.run(block)
    for said in (
        "3 devices enrolled",
        "round 1: released over 3 devices",
        "Devices: 3 online of 3 enrolled.",
        "release 1 published",
        "what was reserved stays spent",
        "done: 3 rounds in all",
        "release 2 published",
        "release 1 published again as 3",
        "Assistant for shop: 3 intents, model 3, fresh.",
        "HALTED by the privacy officer: no rounds.",
    ):
        assert said in terminals.said, f"{said!r} is missing from:\n{terminals.said}"


@pytest.mark.deep
def test_the_demo_reduced(tmp_path: Path) -> None:
    (block,) = (block for block in blocks() if block.how == "demo")
    with Terminals(tmp_path, README_PORT) as terminals:
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
