"""What gets through to a real SuperLink from outside, and what does not."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from published_fleet import PublishedFleet

from aggregator.control import FleetApp
from aggregator.deployment import FleetServer
from aggregator.service.passthrough import METHODS
from edge_client.share.agent.fleet import new_node_key

PROTOBUF = {"content-type": "application/protobuf"}


class Device:
    """A raw client with the keys of an enrolled device, which may misuse them."""

    def __init__(self, server: FleetServer, *, enrolled: bool = True) -> None:
        self.server = server
        private, self.public = new_node_key()
        self.key: Any = serialization.load_pem_private_key(private, None)
        self.node_id = 0
        if enrolled:
            with server.link.control() as control:
                self.node_id = control.register_node(self.public)

    def headers(self, at: datetime | None = None) -> dict[str, str]:
        timestamp = (at or datetime.now(UTC)).isoformat()
        return {
            **PROTOBUF,
            "flwr-public-key": base64.b64encode(self.public).decode(),
            "flwr-timestamp": timestamp,
            "flwr-signature": base64.b64encode(sign_message(self.key, timestamp.encode())).decode(),
        }

    def post(self, path: str, message: Any, **options: Any) -> httpx.Response:
        with client(self.server) as http:
            return http.post(path, content=message.SerializeToString(), headers=options.get("headers", self.headers()))

    def leave(self) -> None:
        """Not to be counted as online by the tests that follow."""
        self.post("/v1/fleet/deactivate-node", DeactivateNodeRequest(node_id=self.node_id)).raise_for_status()


def client(server: FleetServer, address: str | None = None) -> httpx.Client:
    trust = ssl.create_default_context(cadata=server.link.authority_pem.decode())
    return httpx.Client(base_url=f"https://{address or server.address}", verify=trust, trust_env=False, timeout=20.0)


def raw(server: FleetServer, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to these very bytes."""
    host, port = server.address.split(":")
    trust = ssl.create_default_context(cadata=server.link.authority_pem.decode())
    with (
        socket.create_connection((host, int(port)), 10.0) as plain,
        trust.wrap_socket(plain, server_hostname=host) as tls,
    ):
        tls.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = tls.recv(65536)
            if not part:
                break
            answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        length = next(
            (int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += tls.recv(65536)
    return int(head.split(b" ")[1]), body


def raw_post(device: Device, target: str, body: bytes, extra: str = "", method: str = "POST") -> tuple[int, bytes]:
    lines = [f"{method} {target} HTTP/1.1", "host: fleet.example"]
    lines += [f"{name}: {value}" for name, value in device.headers().items()]
    if "content-length" not in extra.lower() and "transfer-encoding" not in extra.lower():
        lines.append(f"content-length: {len(body)}")
    head = "\r\n".join(lines) + "\r\n" + extra
    return raw(device.server, head.encode("latin-1") + b"\r\n" + body)


def assert_problem(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]


def test_a_device_activates_and_pulls_through_it(served_fleet: FleetServer) -> None:
    device = Device(served_fleet)
    activate = ActivateNodeRequest(public_key=device.public, heartbeat_interval=10.0)
    assert device.post("/v1/fleet/activate-node", activate).status_code == 200
    answer = device.post("/v1/fleet/pull-messages", PullMessagesRequest(node=Node(node_id=device.node_id)))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/protobuf"
    assert not PullMessagesResponse.FromString(answer.content).messages_list
    device.leave()


def test_no_method_of_the_control_or_runtime_api_is_reachable(served_fleet: FleetServer) -> None:
    device = Device(served_fleet)
    outside, inside = client(served_fleet), client(served_fleet, served_fleet.link.address)
    with outside, inside:
        hidden = [path for _, path in PROTOBUF_REQUEST_TYPES if path.encode() not in METHODS]
        assert len(hidden) > 60
        assert {"/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"} < set(hidden)
        for path in hidden:
            assert_problem(outside.post(path, content=b"", headers=device.headers()), 404)
        for path in (
            "/health",
            "/docs",
            "/openapi.json",
            "/v1/responses",
            "/",
            "/v1/fleet",
            "/v1/fleet/",
            "/v1/control",
        ):
            for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"):
                assert outside.request(method, path, headers=device.headers()).status_code == 404, (method, path)
        nodes = ListNodesRequest().SerializeToString()
        assert inside.post("/v1/control/list-nodes", content=nodes, headers=PROTOBUF).status_code == 200, (
            "the SuperLink itself asks nobody for a key here: that is what the pass-through is for"
        )


@pytest.mark.parametrize(
    "target",
    [
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/pull-messages/../../control/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/fleet/..%2fcontrol/list-nodes",
        "/v1/fleet/%2e%2e%2fcontrol%2flist-nodes",
        "/v1/fleet/..%5ccontrol%5clist-nodes",
        "/v1/fleet\\..\\control\\list-nodes",
        "/v1%2fcontrol%2flist-nodes",
        "//v1/control/list-nodes",
        "//v1/fleet/pull-messages",
        "/v1//fleet/pull-messages",
        "/./v1/fleet/pull-messages",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/pull%2dmessages",
        "/v1/fleet/pull-messages%00",
        "/v1/fleet/pull-messages;x=1",
        "/v1/fleet/pull-messages?next=/v1/control/list-nodes",
        "/v1/fleet/pull-messages#/v1/control/list-nodes",
        "/V1/FLEET/pull-messages",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "https://127.0.0.1/v1/control/list-nodes",
        "http://127.0.0.1/v1/fleet/pull-messages",
        "/bundle/../v1/control/list-nodes",
        "/bundle/%2e%2e/v1/control/list-nodes",
        "/healthz/../v1/control/list-nodes",
    ],
)
def test_no_spelling_of_a_target_gets_around_it(served_fleet: FleetServer, target: str) -> None:
    device = Device(served_fleet)
    body = PullMessagesRequest(node=Node(node_id=device.node_id)).SerializeToString()
    status, answer = raw_post(device, target, body)
    assert status in (400, 404), (status, answer)
    assert b"nodes" not in answer


def test_only_post_is_passed_on(served_fleet: FleetServer) -> None:
    device = Device(served_fleet)
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post"):
        status, _ = raw_post(device, "/v1/fleet/pull-messages", b"", method=method)
        assert status in (400, 404), method
    status, _ = raw_post(device, "127.0.0.1:22", b"", method="CONNECT")
    assert status in (400, 404)


def test_a_smuggled_second_request_is_never_seen_by_the_superlink(served_fleet: FleetServer) -> None:
    device = Device(served_fleet)
    hidden = b"POST /v1/control/list-nodes HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\ncontent-length: 0\r\n\r\n"
    chunked = b"0\r\n\r\n" + hidden
    log = served_fleet.link.folder / "superlink.log"
    before = log.read_bytes().count(b"/v1/control/list-nodes")
    for extra in (
        f"content-length: {len(chunked)}\r\ntransfer-encoding: chunked\r\n",
        "content-length: 0\r\ncontent-length: 5\r\n",
        f"transfer-encoding: identity, chunked\r\ncontent-length: {len(chunked)}\r\n",
        "transfer-encoding: chunked\r\nhost: other\r\n",
    ):
        raw_post(device, "/v1/fleet/pull-messages", chunked, extra)
    time.sleep(0.3)
    assert log.read_bytes().count(b"/v1/control/list-nodes") == before


def test_bodies_are_bounded_whether_announced_or_not(served_fleet: FleetServer) -> None:
    device = Device(served_fleet)
    for path, most_bytes in METHODS.items():
        status, answer = raw_post(device, path.decode(), b"", f"content-length: {most_bytes + 1}\r\n")
        assert (status, json.loads(answer)["status"]) == (413, 413), path
    with client(served_fleet) as http:
        pieces = (b"x" * 65536 for _ in range(200))
        assert_problem(http.post("/v1/fleet/push-object", content=pieces, headers=device.headers()), 413)
        compressed = {**device.headers(), "content-encoding": "gzip"}
        assert_problem(http.post("/v1/fleet/pull-messages", content=b"", headers=compressed), 415)
        text = {**device.headers(), "content-type": "text/plain"}
        assert_problem(http.post("/v1/fleet/pull-messages", content=b"", headers=text), 415)
    assert raw_post(device, "/v1/fleet/pull-messages", b"", "content-length: -1\r\n")[0] == 400
    assert raw_post(device, "/v1/fleet/pull-messages", b"", "flwr-public-key: eA==\r\ncontent-length: 0\r\n")[0] == 400


def test_nobody_pulls_without_an_enrolled_key(served_fleet: FleetServer) -> None:
    device, stranger = Device(served_fleet), Device(served_fleet, enrolled=False)
    pull = PullMessagesRequest(node=Node(node_id=device.node_id))
    for missing in ("flwr-public-key", "flwr-timestamp", "flwr-signature"):
        headers = device.headers()
        del headers[missing]
        assert_problem(device.post("/v1/fleet/pull-messages", pull, headers=headers), 401)
    assert stranger.post("/v1/fleet/pull-messages", pull).status_code == 401
    forged = {**device.headers(), "flwr-signature": stranger.headers()["flwr-signature"]}
    assert device.post("/v1/fleet/pull-messages", pull, headers=forged).status_code == 401
    old = device.headers(datetime(2026, 1, 1, tzinfo=UTC))
    assert device.post("/v1/fleet/pull-messages", pull, headers=old).status_code == 401
    activate = ActivateNodeRequest(public_key=device.public, heartbeat_interval=10.0)
    assert stranger.post("/v1/fleet/activate-node", activate).status_code == 401
    assert stranger.post("/v1/fleet/pull-messages", PullMessagesRequest()).status_code == 401


def test_an_enrolled_node_cannot_act_as_another(served_fleet: FleetServer) -> None:
    victim, attacker = Device(served_fleet), Device(served_fleet)
    other = Node(node_id=victim.node_id)
    for path, message in (
        ("/v1/fleet/pull-messages", PullMessagesRequest(node=other)),
        ("/v1/fleet/send-node-heartbeat", SendNodeHeartbeatRequest(node=other, heartbeat_interval=10.0)),
        ("/v1/fleet/pull-object", PullObjectRequest(node=other, run_id=1, object_id="0" * 64)),
        ("/v1/fleet/push-object", PushObjectRequest(node=other, run_id=1, object_id="0" * 64)),
        ("/v1/fleet/activate-node", ActivateNodeRequest(public_key=victim.public, heartbeat_interval=10.0)),
    ):
        assert attacker.post(path, message).status_code == 401, path


def pushed(node_id: int, **metadata: Any) -> PushMessagesRequest:
    fields = {
        "run_id": 1,
        "message_id": "1" * 64,
        "src_node_id": node_id,
        "dst_node_id": 1,
        "reply_to_message_id": "2" * 64,
        "created_at": time.time(),
        "ttl": 100.0,
        "message_type": "train",
        **metadata,
    }
    message = Message(metadata=Metadata(**fields))
    tree = ObjectTree(object_id=str(fields["message_id"]))
    return PushMessagesRequest(node=Node(node_id=node_id), messages_list=[message], message_object_trees=[tree])


def test_a_node_pushes_only_replies_from_itself_to_the_aggregator(served_fleet: FleetServer) -> None:
    """Flower 1.41 looks at who signed the request only: these would be stored as another node's reply, or as an instruction."""
    victim, attacker = Device(served_fleet), Device(served_fleet)
    path, own = "/v1/fleet/push-messages", attacker.node_id
    assert_problem(attacker.post(path, pushed(own, src_node_id=victim.node_id)), 403)
    assert_problem(
        attacker.post(path, pushed(own, src_node_id=1, dst_node_id=victim.node_id, reply_to_message_id="")), 403
    )
    assert_problem(attacker.post(path, pushed(own, reply_to_message_id="")), 403)
    assert_problem(attacker.post(path, pushed(own, dst_node_id=victim.node_id)), 403)
    two = pushed(own)
    two.messages_list.append(two.messages_list[0])
    assert_problem(attacker.post(path, two), 400)
    many = pushed(own)
    many.message_object_trees[0].children.extend(ObjectTree(object_id="3" * 64) for _ in range(1001))
    assert_problem(attacker.post(path, many), 400)
    assert_problem(attacker.post(path, PushMessagesRequest(node=Node(node_id=own))), 400)
    with client(served_fleet) as http:
        assert_problem(http.post(path, content=b"\xff" * 50, headers=attacker.headers()), 400)
    well_formed = attacker.post(path, pushed(own))
    assert well_formed.headers["content-type"] == "application/json", (
        "passed on: the SuperLink says that it has no such run"
    )


def test_without_a_superlink_devices_are_told_to_come_back(served_fleet: FleetServer) -> None:
    device = Device(served_fleet)
    pull = PullMessagesRequest(node=Node(node_id=device.node_id))
    first = served_fleet.link.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    give_up_s, unavailable = time.monotonic() + 60.0, 0
    while True:
        answer = device.post("/v1/fleet/pull-messages", pull)
        if answer.status_code == 200:
            break
        assert_problem(answer, 503)
        assert answer.headers["retry-after"]
        unavailable += 1
        assert time.monotonic() < give_up_s, "it is started again on its database, where this node is still enrolled"
        time.sleep(0.2)
    assert unavailable


def test_what_is_published_later_is_served_at_the_same_address(
    served_fleet: FleetServer, fleet: PublishedFleet
) -> None:
    name = "/bundle/metadata/timestamp.json"
    with client(served_fleet) as http:
        assert_problem(http.get(name), 404)
        shutil.copytree(fleet.folder, served_fleet.link.folder.parent / "bundle")
        answer = http.get(name)
        assert answer.content == (fleet.folder / "metadata" / "timestamp.json").read_bytes()
        assert_problem(http.get("/bundle/../server.key"), 404)
        assert_problem(http.get("/bundle/%2e%2e/server.key"), 404)
        assert_problem(http.post("/bundle/metadata/timestamp.json"), 405)


@pytest.mark.deep
def test_what_flower_lets_one_node_tell_another_does_not_get_through(served_fleet: FleetServer, tmp_path: Path) -> None:
    """Contract with flwr 1.41: if the first half fails some day, Flower has closed the hole and the check may go."""
    victim, attacker = Device(served_fleet), Device(served_fleet)
    for device in (victim, attacker):
        device.post("/v1/fleet/activate-node", ActivateNodeRequest(public_key=device.public, heartbeat_interval=30.0))
    config = {"nodes": 1_000_000, "round": 1, "state-dir": str(tmp_path)}
    with served_fleet.link.control() as control:
        run_id = control.start_run(FleetApp(server="small_round:app", config=config))
        while control.run(run_id).status != "running":
            time.sleep(0.2)

        def instruction(digit: str) -> PushMessagesRequest:
            to_victim = {"src_node_id": 1, "dst_node_id": victim.node_id, "reply_to_message_id": ""}
            request = pushed(attacker.node_id, run_id=run_id, message_id=digit * 64, **to_victim)
            request.messages_list[0].content.CopyFrom(RecordDict())
            return request

        def victim_receives() -> list[str]:
            pull = PullMessagesRequest(node=Node(node_id=victim.node_id))
            answer = PullMessagesResponse.FromString(victim.post("/v1/fleet/pull-messages", pull).content)
            return [message.metadata.message_id for message in answer.messages_list]

        with client(served_fleet, served_fleet.link.address) as inside:
            direct = instruction("a").SerializeToString()
            inside.post("/v1/fleet/push-messages", content=direct, headers=attacker.headers()).raise_for_status()
        assert victim_receives() == ["a" * 64]
        assert_problem(attacker.post("/v1/fleet/push-messages", instruction("b")), 403)
        assert victim_receives() == []
        control.stop_run(run_id)
    victim.leave()
    attacker.leave()
