"""An in-process Flower `Grid`: the same `ClientApp`, without processes or sockets, in constant memory.

A message waits as a reference to shared content and is executed only when its reply is pulled, a few at a time; so 10,000 nodes
cost no more than one chunk of replies. Used by simulations and tests; deployments use Flower's own grid over a SuperLink.
"""

from __future__ import annotations

import copy
import logging
import random
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

ClientFunction = Callable[[Message, Context], Message]
logger = logging.getLogger(__name__)

PULL_CHUNK = 64


class InProcessGrid(Grid):
    """Runs `client_app` for `num_nodes` nodes whose `node_config["partition-id"]` is 0..num_nodes−1.

    `lost(message)` may drop a message (a device that went away). Errors of a client become Flower error replies without text.
    """

    def __init__(
        self,
        client_app: ClientFunction,
        num_nodes: int,
        *,
        lost: Callable[[Message], bool] | None = None,
        node_config: Callable[[int], Mapping[str, Any]] | None = None,
    ) -> None:
        self._app = client_app
        self._lost = lost
        self._run = Run.create_empty(run_id=random.getrandbits(62))
        # Flower's Message() reads its sender from this process-global identity.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, self._run.run_id, SUPERLINK_NODE_ID
        self._partition = {random.getrandbits(62) | 1: index for index in range(num_nodes)}
        self._node_config = node_config or (lambda index: {"partition-id": index, "num-partitions": num_nodes})
        self._waiting: OrderedDict[str, Message] = OrderedDict()

    @property
    def run(self) -> Run:
        return self._run

    def set_run(self, run: Run) -> None:
        self._run = run

    def get_node_ids(self) -> list[int]:
        return list(self._partition)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            identifier = uuid.uuid4().hex
            metadata = message.metadata.__dict__
            metadata["_message_id"], metadata["_run_id"] = identifier, self._run.run_id
            metadata["_src_node_id"] = SUPERLINK_NODE_ID
            self._waiting[identifier] = message
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Execute up to PULL_CHUNK of the waiting messages and return their replies."""
        replies: list[Message] = []
        for identifier in list(message_ids):
            if len(replies) >= PULL_CHUNK:
                break
            message = self._waiting.pop(identifier, None)
            if message is None:
                continue
            if self._lost and self._lost(message):
                # As a SuperLink says of a node that went away.
                replies.append(_with_id(Message(Error(ErrorCode.NODE_UNAVAILABLE, "node lost"), reply_to=message)))
            else:
                replies.append(self._execute(message))
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        identifiers = self.push_messages(messages)
        replies: list[Message] = []
        while any(identifier in self._waiting for identifier in identifiers):
            replies += self.pull_messages(identifiers)
        return replies

    def _execute(self, message: Message) -> Message:
        node_id = message.metadata.dst_node_id
        # Mods and handlers may change records in place, and the content is shared over all nodes: arrays are read-only by
        # convention, everything else is copied.
        records = {
            name: record if isinstance(record, ArrayRecord) else copy.deepcopy(record)
            for name, record in message.content.items()
        }
        delivered = Message(RecordDict(records), metadata=message.metadata)
        context = Context(
            run_id=self._run.run_id,
            node_id=node_id,
            node_config=dict(self._node_config(self._partition[node_id])),
            state=RecordDict(),
            run_config={},
        )
        try:
            reply = self._app(delivered, context)
        except Exception as error:  # noqa: BLE001 - a client's failure is a reply, as in Flower's own runtime
            logger.debug("client %d failed: %s", node_id, type(error).__name__)
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "client error"), reply_to=delivered)
        return _with_id(reply)


def _with_id(reply: Message) -> Message:
    reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    return reply
