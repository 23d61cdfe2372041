"""One JSON request to one address: no redirects, no proxies, no more bytes and no more time than given."""

from __future__ import annotations

import http.client
import io
import json
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shared_models.errors import LocalModelError

MOST_ANSWER_BYTES = 256 * 1024
Left = Callable[[], float]
"""Seconds that are left; raises TimeoutError if none are."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked address."""

    scheme: str
    host: str
    port: int
    path: str
    loopback: bool
    """True if the host is this machine, whatever name service says."""


def post_json(
    endpoint: Endpoint,
    path: str,
    body: Mapping[str, Any],
    timeout_s: float,
    clock: Callable[[], float],
    *,
    api_key: str = "",
) -> Any:
    """POST `body`, return the parsed answer. Raises LocalModelError for everything that goes wrong; its text names no content.

    `timeout_s` holds for all of it: name service, connecting, TLS, the request, headers and body, however they drip.
    """
    until = clock() + timeout_s

    def left() -> float:
        seconds = until - clock()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    connection: http.client.HTTPConnection | None = None
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    try:
        with _connected(endpoint, left) as channel:
            # The socket is there already: nothing is looked up or connected to here.
            connection = http.client.HTTPConnection(endpoint.host, endpoint.port)
            connection.default_port = 443 if endpoint.scheme == "https" else 80
            connection.auto_open = 0
            connection.sock = _Timed(channel, left)
            connection.request("POST", endpoint.path + path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            if response.status != 200:
                raise LocalModelError(f"the model's endpoint answered {response.status}")
            content = bytearray()
            while piece := response.read1(16384):
                content += piece
                if len(content) > MOST_ANSWER_BYTES:
                    raise LocalModelError(f"the model's answer is longer than {MOST_ANSWER_BYTES} bytes")
        return json.loads(content)
    except TimeoutError as error:
        raise LocalModelError(f"the model took longer than {timeout_s:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise LocalModelError(f"the model's endpoint cannot be reached: {type(error).__name__}") from error
    except (ValueError, RecursionError) as error:
        raise LocalModelError("the model's answer is no JSON") from error
    finally:
        if connection is not None:
            connection.close()


class _Timed:
    """A socket as http.client uses it, of which every read and write has the time that is left of the whole, not a new one."""

    def __init__(self, channel: socket.socket, left: Left) -> None:
        self._channel, self._left = channel, left

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._channel.settimeout(self._left())
            view = view[self._channel.send(view) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._channel, self._left))

    def close(self) -> None:
        """The owner of the socket closes it: the answer is still to be read."""


class _TimedReader(io.RawIOBase):
    def __init__(self, channel: socket.socket, left: Left) -> None:
        self._channel, self._left = channel, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._channel.settimeout(self._left())
        return self._channel.recv_into(buffer)


def _connected(endpoint: Endpoint, left: Left) -> socket.socket:
    plain = _loopback_socket(endpoint, left) if endpoint.loopback else _remote_socket(endpoint, left)
    if endpoint.scheme != "https":
        return plain
    try:
        # The timeout of a socket holds for a handshake as a whole.
        plain.settimeout(left())
        return ssl.create_default_context().wrap_socket(plain, server_hostname=endpoint.host)
    except BaseException:
        plain.close()
        raise


def _loopback_socket(endpoint: Endpoint, left: Left) -> socket.socket:
    # "localhost" is a name like others: connect only to an address of this machine.
    addresses = ("127.0.0.1", "::1") if endpoint.host.lower() == "localhost" else (endpoint.host,)
    failure: OSError | None = None
    for address in addresses:
        seconds = left()
        try:
            return socket.create_connection((address, endpoint.port), seconds)
        except OSError as error:
            failure = error
    raise failure or OSError("no address")


def _remote_socket(endpoint: Endpoint, left: Left) -> socket.socket:
    """In a thread of its own: name service knows no timeout, and each of several addresses would have all of it."""
    seconds = left()
    found: queue.Queue[socket.socket | OSError] = queue.Queue()
    lock, given_up = threading.Lock(), threading.Event()

    def connect() -> None:
        try:
            made: socket.socket | OSError = socket.create_connection((endpoint.host, endpoint.port), seconds)
        except OSError as error:
            made = error
        except ValueError as error:
            # A host that is no name at all, such as one with an empty label.
            made = OSError(str(error))
        with lock:
            if given_up.is_set() and isinstance(made, socket.socket):
                made.close()
            found.put(made)

    threading.Thread(target=connect, name="tacit-model-connect", daemon=True).start()
    try:
        made = found.get(timeout=seconds)
    except queue.Empty:
        with lock:
            given_up.set()
            made = TimeoutError() if found.empty() else found.get()
    if isinstance(made, OSError):
        raise made
    return made
