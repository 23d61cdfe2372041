"""Interoperability: a stock `flower-supernode` answers beside an embedded agent, through the same pass-through.

It runs the code that the run names and is outside the second law: see docs/decisions.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fleet_devices import HonestPort, agent, fleet_config

from aggregator.certificates import create_node_key
from aggregator.control import FleetApp
from aggregator.deployment import FleetServer
from aggregator.ports import free_port
from aggregator.superlink import flower_environment
from edge_client.share.agent.fleet import FleetState


@contextmanager
def stock_supernode(server: FleetServer, folder: Path, seed: int) -> Iterator[subprocess.Popen[bytes]]:
    with server.link.control() as control:
        control.register_node(create_node_key(folder / "stock.key"))
    command = [
        str(Path(sys.executable).parent / "flower-supernode"),
        *("--superlink", server.address, "--root-certificates", str(server.link.folder.parent / "ca.pem")),
        *("--auth-supernode-private-key", str(folder / "stock.key")),
        *("--host", "127.0.0.1", "--port", str(free_port()), "--node-config", f"seed={seed}"),
    ]
    with (folder / "supernode.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=flower_environment(folder / "flwr"), stdout=log, stderr=subprocess.STDOUT, cwd=folder
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.deep
def test_a_stock_supernode_answers_beside_an_embedded_agent(served_fleet: FleetServer, tmp_path: Path) -> None:
    port = HonestPort(11)
    with stock_supernode(served_fleet, tmp_path, 12) as stock:
        with agent(fleet_config(served_fleet), port, tmp_path, "embedded") as embedded:
            embedded.wait_for(FleetState.READY, timeout_s=60)
            config = {"nodes": 2, "round": 21, "state-dir": str(tmp_path)}
            started_s = time.monotonic()
            with served_fleet.link.control() as control:
                run_id = control.start_run(FleetApp(server="small_round:app", client="stock_client:app", config=config))
                state = control.wait_for_run(run_id, 120)
            assert state.completed, (state, (tmp_path / "supernode.log").read_text()[-2000:])
            result = json.loads((tmp_path / "outcome-21.json").read_text())
            assert (result["invited"], result["survivors"], result["errors"]) == (2, 2, [])
            theirs = np.array(result["sum"], np.uint32) - port.sealed[21]
            assert np.abs(theirs.astype(np.int32)).max() > 0
            assert np.linalg.norm(theirs.astype(np.int32)) <= (1 << 14) + 1, "clipped: Δ is 2^14"
            assert stock.poll() is None
            print(
                f"\na stock SuperNode's run took {time.monotonic() - started_s:.1f} s, its round {result['seconds']:.1f} s"
            )
