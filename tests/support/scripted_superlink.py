"""A SuperLink by script, over real TLS: hands out messages, and may answer anything; and a node that talks to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeResponse,
    DeactivateNodeResponse,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectResponse,
)
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from hostile_server import Answer, answering

from aggregator.certificates import FleetCertificates
from edge_client.share.agent.fleet import FleetConfig, FleetState, new_node_key
from edge_client.share.agent.node import FleetNode
from shared_models.errors import FleetError

NODE_ID, RUN_ID = 4711, 9


@dataclass
class ScriptedSuperLink:
    """Hands out messages; `overrides` replaces the answer of a method."""

    overrides: dict[str, Callable[[], Answer]] = field(default_factory=dict)
    outbox: list[tuple[Any, ObjectTree]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    replies: list[Any] = field(default_factory=list)

    def __call__(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        method = path.rpartition("/")[2]
        self.calls.append(method)
        if method in self.overrides:
            return self.overrides[method]()
        return Answer(body=getattr(self, method.replace("-", "_"))(body).SerializeToString())

    def activate_node(self, body: bytes) -> Any:
        return ActivateNodeResponse(node_id=NODE_ID)

    def deactivate_node(self, body: bytes) -> Any:
        return DeactivateNodeResponse()

    def send_node_heartbeat(self, body: bytes) -> Any:
        return SendNodeHeartbeatResponse(success=True)

    def pull_messages(self, body: bytes) -> Any:
        if not self.outbox:
            return PullMessagesResponse()
        message, tree = self.outbox.pop(0)
        return PullMessagesResponse(messages_list=[message], message_object_trees=[tree])

    def pull_object(self, body: bytes) -> Any:
        content = self.objects.get(PullObjectRequest.FromString(body).object_id)
        return PullObjectResponse(
            object_found=content is not None, object_available=bool(content), object_content=content or b""
        )

    def confirm_message_received(self, body: bytes) -> Any:
        return ConfirmMessageReceivedResponse()

    def push_messages(self, body: bytes) -> Any:
        request = PushMessagesRequest.FromString(body)
        self.replies.append(request.messages_list[0])
        return PushMessagesResponse(objects_to_push=[], session_id="s")

    def push_object(self, body: bytes) -> Any:
        return PushObjectResponse(stored=True)

    def send(self, *, ttl: float = 100.0, weights: Array | None = None, **metadata: Any) -> str:
        """Put a message into the outbox; returns its id."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, 1
        content = RecordDict(
            {
                "model": ArrayRecord({"weights": weights or Array(np.arange(6, dtype=np.float32))}),
                "plan": ConfigRecord({"number": len(self.calls)}),
            }
        )
        message = Message(content, NODE_ID, "train", ttl=ttl)
        for name, value in metadata.items():
            message.metadata.__dict__[f"_{name}"] = value
        message.metadata.__dict__["_message_id"] = message_id = message.object_id
        self.objects |= {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
        self.outbox.append((message_to_proto(message), get_object_tree(message)))
        return message_id


def echo(message: Message, context: Context) -> Message:
    return Message(RecordDict({"model": message.content["model"]}), reply_to=message)


@dataclass
class Running:
    node: FleetNode
    server: ScriptedSuperLink
    states: list[tuple[FleetState, FleetError | None]]
    replied: list[bool]
    """For each reply, whether the node says that it was delivered."""

    def await_(self, condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
        give_up_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up_s, (self.node.state, self.node.error, self.server.calls[-10:])
            time.sleep(0.02)

    def await_replies(self, number: int) -> None:
        self.await_(lambda: len(self.server.replies) >= number)

    def await_pulls(self, more: int = 3) -> None:
        wanted = self.server.calls.count("pull-messages") + more
        self.await_(lambda: self.server.calls.count("pull-messages") >= wanted)


StartNode = Callable[..., Running]


@contextmanager
def node_starter(certificates: FleetCertificates) -> Iterator[StartNode]:
    """A function that starts a node against a scripted SuperLink; all are stopped at the end."""
    with ExitStack() as stack:

        def begin(server: ScriptedSuperLink | None = None, handler: Any = echo, **options: Any) -> Running:
            server = server or ScriptedSuperLink()
            config = FleetConfig(
                stack.enter_context(answering(certificates, server)),
                certificates.authority.read_bytes(),
                new_node_key()[0],
                **{"poll_interval_s": 0.05, "request_timeout_s": 3.0, "contribution_grid_s": 0.5, **options},
            )
            states: list[tuple[FleetState, FleetError | None]] = []
            replied: list[bool] = []
            node = FleetNode(config, handler, lambda *change: states.append(change), replied.append)
            running = Running(node, server, states, replied)
            running.node.start()
            stack.callback(running.node.stop)
            return running

        yield begin
