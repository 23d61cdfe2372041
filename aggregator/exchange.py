"""One question to many nodes over a Flower grid, and their answers as they come. Memory does not grow with the cohort."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

PUSH_CHUNK = 256
IN_FLIGHT_BYTES = 64 << 20
POLL_PAUSE_S = 0.2

Content = Callable[[int], tuple[RecordDict, int]]
"""Node → what to send it, and how many bytes of it are this node's alone."""


def exchange(
    grid: Grid, content: Content, nodes: Sequence[int], message_type: str, round_id: int, give_up_s: float
) -> Iterator[Message]:
    """Send `content(node)` to each node and yield replies as they come, until all came or `give_up_s` (monotonic) is past.

    At most about IN_FLIGHT_BYTES wait at a time; replies are handed on at once, and what they hold is the caller's to judge.
    """
    waiting, outstanding, in_flight = deque(nodes), dict[str, int](), 0
    while (waiting or outstanding) and time.monotonic() < give_up_s:
        messages, sizes = [], []
        while waiting and len(messages) < PUSH_CHUNK and in_flight < IN_FLIGHT_BYTES:
            node = waiting.popleft()
            records, size_bytes = content(node)
            messages.append(Message(records, node, message_type, group_id=str(round_id)))
            sizes.append(size_bytes)
            in_flight += size_bytes
        if messages:
            identifiers = grid.push_messages(messages)
            for identifier, size_bytes in zip(identifiers, sizes, strict=True):
                if identifier:
                    outstanding[identifier] = size_bytes
                else:
                    in_flight -= size_bytes
            if waiting and in_flight < IN_FLIGHT_BYTES:
                continue
        replies = list(grid.pull_messages(list(outstanding)))
        for reply in replies:
            in_flight -= outstanding.pop(reply.metadata.reply_to_message_id, 0)
            yield reply
        if not replies:
            time.sleep(POLL_PAUSE_S)
