"""The sidecar as a process: one socket on loopback, or a Unix socket for this user alone; no access log; a clean end."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shared_models.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

    from edge_client.sidecar.app import Sidecar

DEFAULT_PORT = 8765
LOOPBACK = ("127.0.0.1", "::1")
KEEP_ALIVE_S = 5
SHUTDOWN_S = 5
MOST_CONNECTIONS = 256


def loopback_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises ConfigError, also for an address that others could reach."""
    if host == "localhost":
        host = LOOPBACK[0]
    if host not in LOOPBACK:
        raise ConfigError(f"{host!r}: the sidecar listens on loopback only, 127.0.0.1 or ::1")
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: expected 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name != "nt":
            # On Windows this option would let another program take the same port.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise ConfigError(f"port {port} of {host} cannot be used: {error.strerror or error}") from error
    return listening


def unix_socket(path: Path) -> socket.socket:
    """A listening Unix socket that only this user can open. Raises ConfigError."""
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError("this system has no Unix sockets; use a port")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path}: exists and is no socket; nothing was touched")
        # Whoever holds the device's store is alone with it, so what lies here was left by a process that was killed.
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
        listening.listen(MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise ConfigError(f"{path}: cannot be used as a socket: {error.strerror or error}") from error
    finally:
        os.umask(before)
    return listening


def address_of(listening: socket.socket) -> str:
    """Where clients find it."""
    if listening.family == getattr(socket, "AF_UNIX", None):
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server(sidecar: Sidecar) -> uvicorn.Server:
    """The server; `run(sockets=[…])` serves, `should_exit = True` ends it."""
    import uvicorn

    config = uvicorn.Config(
        sidecar.asgi,
        access_log=False,
        log_level="warning",
        # Nobody stands between: a header that names another address would be a lie.
        proxy_headers=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        ws="none",
        h11_max_incomplete_event_size=32 * 1024,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    return uvicorn.Server(config)


def serve(sidecar: Sidecar, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, or until the user has erased everything."""
    running = server(sidecar)
    ending = threading.Thread(target=_close_streams_at_the_end, args=(running, sidecar), daemon=True)
    ending.start()
    try:
        running.run(sockets=[listening])
    finally:
        running.should_exit = True
        sidecar.close()
        listening.close()


@contextlib.contextmanager
def served(sidecar: Sidecar, listening: socket.socket) -> Iterator[str]:
    """The same in a thread, for a program that embeds it; gives the address."""
    running = server(sidecar)
    address = address_of(listening)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, name="sidecar", daemon=True)
    thread.start()
    try:
        yield address
    finally:
        running.should_exit = True
        sidecar.close()
        thread.join(2 * SHUTDOWN_S)
        listening.close()


def _close_streams_at_the_end(running: uvicorn.Server, sidecar: Sidecar) -> None:
    # An open stream would hold a server that waits for its answers to be complete.
    pause = threading.Event()
    while not running.should_exit:
        pause.wait(0.2)
    sidecar.hub.close()
