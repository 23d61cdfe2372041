"""The life of a fleet node against servers that misbehave: it stays a state, and it never runs anything but its handler."""

from __future__ import annotations

import ast
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from hostile_server import Answer, answering
from scripted_superlink import ScriptedSuperLink, StartNode, echo, node_starter

from aggregator.certificates import FleetCertificates, create_fleet_ca
from edge_client.share.agent import exchange, fleet_client, node
from edge_client.share.agent.fleet import FleetConfig, FleetState, new_node_key
from edge_client.share.agent.node import FleetNode
from shared_models.errors import ConfigError, FleetError, FleetRefusedError


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> FleetCertificates:
    return create_fleet_ca(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartNode]:
    monkeypatch.setattr(exchange, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(exchange, "OBJECT_LIMIT_S", 0.5)
    with node_starter(create_fleet_ca(tmp_path_factory.mktemp("certificates"))) as starter:
        yield starter


def test_a_message_is_answered_and_the_end_is_told(start: StartNode) -> None:
    server = ScriptedSuperLink()
    message_id = server.send()
    running = start(server)
    running.await_replies(1)
    assert server.replies[0].metadata.reply_to_message_id == message_id
    assert not server.replies[0].HasField("error")
    running.node.stop()
    assert running.node.state is FleetState.STOPPED
    assert server.calls[-1] == "deactivate-node"
    shown = [state for state, _ in running.states]
    assert shown[0] in (FleetState.READY, FleetState.BUSY)
    assert shown[-1] is FleetState.STOPPED
    assert FleetState.BUSY in shown
    assert "get-fab" not in server.calls
    assert "get-run" not in server.calls


def test_after_a_message_it_looks_again_soon_and_then_ever_less_often(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "SOON_S", 0.1)
    server = ScriptedSuperLink()
    server.send()
    running = start(server, poll_interval_s=60.0, contribution_grid_s=0.0)
    running.await_replies(1)
    server.send()
    running.await_replies(2)
    pulled = server.calls.count("pull-messages")
    time.sleep(1.0)
    # 0.1 + 0.2 + 0.4 + 0.8 s, and then 60 s.
    assert server.calls.count("pull-messages") - pulled in range(1, 6)


def test_a_refused_key_ends_in_a_state_and_is_not_retried(start: StartNode) -> None:
    server = ScriptedSuperLink(overrides={"activate-node": lambda: Answer(401)})
    running = start(server)
    running.await_(lambda: running.node.state is FleetState.REFUSED)
    assert isinstance(running.node.error, FleetRefusedError)
    time.sleep(0.3)
    assert server.calls.count("activate-node") == 1


def test_a_key_that_is_taken_away_later_ends_the_same_way(start: StartNode) -> None:
    running = start()
    running.await_(lambda: running.node.state is FleetState.READY)
    running.server.overrides["pull-messages"] = lambda: Answer(401)
    running.await_(lambda: running.node.state is FleetState.REFUSED)


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 65536


def dripping() -> Iterator[bytes]:
    for _ in range(200):
        time.sleep(0.1)
        yield b"x"


@pytest.mark.parametrize(
    "answer",
    [
        lambda: Answer(500),
        lambda: Answer(503, b"<html>"),
        lambda: Answer(404),
        lambda: Answer(200, b"\xff\xfe garbage"),
        lambda: Answer(200, b"", {"content-length": "100"}),
        lambda: Answer(200, b"not gzip", {"content-encoding": "gzip"}),
        lambda: Answer(302, b"", {"location": "http://127.0.0.1:9/"}),
        lambda: Answer(307, b"", {"location": "/v1/fleet/activate-node"}),
        lambda: Answer(200, chunks=endless()),
        lambda: Answer(200, chunks=dripping()),
        lambda: Answer(200, b"", {"content-length": "-5"}),
    ],
)
def test_whatever_the_server_answers_the_node_retries_and_recovers(
    start: StartNode, answer: Callable[[], Answer]
) -> None:
    server = ScriptedSuperLink(overrides={"activate-node": answer})
    running = start(server, request_timeout_s=0.6)
    running.await_(lambda: running.node.error is not None)
    assert running.node.state is FleetState.CONNECTING
    assert type(running.node.error).__mro__[-4:] == FleetError.__mro__[-4:]
    del server.overrides["activate-node"]
    running.await_(lambda: running.node.state is FleetState.READY)
    assert running.node.error is None
    server.overrides["pull-messages"] = answer
    running.await_(lambda: running.node.state is FleetState.CONNECTING)
    del server.overrides["pull-messages"]
    running.await_(lambda: running.node.state is FleetState.READY)


def test_a_server_that_is_not_there_is_waited_for(certificates: FleetCertificates) -> None:
    config = FleetConfig("127.0.0.1:1", certificates.authority.read_bytes(), new_node_key()[0])
    lonely = FleetNode(config, echo)
    lonely.start()
    give_up_s = time.monotonic() + 5.0
    while lonely.error is None and time.monotonic() < give_up_s:
        time.sleep(0.02)
    assert "cannot be reached" in str(lonely.error)
    started_s = time.monotonic()
    lonely.stop()
    assert time.monotonic() - started_s < 3.0
    assert lonely.state is FleetState.STOPPED


def test_another_authority_is_not_trusted(certificates: FleetCertificates, tmp_path: Path) -> None:
    server = ScriptedSuperLink()
    other = create_fleet_ca(tmp_path)
    with answering(certificates, server) as address:
        stranger = FleetNode(FleetConfig(address, other.authority.read_bytes(), new_node_key()[0]), echo)
        stranger.start()
        give_up_s = time.monotonic() + 5.0
        while stranger.error is None and time.monotonic() < give_up_s:
            time.sleep(0.02)
        stranger.stop()
    assert not server.calls
    assert isinstance(stranger.error, FleetError | None)


def test_a_name_that_the_certificate_does_not_have_is_not_trusted(
    tmp_path: Path, certificates: FleetCertificates
) -> None:
    server = ScriptedSuperLink()
    with answering(certificates, server) as address:
        port = address.rpartition(":")[2]
        config = FleetConfig(f"127.0.0.2:{port}", certificates.authority.read_bytes(), new_node_key()[0])
        stranger = FleetNode(config, echo)
        stranger.start()
        time.sleep(0.5)
        stranger.stop()
    assert not server.calls


def test_the_heart_beats_during_a_long_answer(start: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FleetNode, "_next_beat_s", lambda self: 0.05)
    release = threading.Event()

    def slow(message: Message, context: Context) -> Message:
        release.wait(10.0)
        return echo(message, context)

    server = ScriptedSuperLink()
    server.send()
    running = start(server, slow)
    running.await_(lambda: running.node.state is FleetState.BUSY)
    before = server.calls.count("send-node-heartbeat")
    running.await_(lambda: server.calls.count("send-node-heartbeat") > before + 3)
    assert running.node.state is FleetState.BUSY
    release.set()
    running.await_replies(1)


def test_a_node_that_the_server_no_longer_knows_activates_again(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FleetNode, "_next_beat_s", lambda self: 0.05)
    unknown = Answer(body=SendNodeHeartbeatResponse(success=False).SerializeToString())
    running = start(ScriptedSuperLink(overrides={"send-node-heartbeat": lambda: unknown}))
    running.await_(lambda: running.server.calls.count("activate-node") >= 2)


def test_stop_returns_while_the_handler_still_works(start: StartNode) -> None:
    release = threading.Event()

    def stuck(message: Message, context: Context) -> Message:
        release.wait(20.0)
        return echo(message, context)

    server = ScriptedSuperLink()
    server.send()
    running = start(server, stuck)
    running.await_(lambda: running.node.state is FleetState.BUSY)
    started_s = time.monotonic()
    running.node.stop(grace_s=0.5)
    assert time.monotonic() - started_s < 2.0
    assert running.node.state is FleetState.STOPPED
    running.await_(lambda: "deactivate-node" in server.calls)
    release.set()


def test_after_a_crash_it_keeps_trying_until_it_counts_as_offline(
    start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FleetNode, "_until_offline_s", lambda self: 0.1)
    running = start(ScriptedSuperLink(overrides={"activate-node": lambda: Answer(412)}))
    running.await_(lambda: running.server.calls.count("activate-node") >= 3)
    assert running.node.state is FleetState.CONNECTING
    assert len(running.states) == 1, "quietly: one change of state"
    del running.server.overrides["activate-node"]
    running.await_(lambda: running.node.state is FleetState.READY)


def test_it_waits_long_enough_for_a_round_to_see_that_it_was_gone(certificates: FleetCertificates) -> None:
    config = FleetConfig(
        "localhost:1", certificates.authority.read_bytes(), new_node_key()[0], heartbeat_interval_s=10.0
    )
    assert FleetNode(config, echo)._until_offline_s() > 20.0 + 3.0, (
        "Flower: offline after two intervals, polls every 3 s"
    )


@pytest.mark.parametrize(
    "options",
    [
        {"address": "host"},
        {"address": "host:0"},
        {"address": "host:99999"},
        {"address": "user@host:1"},
        {"address": "host/path:1"},
        {"address": ":1"},
        {"ca_pem": b""},
        {"node_key_pem": b"x"},
        {"heartbeat_interval_s": 9.9},
        {"heartbeat_interval_s": float("nan")},
        {"poll_interval_s": 0.0},
        {"max_object_bytes": -1},
    ],
)
def test_a_configuration_that_cannot_work_is_one_typed_error(
    certificates: FleetCertificates, options: dict[str, Any]
) -> None:
    good = {"address": "host:1", "ca_pem": certificates.authority.read_bytes(), "node_key_pem": new_node_key()[0]}
    FleetConfig(**good)
    with pytest.raises(ConfigError):
        FleetConfig(**{**good, **options})


def test_damaged_keys_and_certificates_are_typed_errors(certificates: FleetCertificates) -> None:
    ca_pem, key_pem = certificates.authority.read_bytes(), new_node_key()[0]
    for config in (
        FleetConfig("host:1", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", key_pem),
        FleetConfig("host:1", ca_pem, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        FleetConfig("host:1", ca_pem, certificates.key.read_bytes()),
    ):
        with pytest.raises(ConfigError, match="enrol"):
            FleetNode(config, echo)
    assert key_pem.decode() not in repr(FleetConfig("host:1", ca_pem, key_pem))


FORBIDDEN = {
    *("flwr_exit", "http_request_response", "GetFab", "GetRun", "get_fab", "get_run", "install_from_fab", "load_app"),
    *("exec", "eval", "compile", "__import__", "importlib", "import_module", "runpy", "pickle", "loads"),
    *("os", "sys", "signal", "subprocess", "_exit", "kill", "raise_signal", "exit", "abort", "atexit"),
}


@pytest.mark.parametrize("module", [node, exchange, fleet_client])
def test_the_node_can_neither_fetch_code_nor_end_its_process(module: Any) -> None:
    tree = ast.parse(inspect.getsource(module))
    used = {name.id for name in ast.walk(tree) if isinstance(name, ast.Name)}
    used |= {name.attr for name in ast.walk(tree) if isinstance(name, ast.Attribute)}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            used |= {part for alias in statement.names for part in alias.name.split(".")}
            used |= set((getattr(statement, "module", None) or "").split("."))
    assert not used & FORBIDDEN
