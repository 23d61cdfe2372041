"""Ports that are chosen first and bound later: never one that another program holds or may be given for a connection."""

from __future__ import annotations

import socket

import pytest

from aggregator import ports
from shared_models.errors import FleetError


def test_a_port_is_one_that_no_outgoing_connection_is_given() -> None:
    chosen = {ports.free_port() for _ in range(50)}
    assert len(chosen) > 40, "two programs that choose at once do not meet"
    assert all(15_000 <= port < 30_000 for port in chosen)


def test_a_port_that_is_served_is_not_chosen_and_is_free_again_once_its_server_has_ended() -> None:
    port = ports.free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        assert not ports.port_is_free(port)
        with socket.create_connection(("127.0.0.1", port)):
            connection, _ = server.accept()
            connection.close()  # first, so that it lingers
    assert ports.port_is_free(port)


def test_a_machine_without_a_free_port_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "port_is_free", lambda port: False)
    with pytest.raises(FleetError, match="none of 200 ports tried"):
        ports.free_port()
