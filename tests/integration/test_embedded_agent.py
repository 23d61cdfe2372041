"""The embedded agent against a real SuperLink, over TLS, behind the pass-through, with processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleet_devices import HonestPort, agent, fleet_config

from aggregator.control import FleetApp
from aggregator.deployment import FleetServer
from edge_client.share.agent.fleet import FleetState
from edge_client.share.agent.process import AgentProcess

REAL_AGENT = [sys.executable, "-m", "edge_client.share.agent"]


def submit(server: FleetServer, folder: Path, nodes: int, round_id: int) -> int:
    config = {"nodes": nodes, "round": round_id, "state-dir": str(folder)}
    with server.link.control() as control:
        return control.start_run(FleetApp(server="small_round:app", config=config))


def outcome(server: FleetServer, folder: Path, run_id: int, round_id: int, timeout_s: float = 100.0) -> dict[str, Any]:
    with server.link.control() as control:
        state = control.wait_for_run(run_id, timeout_s)
    assert state.completed, state
    return json.loads((folder / f"outcome-{round_id}.json").read_text())


def await_file(path: Path, timeout_s: float = 60.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < give_up_s, f"{path} did not appear"
        time.sleep(0.05)


def round_with_one_killed_and_one_refusing(server: FleetServer, folder: Path, command: list[str] | None) -> None:
    killed: list[AgentProcess] = []
    ports = [
        HonestPort(0),
        HonestPort(1),
        HonestPort(2, before=lambda: os.kill(killed[0].pid or 0, signal.SIGKILL)),
        HonestPort(3, refuse=True),
    ]
    agents = [
        agent(fleet_config(server), port, folder, f"agent-{index}", command=command) for index, port in enumerate(ports)
    ]
    killed.append(agents[2])
    try:
        for one in agents:
            one.start()
        for one in agents:
            one.wait_for(FleetState.READY, timeout_s=150)
        result = outcome(server, folder, submit(server, folder, 4, 1), 1)
        assert (result["invited"], result["survivors"]) == (4, 2)
        (refused, lost) = sorted(result["errors"])
        assert refused == [2, "refused"], "a refusal says nothing of its reason"
        assert lost[0] == 5, "Flower: node unavailable"
        assert np.array_equal(np.array(result["sum"], np.uint32), ports[0].sealed[1] + ports[1].sealed[1])
        assert 1 not in ports[2].sealed
        assert result["seconds"] < 120, "it ended with two heartbeat intervals of 10 s, not with its deadline of 300 s"
        assert [one.answered for one in agents] == [1, 1, 0, 0]
        assert [agents[index].state for index in (0, 1, 3)] == [FleetState.READY] * 3
        if command:
            assert agents[2].wait_for(FleetState.READY, timeout_s=60), "the owner starts it again"
    finally:
        for one in agents:
            one.stop()
    assert all(one.state is FleetState.STOPPED for one in agents)
    if command:
        with server.link.control() as control:
            assert control.nodes().online == 0, "the fleet is told of a stop"
    for index, port in enumerate(ports):
        assert_no_payload((folder / f"agent-{index}.log").read_bytes(), port)


def assert_no_payload(log: bytes, port: HonestPort) -> None:
    assert b"DEBUG" in log
    assert b"BEGIN" not in log, "no key"
    for number in port.features.ravel():
        assert f"{number:.4f}".encode() not in log
        assert f"{number:.4g}".encode() not in log
    assert b"canary-reason" not in log


def test_a_round_ends_with_the_survivors_when_one_agent_is_killed(served_fleet: FleetServer, tmp_path: Path) -> None:
    round_with_one_killed_and_one_refusing(served_fleet, tmp_path, None)


@pytest.mark.deep
def test_a_round_of_real_training_ends_with_the_survivors(served_fleet: FleetServer, tmp_path: Path) -> None:
    round_with_one_killed_and_one_refusing(served_fleet, tmp_path, REAL_AGENT)


@pytest.mark.deep
def test_after_a_killed_superlink_nodes_come_back_and_a_new_run_works(
    served_fleet: FleetServer, tmp_path: Path
) -> None:
    port = HonestPort(4)
    slow = HonestPort(5, before=lambda: time.sleep(3.0))
    with (
        agent(fleet_config(served_fleet), port, tmp_path, "a") as one,
        agent(fleet_config(served_fleet), slow, tmp_path, "b") as two,
    ):
        one.wait_for(FleetState.READY, timeout_s=60)
        two.wait_for(FleetState.READY, timeout_s=60)
        lost = submit(served_fleet, tmp_path, 2, 3)
        await_file(tmp_path / "started-3")
        two.wait_for(FleetState.BUSY, timeout_s=30)
        address, first = served_fleet.address, served_fleet.link.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        give_up_s = time.monotonic() + 60
        while served_fleet.link.pid in (None, first) or not served_fleet.link.healthy():
            assert time.monotonic() < give_up_s
            time.sleep(0.2)
        assert served_fleet.address == address
        with served_fleet.link.control() as control:
            state = control.wait_for_run(lost, 90)
            assert state.finished
            assert not state.completed, (
                "Flower never resumes a run: the aggregator submits a new one from its checkpoint"
            )
        one.wait_for(FleetState.READY, timeout_s=60)
        two.wait_for(FleetState.READY, timeout_s=60)
        result = outcome(served_fleet, tmp_path, submit(served_fleet, tmp_path, 2, 4), 4)
        assert result["survivors"] == 2
        assert np.array_equal(np.array(result["sum"], np.uint32), port.sealed[4] + slow.sealed[4])


def server_app_pids(server: FleetServer) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command, parent = path.read_bytes(), (path.parent / "environ").read_bytes()
        except OSError:
            continue
        if b"flwr-serverapp" in command and str(server.link.folder).encode() in parent:
            found.append(int(path.parent.name))
    return found


@pytest.mark.deep
def test_after_a_killed_server_app_a_new_run_works(served_fleet: FleetServer, tmp_path: Path) -> None:
    port = HonestPort(6, before=lambda: time.sleep(2.0))
    with agent(fleet_config(served_fleet), port, tmp_path, "c") as one:
        one.wait_for(FleetState.READY, timeout_s=60)
        lost = submit(served_fleet, tmp_path, 1, 5)
        await_file(tmp_path / "started-5")
        pids = server_app_pids(served_fleet)
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        one.wait_for(FleetState.READY, timeout_s=60)
        result = outcome(served_fleet, tmp_path, submit(served_fleet, tmp_path, 1, 6), 6)
        assert result["survivors"] == 1
        with served_fleet.link.control() as control:
            assert not control.run(lost).completed
