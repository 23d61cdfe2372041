"""docs/app-developer.md is true: from `pip install` to the end, every block is run in order, in one folder, as installed."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from run_blocks import ROOT, Terminals, blocks_of

from edge_client.know.triggers import OPERATORS
from edge_client.lifecycle import Lifecycle
from edge_client.sidecar.serving import DEFAULT_PORT
from shared_models import errors
from shared_models.attribute_values import TYPES
from shared_models.profile import KINDS, SENSITIVITIES, SOURCES

PAGE = ROOT / "docs" / "app-developer.md"
PORT = str(DEFAULT_PORT)
PACKAGES = ("edge_client", "aggregator", "shared_models", "privacy")


def checkout(folder: Path) -> None:
    """What `pip install` reads of this tree."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)


def test_every_block_works_in_order_as_installed(tmp_path: Path) -> None:
    (tmp_path / "tacit").mkdir()
    checkout(tmp_path / "tacit")
    site = tmp_path / "site"
    # What it depends on is here already; our own packages are really built, installed and used from there.
    installed = {
        "PIP_TARGET": str(site),
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONPATH": str(site),
        "PATH": os.pathsep.join([str(site / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    with Terminals(tmp_path, PORT, installed) as terminals:
        for block in blocks_of(PAGE):
            if block.how == "quick":
                terminals.run(block)
    for said in (
        "Successfully installed tacit",
        "no_consent",
        "kept ('email',)",
        "duplicate",
        "3.66 m, declared, event:identify",
        "3 1",
        "oak",
        "you told me before that this means",
        "suggestion oak armchair ['you tried 3 sofas in this hour, the last of oak']",
        "READY",
        "'properties.price'",
        "['answer']",
        '"intent":"track_order"',
        '"plan":{',
        '"orders":{',
    ):
        assert said in terminals.said, f"{said!r} is missing from:\n{terminals.said}"
    assert "ann@example.com" not in terminals.said
    assert (site / "edge_client" / "sidecar" / "centre" / "style.css").is_file()


def test_every_block_is_run() -> None:
    assert [block.where for block in blocks_of(PAGE) if not block.how] == []
    text = PAGE.read_text(encoding="utf-8")
    assert len(re.findall("<!-- run:", text)) == len(blocks_of(PAGE)) > 8


def test_what_the_page_lists_is_what_there_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    for field, known in (("kind", KINDS), ("type", TYPES), ("sensitivity", SENSITIVITIES), ("source", SOURCES)):
        assert set(re.findall(r"`(\w+)`", rows[field])) == set(known)
    assert [operator for operator in OPERATORS if f"`{operator}`" not in text] == []
    assert [state for state in Lifecycle if f"`{state}`" not in text] == []
    for name in re.findall(r"`(\w+Error)`", text):
        assert issubclass(getattr(errors, name), errors.TacitError)
