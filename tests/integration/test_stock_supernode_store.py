"""A stock `flower-supernode` whose app opens a real device's store answers a round beside embedded agents."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deployed import Deployed, agents_ready

from aggregator.certificates import create_node_key
from aggregator.ports import free_port
from aggregator.superlink import flower_environment

pytestmark = pytest.mark.timeout(900)


@contextmanager
def stock_supernode(deployed: Deployed, device: str) -> Iterator[Path]:
    """On the home of `device`, which must be enrolled with `stock.key`; yields its log."""
    folder = deployed.folder
    config = f'home="{folder / f"device-{device}"}" key-file="{folder / f"{device}.key"}" bundle="{deployed.fleet / "bundle"}"'
    command = [
        str(Path(sys.executable).parent / "flower-supernode"),
        *("--superlink", f"127.0.0.1:{deployed.port}", "--root-certificates", str(deployed.fleet / "ca.pem")),
        *("--auth-supernode-private-key", str(folder / "stock.key"), "--node-config", config),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]
    log = folder / "supernode.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env=flower_environment(folder / "flwr"), stdout=sink, stderr=subprocess.STDOUT, cwd=folder
        )
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.deep
def test_a_stock_supernode_on_a_real_store_answers_beside_embedded_agents(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path)
    # A stock node answers each message in a new process, so it cannot hold the keys of a secure sum's round.
    deployed.set_up(min_survivors=3, trusted=True)
    deployed.enrol(("anna", "bert", "cleo"))
    (tmp_path / "stock.pem").write_bytes(create_node_key(tmp_path / "stock.key"))
    deployed.run("tacit-fleet", "enrol", "fleet", "stock.pem")
    with deployed.serve() as serve:
        serve.await_text("^serving")
        with agents_ready(deployed, ("anna", "bert")), stock_supernode(deployed, "cleo") as log:
            said = deployed.run("tacit-fleet", "run", "fleet", timeout_s=240.0)
            assert "round 1: released over 3 devices" in said, log.read_text()[-3000:]
    (released,) = [entry["body"] for entry in deployed.ledger() if entry["kind"] == "release"]
    for name in ("anna", "bert", "cleo"):
        (receipt,) = json.loads(deployed.device(name, "shared", "--json"))["receipts"]
        assert receipt["body"]["plan_hash"] == released["plan_hash"]  # type: ignore[index]
        assert receipt["body"]["note"] == "", "it trained, and gave no zeros"
