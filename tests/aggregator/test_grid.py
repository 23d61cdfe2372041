"""The in-process grid: lazy, flat in memory, and as quiet about its clients' failures as a network."""

from __future__ import annotations

import time
import tracemalloc
from itertools import islice

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common.constant import ErrorCode

from aggregator.exchange import Content, exchange
from aggregator.grid import PULL_CHUNK, InProcessGrid

PARAMETERS = 2000


def content(value: float = 1.0) -> RecordDict:
    weights = np.full(PARAMETERS, value, np.float32)
    return RecordDict({"model": ArrayRecord({"weights": Array(weights)}), "plan": ConfigRecord({"round": 1})})


def double(message: Message, context: Context) -> Message:
    weights = message.content["model"]["weights"].numpy()
    return Message(RecordDict({"model": ArrayRecord({"weights": Array(2 * weights)})}), reply_to=message)


def same(records: RecordDict) -> Content:
    return lambda _: (records, 0)


def soon() -> float:
    return time.monotonic() + 250


def test_every_node_answers_its_own_message() -> None:
    seen: list[int] = []

    def app(message: Message, context: Context) -> Message:
        assert context.node_id == message.metadata.dst_node_id
        assert context.node_config["num-partitions"] == 200
        seen.append(int(context.node_config["partition-id"]))
        return double(message, context)

    grid = InProcessGrid(app, 200)
    nodes = list(grid.get_node_ids())
    assert len(set(nodes)) == 200
    replies = list(exchange(grid, same(content(3.0)), nodes, "train", 7, soon()))
    assert [reply.metadata.src_node_id for reply in replies] == nodes
    assert sorted(seen) == list(range(200))
    assert all(reply.metadata.group_id == "7" for reply in replies)
    assert float(replies[-1].content["model"]["weights"].numpy()[0]) == 6.0


def test_nothing_runs_before_its_reply_is_pulled() -> None:
    handled: list[int] = []

    def app(message: Message, context: Context) -> Message:
        handled.append(context.node_id)
        return double(message, context)

    grid = InProcessGrid(app, 1000)
    replies = exchange(grid, same(content()), list(grid.get_node_ids()), "train", 1, soon())
    list(islice(replies, 1))
    assert len(handled) == PULL_CHUNK
    list(islice(replies, PULL_CHUNK))
    assert len(handled) == 2 * PULL_CHUNK


def test_memory_does_not_grow_with_what_ten_thousand_nodes_send() -> None:
    grid = InProcessGrid(double, 10_000)
    nodes = list(grid.get_node_ids())
    total = np.zeros(PARAMETERS)
    tracemalloc.start()
    try:
        for reply in exchange(grid, same(content()), nodes, "train", 1, soon()):
            total += reply.content["model"]["weights"].numpy()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total[0] == 20_000
    # All replies together are 80 MB; what waits is a reference and a few names for each node.
    assert peak_bytes < 40e6


def test_a_client_that_fails_says_nothing_of_why() -> None:
    def app(message: Message, context: Context) -> Message:
        raise ValueError("canary: the user's own words")

    grid = InProcessGrid(app, 3)
    replies = list(exchange(grid, same(content()), list(grid.get_node_ids()), "train", 1, soon()))
    assert len(replies) == 3
    for reply in replies:
        assert reply.has_error()
        assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        assert "canary" not in reply.error.reason


def test_lost_messages_come_back_as_errors_of_their_nodes() -> None:
    grid = InProcessGrid(double, 50, lost=lambda message: message.metadata.dst_node_id in away)
    nodes = list(grid.get_node_ids())
    away = set(nodes[:20])
    replies = list(exchange(grid, same(content()), nodes, "train", 1, soon()))
    failed = {reply.metadata.src_node_id for reply in replies if reply.has_error()}
    assert len(replies) == 50
    assert failed == away
    assert all(reply.error.code == ErrorCode.NODE_UNAVAILABLE for reply in replies if reply.has_error())


def test_what_one_client_changes_no_other_sees() -> None:
    def app(message: Message, context: Context) -> Message:
        assert message.content["plan"]["round"] == 1
        message.content["plan"]["round"] = 99
        message.content["extra"] = ConfigRecord({})
        return double(message, context)

    grid = InProcessGrid(app, 5)
    replies = list(exchange(grid, same(content()), list(grid.get_node_ids()), "train", 1, soon()))
    assert not any(reply.has_error() for reply in replies)


def test_send_and_receive_is_the_two_steps_in_one() -> None:
    grid = InProcessGrid(double, 150)
    shared = content()
    messages = [grid.create_message(shared, "train", node, "1") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages)
    assert {reply.metadata.src_node_id for reply in replies} == set(grid.get_node_ids())


@pytest.mark.parametrize("unknown", [["never sent"], []])
def test_pulling_what_was_not_sent_gives_nothing(unknown: list[str]) -> None:
    grid = InProcessGrid(double, 1)
    assert list(grid.pull_messages(unknown)) == []


def test_a_reply_is_given_once() -> None:
    grid = InProcessGrid(double, 1)
    sent = list(grid.push_messages([grid.create_message(content(), "train", grid.get_node_ids()[0], "1")]))
    assert len(list(grid.pull_messages(sent))) == 1
    assert list(grid.pull_messages(sent)) == []


def test_an_exchange_ends_when_its_time_is_up() -> None:
    grid = InProcessGrid(double, 10)
    grid.pull_messages = lambda identifiers: []  # type: ignore[method-assign]
    begun_s = time.monotonic()
    assert list(exchange(grid, same(content()), list(grid.get_node_ids()), "train", 1, begun_s + 0.3)) == []
    assert time.monotonic() - begun_s < 5
