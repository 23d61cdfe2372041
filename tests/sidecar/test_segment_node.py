"""The official `@segment/analytics-node`, with nothing changed but its host. Needs Node.js 20 and npm: without them it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_client.client import EdgeClient

SOURCE = Path(__file__).parents[1] / "support" / "segment_node"
pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, installed by npm."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.fail(
                f"{program} is not on PATH: this test runs Segment's official client of Node.js; install Node.js 20"
            )
    folder = Path(shutil.copytree(SOURCE, tmp_path_factory.mktemp("node") / "client"))
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


def run(folder: Path, address: str, token: str) -> dict[str, list[object]]:
    done = subprocess.run(
        ["node", "send.js", address, token], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[object]] = json.loads(done.stdout)
    return found


def test_all_six_calls_of_the_official_client_arrive(
    node_client: Path, address: str, consenting: EdgeClient, token: str
) -> None:
    told = run(node_client, address, token)
    assert told["failures"] == []
    assert set(told["statuses"]) == {200}
    assert sorted(event.type for event in consenting.capture.events()) == [
        "alias",
        "group",
        "identify",
        "page",
        "screen",
        "track",
    ]
    viewed = consenting.capture.events(name="product_viewed")[0]
    assert viewed.properties["price"] == 12.5
    assert consenting.profile.get("plan").value == "gold"  # type: ignore[union-attr]
    kept = repr(consenting.export())
    for planted in ("078-05-1120", "a@b.c", "user-1", "company-1"):
        assert planted not in kept


def test_a_wrong_key_is_told_to_it(node_client: Path, address: str, consenting: EdgeClient) -> None:
    told = run(node_client, address, "tacit_wrong")
    assert set(told["statuses"]) == {401}
    assert told["failures"]
    assert consenting.capture.events() == []
