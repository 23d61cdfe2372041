"""Taking part in a fleet's rounds under a schedule: the agent's process, its port, its bundles, and when it is online.

`tacit-device agent` is nothing but this; another owner of the store, such as a sidecar, can run it beside its own work.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edge_client.improve.night_watch import NightWatch
from edge_client.share.agent.fleet import FleetConfig, FleetState
from edge_client.share.agent.process import AgentProcess
from edge_client.share.agent.training import TrainingProcess
from edge_client.share.device import LOOK_EVERY_S, WatchedPort
from edge_client.share.presence import Presence
from edge_client.share.scheduled_port import ScheduledPort
from edge_client.share.scheduler import Scheduler

if TYPE_CHECKING:
    from edge_client.client import EdgeClient

LOOK_PAUSE_S = 0.2
LEAVE_AFTER_S = 2.0
"""From the last answer to the end: an aggregator that is just looking must not find a node that has left and no answer yet."""


class TakingPart:
    """One enrolled device in its fleet, from `with` to its end. `tell` gets lines for the user, from several threads.

    Raises PolicyError at once if the policy is not the pinned officer's; after that, failures are states of the agent.
    """

    def __init__(
        self,
        client: EdgeClient,
        config: FleetConfig,
        scheduler: Scheduler,
        *,
        tell: Callable[[str], None],
        bundle: str | None = None,
        log_path: Path | None = None,
    ) -> None:
        """`bundle`: where newer bundles are looked for; None is the fleet's own service."""
        self._config = config
        self._scheduler = scheduler
        self._tell = tell
        self._stopping = threading.Event()
        self._watched = WatchedPort(client, bundle or f"https://{config.address}/bundle", tell)
        training = TrainingProcess(log_path=log_path)
        self._port = ScheduledPort(self._watched, scheduler, training, clock=client.config.clock, tell=tell)
        self.agent = AgentProcess(config, self._port, on_state=self._report, log_path=log_path)
        self._presence = Presence(self.agent, self._port, scheduler, self._watched.look, tell)
        self._nights = NightWatch(client, scheduler, tell=tell, training=TrainingProcess(log_path=log_path))
        self._trusted = contextlib.ExitStack()

    def __enter__(self) -> TakingPart:
        self._trusted.enter_context(_authority_trusted(self._config.ca_pem))
        threading.Thread(target=self._watch_bundles, name="bundle-watch", daemon=True).start()
        self._nights.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._port.close()
        self._nights.stop()
        self.agent.stop()
        self._trusted.close()

    @property
    def refused(self) -> bool:
        """The fleet does not accept this device's key: going on would not help."""
        return self.agent.state is FleetState.REFUSED

    def run(self, stopping: threading.Event, rounds: int = 0) -> bool:
        """Take part until `stopping` is set, `rounds` (if any) are settled or the fleet refuses; True unless it refused."""
        while not stopping.is_set() and not self.refused:
            self._presence.look()
            if rounds and self.agent.settled >= rounds:
                stopping.wait(LEAVE_AFTER_S)
                break
            stopping.wait(LOOK_PAUSE_S)
        return not self.refused

    def _report(self, state: FleetState, error: str | None) -> None:
        self._tell(f"{state}{': ' + error if error else ''}")

    def _watch_bundles(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            if self._scheduler.may_connect().allowed:
                self._watched.look()


@contextlib.contextmanager
def _authority_trusted(ca_pem: bytes) -> Iterator[None]:
    """Let this process accept the fleet's own certificate authority for bundles too, beside the system's.

    What a bundle is worth, its signatures say; TLS only keeps others from seeing that this device asks.
    """
    paths = ssl.get_default_verify_paths()
    known = Path(paths.cafile).read_bytes() if paths.cafile else b""
    before = os.environ.get(paths.openssl_cafile_env)
    with tempfile.TemporaryDirectory(prefix="tacit-ca-", ignore_cleanup_errors=True) as folder:
        bundle = Path(folder, "ca.pem")
        bundle.write_bytes(known + b"\n" + ca_pem)
        os.environ[paths.openssl_cafile_env] = str(bundle)
        try:
            yield
        finally:
            if before is None:
                del os.environ[paths.openssl_cafile_env]
            else:
                os.environ[paths.openssl_cafile_env] = before
