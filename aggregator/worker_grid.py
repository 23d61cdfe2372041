"""An in-process Flower `Grid` whose nodes are spread over forked worker processes; this process keeps the first ones itself.

The same `ClientApp` and the same messages as everywhere, serialised as Flower does. Devices live where they were first asked, so
their state (keys of a round, budget) stays in one process. Fork before torch has run in this process.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from aggregator.grid import ClientFunction, InProcessGrid
from shared_models.errors import RoundError

logger = logging.getLogger(__name__)

MAX_WAIT_S = 600.0


class WorkerGrid(InProcessGrid):
    """As InProcessGrid, with `workers` more processes. Nodes below `own` are this process's; the rest is dealt out evenly.

    `close()` ends the workers. Raises RoundError if one dies.
    """

    def __init__(
        self,
        client_app: ClientFunction,
        num_nodes: int,
        *,
        workers: int,
        own: int = 0,
        lost: Callable[[Message], bool] | None = None,
        node_config: Callable[[int], Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(client_app, num_nodes, lost=lost, node_config=node_config)
        self._workers = workers
        self._own = own
        self._links: list[multiprocessing.connection.Connection] = []
        self._processes: list[Any] = []
        self._remote: dict[str, Message] = {}
        context = multiprocessing.get_context("fork")
        for number in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=self._work, args=(there, here, number), daemon=True)
            process.start()
            there.close()
            self._links.append(here)
            self._processes.append(process)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = super().push_messages(messages)
        for identifier in identifiers:
            worker = self._worker_of(self._waiting[identifier])
            if worker is not None:
                message = self._waiting.pop(identifier)
                self._remote[identifier] = message
                if not (self._lost and self._lost(message)):
                    self._links[worker].send_bytes(message_to_proto(message).SerializeToString())
                else:
                    self._waiting[identifier] = self._remote.pop(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """What the workers have answered by now; if nothing, this process executes some of its own nodes."""
        wanted = list(message_ids)
        replies = [self._receive(link) for link in multiprocessing.connection.wait(self._links, timeout=0)]
        if not replies:
            replies = super().pull_messages([item for item in wanted if item in self._waiting][:4])
        if not replies and any(identifier in self._remote for identifier in wanted):
            ready = multiprocessing.connection.wait(self._links, timeout=MAX_WAIT_S)
            replies = [self._receive(link) for link in ready]
        return replies

    def close(self) -> None:
        for link in self._links:
            link.close()
        for process in self._processes:
            process.join(5.0)
            if process.is_alive():
                process.kill()

    def _worker_of(self, message: Message) -> int | None:
        index = self._partition[message.metadata.dst_node_id]
        if not self._workers or index < self._own:
            return None
        share = (index - self._own) % (self._workers + 1)
        return share - 1 if share else None

    def _receive(self, link: Any) -> Message:
        try:
            reply = message_from_proto(ProtoMessage.FromString(link.recv_bytes()))
        except (EOFError, OSError) as error:
            raise RoundError("a worker process of the simulation has died") from error
        self._remote.pop(reply.metadata.reply_to_message_id, None)
        return reply

    def _work(self, link: Any, parents: Any, number: int) -> None:
        """A worker: answer messages until the parent closes the pipe."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        parents.close()
        waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

        def read() -> None:
            # Always drained, so that the parent never waits for this process to take a message.
            try:
                while True:
                    waiting.put(link.recv_bytes())
            except (EOFError, OSError):
                waiting.put(None)

        threading.Thread(target=read, name="worker-pipe", daemon=True).start()
        try:
            while (raw := waiting.get()) is not None:
                message = message_from_proto(ProtoMessage.FromString(raw))
                link.send_bytes(message_to_proto(self._execute(message)).SerializeToString())
        except OSError:
            logger.debug("worker %d: the parent is gone", number)
        # Without the parent's exit handlers: locks and files of the parent's devices are not this process's to close.
        os._exit(0)
