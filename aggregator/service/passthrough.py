"""The only way from outside to the SuperLink: exact fleet methods, authenticated nodes, bounded bodies. Everything else is 404.

A SuperLink has its Control and Runtime API on the same port, without authentication, and it believes what a node says about a
message's sender. So a request passes only if its raw target is byte for byte one of METHODS; only named headers go on; and what a
node pushes must be a reply, from itself, to the aggregator. Answers are streamed; errors are problem documents (RFC 9457).
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
from flwr.common.constant import SUPERLINK_NODE_ID, TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from google.protobuf.message import DecodeError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
logger = logging.getLogger(__name__)

_SMALL = 16 * 1024
_OBJECT = 8 * 1024 * 1024
METHODS = {
    b"/v1/fleet/activate-node": _SMALL,
    b"/v1/fleet/deactivate-node": _SMALL,
    b"/v1/fleet/send-node-heartbeat": _SMALL,
    b"/v1/fleet/pull-messages": _SMALL,
    b"/v1/fleet/pull-object": _SMALL,
    b"/v1/fleet/confirm-message-received": _SMALL,
    b"/v1/fleet/push-messages": 1024 * 1024,
    b"/v1/fleet/push-object": _OBJECT,
    b"/v1/fleet/get-run": _SMALL,
    b"/v1/fleet/get-fab": _SMALL,
}
"""Raw request target → most bytes of its body. Flower cuts arrays into objects of 5 MiB. Nodes are registered by operators only,
so `register-node` and `unregister-node` are not here."""

PUSH_MESSAGES = b"/v1/fleet/push-messages"
MAX_PUSHED_OBJECTS = 1000
_AUTHENTICATION = (
    FLEET_HTTP_PUBLIC_KEY_HEADER.encode(),
    TIMESTAMP_HEADER.encode(),
    FLEET_HTTP_SIGNATURE_HEADER.encode(),
)
_PASSED_ON = {
    *_AUTHENTICATION,
    b"content-type",
    b"accept",
    b"flwr-package-name",
    b"flwr-package-version",
    b"flwr-component-name",
}
_PASSED_BACK = {b"content-type", b"content-length", b"retry-after", b"flwr-version-incompatibility-message"}


@dataclass(frozen=True)
class PassThroughLimits:
    body_s: float = 30.0
    """For a request's body to arrive whole."""
    connect_s: float = 5.0
    answer_s: float = 30.0
    """Between two pieces of the SuperLink's answer."""
    concurrent: int = 128
    """Requests at the SuperLink at once; more wait up to `queue_s`, then get 503."""
    queue_s: float = 10.0
    buffered_bytes: int = 256 * 1024 * 1024
    """Bodies that are held at once."""


class _Refusal(Exception):
    """Becomes the problem document of a request."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class FleetPassThrough:
    """ASGI application. `upstream` is the SuperLink's HOST:PORT on loopback, `authority` its CA certificate."""

    def __init__(self, upstream: str, authority: Path, limits: PassThroughLimits | None = None) -> None:
        self._upstream = upstream
        self._limits = limits or PassThroughLimits()
        self._trust = ssl.create_default_context(cafile=str(authority))
        self._client: httpx.AsyncClient | None = None
        self._buffered_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            most_bytes = _check_target(scope)
            headers = _check_headers(scope, most_bytes)
            await self._pass_on(scope["raw_path"], most_bytes, headers, receive, send)
        except _Refusal as refusal:
            await send_problem(send, refusal.status, refusal.detail)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _pass_on(
        self, target: bytes, most_bytes: int, headers: list[tuple[bytes, bytes]], receive: Receive, send: Send
    ) -> None:
        async with self._whole_body(receive, most_bytes) as body:
            await self._exchange(target, body, headers, send)

    async def _exchange(self, target: bytes, body: bytes, headers: list[tuple[bytes, bytes]], send: Send) -> None:
        if target == PUSH_MESSAGES:
            _check_push(body)
        if self._client is None:
            self._client = self._new_client()
        request = self._client.build_request(
            "POST", f"https://{self._upstream}{target.decode('ascii')}", headers=headers, content=body
        )
        started = False
        try:
            response = await self._client.send(request, stream=True)
            try:
                if response.is_redirect or response.is_informational:
                    raise _Refusal(502, "the fleet service gave an answer that is not passed on")
                await _start(send, response)
                started = True
                async for chunk in response.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            logger.warning("%s: the SuperLink failed with %s", target.decode("ascii"), type(error).__name__)
            if started:
                raise  # the server cuts the connection: half an answer must not look whole
            if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
                raise _Refusal(504, "the fleet service did not answer in time") from error
            raise _Refusal(503, "the fleet service is not available; try again later") from error

    @asynccontextmanager
    async def _whole_body(self, receive: Receive, most_bytes: int) -> AsyncIterator[bytes]:
        """The body; nothing reaches the SuperLink before all of it is here and known to be small enough."""
        content = bytearray()
        try:
            try:
                async with asyncio.timeout(self._limits.body_s):
                    async for chunk in _chunks(receive):
                        content += chunk
                        self._buffered_bytes += len(chunk)
                        if len(content) > most_bytes:
                            raise _Refusal(413, f"this method takes at most {most_bytes} bytes")
                        if self._buffered_bytes > self._limits.buffered_bytes:
                            raise _Refusal(503, "the fleet service is busy; try again later")
            except TimeoutError as error:
                raise _Refusal(408, "the request did not arrive in time") from error
            yield bytes(content)
        finally:
            self._buffered_bytes -= len(content)

    def _new_client(self) -> httpx.AsyncClient:
        limits = self._limits
        timeout = httpx.Timeout(limits.answer_s, connect=limits.connect_s, pool=limits.queue_s)
        pool = httpx.Limits(max_connections=limits.concurrent, max_keepalive_connections=limits.concurrent)
        return httpx.AsyncClient(
            verify=self._trust, timeout=timeout, limits=pool, follow_redirects=False, trust_env=False
        )


async def send_problem(send: Send, status: int, detail: str) -> None:
    """Answer with a problem document."""
    body = json.dumps(
        {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    ).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status in (408, 413):
        # The rest of the body is still on its way: the connection cannot be used again.
        headers.append((b"connection", b"close"))
    if status == 503:
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _check_target(scope: Scope) -> int:
    # The raw target, not the decoded path: what is compared is what is sent on, so there is nothing to normalise.
    most_bytes = METHODS.get(scope.get("raw_path") or b"")
    if most_bytes is None or scope["method"] != "POST" or scope.get("query_string"):
        raise _Refusal(404, "there is nothing here")
    return most_bytes


def _check_headers(scope: Scope, most_bytes: int) -> list[tuple[bytes, bytes]]:
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        name = name.lower()
        if name in found and name in (*_AUTHENTICATION, b"content-type", b"content-length"):
            raise _Refusal(400, "a header stands twice")
        found[name] = value
    if any(not found.get(name) for name in _AUTHENTICATION):
        raise _Refusal(401, "this service is for enrolled devices")
    if found.get(b"content-type", b"").partition(b";")[0].strip().lower() != PROTOBUF_MEDIA_TYPE.encode():
        raise _Refusal(415, f"a request is {PROTOBUF_MEDIA_TYPE}")
    if b"content-encoding" in found:
        raise _Refusal(415, "a request is not compressed")
    length = found.get(b"content-length")
    if length is not None and (not length.isdigit() or int(length) > most_bytes):
        raise _Refusal(413, f"this method takes at most {most_bytes} bytes")
    return [(name, value) for name, value in found.items() if name in _PASSED_ON] + [(b"accept-encoding", b"identity")]


def _check_push(body: bytes) -> None:
    """Flower 1.41 checks who signed a request, not who the message in it claims to be from, nor whether it is a reply at all."""
    request = PushMessagesRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise _Refusal(400, "this is not a request to push a message") from error
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise _Refusal(400, "one message is pushed at a time")
    metadata = request.messages_list[0].metadata
    if metadata.src_node_id != request.node.node_id or metadata.dst_node_id != SUPERLINK_NODE_ID:
        raise _Refusal(403, "a node pushes messages from itself to the aggregator")
    if not metadata.reply_to_message_id:
        raise _Refusal(403, "a node pushes replies only")
    tree = request.message_object_trees[0]
    if tree.object_id != metadata.message_id or sum(1 for _ in iterate_object_tree(tree)) > MAX_PUSHED_OBJECTS:
        raise _Refusal(400, f"a message is announced by its own tree of at most {MAX_PUSHED_OBJECTS} objects")


async def _start(send: Send, response: httpx.Response) -> None:
    headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() in _PASSED_BACK]
    await send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": [*headers, (b"cache-control", b"no-store")],
        }
    )


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Refusal(400, "the request was not finished")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return
