"""One message of the fleet: take it with all its objects, check it, let the handler answer, bring the reply back.

A message that was taken is never given out again, so a broken link is retried; a message that is late, doubled, too large or
unreadable costs the node nothing but an error reply without text.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, Context, Error, Message, MessageType, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from edge_client.share.agent.fleet import FleetConfig
from edge_client.share.agent.fleet_client import BoundedFleetClient, FleetStatusError
from shared_models.errors import FleetError, FleetLimitError, FleetRefusedError

Handler = Callable[[Message, Context], Message]
logger = logging.getLogger(__name__)

MAX_OBJECTS = 1000
"""Objects of one message: records, arrays and chunks of arrays."""

EXCHANGE_LIMIT_S = 120.0
"""How long a message that was taken is retried, each way, over a broken link."""

OBJECT_LIMIT_S = 20.0
"""How long an object that is announced may be missing: its sender may have died between the two."""

BACKOFF_FIRST_S = 1.0
BACKOFF_MOST_S = 30.0
_REMEMBERED_MESSAGES = 512
_REMEMBERED_RUNS = 4
_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


class MessageExchange:
    """Answers the messages of one node by one handler. Not thread-safe; `stop` ends waiting, not the handler."""

    def __init__(
        self,
        client: BoundedFleetClient,
        config: FleetConfig,
        handler: Handler,
        stop: threading.Event,
        on_reply: Callable[[bool], None] | None = None,
    ) -> None:
        """`on_reply` is called once for each reply: True when all of it was taken, False when it was given up."""
        self._client = client
        self._config = config
        self._handler = handler
        self._stop = stop
        self._on_reply = on_reply
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._contexts: OrderedDict[int, Context] = OrderedDict()

    def answer(self, node: Node, proto: Any, tree: ObjectTree) -> None:
        """Handle one pulled message. Raises FleetRefusedError, or FleetError if the message itself is garbage."""
        message_id, run_id = proto.metadata.message_id, proto.metadata.run_id
        if not _is_for(node, proto, tree):
            logger.warning("message %s is malformed or not for this node: ignored", message_id[:64])
            return
        if message_id in self._seen:
            logger.debug("message %s was answered before: ignored", message_id)
            return
        self._remember(message_id)
        try:
            bare = message_from_proto(proto)
            if bare.metadata.created_at + bare.metadata.ttl <= time.time():
                logger.debug("message %s came too late: ignored", message_id)
                return
            bare.metadata.__dict__["_message_id"] = message_id
        except Exception as error:  # Flower's parser may raise anything on garbage
            raise FleetError(f"the aggregator's message cannot be read: {type(error).__name__}") from error
        try:
            message = self._pull(node, message_id, run_id, tree)
        except FleetRefusedError:
            raise
        except FleetError as error:
            logger.warning("message %s was not received: %s", message_id, error)
            reply = _error_reply(bare)
        else:
            received_s = time.monotonic()
            reply = self._handle(message, run_id, node)
            # How long it took would say how much this device holds, a refusal that there was nothing to compute.
            self._stop.wait(until_grid_s(time.monotonic() - received_s, self._grid_s(message)))
        delivered = False
        try:
            delivered = self._push(node, run_id, reply)
        finally:
            if self._on_reply:
                self._on_reply(delivered)

    def _grid_s(self, message: Message) -> float:
        asks_to_contribute = message.metadata.message_type.split(".")[0] == MessageType.TRAIN
        return self._config.contribution_grid_s if asks_to_contribute else self._config.send_grid_s

    def _remember(self, message_id: str) -> None:
        self._seen[message_id] = None
        while len(self._seen) > _REMEMBERED_MESSAGES:
            self._seen.popitem(last=False)

    def _pull(self, node: Node, message_id: str, run_id: int, tree: ObjectTree) -> Message:
        """Fetch and check all objects of a message. Raises FleetError; FleetLimitError if they are too large."""
        give_up_s = time.monotonic() + EXCHANGE_LIMIT_S
        wanted = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
        if len(wanted) > MAX_OBJECTS:
            raise FleetLimitError(f"a message of {len(wanted)} objects, at most {MAX_OBJECTS} are accepted")
        contents: dict[str, bytes] = {}
        size_bytes = 0
        for object_id in wanted:
            request = PullObjectRequest(node=node, run_id=run_id, object_id=object_id)
            contents[object_id] = self._pull_object(request, give_up_s)
            size_bytes += len(contents[object_id])
            if size_bytes > self._config.max_message_bytes:
                raise FleetLimitError(f"a message has more than the {self._config.max_message_bytes} bytes accepted")
        self._retry(
            self._client.ConfirmMessageReceived,
            ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=message_id),
            give_up_s,
        )
        try:
            message = inflate_object_from_contents(message_id, contents)
            if not isinstance(message, Message):
                raise TypeError(f"expected a message, got {type(message).__name__}")
            message.metadata.__dict__["_message_id"] = message_id
            _check_arrays(message)
        except Exception as error:  # Flower's parsers may raise anything on garbage
            raise FleetError(f"the message's content cannot be read: {type(error).__name__}") from error
        return message

    def _pull_object(self, request: PullObjectRequest, give_up_s: float) -> bytes:
        give_up_s = min(give_up_s, time.monotonic() + OBJECT_LIMIT_S)
        while True:
            answer = self._retry(self._client.PullObject, request, give_up_s)
            if answer.object_available:
                content = bytes(answer.object_content)
                if len(content) > self._config.max_object_bytes:
                    raise FleetLimitError(f"an object has more than the {self._config.max_object_bytes} bytes accepted")
                if hashlib.sha256(content).hexdigest() != request.object_id:
                    raise FleetError("an object's content does not match its id")
                return content
            if not answer.object_found or time.monotonic() > give_up_s or self._stop.wait(0.3):
                raise FleetError("an object of the message is not there")

    def _handle(self, message: Message, run_id: int, node: Node) -> Message:
        context = self._contexts.pop(run_id, None) or Context(
            run_id=run_id, node_id=node.node_id, node_config={}, state=RecordDict(), run_config={}
        )
        self._contexts[run_id] = context
        while len(self._contexts) > _REMEMBERED_RUNS:
            self._contexts.popitem(last=False)
        try:
            reply = self._handler(message, context)
            if reply.metadata.reply_to_message_id != message.metadata.message_id:
                raise TypeError("the handler did not answer the message that it was given")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the reason may hold data: it stays on the device
            logger.warning("message %s: the handler failed with %s", message.metadata.message_id, type(error).__name__)
            return _error_reply(message)
        return reply

    def _push(self, node: Node, run_id: int, reply: Message) -> bool:
        """Whether the aggregator has all of the reply. Raises FleetRefusedError."""
        give_up_s = time.monotonic() + EXCHANGE_LIMIT_S
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = get_all_nested_objects(reply)
        announcement = PushMessagesRequest(
            node=node,
            messages_list=[message_to_proto(remove_content_from_message(reply) if reply.has_content() else reply)],
            message_object_trees=[get_object_tree(reply)],
            # How long it took would say how much this device holds: the field stays empty.
        )
        try:
            accepted = self._retry(self._client.PushMessages, announcement, give_up_s)
            for object_id in accepted.objects_to_push:
                if object_id not in objects:
                    raise FleetError("the aggregator asks for an object that is not part of the reply")
                request = PushObjectRequest(
                    node=node,
                    run_id=run_id,
                    object_id=object_id,
                    object_content=objects[object_id].deflate(),
                    session_id=accepted.session_id,
                )
                self._retry(self._client.PushObject, request, give_up_s)
        except FleetRefusedError:
            raise
        except FleetError as error:
            # Most often the round or the run has ended meanwhile; the next message may well go through.
            logger.warning("the reply to %s was not delivered: %s", reply.metadata.reply_to_message_id, error)
            return False
        logger.debug("message %s answered", reply.metadata.reply_to_message_id)
        return True

    def _retry(self, method: Callable[[_Request], _Answer], request: _Request, give_up_s: float) -> _Answer:
        """Call until it works, the link's fault is no transient one, time is up or the node stops."""
        backoff = Backoff()
        while True:
            try:
                return self._client.call(method, request)
            except (FleetRefusedError, FleetLimitError):
                raise
            except FleetError as error:
                final = isinstance(error, FleetStatusError) and not error.transient
                if final or time.monotonic() > give_up_s or self._stop.wait(backoff.next_s()):
                    raise


def until_grid_s(elapsed_s: float, grid_s: float) -> float:
    """How long to wait until the next whole multiple of `grid_s`, the first one if nothing has passed; 0 for no grid."""
    if grid_s <= 0:
        return 0.0
    return (math.floor(elapsed_s / grid_s) + 1) * grid_s - elapsed_s


class Backoff:
    """Exponential, capped, with jitter, so that a fleet does not come back all at once."""

    def __init__(self) -> None:
        self._next_s = BACKOFF_FIRST_S

    def reset(self) -> None:
        self._next_s = BACKOFF_FIRST_S

    def next_s(self) -> float:
        wait_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, BACKOFF_MOST_S)
        return wait_s


def _is_for(node: Node, proto: Any, tree: ObjectTree) -> bool:
    metadata = proto.metadata
    return bool(
        metadata.dst_node_id == node.node_id
        and metadata.src_node_id == SUPERLINK_NODE_ID
        and not metadata.reply_to_message_id
        and metadata.message_id == tree.object_id
        and _is_hash(metadata.message_id)
    )


def _error_reply(message: Message) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "client error"), reply_to=message)


def _is_hash(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def _check_arrays(message: Message) -> None:
    """A header of a few bytes could announce terabytes that decoding would allocate: compare before anyone decodes."""
    for record in message.content.values():
        if not isinstance(record, ArrayRecord):
            continue
        for array in record.values():
            stream = io.BytesIO(array.data)
            version = np.lib.format.read_magic(stream)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[version](stream)
            size_bytes = math.prod(shape) * dtype.itemsize
            if dtype.hasobject or size_bytes != len(array.data) - stream.tell():
                raise ValueError("an array's header does not match its data")
