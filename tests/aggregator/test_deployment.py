"""Serving a fleet: what starts, what ends with it, and what is said when it cannot."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aggregator.certificates import FleetCertificates, create_fleet_ca
from aggregator.control import FleetApp, control_of
from aggregator.deployment import FleetServer, serve_fleet
from aggregator.superlink import SuperLink
from edge_client.share.agent.fleet import new_node_key
from shared_models.errors import ConfigError, FleetError, RoundError

ROOT = Path(__file__).parents[2]
SERVE = "import sys, pathlib; from aggregator.deployment import serve_fleet; "
SERVE += "serve_fleet(pathlib.Path(sys.argv[1]), port=0, on_ready=lambda address: print(address, flush=True))"


def processes_of(directory: Path) -> set[int]:
    """All of Flower's processes for this fleet: they carry its folder in their environment."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"FLWR_HOME={directory}/superlink/flwr".encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.deep
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_server(tmp_path: Path, how: signal.Signals) -> None:
    create_fleet_ca(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    command = [sys.executable, "-c", SERVE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        assert server.stdout.readline().startswith(b"127.0.0.1:"), server.stderr.read()
        with control_of(tmp_path) as control:
            config = {"nodes": 1_000_000, "round": 1, "state-dir": str(tmp_path)}
            run_id = control.start_run(FleetApp(server="small_round:app", config=config))
            while control.run(run_id).status != "running":
                time.sleep(0.1)
        assert len(processes_of(tmp_path)) >= 3, "SuperLink, SuperExec, ServerApp"
        server.send_signal(how)
        status = server.wait(20.0)
        give_up_s = time.monotonic() + 10.0
        while processes_of(tmp_path):
            assert time.monotonic() < give_up_s, processes_of(tmp_path)
            time.sleep(0.1)
        if how is not signal.SIGKILL:
            assert status == 0, server.stderr.read()
            assert not (tmp_path / "superlink" / "process.json").exists()
    link = SuperLink(tmp_path)
    link.start()
    try:
        with link.control() as control:
            assert control.nodes().enrolled == 0
            assert not control.run(run_id).completed
    finally:
        link.stop()


def test_a_fleet_is_served_once(served_fleet: FleetServer) -> None:
    directory = served_fleet.link.folder.parent
    with pytest.raises(FleetError, match="served by another"):
        FleetServer(directory, port=0).start()
    assert served_fleet.link.healthy()
    with control_of(directory) as control:
        assert control.nodes().enrolled >= 0


def test_an_address_that_is_taken_is_said_so_and_leaves_nothing(tmp_path: Path) -> None:
    create_fleet_ca(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(FleetError, match="is another program there"):
            serve_fleet(tmp_path, port=taken.getsockname()[1])
    assert not processes_of(tmp_path)


def test_a_fleet_without_certificates_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tacit-fleet init"):
        serve_fleet(tmp_path, port=0)
    with pytest.raises(FleetError, match="tacit-fleet serve"):
        control_of(tmp_path)
    with pytest.raises(ConfigError, match="not a host name"):
        create_fleet_ca(tmp_path, ["ünïcode"])
    assert list(tmp_path.iterdir()) == []


def test_a_superlink_that_cannot_start_says_why(tmp_path: Path) -> None:
    certificates = create_fleet_ca(tmp_path)
    certificates.key.write_text("damaged")
    link = SuperLink(tmp_path)
    with pytest.raises(FleetError, match="ended with status"):
        link.start()
    assert not link.alive
    assert not processes_of(tmp_path)


def test_nodes_are_enrolled_counted_and_removed(served_fleet: FleetServer) -> None:
    _, public = new_node_key()
    with served_fleet.link.control() as control:
        before = control.nodes().enrolled
        node_id = control.register_node(public)
        assert control.nodes().enrolled == before + 1
        assert control.node_id(public) == node_id
        with pytest.raises(FleetError, match="already in use"):
            control.register_node(public)
        control.unregister_node(node_id)
        assert control.nodes().enrolled == before
        assert control.node_id(public) is None
        with pytest.raises(FleetError):
            control.unregister_node(node_id)
        other_curve = ec.generate_private_key(ec.SECP256R1()).public_key()
        pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        for bad in (b"", b"text", other_curve.public_bytes(pem, form), new_node_key()[0]):
            with pytest.raises(ConfigError):
                control.register_node(bad)


def test_a_run_that_fails_says_why_and_unknown_runs_are_errors(served_fleet: FleetServer) -> None:
    with served_fleet.link.control() as control:
        run_id = control.start_run(FleetApp(server="no_such_module:app"))
        state = control.wait_for_run(run_id, 60)
        assert not state.completed
        assert "no_such_module" in state.details
        assert any("no_such_module" in part for part in control.logs(run_id))
        assert control.runs()[0] == state
        with pytest.raises(RoundError, match="no run"):
            control.run(12345)
        with pytest.raises(FleetError):
            control.stop_run(12345)


def test_certificates_are_made_once(tmp_path: Path) -> None:
    made = create_fleet_ca(tmp_path, ["fleet.example", "10.1.2.3"])
    assert made == FleetCertificates.of(tmp_path)
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0
    assert made.key.stat().st_mode & 0o077 == 0
    before = made.authority.read_bytes()
    with pytest.raises(ValueError, match="never overwritten"):
        create_fleet_ca(tmp_path)
    assert made.authority.read_bytes() == before
