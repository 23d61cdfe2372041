"""One TLS address for a fleet: devices reach the SuperLink's fleet methods and the published bundle there, and nothing else.

`tacit-fleet serve` blocks in `serve_fleet`. The SuperLink lives as long as this does, and is started again when it dies.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

from aggregator.certificates import FleetCertificates
from aggregator.service.passthrough import FleetPassThrough, Receive, Scope, Send, send_problem
from aggregator.superlink import SuperLink
from shared_models.errors import FleetError, TacitError

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8443
WATCH_S = 1.0
HEALTHY_S = 60.0
RESTART_LIMIT_S = 30.0
RESTART_PAUSES_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
BUNDLE_PREFIXES = (b"/bundle/", b"/trust.json", b"/healthz", b"/metrics")


class FleetServer:
    """Serves one fleet's directory. `start()` and `stop()`, or `run()` in the main thread to obey Ctrl-C and SIGTERM."""

    def __init__(
        self, directory: Path, host: str = "127.0.0.1", port: int = DEFAULT_PORT, *, bundle: Path | None = None
    ) -> None:
        """Port 0 takes a free one. `bundle` is the published folder, DIRECTORY/bundle by default; it may appear later.

        Raises ConfigError if the fleet has no certificates. Anything but loopback must be asked for by `host`.
        """
        certificates = FleetCertificates.of(directory)
        self.link = SuperLink(directory)
        self._directory = directory
        self._bundle = bundle or directory / "bundle"
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._host = host
        self._server = _Server(
            uvicorn.Config(
                self._app,
                host=host,
                port=port,
                ssl_certfile=str(certificates.certificate),
                ssl_keyfile=str(certificates.key),
                interface="asgi3",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=3,
            )
        )
        self._pass_through: FleetPassThrough | None = None
        self._bundles: Any = None

    @property
    def address(self) -> str:
        """HOST:PORT that devices use. Raises FleetError before the server listens."""
        for server in self._server.servers:
            for socket in server.sockets:
                return f"{self._host}:{socket.getsockname()[1]}"
        raise FleetError("this fleet is not being served yet")

    def run(self, on_ready: Callable[[str], None] | None = None) -> None:
        """Serve until a signal or `stop()`; `on_ready` is told the address. Raises FleetError."""
        # uvicorn raises a signal again once it has shut down: SIGTERM must not end this process before its SuperLink.
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, lambda *_: None) if in_main_thread else None
        watch = threading.Thread(target=self._watch, name="superlink-watch", daemon=True)
        try:
            self.link.start()
            self._pass_through = FleetPassThrough(self.link.address, self._directory / "ca.pem")
            self._server.on_listening = (lambda: on_ready(self.address)) if on_ready else None
            self._server.on_closed = self._pass_through.close
            watch.start()
            self._server.run()
        except KeyboardInterrupt:
            logger.info("stopped by the keyboard")
        except SystemExit as error:  # uvicorn's way to say that the address is taken
            config = self._server.config
            raise FleetError(f"cannot listen on {config.host}:{config.port}; is another program there?") from error
        finally:
            self._stopping.set()
            if watch.is_alive():
                watch.join(RESTART_LIMIT_S + 10.0)
            self.link.stop()
            if before is not None:
                signal.signal(signal.SIGTERM, before)

    def start(self, timeout_s: float = 60.0) -> str:
        """Serve in a thread; returns the address. Raises FleetError."""
        ready = threading.Event()
        failure: list[TacitError] = []

        def serve() -> None:
            try:
                self.run(lambda _: ready.set())
            except TacitError as error:
                failure.append(error)
            finally:
                ready.set()

        self._thread = threading.Thread(target=serve, name="fleet-server", daemon=True)
        self._thread.start()
        if not ready.wait(timeout_s):
            self.stop()
            raise FleetError(f"the fleet is not being served after {timeout_s} s")
        if failure:
            raise failure[0]
        return self.address

    def stop(self) -> None:
        self._stopping.set()
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(20.0)

    def __enter__(self) -> FleetServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _watch(self) -> None:
        """Flower's database keeps nodes over a crash; its runs fail, and `tacit-fleet resume` submits a new one."""
        failures, started_s = 0, time.monotonic()
        while not self._stopping.wait(WATCH_S):
            if self.link.alive:
                continue
            failures = failures + 1 if time.monotonic() - started_s < HEALTHY_S else 0
            logger.warning("the SuperLink has ended; it is started again")
            if self._stopping.wait(RESTART_PAUSES_S[min(failures, len(RESTART_PAUSES_S) - 1)]):
                return
            started_s = time.monotonic()
            try:
                self.link.restart(RESTART_LIMIT_S)
            except TacitError as error:
                logger.error("%s", error)

    # -- ASGI -----------------------------------------------------------------------------------------------------

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        assert self._pass_through is not None
        if (scope.get("raw_path") or b"").startswith(BUNDLE_PREFIXES):
            await self._serve_bundle(scope, receive, send)
        else:
            await self._pass_through(scope, receive, send)

    async def _serve_bundle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._bundles is None:
            self._bundles = _bundle_app(self._bundle)
        if self._bundles is None:
            await send_problem(send, 404, "nothing is published yet")
        else:
            await self._bundles(scope, receive, send)


class _Server(uvicorn.Server):
    """Says when it listens, and cleans up while its event loop still runs."""

    on_listening: Callable[[], None] | None = None
    on_closed: Callable[[], Awaitable[None]] | None = None

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.servers = []

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started and self.on_listening:
            self.on_listening()

    async def shutdown(self, sockets: Any = None) -> None:
        await super().shutdown(sockets)
        if self.on_closed:
            await self.on_closed()


def serve_fleet(
    directory: Path,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    bundle: Path | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a fleet until Ctrl-C or SIGTERM; then its SuperLink has ended too. Raises ConfigError or FleetError."""
    FleetServer(directory, host, port, bundle=bundle).run(on_ready)


def _bundle_app(folder: Path) -> Any:
    from aggregator.service.app import create_app

    try:
        return create_app(folder)
    except TacitError:
        return None
