"""`python loud.py MODULE ARGUMENTS`: run `MODULE.main` with every logger at DEBUG, to stderr.

With TACIT_TEST_RECORD=FILE a `tacit-fleet serve` also writes to FILE, behind TLS, all that it receives from and sends to its
sockets: paths, headers and bodies, both ways. With TACIT_TEST_VECTORS=FOLDER a `tacit-device agent` writes there what its gate
takes in and gives out: "clipped", "grid" (the clipped integers, before the noise) and "sealed", as .npy.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from typing import Any


def record_to(path: str) -> None:
    """Wrap the server's ASGI app, and with it the pass-through and the bundles; Flower's own processes speak at DEBUG too."""
    from aggregator import superlink
    from aggregator.deployment import FleetServer

    quiet = superlink.flower_environment
    superlink.flower_environment = lambda home: {**quiet(home), "FLWR_LOG_LEVEL": "DEBUG"}
    sink, lock = open(path, "ab", buffering=0), threading.Lock()  # noqa: SIM115 - open for the life of the process
    served = FleetServer._app

    def write(*parts: bytes) -> None:
        with lock:
            sink.write(b"\n".join(parts) + b"\n")

    async def app(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            write(scope["method"].encode(), scope["raw_path"], scope["query_string"], *sum(scope["headers"], ()))

        # Taken from the socket whether or not the app will look at it: what is refused unread was sent all the same.
        ahead = [await receive()] if scope["type"] == "http" else []
        for message in ahead:
            write(message.get("body", b""))

        async def received() -> Any:
            if ahead:
                return ahead.pop()
            message = await receive()
            write(message.get("body", b""))
            return message

        async def sent(message: Any) -> None:
            write(message.get("body", b""), *sum(message.get("headers", ()), ()))
            await send(message)

        await served(self, scope, received, sent)

    FleetServer._app = app  # type: ignore[method-assign]


def show_vectors(folder: str) -> None:
    """Wrap two steps of the gate, each of which goes on as it is."""
    import numpy as np

    from privacy import gate

    discretise, seal = gate.discretise, gate.Gate.seal

    def write(what: str, values: Any) -> None:
        np.save(os.path.join(folder, f"{what}-{os.getpid()}.npy"), values)

    def shown_discretise(clipped: Any) -> Any:
        grid = discretise(clipped)
        write("clipped", clipped.values)
        write("grid", grid.values)
        return grid

    def shown_seal(self: Any, *arguments: Any, **more: Any) -> Any:
        sealed = seal(self, *arguments, **more)
        write("sealed", sealed.values)
        return sealed

    gate.discretise = shown_discretise
    gate.Gate.seal = shown_seal  # type: ignore[method-assign]


def main() -> int:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, force=True)
    if path := os.environ.get("TACIT_TEST_RECORD"):
        record_to(path)
    if folder := os.environ.get("TACIT_TEST_VECTORS"):
        show_vectors(folder)
    module = sys.argv.pop(1)
    code: int = importlib.import_module(module).main(sys.argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
