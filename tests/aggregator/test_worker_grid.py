"""The grid over worker processes: the same replies as in one process, devices stay where they are, a death is told."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from aggregator.exchange import exchange
from aggregator.worker_grid import WorkerGrid
from shared_models.errors import RoundError

_asked: Counter[int] = Counter()


def client(message: Message, context: Context) -> Message:
    """Answers with its number, its process, and how often this device was asked in it."""
    number = int(context.node_config["partition-id"])
    _asked[number] += 1
    if message.content["ask"].get("die") == number:
        os.kill(os.getpid(), signal.SIGKILL)
    answer = ConfigRecord({"number": number, "pid": os.getpid(), "asked": _asked[number]})
    return Message(RecordDict({"answer": answer}), reply_to=message)


def asked(grid: WorkerGrid, **content: int) -> list[dict[str, int]]:
    records = RecordDict({"ask": ConfigRecord({"x": 1, **content})})
    replies = exchange(grid, lambda _: (records, 0), list(grid.get_node_ids()), "train", 1, time.monotonic() + 60)
    return [dict(reply.content["answer"]) for reply in replies if not reply.has_error()]


def test_every_node_answers_once_and_stays_in_its_process() -> None:
    _asked.clear()
    grid = WorkerGrid(client, 31, workers=2, own=3)
    try:
        first, second = asked(grid), asked(grid)
    finally:
        grid.close()
    assert sorted(item["number"] for item in first) == list(range(31))
    assert {item["asked"] for item in first} == {1}
    assert {item["asked"] for item in second} == {2}
    where = {item["number"]: item["pid"] for item in first}
    assert where == {item["number"]: item["pid"] for item in second}
    assert len(set(where.values())) == 3
    assert {where[number] for number in range(3)} == {os.getpid()}


def test_a_lost_message_is_an_error_reply() -> None:
    grid = WorkerGrid(client, 6, workers=1, lost=lambda message: True)
    try:
        assert asked(grid) == []
    finally:
        grid.close()


def test_a_worker_that_dies_ends_the_round_with_an_error() -> None:
    grid = WorkerGrid(client, 6, workers=1)
    try:
        with pytest.raises(RoundError, match="died"):
            asked(grid, die=1)
    finally:
        grid.close()


def test_closing_ends_the_workers() -> None:
    grid = WorkerGrid(client, 6, workers=2)
    pids = [process.pid for process in grid._processes]
    grid.close()
    for process in grid._processes:
        assert not process.is_alive(), pids
