"""One message at a time: late, doubled, spoilt or too large, and handlers and links that fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Context, Error, Message
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from hostile_server import Answer
from scripted_superlink import NODE_ID, ScriptedSuperLink, StartNode, echo, node_starter

from aggregator.certificates import create_fleet_ca
from edge_client.share.agent import exchange
from edge_client.share.agent.fleet import FleetState


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartNode]:
    monkeypatch.setattr(exchange, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(exchange, "OBJECT_LIMIT_S", 0.5)
    with node_starter(create_fleet_ca(tmp_path_factory.mktemp("certificates"))) as starter:
        yield starter


def test_how_long_the_device_took_is_not_told(start: StartNode) -> None:
    requests: list[PushMessagesRequest] = []

    class Listening(ScriptedSuperLink):
        def push_messages(self, body: bytes) -> Any:
            requests.append(PushMessagesRequest.FromString(body))
            return super().push_messages(body)

    server = Listening()
    server.send()
    start(server).await_replies(1)
    assert list(requests[0].clientapp_runtime_list) == []


def test_a_message_that_comes_twice_is_handled_once(start: StartNode) -> None:
    handled: list[str] = []

    def counting(message: Message, context: Context) -> Message:
        handled.append(message.metadata.message_id)
        return echo(message, context)

    server = ScriptedSuperLink()
    server.send()
    server.outbox.append(server.outbox[0])
    running = start(server, counting)
    running.await_replies(1)
    running.await_pulls()
    assert len(handled) == 1
    assert len(server.replies) == 1


def test_a_late_message_and_one_for_another_are_ignored(start: StartNode) -> None:
    server = ScriptedSuperLink()
    server.send(created_at=time.time() - 1000.0)
    server.send(dst_node_id=NODE_ID + 1)
    server.send(src_node_id=77)
    server.send(reply_to_message_id="a" * 64)
    server.send()
    server.outbox[-1][0].metadata.message_id = "../../etc"
    good = server.send()
    running = start(server)
    running.await_replies(1)
    running.await_pulls()
    assert [reply.metadata.reply_to_message_id for reply in server.replies] == [good]


@pytest.mark.parametrize("failure", [ValueError("canary-secret"), SystemExit("canary-secret"), MemoryError()])
def test_a_failing_handler_becomes_an_error_without_text(start: StartNode, failure: BaseException) -> None:
    def failing(message: Message, context: Context) -> Message:
        raise failure

    server = ScriptedSuperLink()
    server.send()
    running = start(server, failing)
    running.await_replies(1)
    assert server.replies[0].error.reason == "client error"
    assert b"canary" not in server.replies[0].SerializeToString()
    server.send()
    running.await_replies(2)


def test_a_handler_that_answers_something_else_becomes_an_error(start: StartNode) -> None:
    server = ScriptedSuperLink()
    for _ in range(2):
        server.send()
    results = iter([None, "text"])
    running = start(server, lambda message, context: next(results))
    running.await_replies(2)
    assert all(reply.HasField("error") for reply in server.replies)


def forged_array(shape: str) -> Array:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"1234"
    return Array("float32", (1,), "numpy.ndarray", data)


def spoil(server: ScriptedSuperLink, how: str) -> None:
    _, tree = server.outbox[-1]
    some_object = tree.children[0].children[0].object_id
    if how == "other content":
        server.objects[some_object] = b"other content"
    elif how == "too large":
        server.objects[some_object] = b"x" * 40_000
    elif how == "missing":
        del server.objects[some_object]
    elif how == "never there":
        server.objects[some_object] = b""
    elif how == "too many":
        tree.children.extend(ObjectTree(object_id=f"{index:064x}") for index in range(1001))


@pytest.mark.parametrize("how", ["other content", "too large", "missing", "never there", "too many"])
def test_spoilt_content_is_answered_with_an_error_and_the_node_goes_on(start: StartNode, how: str) -> None:
    handled: list[str] = []

    def counting(message: Message, context: Context) -> Message:
        handled.append(message.metadata.message_id)
        return echo(message, context)

    server = ScriptedSuperLink()
    server.send()
    spoil(server, how)
    running = start(server, counting, max_object_bytes=20_000)
    running.await_replies(1)
    assert server.replies[0].error.reason == "client error"
    good = server.send(weights=Array(np.arange(8, dtype=np.float32)))
    running.await_replies(2)
    assert handled == [good]


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(-1,)", "(2,)", "(1000000, 1000000, 1000000)"])
def test_an_array_that_announces_more_than_it_holds_is_never_decoded(start: StartNode, shape: str) -> None:
    server = ScriptedSuperLink()
    server.send(weights=forged_array(shape))
    running = start(server, lambda message, context: pytest.fail("must not be called"))
    running.await_replies(1)
    assert server.replies[0].error.reason == "client error"


def test_an_answer_after_the_round_has_ended_costs_nothing(start: StartNode) -> None:
    server = ScriptedSuperLink(overrides={"push-messages": lambda: Answer(412, b'{"message": "run finished"}')})
    server.send()
    running = start(server)
    running.await_(lambda: "push-messages" in server.calls)
    running.await_pulls()
    assert running.node.state is FleetState.READY
    assert server.calls.count("push-messages") == 1
    assert running.replied == [False], "whoever waits for it is told that it was given up"


def test_an_answer_is_brought_back_over_a_link_that_breaks(start: StartNode) -> None:
    server = ScriptedSuperLink(overrides={"push-messages": lambda: Answer(503), "pull-object": lambda: Answer(502)})
    server.send()
    running = start(server)
    running.await_(lambda: server.calls.count("pull-object") >= 3)
    del server.overrides["pull-object"]
    running.await_(lambda: server.calls.count("push-messages") >= 3)
    assert running.replied == [], "nothing has arrived yet"
    del server.overrides["push-messages"]
    running.await_replies(1)
    running.await_(lambda: running.replied == [True])
    assert not server.replies[0].HasField("error")


def test_a_contribution_and_a_refusal_leave_at_the_same_time_whatever_they_took(start: StartNode) -> None:
    def refuse(message: Message, context: Context) -> Message:
        return Message(Error(1, "refused"), reply_to=message)

    def compute(message: Message, context: Context) -> Message:
        time.sleep(0.7)
        return echo(message, context)

    took_s = []
    for handler in (echo, refuse, compute):
        asked_s: list[float] = []

        class Asking(ScriptedSuperLink):
            def confirm_message_received(self, body: bytes, asked_s: list[float] = asked_s) -> Any:
                asked_s.append(time.monotonic())
                return super().confirm_message_received(body)

            def push_messages(self, body: bytes, asked_s: list[float] = asked_s) -> Any:
                took_s.append(time.monotonic() - asked_s[0])
                return super().push_messages(body)

        server = Asking()
        server.send()
        start(server, handler, contribution_grid_s=1.5, send_grid_s=0.0).await_replies(1)
    assert all(value >= 1.5 for value in took_s), took_s
    assert [int(value / 1.5) for value in took_s] == [1, 1, 1], "none waited for a second time"


def test_other_answers_leave_on_the_finer_grid(start: StartNode) -> None:
    server = ScriptedSuperLink()
    server.send(message_type="query.agree")
    running = start(server, contribution_grid_s=60.0, send_grid_s=0.1)
    running.await_replies(1)


@pytest.mark.parametrize(
    ("elapsed_s", "grid_s", "wait_s"),
    [(0.0, 1.0, 1.0), (0.25, 1.0, 0.75), (1.0, 1.0, 1.0), (2.5, 2.0, 1.5), (3.0, 0.0, 0.0)],
)
def test_answers_leave_on_a_grid(elapsed_s: float, grid_s: float, wait_s: float) -> None:
    assert exchange.until_grid_s(elapsed_s, grid_s) == pytest.approx(wait_s)
