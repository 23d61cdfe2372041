"""Ports of this machine that are chosen first and bound later, by a child process."""

from __future__ import annotations

import errno
import os
import random
import socket

from shared_models.errors import FleetError

LOOPBACK = "127.0.0.1"
CHOSEN_FROM = range(15_000, 30_000)
"""Below the ports that systems give to outgoing connections: from 32768 on Linux, from 49152 on macOS and Windows (RFC 6335)."""

_TRIES = 200


def free_port() -> int:
    """A port of loopback that nothing is bound to now. Raises FleetError.

    Port 0 would not do: it gives one that any outgoing connection may take before the child binds it, or between two children;
    a client that dials an absent server can even get the server's own port, and is then connected with itself.
    """
    for port in random.SystemRandom().sample(CHOSEN_FROM, _TRIES):
        if port_is_free(port):
            return port
    raise FleetError(
        f"none of {_TRIES} ports tried on {LOOPBACK} is free, of {CHOSEN_FROM[0]} to {CHOSEN_FROM[-1]}: "
        "is something holding all of them?"
    )


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now; connections that linger from an ended one do not count."""
    with socket.socket() as probe:
        if os.name == "posix":  # elsewhere it would let two servers share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True
