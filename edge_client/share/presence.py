"""Whether the agent is online: as long as the schedule allows, and never left in the middle of a round."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge_client.share.agent.fleet import FleetState
from edge_client.share.agent.process import AgentProcess
from edge_client.share.scheduled_port import ScheduledPort
from edge_client.share.scheduler import Scheduler, Verdict

ONLINE_LOOK_S = 10.0
"""Between two looks whether the device may be online; each may start a program of the system."""


class Presence:
    """Keeps an agent online for as long as the schedule allows, and lets it leave between rounds only."""

    def __init__(
        self,
        agent: AgentProcess,
        port: ScheduledPort,
        scheduler: Scheduler,
        before_online: Callable[[], None],
        tell: Callable[[str], None],
        *,
        look_every_s: float = ONLINE_LOOK_S,
    ) -> None:
        """`before_online` is called each time before the agent is started: it looks for a newer policy."""
        self._agent = agent
        self._port = port
        self._scheduler = scheduler
        self._before_online = before_online
        self._tell = tell
        self._look_every_s = look_every_s
        self._looked_s = -look_every_s
        self._verdict = Verdict(False)
        self._online = False

    def look(self) -> None:
        """Go online or offline if it is time for that; call it often."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= self._look_every_s:
            self._looked_s = now_s
            before, self._verdict = self._verdict, self._scheduler.may_connect()
            if not self._verdict.allowed and self._verdict.reasons != before.reasons:
                self._tell(f"offline between rounds: {', '.join(self._verdict.reasons)}")
        if self._verdict.allowed and not self._online:
            self._online = True
            self._before_online()
            self._agent.start()
        elif self._online and not self._verdict.allowed and not self._awaited:
            self._online = False
            self._agent.stop()

    @property
    def _awaited(self) -> bool:
        """Somebody waits for this device: the answers come first."""
        return self._port.in_round or self._agent.state is FleetState.BUSY
