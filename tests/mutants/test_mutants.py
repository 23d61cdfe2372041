"""Each defence of the secure sum is really tested: without it, in a copy of the tree, the test that names it fails.

A patch beside this file takes one defence away. Its first lines, before the unified diff, say what it is:

    # test: the test that must fail
    # works: a test that must still pass, so that the copy is known to run (default: an honest round through all stages)

Hunks are found by their text, which must occur once, and not by line number.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATCHES = sorted(HERE.glob("*.patch"))
COPIED = ("shared_models", "privacy", "edge_client", "aggregator", "tests", "pyproject.toml")
HONEST_ROUND = "tests/privacy/test_gate_secure_sum.py::test_the_sum_of_all_updates_comes_out_and_nothing_else"


def named(patch: Path, field: str, default: str | None = None) -> str:
    """A field of the patch's head."""
    for line in patch.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"# {field}: "):
            return line.removeprefix(f"# {field}: ").strip()
        if not line.startswith("#"):
            break
    assert default is not None, f"{patch.name} does not name its {field}"
    return default


def hunks(patch: Path) -> list[tuple[str, str, str]]:
    """(file, old text, new text) of every hunk of a unified diff."""
    file, found = "", []
    for line in patch.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("+++ b/"):
            file = line.removeprefix("+++ b/").strip()
        elif line.startswith("@@"):
            found.append((file, [], []))
        elif found and not line.startswith("--- "):
            if line[0] in " -":
                found[-1][1].append(line[1:])
            if line[0] in " +":
                found[-1][2].append(line[1:])
    return [(file, "".join(old), "".join(new)) for file, old, new in found]


def apply(patch: Path, tree: Path) -> None:
    """Change `tree`; every file that results is still Python."""
    for file, old, new in hunks(patch):
        path = tree / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{patch.name}: a hunk for {file} is found {text.count(old)} times"
        changed = text.replace(old, new)
        compile(changed, file, "exec")
        path.write_text(changed, encoding="utf-8")


def run(tree: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Exactly these tests, by the code in `tree`."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-q", "--tb=line", "-p", "no:cacheprovider", *tests],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A copy of all that the tests need, gone afterwards. File times are kept, so that compiled files stay good."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy / name)
    yield copy
    shutil.rmtree(copy)


def test_every_patch_still_fits_and_names_a_test() -> None:
    assert len(PATCHES) > 30
    for patch in PATCHES:
        for test in (named(patch, "test"), named(patch, "works", HONEST_ROUND)):
            file, name = test.split("[")[0].split("::")
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{patch.name} names no test: {test}"
        assert hunks(patch), patch.name
        for file, old, new in hunks(patch):
            assert old != new
            assert (ROOT / file).read_text(encoding="utf-8").count(old) == 1, f"{patch.name} does not fit {file}"
            assert not file.startswith("tests/")


@pytest.mark.deep
def test_without_a_patch_all_the_named_tests_pass(tree: Path) -> None:
    where = subprocess.run(
        [
            sys.executable,
            "-c",
            "import privacy.gate, shared_models.wire as w; print(privacy.gate.__file__, w.__file__)",
        ],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.count(str(tree)) == 2
    wanted = {named(patch, "test") for patch in PATCHES} | {named(patch, "works", HONEST_ROUND) for patch in PATCHES}
    done = run(tree, *sorted(wanted))
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.deep
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_without_the_defence_its_test_fails(patch: Path, tree: Path) -> None:
    apply(patch, tree)
    test, works = named(patch, "test"), named(patch, "works", HONEST_ROUND)
    done = run(tree, works, test)
    assert f"PASSED {works}" in done.stdout, (
        f"the copy does not run at all:\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
    )
    assert f"FAILED {test}" in done.stdout, f"nobody noticed {patch.stem}:\n{done.stdout[-4000:]}"
    assert done.returncode == 1
