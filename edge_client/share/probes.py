"""What a device says about itself: how long its user is away, what feeds it, what its network costs. `unknown` is an answer.

The three questions are a Protocol: an app that knows better (a phone's own APIs) gives its own. The answers of Linux, macOS and
Windows are in `probes_*.py`. Nothing here decides anything, and nothing of it leaves the device.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeGuard

logger = logging.getLogger(__name__)

PROGRAM_LIMIT_S = 2.0
MOST_IDLE_S = 1e10
"""Some centuries: what a system without any session may say."""

MAX_ANSWER_CHARS = 65536


class Power(StrEnum):
    """What the device runs on."""

    MAINS = "mains"
    """Charging, fully charged at the socket, or without any battery."""
    BATTERY = "battery"
    UNKNOWN = "unknown"


class Network(StrEnum):
    """Whether the network costs by volume."""

    UNMETERED = "unmetered"
    METERED = "metered"
    UNKNOWN = "unknown"


class Probes(Protocol):
    """The three questions. Quick, from any thread; whatever one of them raises is read as `unknown`."""

    def idle_s(self) -> float | None:
        """Seconds since the user last touched the device; None is unknown."""

    def power(self) -> Power: ...

    def network(self) -> Network: ...


@dataclass(frozen=True)
class Readings:
    """One look at all three."""

    idle_s: float | None
    power: Power
    network: Network

    def document(self) -> dict[str, Any]:
        return {
            "idle_s": "unknown" if self.idle_s is None else self.idle_s,
            "power": str(self.power),
            "network": str(self.network),
        }


@dataclass
class GivenProbes:
    """Answers that somebody sets: a phone's app from its operating system, or nobody at all (everything unknown)."""

    user_away_s: float | None = None
    fed_by: Power = Power.UNKNOWN
    connected_by: Network = Network.UNKNOWN

    def idle_s(self) -> float | None:
        return self.user_away_s

    def power(self) -> Power:
        return self.fed_by

    def network(self) -> Network:
        return self.connected_by


def look(probes: Probes) -> Readings:
    """Ask all three. An answer that is none (an exception, NaN, a negative time, another type) is `unknown`."""
    idle_s, power = _asked("idle", probes.idle_s), _asked("power", probes.power)
    return Readings(
        float(idle_s) if _is_time(idle_s) else None,
        power if isinstance(power, Power) else Power.UNKNOWN,
        network_of(probes),
    )


def network_of(probes: Probes) -> Network:
    """The third question alone, with the same care."""
    network = _asked("network", probes.network)
    return network if isinstance(network, Network) else Network.UNKNOWN


def system_probes(platform: str = sys.platform) -> Probes:
    """Those of this operating system; where it has none, everything is unknown."""
    if platform == "darwin":
        from edge_client.share.probes_macos import MacProbes

        return MacProbes()
    if platform == "win32":
        from edge_client.share.probes_windows import WindowsProbes

        return WindowsProbes()
    if platform.startswith("linux"):
        from edge_client.share.probes_linux import LinuxProbes

        return LinuxProbes()
    return GivenProbes()


RunProgram: TypeAlias = Callable[[Sequence[str]], str | None]
"""A command → what it printed; None if it is not there, failed or took too long."""


def run_program(command: Sequence[str]) -> str | None:
    """Implements `RunProgram`: no shell, no input, two seconds."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROGRAM_LIMIT_S,
            check=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.decode("utf-8", "replace")[:MAX_ANSWER_CHARS]


def _asked(name: str, question: Callable[[], object]) -> object:
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - an app's probe may raise anything, and the answer is then unknown
        logger.debug("the probe for %s failed with %s", name, type(error).__name__)
        return None


def _is_time(answer: object) -> TypeGuard[float]:
    return isinstance(answer, int | float) and not isinstance(answer, bool) and 0 <= answer <= MOST_IDLE_S
