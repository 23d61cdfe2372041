"""A pull that is killed: what a page says is kept whole with the place of the next, or not at all, and nothing is kept twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from datetime import UTC, datetime
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pulling_device
import pytest
from connector_world import KEY, Asked, Said, Server

from edge_client.know.store import Store

PAGES, ON_PAGE = 8, 5


def answer(asked: Asked) -> Said:
    page = int(asked.query.get("cursor", "0"))
    at_s = time.time() - 5000
    items = [
        {
            "id": n,
            "sum": n,
            "money": "EUR",
            "count": n,
            "at": datetime.fromtimestamp(at_s + n, UTC).isoformat(),
        }
        for n in range(page * ON_PAGE, (page + 1) * ON_PAGE)
    ]
    return Said(body=json.dumps({"items": items, "next": page + 1 if page + 1 < PAGES else None}).encode())


@pytest.fixture(autouse=True)
def _search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What processes are forked from looks for `pulling_device` here."""
    support = Path(pulling_device.__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(support.parents[1]), str(support)]))


def start(folder: Path, url: str) -> ForkServerProcess:
    """Forked from a process that has loaded everything: a hundred of them take no time to start, and this one has threads."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["pulling_device"])
    process = forking.Process(target=pulling_device.pull, args=(folder, url))
    process.start()
    return process


def ended(process: ForkServerProcess) -> int:
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def pull(folder: Path, url: str, kill_after_s: float | None = None) -> int:
    process = start(folder, url)
    process.join(60 if kill_after_s is None else kill_after_s)
    process.kill()
    return ended(process)


def kept(folder: Path) -> list[float]:
    """Totals of the kept orders; that events and place say the same is checked here."""
    with Store(folder, key=KEY) as store:
        totals = sorted(record["properties"]["total"] for record in store.table("events").entries())
        place = store.table("connectors").get("shop")
        orders = store.table("profile").get("orders")
    assert len(totals) % ON_PAGE == 0, "half a page was kept"
    assert (place is None) == (totals == []) == (orders is None)
    # In the first pull; a later one that is killed has everything already, and its place is in the middle again.
    if place is not None and place["resources"]["orders"]["next"] and not place["resources"]["orders"]["since_s"]:
        assert place["resources"]["orders"]["next"].endswith(f"cursor={len(totals) // ON_PAGE}")
    if orders is not None:
        assert orders["latest"]["connector"]["value"] == totals[-1]
    return totals


def test_a_pull_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    process: list[ForkServerProcess] = []

    def kill_at_the_fourth_page(asked: Asked) -> Said:
        if asked.query.get("cursor") == "3":
            process[0].kill()
        return answer(asked)

    with Server(kill_at_the_fourth_page).running() as server:
        process.append(start(tmp_path, server.url))
        assert ended(process[0]) != 0
        assert kept(tmp_path) == list(range(3 * ON_PAGE))
        server.answer = answer
        before = len(server.asked)
        assert pull(tmp_path, server.url) == 0
        assert server.asked[before].query["cursor"] == "3"
        assert kept(tmp_path) == list(range(PAGES * ON_PAGE))


@pytest.mark.deep
def test_pulls_killed_at_random_moments_keep_every_order_once(tmp_path: Path) -> None:
    chance = random.Random(4)
    with Server(answer).running() as server:
        for turn in range(20):
            folder = tmp_path / str(turn)
            started = time.monotonic()
            assert pull(folder, server.url) == 0
            whole_s = time.monotonic() - started
            assert kept(folder) == list(range(PAGES * ON_PAGE))
            folder = tmp_path / f"{turn}-killed"
            for _ in range(3):
                pull(folder, server.url, chance.uniform(0.0, 1.0) * whole_s)
                if folder.exists() and (folder / "store.key").exists():
                    kept(folder)
            assert pull(folder, server.url) == 0
            assert kept(folder) == list(range(PAGES * ON_PAGE))
